"""What ties the lots of a program to each other, affinity and anti-affinity as its rows.

Which terms say what is `company`'s; here they are put in lots: together in one domain, one to a domain, only in domains
or on nodes that hold certain others. What pods that are not to be placed might change is left out. Neighbours: `joint` has
the lots, `pattern_program` the rows.
"""

from collections.abc import Collection

import numpy as np

from nodeyard.provisioning.classes import PodClass
from nodeyard.provisioning.company import Company, Members
from nodeyard.provisioning.domains import Cells
from nodeyard.provisioning.field import Field
from nodeyard.provisioning.kinds import Kind
from nodeyard.provisioning.labelled import Bools, Ints
from nodeyard.provisioning.pattern_program import Ceiling, Joining, Keeping, Together
from nodeyard.provisioning.setting import Setting
from nodeyard.scheduling.topology import TermKind


class Tied:
    """The ties among `lots`, each (kind, cell). `known`: terms of which the program has all; `apart`: those of them
    of which a domain holds one pod.
    """

    def __init__(
        self,
        setting: Setting,
        first: Field,
        cells: Cells,
        kinds: list[Kind],
        lots: list[tuple[int, int]],
        company: Company,
        shares: Collection[object],
    ) -> None:
        """`shares`: node shares that the program has."""
        self.setting, self.first, self.cells, self.company = setting, first, cells, company
        self.kinds, self.lots = kinds, lots
        there = {one.number: many for k in kinds for one, many in k.members}
        short = {c.number for c in setting.classes.classes if there.get(c.number, 0) < c.demand}
        followed = {**company.beside, **company.joining}
        ties = {n for k in kinds for n in (*k.ties, *k.joins)}
        self.terms = sorted(n for n in ties if n not in followed or not followed[n][1] & short)
        written = {*self.terms}
        halves = {n for n, (mine, others) in company.keeping.items() if mine & others and n not in shares}
        elsewhere = company.known - company.over_domains - {*company.joining, *company.keeping}
        self.known = company.known & (written | elsewhere) - halves
        self.apart = written & {*company.apart}

    def together(self) -> list[Together]:
        """Pods that are all in one domain."""
        out = []
        for n in self.terms:
            if n in self.company.together:
                pods = sum(k.demand for k in self.kinds if n in k.ties)
                out.append(Together(pods, self._by_domain(n, self.company.together[n])[1:]))
        return out

    def ceilings(self) -> list[Ceiling]:
        """Pods of which a domain takes one, or none where others are missing; none where there is no domain to share."""
        out: list[Ceiling] = []
        for n in self.terms:
            if n in self.company.apart:
                out += [Ceiling(lots, 1.0) for lots in self._by_domain(n, self.company.apart[n])[1:]]
            elif n in self.company.together:
                out.append(Ceiling(self._by_domain(n, self.company.together[n])[0], 0.0))
            elif n in self.company.beside:
                out += self._beside(n)
        return out

    def joining(self, host_of: Ints, first_host: int) -> list[Joining]:
        """Pods that are only on nodes with certain others; standing nodes may hold such already. `host_of`: one of each group
        of them, whose columns begin with `first_host`.
        """
        out = []
        for n in self.terms:
            if n in self.company.joining:
                bearers, others = self.company.joining[n]
                held = self.first.matched[host_of, self.first.at[n]] > 0
                free = (first_host + np.nonzero(held)[0]).tolist()
                out.append(Joining(self._lots_of(bearers), self._lots_of(others), free))
        return out

    def keeping(self) -> list[Keeping]:
        """Pods that keep each other off their nodes, beyond those of which each node has a share for one."""
        out = []
        for n in self.terms:
            if n in self.company.keeping:
                bearers, others = self.company.keeping[n]
                pairs = ((bearers - others, others), (bearers & others, others - bearers))
                lots = [(self._lots_of(mine), self._lots_of(theirs)) for mine, theirs in pairs]
                out += [Keeping(mine, theirs) for mine, theirs in lots if mine and theirs]
        return out

    def held(self, hosts: Ints) -> Bools:
        """[host, term]: whether standing nodes hold whom the terms that `joining` knows ask for."""
        at = np.array([self.first.at[n] for n in self.terms if n in self.company.joining], np.int64)
        out: Bools = self.first.matched[np.ix_(hosts, at)] > 0
        return out

    def order_exists(self, state: Field) -> bool:
        """Whether the pods of a plan can come one after another so that each finds whom it asks for. `state`: the plan's."""
        classes, terms = self.setting.classes.classes, self.setting.classes.terms
        there = Field(
            self.setting.problem, self.setting.classes, state.columns, state.hosts, state.rules
        )  # the standing pods, and who has come
        there.add_nodes(state.column[state.hosts.count : state.count])
        near = {c.number: [n for n in c.carried if terms[n].kind is TermKind.AFFINITY] for c in classes}
        waiting = [(n, node, many) for node, held in enumerate(state.contents) for n, many in held.items()]
        while waiting:
            later = []
            for number, node, many in waiting:
                one = classes[number]
                if all(_met(there, one, n, node) for n in near[number]):
                    there.place(one, near[number], np.array([node]), np.array([many]))
                else:
                    later.append((number, node, many))
            if len(later) == len(waiting):
                return False
            waiting = later
        return True

    def _beside(self, number: int) -> list[Ceiling]:
        """Bearers only in domains where pods that they ask for are placed, or stand already."""
        bearers, others = self.company.beside[number]
        domains = zip(self._by_domain(number, bearers), self._by_domain(number, others), strict=True)
        pods = sum(many for k in self.kinds for one, many in k.members if one.number in bearers)
        held = self.first.by_domain[number].matched > 0
        return [
            Ceiling(mine, 0.0, theirs if domain else [], float(pods))
            for domain, (mine, theirs) in enumerate(domains)
            if not held[domain]
        ]

    def _by_domain(self, number: int, members: Members) -> list[list[int]]:
        """The members' lots in each domain of the term's key; the first is no domain."""
        term = self.first.by_domain[number]
        at = self.cells.keys.index(term.term.key)
        out: list[list[int]] = [[] for _ in range(len(term.matched))]
        for lot in self._lots_of(members):
            out[int(self.cells.codes[self.lots[lot][1], at])].append(lot)
        return out

    def _lots_of(self, members: Members) -> list[int]:
        mine = {i for i, k in enumerate(self.kinds) if any(one.number in members for one, _ in k.members)}
        return [lot for lot, (i, _) in enumerate(self.lots) if i in mine]


def _met(there: Field, one: PodClass, number: int, node: int) -> bool:
    """Whether a pod of the class finds on or around the node whom its affinity asks for, or may be the first of its kind."""
    if number in there.at:
        matched = there.matched[: there.count, there.at[number]]
        return bool(matched[node]) or (number in one.matched and not matched.any())
    state = there.by_domain[number]
    allowed = there.domains_allowed(one, (number,), number, state)
    return bool(allowed[there.domain[state.term.key][node]])

"""One attempt at a plan: classes dealt to domains, standing nodes filled, new nodes packed, the rest mended.

An attempt treats each term as hard or not at all; the planner makes several with different preferences honoured and
keeps the best. Everything it decides goes through `field`, which keeps the counts true. Neighbours: `domains` deals,
`gathering` serves those that share hosts, `buying` buys nodes, `mending` and `repairing` see to the rest.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from msgspec import structs

from nodeyard.provisioning.buying import Buyer
from nodeyard.provisioning.classes import PodClass
from nodeyard.provisioning.domains import ANYWHERE, Cells, Dealer, Portion, cells_of
from nodeyard.provisioning.field import Field
from nodeyard.provisioning.gathering import Gatherer
from nodeyard.provisioning.labelled import Ints, NodeRule
from nodeyard.provisioning.limits import Limits
from nodeyard.provisioning.repairing import Repairer
from nodeyard.provisioning.setting import Draft, Honour, Setting, Site
from nodeyard.scheduling.topology import TermKind

_FEW = 200


class Attempt:
    """`stages`: preferences honoured at first, and then for the pods that found no place so. `spare`: seconds that may
    still be spent on improving; `total_spare`: until the deadline.
    """

    def __init__(
        self,
        setting: Setting,
        stages: Sequence[Honour],
        spare: Callable[[], float],
        total_spare: Callable[[], float],
        exact: Callable[[], float] = lambda: 0.0,
        home: int = ANYWHERE,
    ) -> None:
        self.home = home
        self.setting, self.stages, self.honour = setting, stages, stages[0]
        self._carried: dict[int, tuple[int, ...]] = {}
        self.problem, self.classes, self.columns = setting.problem, setting.classes, setting.columns
        self.hosts, self.rules = setting.hosts, setting.rules
        self.state = Field(
            setting.problem, setting.classes, setting.columns, setting.hosts, setting.rules,
            setting.options.max_share_per_node,
        )  # fmt: skip
        self.limits = Limits(setting.columns, setting.hosts)
        self.cells: Cells = cells_of(self.state)
        self.new_nodes = setting.problem.allow_new_nodes and setting.columns.count > 0
        self.site = Site(
            setting, self.state, self.limits, self.cells, self.carried_of, total_spare, self.new_nodes
        )
        self.buyer = Buyer(self.site, spare, exact)

    def carried_of(self, one: PodClass) -> tuple[int, ...]:
        """Terms that bind the class in this stage."""
        if not one.soft:
            return one.carried
        found = self._carried.get(one.number)
        if found is None:
            found = one.carried + tuple(n for n in one.soft if self._honoured(n))
            self._carried[one.number] = found
        return found

    def _keep(self, stage: Honour) -> None:
        """From now on these preferences count as if they were required."""
        self.honour = stage
        self._carried = {}

    def _honoured(self, number: int) -> bool:
        kind = self.classes.terms[number].kind
        if kind is TermKind.SPREAD:
            return self.honour.spread
        most = self.honour.affinity if kind is TermKind.AFFINITY else self.honour.anti_affinity
        return self.classes.terms[number].weight <= most

    def run(self) -> Draft:
        """Place every class, stage by stage."""
        left = {c.number: c.demand for c in self.classes.classes}
        for number, stage in enumerate(self.stages):
            self._keep(stage)
            left = self._stage(left, last=number == len(self.stages) - 1)
            if not left:
                break
        self._keep(self.stages[0])  # merging must not give up what the first stage kept
        repairer = Repairer(self.site)
        repairer.merge()
        repairer.repair(left)
        left = {n: m for n, m in left.items() if m > 0}
        used = self.state.column[
            [n for n in range(self.hosts.count, self.state.count) if self.state.contents[n]]
        ]
        cost = float(self.columns.cost[used].sum()) if len(used) else 0.0
        return Draft(self.state, self.limits, left, self.carried_of, self._view, cost)

    def floor(self) -> float:
        """What the attempt comes to at least, once dealt: as far as the relaxation knows, hosts shared on purpose aside."""
        demand = [(self._view(one), one.demand) for one in self.classes.classes]
        dealer = Dealer(self.state, self.cells, self.carried_of, self.new_nodes, self.home)
        portions, nowhere = dealer.deal(demand)
        if nowhere:
            return np.inf
        return self.buyer.floor(self.fill(portions, 0, self.state.count))

    def _stage(self, waiting: dict[int, int], *, last: bool) -> dict[int, int]:
        """Place what waits with the present stage's preferences honoured; returns what is left."""
        demand = [(self._view(self.classes.classes[n]), many) for n, many in waiting.items() if many > 0]
        together = [one for one, _ in demand if self.site.shares_host(one)]
        dealer = Dealer(self.state, self.cells, self.carried_of, self.new_nodes, self.home)
        portions, nowhere = dealer.deal(demand)
        left: dict[int, int] = defaultdict(int)
        for one, many in nowhere:
            left[one.number] += many
        apart = {c.number for c in together}
        dealt: dict[int, list[int]] = defaultdict(list)
        for portion in portions:
            if portion.one.number in apart:
                left[portion.one.number] += portion.count
                dealt[portion.one.number].append(portion.cell)
        portions = [p for p in portions if p.one.number not in apart]
        if together:  # hosts shared with others are found first for those that need a whole one
            gatherer = Gatherer(self.site, left, dealt)
            gatherer.among_themselves(together)
            portions = gatherer.beside_others(together, portions)
        for level in self._levels(portions):
            rest = self.fill(level, 0, self.state.count)
            if self.new_nodes:
                rest = self._pack(rest)
            for portion in rest:
                left[portion.one.number] += portion.count
        if last or sum(left.values()) <= _FEW:
            self._mend(left)
        return {n: m for n, m in left.items() if m > 0}

    def _view(self, one: PodClass) -> PodClass:
        """The class kept off soft taints and with its preferred node terms, heaviest first, made required: as far as
        some column keeps them.
        """
        seen = one
        if not self.columns.count:
            return seen
        if self.honour.taints and one.number in self.setting.minding:
            seen = self._narrowed(seen, structs.replace(seen.rule, gentle=True))
        if self.honour.node:
            for preference in sorted(one.preferred, key=lambda p: -p.weight):
                reach = (*seen.rule.reach, (preference.preference,))
                seen = self._narrowed(seen, structs.replace(seen.rule, reach=reach))
        return seen

    def _narrowed(self, one: PodClass, rule: NodeRule) -> PodClass:
        """The class with the rule, if some column takes it so."""
        narrowed = replace(one, rule=rule)
        able = self.rules.on_columns(narrowed) & (self.columns.room >= one.request).all(axis=1)
        return narrowed if able.any() else one

    def _levels(self, portions: list[Portion]) -> list[list[Portion]]:
        """Portions by falling priority where limits make it matter who comes first; else all at once."""
        if not self.limits.any and self.new_nodes:
            return [portions]
        levels: dict[int, list[Portion]] = defaultdict(list)
        for portion in portions:
            levels[portion.one.priority].append(portion)
        return [levels[p] for p in sorted(levels, reverse=True)]

    # --- nodes that are there -----------------------------------------------------------------------------------------
    def fill(self, portions: list[Portion], first: int, last: int) -> list[Portion]:
        """Put portions on the nodes from `first` to `last`; returns what found no room there."""
        if first >= last or (last <= self.hosts.count and not self.hosts.open.any()):
            return portions
        state = self.state
        scale = np.maximum(state.room[first:last].max(axis=0), 1.0)
        choice = {p.one.rule: int(self.rules.on_hosts(p.one.rule).sum()) for p in portions}
        order = sorted(
            portions,
            key=lambda p: (
                -p.one.priority, choice[p.one.rule], -float((p.one.request / scale).max()), p.one.number,
            ),
        )  # fmt: skip
        rest = []
        for portion in order:
            carried = self.carried_of(portion.one)
            room = state.capacity(portion.one, carried, first=first)[:last]
            if portion.cell != ANYWHERE:
                room = room * (self._cell_of_nodes(last) == portion.cell)
            able = np.nonzero(room)[0]
            many = 0
            if len(able):
                ahead = np.cumsum(room[able]) - room[able]
                given = np.clip(portion.count - ahead, 0, room[able])
                used = given > 0
                many = int(given.sum())
                state.place(portion.one, carried, able[used], given[used])
            if many < portion.count:
                rest.append(Portion(portion.one, portion.cell, portion.count - many))
        return rest

    def _cell_of_nodes(self, last: int) -> Ints:
        out = np.empty(last, np.int64)
        h = self.hosts.count
        out[: min(h, last)] = self.cells.of_host[: min(h, last)]
        if last > h:
            out[h:] = self.cells.of_column[self.state.column[h:last]]
        return out

    # --- new nodes ------------------------------------------------------------------------------------------------------
    def _pack(self, portions: list[Portion]) -> list[Portion]:
        """Buy nodes for the portions; returns what no pool can take (any more)."""
        rest = portions
        before = -1
        while rest:
            count = sum(p.count for p in rest)
            if count == before:
                break
            before = count
            first = self.state.count
            rest, impossible = self.buyer.buy(rest)
            if rest:
                rest = self.fill(rest, self.hosts.count, self.state.count)
            rest = self.fill(rest, first, self.state.count) if rest else rest
            if impossible and not rest:
                return impossible
            rest += impossible
            if not self.limits.any:
                break
        return rest

    # --- one by one -----------------------------------------------------------------------------------------------------
    def _mend(self, left: dict[int, int]) -> None:
        mender = self.site.mender(new_nodes=self.new_nodes)
        for _ in range(3):
            progress = False
            waiting = sorted(
                (self._view(self.classes.classes[n]) for n, many in left.items() if many > 0),
                key=lambda c: (-c.priority, -float(c.request[0]), c.number),
            )
            for one in waiting:
                before = left[one.number]
                left[one.number] = mender.place(one, self.carried_of(one), before)
                progress |= left[one.number] < before
            if not progress:
                break

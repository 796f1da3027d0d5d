"""After packing: nodes whose pods all fit elsewhere are dropped, and domains that came out too full are eased.

Works on an attempt's site when all classes have been placed. Neighbours: `attempt` calls, `mending` finds places.
"""

import numpy as np

from nodeyard.provisioning.classes import PodClass
from nodeyard.provisioning.labelled import Bools
from nodeyard.provisioning.setting import Site
from nodeyard.scheduling.topology import TermKind

_FEW_NODES = 40


class Repairer:
    """Mends one attempt's site as a whole."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.state, self.classes = site.state, site.setting.classes
        self.columns, self.hosts = site.setting.columns, site.setting.hosts

    def merge(self) -> None:
        """Where nodes are few: drop each whose pods all find room on the others, the dearest first."""
        first, state = self.hosts.count, self.state
        if not 1 <= state.count - first <= _FEW_NODES:
            return
        nodes = [n for n in range(first, state.count) if state.contents[n]]
        needed = self._joined()
        for node in sorted(nodes, key=lambda n: -float(self.columns.cost[state.column[n]])):
            if self.site.spare() <= 0:
                return
            held = [(self.classes.classes[number], many) for number, many in state.contents[node].items()]
            if any(
                one.attachments or self.site.shares_host(one) or needed & {*one.matched} for one, _ in held
            ):
                continue
            if not self._room_elsewhere(node, held):
                continue
            before = state.saved()
            for one, many in held:
                state.place(one, self.site.carried_of(one), np.array([node]), np.array([-many]))
            state.contents[node].clear()
            state.ports.pop(node, None)
            mender = self.site.mender(new_nodes=False)
            mender.closed = node
            if any(mender.place(one, self.site.carried_of(one), many) for one, many in held):
                state.restore(before)
            else:
                self.site.limits.give_back(int(state.column[node]))

    def _joined(self) -> set[int]:
        """Affinity terms by which pods join others than their own kind: whom they join must stay where it is."""
        return {
            number
            for one in self.classes.classes
            for number in self.site.carried_of(one)
            if self.classes.terms[number].kind is TermKind.AFFINITY and number not in one.matched
        }

    def _room_elsewhere(self, node: int, held: list[tuple[PodClass, int]]) -> bool:
        """Whether the other nodes could hold the node's pods if room were all that counts; a quick look beforehand."""
        room = self.state.room[: self.state.count].copy()
        room[node] = 0.0
        np.maximum(room, 0.0, out=room)
        request = np.array([one.request for one, _ in held])
        many = np.array([count for _, count in held])
        if ((many @ request) > room.sum(axis=0) + 1e-6).any():
            return False
        fit = np.full((len(held), len(room)), np.inf)
        for resource in np.nonzero(request.any(axis=0))[0].tolist():
            asked = np.maximum(request[:, resource], 1e-12)[:, None]
            np.minimum(fit, (room[:, resource] + 1e-6) / asked, out=fit)
        return bool((np.floor(fit + 1e-9).sum(axis=1) >= many).all())

    def repair(self, left: dict[int, int]) -> None:
        """Take back pods whose domain came out too full, because pods counted on elsewhere found no place there, and
        place them anew where they may go.
        """
        mender = self.site.mender(new_nodes=self.site.new_nodes)
        for _ in range(4):
            moved = False
            for number in list(self.state.by_domain):
                for one, many in self._overfull(number):
                    moved = True
                    mender.cells = self._emptier(number)
                    rest = mender.place(one, one.carried, many)
                    mender.cells = None
                    left[one.number] = left.get(one.number, 0) + mender.place(one, one.carried, rest)
            if not moved:
                return

    def _emptier(self, number: int) -> tuple[Bools, Bools]:
        """(hosts, columns) in domains that may take one more pod of a spread term."""
        state, term = self.state, self.state.by_domain[number]
        room = term.matched - term.lowest() < term.term.max_skew
        key = term.term.key
        return room[state.domain[key][: self.hosts.count]], room[state.column_domain[key]]

    def _overfull(self, number: int) -> list[tuple[PodClass, int]]:
        """Pods taken back from domains that hold more than a hard spread term allows."""
        domain = self.state.by_domain[number]
        term = domain.term
        taken: list[tuple[PodClass, int]] = []
        if term.kind is not TermKind.SPREAD or term.soft:
            return taken
        for code in np.nonzero(domain.matched - domain.lowest() > term.max_skew)[0].tolist():
            excess = int(domain.matched[code]) - domain.lowest() - term.max_skew
            if self._borne_in(number, code):
                taken += self._take_back(number, code, excess)
        return taken

    def _borne_in(self, number: int, code: int) -> bool:
        """Whether pods that this plan places bear the term in the domain."""
        state = self.state
        nodes = np.nonzero(state.domain[state.by_domain[number].term.key][: state.count] == code)[0]
        return any(
            number in self.classes.classes[held].carried
            for node in nodes.tolist()
            for held in state.contents[node]
        )

    def _take_back(self, number: int, code: int, excess: int) -> list[tuple[PodClass, int]]:
        """Up to `excess` pods that the term counts in the domain; those that bear it first."""
        state = self.state
        taken: list[tuple[PodClass, int]] = []
        where = np.nonzero(state.domain[state.by_domain[number].term.key][: state.count] == code)[0]
        for bearing in (True, False):
            for node in where.tolist()[::-1]:
                for held, many in list(state.contents[node].items()):
                    one = self.classes.classes[held]
                    apt = number in one.matched and (number in one.carried) == bearing and not one.ports
                    if excess <= 0 or not apt or self.site.shares_host(one):
                        continue
                    back = min(many, excess)
                    state.place(one, one.carried, np.array([node]), np.array([-back]))
                    if not state.contents[node][held]:
                        del state.contents[node][held]
                    taken.append((one, back))
                    excess -= back
        return taken

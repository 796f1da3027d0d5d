"""Pods that must share a host with others: those that gather among themselves first, then those that join strangers.

They take their hosts before the room is gone. Works on an attempt's site. Neighbours: `attempt` calls, `mending` places.
"""

import numpy as np

from nodeyard.provisioning.classes import PodClass
from nodeyard.provisioning.domains import ANYWHERE, Portion
from nodeyard.provisioning.labelled import Floats
from nodeyard.provisioning.setting import Site
from nodeyard.scheduling.topology import TermKind


class Gatherer:
    """Finds hosts for the classes that share one. `left`: pods waiting by class; `dealt`: the cells each may go to."""

    def __init__(self, site: Site, left: dict[int, int], dealt: dict[int, list[int]]) -> None:
        self.site, self.left, self.dealt = site, left, dealt
        self.state, self.limits = site.state, site.limits
        self.columns, self.rules = site.setting.columns, site.setting.rules
        self.terms = site.setting.classes.terms

    def among_themselves(self, together: list[PodClass]) -> None:
        """Classes that gather on one host among themselves take theirs before the room is gone."""
        left, dealt = self.left, self.dealt
        mender = self.site.mender(new_nodes=self.site.new_nodes)
        for one in sorted(together, key=lambda c: (-c.priority, -float(c.request[0]))):
            carried = self.site.carried_of(one)
            selfish = all(n in one.matched for n in self._near(carried))
            mender.cells = self.site.in_cells(dealt[one.number])
            mender.beside = self._joining(one, together)
            if selfish and dealt[one.number] and left.get(one.number):
                left[one.number] = mender.place(one, carried, left[one.number])

    def _near(self, carried: tuple[int, ...]) -> list[int]:
        """Of a class's terms, those that ask for company on its host."""
        return [n for n in carried if n in self.state.at and self.terms[n].kind is TermKind.AFFINITY]

    def _joining(self, one: PodClass, together: list[PodClass]) -> Floats:
        """What the other classes ask for that have to come to the host of this one."""
        out: Floats = np.zeros(len(one.request))
        for other in together:
            near = self._near(self.site.carried_of(other))
            if other is not one and near and all(n in one.matched for n in near):
                out += other.request * self.left.get(other.number, 0)
        return out

    def beside_others(self, together: list[PodClass], portions: list[Portion]) -> list[Portion]:
        """For pods that must share a host with others not placed yet: a node for one of those and as many of them as
        fit beside it. Returns the portions without those used up.
        """
        left, dealt = self.left, self.dealt
        for one in sorted(together, key=lambda c: (-c.priority, -float(c.request[0]))):
            carried = self.site.carried_of(one)
            near = self._near(carried)
            if all(n in one.matched for n in near) or not dealt[one.number]:
                continue
            mender = self.site.mender(new_nodes=False)
            mender.cells = self.site.in_cells(dealt[one.number])
            while left.get(one.number, 0) > 0 and self.site.spare() > 0:
                left[one.number] = mender.place(one, carried, left[one.number])
                hosts = [p for p in portions if p.count > 0 and all(n in p.one.matched for n in near)]
                if not left[one.number] or not self._beside(one, carried, hosts):
                    break
        return [p for p in portions if p.count > 0]

    def _beside(self, one: PodClass, carried: tuple[int, ...], hosts: list[Portion]) -> bool:
        """One new node with one pod of a portion and pods of the class beside it."""
        if not self.site.new_nodes:
            return False
        left, dealt = self.left, self.dealt
        room = self.columns.room
        for portion in hosts:
            other = portion.one
            usable = self.rules.on_columns(one) & self.rules.on_columns(other) & self.limits.affordable()
            usable &= (room >= one.request + other.request).all(axis=1)
            usable &= self.state.domain_ok(one, carried)[1]
            if (within := self.site.in_cells(dealt[one.number])) is not None:
                usable &= within[1]
            if portion.cell != ANYWHERE:
                usable &= self.site.cells.of_column == portion.cell
            where = np.nonzero(usable)[0]
            if not len(where):
                continue
            where = where[self.columns.tier[where] == self.columns.tier[where].min()]
            needed = one.request > 0
            spare = (room[where] - other.request)[:, needed] / one.request[needed]
            fit = np.minimum(np.floor(spare.min(axis=1) + 1e-9), left[one.number])
            column = int(where[np.argmin(self.columns.cost[where] / np.maximum(fit, 1e-9))])
            node = self.state.add_nodes(np.array([column]))
            self.limits.spend(column)
            self.state.place(other, self.site.carried_of(other), node, np.array([1]))
            portion.count -= 1
            many = min(left[one.number], int(self.state.capacity(one, carried)[node[0]]))
            if many > 0:
                self.state.place(one, carried, node, np.array([many]))
                left[one.number] -= many
                return True
        return False

"""What is proved while a plan is still being made, so that a search ends where nothing is left to be gained.

Of small problems a good deal is proved in less time than the searches take that would find nothing better. Neighbours:
`planner` makes one per plan, `packing` asks before it packs exactly, `bounding` proves.
"""

from dataclasses import dataclass

import numpy as np

from nodeyard.provisioning.bounding import CLOSE, bound_of, relaxed_bound
from nodeyard.provisioning.setting import Setting

_CHEAPER = 0.995
"""A question about a plan that is not cheaper than the last one asked about by this much would get the same answer."""
_MOST_S, _SHARE = 0.6, 0.15
"""Seconds of work, and of the search, that proving may take in all."""
_LEAST_S = 0.05
"""What a question costs at least: some of what is done for it is not counted."""
_SHORT_SEARCH_S = 1.0
"""A shorter search is over before anything is proved."""
_MOST_PODS, _AMPLE = 2_000, 1.01
"""Of more pods nothing is proved: a plan so near its relaxation will do, since what packs exactly would take seconds."""


@dataclass(slots=True)
class Proof:
    """`least`: the objective that no plan of all pods is below, as far as is known; `left_s`: work that may still be done."""

    setting: Setting
    least: float = 0.0
    left_s: float = 0.0
    asked: float = np.inf
    many: bool = False
    relaxation: float = 0.0

    @staticmethod
    def of(setting: Setting, search_s: float, *, small: bool) -> "Proof":
        """The proof for a plan whose searches take so long. `small`: whether a program of the whole would not be too large;
        of other problems, and in a short search, nothing is ever proved.
        """
        if len(setting.problem.pods) > _MOST_PODS:
            return Proof(setting, many=True)
        if not small or search_s < _SHORT_SEARCH_S:
            return Proof(setting)
        return Proof(setting, left_s=min(_MOST_S, search_s * _SHARE))

    def near(self, cost: float) -> bool:
        """Whether a plan of all pods that costs so much is as good as the cheapest, or of very many near enough."""
        if self.many:
            return cost <= self._relaxation(cost) * _AMPLE
        if cost > self.least * CLOSE and cost < self.asked * _CHEAPER and self.left_s > 0:
            self.asked, effort = cost, self.setting.effort
            begin, placed = effort.seconds, [(c, c.demand) for c in self.setting.classes.classes]
            found = bound_of(self.setting, placed, cost, effort.budget(self.left_s))
            self.least = max(self.least, found.value)
            self.left_s -= max(effort.seconds - begin, _LEAST_S)
            effort.seconds = begin  # no search is shorter for it
        return cost <= self.least * CLOSE

    def _relaxation(self, cost: float) -> float:
        if not self.relaxation:
            placed = [(c, c.demand) for c in self.setting.classes.classes]
            self.relaxation = relaxed_bound(self.setting, placed, cost)
        return self.relaxation

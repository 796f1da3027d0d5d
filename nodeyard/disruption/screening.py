"""What single nodes could hold, and what the others have room for: a look that tells most nodes need no planning.

All pods that could move are compiled once per pass. Of each class of a node's pods, those that no other node has room for
have to go onto the one new node that may replace it; where nothing cheaper than the node holds these alone, nothing
cheaper holds more. Terms between pods, ports, limits and minValues are left out: they only make less possible, so no
node is kept that planning would let go. Neighbours: `simulation` asks the planner about the rest, `vicinity` where.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np

from nodeyard.api.pod import PodKey
from nodeyard.disruption.model import Block, Candidate, Rule
from nodeyard.provisioning.classes import PodClass
from nodeyard.provisioning.columns import MOST_VARIANTS
from nodeyard.provisioning.labelled import Bools, Floats, Ints
from nodeyard.provisioning.model import Options, Problem
from nodeyard.provisioning.planner import compile_problem
from nodeyard.provisioning.setting import Setting
from nodeyard.scheduling.topology import TermKind

_EPSILON: Final = 1e-9
_PLENTY: Final = 2
"""Room for so many times a node's pods of each class is looked for nearby."""


class Screen:
    """One cluster and its candidates, compiled. `problem`: all their pods to move, no node gone."""

    def __init__(self, problem: Problem, options: Options, found: Sequence[Candidate]) -> None:
        self.setting, _ = compile_problem(problem, options)
        classes = self.setting.classes.classes
        hosts = self.setting.hosts
        self._at = {host.name: i for i, host in enumerate(hosts.hosts)}
        self._class_of: dict[PodKey, int] = {key: c.number for c in classes for key in c.pods}
        self._request: Floats = np.array([c.request for c in classes]).reshape(len(classes), -1)
        self._held = {c.node: self._counted(c) for c in found if c.node in self._at}
        self._room: Floats = hosts.room.copy()
        for node, (numbers, counts) in self._held.items():
            self._room[self._at[node]] -= counts @ self._request[numbers]
        self._takes: Ints = np.array([self._capacity(c) for c in classes]).reshape(len(classes), hosts.count)
        self._total: Ints = self._takes.sum(axis=1)
        self._buys: Bools = np.array([self.setting.rules.on_columns(c) for c in classes])
        variants = Counter(v.pool.key for v in self.setting.columns.variants)
        self._certain = max(variants.values(), default=0) < MOST_VARIANTS
        """Whether columns tell all pods apart."""
        self._far = np.array([_looks_far(self.setting, c) for c in classes], np.bool_)

    def _counted(self, candidate: Candidate) -> tuple[Ints, Ints]:
        """(classes, how many pods of each) of a node; pods that can't be planned at all are left out."""
        numbers = [n for key in candidate.pods if (n := self._class_of.get(key)) is not None]
        found, counts = np.unique(np.array(numbers, np.int64), return_counts=True)
        return found, counts

    def _capacity(self, one: PodClass) -> Ints:
        """How many pods of the class each host has room for beside what it holds."""
        needed = one.request > 0
        fit = np.where(self.setting.rules.on_hosts(one.rule), float(one.demand), 0.0)
        if needed.any():
            fit = np.minimum(fit, np.floor((self._room[:, needed] / one.request[needed]).min(axis=1) + 1e-9))
        out: Ints = np.maximum(fit, 0.0).astype(np.int64)
        return out

    def refusal(self, candidate: Candidate) -> Block | None:
        """Why its pods can't go for less, where that is certain; None: it has to be planned."""
        numbers, counts = self._held.get(candidate.node, (None, None))
        paid = candidate.price_per_hour
        if numbers is None or counts is None or counts.sum() < len(candidate.pods) or paid is None:
            return None
        if not self._certain:
            return None
        elsewhere = self._total[numbers] - self._takes[numbers, self._at[candidate.node]]
        staying = np.maximum(counts - elsewhere, 0)
        left = numbers[staying > 0]
        if not len(left):
            return None
        need = staying @ self._request[numbers]
        price = self.setting.columns.price[self._holding(left, need)]
        if len(price):
            least = float(price.min())
            if least < paid - _EPSILON:
                return None
            facts: dict[str, str | int | float | bool] = {"pricePerHour": paid, "cheapestPerHour": least}
            return Block(Rule.NOT_CHEAPER, "no node that holds its pods is cheaper than it is", facts)
        if not all(self._holding(left[i : i + 1], self._request[n]).any() for i, n in enumerate(left)):
            return None  # the planner says why such a pod finds no place
        return Block(Rule.SEVERAL_NODES, "its pods would need several new nodes", {"nodes": 2})

    def _holding(self, numbers: Ints, need: Floats) -> Bools:
        """Columns that these classes may all use and that have room for so much."""
        asked = need > 0
        allowed: Bools = np.asarray(self._buys[numbers].all(axis=0), np.bool_)
        out: Bools = allowed & np.asarray(
            (self.setting.columns.room[:, asked] >= need[asked] - 1e-6).all(axis=1), np.bool_
        )
        return out

    def near(self, candidate: Candidate, most: int) -> tuple[str, ...] | None:
        """At most about so many nodes to ask about instead of all; None where terms between pods look further than that."""
        numbers, counts = self._held.get(candidate.node, (None, None))
        if numbers is None or counts is None or counts.sum() < len(candidate.pods):
            return None
        if self._far[numbers].any():
            return None
        takes = self._takes[numbers].copy()
        takes[:, self._at[candidate.node]] = 0
        able = np.nonzero(takes.any(axis=0))[0]
        names = self.setting.hosts.hosts
        if len(able) <= most:
            return tuple(names[i].name for i in able.tolist())
        part = np.minimum(takes[:, able], counts[:, None]) / counts[:, None]
        able = able[np.argsort(-part.sum(axis=0), kind="stable")]
        wanted = counts[:, None] * _PLENTY
        ahead = np.cumsum(takes[:, able], axis=1) - takes[:, able]
        useful = ((takes[:, able] > 0) & (ahead < wanted)).any(axis=0)
        chosen = np.concatenate([able[useful], able[~useful]])[: max(most, int(useful.sum()))]
        return tuple(names[i].name for i in sorted(chosen.tolist()))

    @property
    def has_reservations(self) -> bool:
        """Whether capacity reservations are on offer, whose places count over all nodes and claims."""
        return any(id_ is not None for id_ in self.setting.columns.reservation_ids)

    def used_outside(self, pool: str, resource: str, inside: frozenset[str]) -> int:
        """What the pool's nodes and claims have of something limited, those `inside` left out."""
        hosts = (h for h in self.setting.hosts.hosts if h.pool == pool and h.name not in inside)
        return sum(1 if resource == "nodes" else h.capacity.get(resource, 0) for h in hosts)


def _looks_far(setting: Setting, one: PodClass) -> bool:
    """Whether terms that bind the class, or that others have against it, count pods beyond the node."""
    terms = setting.classes.terms
    carried = (terms[n] for n in one.carried)
    if any(not t.per_host or t.kind is TermKind.AFFINITY for t in carried):
        return True
    return any(
        t.kind is TermKind.ANTI_AFFINITY and not t.soft and not t.per_host
        for t in map(terms.__getitem__, one.matched)
    )

"""What single nodes could hold, and what the others have room for: a look that tells most nodes need no planning.

Of each class of a node's pods, those that no other node has room for
have to go onto the one new node that may replace it; where nothing cheaper than the node holds these alone, nothing
cheaper holds more. Terms between pods, ports, limits and minValues are left out: they only make less possible, so no
node is kept that planning would let go. Neighbours: `resident` has the cluster compiled, `simulation` asks the planner
about the rest, `vicinity` where.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np

from nodeyard.disruption.model import Block, Candidate, Rule
from nodeyard.disruption.resident import Resident
from nodeyard.provisioning.classes import Classes, PodClass
from nodeyard.provisioning.columns import MOST_VARIANTS
from nodeyard.provisioning.field import Rules
from nodeyard.provisioning.hosts import Hosts
from nodeyard.provisioning.labelled import Bools, Floats, Ints
from nodeyard.scheduling.topology import TermKind

_EPSILON: Final = 1e-9
_PLENTY: Final = 2
"""Room for so many times a node's pods of each class is looked for nearby."""


class Screen:
    """One cluster as `resident` follows it now. Holds until that follows another."""

    def __init__(self, resident: Resident, found: Sequence[Candidate]) -> None:
        self._resident = resident
        self._columns = resident.columns
        classes, rules = (
            resident.classes.classes,
            Rules(resident.columns, Hosts((), resident.classes.resources)),
        )
        self._buys: Bools = np.array([rules.on_columns(c) for c in classes])
        variants = Counter(v.pool.key for v in self._columns.variants)
        self._certain = max(variants.values(), default=0) < MOST_VARIANTS
        """Whether columns tell all pods apart."""
        self._far = np.array([_looks_far(resident.classes, c) for c in classes], np.bool_)
        self._staying = self._all_staying(found)
        self._used: dict[tuple[str, str], dict[str, int]] = {}

    def _all_staying(self, found: Sequence[Candidate]) -> dict[str, Ints]:
        """Node -> per class that it holds, how many pods no other node has room for."""
        resident = self._resident
        held = {c.node: held for c in found if (held := resident.held(c.node)) is not None and len(held[0])}
        if not held:
            return {}
        sizes = [len(numbers) for numbers, _ in held.values()]
        kinds = resident.kind_of[np.concatenate([numbers for numbers, _ in held.values()])]
        counts = np.concatenate([counts for _, counts in held.values()])
        where = np.repeat(np.array([resident.at[node] for node in held], np.int64), sizes)
        staying = np.maximum(counts - (resident.total[kinds] - resident.takes[where, kinds]), 0)
        return dict(zip(held, np.split(staying, np.cumsum(sizes)[:-1]), strict=True))

    def _held(self, candidate: Candidate) -> tuple[Ints, Ints] | None:
        """(classes, how many pods of each) of a node all of whose pods can be planned."""
        held = self._resident.held(candidate.node)
        return held if held is not None and held[1].sum() == len(candidate.pods) else None

    def refusal(self, candidate: Candidate) -> Block | None:
        """Why its pods can't go for less, where that is certain; None: it has to be planned."""
        staying, paid = self._staying.get(candidate.node), candidate.price_per_hour
        if staying is None or paid is None or not self._certain or not staying.any():
            return None
        held = self._held(candidate)
        if held is None:
            return None
        numbers = held[0]
        left = numbers[staying > 0]
        need = staying @ self._resident.request[numbers]
        price = self._columns.price[self._holding(left, need)]
        if len(price):
            least = float(price.min())
            if least < paid - _EPSILON:
                return None
            facts: dict[str, str | int | float | bool] = {"pricePerHour": paid, "cheapestPerHour": least}
            return Block(Rule.NOT_CHEAPER, "no node that holds its pods is cheaper than it is", facts)
        request = self._resident.request
        if not all(self._holding(left[i : i + 1], request[n]).any() for i, n in enumerate(left)):
            return None  # the planner says why such a pod finds no place
        return Block(Rule.SEVERAL_NODES, "its pods would need several new nodes", {"nodes": 2})

    def _holding(self, numbers: Ints, need: Floats) -> Bools:
        """Columns that these classes may all use and that have room for so much."""
        asked = need > 0
        allowed: Bools = np.asarray(self._buys[numbers].all(axis=0), np.bool_)
        out: Bools = allowed & np.asarray(
            (self._columns.room[:, asked] >= need[asked] - 1e-6).all(axis=1), np.bool_
        )
        return out

    def near(self, candidate: Candidate, most: int | None = None) -> tuple[str, ...] | None:
        """The nodes that have room for some of its pods, at most about so many, the most useful first to be taken; None
        where terms between pods look further than that.
        """
        held = self._held(candidate)
        if held is None or self._far[held[0]].any():
            return None
        numbers, counts = held
        takes = self._resident.takes[:, self._resident.kind_of[numbers]].T.astype(np.int64)
        takes[:, self._resident.at[candidate.node]] = 0
        able = np.nonzero(takes.any(axis=0))[0]
        names = self._resident.names
        if most is None or len(able) <= most:
            return tuple(names[i] for i in able.tolist())
        part = np.minimum(takes[:, able], counts[:, None]) / counts[:, None]
        able = able[np.argsort(-part.sum(axis=0), kind="stable")]
        wanted = counts[:, None] * _PLENTY
        ahead = np.cumsum(takes[:, able], axis=1) - takes[:, able]
        useful = ((takes[:, able] > 0) & (ahead < wanted)).any(axis=0)
        chosen = np.concatenate([able[useful], able[~useful]])[: max(most, int(useful.sum()))]
        return tuple(names[i] for i in sorted(chosen.tolist()))

    @property
    def has_reservations(self) -> bool:
        """Whether capacity reservations are on offer, whose places count over all nodes and claims."""
        return any(id_ is not None for id_ in self._columns.reservation_ids)

    def used_outside(self, pool: str, resource: str, inside: frozenset[str]) -> int:
        """What the pool's nodes and claims have of something limited, those `inside` left out."""
        used = self._used.get((pool, resource))
        if used is None:
            used = self._used[pool, resource] = {
                name: 1 if resource == "nodes" else capacity.get(resource, 0)
                for name, own, capacity in self._resident.hosts()
                if own == pool
            }
            used[""] = sum(used.values())
        return used[""] - sum(used.get(name, 0) for name in inside)


def _looks_far(classes: Classes, one: PodClass) -> bool:
    """Whether terms that bind the class, or that others have against it, count pods beyond the node."""
    carried = (classes.terms[n] for n in one.carried)
    if any(not t.per_host or t.kind is TermKind.AFFINITY for t in carried):
        return True
    matched = (classes.terms[n] for n in one.matched)
    return any(t.kind is TermKind.ANTI_AFFINITY and not t.soft and not t.per_host for t in matched)

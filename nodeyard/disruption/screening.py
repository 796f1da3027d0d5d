"""What single nodes could hold, and what the others have room for: a look that tells most nodes need no planning.

Of each class of a node's pods, those that no other node has room for
have to go onto the one new node that may replace it; where nothing cheaper than the node holds these alone, nothing
cheaper holds more. Terms between pods, ports, limits and minValues are left out: they only make less possible, so no
node is kept that planning would let go. Neighbours: `resident` has the cluster compiled, `simulation` asks the planner
about the rest, `vicinity` where.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from nodeyard.api.pod import PodShape
from nodeyard.disruption.anchors import Anchors
from nodeyard.disruption.model import Block, Candidate, Rule
from nodeyard.disruption.resident import Resident
from nodeyard.provisioning.columns import MOST_VARIANTS
from nodeyard.provisioning.labelled import Bools, Floats, Ints

_EPSILON: Final = 1e-9
_ROWS: Final = 64
"""Nodes compared with all columns at once."""
_PLENTY: Final = 2
"""Room for so many times a node's pods of each class is looked for nearby."""


class Screen:
    """One cluster as `resident` follows it now. Holds until that follows another."""

    def __init__(
        self, resident: Resident, found: Sequence[Candidate], shapes: Mapping[str, PodShape]
    ) -> None:
        self._resident = resident
        self._columns = resident.columns
        self._anchors = Anchors(resident, shapes)
        variants = Counter(v.pool.key for v in self._columns.variants)
        self._certain = max(variants.values(), default=0) < MOST_VARIANTS
        """Whether columns tell all pods apart."""
        self._staying: dict[str, Ints] = {}
        self._least: dict[str, float] = {}
        """Node -> price of the cheapest that holds all its pods that no other node has room for; inf: nothing does."""
        self._used: dict[tuple[str, str], dict[str, int]] = {}
        self._compare(found)

    def _compare(self, found: Sequence[Candidate]) -> None:
        """What of each node no other has room for, and what would hold that."""
        resident = self._resident
        held = {c.node: held for c in found if (held := resident.held(c.node)) is not None and len(held[0])}
        if not held:
            return
        sizes = [len(numbers) for numbers, _ in held.values()]
        numbers = np.concatenate([numbers for numbers, _ in held.values()])
        counts = np.concatenate([counts for _, counts in held.values()])
        kinds, node = resident.kind_of[numbers], np.repeat(np.arange(len(held)), sizes)
        at = np.array([resident.at[name] for name in held], np.int64)
        staying = np.maximum(counts - (resident.total[kinds] - resident.takes[kinds, at[node]]), 0)
        self._staying = dict(zip(held, np.split(staying, np.cumsum(sizes)[:-1]), strict=True))
        need = np.zeros((len(held), resident.request.shape[1]))
        np.add.at(need, node, staying[:, None] * resident.request[numbers])
        users = np.zeros((len(held), len(resident.buyers)), np.bool_)
        users[node[staying > 0], resident.buyer_of[numbers[staying > 0]]] = True
        self._least = dict(zip(held, self._cheapest(need, users).tolist(), strict=True))

    def _cheapest(self, need: Floats, users: Bools) -> Floats:
        """Per row the price of the cheapest column that has so much room and all of these buyers may use."""
        order = np.argsort(self._columns.price, kind="stable")
        price, room = np.append(self._columns.price[order], np.inf), self._columns.room[order]
        buyers = self._resident.buyers[:, order]
        least = np.where(need > 0, need - 1e-6, -np.inf)
        first = np.zeros(len(need), np.int64)
        sets, member = np.unique(users, axis=0, return_inverse=True)
        for i, own in enumerate(sets):
            allowed = np.append(buyers[own].all(axis=0), True)
            mine = np.nonzero(member.reshape(-1) == i)[0]
            for part in np.array_split(mine, len(mine) // _ROWS + 1):
                holds = np.ones((len(part), len(price)), np.bool_)
                for j in range(need.shape[1]):
                    holds[:, :-1] &= room[:, j] >= least[part, j, None]
                first[part] = np.argmax(holds & allowed, axis=1)
        out: Floats = price[first]
        return out

    def _held(self, candidate: Candidate) -> tuple[Ints, Ints] | None:
        """(classes, how many pods of each) of a node all of whose pods can be planned."""
        held = self._resident.held(candidate.node)
        return held if held is not None and held[1].sum() == len(candidate.pods) else None

    def refusal(self, candidate: Candidate) -> Block | None:
        """Why its pods can't go for less, where that is certain; None: it has to be planned."""
        least, paid = self._least.get(candidate.node), candidate.price_per_hour
        if least is None or paid is None or least < paid - _EPSILON or not self._certain:
            return None
        staying, held = self._staying[candidate.node], self._held(candidate)
        if held is None or not staying.any():
            return None
        if least < np.inf:
            facts: dict[str, str | int | float | bool] = {"pricePerHour": paid, "cheapestPerHour": least}
            return Block(Rule.NOT_CHEAPER, "no node that holds its pods is cheaper than it is", facts)
        if not all(map(self._is_held, held[0][staying > 0].tolist())):
            return None  # the planner says why such a pod finds no place
        return Block(Rule.SEVERAL_NODES, "its pods would need several new nodes", {"nodes": 2})

    def _is_held(self, number: int) -> bool:
        """Whether something that could be bought holds a pod of the class."""
        resident, users = self._resident, np.zeros((1, len(self._resident.buyers)), np.bool_)
        users[0, resident.buyer_of[number]] = True
        return bool(self._cheapest(resident.request[number : number + 1], users)[0] < np.inf)

    def near(self, candidate: Candidate, most: int | None = None) -> tuple[str, ...] | None:
        """The nodes that have room for some of its pods, at most about so many, the most useful first to be taken, and those
        that terms between pods look at. None where the whole cluster has to be asked.
        """
        held = self._held(candidate)
        if held is None:
            return None
        far = held[0][self._resident.far[held[0]]]
        seen = self._anchors.of(far) if len(far) else frozenset[str]()
        if seen is None:
            return None
        with_room = self._with_room(candidate, held, most)
        return tuple(sorted({*with_room, *seen} - {candidate.node})) if seen else with_room

    def _with_room(self, candidate: Candidate, held: tuple[Ints, Ints], most: int | None) -> tuple[str, ...]:
        numbers, counts = held
        takes = self._resident.takes[self._resident.kind_of[numbers]]
        takes[:, self._resident.at[candidate.node]] = 0
        able = np.nonzero(takes.any(axis=0))[0]
        names = self._resident.names
        if most is None or len(able) <= most:
            return tuple(names[i] for i in able.tolist())
        part = np.minimum(takes[:, able], counts[:, None]) / counts[:, None]
        able = able[np.argsort(-part.sum(axis=0), kind="stable")]
        wanted, left = counts[:, None] * _PLENTY, takes[:, able].astype(np.int64)
        useful = ((left > 0) & (np.cumsum(left, axis=1) - left < wanted)).any(axis=0)
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

"""The nodes of an arrangement as an improvement sees them: what each wastes, and which others it may be emptied with.

Pods with terms over zones (or any key but the host's) tie a node to its cell: half of the picks stay within one, which
makes them quick to plan. Nodes whose pods must share a node with others are left alone. Neighbours: `search`, which
empties what is picked here, and `parts`, which keeps tied pods in their cells.
"""

from collections.abc import Collection, Sequence
from typing import Final, Protocol

import numpy as np

from nodeyard.api.pod import PodKey, ShapeId
from nodeyard.api.pool import PoolKey
from nodeyard.disruption.arrangement import Arrangement
from nodeyard.disruption.neighbours import TopologyGuard
from nodeyard.provisioning.model import Plan

_MOST_PODS: Final = 700
_MOST_HOSTS: Final = 12
_AT_HOME: Final = 0.5
"""How often nodes are picked from one cell only, where the first of them is tied to its own."""
_BEYOND: Final = 1.1
"""Nodes to empty may cost so much more than what may be made for them: something fits on others."""


class Permit(Protocol):
    """What may be done in one go, from the arrangement as it is. `ceiling`: the most rent at any moment."""

    ceiling: float

    def most(self, now: Arrangement, pool: PoolKey) -> int | None:
        """How many of the pool's nodes may go at once; None: any number."""

    def allows(self, now: Arrangement, gone: Sequence[str], made: Plan) -> bool:
        """Whether this exchange may be made just so."""


class Outlook(Protocol):
    """What a yard asks of the search it serves."""

    guard: TopologyGuard
    shape_of: dict[PodKey, ShapeId]
    stuck: dict[str, str]
    rng: np.random.Generator

    def waste(self, arrangement: Arrangement, name: str) -> float:
        """USD per hour that the node costs beyond what its pods are worth."""


class Yard:
    """The nodes as the improvement sees them: what each wastes, and in which cell its pods tie it."""

    def __init__(self, search: Outlook, now: Arrangement, permit: Permit | None) -> None:
        self.search, self.now, self.permit = search, now, permit
        self.waste: dict[str, float] = {}
        self.cells: dict[str, tuple[str, ...]] = {}
        self.tied: dict[str, bool] = {}
        self.fixed: set[str] = set()
        self._names: list[str] = []
        self._sum_up(now.places)
        self._settle()

    def _sum_up(self, names: Collection[str]) -> None:
        search, guard = self.search, self.search.guard
        for name in names:
            place = self.now.places[name]
            shapes = {search.shape_of[key] for key in self.now.held.get(name, ())}
            self.waste[name] = search.waste(self.now, name)
            self.cells[name] = guard.cell(place.node)
            self.tied[name] = bool(shapes & guard.involved)
            if not place.movable or name in search.stuck or shapes & guard.gathered:
                self.fixed.add(name)

    def update(self, gone: Collection[str], changed: Collection[str]) -> None:
        for name in gone:
            for known in (self.waste, self.cells, self.tied):
                known.pop(name, None)
            self.fixed.discard(name)
        fresh = [n for n in self.now.places if n not in self.waste]
        self._sum_up([*fresh, *changed])
        self._settle()

    def _settle(self) -> None:
        self._names = sorted(n for n in self.waste if n not in self.fixed)

    def pick(self) -> tuple[list[str], list[str]]:
        """(nodes to empty, nodes that may take their pods)."""
        rng = self.search.rng
        names = self._names
        if not names:
            return [], []
        weight = np.array([max(self.waste[n], 0.0) for n in names])
        weight += 0.05 * weight.mean() + 1e-9
        seed = names[int(rng.choice(len(names), p=weight / weight.sum()))]
        cell = self.cells[seed] if self.tied[seed] and rng.random() < _AT_HOME else None
        mates = [i for i, n in enumerate(names) if n != seed and self._beside(n, cell)]
        many = int(rng.choice([1, 2, 3, 4, 6, 8, 12, 16], p=[0.06, 0.1, 0.14, 0.2, 0.2, 0.15, 0.1, 0.05]))
        picked = [seed]
        if mates:
            share = weight[mates] / weight[mates].sum()
            chosen = rng.choice(len(mates), min(many, len(mates)), replace=False, p=share)
            picked += [names[mates[int(i)]] for i in chosen]
        return self._fitting(picked), self._hosts(set(picked), cell)

    def _fitting(self, picked: list[str]) -> list[str]:
        """No more nodes than a small problem should have pods for, and than others can be made for first."""
        out: list[str] = []
        pods, cost, permit = 0, 0.0, self.permit
        most = (permit.ceiling - self.now.rent) * _BEYOND if permit else float("inf")
        room: dict[PoolKey, float] = {}
        for name in picked:
            place = self.now.places[name]
            pods += len(self.now.held[name])
            cost += place.price
            if permit and place.pool not in room:
                few = permit.most(self.now, place.pool)
                room[place.pool] = float("inf") if few is None else few
            if out and (pods > _MOST_PODS or cost > most):
                break
            if permit and room[place.pool] < 1:
                continue
            out.append(name)
            room[place.pool] = room.get(place.pool, 0.0) - 1
        return out

    def group(self, waiting: Collection[str]) -> tuple[list[str], list[str]]:
        """As `pick`, but as many of `waiting` as may go, the most wasteful first."""
        names = sorted(waiting, key=lambda n: -self.waste[n] / self.now.places[n].cost)
        cell = self.cells[names[0]] if self.tied[names[0]] else None
        rest = [n for n in names[1:] if self._beside(n, cell)]
        chosen = self._fitting([names[0], *self.search.rng.permutation(rest).tolist()]) or names[:1]
        return chosen, self._hosts(set(chosen), cell)

    def _beside(self, name: str, cell: tuple[str, ...] | None) -> bool:
        """Whether the node may be emptied with others: of this cell, or of any where each has all its values."""
        return self.cells[name] == cell if cell is not None else all(self.cells[name]) or not self.tied[name]

    def _hosts(self, picked: set[str], cell: tuple[str, ...] | None) -> list[str]:
        """Those that waste most have most room."""
        able = [n for n in self.waste if n not in picked and (cell is None or self.cells[n] == cell)]
        able.sort(key=lambda n: -self.waste[n] * (0.5 + self.search.rng.random()))
        return able[:_MOST_HOSTS]

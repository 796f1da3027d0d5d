"""Small planning problems cut out of a large arrangement: a few nodes' pods, some neighbours, and what may be bought.

Terms over zones (or any key but the host's) can be left out of them, because each pod that such a term binds or counts
is *pinned* to the domains it is in: counts per domain can't change, so nothing else of the cluster has to be in view.
Pools may buy only in domains of the nodes that go, for a new domain would change what a spread term counts. Limits of
pools and places in reservations enter as what the nodes outside the problem leave. Neighbours: `search` asks, `yard` picks the nodes.
"""

from collections.abc import Collection, Mapping, Sequence

import msgspec

from nodeyard.api.pod import PodKey, PodRecord, PodShape, ShapeId
from nodeyard.api.pool import Pool
from nodeyard.api.selectors import Requirement
from nodeyard.cloudprovider.model import Catalogue
from nodeyard.disruption.arrangement import Arrangement, Place
from nodeyard.disruption.neighbours import TopologyGuard
from nodeyard.disruption.unsold import unsold
from nodeyard.provisioning.model import Problem
from nodeyard.state.cluster import Snapshot

Cell = tuple[str, ...]
"""A value of each key that some term asks about, in the order of the guard's keys; empty where a node has none."""


class Parts:
    """Parts of arrangements over one snapshot. `now`: seconds since the epoch, for the planner."""

    def __init__(self, base: Snapshot, guard: TopologyGuard, now: float) -> None:
        self._base, self._guard, self._now = base, guard, now
        self._free: dict[ShapeId, PodShape] = {}
        self._pinned: dict[tuple[ShapeId, Cell], PodShape] = {}

    def part(
        self, now: Arrangement, gone: Sequence[str], hosts: Sequence[str],
        catalogues: Mapping[str, Catalogue], *, beside: bool,
    ) -> Problem:  # fmt: skip
        """The pods of `gone`, these hosts, and what the pools may still buy. `beside`: what is bought runs beside `gone`
        for a while, and limits have to hold then too.
        """
        base = self._base
        shapes: dict[ShapeId, PodShape] = {}
        records: dict[PodKey, PodRecord] = {}
        pinned = False
        for name in gone:
            cell = self._guard.cell(now.places[name].node)
            for key in now.held[name]:
                moved = base.successor(base.pods[key])
                shape = self._shape(moved, cell)
                pinned |= shape.id != moved
                shapes[shape.id] = shape
                records[key] = msgspec.structs.replace(base.pods[key], node="", shape=shape.id)
        pods = tuple(records)
        pods_on: dict[str, frozenset[PodKey]] = {}
        for name in hosts:
            mine = [k for k in base.pods_on.get(name, ()) if base.pods[k].daemon]
            mine += now.held.get(name, ())
            pods_on[name] = frozenset(mine)
            for key in mine:
                record = base.pods[key]
                here = record.shape if record.node == name else base.successor(record)
                shapes[here] = self._without_terms(here)
                records[key] = msgspec.structs.replace(record, node=name, shape=here)
        within = {self._guard.cell(now.places[name].node) for name in gone} if pinned else set()
        kept = [p for n, p in now.places.items() if n not in hosts and (beside or n not in gone)]
        snapshot = Snapshot(
            shapes=shapes, pods=records, nodes={n: now.places[n].node for n in hosts}, pods_on=pods_on,
            pools={k: self._narrowed(pool, kept, within) for k, pool in base.pools.items()},
            node_classes=base.node_classes, daemon_sets=base.daemon_sets, pvs=base.pvs, pvcs=base.pvcs,
            storage_classes=base.storage_classes, csi_nodes=base.csi_nodes, namespaces=base.namespaces,
        )  # fmt: skip
        made = (
            p.node.labels
            for n, p in now.places.items()
            if p.planned is not None and (beside or n not in gone)
        )
        return Problem(snapshot=snapshot, pods=pods, catalogues=unsold(catalogues, made), now=self._now)

    def _shape(self, shape: ShapeId, cell: Cell) -> PodShape:
        """The pod's shape without terms over domains; one that they concern has to stay in its cell instead."""
        if shape not in self._guard.involved:
            return self._without_terms(shape)
        found = self._pinned.get((shape, cell))
        if found is None:
            free = self._without_terms(shape)
            pins = {key: value for key, value in zip(self._guard.keys, cell, strict=True) if value}
            found = self._pinned[shape, cell] = msgspec.structs.replace(
                free,
                id=f"{shape}@{'/'.join(cell)}",
                node_selector={**free.node_selector, **pins},
            )
        return found

    def _without_terms(self, shape: ShapeId) -> PodShape:
        found = self._free.get(shape)
        if found is None:
            found = self._free[shape] = self._guard.stripped(self._base.shapes[shape])
        return found

    def _narrowed(self, pool: Pool, kept: Sequence[Place], cells: Collection[Cell]) -> Pool:
        """The pool with what its limits leave, buying in these cells only; anywhere where there are none."""
        limits = pool.limits
        if limits:
            mine = [p for p in kept if p.pool == pool.key]
            limits = {
                r: most - (len(mine) if r == "nodes" else sum(p.node.capacity.get(r, 0) for p in mine))
                for r, most in limits.items()
            }
        if not cells and not pool.limits:
            return pool
        within = tuple(
            Requirement(key, "In", values) if values else Requirement(key, "DoesNotExist", ())
            for key, values in zip(self._guard.keys, map(_values, zip(*cells, strict=True)), strict=False)
        )
        return msgspec.structs.replace(pool, limits=limits, requirements=(*pool.requirements, *within))


def _values(column: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted({value for value in column if value}))

"""Statuses of pools: what their nodes have in all, and whether they can be used.

Owned by the replica that plans; every five seconds, written only where it differs. Source: Karpenter documentation,
"NodePools" (status, limits).
"""

from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from nodeyard.adapters.kubernetes.errors import KubernetesError
from nodeyard.api.node import READY, Condition, Node, NodeClaim
from nodeyard.api.pool import Pool
from nodeyard.api.quantity import CPU, EPHEMERAL_STORAGE, MEMORY, PODS, Resources, total
from nodeyard.provisioning.launches import NotReady, room_of
from nodeyard.runtime.clock import Clock
from nodeyard.state.cluster import Snapshot
from services.allocator.classes import Classes
from services.allocator.metrics import AllocatorMetrics
from services.allocator.ports import Cluster, Leader, Statuses
from services.allocator.reporting import log

PERIOD_S: Final = 5.0
NODES: Final = "nodes"
_ALWAYS: Final = (CPU, MEMORY, PODS, EPHEMERAL_STORAGE, NODES)


class Pools:
    """Keeps the pools' statuses."""

    def __init__(
        self,
        *,
        cluster: Cluster,
        classes: Classes,
        statuses: Statuses,
        leader: Leader,
        measures: AllocatorMetrics,
        clock: Clock,
        stopped: Callable[[], str | None],
    ) -> None:
        """`stopped`: why nothing may be done now, None normally."""
        self._cluster = cluster
        self._classes = classes
        self._statuses = statuses
        self._leader = leader
        self._measures = measures
        self._clock = clock
        self._stopped = stopped

    async def run(self) -> None:
        """Every five seconds, while we plan."""
        while True:
            if self._cluster.synced and self._leader.epoch is not None and self._stopped() is None:
                await self.refresh()
            await self._clock.sleep(PERIOD_S)

    async def refresh(self) -> None:
        """One pass over all pools."""
        snapshot = self._cluster.snapshot()
        used = usage(snapshot)
        for pool in snapshot.pools.values():
            resources = {**dict.fromkeys((*_ALWAYS, *pool.resources), 0), **used.get(pool.key, {})}
            conditions = self._conditions(pool, snapshot)
            self._measure(pool, resources)
            if resources == pool.resources and _same(conditions, pool.conditions):
                continue
            try:
                await self._statuses.write_pool(pool.key, resources, conditions)
            except KubernetesError as error:
                log.warning("pool status could not be written", pool=pool.key, error=str(error))

    def _measure(self, pool: Pool, resources: Resources) -> None:
        for name, amount in resources.items():
            self._measures.usage.labels(pool.key, name).set(amount / 1000 if name == CPU else amount)
        for name, amount in pool.limits.items():
            self._measures.limit.labels(pool.key, name).set(amount / 1000 if name == CPU else amount)

    def _conditions(self, pool: Pool, snapshot: Snapshot) -> tuple[Condition, ...]:
        found = self._classes.find(pool.node_class.key)
        of_class = () if isinstance(found, NotReady) else found.warnings
        noted = "; ".join((*pool.warnings, *of_class))
        valid = Condition("ValidationSucceeded", "True", "ValidationSucceeded", noted)
        if pool.problems:
            valid = Condition("ValidationSucceeded", "False", "InvalidSpec", "; ".join(pool.problems))
        class_ready = Condition("NodeClassReady", "True", "NodeClassReady")
        if isinstance(found, NotReady):
            status = "Unknown" if found.reason == Classes.RESOLVING else "False"
            class_ready = Condition("NodeClassReady", status, found.reason, found.message)
        waiting = [c for c in (valid, class_ready) if c.status != "True"]
        ready = Condition(READY, "True", READY)
        if waiting:
            said = "; ".join(f"{c.type}: {c.message or c.reason}" for c in waiting)
            ready = Condition(READY, "False", "NotReady", said)
        made = [valid, class_ready, ready]
        if pool.key.startswith("provisioner/"):
            made.append(msgspec.structs.replace(ready, type="Active"))
        names = {c.type for c in made}
        others = [c for c in pool.conditions if c.type not in names]
        return tuple(sorted([*others, *self._timed(pool, made)], key=lambda c: c.type))

    def _timed(self, pool: Pool, conditions: Iterable[Condition]) -> Iterable[Condition]:
        before = {c.type: c for c in pool.conditions}
        for new in conditions:
            old = before.get(new.type)
            since = old.since if old is not None and old.status == new.status else self._clock.now()
            yield msgspec.structs.replace(new, since=since, observed_generation=pool.generation)


def usage(snapshot: Snapshot) -> dict[str, Resources]:
    """Per pool, what its claims (and adopted nodes without one) have in all, counted as nodes too."""
    parts: dict[str, list[Resources]] = {}
    counted: set[str] = set()
    for claim in snapshot.claims.values():
        node = snapshot.node_of(claim)
        if node is not None:
            counted.add(node.name)
        parts.setdefault(claim.pool, []).append(_counted(node, claim))
    for node in snapshot.nodes.values():
        if node.pool and node.name not in counted:
            parts.setdefault(node.pool, []).append({**node.capacity, NODES: 1})
    return {pool: total(resources) for pool, resources in parts.items() if pool}


def _counted(node: Node | None, claim: NodeClaim) -> Resources:
    return {**room_of(node, claim), NODES: 1}


def _same(made: Iterable[Condition], shown: Iterable[Condition]) -> bool:
    def essence(conditions: Iterable[Condition]) -> set[tuple[str, str, str, str, int]]:
        return {(c.type, c.status, c.reason, c.message, c.observed_generation) for c in conditions}

    return essence(made) == essence(shown)

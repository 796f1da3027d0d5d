"""Tells pricing how much memory nodes turned out to have, so that plans need not guess it.

Every ten seconds, each kind of node (type, image, class settings) that has shown a figure not told yet by this
replica. Only nodes that are Initialized and of their class as it is now count. Writes nothing; what could not be told
is told the next time.
"""

from collections.abc import Iterator, Sequence
from typing import Final, Protocol

from nodeyard.api import labels as keys
from nodeyard.api.quantity import MEMORY
from nodeyard.cloudprovider.learned import LearnedMemory, settings_of
from nodeyard.runtime.clock import Clock
from nodeyard.state.cluster import Snapshot
from services.allocator.ports import Cluster

PERIOD_S: Final = 10.0


class Listener(Protocol):
    """Pricing, as far as it listens."""

    async def report_capacity(self, seen: Sequence[LearnedMemory]) -> bool: ...


class Learning:
    """One replica's reports."""

    def __init__(self, cluster: Cluster, pricing: Listener, clock: Clock) -> None:
        self._cluster = cluster
        self._pricing = pricing
        self._clock = clock
        self._told: set[LearnedMemory] = set()

    async def run(self) -> None:
        """For ever."""
        while True:
            if self._cluster.synced:
                await self.look()
            await self._clock.sleep(PERIOD_S)

    async def look(self) -> None:
        """Tells what is new."""
        fresh = sorted(set(observed(self._cluster.snapshot())) - self._told, key=lambda seen: seen.key)
        if fresh and await self._pricing.report_capacity(fresh):
            self._told.update(fresh)


def observed(snapshot: Snapshot) -> Iterator[LearnedMemory]:
    """What the cluster's nodes have shown."""
    for node in snapshot.nodes.values():
        claim = snapshot.claim_of(node) if node.initialized else None
        node_class = snapshot.node_classes.get(claim.node_class.key) if claim is not None else None
        memory = node.capacity.get(MEMORY, 0)
        instance_type = node.labels.get(keys.INSTANCE_TYPE, "")
        if claim is None or node_class is None or not (memory and instance_type and claim.image_id):
            continue
        if claim.annotations.get(keys.NODECLASS_HASH, node_class.hash) == node_class.hash:
            yield LearnedMemory(instance_type, claim.image_id, settings_of(node_class), memory)

"""Garbage collection both ways, for the holder of the lease `disruption`.

Never before the stream is whole and current; each orphan's claim is asked for once more at the API server right
before its instance ends. Where too much would go at once, nothing goes: the journal, the log and a metric say so with
a digest, and a person lets exactly that through by annotating the Lease `nodeyard-disruption` with
`nodeyard.dev/collect-approved: <digest>`. Source: Karpenter documentation, "NodeClaims".
"""

from collections.abc import Awaitable, Callable
from typing import Final

from nodeyard.adapters.kubernetes.errors import KubernetesError
from nodeyard.cloudprovider.errors import CloudError
from nodeyard.disruption.collection import Collection, Instance, collect, instance_id
from nodeyard.runtime.clock import Clock
from nodeyard.runtime.lifecycle import kill_point
from nodeyard.runtime.logging import get_logger
from nodeyard.state.cluster import Snapshot
from services.reallocator.chronicle import Chronicle
from services.reallocator.metrics import ReallocatorMetrics
from services.reallocator.ports import Claims, Cluster, Lead, Machines, Nodes

FAST_S: Final = 10.0
MAX_LAG_S: Final = 5.0

log = get_logger("services.reallocator.collection")


class Collector:
    """`approved` gives the digest a person let through, empty for none."""

    def __init__(
        self,
        *,
        cluster: Cluster,
        machines: Machines,
        claims: Claims,
        nodes: Nodes,
        lead: Lead,
        chronicle: Chronicle,
        clock: Clock,
        measures: ReallocatorMetrics,
        approved: Callable[[], Awaitable[str]],
        permitted: Callable[[], bool],
        interval_s: float,
        fast: int,
    ) -> None:
        self._cluster = cluster
        self._machines = machines
        self._claims = claims
        self._nodes = nodes
        self._lead = lead
        self._chronicle = chronicle
        self._clock = clock
        self._measures = measures
        self._approved = approved
        self._permitted = permitted
        self._interval_s = interval_s
        self._fast = fast
        self._claims_looked_at = float("-inf")
        self._held_digest = ""

    async def run(self) -> None:
        """Collects every 10 s at first, then at the interval, until cancelled."""
        rounds = 0
        while True:
            await self._lead.wait_held()
            if self._cluster.synced and self._cluster.lag_s < MAX_LAG_S and self._permitted():
                try:
                    await self.once()
                    rounds += 1
                except (CloudError, KubernetesError) as error:
                    log.warning("garbage collection failed and is tried again", error=str(error))
            await self._clock.sleep(
                min(FAST_S, self._interval_s) if rounds < self._fast else self._interval_s
            )

    async def once(self) -> Collection:
        """One collection."""
        now = self._clock.now()
        claims_due = now - self._claims_looked_at >= self._interval_s
        instances = await self._machines.list_ours()
        snapshot = self._cluster.snapshot()
        approved = await self._approved() if self._held_digest else ""
        found = collect(instances, snapshot, now, claims_due=claims_due, approved=approved)
        if found.held:
            await self._hold(found)
            return found
        self._held_digest = ""
        self._measures.held.set(0)
        if claims_due:
            self._claims_looked_at = now
        for orphan in found.orphans:
            await self._end_orphan(orphan, snapshot)
        await self._end_lost(found)
        return found

    async def _hold(self, found: Collection) -> None:
        self._measures.held.set(len(found.orphans) + len(found.lost))
        if found.digest == self._held_digest:
            return
        self._held_digest = found.digest
        message = f"{found.held}; nothing is collected until a person lets it through"
        await self._chronicle.decided(
            "paused", "garbage-collection", "GarbageCollectionHeld", message,
            digest=found.digest, instances=len(found.orphans), claims=len(found.lost),
        )  # fmt: skip

    async def _end_orphan(self, orphan: Instance, snapshot: Snapshot) -> None:
        claim = await self._claims.get(orphan.claim) if orphan.claim else None
        if claim is not None and instance_id(claim.provider_id) in ("", orphan.id):
            return
        if self._lead.epoch is None:
            return
        kill_point("reallocator.before-collect")
        await self._machines.terminate([orphan.id])
        kill_point("reallocator.after-collect")
        self._measures.collected.labels("instance").inc()
        await self._chronicle.decided(
            "collected", f"instance/{orphan.id}", "NoNodeClaim", "terminated: no NodeClaim stands for it",
            claim=orphan.claim, pool=orphan.pool, instance_type=orphan.instance_type,
        )  # fmt: skip
        for node in snapshot.nodes.values():
            if instance_id(node.provider_id) == orphan.id and snapshot.claim_of(node) is None:
                await self._nodes.delete(node)

    async def _end_lost(self, found: Collection) -> None:
        """Deletes claims whose instance is gone, after asking for each instance by its id."""
        if not found.lost:
            return
        there = await self._machines.describe(instance_id(claim.provider_id) for claim in found.lost)
        for claim in found.lost:
            instance = there.get(instance_id(claim.provider_id))
            if (instance is not None and instance.alive) or self._lead.epoch is None:
                continue
            await self._claims.delete(claim.name, claim.uid)
            self._measures.collected.labels("nodeclaim").inc()
            await self._chronicle.decided(
                "collected", f"nodeclaim/{claim.name}", "NoInstance", "deleted: its instance is gone",
                provider_id=claim.provider_id,
            )  # fmt: skip

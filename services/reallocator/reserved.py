"""Keeps claims and nodes true to the capacity reservations that they are in, for the holder of the lease `disruption`.

Every half minute: an instance that has fallen out of its reservation makes its claim and its node on-demand, and the
claims of a block that is about to end are deleted, which drains their nodes. Level-triggered and idempotent; claims
in no reservation cost no call. Kill points: those of NodeClaims and nodes.
"""

from collections.abc import Callable
from typing import Final

from nodeyard.adapters.kubernetes.errors import KubernetesError
from nodeyard.api import labels as keys
from nodeyard.api.node import NodeClaim
from nodeyard.cloudprovider.errors import CloudError
from nodeyard.disruption.collection import instance_id
from nodeyard.disruption.reserved import OUTSIDE, expiring, fallen_out, in_reservations, mislabelled
from nodeyard.runtime.clock import Clock
from nodeyard.runtime.logging import get_logger
from nodeyard.state.cluster import Change, Kind
from services.reallocator.chronicle import Chronicle
from services.reallocator.ports import Claims, Cluster, Lead, Machines, Nodes

PERIOD_S: Final = 30.0

log = get_logger("services.reallocator.reserved")


class ReservedNodes:
    """Run `run` in every replica; the holder of the lease acts."""

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
        permitted: Callable[[], bool],
    ) -> None:
        self._cluster = cluster
        self._machines = machines
        self._claims = claims
        self._nodes = nodes
        self._lead = lead
        self._chronicle = chronicle
        self._clock = clock
        self._permitted = permitted

    async def run(self) -> None:
        """Looks for ever, until cancelled."""
        while True:
            await self._lead.wait_held()
            if self._cluster.synced and self._permitted():
                try:
                    await self.once()
                except (CloudError, KubernetesError) as error:
                    log.warning("reserved nodes can't be kept true yet", error=str(error))
            await self._clock.sleep(PERIOD_S)

    async def once(self) -> None:
        """One look. Raises CloudError, KubernetesError."""
        for claim in expiring(self._cluster.snapshot()):
            await self._end(claim)
        reserved = in_reservations(self._cluster.snapshot())
        if reserved:
            ids = [instance_id(claim.provider_id) for claim in reserved]
            found = await self._machines.describe(ids)
            for claim in fallen_out(self._cluster.snapshot(), found):
                await self._demote(claim)
        for node in mislabelled(self._cluster.snapshot()):
            await self._nodes.relabel(node, OUTSIDE)

    async def _demote(self, claim: NodeClaim) -> None:
        reservation = claim.labels.get(keys.RESERVATION_ID, "")
        written = await self._claims.annotate(claim, labels=OUTSIDE)
        if written is None:
            return
        self._cluster.overlay(Change(Kind.NODE_CLAIM, written.name, written, written.resource_version))
        await self._chronicle.decided(
            "demoted", f"nodeclaim/{claim.name}", "LeftCapacityReservation",
            "its instance is in no capacity reservation any more and counts as on-demand",
            pool=claim.pool, reservation=reservation,
        )  # fmt: skip

    async def _end(self, claim: NodeClaim) -> None:
        reservation = claim.labels.get(keys.RESERVATION_ID, "")
        if not await self._claims.delete(claim.name, claim.uid):
            return
        words = "deleted: its capacity block is about to end"
        self._chronicle.on_claim(claim, "CapacityBlockExpiring", words, warning=True)
        await self._chronicle.decided(
            "interrupted", f"nodeclaim/{claim.name}", "CapacityBlockExpiring", words,
            pool=claim.pool, reservation=reservation,
        )  # fmt: skip

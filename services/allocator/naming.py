"""Instances that came of a batch get their claim's name and UID as tags, once it is known whose each is.

Nothing depends on it: a claim says which instance is its own, and the batch's tag keeps an instance from being taken
for garbage until then. So it is done beside launching, at CreateTags' own pace; what a replica left undone is found by
asking EC2 now and then for instances of this cluster with a batch but no claim. Instances in a zone that traffic is
shifted away from are left alone until the shift is over.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec

from nodeyard.api.node import NodeClaim
from nodeyard.cloudprovider.errors import CloudError, NotFound
from nodeyard.provisioning.batches import batch_of
from nodeyard.provisioning.claims import LaunchRecord, launch_record_of
from nodeyard.runtime.clock import Clock
from services.allocator.ports import Cluster, Fleet
from services.allocator.reporting import log

SWEEP_S: Final = 300.0
_FIRST_SWEEP_S: Final = 30.0
_AT_ONCE: Final = 8


class _Task(msgspec.Struct, frozen=True):
    instance_id: str
    claim: str
    uid: str
    named: bool


class Namer:
    """Tags instances. `run` does it, `add` says which."""

    def __init__(
        self,
        fleet: Fleet,
        cluster: Cluster,
        clock: Clock,
        stopped: Callable[[], str | None],
        zones_out: Callable[[], frozenset[str]] = frozenset,
    ) -> None:
        """`stopped`: why nothing may be done now, None normally. `zones_out`: zones that nothing is to be asked of."""
        self._zones_out = zones_out
        self._stopped = stopped
        self._fleet = fleet
        self._cluster = cluster
        self._clock = clock
        self._queue: asyncio.Queue[_Task] = asyncio.Queue()
        self._queued: set[str] = set()

    def add(self, claim: NodeClaim, instance_id: str, record: LaunchRecord | None = None) -> None:
        """The instance is this claim's. One that was launched alone has its tags already."""
        batch = batch_of(claim)
        if batch is None or len(batch.members) < 2 or instance_id in self._queued:
            return
        zone = claim.provider_id.rpartition("/")[0].rpartition("/")[2]
        if zone in self._zones_out():
            return  # the first sweep after the shift finds it
        record = record or launch_record_of(claim)
        named = record is not None and "Name" in record.tags
        self._queued.add(instance_id)
        self._queue.put_nowait(_Task(instance_id, claim.name, claim.uid, named))

    @property
    def pending(self) -> int:
        """Instances that are still to be tagged."""
        return len(self._queued)

    async def run(self) -> None:
        """Tags what is added, for ever, and looks for what was missed."""
        async with asyncio.TaskGroup() as group:
            for number in range(_AT_ONCE):
                group.create_task(self._work(), name=f"namer {number}")
            group.create_task(self._sweeps(), name="namer sweep")

    async def drain(self) -> None:
        """Tags what was added so far."""
        while not self._queue.empty():
            await self._tag(self._queue.get_nowait())

    async def sweep(self) -> None:
        """Adds the instances that no replica tagged. Raises CloudError."""
        unnamed = await self._fleet.unnamed()
        for claim in self._cluster.snapshot().claims.values():
            instance_id = claim.provider_id.rpartition("/")[2]
            if instance_id in unnamed:
                self.add(claim, instance_id)

    async def _work(self) -> None:
        while True:
            await self._tag(await self._queue.get())

    async def _sweeps(self) -> None:
        wait_s = _FIRST_SWEEP_S
        while True:
            await self._clock.sleep(wait_s)
            wait_s = SWEEP_S
            if self._cluster.synced and self._stopped() is None:
                try:
                    await self.sweep()
                except CloudError as error:
                    log.warning("could not look for instances without a claim's tag", error=str(error))

    async def _tag(self, task: _Task) -> None:
        """Tries once; what fails is found again by the next sweep."""
        try:
            await self._fleet.name(task.instance_id, task.claim, task.uid, named=task.named)
        except NotFound:
            pass  # it ended meanwhile, or EC2 does not show it yet
        except CloudError as error:
            log.warning("instance is not tagged yet", instance=task.instance_id, error=str(error))
        finally:
            self._queued.discard(task.instance_id)

"""Who may change a node now: the lease `node/<claim>`, taken for the time of one step and renewed while it lasts.

Both replicas try; the one that gets it acts. While Redis is away steps go on without it: resourceVersions and the
client token keep them single, the lease only keeps the replicas from doing the same work twice.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from nodeyard.runtime.clock import Clock
from nodeyard.runtime.leadership import StoreUnavailableError
from services.allocator.ports import Leases


class NodeLeases:
    """Leases of single claims and nodes, as `holder` takes them."""

    def __init__(self, leases: Leases, holder: str, ttl_s: float, clock: Clock) -> None:
        self._leases = leases
        self._holder = holder
        self._ttl_s = ttl_s
        self._clock = clock
        self._mine: set[str] = set()

    @asynccontextmanager
    async def held(self, name: str) -> AsyncIterator[bool]:
        """Whether the lease of `name` is ours for the block. A second block of this process for it is refused."""
        if name in self._mine:
            yield False
            return
        self._mine.add(name)
        try:
            async with self._taken(f"node/{name}") as taken:
                yield taken
        finally:
            self._mine.discard(name)

    @asynccontextmanager
    async def _taken(self, lease: str) -> AsyncIterator[bool]:
        try:
            epoch = await self._leases.acquire(lease, self._holder, self._ttl_s)
        except StoreUnavailableError:
            yield True
            return
        if epoch is None:
            yield False
            return
        keeping = asyncio.create_task(self._keep(lease, epoch), name=f"keep {lease}")
        try:
            yield True
        finally:
            keeping.cancel()
            with suppress(StoreUnavailableError):
                await self._leases.release(lease, self._holder, epoch)

    async def _keep(self, lease: str, epoch: int) -> None:
        while True:
            await self._clock.sleep(self._ttl_s / 3)
            with suppress(StoreUnavailableError):
                if not await self._leases.renew(lease, self._holder, epoch, self._ttl_s):
                    return

"""Per-node leases: which of the nodes to be worked on are this replica's.

A lease here only spares double work; what must not happen twice carries a precondition of its own. So while Redis is
away everything counts as ours. Neighbours: `termination` (what is worked on), Redis (who holds what).
"""

from collections.abc import Iterable
from typing import Final

from nodeyard.runtime.clock import Clock
from nodeyard.runtime.leadership import StoreUnavailableError
from nodeyard.runtime.logging import get_logger
from services.reallocator.ports import NodeLeases

_RENEW: Final = 1 / 3

log = get_logger("services.reallocator.leases")


class HeldLeases:
    """Leases `node/<name>`, taken and renewed by `keep`."""

    def __init__(self, leases: NodeLeases, *, holder: str, ttl_s: float, clock: Clock) -> None:
        self._leases = leases
        self._holder = holder
        self._ttl_s = ttl_s
        self._clock = clock
        self._held: dict[str, tuple[int, float]] = {}
        self._away = False

    async def keep(self, names: Iterable[str]) -> frozenset[str]:
        """Of `names` those that are ours now; leases of others are given back."""
        wanted = set(names)
        try:
            for name in [held for held in self._held if held not in wanted]:
                epoch, _ = self._held.pop(name)
                await self._leases.release(f"node/{name}", self._holder, epoch)
            mine = frozenset([name for name in wanted if await self._ours(name)])
        except StoreUnavailableError as error:
            if not self._away:
                log.warning("node leases are away and every node is worked on", error=str(error))
            self._away = True
            return frozenset(wanted)
        self._away = False
        return mine

    async def _ours(self, name: str) -> bool:
        now = self._clock.monotonic()
        key = f"node/{name}"
        held = self._held.get(name)
        if held is not None:
            epoch, renewed_at = held
            if now - renewed_at < self._ttl_s * _RENEW:
                return True
            if await self._leases.renew(key, self._holder, epoch, self._ttl_s):
                self._held[name] = (epoch, now)
                return True
            del self._held[name]
        granted = await self._leases.acquire(key, self._holder, self._ttl_s)
        if granted is None:
            return False
        self._held[name] = (granted, now)
        return True

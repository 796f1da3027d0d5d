"""Collects keys into batches: a window opens with the first key and closes after a pause or at a limit.

The allocator batches pending pods with it. A key that is already in the window does not keep it open, so that pods
whose status flaps cannot delay everybody. Source: Karpenter documentation, settings BATCH_IDLE_DURATION and
BATCH_MAX_DURATION.
"""

import asyncio
from collections.abc import Iterable

from nodeyard.runtime.clock import Clock


class Batcher:
    """A window ends `idle_s` after its last new key, and at the latest `max_s` after its first. One consumer."""

    def __init__(self, idle_s: float, max_s: float, clock: Clock) -> None:
        self._idle_s = idle_s
        self._max_s = max(max_s, idle_s)
        self._clock = clock
        self._keys: set[str] = set()
        self._first_at = 0.0
        self._last_at = 0.0
        self._filled = asyncio.Event()

    def add(self, keys: Iterable[str]) -> None:
        """Puts keys into the window, opening one if none is open."""
        new = set(keys) - self._keys
        if not new:
            return
        now = self._clock.monotonic()
        if not self._keys:
            self._first_at = now
        self._last_at = now
        self._keys |= new
        self._filled.set()

    @property
    def pending(self) -> int:
        """Keys in the open window."""
        return len(self._keys)

    async def next(self) -> frozenset[str]:
        """Waits for a window to close and takes its keys (never none)."""
        await self._filled.wait()
        while (left := self._closes_at() - self._clock.monotonic()) > 0:
            await self._clock.sleep(left)
        batch = frozenset(self._keys)
        self._keys.clear()
        self._filled.clear()
        return batch

    def _closes_at(self) -> float:
        return min(self._last_at + self._idle_s, self._first_at + self._max_s)

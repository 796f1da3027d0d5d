"""The decision journal: a capped Redis stream that the allocator and the reallocator write and people read.

Writing never fails and never waits: decisions go into memory and `run` takes them to Redis, later if Redis is away.
Each writer keeps its last decisions and writes them again when it finds that Redis lost them. What does not fit in
memory while Redis is away is counted and dropped, oldest first.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import msgspec
from redis.asyncio import Redis

from nodeyard.adapters.redis.connection import RedisUnavailableError, translated
from nodeyard.api.decision import Decision
from nodeyard.runtime.backoff import Backoff
from nodeyard.runtime.clock import Clock, SystemClock
from nodeyard.runtime.logging import get_logger

log = get_logger("nodeyard.adapters.redis.journal")

LENGTH: Final = 10_000
"""Entries kept in Redis, about."""
_PAGE: Final = 500


class Journal:
    """Reads and writes one cluster's journal. `writer` names this process; readers need none."""

    def __init__(
        self,
        redis: Redis,
        prefix: str,
        *,
        writer: str = "",
        capacity: int = LENGTH,
        remembered: int = 1000,
        clock: Clock | None = None,
    ) -> None:
        self._redis = redis
        self._stream = f"{prefix}decisions"
        self._marker = f"{prefix}decisions-writer:{writer}"
        self._clock = clock or SystemClock()
        self._waiting: deque[bytes] = deque(maxlen=capacity)
        self._written: deque[bytes] = deque(maxlen=remembered)
        self._wake = asyncio.Event()
        self.dropped = 0
        """Decisions that did not fit in memory while Redis was away."""

    async def record(self, decisions: Sequence[Decision]) -> None:
        """Takes decisions down; they reach Redis by `run` or `flush`. Never raises, never waits."""
        for decision in decisions:
            self.dropped += len(self._waiting) == self._waiting.maxlen
            self._waiting.append(msgspec.json.encode(decision))
        self._wake.set()

    async def run(self) -> None:
        """Takes what was recorded to Redis for ever; at the end tries once more."""
        delay = Backoff(0.2, 5.0)
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                try:
                    await self.flush()
                    delay.reset()
                except RedisUnavailableError as error:
                    if delay.failures == 0:
                        log.warning("decisions wait for Redis", error=str(error), waiting=len(self._waiting))
                    self._wake.set()
                    await self._clock.sleep(delay.next_s())
        finally:
            await self._last_flush()

    async def _last_flush(self) -> None:
        try:
            await self.flush()
        except RedisUnavailableError as error:
            if self._waiting:
                log.warning("decisions are lost at the end", count=len(self._waiting), error=str(error))

    async def flush(self) -> None:
        """Writes what waits, and before it what Redis lost. Raises RedisUnavailableError; nothing is lost by that."""
        while self._waiting:
            with translated("decisions"):
                fresh = await self._redis.set(self._marker, b"1", nx=True)
                if fresh and self._written:
                    await self._append(list(self._written))
                part = [self._waiting[i] for i in range(min(_PAGE, len(self._waiting)))]
                await self._append(part)
            for entry in part:
                if self._waiting and self._waiting[0] is entry:
                    self._waiting.popleft()
                self._written.append(entry)

    async def _append(self, entries: Sequence[bytes]) -> None:
        pipeline = self._redis.pipeline(transaction=True)
        for entry in entries:
            pipeline.xadd(self._stream, {b"d": entry}, maxlen=LENGTH, approximate=True)
        await pipeline.execute()

    async def recent(self, limit: int = 100, kind: str = "", subject: str = "") -> list[Decision]:
        """The last decisions, newest first, of a kind and about a subject where given.

        Raises RedisUnavailableError.
        """
        found: list[Decision] = []
        end = "+"
        while len(found) < limit:
            with translated("decisions"):
                page: Any = await self._redis.xrevrange(self._stream, max=end, min="-", count=_PAGE)
            for _, fields in page:
                decision = _decode(fields)
                if decision is not None and kind in ("", decision.kind) and subject in ("", decision.subject):
                    found.append(decision)
            if len(page) < _PAGE:
                break
            end = f"({page[-1][0].decode()}"
        return sorted(found, key=lambda decision: -decision.at)[:limit]

    async def follow(self) -> AsyncIterator[Decision]:
        """Decisions as they are written from now on. Raises RedisUnavailableError; then ask again."""
        last = "$"
        while True:
            with translated("decisions"):
                if last == "$":
                    newest: Any = await self._redis.xrevrange(self._stream, count=1)
                    last = newest[0][0].decode() if newest else "0-0"
                answer: Any = await self._redis.xread({self._stream: last}, count=_PAGE, block=500)
            for entry_id, fields in _entries(answer):
                last = entry_id.decode()
                decision = _decode(fields)
                if decision is not None:
                    yield decision


def _entries(answer: Any) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """The entries of an XREAD answer, which is a list in RESP2 and a map in RESP3."""
    if not answer:
        return []
    if isinstance(answer, dict):
        return [entry for pages in answer.values() for page in pages for entry in page]
    return [entry for _, page in answer for entry in page]


def _decode(fields: dict[bytes, bytes]) -> Decision | None:
    """An entry as a decision; None for one that a different version wrote and we can't read."""
    try:
        return msgspec.json.decode(fields[b"d"], type=Decision)
    except (KeyError, msgspec.DecodeError):
        return None

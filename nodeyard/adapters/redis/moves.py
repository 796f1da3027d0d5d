"""The moves of late, so that hysteresis outlives a replica: a hash of command and pool to the move as JSON.

Only the holder of the lease `disruption` writes. What is too old goes when it is read; what can't be read is left out
and goes too. Lost with Redis, they are missing for as long as they would have been remembered, and nothing worse.
"""

from collections.abc import Sequence
from typing import Final

import msgspec
from redis.asyncio import Redis

from nodeyard.adapters.redis.connection import translated
from nodeyard.disruption.hysteresis import REMEMBERED_S
from nodeyard.disruption.model import Move

MOST: Final = 2_000
"""Moves kept; the oldest go first."""
_EXPIRES_S: Final = 7 * 24 * 3600


class Moves:
    """The moves of one cluster. Every method raises RedisUnavailableError."""

    def __init__(self, redis: Redis, prefix: str) -> None:
        self._redis = redis
        self._key = f"{prefix}moves"

    async def record(self, moves: Sequence[Move]) -> None:
        """Writes moves down, over what was known of them."""
        if not moves:
            return
        rows: list[str | bytes] = []
        for move in moves:
            rows += (move.id, msgspec.json.encode(move))
        with translated("moves"):
            await self._redis.hset(self._key, items=rows)
            await self._redis.expire(self._key, _EXPIRES_S)

    async def recent(self, now: float) -> tuple[Move, ...]:
        """The moves remembered at `now` (seconds since the epoch), oldest first."""
        with translated("moves"):
            rows = await self._redis.hgetall(self._key)
        read = {id_: move for id_, row in rows.items() if (move := _read(row)) is not None}
        found = sorted(read.values(), key=lambda m: (m.at, m.id))
        kept = [m for m in found if now - max(m.at, m.ended_at) < REMEMBERED_S][-MOST:]
        names = {m.id.encode() for m in kept}
        gone = [id_ for id_ in rows if id_ not in names]
        if gone:
            with translated("moves"):
                await self._redis.hdel(self._key, *gone)
        return tuple(kept)


def _read(row: bytes | str) -> Move | None:
    try:
        return msgspec.json.decode(row, type=Move)
    except msgspec.DecodeError:
        return None

"""Which nodes the allocator just counted on, so that the reallocator leaves them alone for a while.

A sorted set of node names by when their nomination ends, in Redis' own time, so that the replicas' clocks don't
matter. Source: Karpenter documentation, "Disruption": nominated nodes are not disrupted.
"""

from collections.abc import Iterable
from typing import Final

from redis.asyncio import Redis

from nodeyard.adapters.redis.connection import translated

_NOMINATE: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
for i = 2, #ARGV do
  local ends = redis.call('ZSCORE', KEYS[1], ARGV[i])
  if not ends or tonumber(ends) < now + ARGV[1] then redis.call('ZADD', KEYS[1], now + ARGV[1], ARGV[i]) end
end
return #ARGV - 1
"""
_NOMINATED: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
return redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. string.format('%d', now), '+inf')
"""
_AT_ONCE: Final = 1000


class Nominations:
    """Nominations of one cluster. Every method raises RedisUnavailableError."""

    def __init__(self, redis: Redis, prefix: str) -> None:
        self._key = f"{prefix}nominations"
        self._redis = redis
        self._nominate = redis.register_script(_NOMINATE)
        self._nominated = redis.register_script(_NOMINATED)

    async def nominate(self, nodes: Iterable[str], ttl_s: float) -> None:
        """Nominates nodes for `ttl_s` seconds from now; a nomination is never shortened."""
        names = sorted(set(nodes))
        with translated("nominations"):
            for start in range(0, len(names), _AT_ONCE):
                await self._nominate([self._key], [round(ttl_s * 1000), *names[start : start + _AT_ONCE]])

    async def nominated(self) -> frozenset[str]:
        """The nodes nominated now."""
        with translated("nominations"):
            names = await self._nominated([self._key], [])
        return frozenset(name.decode() for name in names)

    async def forget(self, nodes: Iterable[str]) -> None:
        """Ends nominations early, e.g. of a node that is gone."""
        names = list(nodes)
        if names:
            with translated("nominations"):
                await self._redis.zrem(self._key, *names)

"""Token buckets for calls to the cloud, shared by all replicas: they take from one bucket and slow down together.

A bucket is a hash {tokens, at, pace} that fills by Redis' own clock, so the replicas' clocks don't matter. A token is
taken only where there is one; who has to wait is told how long and asks again, so that a replica that dies leaves no
debt behind. A bucket that this server does not know counts as full only as far as it can have filled since the server
started: what was spent before, nobody remembers. Neighbours: `adapters/ec2/budget`, which knows the limits and what to
do while Redis is away.
"""

from typing import Final

from redis.asyncio import Redis

from nodeyard.adapters.redis.connection import translated

_TAKE: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local burst, per_ms = tonumber(ARGV[1]), tonumber(ARGV[2]) / 1000
local kept = redis.call('HMGET', KEYS[1], 'tokens', 'at', 'pace')
local tokens, at = tonumber(kept[1] or 0), tonumber(kept[2] or 0)
local pace = tonumber(kept[3] or 1)
if not kept[2] then
  local info = redis.pcall('INFO', 'server')
  local up_s = type(info) == 'string' and tonumber(string.match(info, 'uptime_in_seconds:(%d+)')) or 0
  at = now - up_s * 1000
end
tokens = math.min(burst, tokens + math.max(0, now - at) * per_ms * pace)
local wait_ms = 0
if tokens >= 1 then tokens = tokens - 1 else wait_ms = math.ceil((1 - tokens) / (per_ms * pace)) end
redis.call('HSET', KEYS[1], 'tokens', string.format('%.4f', tokens), 'at', string.format('%d', now), 'pace', pace)
redis.call('PEXPIRE', KEYS[1], math.ceil(math.max(tonumber(ARGV[3]), 2 * burst / (per_ms * pace))))
return {wait_ms, string.format('%.4f', pace)}
"""
_THROTTLED: Final = """
local kept = redis.call('HMGET', KEYS[1], 'tokens', 'pace')
if not kept[1] then return 0 end
local pace = math.max(tonumber(ARGV[1]), tonumber(kept[2] or 1) * 2 / 3)
redis.call('HSET', KEYS[1], 'tokens', math.min(0, tonumber(kept[1])), 'pace', pace)
return 1
"""
_SUCCEEDED: Final = """
local pace = tonumber(redis.call('HGET', KEYS[1], 'pace') or 1)
if pace < 1 then redis.call('HSET', KEYS[1], 'pace', math.min(1, pace + 0.1)) end
return 1
"""
_SLOWEST: Final = 0.2
_KEPT_MS: Final = 600_000
"""An action that nobody called for so long is as if it had never been throttled."""


class CallBuckets:
    """The buckets of one cluster, by action ("CreateFleet"). Every method raises RedisUnavailableError."""

    def __init__(self, redis: Redis, prefix: str) -> None:
        self._prefix = f"{prefix}calls:"
        self._take = redis.register_script(_TAKE)
        self._throttled = redis.register_script(_THROTTLED)
        self._succeeded = redis.register_script(_SUCCEEDED)

    async def take(self, action: str, burst: float, per_second: float) -> tuple[float, float]:
        """(0, pace) with a token taken, or (seconds until there may be one, pace). The bucket holds `burst` tokens and
        gets pace times `per_second` of them.
        """
        with translated("call budget"):
            wait_ms, pace = await self._take([self._prefix + action], [burst, per_second, _KEPT_MS])
        return int(wait_ms) / 1000, float(pace)

    async def throttled(self, action: str) -> None:
        """The cloud refused a call: the bucket is empty and fills by a third more slowly, down to a fifth."""
        with translated("call budget"):
            await self._throttled([self._prefix + action], [_SLOWEST])

    async def succeeded(self, action: str) -> None:
        """A call went through: the bucket fills faster by a tenth of its rate, up to all of it."""
        with translated("call budget"):
            await self._succeeded([self._prefix + action], [])

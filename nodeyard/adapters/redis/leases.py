"""Leases with growing epochs, kept by three short Lua scripts.

A lease is a hash {holder, epoch, settled} that expires; beside it `epoch:<name>` remembers the last epoch and which
server gave it out. A grant is unsettled where that memory is missing, older than the caller's floor, or another
server's (a restart, a restored dump, a failover): somebody may still trust a lease that this server does not know.
What follows from that is `nodeyard.runtime.leadership`'s business; leases of single nodes need not care, because
node changes carry a resourceVersion.
"""

from typing import Final

from redis.asyncio import Redis

from nodeyard.adapters.redis.connection import translated
from nodeyard.runtime.leadership import Grant

_REMEMBER_EPOCH_MS: Final = 7 * 24 * 3600 * 1000

_GRANT: Final = """
local held = redis.call('HMGET', KEYS[1], 'holder', 'settled')
if held[1] and held[1] ~= ARGV[1] then return {0, 0} end
local last = redis.call('HMGET', KEYS[2], 'epoch', 'server')
local info = redis.pcall('INFO', 'server')
local server = type(info) == 'string' and string.match(info, 'run_id:(%x+)') or ''
local known, floor = tonumber(last[1] or 0), tonumber(ARGV[3])
local settled = 1
if not last[1] or known < floor or last[2] ~= server or held[2] == '0' then settled = 0 end
local epoch = math.max(known, floor) + 1
redis.call('HSET', KEYS[2], 'epoch', epoch, 'server', server)
redis.call('PEXPIRE', KEYS[2], ARGV[4])
redis.call('HSET', KEYS[1], 'holder', ARGV[1], 'epoch', epoch, 'settled', settled)
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return {epoch, settled}
"""
_RENEW: Final = """
local held = redis.call('HMGET', KEYS[1], 'holder', 'epoch')
if held[1] ~= ARGV[1] or held[2] ~= ARGV[2] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[3])
"""
_RELEASE: Final = """
local held = redis.call('HMGET', KEYS[1], 'holder', 'epoch')
if held[1] ~= ARGV[1] or held[2] ~= ARGV[2] then return 0 end
return redis.call('DEL', KEYS[1])
"""


class RedisLeases:
    """All leases under one prefix. Every method raises RedisUnavailableError."""

    def __init__(self, redis: Redis, prefix: str) -> None:
        self._redis = redis
        self._prefix = prefix
        self._grant = redis.register_script(_GRANT)
        self._renew = redis.register_script(_RENEW)
        self._release = redis.register_script(_RELEASE)

    async def grant(self, name: str, holder: str, ttl_s: float, floor: int) -> Grant | None:
        """The lease `name` for `ttl_s` seconds with a new epoch above `floor`; None while another holds it.

        A holder that asks again gets a new epoch.
        """
        keys = [f"{self._prefix}lease:{name}", f"{self._prefix}epoch:{name}"]
        with translated(f"lease {name}"):
            epoch, settled = await self._grant(keys, [holder, _ms(ttl_s), floor, _REMEMBER_EPOCH_MS])
        return Grant(int(epoch), bool(settled)) if epoch else None

    async def acquire(self, name: str, holder: str, ttl_s: float, floor: int = 0) -> int | None:
        """Like `grant` where it does not matter what a forgetful server gave out before; the epoch or None."""
        grant = await self.grant(name, holder, ttl_s, floor)
        return grant.epoch if grant is not None else None

    async def renew(self, name: str, holder: str, epoch: int, ttl_s: float) -> bool:
        """Whether the lease was still this holder's in this epoch and now lasts `ttl_s` seconds more."""
        with translated(f"lease {name}"):
            return bool(await self._renew([f"{self._prefix}lease:{name}"], [holder, epoch, _ms(ttl_s)]))

    async def release(self, name: str, holder: str, epoch: int) -> None:
        """Gives the lease back if it is still this holder's in this epoch."""
        with translated(f"lease {name}"):
            await self._release([f"{self._prefix}lease:{name}"], [holder, epoch])

    async def check(self, name: str, epoch: int) -> bool:
        """Whether the lease is held in this epoch now."""
        with translated(f"lease {name}"):
            held = await self._redis.hget(f"{self._prefix}lease:{name}", "epoch")
        return held is not None and int(held) == epoch


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))

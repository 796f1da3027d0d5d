"""A world for leadership: several processes, a real Redis whose time is ours, and a Kubernetes Lease in memory.

Redis' own expiry is put off for an hour and done by us when the fake clock passes it, so that pauses of any length
cost nothing and still end leases exactly then. Dials: the store away, a reply lost, everything flushed, an old dump
restored by another server.
"""

from collections.abc import Awaitable, Callable
from typing import Any, cast

from redis.asyncio import Redis

from nodeyard.adapters.redis.leases import RedisLeases
from nodeyard.runtime.leadership import Grant, Leadership, StoreUnavailableError
from tests.support.clock import FakeClock

TTL_S = 5.0
NAME = "planning/all"
_LONG_S = 3600.0


class LeaseWorld:
    """`epochs` is the Kubernetes side; `members` compete."""

    def __init__(self, redis: Redis, size: int = 3) -> None:
        self.clock = FakeClock()
        self.redis = redis
        self.leases = RedisLeases(redis, "t:")
        self.epochs = EpochsInMemory()
        self.away = False
        self.lose_reply = False
        self._expires: dict[str, float] = {}
        self._dump: tuple[dict[str, dict[Any, Any]], dict[str, float]] | None = None
        self._born = 0
        self.members = [self._member() for _ in range(size)]

    def _member(self) -> Leadership:
        self._born += 1
        return Leadership(self, self.epochs, NAME, f"process-{self._born}", TTL_S, self.clock)

    # --- the lease store, as members see it ----------------------------------------------------------------------
    async def grant(self, name: str, holder: str, ttl_s: float, floor: int) -> Grant | None:
        asked = self.leases.grant(name, holder, _LONG_S, floor)
        return cast(Grant | None, await self._served(name, ttl_s, asked))

    async def renew(self, name: str, holder: str, epoch: int, ttl_s: float) -> bool:
        return bool(await self._served(name, ttl_s, self.leases.renew(name, holder, epoch, _LONG_S)))

    async def release(self, name: str, holder: str, epoch: int) -> None:
        await self._served(name, 0.0, self.leases.release(name, holder, epoch))

    async def _served(self, name: str, ttl_s: float, asked: Awaitable[Any]) -> Any:
        if self.away:
            asked.close()  # type: ignore[attr-defined]
            raise StoreUnavailableError("Redis is away")
        answer = await asked
        if answer and ttl_s:
            self._expires[name] = self.clock.monotonic() + ttl_s
        if self.lose_reply:
            self.lose_reply = False
            raise StoreUnavailableError("the reply was lost")
        return answer

    # --- what happens to it --------------------------------------------------------------------------------------
    async def pass_time(self, seconds: float) -> None:
        """Time passes for everybody, whether or not they get to run."""
        self.clock.skip(seconds)
        for name, at in list(self._expires.items()):
            if at <= self.clock.monotonic():
                await self.redis.delete(f"t:lease:{name}")
                del self._expires[name]

    async def flush(self) -> None:
        await self.redis.flushall()
        self._expires.clear()

    async def remember(self) -> None:
        """What a dump or a replica would hold."""
        keys: dict[str, dict[Any, Any]] = {}
        for key in cast(list[bytes], await self.redis.keys("*")):
            keys[key.decode()] = await self.redis.hgetall(key)
        self._dump = (keys, dict(self._expires))

    async def fail_over(self) -> None:
        """Another server takes over with what was remembered, leases expiring when they would have."""
        if self._dump is None:
            return
        keys, expires = self._dump
        await self.flush()
        for key, fields in keys.items():
            taken = {**fields, b"server": b"another"} if b"server" in fields else fields
            await self.redis.hset(key, mapping=taken)
        self._expires = dict(expires)
        await self.pass_time(0.0)

    async def crash(self, index: int) -> None:
        """The process dies and another starts in its place."""
        self.members[index] = self._member()

    def holders(self) -> list[Leadership]:
        return [member for member in self.members if member.epoch is not None]


class EpochsInMemory:
    """An EpochStore with the API server's semantics; `before_write` runs between a read and its write."""

    def __init__(self) -> None:
        self.epoch = 0
        self.away = False
        self.before_write: Callable[[], Awaitable[None]] | None = None

    async def read(self, name: str) -> int:
        if self.away:
            raise StoreUnavailableError("the API server is away")
        return self.epoch

    async def advance(self, name: str, epoch: int, *, holder: str = "") -> bool:
        if self.away:
            raise StoreUnavailableError("the API server is away")
        read = self.epoch
        before, self.before_write = self.before_write, None
        if before is not None:
            await before()
        if self.epoch != read or epoch <= self.epoch:
            return False
        self.epoch = epoch
        return True

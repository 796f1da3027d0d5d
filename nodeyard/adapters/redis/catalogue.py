"""The pricing replicas' shared memory: the last types and prices, and what the cloud refused to sell.

A hash with one compressed part per source makes a restart warm; a sorted set of refusals by when they end, in Redis'
own time; a channel on which replicas hear of each other's news; a short claim so that one replica at a time asks AWS.
All of it may vanish: nothing is lost but warmth. What can't be decoded counts as absent, since another version of us
may have written it.
"""

import zlib
from collections.abc import AsyncIterator, Iterable
from typing import Final, Literal, TypeVar

import msgspec
from redis.asyncio import Redis

from nodeyard.adapters.redis.connection import translated
from nodeyard.api.selectors import Value
from nodeyard.cloudprovider.description import TypeDescription
from nodeyard.cloudprovider.market import PriceSheet, TypeTable, Zone
from nodeyard.cloudprovider.refusals import Refusal

Part = Literal["types", "on-demand", "spot"]
News = Literal["types", "on-demand", "spot", "refusals"]
TYPES: Final = "types"
REFUSALS: Final = "refusals"
_PARTS: Final = ("types", "on-demand", "spot")
_LISTEN_S: Final = 0.8
"""Shorter than the connection's own timeout."""

_REMEMBER: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
for i = 2, #ARGV do redis.call('ZADD', KEYS[1], 'GT', now + ARGV[1], ARGV[i]) end
redis.call('PEXPIRE', KEYS[1], math.max(ARGV[1], redis.call('PTTL', KEYS[1])))
redis.call('PUBLISH', KEYS[2], 'refusals')
return 1
"""
_RECALL: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local found = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. string.format('%d', now), '+inf', 'WITHSCORES')
for i = 2, #found, 2 do found[i] = tonumber(found[i]) - now end
return found
"""
_RELEASE: Final = (
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"
)


class _StoredTypes(Value, frozen=True):
    region: str
    asked_at: float
    zones: tuple[Zone, ...] = ()
    types: tuple[TypeDescription, ...] = ()


class _StoredSheet(Value, frozen=True):
    region: str
    sheet: PriceSheet


S = TypeVar("S")


class CatalogueStore:
    """The memory of one cluster's pricing replicas, for one region. Every method raises RedisUnavailableError."""

    def __init__(self, redis: Redis, prefix: str, region: str) -> None:
        self._redis = redis
        self._region = region
        self._parts = f"{prefix}catalogue"
        self._refusals = f"{prefix}refusals"
        self._claim = f"{prefix}catalogue-claim:"
        self._channel = f"{prefix}catalogue-news"
        self._remember = redis.register_script(_REMEMBER)
        self._recall = redis.register_script(_RECALL)
        self._release = redis.register_script(_RELEASE)

    async def types(self) -> tuple[TypeTable, float] | None:
        """The last table and when it was read (Unix seconds)."""
        stored = await self._load("types", _StoredTypes)
        if stored is None or stored.region != self._region:
            return None
        return TypeTable(stored.region, stored.zones, stored.types), stored.asked_at

    async def sheet(self, part: Part) -> PriceSheet | None:
        """The last prices of a part."""
        stored = await self._load(part, _StoredSheet)
        return stored.sheet if stored is not None and stored.region == self._region else None

    async def save_types(self, table: TypeTable, asked_at: float) -> None:
        """Keeps the table and tells the other replicas."""
        await self._save("types", _StoredTypes(table.region, asked_at, table.zones, table.types))

    async def save_sheet(self, part: Part, sheet: PriceSheet) -> None:
        """Keeps the prices and tells the other replicas."""
        await self._save(part, _StoredSheet(self._region, sheet))

    async def claim(self, part: Part, holder: str, ttl_s: float) -> bool:
        """Whether `holder` may ask AWS for the part now; nobody else may until it releases or `ttl_s` has passed."""
        with translated("catalogue"):
            key = self._claim + part
            return bool(await self._redis.set(key, holder, nx=True, px=round(ttl_s * 1000)))

    async def release(self, part: Part, holder: str) -> None:
        """Ends `holder`'s claim, not another's."""
        with translated("catalogue"):
            await self._release([self._claim + part], [holder])

    async def remember(self, refusals: Iterable[Refusal], ttl_s: float) -> None:
        """Keeps refusals for `ttl_s` from now (never shortened) and tells the other replicas."""
        members = [_encode_refusal(refusal) for refusal in refusals]
        if members:
            with translated("refusals"):
                await self._remember([self._refusals, self._channel], [round(ttl_s * 1000), *members])

    async def refusals(self) -> list[tuple[Refusal, float]]:
        """Refusals in force and the seconds each has left."""
        with translated("refusals"):
            found = await self._recall([self._refusals], [])
        pairs = zip(found[::2], found[1::2], strict=True)
        return [(refusal, int(left) / 1000) for raw, left in pairs if (refusal := _decode_refusal(raw))]

    async def news(self) -> AsyncIterator[News | None]:
        """What other replicas (or this one) changed, as it happens. None once at first, when listening has begun."""
        with translated("catalogue"):
            async with self._redis.pubsub() as listener:
                await listener.subscribe(self._channel)
                yield None
                while True:
                    message = await listener.get_message(ignore_subscribe_messages=True, timeout=_LISTEN_S)
                    if message is None:
                        continue
                    name = message["data"].decode(errors="replace")
                    if name in (*_PARTS, REFUSALS):
                        yield name

    async def _load(self, part: str, kind: type[S]) -> S | None:
        with translated("catalogue"):
            raw = await self._redis.hget(self._parts, part)
        if raw is None:
            return None
        try:
            return msgspec.msgpack.decode(zlib.decompress(raw), type=kind)  # type: ignore[arg-type]
        except (zlib.error, msgspec.MsgspecError):
            return None

    async def _save(self, part: Part, value: Value) -> None:
        raw = zlib.compress(msgspec.msgpack.encode(value), 3)
        with translated("catalogue"):
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.hset(self._parts, part, raw)
                pipe.publish(self._channel, part)
                await pipe.execute()


def _encode_refusal(refusal: Refusal) -> bytes:
    return msgspec.json.encode(refusal)


def _decode_refusal(raw: bytes) -> Refusal | None:
    try:
        return msgspec.json.decode(raw, type=Refusal)
    except msgspec.MsgspecError:
        return None

"""The pricing replicas' shared memory: the last types and prices, and what the cloud refused to sell.

A hash with one compressed part per source makes a restart warm; a hash of refusals with their times by Redis' own
clock, of which the later one counts; another of the memory that real nodes have shown; a channel on which replicas hear of each other's news; a short claim so that one replica at a time asks AWS.
All of it may vanish: nothing is lost but warmth. What can't be decoded counts as absent, since another version of us
may have written it.
"""

from collections.abc import AsyncIterator, Iterable
from typing import Final, Literal

import msgspec
from redis.asyncio import Redis

from nodeyard.adapters.redis.connection import translated
from nodeyard.cloudprovider.learned import KEPT_S, LearnedMemory
from nodeyard.cloudprovider.market import PriceSheet, TypeTable
from nodeyard.cloudprovider.refusals import Refusal
from nodeyard.cloudprovider.reservations import ReservationSheet
from nodeyard.cloudprovider.scarcity import Standing
from nodeyard.cloudprovider.stored import (
    packed_reservations,
    packed_sheet,
    packed_types,
    reservations_in,
    sheet_in,
    types_in,
)

Part = Literal["types", "on-demand", "spot", "reservations"]
News = Literal["types", "on-demand", "spot", "reservations", "refusals", "learned"]
TYPES: Final = "types"
REFUSALS: Final = "refusals"
LEARNED: Final = "learned"
RESERVATIONS: Final = "reservations"
_PARTS: Final = ("types", "on-demand", "spot", RESERVATIONS)
_LISTEN_S: Final = 0.8
"""Shorter than the connection's own timeout."""

_REMEMBER: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local longest = math.max(1, redis.call('PTTL', KEYS[1]))
for i = 1, #ARGV, 6 do
  local at, out, gone = now - ARGV[i + 1], now + ARGV[i + 2], now + ARGV[i + 3]
  local known = redis.call('HGET', KEYS[1], ARGV[i])
  local known_at, known_out = string.match(known or '', '^(%d+) (%d+) ')
  if known_out then out = math.max(out, known_out) end
  if not known_at or at >= tonumber(known_at) then
    local times = string.format('%d %d %d ', at, out, gone)
    redis.call('HSET', KEYS[1], ARGV[i], times .. ARGV[i + 4] .. ' ' .. ARGV[i + 5])
    longest = math.max(longest, gone - now)
  end
end
redis.call('PEXPIRE', KEYS[1], longest)
redis.call('PUBLISH', KEYS[2], 'refusals')
return 1
"""
"""Per refusal: field, milliseconds since it was refused, until it is let back, until it is forgotten, strikes, JSON."""
_RECALL: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local found = redis.call('HGETALL', KEYS[1])
local told = {}
for i = 1, #found, 2 do
  local at, out, gone, strikes, body = string.match(found[i + 1], '^(%d+) (%d+) (%d+) (%d+) (.*)$')
  if not gone or tonumber(gone) <= now then
    redis.call('HDEL', KEYS[1], found[i])
  else
    for _, value in ipairs({now - at, out - now, tonumber(strikes), body}) do told[#told + 1] = value end
  end
end
return told
"""
_LEARN: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local news = 0
for i = 2, #ARGV, 3 do
  local at, bytes = now - ARGV[i + 1], tonumber(ARGV[i + 2])
  local known = redis.call('HGET', KEYS[1], ARGV[i])
  local known_at, known_bytes = string.match(known or '', '^(%d+) (%d+)$')
  if known_at and now - known_at <= tonumber(ARGV[1]) then
    at = math.max(at, tonumber(known_at))
    if bytes >= tonumber(known_bytes) then bytes = tonumber(known_bytes) else news = 1 end
  else
    news = 1
  end
  redis.call('HSET', KEYS[1], ARGV[i], string.format('%d %d', at, bytes))
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
if news == 1 then redis.call('PUBLISH', KEYS[2], 'learned') end
return news
"""
"""How long it is kept in milliseconds; per figure: field, milliseconds since it was seen, bytes."""
_RELEASE: Final = (
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"
)


class CatalogueStore:
    """The memory of one cluster's pricing replicas, for one region. Every method raises RedisUnavailableError."""

    def __init__(self, redis: Redis, prefix: str, region: str) -> None:
        self._redis = redis
        self._region = region
        self._parts = f"{prefix}catalogue"
        self._refusals = f"{prefix}refused"
        self._learned = f"{prefix}learned"
        self._claim = f"{prefix}catalogue-claim:"
        self._channel = f"{prefix}catalogue-news"
        self._remember = redis.register_script(_REMEMBER)
        self._recall = redis.register_script(_RECALL)
        self._learn = redis.register_script(_LEARN)
        self._release = redis.register_script(_RELEASE)

    async def types(self) -> tuple[TypeTable, float] | None:
        """The last table and when it was read (Unix seconds)."""
        return types_in(await self._load("types"), self._region)

    async def sheet(self, part: Part) -> PriceSheet | None:
        """The last prices of a part."""
        return sheet_in(await self._load(part), self._region)

    async def reservations(self) -> ReservationSheet | None:
        """The reservations as last counted."""
        return reservations_in(await self._load(RESERVATIONS), self._region)

    async def save_reservations(self, sheet: ReservationSheet) -> None:
        """Keeps the reservations and tells the other replicas."""
        await self._save(RESERVATIONS, packed_reservations(self._region, sheet))

    async def save_types(self, table: TypeTable, asked_at: float) -> None:
        """Keeps the table and tells the other replicas."""
        await self._save("types", packed_types(table, asked_at))

    async def save_sheet(self, part: Part, sheet: PriceSheet) -> None:
        """Keeps the prices and tells the other replicas."""
        await self._save(part, packed_sheet(self._region, sheet))

    async def claim(self, part: Part, holder: str, ttl_s: float) -> bool:
        """Whether `holder` may ask AWS for the part now; nobody else may until it releases or `ttl_s` has passed."""
        with translated("catalogue"):
            key = self._claim + part
            return bool(await self._redis.set(key, holder, nx=True, px=round(ttl_s * 1000)))

    async def release(self, part: Part, holder: str) -> None:
        """Ends `holder`'s claim, not another's."""
        with translated("catalogue"):
            await self._release([self._claim + part], [holder])

    async def remember(self, standings: Iterable[Standing], now: float) -> None:
        """Keeps refusals until they are forgotten and tells the other replicas; a later one is not overwritten.

        `now`: Unix seconds by the clock that the standings' times are of.
        """
        told: list[int | bytes] = []
        for s in standings:
            key = msgspec.json.encode(s.refusal.key)
            times = (now - s.at, s.until - now, s.forgotten_at - now)
            told += [key, *(round(t * 1000) for t in times), s.strikes, msgspec.json.encode(s.refusal)]
        if told:
            with translated("refusals"):
                await self._remember([self._refusals, self._channel], told)

    async def refusals(self, now: float) -> list[Standing]:
        """What is remembered, its times turned to the clock that `now` (Unix seconds) is of."""
        with translated("refusals"):
            found = await self._recall([self._refusals], [])
        out: list[Standing] = []
        for since_ms, left_ms, strikes, raw in zip(*[iter(found)] * 4, strict=True):
            refusal = _decode_refusal(raw)
            if refusal is not None:
                out.append(Standing(refusal, strikes, now - since_ms / 1000, now + left_ms / 1000))
        return out

    async def learn(self, seen: Iterable[LearnedMemory], now: float) -> None:
        """Keeps what nodes turned out to have; of two figures the smaller. Tells the other replicas what is new."""
        told: list[int | bytes] = []
        for one in seen:
            told += [msgspec.json.encode(one.key), round((now - one.at) * 1000), one.memory_bytes]
        if told:
            with translated("learned capacity"):
                await self._learn([self._learned, self._channel], [round(KEPT_S * 1000), *told])

    async def learned(self, now: float) -> list[LearnedMemory]:
        """What nodes turned out to have, its times turned to the clock that `now` (Unix seconds) is of."""
        with translated("learned capacity"):
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.time()
                pipe.hgetall(self._learned)
                (seconds, micros), found = await pipe.execute()
        theirs = seconds + micros / 1e6
        out: list[LearnedMemory] = []
        for field, value in found.items():
            try:
                key = msgspec.json.decode(field, type=tuple[str, str, str])
                at_ms, memory = map(int, value.split())
            except (msgspec.MsgspecError, ValueError):
                continue
            seen_at = now - (theirs - at_ms / 1000)
            if now - seen_at <= KEPT_S:
                out.append(LearnedMemory(*key, memory, seen_at))
        return out

    async def news(self) -> AsyncIterator[News | None]:
        """What other replicas (or this one) changed, as it happens.

        None when listening has begun, and again when the client had to connect anew: something may have been missed.
        """
        with translated("catalogue"):
            async with self._redis.pubsub() as listener:
                await listener.subscribe(self._channel)
                while True:
                    message = await listener.get_message(timeout=_LISTEN_S)
                    if message is None:
                        continue
                    if message["type"] == "subscribe":
                        yield None
                        continue
                    name = message["data"].decode(errors="replace")
                    if name in (*_PARTS, REFUSALS, LEARNED):
                        yield name

    async def _load(self, part: str) -> bytes | None:
        with translated("catalogue"):
            raw = await self._redis.hget(self._parts, part)
        return raw if isinstance(raw, bytes) else None

    async def _save(self, part: Part, raw: bytes) -> None:
        with translated("catalogue"):
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.hset(self._parts, part, raw)
                pipe.publish(self._channel, part)
                await pipe.execute()


def _decode_refusal(raw: bytes) -> Refusal | None:
    try:
        return msgspec.json.decode(raw, type=Refusal)
    except msgspec.MsgspecError:
        return None

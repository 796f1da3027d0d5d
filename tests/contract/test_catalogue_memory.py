"""What pricing expects of its shared memory, held by Redis and by the fake that the unit tests use."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from redis.asyncio import Redis

from nodeyard.adapters.redis.catalogue import CatalogueStore
from nodeyard.adapters.redis.connection import connect, key_prefix
from nodeyard.cloudprovider.learned import KEPT_S, LearnedMemory
from nodeyard.cloudprovider.refusals import Refusal
from nodeyard.cloudprovider.reservations import CapacityReservation, ReservationSheet
from nodeyard.cloudprovider.scarcity import Standing
from nodeyard.runtime.clock import SystemClock
from nodeyard.runtime.leadership import StoreUnavailableError
from services.pricing.ports import Memory
from tests.support.catalogue import REGION, on_demand_sheet, spot_sheet, table_of
from tests.support.pricing_fakes import FakeMemory
from tests.support.redis import TestRedis

ONE = Refusal("m5.large", "eu-west-1a", "spot", "InsufficientInstanceCapacity")
TWO = Refusal(subnet="subnet-1", code="InsufficientFreeAddressesInSubnet")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TestRedis]:
    with TestRedis(tmp_path_factory.mktemp("redis")) as running:
        yield running  # type: ignore[misc]


@pytest.fixture
async def redis(server: TestRedis) -> AsyncIterator[Redis]:
    client = connect(server.url)
    await client.flushall()
    yield client
    await client.aclose()


@pytest.fixture(params=["redis", "fake"])
def memory(request: pytest.FixtureRequest, redis: Redis) -> Memory:
    if request.param == "fake":
        return FakeMemory(SystemClock())
    return CatalogueStore(redis, key_prefix("test"), REGION)


async def test_an_empty_memory_holds_nothing(memory: Memory) -> None:
    assert await memory.types() is None
    assert await memory.sheet("spot") is None
    assert await memory.refusals(0.0) == []


async def test_what_is_saved_is_read_back(memory: Memory) -> None:
    table = table_of()
    await memory.save_types(table, 5.0)
    await memory.save_sheet("spot", spot_sheet(table, 6.0))
    await memory.save_sheet("on-demand", on_demand_sheet(table, 7.0))
    kept = await memory.types()
    assert kept is not None
    assert (kept[0].digest, kept[1]) == (table.digest, 5.0)
    assert await memory.sheet("spot") == spot_sheet(table, 6.0)
    assert await memory.sheet("on-demand") == on_demand_sheet(table, 7.0)
    counted = ReservationSheet(8.0, (CapacityReservation("cr-1", "m5.large", "eu-west-1a", 3, 2),))
    assert await memory.reservations() is None
    await memory.save_reservations(counted)
    assert await memory.reservations() == counted


def standing(refusal: Refusal, at: float, lasts_s: float, strikes: int = 1) -> Standing:
    return Standing(refusal, strikes, at, at + lasts_s)


async def test_refusals_are_kept_with_their_times_and_strikes(memory: Memory) -> None:
    now = time.time()
    await memory.remember([standing(ONE, now, 60.0, 3), standing(TWO, now - 5.0, 5.0)], now)
    one, two = sorted(await memory.refusals(now), key=lambda s: s.refusal.key, reverse=True)
    assert (one.refusal, one.strikes) == (ONE, 3)
    assert one.until == pytest.approx(now + 60.0, abs=1.0)
    assert two.refusal == TWO
    assert [two.at, two.until] == pytest.approx([now - 5.0, now], abs=1.0)


async def test_the_later_refusal_counts_and_no_time_is_shortened(memory: Memory) -> None:
    now = time.time()
    await memory.remember([standing(ONE, now - 10.0, 60.0, 2)], now)
    await memory.remember([standing(ONE, now, 5.0, 3)], now)
    await memory.remember([standing(ONE, now - 5.0, 5.0, 7)], now)
    (kept,) = await memory.refusals(now)
    assert kept.strikes == 3
    assert kept.until == pytest.approx(now + 50.0, abs=1.0)


async def test_refusals_are_forgotten_when_they_say_so(memory: Memory) -> None:
    now = time.time()
    await memory.remember([standing(ONE, now - 3700.0, 99.9)], now)
    await memory.remember([standing(TWO, now, 60.0)], now)
    await asyncio.sleep(0.1)
    assert [s.refusal for s in await memory.refusals(time.time())] == [TWO]


SEEN = LearnedMemory("m5.large", "ami-1", "settings", 7 << 30)


async def test_of_two_figures_of_a_kind_the_smaller_is_kept_with_the_later_time(memory: Memory) -> None:
    now = time.time()
    await memory.learn(
        [replace(SEEN, at=now - 50.0, memory_bytes=6 << 30), replace(SEEN, at=now, image="2")], now
    )
    await memory.learn([replace(SEEN, at=now - 10.0)], now)
    one, two = sorted(await memory.learned(now), key=lambda seen: seen.key)
    assert (one.image, one.memory_bytes, two.image, two.memory_bytes) == ("2", 7 << 30, "ami-1", 6 << 30)
    assert two.at == pytest.approx(now - 10.0, abs=1.0)


async def test_what_was_not_seen_for_sixty_days_is_not_known_any_more(memory: Memory) -> None:
    now = time.time()
    await memory.learn([replace(SEEN, at=now - KEPT_S - 5.0, memory_bytes=6 << 30)], now)
    assert await memory.learned(now) == []
    await memory.learn([replace(SEEN, at=now)], now)
    assert [seen.memory_bytes for seen in await memory.learned(now)] == [7 << 30]


async def test_one_claims_at_a_time_and_only_the_holder_releases(memory: Memory) -> None:
    assert await memory.claim("spot", "one", 60.0)
    assert not await memory.claim("spot", "two", 60.0)
    assert await memory.claim("types", "two", 60.0)
    await memory.release("spot", "two")
    assert not await memory.claim("spot", "two", 60.0)
    await memory.release("spot", "one")
    assert await memory.claim("spot", "two", 60.0)


async def test_a_claim_ends_by_itself(memory: Memory) -> None:
    assert await memory.claim("spot", "one", 0.05)
    await asyncio.sleep(0.1)
    assert await memory.claim("spot", "two", 60.0)


async def test_listeners_hear_what_changed_in_order(memory: Memory) -> None:
    news = memory.news()
    assert await anext(news) is None
    await memory.save_types(table_of(), 1.0)
    await memory.save_sheet("spot", spot_sheet(table_of()))
    await memory.remember([standing(ONE, 0.0, 60.0)], 0.0)
    await memory.learn([SEEN, SEEN], 0.0)
    async with asyncio.timeout(60):
        assert [await anext(news) for _ in range(4)] == ["types", "spot", "refusals", "learned"]
    await news.aclose()  # type: ignore[attr-defined]


# -- Redis alone


async def test_another_region_s_catalogue_is_not_taken_for_ours(redis: Redis) -> None:
    ours = CatalogueStore(redis, "p:", REGION)
    await ours.save_types(table_of(), 1.0)
    await ours.save_sheet("spot", spot_sheet(table_of()))
    elsewhere = CatalogueStore(redis, "p:", "us-east-1")
    assert await elsewhere.types() is None
    assert await elsewhere.sheet("spot") is None


@pytest.mark.parametrize("content", [b"", b"nonsense", b"x\x9c\x03\x00\x00\x00\x00\x01"])
async def test_what_cannot_be_decoded_counts_as_absent(redis: Redis, content: bytes) -> None:
    for part in ("types", "spot"):
        await redis.hset("p:catalogue", part, content)  # type: ignore[misc]
    store = CatalogueStore(redis, "p:", REGION)
    assert await store.types() is None
    assert await store.sheet("spot") is None
    await redis.hset("p:refused", "x", b"{")  # type: ignore[misc]
    await redis.hset("p:refused", "y", b"1 2 9999999999999 1 {")  # type: ignore[misc]
    assert await store.refusals(0.0) == []
    await redis.hset("p:learned", mapping={"x": b"1 2", '["a","b","c"]': b"x"})
    assert await store.learned(0.0) == []


async def test_the_refusals_expire_with_the_last_to_be_forgotten(redis: Redis) -> None:
    store = CatalogueStore(redis, "p:", REGION)
    await store.remember([standing(ONE, 0.0, 60.0)], 0.0)
    await store.remember([standing(TWO, 0.0, 5.0)], 0.0)
    assert 3655.0 < await redis.pttl("p:refused") / 1000 <= 3660.0


async def test_a_listener_whose_redis_was_replaced_is_told_to_look_again(tmp_path: Path) -> None:
    with TestRedis(tmp_path) as server:
        client = connect(server.url)
        store = CatalogueStore(client, "p:", REGION)
        news = store.news()
        assert await anext(news) is None
        looking = asyncio.ensure_future(anext(news))
        await asyncio.sleep(0)
        server.stop()
        server.start()
        async with asyncio.timeout(60):
            try:
                assert await looking is None
            except StoreUnavailableError:
                assert await anext(store.news()) is None
        await news.aclose()  # type: ignore[attr-defined]
        await client.aclose()


async def test_an_absent_redis_is_one_kind_of_error(tmp_path: Path) -> None:
    with TestRedis(tmp_path) as server:
        client = connect(server.url)
        store = CatalogueStore(client, "p:", REGION)
        await store.refusals(0.0)
    for asked in (
        store.types(),
        store.refusals(0.0),
        store.claim("spot", "x", 1.0),
        store.remember([standing(ONE, 0.0, 1.0)], 0.0),
    ):
        with pytest.raises(StoreUnavailableError):
            await asked
    with pytest.raises(StoreUnavailableError):
        await anext(store.news())
    await client.aclose()

"""Leadership on a real Redis: taken, kept, lost, given back, and taken up again after Redis was gone."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from nodeyard.adapters.redis.connection import RedisUnavailableError, connect
from nodeyard.adapters.redis.leases import RedisLeases
from nodeyard.runtime.clock import SystemClock
from nodeyard.runtime.leadership import Leadership
from tests.support.leases import TTL_S, EpochsInMemory, LeaseWorld
from tests.support.redis import TestRedis


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TestRedis]:
    with TestRedis(tmp_path, password="sesame") as running:
        yield running


@pytest.fixture
async def redis(server: TestRedis) -> AsyncIterator[Redis]:
    client = connect(server.url)
    yield client
    await client.aclose()


async def test_a_lease_is_granted_once_renewed_checked_and_released(redis: Redis) -> None:
    leases = RedisLeases(redis, "p:")
    assert await leases.acquire("node/a", "me", 5.0) == 1
    assert await leases.acquire("node/a", "you", 5.0) is None
    assert await leases.renew("node/a", "me", 1, 5.0)
    assert not await leases.renew("node/a", "you", 1, 5.0)
    assert not await leases.renew("node/a", "me", 2, 5.0)
    assert await leases.check("node/a", 1)
    assert not await leases.check("node/a", 2)
    await leases.release("node/a", "you", 1)
    assert await leases.check("node/a", 1)
    await leases.release("node/a", "me", 1)
    assert not await leases.check("node/a", 1)
    assert await leases.acquire("node/a", "you", 5.0) == 2


async def test_a_new_epoch_is_above_the_floor_and_above_all_before(redis: Redis) -> None:
    leases = RedisLeases(redis, "p:")
    assert await leases.acquire("x", "me", 5.0, floor=41) == 42
    assert await leases.acquire("x", "me", 5.0, floor=3) == 43


async def test_a_lease_expires(redis: Redis) -> None:
    leases = RedisLeases(redis, "p:")
    assert await leases.acquire("x", "me", 1.0) == 1
    assert 0 < await redis.pttl("p:lease:x") <= 1000
    while await leases.acquire("x", "you", 5.0) is None:
        pass
    assert await leases.check("x", 2)


async def test_a_grant_is_unsettled_where_the_server_does_not_know_what_it_gave_out(redis: Redis) -> None:
    leases = RedisLeases(redis, "p:")
    first = await leases.grant("x", "me", 5.0, 0)
    again = await leases.grant("x", "me", 5.0, 0)
    assert first is not None
    assert again is not None
    assert (first.settled, again.settled) == (False, False)
    await leases.release("x", "me", again.epoch)
    third = await leases.grant("x", "you", 5.0, 0)
    assert third is not None
    assert third.settled
    await leases.release("x", "you", third.epoch)
    older = await leases.grant("x", "you", 5.0, floor=third.epoch + 5)
    assert older is not None
    assert not older.settled
    await leases.release("x", "you", older.epoch)
    await redis.hset("p:epoch:x", "server", "another")
    moved = await leases.grant("x", "me", 5.0, 0)
    assert moved is not None
    assert not moved.settled


async def test_an_absent_or_refusing_redis_is_one_error_without_the_password(
    server: TestRedis, redis: Redis
) -> None:
    wrong = connect(server.url.replace("sesame", "wrong"))
    with pytest.raises(RedisUnavailableError) as refused:
        await RedisLeases(wrong, "p:").acquire("x", "me", 1.0)
    await wrong.aclose()
    server.stop()
    with pytest.raises(RedisUnavailableError) as absent:
        await RedisLeases(redis, "p:").acquire("x", "me", 1.0)
    assert "lease x" in str(absent.value)
    assert "wrong" not in str(refused.value).split(":")[0]


async def test_a_restarted_empty_redis_is_used_again_over_the_same_client(
    server: TestRedis, redis: Redis
) -> None:
    leases = RedisLeases(redis, "p:")
    assert await leases.acquire("x", "me", 5.0) == 1
    server.restart()
    assert not await leases.renew("x", "me", 1, 5.0)
    assert await leases.acquire("x", "me", 5.0, floor=1) == 2


async def test_the_holder_takes_up_again_at_once_after_redis_was_emptied(redis: Redis) -> None:
    world = LeaseWorld(redis, size=2)
    me, other = world.members
    await me.step()
    assert me.epoch == 1
    await world.flush()
    await me.step()
    assert me.epoch is None
    await me.step()
    assert me.epoch == 2
    await other.step()
    assert other.epoch is None


async def test_another_waits_until_the_old_holder_must_have_given_up_and_planning_is_back_within_5_s(
    redis: Redis,
) -> None:
    world = LeaseWorld(redis, size=2)
    me, other = world.members
    await me.step()
    await other.step()
    world.away = True
    await other.step()
    await world.pass_time(0.1)
    assert me.epoch == 1
    await world.flush()
    world.away = False
    waited, due = 0.0, 0.5
    while other.epoch is None:
        assert waited < 5.0
        assert len(world.holders()) <= 1
        await world.pass_time(0.05)
        waited += 0.05
        due -= 0.05
        if due <= 0:
            due = await other.step()
    assert me.epoch is None
    assert waited > 0.6 * TTL_S - 0.2


async def test_a_holder_stops_trusting_itself_while_redis_is_away(redis: Redis) -> None:
    world = LeaseWorld(redis, size=1)
    (me,) = world.members
    await me.step()
    world.away = True
    await world.pass_time(2.9)
    await me.step()
    assert me.epoch == 1
    assert me.problem is not None
    await world.pass_time(0.2)
    assert me.epoch is None
    world.away = False
    await me.step()
    assert (me.epoch, me.problem) == (1, None)


async def test_run_holds_tells_and_gives_back_in_real_time(redis: Redis) -> None:
    leases, epochs = RedisLeases(redis, "p:"), EpochsInMemory()
    me, other = (
        Leadership(leases, epochs, "planning/all", name, 9.0, SystemClock()) for name in ("me", "other")
    )
    async with asyncio.TaskGroup() as group:
        running = group.create_task(me.run())
        assert await asyncio.wait_for(me.wait_held(), 60) == 1
        competing = group.create_task(other.run())
        await asyncio.sleep(2.0)
        assert (me.epoch, other.epoch) == (1, None)
        running.cancel()
        assert await asyncio.wait_for(other.wait_held(), 60) == 2
        assert me.epoch is None
        assert epochs.epoch == 2
        competing.cancel()
    assert await redis.exists("p:lease:planning/all") == 0


async def test_a_loop_that_is_cancelled_while_it_asks_redis_ends(redis: Redis) -> None:
    leases = RedisLeases(redis, "p:")

    async def ask_for_ever() -> None:
        while True:
            await leases.grant("x", "me", 5.0, 0)
            await asyncio.sleep(0)

    for trial in range(40):
        asking = asyncio.create_task(ask_for_ever())
        await asyncio.sleep(0.01 + trial * 0.0001)
        asking.cancel()
        done, _ = await asyncio.wait([asking], timeout=60)
        assert asking in done

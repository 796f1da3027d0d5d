"""Calls to EC2 that all replicas keep within one bucket, held by a real Redis, and what each does without it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from nodeyard.adapters.ec2.budget import CallBudget, Limit
from nodeyard.adapters.redis.call_buckets import CallBuckets
from nodeyard.adapters.redis.connection import connect, key_prefix
from nodeyard.runtime.leadership import StoreUnavailableError
from tests.support.clock import FakeClock
from tests.support.redis import TestRedis

FLEET = "CreateFleet"
Replica = Callable[[], CallBuckets]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestRedis]:
    with TestRedis(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
async def replica(server: TestRedis) -> AsyncIterator[Replica]:
    """Makes clients of their own of one cluster's buckets, all of them new."""
    async with AsyncExitStack() as closing:
        eraser = connect(server.url)
        await eraser.flushall()
        await eraser.aclose()

        def client() -> CallBuckets:
            redis = connect(server.url)
            closing.push_async_callback(redis.aclose)
            return CallBuckets(redis, key_prefix("test"))

        yield client


class Skipping(FakeClock):
    """Sleeping is moving the clock."""

    async def sleep(self, seconds: float) -> None:
        self.skip(seconds)


def budget(shared: CallBuckets, clock: Skipping, limit: Limit, share: float = 0.5) -> CallBudget:
    return CallBudget(
        share=share, shared=shared, limits={FLEET: limit}, monotonic=clock.monotonic, sleep=clock.sleep
    )


def keeps_to_itself(one: CallBudget) -> bool:
    return one.alone


async def test_two_replicas_together_take_no_more_than_the_bucket_gives(replica: Replica) -> None:
    limit = Limit(20, 50)
    replicas = [CallBudget(shared=replica(), limits={FLEET: limit}) for _ in range(2)]
    granted = [0, 0]
    began = time.monotonic()

    async def call(number: int) -> None:
        await replicas[number].take(FLEET)
        granted[number] += 1
        assert sum(granted) <= limit.burst + limit.per_second * (time.monotonic() - began) + 1

    await asyncio.gather(*(call(number) for number in (0, 1) for _ in range(40)))
    assert granted == [40, 40]


async def test_throttling_met_by_one_replica_slows_the_others_until_calls_succeed(replica: Replica) -> None:
    one, other = replica(), replica()
    await other.take(FLEET, 5, 1000)
    await one.throttled(FLEET)
    wait_s, pace = await other.take(FLEET, 5, 0.001)
    assert pace == pytest.approx(2 / 3, abs=1e-3)
    assert wait_s > 0, "the bucket counts as empty"
    for _ in range(20):
        await one.throttled(FLEET)
    assert (await other.take(FLEET, 5, 0.001))[1] == pytest.approx(0.2)
    for _ in range(8):
        await other.succeeded(FLEET)
    assert (await one.take(FLEET, 5, 0.001))[1] == pytest.approx(1.0)


async def test_actions_have_buckets_of_their_own(replica: Replica) -> None:
    one = replica()
    await one.take("CreateTags", 5, 1000)
    await one.throttled("CreateTags")
    assert (await one.take(FLEET, 5, 1000))[1] == 1.0


async def test_a_budget_passes_on_that_it_was_throttled_and_that_calls_succeed_again(
    replica: Replica,
) -> None:
    clock, watching = Skipping(), replica()
    one = budget(replica(), clock, Limit(50, 1000))
    other = budget(replica(), clock, Limit(50, 1000))
    await one.take(FLEET)
    await one.throttled(FLEET)
    assert (await watching.take(FLEET, 50, 1000))[1] < 1.0
    for _ in range(5):
        await other.take(FLEET)
        await other.succeeded(FLEET)
    assert (await watching.take(FLEET, 50, 1000))[1] == 1.0


async def test_waiting_costs_nothing_to_those_who_outlive_the_waiter(replica: Replica) -> None:
    one, other = replica(), replica()
    for _ in range(100):
        wait_s, _ = await one.take(FLEET, 5, 0.1)
    assert wait_s > 0
    assert (await other.take(FLEET, 5, 0.1))[0] <= 10.0


async def test_reading_calls_do_not_ask_redis(replica: Replica, server: TestRedis) -> None:
    asking = replica()
    one = budget(asking, Skipping(), Limit(50, 5))
    await one.take("DescribeInstances")
    await one.throttled("DescribeInstances")
    await one.throttled("iam:CreateInstanceProfile")
    client = connect(server.url)
    found = await client.keys("*")
    await client.aclose()
    assert found == []


async def test_without_redis_each_keeps_to_its_own_share_says_so_and_takes_sharing_up_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Skipping()
    with TestRedis(tmp_path) as server:
        redis = connect(server.url)
        one = budget(CallBuckets(redis, key_prefix("test")), clock, Limit(50, 1000), share=0.5)
        await one.take(FLEET)
        assert not keeps_to_itself(one)
        server.stop()
        began = clock.monotonic()
        for _ in range(20):
            await one.take(FLEET)
        assert keeps_to_itself(one)
        assert clock.monotonic() - began == pytest.approx(20 / (1000 * 0.5)), "what was spent is unknown"
        assert capsys.readouterr().out.count("shared call budget is away") == 1
        server.start()
        clock.skip(5.0)
        await one.take(FLEET)
        assert not keeps_to_itself(one)
        await redis.aclose()


async def test_a_server_that_has_forgotten_hands_out_no_burst(tmp_path: Path) -> None:
    with TestRedis(tmp_path) as server:
        redis = connect(server.url)
        buckets = CallBuckets(redis, key_prefix("test"))
        assert (await buckets.take(FLEET, 50, 0.01))[0] > 0
        server.stop()
        with pytest.raises(StoreUnavailableError):
            await buckets.take(FLEET, 50, 0.01)
        server.start()
        assert (await buckets.take(FLEET, 50, 0.01))[0] > 0
        await redis.aclose()

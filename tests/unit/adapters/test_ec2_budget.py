"""Calls kept within EC2's published buckets."""

import asyncio
import random

import pytest

from nodeyard.adapters.ec2.budget import CallBudget, Limit
from tests.support.clock import FakeClock


async def called(budget: CallBudget, clock: FakeClock, action: str, count: int, for_s: float) -> list[float]:
    """When each of `count` calls that all want to go at once may go."""
    times: list[float] = []

    async def one() -> None:
        await budget.take(action)
        times.append(clock.monotonic())

    tasks = [asyncio.create_task(one()) for _ in range(count)]
    await clock.advance(for_s)
    for task in tasks:
        task.cancel()
    return times


def budget(clock: FakeClock, share: float = 1.0) -> CallBudget:
    return CallBudget(share=share, monotonic=clock.monotonic, sleep=clock.sleep)


@pytest.mark.parametrize(
    ("action", "limit"),
    [
        ("CreateFleet", Limit(50, 5)),
        ("CreateTags", Limit(100, 10)),
        ("TerminateInstances", Limit(100, 5)),
        ("DescribeInstances", Limit(100, 20)),
        ("RunInstances", Limit(5, 2)),
    ],
)
def test_limits_are_those_that_aws_publishes_less_a_second_of_the_burst(action: str, limit: Limit) -> None:
    for share in (1.0, 0.5):
        ours = budget(FakeClock(), share).limit(action)
        assert ours.per_second == limit.per_second * share
        assert ours.burst == (limit.burst - limit.per_second) * share


@pytest.mark.parametrize("seed", range(5))
async def test_calls_that_take_up_to_a_second_longer_than_others_still_fit_the_bucket_of_aws(
    seed: int,
) -> None:
    clock, late = FakeClock(), random.Random(seed)
    left = await called(budget(clock), clock, "CreateFleet", 300, 60.0)
    assert len(left) == 300
    tokens, at = 50.0, 0.0
    for arrived in sorted(one + late.choice((0.0, 1.0, late.random())) for one in left):
        tokens, at = min(50.0, tokens + 5 * (arrived - at)), arrived
        assert tokens >= 1.0 - 1e-6, arrived
        tokens -= 1.0


async def test_a_burst_goes_at_once_and_the_rest_at_the_rate() -> None:
    clock = FakeClock()
    times = await called(budget(clock), clock, "CreateFleet", 100, 5.0)
    assert sum(at == 0 for at in times) == 45
    assert len(times) == 45 + 25
    assert times == sorted(times)


async def test_five_hundred_calls_take_a_second_more_than_the_published_limits_allow() -> None:
    clock = FakeClock()
    times = await called(budget(clock), clock, "CreateFleet", 500, 95.0)
    assert len(times) == 500
    assert times[-1] == pytest.approx((500 - 50) / 5 + 1.0)


async def test_no_second_sees_more_than_the_bucket_gives() -> None:
    clock = FakeClock()
    times = await called(budget(clock), clock, "CreateFleet", 200, 20.0)
    for start in range(1, 20):
        assert sum(start <= at < start + 1 for at in times) <= 6


async def test_a_process_that_stood_still_lets_no_more_go_at_once_than_the_bucket_holds() -> None:
    clock = FakeClock()
    one = budget(clock)
    times: list[float] = []

    async def call() -> None:
        await one.take("CreateFleet")
        times.append(clock.monotonic())

    tasks = [asyncio.create_task(call()) for _ in range(300)]
    await clock.advance(1.0)
    clock.skip(100.0)
    before = len(times)
    for _ in range(30):
        await clock.advance(0.1)
    for task in tasks:
        task.cancel()
    assert 40 <= len(times) - before <= 45 + 3 * 5


async def test_actions_do_not_wait_for_one_another() -> None:
    clock = FakeClock()
    one = budget(clock)
    await called(one, clock, "CreateFleet", 60, 0.0)
    assert await called(one, clock, "CreateTags", 1, 0.0) == [0.0]


async def test_a_throttled_action_slows_down_and_recovers() -> None:
    clock = FakeClock()
    one = budget(clock)
    await one.throttled("CreateFleet")
    slow = await called(one, clock, "CreateFleet", 10, 10.0)
    assert slow == pytest.approx([n * 0.3 for n in range(1, 11)])
    for _ in range(10):
        await one.succeeded("CreateFleet")
    await clock.advance(20.0)
    assert len(await called(one, clock, "CreateFleet", 100, 0.0)) == 45


async def test_repeats_end_when_nothing_succeeds_and_come_back_with_success() -> None:
    one = CallBudget()
    assert sum(one.may_repeat() for _ in range(500)) == 100
    for _ in range(4):
        await one.succeeded("CreateFleet")
    assert sum(one.may_repeat() for _ in range(10)) == 2

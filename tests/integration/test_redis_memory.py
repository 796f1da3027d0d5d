"""Nominations and the decision journal on a real Redis, and while it is away."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from nodeyard.adapters.redis.connection import RedisUnavailableError, connect, key_prefix
from nodeyard.adapters.redis.journal import Journal
from nodeyard.adapters.redis.moves import MOST, Moves
from nodeyard.adapters.redis.nominations import Nominations
from nodeyard.api.decision import Decision
from nodeyard.disruption.model import Fate, Move, Reason
from tests.support.redis import TestRedis

PREFIX = key_prefix("demo")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TestRedis]:
    with TestRedis(tmp_path) as running:
        yield running


@pytest.fixture
async def redis(server: TestRedis) -> AsyncIterator[Redis]:
    client = connect(server.url)
    yield client
    await client.aclose()


def decision(number: int, kind: str = "launched") -> Decision:
    return Decision(
        float(number), "allocator", "r1", kind, f"nodeclaim/n{number % 10}", "Fits", "m", {"usd": 0.1}
    )


async def test_a_nomination_lasts_its_time_and_is_never_shortened(redis: Redis) -> None:
    nominations = Nominations(redis, PREFIX)
    await nominations.nominate(["a", "b"], 20.0)
    await nominations.nominate(["a"], 0.001)
    await nominations.nominate(["c"], 0.001)
    while "c" in (left := await nominations.nominated()):
        pass
    assert left == {"a", "b"}
    await nominations.forget(["b"])
    assert await nominations.nominated() == {"a"}


async def test_thousands_of_nodes_can_be_nominated_at_once(redis: Redis) -> None:
    nominations = Nominations(redis, PREFIX)
    names = [f"node-{number}" for number in range(2500)]
    await nominations.nominate(names, 20.0)
    assert await nominations.nominated() == frozenset(names)


async def test_nominations_that_ran_out_leave_nothing_behind(redis: Redis) -> None:
    nominations = Nominations(redis, PREFIX)
    await nominations.nominate(["a"], 0.001)
    while await nominations.nominated():
        pass
    await nominations.nominate(["b"], 20.0)
    assert await redis.zcard(f"{PREFIX}nominations") == 1


def move(number: int, at: float, fate: Fate = Fate.STARTED) -> Move:
    return Move(f"c{number}/default", "default", Reason.UNDERUTILIZED, ("a/spot",), ("b/spot",), at, fate)


async def test_moves_outlive_their_writer_and_their_end_replaces_their_beginning(redis: Redis) -> None:
    await Moves(redis, PREFIX).record([move(1, 50.0), move(2, 40.0)])
    await Moves(redis, PREFIX).record([move(1, 50.0, Fate.UNDONE)])
    assert await Moves(redis, PREFIX).recent(60.0) == (move(2, 40.0), move(1, 50.0, Fate.UNDONE))


async def test_moves_too_old_too_many_or_unreadable_go_when_they_are_read(redis: Redis) -> None:
    moves, key, now = Moves(redis, PREFIX), f"{PREFIX}moves", 1e6
    await moves.record([move(n, now + n) for n in range(MOST + 5)])
    await moves.record([move(-1, now - 25 * 3600)])
    await redis.hset(key, "odd", "{")
    found = await moves.recent(now)
    assert [m.at for m in found] == [now + n for n in range(5, MOST + 5)]
    assert await redis.hlen(key) == MOST


async def test_moves_say_when_redis_is_away(server: TestRedis, redis: Redis) -> None:
    server.stop()
    with pytest.raises(RedisUnavailableError):
        await Moves(redis, PREFIX).recent(0.0)


async def test_decisions_are_read_newest_first_by_kind_and_subject(redis: Redis) -> None:
    journal = Journal(redis, PREFIX, writer="w")
    await journal.record([decision(n, "launched" if n % 2 else "planned") for n in range(1200)])
    await journal.flush()
    assert [d.at for d in await journal.recent(3)] == [1199.0, 1198.0, 1197.0]
    assert await journal.recent(1) == [decision(1199)]
    assert [d.at for d in await journal.recent(2, kind="planned")] == [1198.0, 1196.0]
    assert [d.at for d in await journal.recent(2, subject="nodeclaim/n3")] == [1193.0, 1183.0]
    assert len(await journal.recent(5000, subject="nodeclaim/n3")) == 120
    assert await journal.recent(5, kind="never") == []


async def test_the_journal_is_capped(redis: Redis) -> None:
    journal = Journal(redis, PREFIX, writer="w", capacity=20_000)
    await journal.record([decision(n) for n in range(12_000)])
    await journal.flush()
    assert 10_000 <= await redis.xlen(f"{PREFIX}decisions") < 10_500


async def test_what_is_decided_while_redis_is_away_is_written_later(server: TestRedis, redis: Redis) -> None:
    journal = Journal(redis, PREFIX, writer="w")
    running = asyncio.create_task(journal.run())
    await journal.record([decision(1)])
    async with asyncio.timeout(60):
        while not await journal.recent():  # noqa: ASYNC110 - another process's state
            await asyncio.sleep(0.01)
        server.stop()
        await journal.record([decision(2), decision(3)])
        server.start()
        while len(await journal.recent()) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert [d.at for d in await journal.recent()] == [3.0, 2.0, 1.0]
    running.cancel()
    await asyncio.wait([running])


async def test_what_redis_forgot_is_written_again_with_the_next_decision(redis: Redis) -> None:
    journal, other = Journal(redis, PREFIX, writer="w"), Journal(redis, PREFIX, writer="other")
    await journal.record([decision(1), decision(2)])
    await journal.flush()
    await redis.flushall()
    await other.record([decision(3)])
    await other.flush()
    await journal.record([decision(4)])
    await journal.flush()
    assert [d.at for d in await journal.recent()] == [4.0, 3.0, 2.0, 1.0]


async def test_what_does_not_fit_in_memory_is_counted_and_the_newest_kept(redis: Redis) -> None:
    journal = Journal(redis, PREFIX, writer="w", capacity=5)
    await journal.record([decision(n) for n in range(8)])
    assert journal.dropped == 3
    await journal.flush()
    assert [d.at for d in await journal.recent()] == [7.0, 6.0, 5.0, 4.0, 3.0]


async def test_at_the_end_what_waits_is_written(redis: Redis) -> None:
    journal = Journal(redis, PREFIX, writer="w")
    running = asyncio.create_task(journal.run())
    await asyncio.sleep(0)
    await journal.record([decision(1)])
    running.cancel()
    await asyncio.wait([running])
    assert await journal.recent() == [decision(1)]


async def test_followers_hear_what_is_decided_from_now_on(redis: Redis) -> None:
    journal = Journal(redis, PREFIX, writer="w")
    await journal.record([decision(1)])
    await journal.flush()
    following = journal.follow()
    hearing = asyncio.ensure_future(anext(following))
    async with asyncio.timeout(60):
        while not hearing.done():  # it has to be asking before something is decided
            await journal.record([decision(2)])
            await journal.flush()
            await asyncio.sleep(0.1)
    assert hearing.result().at == 2.0
    await following.aclose()  # type: ignore[attr-defined]


async def test_reading_says_so_when_redis_is_away(server: TestRedis, redis: Redis) -> None:
    server.stop()
    with pytest.raises(RedisUnavailableError):
        await Journal(redis, PREFIX).recent()
    with pytest.raises(RedisUnavailableError):
        await Nominations(redis, PREFIX).nominated()


async def test_entries_of_another_version_are_passed_over(redis: Redis) -> None:
    journal = Journal(redis, PREFIX, writer="w")
    await redis.xadd(f"{PREFIX}decisions", {"v2": "x"})
    await redis.xadd(f"{PREFIX}decisions", {"d": "not json"})
    await journal.record([decision(1)])
    await journal.flush()
    assert await journal.recent() == [decision(1)]

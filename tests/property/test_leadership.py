"""Whatever happens to Redis, to the API server and to processes, a lease has at most one holder, and epochs grow."""

import asyncio
import tempfile
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from redis.asyncio import Redis

from tests.support.leases import TTL_S, LeaseWorld
from tests.support.redis import TestRedis

MEMBERS = st.integers(0, 2)
SECONDS = st.sampled_from([0.1, 0.5, 1.0, 1.7, 2.9, 3.1, 3.5, 4.9, 5.1, 20.0])


class Leases(RuleBasedStateMachine):
    """Every rule is one thing that happens; the invariant is checked after each, and at moments within pauses."""

    server: TestRedis

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.redis = Redis.from_url(self.server.url)
        self.do(self.redis.flushall())
        self.world = LeaseWorld(self.redis)
        self.highest = 0
        self.owner = ""

    def do(self, work: Awaitable[Any]) -> Any:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        self.do(self.redis.aclose())
        self.loop.close()

    @rule(member=MEMBERS)
    def a_process_gets_to_run(self, member: int) -> None:
        self.do(self.world.members[member].step())

    @rule(member=MEMBERS, other=MEMBERS, pause=SECONDS)
    def a_process_is_paused_between_the_grant_and_the_lease_object(
        self, member: int, other: int, pause: float
    ) -> None:
        async def meanwhile() -> None:
            await self.world.pass_time(pause)
            if other != member:
                await self.world.members[other].step()

        self.world.epochs.before_write = meanwhile
        self.do(self.world.members[member].step())
        self.world.epochs.before_write = None

    @rule(seconds=SECONDS)
    def nobody_runs_for_a_while(self, seconds: float) -> None:
        for _ in range(10):
            self.do(self.world.pass_time(seconds / 10))
            self.at_most_one_holder()

    @rule(rounds=st.integers(1, 12))
    def everybody_runs_in_turn(self, rounds: int) -> None:
        for _ in range(rounds):
            for member in self.world.members:
                self.do(member.step())
                self.at_most_one_holder()
            self.do(self.world.pass_time(0.5))

    @rule()
    def redis_is_emptied(self) -> None:
        self.do(self.world.flush())

    @rule(first=MEMBERS, second=MEMBERS, seconds=SECONDS)
    def redis_is_emptied_between_two_runs(self, first: int, second: int, seconds: float) -> None:
        self.do(self.world.members[first].step())
        self.do(self.world.flush())
        self.do(self.world.members[second].step())
        self.nobody_runs_for_a_while(seconds)

    @rule(first=MEMBERS, second=MEMBERS, third=MEMBERS)
    def redis_is_emptied_and_a_process_resigns_at_once(self, first: int, second: int, third: int) -> None:
        self.do(self.world.members[first].step())
        self.do(self.world.flush())
        self.do(self.world.members[second].step())
        self.do(self.world.members[second].resign())
        self.do(self.world.members[third].step())
        self.at_most_one_holder()

    @rule(first=MEMBERS, second=MEMBERS, seconds=SECONDS)
    def another_redis_takes_over_between_two_runs(self, first: int, second: int, seconds: float) -> None:
        """The holder renewed after the dump, so the dump's lease ends before the holder's trust does."""
        self.do(self.world.remember())
        self.nobody_runs_for_a_while(seconds)
        self.do(self.world.members[first].step())
        self.nobody_runs_for_a_while(5.0 - seconds if seconds < 5.0 else 0.1)
        self.do(self.world.fail_over())
        self.do(self.world.members[second].step())
        self.nobody_runs_for_a_while(1.0)

    @rule()
    def redis_is_dumped(self) -> None:
        self.do(self.world.remember())

    @rule()
    def another_redis_takes_over_with_the_dump(self) -> None:
        self.do(self.world.fail_over())

    @rule(member=MEMBERS, seconds=SECONDS)
    def redis_is_away_for_a_while(self, member: int, seconds: float) -> None:
        self.world.away = True
        self.do(self.world.members[member].step())
        self.nobody_runs_for_a_while(seconds)
        self.do(self.world.members[member].step())
        self.world.away = False

    @rule(member=MEMBERS, seconds=SECONDS)
    def the_api_server_is_away_for_a_while(self, member: int, seconds: float) -> None:
        self.world.epochs.away = True
        self.do(self.world.members[member].step())
        self.nobody_runs_for_a_while(seconds)
        self.world.epochs.away = False

    @rule()
    def the_next_reply_is_lost(self) -> None:
        self.world.lose_reply = True

    @rule(member=MEMBERS)
    def a_process_dies(self, member: int) -> None:
        self.do(self.world.crash(member))

    @rule(member=MEMBERS)
    def a_process_resigns(self, member: int) -> None:
        self.do(self.world.members[member].resign())

    @precondition(lambda self: self.world.holders() == [])
    @rule()
    def all_is_well_again_and_somebody_leads_soon(self) -> None:
        """At the longest: a dead holder's lease runs out, then a forgetful store's wait."""
        world = self.world
        world.lose_reply = False
        waited = 0.0
        while not world.holders():
            assert waited <= 2.2 * TTL_S, [m.problem for m in world.members]
            for member in world.members:
                self.do(member.step())
                self.at_most_one_holder()
            self.do(world.pass_time(0.25))
            waited += 0.25

    @invariant()
    def at_most_one_holder(self) -> None:
        holders = self.world.holders()
        assert len(holders) <= 1, [(h.holder, h.epoch) for h in holders]
        for holder in holders:
            epoch = holder.epoch or 0
            assert epoch > self.highest or (epoch == self.highest and holder.holder == self.owner)
            assert epoch <= self.world.epochs.epoch
            self.highest, self.owner = epoch, holder.holder


def test_at_most_one_holder_and_growing_epochs_whatever_happens() -> None:
    from hypothesis.stateful import run_state_machine_as_test

    with tempfile.TemporaryDirectory() as directory, TestRedis(Path(directory)) as server:
        machine = type("LeasesHere", (Leases,), {"server": server})
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=60, stateful_step_count=30, deadline=None, derandomize=True,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
            ),
        )  # fmt: skip

"""The pricing loops on a clock that stands still: schedules, failures, what replicas share, refusals."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from nodeyard.adapters.pricing.disk import CatalogueDirectory
from nodeyard.cloudprovider.commitments import Commitments, CommitmentsError, SavingsPlan
from nodeyard.cloudprovider.errors import Unreachable
from nodeyard.cloudprovider.feed import FeedError
from nodeyard.cloudprovider.learned import LearnedMemory
from nodeyard.cloudprovider.refusals import Refusal
from nodeyard.cloudprovider.scarcity import Standing
from tests.support.clock import settle
from tests.support.pricing_fakes import FakeAccount, FakeFeed
from tests.unit.pricing.replicas import HOURS_S, SPOT_S, Replica, World, world

__all__ = ["world"]
REFUSED = Refusal("m5.large", "eu-west-1a", "spot", "InsufficientInstanceCapacity")


async def test_a_cold_start_asks_each_source_once_and_serves(world: World) -> None:
    replica = await world.replica()
    assert replica.board.unready() is None
    assert world.cloud.asked == {"types": 1, "on-demand": 1, "spot": 1, "reservations": 1}
    assert replica.market.counts() == {"pricing-api": 15, "spot-history": 15}


async def test_each_part_is_refreshed_on_its_own_schedule(world: World) -> None:
    await world.replica()
    await world.clock.advance(SPOT_S * 4 + 1)
    assert world.cloud.asked == {"types": 1, "on-demand": 1, "spot": 5, "reservations": 21}
    await world.clock.advance(HOURS_S)
    assert world.cloud.asked["types"] == world.cloud.asked["on-demand"] == 2


async def test_a_new_price_is_published_and_wakes_who_waits(world: World) -> None:
    replica = await world.replica()
    older = replica.market
    waiting = asyncio.create_task(replica.board.next(older))
    world.cloud.spot_usd = 0.5
    await world.clock.advance(SPOT_S + 1)
    await waiting
    newer = replica.market
    changed = newer.changed_since(older)
    assert changed is not None
    assert {newer.rows[i].price for i in changed} == {0.5}
    assert len(changed) == 15


async def test_a_confirmed_price_renews_its_age_under_the_same_revision(world: World) -> None:
    replica = await world.replica()
    older = replica.market
    await world.clock.advance(SPOT_S + 1)
    assert replica.market.revision == older.revision
    assert replica.market.asked_at["spot-history"] > older.asked_at["spot-history"]


async def test_nothing_is_served_before_types_are_known_and_the_reason_is_told(world: World) -> None:
    world.cloud.down = {"types"}
    replica = await world.replica()
    assert replica.board.market is None
    assert replica.board.unready() == "no instance types known yet: types: no answer"
    world.cloud.down = set()
    await world.clock.advance(2.0)
    assert replica.board.unready() is None


async def test_estimates_stand_in_only_after_a_source_has_failed(world: World) -> None:
    world.cloud.down = {"spot"}
    replica = await world.replica()
    assert replica.market.counts() == {"pricing-api": 15, "estimate": 15}
    world.cloud.down = set()
    await world.clock.advance(10.0)
    assert replica.market.counts() == {"pricing-api": 15, "spot-history": 15}


async def test_a_source_that_fails_later_leaves_its_last_prices_marked(world: World) -> None:
    replica = await world.replica()
    world.cloud.down = {"spot"}
    await world.clock.advance(SPOT_S + 1)
    assert replica.market.counts() == {"pricing-api": 15, "last-known": 15}
    assert replica.board.problems == {"spot": "spot: no answer"}
    world.cloud.down = set()
    await world.clock.advance(SPOT_S)
    assert replica.market.counts() == {"pricing-api": 15, "spot-history": 15}
    assert replica.board.problems == {}


def prices(replica: Replica, kind: str = "on-demand") -> dict[str, tuple[float, str]]:
    table = replica.market.table
    return {
        table.types[key[0]].name: (row.price, row.source)
        for key, row in zip(table.rows, replica.market.rows, strict=True)
        if key[2] == kind
    }


async def test_where_aws_never_answered_the_feed_stands_in_and_estimates_fill_its_gaps(world: World) -> None:
    world.cloud.down = {"on-demand"}
    replica = await world.replica(feed=FakeFeed())
    shown = prices(replica)
    assert shown["m5.large"] == shown["c7g.xlarge"] == (0.123, "feed")
    assert shown["r6g.large"][1] == "estimate"
    assert replica.market.asked_at["feed"] == world.clock.now() - 1000.0
    world.cloud.down = set()
    await world.clock.advance(10.0)
    assert {source for _, source in prices(replica).values()} == {"pricing-api"}


async def test_the_last_answer_of_aws_counts_for_two_refreshes_before_the_feed_does(world: World) -> None:
    replica = await world.replica(feed=FakeFeed())
    world.cloud.down = {"on-demand"}
    await world.clock.advance(1.2 * HOURS_S)
    assert prices(replica)["m5.large"] == (0.1, "last-known")
    await world.clock.advance(HOURS_S)
    shown = prices(replica)
    assert shown["m5.large"] == (0.123, "feed")
    assert shown["r6g.large"] == (0.1, "last-known")


@pytest.mark.parametrize("failure", [Unreachable("no route"), FeedError("prices in EUR, not in USD")])
async def test_a_feed_that_is_of_no_use_is_told_and_the_last_one_stays(
    world: World, failure: Exception
) -> None:
    feed = FakeFeed()
    world.cloud.down = {"on-demand"}
    replica = await world.replica(feed=feed)
    feed.broken = failure
    await world.clock.advance(1.2 * 3600.0)
    assert prices(replica)["m5.large"] == (0.123, "feed")
    assert replica.board.feed_problems == (str(failure),)
    feed.broken, feed.on_demand_usd = None, 0.2
    await world.clock.advance(1.2 * 3600.0)
    assert prices(replica)["m5.large"] == (0.2, "feed")
    assert replica.board.feed_problems == ()


async def test_an_absurd_price_of_the_feed_is_told_and_not_used(world: World) -> None:
    world.cloud.down = {"on-demand"}
    replica = await world.replica(feed=FakeFeed(on_demand_usd=900.0))
    assert prices(replica)["m5.large"][1] == "estimate"
    assert replica.board.feed_problems[0].startswith("onDemand[m5.large]: 900 is absurd")


async def test_one_more_is_nearly_free_until_the_commitment_is_used_up_in_the_hour(world: World) -> None:
    account = FakeAccount(Commitments((SavingsPlan("compute", 0.14, discount_percent=30.0),), (), 10.0))
    replica = await world.replica(paid=account)
    assert prices(replica)["m5.large"][0] == pytest.approx(1e-8)
    assert prices(replica, "spot")["m5.large"][0] == 0.04
    account.running["m5.large", "eu-west-1b"] = 2.0
    await world.clock.advance(70.0)
    assert prices(replica)["m5.large"] == (pytest.approx(0.09), "pricing-api")
    row = replica.market.rows[replica.market.table.index[_type(replica, "m5.large"), 1, "on-demand"]]
    assert (row.list_price, row.release) == (0.1, pytest.approx(1e-8))
    account.running.clear()
    await world.clock.advance(70.0)
    assert prices(replica)["m5.large"][0] == pytest.approx(1e-8)


SEEN = LearnedMemory("m5.large", "ami-1", "settings", 7 * 2**30)


async def test_what_a_node_has_shown_counts_at_every_replica_and_after_a_restart(world: World) -> None:
    one, two = await world.replica("one"), await world.replica("two")
    now = world.clock.now()
    await one.controller.observed([msgspec.structs.replace(SEEN, at=now)])
    await settle()
    assert [e.memory_bytes for e in one.market.learned.entries] == [SEEN.memory_bytes]
    assert two.market.learned.digest == one.market.learned.digest
    await two.controller.observed([msgspec.structs.replace(SEEN, at=now, memory_bytes=6 * 2**30)])
    await settle()
    assert [e.memory_bytes for e in one.market.learned.entries] == [6 * 2**30]
    await one.stop()
    three = await world.replica("three")
    assert [e.memory_bytes for e in three.market.learned.entries] == [6 * 2**30]


async def test_a_figure_that_cannot_be_is_not_believed(world: World) -> None:
    replica = await world.replica()
    now = world.clock.now()
    for wrong in (2**30, 9 * 2**30):
        await replica.controller.observed([msgspec.structs.replace(SEEN, at=now, memory_bytes=wrong)])
    await replica.controller.observed([msgspec.structs.replace(SEEN, at=now, instance_type="x9.large")])
    assert replica.market.learned.entries == ()


async def test_commitments_that_cannot_be_read_leave_what_was_known(world: World) -> None:
    account = FakeAccount(Commitments((SavingsPlan("compute", 0.14, discount_percent=30.0),)))
    replica = await world.replica(paid=account)
    account.broken = CommitmentsError("savingsPlans[0].usdPerHour: -1 is out of range")
    await world.clock.advance(70.0)
    assert prices(replica)["m5.large"][0] == pytest.approx(1e-8)
    assert replica.board.commitments_problem == str(account.broken)


def _type(replica: Replica, name: str) -> int:
    return [found.name for found in replica.market.table.types].index(name)


async def test_the_disk_makes_a_start_warm_when_everything_else_is_away(world: World, tmp_path: Path) -> None:
    disk = CatalogueDirectory(tmp_path / "kept", "eu-west-1")
    first = await world.replica(disk=disk)
    while None in (await disk.types(), await disk.sheet("on-demand"), await disk.sheet("spot")):
        await settle()  # files are written in threads, which no clock of ours waits for
    revision = first.market.revision
    await first.stop()
    world.cloud.down = {"types", "on-demand", "spot"}
    world.memory.away = True
    second = await world.replica("two", disk=disk)
    assert second.market.revision == revision


async def test_a_source_that_stays_away_is_not_asked_in_a_hurry(world: World) -> None:
    world.cloud.down = {"types"}
    await world.replica()
    await world.clock.advance(3600.0)
    assert world.cloud.asked["types"] < 40


async def test_a_restart_serves_what_the_memory_holds_and_asks_nobody(world: World) -> None:
    first = await world.replica()
    revision = first.market.revision
    await first.stop()
    world.cloud.down = {"types", "on-demand", "spot"}
    asked = dict(world.cloud.asked)
    second = await world.replica("two")
    assert second.market.revision == revision
    assert world.cloud.asked == asked


async def test_a_memory_that_comes_after_the_start_makes_it_warm_within_a_second(world: World) -> None:
    first = await world.replica()
    revision = first.market.revision
    await first.stop()
    world.cloud.down = {"types", "on-demand", "spot"}
    world.memory.away = True
    second = await world.replica("two")
    await world.clock.advance(30.0)
    assert second.board.market is None
    world.memory.away = False
    await world.clock.advance(1.0)
    assert second.market.revision == revision


async def test_two_replicas_share_the_asking(world: World) -> None:
    one = await world.replica("one")
    two = await world.replica("two")
    assert two.market.revision == one.market.revision
    world.cloud.spot_usd = 0.25
    await world.clock.advance(SPOT_S * 3 + 10)
    assert world.cloud.asked["spot"] == 4
    assert one.market.revision == two.market.revision


async def test_a_claim_left_by_a_killed_replica_delays_but_does_not_stop(world: World) -> None:
    replica = await world.replica()
    world.memory.claims["spot"] = ("killed", world.clock.now() + SPOT_S + 60.0)
    await world.clock.advance(SPOT_S + 30.0)
    assert world.cloud.asked["spot"] == 1
    await world.clock.advance(40.0)
    assert world.cloud.asked["spot"] == 2
    assert replica.board.problems == {}


async def test_a_claim_does_not_keep_a_replica_that_knows_nothing_from_asking(world: World) -> None:
    for part in ("types", "on-demand", "spot"):
        world.memory.claims[part] = ("killed", world.clock.now() + 60.0)
    replica = await world.replica()
    assert replica.board.unready() is None


async def test_a_refusal_is_out_at_once_everywhere_and_back_after_its_time(world: World) -> None:
    one = await world.replica("one")
    two = await world.replica("two")
    await one.controller.refused([REFUSED])
    assert not one.available()
    await settle()
    assert not two.available()
    assert two.available(kind="on-demand")
    await world.clock.advance(179.0)
    assert not one.available()
    assert not two.available()
    await world.clock.advance(2.0)
    assert one.available()
    assert two.available()


async def test_a_refusal_survives_a_restart_for_the_rest_of_its_time(world: World) -> None:
    first = await world.replica()
    await first.controller.refused([REFUSED])
    await first.stop()
    await world.clock.advance(100.0)
    second = await world.replica("two")
    assert not second.available()
    await world.clock.advance(81.0)
    assert second.available()


async def test_a_pool_refused_again_is_out_longer_at_every_replica_and_after_a_restart(world: World) -> None:
    one, two = await world.replica("one"), await world.replica("two")
    await one.controller.refused([REFUSED])
    await world.clock.advance(181.0)
    await two.controller.refused([REFUSED])
    await world.clock.advance(350.0)
    assert not one.available()
    await one.stop()
    await two.stop()
    three = await world.replica("three")
    assert not three.available()
    await world.clock.advance(11.0)
    assert three.available()
    await three.controller.refused([REFUSED])
    await world.clock.advance(719.0)
    assert not three.available()
    await world.clock.advance(2.0)
    assert three.available()


async def test_a_pool_let_back_is_offered_with_a_risk_that_fades(world: World) -> None:
    replica = await world.replica()
    await replica.controller.refused([REFUSED])
    await world.clock.advance(181.0)
    first = sum(row.risk for row in replica.market.rows)
    assert first > 0
    await world.clock.advance(900.0)
    assert sum(row.risk for row in replica.market.rows) == pytest.approx(first / 2, rel=1e-3)
    await world.clock.advance(6 * 900.0)
    assert all(row.risk == 0 for row in replica.market.rows)


async def test_without_the_memory_prices_and_refusals_go_on(world: World) -> None:
    world.memory.away = True
    replica = await world.replica()
    await replica.controller.refused([REFUSED])
    assert not replica.available()
    world.cloud.spot_usd = 0.7
    await world.clock.advance(SPOT_S + 1)
    assert world.cloud.asked["spot"] == 2
    assert replica.available()


async def test_a_refusal_is_written_down_when_the_memory_comes_back(world: World) -> None:
    replica = await world.replica()
    world.memory.go_away()
    await settle()
    await replica.controller.refused([REFUSED])
    assert world.memory.kept == {}
    world.memory.away = False
    await world.clock.advance(3.0)
    (kept,) = world.memory.kept.values()
    assert kept.refusal == REFUSED
    assert kept.until == pytest.approx(world.clock.now() + 177.0, abs=3.0)


async def test_a_replica_that_lost_the_channel_catches_up_when_it_returns(world: World) -> None:
    one = await world.replica("one")
    world.memory.go_away()
    await world.clock.advance(1.0)
    world.memory.away = False
    now = world.clock.now()
    world.memory.kept[REFUSED.key] = Standing(REFUSED, 1, now, now + 60.0)
    await world.clock.advance(3.0)
    assert not one.available()


async def test_a_memory_that_lost_everything_is_given_it_again(world: World) -> None:
    replica = await world.replica()
    await replica.controller.refused([REFUSED])
    world.memory.go_away()
    await world.clock.advance(1.0)
    world.memory.kept_types, world.memory.away = None, False
    world.memory.kept.clear()
    world.memory.sheets.clear()
    await world.clock.advance(3.0)
    assert world.memory.kept.keys() == {REFUSED.key}
    assert world.memory.kept_types is not None
    assert world.memory.kept_types[0].digest == replica.market.table.digest
    assert world.memory.sheets.keys() == {"on-demand", "spot"}

"""What is left of capacity reservations: counted, kept while EC2 is away, and told."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry

from nodeyard.adapters.pricing.disk import CatalogueDirectory
from nodeyard.cloudprovider.market import RESERVATIONS
from nodeyard.cloudprovider.refusals import Refusal
from nodeyard.cloudprovider.reservations import CapacityReservation, ReservationSheet
from services.pricing.board import PriceBoard
from services.pricing.metrics import PricingMetrics
from tests.support.catalogue import on_demand_sheet, spot_sheet, table_of
from tests.unit.pricing.replicas import MINUTE_S, World, world

__all__ = ["world"]

RESERVED = CapacityReservation("cr-1", "m5.large", "eu-west-1a", 3, 2, match="open")


async def test_what_is_left_of_a_reservation_is_counted_each_minute_and_told_to_who_waits(
    world: World,
) -> None:
    world.cloud.reserved = (RESERVED,)
    one = await world.replica()
    before = one.market
    assert before.reservations == (RESERVED,)
    world.cloud.reserved = (msgspec.structs.replace(RESERVED, available=1),)
    await world.clock.advance(MINUTE_S + 5.0)
    assert [r.available for r in one.market.reservations] == [1]
    assert one.market.revision != before.revision


async def test_a_count_that_is_asked_for_is_made_now_and_once_for_all_who_ask_at_the_same_time(
    world: World,
) -> None:
    one = await world.replica()
    await world.clock.advance(10.0)
    asked = world.cloud.asked["reservations"]
    world.cloud.reserved = (RESERVED,)
    told = await asyncio.gather(*(one.controller.count_reservations() for _ in range(5)))
    assert set(told) == {world.clock.now()} == {one.market.asked_at[RESERVATIONS]}
    assert one.market.reservations == (RESERVED,)
    assert world.cloud.asked["reservations"] == asked + 1


async def test_a_count_that_fails_says_when_the_last_one_was(world: World) -> None:
    one = await world.replica()
    before = one.market.asked_at[RESERVATIONS]
    world.cloud.down.add("reservations")
    await world.clock.advance(10.0)
    assert await one.controller.count_reservations() == before


async def test_another_count_of_the_same_renews_its_time_under_the_same_revision(world: World) -> None:
    world.cloud.reserved = (RESERVED,)
    one = await world.replica()
    before = one.market
    await world.clock.advance(MINUTE_S + 5.0)
    assert one.market.revision == before.revision
    assert one.market.asked_at[RESERVATIONS] > before.asked_at[RESERVATIONS]


async def test_nothing_is_served_before_the_first_count_so_that_nobody_buys_beside_what_is_reserved() -> None:
    board, table = PriceBoard(PricingMetrics(CollectorRegistry())), table_of()
    await board.learn_types(table, 10.0, 100.0)
    await board.learn_prices("on-demand", on_demand_sheet(table, 40.0), 100.0)
    await board.learn_prices("spot", spot_sheet(table, 90.0), 100.0)
    assert (board.market, board.unready()) == (None, "capacity reservations are being counted")
    await board.learn_reservations(ReservationSheet(99.0, (RESERVED,)), 100.0)
    assert board.market is not None
    assert board.market.reservations == (RESERVED,)


async def test_what_is_refused_in_a_placement_group_is_told_beside_what_is_reserved(world: World) -> None:
    world.cloud.reserved = (RESERVED,)
    one = await world.replica()
    await one.controller.refused(
        [Refusal(zone="eu-west-1a", code="UnfulfillableCapacity", placement_group="pg-1")]
    )
    await world.clock.advance(1.0)
    assert one.market.refused_in_groups == {("pg-1", ("", "", "eu-west-1a"))}


async def test_the_last_count_holds_for_a_day_without_ec2_and_no_longer(world: World) -> None:
    world.cloud.reserved = (RESERVED,)
    one = await world.replica()
    world.cloud.down.add("reservations")
    await world.clock.advance(23 * 3600.0)
    assert [r.available for r in one.market.reservations] == [2]
    await world.clock.advance(2 * 3600.0)
    assert [(r.id, r.available) for r in one.market.reservations] == [("cr-1", 0)]


async def test_without_the_permission_to_count_everything_else_is_served(world: World) -> None:
    world.cloud.down.add("reservations")
    one = await world.replica()
    assert one.board.unready() is None
    assert one.market.reservations == ()
    assert "reservations" in one.board.problems


async def test_a_restart_knows_the_last_count_though_ec2_is_away(world: World, tmp_path: Path) -> None:
    world.cloud.reserved = (RESERVED,)
    directory = CatalogueDirectory(tmp_path, "eu-west-1")
    await world.replica("one", disk=directory)
    world.cloud.down.add("reservations")
    assert (await world.replica("two")).market.reservations == (RESERVED,)
    world.memory.counted = None
    world.memory.away = True
    assert (await world.replica("three", disk=directory)).market.reservations == (RESERVED,)


async def test_a_block_takes_nothing_more_from_forty_minutes_before_its_end(world: World) -> None:
    ends_at = world.clock.now() + 50 * 60.0
    world.cloud.reserved = (msgspec.structs.replace(RESERVED, kind="capacity-block", ends_at=ends_at),)
    one = await world.replica()
    assert [(r.state, r.available) for r in one.market.reservations] == [("active", 2)]
    await world.clock.advance(11 * 60.0)
    assert [(r.state, r.available) for r in one.market.reservations] == [("expiring", 0)]
    await world.clock.advance(40 * 60.0)
    assert one.market.reservations == ()

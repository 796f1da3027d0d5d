"""Zones that traffic is shifted away from: nothing is bought there while it lasts, and everybody is told."""

from __future__ import annotations

from nodeyard.cloudprovider.errors import Unauthorized
from nodeyard.cloudprovider.market import Market
from nodeyard.cloudprovider.refusals import Refusal
from nodeyard.cloudprovider.reservations import CapacityReservation
from nodeyard.rpc.catalog import market_from, message_of
from tests.support.pricing_fakes import FakeShifts
from tests.unit.pricing.replicas import Replica, World, world

__all__ = ["world"]

AWAY, NAME = "euw1-az1", "eu-west-1a"


def sold_in(market: Market) -> set[str]:
    rows = zip(market.table.rows, market.rows, strict=True)
    return {market.table.zones[zone].name for (_, zone, _), row in rows if row.available}


async def read_again(world: World) -> None:
    await world.clock.advance(40.0)


async def test_nothing_is_sold_in_a_zone_by_id_or_name_until_the_shift_is_over(world: World) -> None:
    shifts = FakeShifts(AWAY)
    one = await world.replica(shifts=shifts)
    assert sold_in(one.market) == {"eu-west-1b", "eu-west-1c"}
    assert one.market.zones_out == {NAME}
    shifts.zones = frozenset({"eu-west-1b"})
    await read_again(world)
    assert sold_in(one.market) == {NAME, "eu-west-1c"}
    shifts.zones = frozenset()
    await read_again(world)
    assert sold_in(one.market) == {NAME, "eu-west-1b", "eu-west-1c"}
    assert one.market.zones_out == frozenset()


async def test_what_was_refused_before_stays_refused_after_a_shift(world: World) -> None:
    shifts = FakeShifts()
    one = await world.replica(shifts=shifts)
    await one.controller.refused([Refusal("m5.large", NAME, "spot", "InsufficientInstanceCapacity")])
    for zones in (frozenset({AWAY}), frozenset[str]()):
        shifts.zones = zones
        await read_again(world)
        assert not one.available("spot", "m5.large", NAME)
        assert one.available("on-demand", "m5.large", NAME) == (not zones)


async def test_reservations_there_take_nothing(world: World) -> None:
    world.cloud.reserved = (
        CapacityReservation("cr-1", "m5.large", NAME, 3, 2),
        CapacityReservation("cr-2", "m5.large", "eu-west-1b", 3, 2),
    )
    one = await world.replica(shifts=FakeShifts(AWAY))
    assert [(r.id, r.available) for r in one.market.reservations] == [("cr-1", 0), ("cr-2", 2)]
    assert one.market.zones_out == {NAME}


async def test_what_was_last_said_holds_while_it_can_not_be_asked_and_the_rest_goes_on(world: World) -> None:
    shifts = FakeShifts(AWAY)
    one = await world.replica(shifts=shifts)
    shifts.broken = Unauthorized("may not ask", operation="arc-zonal-shift:GetManagedResource")
    shifts.zones = frozenset()
    await read_again(world)
    assert sold_in(one.market) == {"eu-west-1b", "eu-west-1c"}
    shifts.broken = None
    await read_again(world)
    assert NAME in sold_in(one.market)


async def test_without_the_permission_from_the_start_everything_is_sold(world: World) -> None:
    shifts = FakeShifts(AWAY)
    shifts.broken = Unauthorized("may not ask", operation="arc-zonal-shift:GetManagedResource")
    one = await world.replica(shifts=shifts)
    assert NAME in sold_in(one.market)


async def test_subscribers_hear_of_it_and_of_its_end(world: World) -> None:
    shifts = FakeShifts()
    one: Replica = await world.replica(shifts=shifts)
    sent = one.market
    received = market_from(message_of(sent, None), None)
    for zones in (frozenset({AWAY}), frozenset[str]()):
        shifts.zones = zones
        await read_again(world)
        received = market_from(message_of(one.market, sent), received)
        sent = one.market
        assert received.revision == sent.revision
        assert received.zones_out == sent.zones_out
        assert (NAME in received.zones_out) == bool(zones)
        assert sold_in(received) == sold_in(sent)

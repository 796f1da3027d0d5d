"""How long refusals keep a pool out, how they add up and fade, and what their odds cost."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodeyard.cloudprovider.market import Market, market_of
from nodeyard.cloudprovider.refusals import Refusal, Shut
from nodeyard.cloudprovider.resolve import resolve
from nodeyard.cloudprovider.scarcity import (
    LONGEST_S,
    QUIET_S,
    ScarcityMemory,
    Standing,
    interrupted,
    risk_of,
)
from tests.support.catalogue import node_class, on_demand_sheet, spot_sheet, table_of

POOL = ("spot", "m5.large", "eu-west-1a")
REFUSED = Refusal("m5.large", "eu-west-1a", "spot", "InsufficientInstanceCapacity")


def out_for(memory: ScarcityMemory, now: float, refusal: Refusal = REFUSED) -> float:
    (standing,) = memory.refuse([refusal], now)
    return standing.until - now


def test_each_refusal_in_a_row_doubles_the_time_up_to_an_hour() -> None:
    memory, now, lasted = ScarcityMemory(), 0.0, []
    for _ in range(7):
        lasted.append(out_for(memory, now))
        now += lasted[-1] + 1.0
    assert lasted == [180.0, 360.0, 720.0, 1440.0, 2880.0, LONGEST_S, LONGEST_S]


def test_refusals_while_it_is_out_are_the_same_news() -> None:
    memory = ScarcityMemory()
    memory.refuse([REFUSED], 0.0)
    (standing,) = memory.refuse([REFUSED], 100.0)
    assert (standing.strikes, standing.until) == (1, 280.0)


def test_a_quiet_hour_forgets_one_refusal() -> None:
    memory = ScarcityMemory()
    memory.refuse([REFUSED], 0.0)
    memory.refuse([REFUSED], 181.0)
    ended = memory.refuse([REFUSED], 600.0)[0].until
    assert memory.standings()[0].strikes == 3
    assert out_for(memory, ended + 2 * QUIET_S) == 360.0
    memory.forget(1e9)
    assert memory.standings() == []


def test_a_subnet_and_a_whole_capacity_type_come_back_after_three_minutes() -> None:
    memory = ScarcityMemory()
    everything = Refusal(capacity_type="spot", code="AuthFailure.ServiceLinkedRoleCreationNotPermitted")
    memory.refuse([Refusal(subnet="subnet-1"), everything], 0.0)
    shut = memory.shut(179.0)
    assert shut.exhausted_subnets == {"subnet-1"}
    assert shut.offering("spot", "c7g.xlarge", "eu-west-1c")
    assert not shut.offering("on-demand", "c7g.xlarge", "eu-west-1c")
    assert not memory.shut(180.0)
    assert memory.odds(200.0) == {}


def test_a_refusal_in_a_placement_group_shuts_nothing_outside_it() -> None:
    memory = ScarcityMemory()
    memory.refuse([Refusal("c7g.xlarge", "eu-west-1c", "spot", placement_group="pg-1")], 0.0)
    shut = memory.shut(179.0)
    assert shut.in_groups == {("pg-1", ("spot", "c7g.xlarge", "eu-west-1c"))}
    assert not shut.offering("spot", "c7g.xlarge", "eu-west-1c")
    assert memory.odds(200.0) == {}


def test_the_loss_of_a_spot_instance_counts_as_a_refusal_of_its_pool() -> None:
    memory = ScarcityMemory()
    memory.refuse([interrupted("m5.large", "eu-west-1a")], 0.0)
    assert memory.shut(1.0).offering(*POOL)
    assert out_for(memory, 200.0) == 360.0


def test_the_odds_of_another_refusal_grow_with_strikes_and_halve_with_time() -> None:
    memory = ScarcityMemory()
    memory.refuse([REFUSED], 0.0)
    assert memory.standings()[0].odds(179.0) == 1.0
    assert memory.odds(179.0) == {}  # out: no question of odds
    once = memory.odds(180.0)[POOL]
    assert once == pytest.approx(2 / 3)
    assert memory.odds(180.0 + 900.0)[POOL] == pytest.approx(once / 2)
    assert memory.odds(180.0 + 6 * 900.0) == {}
    memory.refuse([REFUSED], 181.0)
    assert memory.odds(181.0 + 360.0)[POOL] == pytest.approx(3 / 4)


def test_the_owner_is_told_when_to_look_again() -> None:
    memory = ScarcityMemory()
    assert memory.next_change(0.0) is None
    memory.refuse([REFUSED], 0.0)
    assert memory.next_change(0.0) == 180.0
    assert memory.next_change(180.0) == 1080.0
    assert memory.next_change(180.0 + 6 * 900.0) is None


def test_what_a_refusal_would_cost_is_the_way_to_the_next_best() -> None:
    assert risk_of(0.5, 0.04, 0.10) == pytest.approx(0.03)
    assert risk_of(0.5, 0.10, 0.10) == pytest.approx(0.01)
    assert risk_of(0.0, 0.10, 0.10) == 0.0


def market(odds: dict[tuple[str, str, str], float]) -> Market:
    table = table_of("m5.large")
    return market_of(table, on_demand_sheet(table), spot_sheet(table), Shut(), now=0.0, odds=odds)


def test_an_offering_let_back_keeps_its_price_and_carries_the_risk_beside_it() -> None:
    doubted = market({POOL: 0.5})
    assert doubted.revision != market({}).revision
    assert len(doubted.changed_since(market({})) or []) == 1
    catalogue = resolve(doubted, node_class(), now=0.0)
    offering = catalogue.offering("m5.large", "eu-west-1a", "spot")
    other = catalogue.offering("m5.large", "eu-west-1b", "spot")
    assert offering is not None
    assert other is not None
    assert (offering.price, other.price, other.risk) == (0.04, 0.04, 0.0)
    assert offering.risk == pytest.approx(0.5 * (0.1 - 0.04))


# -- laws

moments = st.lists(st.floats(0, 50_000), min_size=1, max_size=12).map(sorted)


@given(moments, st.floats(0, 100_000))
@settings(max_examples=100)
def test_time_out_stays_between_three_minutes_and_an_hour_and_odds_are_probabilities(
    times: list[float], later: float
) -> None:
    memory = ScarcityMemory()
    for at in times:
        assert 180.0 - 1e-6 <= out_for(memory, at) <= LONGEST_S + 1e-6
    assert all(0.0 < chance < 1.0 for chance in memory.odds(times[-1] + later).values())
    assert memory.shut(times[-1] + LONGEST_S + 1.0).keys == frozenset()


@given(st.permutations(range(4)), st.lists(st.floats(0, 10_000), min_size=4, max_size=4))
def test_replicas_that_hear_the_same_in_any_order_agree_on_what_is_out(
    order: list[int], times: list[float]
) -> None:
    told = [Standing(REFUSED, 1, at, at + 180.0) for at in times]
    one, two = ScarcityMemory(), ScarcityMemory()
    one.merge(told)
    for index in order:
        two.merge([told[index]])
    assert not two.merge(told)
    ends = [memory.standings()[0].until for memory in (one, two)]
    assert ends[0] == pytest.approx(ends[1], abs=1.0)

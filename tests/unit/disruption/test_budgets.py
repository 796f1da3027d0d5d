"""Budgets: windows at their edges, shares rounded up, what counts as disrupted already."""

from datetime import UTC, datetime

import msgspec
import pytest

from nodeyard.api.pool import Budget
from nodeyard.disruption.budgets import Room, active, limit, limited, next_change
from nodeyard.disruption.candidates import candidates
from nodeyard.disruption.model import Reason
from tests.support.disruption import NOW, Builder


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("moment", "holds"),
    [
        ("2026-03-02T08:59:59", False),
        ("2026-03-02T09:00:00", True),
        ("2026-03-02T16:59:59", True),
        ("2026-03-02T17:00:00", False),
    ],
)
def test_a_window_is_closed_at_its_start_and_open_at_its_end(moment: str, holds: bool) -> None:
    budget = Budget("0", schedule="0 9 * * *", duration_s=8 * 3600.0)
    assert active(budget, at(moment)) is holds


@pytest.mark.parametrize(
    ("moment", "holds"),
    [
        ("2026-01-05T07:59:59", False),
        ("2026-01-05T08:00:00", True),
        ("2026-01-05T15:59:59", True),
        ("2026-01-05T16:00:00", False),
        ("2026-07-06T07:00:00", True),
        ("2026-07-06T15:00:00", False),
    ],
)
def test_a_schedule_follows_the_clock_of_its_time_zone_summer_and_winter(moment: str, holds: bool) -> None:
    budget = Budget("0", schedule="0 9 * * *", duration_s=8 * 3600.0, time_zone="Europe/Berlin")
    assert active(budget, at(moment)) is holds


def test_an_hour_that_the_clock_shows_twice_opens_its_window_twice_and_a_skipped_one_after_the_gap() -> None:
    budget = Budget("0", schedule="30 2 * * *", duration_s=600.0, time_zone="Europe/Berlin")
    autumn = [m for m in range(0, 180, 5) if active(budget, at("2026-10-25T00:00:00") + 60 * m)]
    assert autumn == [30, 35, 90, 95]
    spring = [m for m in range(0, 180, 5) if active(budget, at("2026-03-29T00:00:00") + 60 * m)]
    assert spring == [60, 65]


@pytest.mark.parametrize(
    ("start", "end", "moment", "holds"),
    [
        ("2026-12-24T12:00:00Z", "2026-12-27T00:00:00Z", "2026-12-24T11:59:59", False),
        ("2026-12-24T12:00:00Z", "2026-12-27T00:00:00Z", "2026-12-24T12:00:00", True),
        ("2026-12-24T12:00:00Z", "2026-12-27T00:00:00Z", "2026-12-26T23:59:59", True),
        ("2026-12-24T12:00:00Z", "2026-12-27T00:00:00Z", "2026-12-27T00:00:00", False),
        ("2026-12-24T12:00:00+01:00", "", "2026-12-24T11:00:00", True),
        ("", "2026-12-24T12:00:00+01:00", "2026-12-24T11:00:00", False),
    ],
)
def test_a_budget_may_hold_once_from_start_until_end(start: str, end: str, moment: str, holds: bool) -> None:
    assert active(Budget("0", start=start, end=end), at(moment)) is holds


def test_a_schedule_with_a_start_and_an_end_needs_both() -> None:
    budget = Budget("0", "0 9 * * *", 3600.0, start="2026-03-02T00:00:00Z", end="2026-03-03T00:00:00Z")
    hours = [h for h in range(-24, 48) if active(budget, at("2026-03-02T00:00:00") + 3600 * h)]
    assert hours == [9]


def test_outside_of_the_windows_that_allow_disruption_nothing_is_allowed() -> None:
    nights = Budget(schedule="0 22 * * *", duration_s=6 * 3600.0, reasons=("Drifted",))
    pool = Builder().pool(budgets=())
    pool = msgspec.structs.replace(
        pool, disruption=msgspec.structs.replace(pool.disruption, allow_windows=(nights,))
    )
    assert limit(pool, Reason.DRIFTED, 10, at("2026-03-02T12:00:00")) == 0
    assert limit(pool, Reason.DRIFTED, 10, at("2026-03-02T23:00:00")) is None
    assert limit(pool, Reason.EMPTY, 10, at("2026-03-02T12:00:00")) is None


def test_a_window_that_cannot_be_read_stays_shut() -> None:
    pool = Builder().pool(budgets=())
    for window in (Budget(schedule="whenever", duration_s=60.0), Budget(start="tomorrow")):
        shut = msgspec.structs.replace(pool.disruption, allow_windows=(window,))
        assert limit(msgspec.structs.replace(pool, disruption=shut), Reason.EMPTY, 10, NOW) == 0


@pytest.mark.parametrize("broken", [{"time_zone": "Mars/Base"}, {"start": "tomorrow"}, {"end": "2026-01-01"}])
def test_a_time_that_cannot_be_read_allows_nothing_and_says_so(broken: dict[str, str]) -> None:
    budget = Budget("50%", "* * * * *", 60.0, **broken)  # type: ignore[arg-type]
    nodes, why = limited(Builder().pool(budgets=(budget,)), Reason.EMPTY, 10, NOW)
    assert nodes == 0
    assert "can't be read" in why


def test_a_refusal_names_the_budget_and_its_numbers() -> None:
    build = Builder()
    build.pool(budgets=(Budget("50%"), Budget("1", "* * * * *", 120.0, ("Empty",))))
    for name in ("a", "b", "c"):
        build.node(name, ready=name != "b")
    room = Room(build.snapshot, frozenset(), NOW)
    candidate = candidates(build.view())[0]
    assert not room.take("default", Reason.EMPTY)
    block = room.block(candidate, Reason.EMPTY)
    assert "'1' at '* * * * *' UTC" in block.message
    assert (block.facts["allowed"], block.facts["nodes"], block.facts["disrupted"]) == (1, 3, 1)
    assert block.facts["nextChange"] == NOW - NOW % 60 + 60


@pytest.mark.parametrize(
    ("moment", "change"),
    [
        ("2026-03-02T08:00:00", "2026-03-02T09:00:00"),
        ("2026-03-02T09:00:00", "2026-03-02T17:00:00"),
        ("2026-03-02T17:00:00", "2026-03-03T09:00:00"),
    ],
)
def test_the_next_change_of_a_budget_is_known(moment: str, change: str) -> None:
    pool = Builder().pool(budgets=(Budget("10%"), Budget("0", "0 9 * * *", 8 * 3600.0)))
    assert next_change(pool, at(moment)) == at(change)
    assert next_change(Builder().pool(), at(moment)) is None


def test_a_duration_longer_than_the_recurrence_is_always_active() -> None:
    budget = Budget("0", schedule="0 9 * * *", duration_s=25 * 3600.0)
    assert all(active(budget, at("2026-03-02T00:00:00") + hour * 3600) for hour in range(48))


@pytest.mark.parametrize("schedule", ["whenever", "61 * * * *", "* * * * * *", "0 9 31 2 *"])
def test_a_schedule_that_cannot_be_read_allows_nothing(schedule: str) -> None:
    pool = Builder().pool(budgets=(Budget("50%", schedule=schedule, duration_s=60.0),))
    assert limit(pool, Reason.EMPTY, 10, NOW) == 0


@pytest.mark.parametrize("nodes", ["150%", "-1", "many", "", "x%", "nan%", "inf%"])
def test_a_count_that_cannot_be_read_allows_nothing(nodes: str) -> None:
    assert limit(Builder().pool(budgets=(Budget(nodes),)), Reason.EMPTY, 10, NOW) == 0


def test_the_least_budget_for_the_reason_holds() -> None:
    budgets = (Budget("50%"), Budget("2", reasons=("Empty",)), Budget("0", reasons=("Drifted",)))
    pool = Builder().pool(budgets=budgets)
    assert limit(pool, Reason.EMPTY, 10, NOW) == 2
    assert limit(pool, Reason.DRIFTED, 10, NOW) == 0
    assert limit(pool, Reason.UNDERUTILIZED, 10, NOW) == 5


def test_no_budget_is_no_limit() -> None:
    assert limit(Builder().pool(budgets=()), Reason.EMPTY, 10, NOW) is None


def test_percent_budget_is_rounded_up_and_a_node_that_is_not_ready_consumes_it() -> None:
    build = Builder()
    build.pool(budgets=(Budget("5%"),))
    for i in range(10):
        build.node(f"n{i}", ready=i > 0)
    assert Room(build.snapshot, frozenset(), NOW).left("default", Reason.EMPTY) == 0


def test_replacements_that_are_not_initialized_do_not_enlarge_the_base() -> None:
    build = Builder()
    build.pool(budgets=(Budget("50%"),))
    for i in range(4):
        build.node(f"n{i}", initialized=i < 2)
    assert Room(build.snapshot, frozenset(), NOW).left("default", Reason.EMPTY) == 1


def test_nodes_of_commands_and_nodes_being_deleted_consume_the_budget() -> None:
    build = Builder()
    build.pool(budgets=(Budget("3"),))
    for i in range(5):
        build.node(f"n{i}", claim={"deleted_at": NOW} if i == 0 else {})
    room = Room(build.snapshot, frozenset({"n1"}), NOW)
    assert room.left("default", Reason.EMPTY) == 1
    assert room.take("default", Reason.EMPTY)
    assert not room.take("default", Reason.EMPTY)


def test_a_reason_that_is_none_shuts_for_all_reasons() -> None:
    """Misspelt, it would otherwise open what it was meant to shut."""
    pool = Builder().pool(budgets=(Budget("100%"), Budget("0", reasons=("Underutilised",))))
    for reason in Reason:
        assert limit(pool, reason, 10, NOW) == 0

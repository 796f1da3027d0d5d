"""Budgets: windows at their edges, shares rounded up, what counts as disrupted already."""

from datetime import UTC, datetime

import pytest

from nodeyard.api.pool import Budget
from nodeyard.disruption.budgets import Room, active, limit
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

"""Searching for a cheaper plan is counted, not timed: equal problems get equal plans however busy the machine is."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import msgspec
import pytest

from nodeyard.provisioning.effort import Effort
from nodeyard.provisioning.model import Options, Plan
from nodeyard.provisioning.planner import plan
from nodeyard.provisioning.solver import INF, Rows, solved_integer
from tests.support import problems
from tests.support.planning import posed
from tests.support.problems import PlanningProblem

BRIEF = Options(deadline_s=600.0, search_s=0.4)


def decided(given: PlanningProblem, clock: Callable[[], float], options: Options = BRIEF) -> Plan:
    """The plan without what it took."""
    made = plan(posed(given), options, clock)
    return msgspec.structs.replace(made, plan_s=0.0, bound_s=0.0)


@pytest.mark.parametrize(
    "given",
    [
        problems.plain_deployments(),
        problems.zone_spread(),
        problems.host_anti_affinity(),
        problems.existing_nodes(),
        problems.spot_fleet(total=120),
        problems.preferring(120),
    ],
    ids=lambda given: given.name,
)
def test_a_slower_machine_gets_the_same_plan(given: PlanningProblem) -> None:
    began = time.monotonic()

    def slow() -> float:
        return 2.0 * (time.monotonic() - began)

    assert decided(given, slow) == decided(given, lambda: 0.0)


def test_no_search_is_a_plan_all_the_same_and_a_search_never_makes_it_dearer() -> None:
    given = problems.plain_deployments(seed=5)
    first = decided(given, lambda: 0.0, Options(search_s=0.0))
    searched = decided(given, lambda: 0.0, Options(search_s=2.0))
    assert first.complete
    assert not first.unschedulable
    assert searched.cost.objective_per_hour <= first.cost.objective_per_hour + 1e-9


def test_a_budget_is_used_up_by_work_and_ends_at_the_deadline() -> None:
    left = 5.0
    effort = Effort(lambda: left)
    budget = effort.budget(2.0)
    assert budget() == pytest.approx(2.0)
    while budget() > 0:
        effort.count(1e6)
    assert effort.seconds == pytest.approx(2.0, abs=0.1)
    left = 0.5
    assert effort.budget(2.0)() == 0.5


def test_the_solver_ends_by_count_with_the_same_answer_each_time() -> None:
    rows, weights = Rows(), itertools.cycle((31, 47, 59, 73, 97, 113, 139))
    room = [rows.row(0.0, 1000.0 + 17 * i) for i in range(12)]
    for i in range(120):
        rows.variable(
            -float(next(weights) + i % 5), [(row, float(next(weights) + 3 * i % 11)) for row in room]
        )
    answers = []
    for _ in range(2):
        work = Effort()
        found = solved_integer(rows.program(), [True] * 120, 0.2, work, relative_gap=0.0)
        assert found is not None
        assert found.values is not None
        assert -INF < found.low <= float(found.values @ rows.cost) + 1e-9
        answers.append((found.low, found.values.tolist(), work.seconds))
    assert answers[0] == answers[1]
    assert answers[0][2] < 0.4

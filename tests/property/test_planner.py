"""The planner against an independent judge and a brute-force search, on random pools, pods and markets.

What must hold of every plan: the real rules are kept, whichever alternative each node takes; nothing is left out that
could be placed; sums are sums; and no plan is cheaper than the lower bound says.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nodeyard.provisioning.model import Options
from nodeyard.provisioning.planner import plan
from tests.support.brute_force import optimum
from tests.support.invented_market import invented
from tests.support.judge import judge, overlooked, taken_at
from tests.support.manifests import pool
from tests.support.planning import Solved, posed, solve, solved_kind
from tests.support.problems import KINDS, PlanningProblem, fleet
from tests.support.small_problems import small_problem

UNHURRIED = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
LEFT_OUT = {"node affinities": {"nowhere"}, "tainted pools": {"lost"}, "volumes": {"broken"}}
"""Kind -> the deployments that nothing can place."""
MIXABLE = ("plain deployments", "diverse", "spot fleet", "zone spread", "rolling spread", "host anti-affinity",
           "host ports", "affinities")  # fmt: skip
CHARGE = Options().node_charge_usd_per_hour
MOSTLY_OPTIMAL, MEAN_EXCESS = 0.9, 0.05
"""Of plans that can be compared with the cheapest there is: the share that are it, and by how much they exceed it."""


def assert_valid(problem: PlanningProblem, solved: Solved, seed: int = 0) -> None:
    """Nothing broken, at the first choices and at others; nothing overlooked."""
    assert judge(problem.objects, problem.market, solved.report) == []
    rng = random.Random(seed)
    for _ in range(3):
        other = taken_at(solved.report, rng)
        assert judge(problem.objects, problem.market, other, weights=False) == []
    assert overlooked(problem.objects, problem.market, solved.report) == []


def left_out(solved: Solved) -> set[str]:
    """The deployments of the pods not placed."""
    return {u["pod"].partition("/")[2].rpartition("-")[0] or u["pod"].partition("/")[2] for u in solved.report["unschedulable"]}  # fmt: skip


# --- every kind of constraint ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_plan_keeps_every_rule_whatever_alternative_its_nodes_take(kind: str, seed: int) -> None:
    problem, solved = solved_kind(kind, seed)
    assert_valid(problem, solved, seed)


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "short of limits"])
def test_nobody_is_left_out_who_can_be_placed(kind: str) -> None:
    for seed in (1, 2, 3):
        assert left_out(solved_kind(kind, seed)[1]) == LEFT_OUT.get(kind, set())


def test_when_limits_bind_the_more_important_pods_are_placed() -> None:
    _, solved = solved_kind("short of limits", 1)
    assert left_out(solved) == {"low"}
    assert {u["reason"] for u in solved.report["unschedulable"]} == {"LimitsExceeded"}


@settings(UNHURRIED, max_examples=20)
@given(st.sampled_from(MIXABLE), st.sampled_from(MIXABLE), st.integers(0, 10**6))
def test_kinds_of_constraint_mixed_in_one_plan_are_all_kept(first: str, second: str, seed: int) -> None:
    one, two = KINDS[first](seed), KINDS[second](seed + 1)
    moved = [
        {**o, "metadata": {**o["metadata"], "namespace": "other"}}
        for o in two.objects
        if o["kind"] == "Pod" and o["metadata"]["namespace"] == "default"
    ]
    pools = [pool(capacity_types=("spot", "on-demand"))]
    rest = [o for o in one.objects if o["kind"] != "NodePool"]
    problem = PlanningProblem(f"{first} and {second}", [*pools, *rest, *moved], one.market)
    solved = solve(problem)
    assert_valid(problem, solved, seed)
    assert not solved.report["unschedulable"]


def counted_clock() -> Callable[[], float]:
    """A clock that twenty milliseconds pass on at each look, however busy the machine is."""
    looks = count()
    return lambda: next(looks) / 50


def test_the_same_problem_on_the_same_clock_gives_the_same_plan() -> None:
    for kind in ("diverse", "two pools", "existing nodes"):
        problem = KINDS[kind](3)
        once, again = (plan(posed(problem), Options(), counted_clock()) for _ in range(2))
        assert once.nodes == again.nodes


# --- against everything there is -------------------------------------------------------------------------------------
@st.composite
def small_problems(draw: st.DrawFn) -> PlanningProblem:
    return small_problem(lambda least, most: draw(st.integers(least, most)))


@UNHURRIED
@given(small_problems())
def test_of_few_pods_none_is_left_that_a_search_can_place_and_the_bound_is_below_every_plan(
    problem: PlanningProblem,
) -> None:
    solved = solve(problem)
    assert_valid(problem, solved)
    best = optimum(problem, CHARGE)
    if best == float("inf"):
        return
    assert solved.report["unschedulable"] == []
    cost = solved.report["cost"]
    assert cost["lowerBound"] <= best + 1e-6
    if cost["gap"] is not None:  # there is none where the bound is 0 and the plan costs something
        assert cost["objectivePerHour"] <= best * (1 + cost["gap"]) + 1e-6
    assert cost["objectivePerHour"] >= best - 1e-6 or "topologySpreadConstraints" in str(problem.objects)


def test_of_few_pods_plans_hardly_cost_more_than_the_cheapest_there_is() -> None:
    """A fixed sample of problems, each searched in full."""
    above: list[float] = []
    for seed in range(150):
        problem = small_problem(random.Random(seed).randint)
        best = optimum(problem, CHARGE)
        report = solve(problem).report
        if best < float("inf") and not report["unschedulable"]:
            above.append(report["cost"]["objectivePerHour"] / max(best, 0.01) - 1)
    assert len(above) > 100
    assert sum(a < 0.005 for a in above) / len(above) >= MOSTLY_OPTIMAL
    assert sum(above) / len(above) <= MEAN_EXCESS


# --- options -----------------------------------------------------------------------------------------------------------
@settings(UNHURRIED, max_examples=15)
@given(st.floats(0, 0.2), st.floats(0, 0.5), st.integers(0, 10), st.integers(0, 100))
def test_settings_of_charge_and_alternatives_are_kept(
    charge: float, tolerance: float, most: int, seed: int
) -> None:
    options = Options(
        node_charge_usd_per_hour=charge, price_tolerance=tolerance, max_alternatives=most, bound=False
    )
    report = solve(KINDS["plain deployments"](seed), options).report
    assert report["cost"]["nodeChargePerHour"] == pytest.approx(charge * len(report["nodes"]))
    assert report["cost"]["lowerBound"] is None
    for made in report["nodes"]:
        assert len(made["alternatives"]) <= most
        for other in made["alternatives"]:
            assert other["pricePerHour"] <= made["pricePerHour"] * (1 + tolerance) + 1e-9


def test_a_cap_on_the_share_of_one_workload_per_node_is_kept() -> None:
    problem = KINDS["plain deployments"](1)
    solved = solve(problem, Options(max_share_per_node=0.25))
    assert judge(problem.objects, problem.market, solved.report) == []
    for made in solved.report["nodes"]:
        for app in ("web0", "web1", "web2"):
            assert sum(p.startswith(f"default/{app}-") for p in made["pods"]) <= 15 * 0.25


def test_a_deadline_yields_a_valid_plan_that_says_so() -> None:
    problem = fleet(1500, 150, market=invented(150))
    solved = solve(problem, Options(deadline_s=0.02))
    assert judge(problem.objects, problem.market, solved.report) == []
    assert solved.report["nodes"]
    assert not solved.plan.complete

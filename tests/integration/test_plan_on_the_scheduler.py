"""Plans of every kind of constraint on a real API server: the real kube-scheduler must let every pod through."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from nodeyard.local.kubeapi import KubeApi
from tests.support.kube_rules import Json
from tests.support.manifests import pods, pool
from tests.support.planning import solve, solved_kind
from tests.support.problems import KINDS, PlanningProblem, zone_spread
from tests.support.staging import Pin, Stage, placed_keys

pytestmark = pytest.mark.cluster
_runs = itertools.count(1)


@pytest.fixture
def stage(kube: KubeApi) -> Iterator[list[Stage]]:
    made: list[Stage] = []
    yield made
    for each in made:
        each.clear()


def put(api: KubeApi, made: list[Stage], problem: PlanningProblem, plan: Json, pin: Pin) -> Stage:
    """The plan on the server, cleared away after the test."""
    each = Stage(api, f"plan{next(_runs)}", problem, plan, pin)
    made.append(each)
    each.put()
    return each


@pytest.mark.parametrize("pin", list(Pin))
@pytest.mark.parametrize("kind", KINDS)
def test_the_scheduler_lets_every_planned_pod_through(
    kind: str, pin: Pin, kube: KubeApi, stage: list[Stage]
) -> None:
    problem, solved = solved_kind(kind, 1)
    report = solved.report
    made = put(kube, stage, problem, report, pin)
    assert made.unplaced() == []
    assert len(made.expected) == len(placed_keys(report)) > 0


def test_the_scheduler_refuses_a_plan_that_breaks_a_spread(kube: KubeApi, stage: list[Stage]) -> None:
    """The check can fail: all pods of a zone spread moved to the nodes of one zone."""
    problem = zone_spread(1, each=4)
    report = solve(problem).report
    wrong = {
        **report,
        "nodes": [{**n, "zone": "eu-test-1a", "alternatives": [], "labels": {}} for n in report["nodes"]],
    }
    extra = {**report["nodes"][0], "name": "other-zone", "pods": [], "zone": "eu-test-1b", "labels": {}}
    wrong["nodes"].append(extra)
    assert put(kube, stage, problem, wrong, Pin.TAINTS).unplaced(within_s=8) != []


def test_the_scheduler_refuses_a_plan_that_overfills_a_node(kube: KubeApi, stage: list[Stage]) -> None:
    """The check can fail: one pod more than the cheapest node holds."""
    problem = PlanningProblem(
        "full", [pool(), *pods("web", 6, 900, 900)], KINDS["plain deployments"](1).market
    )
    report = solve(problem).report
    everyone = [p for n in report["nodes"] for p in n["pods"]]
    small = next(o for e in problem.market.values() if e["name"] == "c5.large" for o in e["offerings"])
    node = {
        **report["nodes"][0],
        "instanceType": "c5.large",
        "zone": small["zone"],
        "labels": {},
        "pods": everyone,
    }
    assert put(kube, stage, problem, {**report, "nodes": [node]}, Pin.FIELDS).unplaced(within_s=8) != []

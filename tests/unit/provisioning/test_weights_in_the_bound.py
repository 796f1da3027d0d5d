"""Pools by weight in what is proved: a lighter, cheaper pool lowers the bound only where somebody may buy a node of it."""

from __future__ import annotations

from typing import Any

import pytest

from nodeyard.api import labels
from nodeyard.provisioning.compiling import compile_problem
from nodeyard.provisioning.field import Field
from nodeyard.provisioning.model import Options
from nodeyard.provisioning.tiers import Case, buyable, cases
from tests.support.invented_market import ZONES, invented
from tests.support.kube_rules import ZONE
from tests.support.manifests import pod, pods, pool, required, spread
from tests.support.planning import posed, solve
from tests.support.problems import PlanningProblem

Json = dict[str, Any]
MARKET = invented(40, 4)
POOLS = (pool("dear", weight=20), pool("cheap", capacity_types=("spot",)))
TWELVE = pods("app", 12, 900, 1500)


def bought(*objects: Json) -> set[str]:
    """Pools of which some plan may buy a node."""
    setting, _ = compile_problem(posed(PlanningProblem("", list(objects), MARKET)), Options())
    first = Field(setting.problem, setting.classes, setting.columns, setting.hosts, setting.rules)
    return {
        setting.columns.pool_of(c).key for c in range(setting.columns.count) if buyable(setting, first)[c]
    }


def found(*objects: Json) -> list[Case]:
    setting, _ = compile_problem(posed(PlanningProblem("", list(objects), MARKET)), Options())
    return cases(
        setting, Field(setting.problem, setting.classes, setting.columns, setting.hosts, setting.rules)
    )


def test_the_bound_does_not_count_on_a_cheaper_pool_that_nobody_may_use() -> None:
    made = solve(PlanningProblem("", [*POOLS, *TWELVE], MARKET)).plan
    assert {node.pool for node in made.nodes} == {"dear"}
    assert made.cost.gap == pytest.approx(0.0, abs=0.06)


@pytest.mark.parametrize(
    "why",
    [
        [pod("spot-only", 100, 128, nodeSelector={labels.CAPACITY_TYPE: "spot"})],
        [pod("too-large-for-one", 100, 128, affinity=required("podAffinity", labels.HOSTNAME, {"app": "app"}))],
    ],
    ids=["a pod that only the lighter pool takes", "pods that must share a node"],
)  # fmt: skip
def test_a_lighter_pool_counts_where_a_pod_may_need_it(why: list[Json]) -> None:
    assert bought(*POOLS, *TWELVE, *why) == {"dear", "cheap"}


def test_a_lighter_pool_counts_where_limits_may_close_the_heavier_one() -> None:
    limited = pool("dear", weight=20, limits={"cpu": "8"})
    assert bought(limited, POOLS[1], *TWELVE) == {"dear", "cheap"}


def test_what_must_be_bought_of_a_limited_pool_is_in_the_bound() -> None:
    """No node of the cheap pool before the dear one is used up."""
    limited = pool("dear", weight=20, limits={"cpu": "8"})
    made = solve(PlanningProblem("", [limited, POOLS[1], *pods("app", 60, 900, 1500)], MARKET)).plan
    assert {node.pool for node in made.nodes} == {"dear", "cheap"}
    assert made.cost.gap == pytest.approx(0.0, abs=0.1)


@pytest.mark.parametrize(("limit", "full"), [("8", 7000), ("9", 8000), ("11", 10000)])
def test_a_limited_pool_is_closed_once_the_smallest_node_for_a_pod_finds_no_room(
    limit: str, full: float
) -> None:
    """There are nodes of one core, the pods need two."""
    two = pods("app", 12, 1500, 1500)
    made = found(pool("dear", weight=20, limits={"cpu": limit}), POOLS[1], *two)
    assert [[least for _, least in one.full] for one in made] == [[], [full]]


def test_pods_that_need_large_nodes_close_a_limited_pool_earlier_than_others() -> None:
    large = pods("large", 3, 3000, 4000)
    made = found(pool("dear", weight=20, limits={"cpu": "16"}), POOLS[1], *TWELVE, *large)
    assert [[least for _, least in one.full] for one in made] == [[], [16000], [13000]]


def test_what_a_limited_pool_must_sell_counts_for_nothing_where_no_lighter_one_takes_its_pods() -> None:
    made = found(pool("dear", weight=20, limits={"cpu": "8"}), pool("arm", arches=["arm64"]), *TWELVE)
    assert [one.full for one in made] == [()]


def test_a_lighter_pool_counts_in_a_zone_that_the_heavier_one_does_not_reach() -> None:
    near = [{"key": ZONE, "operator": "In", "values": [ZONES[0]]}]
    spreading = pods("app", 12, 900, 1500, topologySpreadConstraints=[spread(ZONE, "app")])
    heavy = pool("dear", weight=20, requirements=near)
    assert bought(heavy, POOLS[1], *spreading) == {"dear", "cheap"}
    assert bought(heavy, POOLS[1], *TWELVE) == {"dear"}


def test_a_pod_that_prefers_the_lighter_pool_may_have_it() -> None:
    spot = {"matchExpressions": [{"key": labels.CAPACITY_TYPE, "operator": "In", "values": ["spot"]}]}
    soft = {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "preference": spot}]}
    assert bought(*POOLS, pod("a", 900, 1500, affinity={"nodeAffinity": soft})) == {"dear", "cheap"}

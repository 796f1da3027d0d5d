"""Pods that required affinity ties to hosts and domains: planned as a whole where they are few, and known to what is proved."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from nodeyard.provisioning.company import Company, company_of
from nodeyard.provisioning.compiling import compile_problem
from nodeyard.provisioning.field import Field
from nodeyard.provisioning.model import Options
from tests.support.brute_force import optimum
from tests.support.invented_market import ZONES, instance_type, invented, offering
from tests.support.judge import judge
from tests.support.kube_rules import HOST, ZONE
from tests.support.manifests import daemon, node, pod, pods, pool, required, spread
from tests.support.planning import Solved, posed, solve
from tests.support.problems import PlanningProblem

Json = dict[str, Any]
MARKET = invented(40, 4)
BOTH = ("spot", "on-demand")
SMALL = {
    f"m5.t{cpus}": instance_type(
        f"m5.t{cpus}", cpus, cpus * 4, [offering(zone, "on-demand", cpus * 0.05) for zone in ZONES[:2]]
    )
    for cpus in (2, 4, 8)
}
"""Prices proportional to size: room alone says nothing for large nodes."""


def planned(*objects: Json, market: dict[str, Json] = MARKET) -> Solved:
    """The plan, which must be valid to the judge and place all pods."""
    given = PlanningProblem("", [pool(capacity_types=BOTH), *objects], market)
    solved = solve(given)
    assert judge(given.objects, market, solved.report) == []
    assert not solved.report["unschedulable"]
    return solved


def company(*objects: Json) -> tuple[Company, dict[str, int]]:
    """What is known of the pods, and the class of each app."""
    problem = posed(PlanningProblem("", [pool(capacity_types=BOTH), *objects], MARKET))
    setting, _ = compile_problem(problem, Options())
    first = Field(setting.problem, setting.classes, setting.columns, setting.hosts, setting.rules)
    numbers = {c.shape.labels["app"]: c.number for c in setting.classes.classes}
    return company_of(setting, first), numbers


def joining(key: str, app: str) -> Json:
    return required("podAffinity", key, {"app": app})


# --- one host -----------------------------------------------------------------------------------------------------------
def test_the_bound_knows_that_pods_which_share_a_host_need_one_with_room_for_all() -> None:
    solved = planned(*pods("own", 4, 1500, 1000, affinity=joining(HOST, "own")), market=SMALL)
    cost = solved.report["cost"]
    assert cost["lowerBound"] == pytest.approx(8 * 0.05 + 0.01, rel=1e-3)
    assert cost["gap"] == pytest.approx(0.0, abs=1e-3)
    assert cost["boundIgnores"] == []


def test_pods_that_follow_a_single_one_share_its_host_to_the_bound() -> None:
    followers = pods("side", 3, 1500, 1000, affinity=joining(HOST, "lead"))
    known, number = company(pod("lead-0", 500, 500), *followers)
    assert known.whole == [frozenset({number["lead"], number["side"]})]
    solved = planned(pod("lead-0", 500, 500), *followers, market=SMALL)
    assert solved.report["cost"]["lowerBound"] == pytest.approx(8 * 0.05 + 0.01, rel=1e-3)


def test_pods_that_must_each_be_beside_one_of_several_are_planned_as_cheaply_as_can_be() -> None:
    alone = required("podAntiAffinity", HOST, {"app": "lead"})
    objects = [
        *pods("lead", 2, 200, 300, affinity=alone),
        *pods("side", 3, 900, 1500, affinity=joining(HOST, "lead")),
    ]
    given = PlanningProblem("", [pool(capacity_types=BOTH), *objects], SMALL)
    cost = planned(*objects, market=SMALL).report["cost"]
    assert cost["objectivePerHour"] == pytest.approx(optimum(given, 0.01))
    assert cost["gap"] == pytest.approx(0.0, abs=1e-3)


def test_followers_of_a_pod_that_spreads_over_zones_are_planned_with_it() -> None:
    """The cheapest node for all is in the zone where the leader by itself would not go."""
    offers = {"m5.t2": (2, 0.04, 0.06), "m5.t8": (8, 0.4, 0.2)}
    market = {
        name: instance_type(
            name, cpus, cpus * 4, [offering(z, "on-demand", p) for z, p in zip(ZONES, prices, strict=False)]
        )
        for name, (cpus, *prices) in offers.items()
    }
    lead = pod("lead-0", 500, 500, topologySpreadConstraints=[spread(ZONE, "lead")])
    solved = planned(lead, *pods("side", 3, 1500, 1000, affinity=joining(HOST, "lead")), market=market)
    assert solved.report["cost"]["objectivePerHour"] == pytest.approx(0.21)
    assert solved.report["cost"]["gap"] == pytest.approx(0.0, abs=1e-3)


def test_pods_that_keep_others_off_their_node_are_planned_with_the_rest_as_a_whole() -> None:
    """Six that exclude each other, and four that exclude those but not each other."""
    off = required("podAntiAffinity", HOST, {"app": "solo"})
    objects = [
        *pods("solo", 6, 200, 300, affinity=off),
        *pods("shy", 4, 900, 1500, affinity=off),
        *pods("rest", 9, 700, 900),
    ]
    cost = planned(*objects).report["cost"]
    assert cost["gap"] == pytest.approx(0.0, abs=0.005)
    assert cost["boundIgnores"] == []


def test_followers_may_join_a_standing_pod_without_a_new_one() -> None:
    there = [
        node("n", ZONES[0], cpus=8, memory_gib=32),
        pod("lead-old", 100, 100, node="n", labels={"app": "lead"}),
    ]
    solved = planned(
        *there, pod("lead-0", 200, 200), *pods("side", 3, 900, 900, affinity=joining(HOST, "lead"))
    )
    assert solved.report["nodes"] == []
    assert [len(e["pods"]) for e in solved.report["existing"]] == [4]


def test_nothing_is_concluded_from_an_affinity_that_does_not_settle_the_host() -> None:
    two = [joining(HOST, "own")["podAffinity"], joining(ZONE, "own")["podAffinity"]]
    merged = {"podAffinity": {key: [*two[0][key], *two[1][key]] for key in two[0]}}
    assert company(*pods("own", 3, affinity=merged))[0] == Company()
    overlapping = [*pods("own", 2, affinity=joining(HOST, "own")), pod("other-0", labels={"app": "own"})]
    assert company(*overlapping)[0].whole == []
    counted = daemon("own", 100, 100)
    counted["metadata"]["namespace"] = "default"
    counted["spec"]["template"]["metadata"]["labels"] = {"app": "own"}
    assert company(counted, *pods("own", 3, affinity=joining(HOST, "own")))[0].whole == []


def test_pods_that_share_a_host_and_spread_over_zones_stay_pods_of_their_own() -> None:
    spreading = pods("own", 2, affinity=joining(HOST, "own"), topologySpreadConstraints=[spread(ZONE, "own")])
    assert company(*spreading)[0].whole == []


# --- one domain ----------------------------------------------------------------------------------------------------------
def test_pods_that_share_a_zone_are_planned_with_the_rest_as_a_whole() -> None:
    objects = [
        *pods("za", 8, 900, 1500, affinity=joining(ZONE, "za")),
        *pods("apart", 3, 400, 900, affinity=required("podAntiAffinity", ZONE, {"app": "apart"})),
        *pods("rest", 12, 700, 2000),
    ]
    solved = planned(*objects)
    assert solved.report["cost"]["gap"] == pytest.approx(0.0, abs=0.005)
    assert solved.report["cost"]["boundIgnores"] == []
    zones = Counter(n["zone"] for n in solved.report["nodes"] if any("za-" in p for p in n["pods"]))
    assert len(zones) == 1


def test_pods_that_follow_others_into_their_zone_are_known_to_the_bound() -> None:
    """Whom they follow can only be in the dearer zone."""
    market = {
        "m5.t4": instance_type(
            "m5.t4", 4, 16, [offering(ZONES[0], "on-demand", 0.1), offering(ZONES[1], "on-demand", 0.3)]
        )
    }
    lead = pod("lead-0", 100, 100, nodeSelector={ZONE: ZONES[1]})
    solved = planned(lead, *pods("side", 6, 1100, 1100, affinity=joining(ZONE, "lead")), market=market)
    assert solved.report["cost"]["lowerBound"] == pytest.approx(2 * 0.31, rel=1e-3)
    assert solved.report["cost"]["gap"] == pytest.approx(0.0, abs=1e-3)


def test_pods_that_only_standing_ones_can_be_company_to_go_nowhere_else() -> None:
    """The zone where the old one stands is the dearer one."""
    market = {
        "m5.t4": instance_type(
            "m5.t4", 4, 16, [offering(ZONES[0], "on-demand", 0.1), offering(ZONES[1], "on-demand", 0.3)]
        )
    }
    there = [
        node("n", ZONES[1], cpus=2, memory_gib=4),
        pod("web-old", 1500, 3000, node="n", labels={"app": "web"}),
    ]
    solved = planned(*there, *pods("web", 3, 1100, 1100, affinity=joining(ZONE, "web")), market=market)
    assert solved.report["cost"]["lowerBound"] == pytest.approx(0.31, rel=1e-3)


def test_pods_that_wait_for_each_other_are_not_placed() -> None:
    waiting = [pod("a-0", affinity=joining(ZONE, "b")), pod("b-0", affinity=joining(ZONE, "a"))]
    report = solve(PlanningProblem("", [pool(capacity_types=BOTH), *waiting], MARKET)).report
    assert {u["pod"] for u in report["unschedulable"]} == {"default/a-0", "default/b-0"}
    assert report["nodes"] == []

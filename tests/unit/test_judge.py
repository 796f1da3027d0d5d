"""The judge of plans finds what is wrong: a valid plan, broken on purpose in every way, is refused for that reason."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from tests.support.brute_force import optimum
from tests.support.invented_market import ZONES, instance_type, offering
from tests.support.judge import judge, overlooked
from tests.support.kube_rules import HOST, ZONE, expression_holds, pod_requests, selector_matches, terms_hold
from tests.support.manifests import daemon, node, pod, pods, pool, required, spread
from tests.support.problems import PlanningProblem

Json = dict[str, Any]
MARKET = {
    name: instance_type(name, cpus, cpus * 4, [offering(z, "on-demand", cpus / 20) for z in ZONES[:2]])
    for name, cpus in (("m5.large", 2), ("m5.xlarge", 4))
}
OBJECTS = [
    pool(limits={"cpu": "16"}),
    pool("heavy", weight=10, categories="c"),
    node("n0", ZONES[0], cpus=2, memory_gib=8),
    pod("old-0", 300, 300, node="n0", labels={"app": "old"}),
    daemon("agent", 100, 100),
    *pods("db", 2, 500, 900, affinity=required("podAntiAffinity", HOST, {"app": "db"})),
    *pods("web", 2, 200, 200, topologySpreadConstraints=[spread(ZONE, "web")]),
    *pods("near", 1, 200, 200, affinity=required("podAffinity", HOST, {"app": "db"})),
    *pods("edge", 2, 100, 100, ports=[{"containerPort": 80, "hostPort": 80}]),
    pod("left-0", 900_000),
]


def made(name: str, zone: str, *names: str) -> Json:
    return {
        "name": name, "nodePool": "default", "instanceType": "m5.large", "zone": zone, "capacityType": "on-demand",
        "pricePerHour": 0.1, "labels": {}, "pods": [f"default/{n}" for n in names],
        "alternatives": [{"instanceType": "m5.large", "zone": ZONES[1] if zone == ZONES[0] else ZONES[0],
                          "capacityType": "on-demand", "pricePerHour": 0.1}],
    }  # fmt: skip


PLAN: Json = {
    "nodes": [made("a", ZONES[0], "db-0", "web-0", "near-0", "edge-0"), made("b", ZONES[1], "db-1", "web-1")],
    "existing": [{"node": "n0", "pods": ["default/edge-1"]}],
    "unschedulable": [{"pod": "default/left-0", "reason": "InsufficientResources", "message": "too large"}],
    "cost": {"pricePerHour": 0.2, "nodeChargePerHour": 0.02, "objectivePerHour": 0.22, "dearestPerHour": 0.2,
             "lowerBound": 0.2, "gap": 0.1},
}  # fmt: skip


def move(plan: Json, name: str, to: int | str) -> None:
    """Put a pod elsewhere: the index of a new node, or the name of a standing one."""
    for entry in [*plan["nodes"], *plan["existing"]]:
        entry["pods"] = [p for p in entry["pods"] if p != f"default/{name}"]
    target = (
        plan["nodes"][to] if isinstance(to, int) else next(e for e in plan["existing"] if e["node"] == to)
    )
    target["pods"].append(f"default/{name}")


BROKEN: dict[str, tuple[Callable[[Json], Any], str]] = {
    "a pod missing": (lambda p: p["nodes"][0]["pods"].remove("default/web-0"), "web-0 appears 0 times"),
    "a pod twice": (lambda p: p["nodes"][0]["pods"].append("default/web-1"), "web-1 appears 2 times"),
    "a pod nobody knows": (lambda p: p["nodes"][0]["pods"].append("default/x"), "default/x appears 1 times"),
    "a node nobody knows": (lambda p: p["existing"][0].update(node="n9"), "no such node n9"),
    "a type nobody knows": (lambda p: p["nodes"][0].update(instanceType="x"), "no such type"),
    "a zone not sold": (lambda p: p["nodes"][0].update(zone="nowhere"), "is not sold on-demand in nowhere"),
    "another price": (lambda p: p["nodes"][0].update(pricePerHour=0.05), "is not the catalogue's"),
    "a label that it won't have": (lambda p: p["nodes"][0]["labels"].update({ZONE: "x"}), "but will be"),
    "the wrong pool": (lambda p: p["nodes"][0].update(nodePool="heavy"), "breaks its pool's requirement"),
    "anti-affinity": (lambda p: move(p, "db-1", 0), "anti-affinity kubernetes.io/hostname"),
    "affinity": (lambda p: move(p, "near-0", "n0"), "affinity kubernetes.io/hostname unmet"),
    "spread": (lambda p: move(p, "web-1", 0), "spread topology.kubernetes.io/zone"),
    "a host port": (lambda p: move(p, "edge-1", 0), "host port"),
    "too much": (lambda p: move(p, "left-0", 0), "over by"),
    "a limit": (lambda p: p["nodes"].extend(made(f"c{i}", ZONES[0]) for i in range(8)), "limit cpu 16 exceeded"),
    "an alternative not sold": (lambda p: p["nodes"][0]["alternatives"][0].update(zone="x"), "not in the catalogue"),
    "an alternative too dear": (lambda p: p["nodes"][0]["alternatives"][0].update(instanceType="m5.xlarge", pricePerHour=0.2), "beside 0.1"),
    "a choice twice": (lambda p: p["nodes"][0]["alternatives"].append(p["nodes"][0]["alternatives"][0]), "there twice"),
    "a wrong sum": (lambda p: p["cost"].update(pricePerHour=0.1), "is not the nodes'"),
    "a bound too high": (lambda p: p["cost"].update(lowerBound=0.3), "above the objective"),
    "a wrong gap": (lambda p: p["cost"].update(gap=0.05), "gap 0.05 is not"),
    "no reason": (lambda p: p["unschedulable"][0].update(reason="Because"), "reason 'Because'"),
}  # fmt: skip


def test_a_valid_plan_passes() -> None:
    assert judge(OBJECTS, MARKET, PLAN) == []
    assert overlooked(OBJECTS, MARKET, PLAN) == []


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_plan_is_refused_for_what_is_broken(what: str) -> None:
    break_it, says = BROKEN[what]
    plan = deepcopy(PLAN)
    break_it(plan)
    assert any(says in error for error in judge(OBJECTS, MARKET, plan)), judge(OBJECTS, MARKET, plan)


def test_a_pod_left_out_that_a_node_could_take_is_named() -> None:
    plan = deepcopy(PLAN)
    plan["nodes"][1]["pods"].remove("default/db-1")
    plan["unschedulable"].append({"pod": "default/db-1", "reason": "LimitsExceeded", "message": "no room"})
    (found,) = overlooked(OBJECTS, MARKET, plan)
    assert found.startswith("default/db-1 (LimitsExceeded) fits")


def test_a_lighter_pool_used_where_the_heavier_could_is_named() -> None:
    objects = [pool(), pool("heavy", weight=10), pod("web-0", 100, 100)]
    plan = {**PLAN, "nodes": [made("a", ZONES[0], "web-0")], "existing": [], "unschedulable": []}
    assert any("heavier heavy could" in error for error in judge(objects, MARKET, plan))
    assert not any("heavier" in error for error in judge(objects, MARKET, plan, weights=False))


def test_spread_counts_zones_where_a_node_could_still_be_made() -> None:
    objects = [pool(), *pods("web", 2, 200, 200, topologySpreadConstraints=[spread(ZONE, "web")])]
    plan = {**PLAN, "nodes": [made("a", ZONES[0], "web-0", "web-1")], "existing": [], "unschedulable": []}
    assert any("spread" in error for error in judge(objects, MARKET, plan))


def test_the_search_finds_the_cheapest_of_all_plans() -> None:
    apart = required("podAntiAffinity", HOST, {"app": "web"})
    together, separate = ([pool(), *pods("web", 2, 500, 500, **more)] for more in ({}, {"affinity": apart}))
    assert optimum(PlanningProblem("", together, MARKET), 0.01) == pytest.approx(0.11)
    assert optimum(PlanningProblem("", separate, MARKET), 0.01) == pytest.approx(0.22)
    impossible = [pool(), *pods("web", 1, 500, 500, nodeSelector={ZONE: "nowhere"})]
    assert optimum(PlanningProblem("", impossible, MARKET), 0.01) == float("inf")


def test_requests_follow_kubernetes_rule_for_init_containers_and_sidecars() -> None:
    def container(cpu: str, **more: str) -> Json:
        return {"name": "c", "resources": {"requests": {"cpu": cpu}}, **more}

    spec = {
        "containers": [container("100m")],
        "initContainers": [container("200m", restartPolicy="Always"), container("500m")],
        "overhead": {"cpu": "10m"},
    }
    assert pod_requests(spec)["cpu"] == 710


def test_selectors_follow_kubernetes_rules_for_what_is_absent_or_empty() -> None:
    assert selector_matches({}, {})
    assert not selector_matches(None, {})
    assert not terms_hold([{}], {"a": "b"})
    assert terms_hold(
        [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}], {}, "n"
    )
    assert expression_holds({"key": "a", "operator": "NotIn", "values": ["b"]}, {})
    assert not expression_holds({"key": "a", "operator": "Gt", "values": ["1"]}, {"a": "many"})

"""Who gets a place first, where, and of which pool, as far as the cost leaves it open."""

from __future__ import annotations

from typing import Any

import pytest

from nodeyard.provisioning.model import Options
from tests.support.invented_market import ZONES
from tests.support.kube_rules import HOST, ZONE
from tests.support.manifests import claim, node, pod, pods, pool, required, spread
from tests.unit.provisioning.test_pods_beside_pods import liking, per, planned
from tests.unit.provisioning.test_what_nodes_offer import expression, reasons
from tests.unit.provisioning.test_what_nodes_offer import planned as unjudged

Json = dict[str, Any]


def born(name: str, when: str, uid: str = "", **more: Any) -> Json:
    made = pod(name, **more)
    made["metadata"]["creationTimestamp"] = f"2026-11-{when}T00:00:00Z"
    made["metadata"]["uid"] = uid or made["metadata"]["uid"]
    return made


def placed(solved: Any) -> set[str]:
    everywhere = [*solved.report["nodes"], *solved.report["existing"]]
    return {p.partition("/")[2] for e in everywhere for p in e["pods"]}


# --- pods -----------------------------------------------------------------------------------------------------------
def test_of_pods_alike_the_older_are_placed_where_not_all_can_be() -> None:
    apart = required("podAntiAffinity", ZONE, {"app": "web"})
    days = ("20", "03", "11", "02")
    solved = planned(*(born(f"web-{i}", day, affinity=apart) for i, day in enumerate(days)))
    assert placed(solved) == {"web-1", "web-3"}


def test_of_pods_of_one_age_the_lesser_uid_decides() -> None:
    apart = required("podAntiAffinity", ZONE, {"app": "web"})
    solved = planned(*(born(f"web-{i}", "05", uid, affinity=apart) for i, uid in enumerate("cbda")))
    assert placed(solved) == {"web-1", "web-3"}


# --- nodes that stand -----------------------------------------------------------------------------------------------
def test_of_nodes_alike_the_first_by_name_is_filled_and_claims_come_last() -> None:
    there = [node(name, ZONES[0]) for name in ("c", "a", "b")]
    assert [e["node"] for e in planned(*there, pod("web-0")).report["existing"]] == ["a"]
    coming = claim("a-claim", ZONES[0])
    assert [e["node"] for e in planned(coming, there[0], pod("web-0")).report["existing"]] == ["c"]
    solved = planned(coming, pod("web-0"))
    assert [(e["node"], e["pods"]) for e in solved.report["existing"]] == [
        ("nodeclaim/a-claim", ["default/web-0"])
    ]
    assert solved.report["nodes"] == []


def test_newcomers_even_out_what_stands() -> None:
    there = [node("n", ZONES[0]), node("m", ZONES[1])]
    running = pods("web", 3, 100, 100, node="n")
    fresh = [pod(f"web-new{i}", 100, 100, topologySpreadConstraints=[spread(ZONE, "web")]) for i in range(3)]
    solved = planned(*there, *running, *fresh)
    assert {e["node"]: len(e["pods"]) for e in solved.report["existing"]} == {"m": 3}


# --- pods that want each other --------------------------------------------------------------------------------------
def test_pods_join_those_of_theirs_that_run() -> None:
    near = required("podAffinity", ZONE, {"app": "web"})
    there = node("n", ZONES[1], cpus=2)
    solved = planned(
        there, pod("web-0", 100, 100, node="n"), *[pod(f"web-{i}", 1500, affinity=near) for i in (1, 2)]
    )
    assert not reasons(solved)
    assert set(per(solved, "zone", "web")) <= {ZONES[1]}


def test_pods_join_those_that_a_claim_on_its_way_was_made_for() -> None:
    near = required("podAffinity", ZONE, {"app": "db"})
    coming = claim("c", ZONES[1])
    solved = planned(coming, pod("db-0", nodeSelector={ZONE: ZONES[1]}), *pods("web", 6, 1500, affinity=near))
    assert not reasons(solved)
    assert set(per(solved, "zone", "web")) == {ZONES[1]}


def test_only_where_none_of_theirs_is_anywhere_may_pods_found_a_domain() -> None:
    """As the kube-scheduler has it: one of them in a zone that a pod can't reach keeps the pod waiting."""
    near = required("podAffinity", ZONE, {"app": "web"})
    there, runs = node("n", ZONES[0]), pod("web-0", 100, 100, node="n")
    tied = pod("web-1", 100, 100, affinity=near, nodeSelector={ZONE: ZONES[1]})
    assert reasons(planned(there, runs, tied)) == {"web-1": "PodAffinityUnsatisfiable"}
    assert not reasons(planned(there, tied))


def test_a_pod_that_its_own_selector_leaves_out_founds_nothing() -> None:
    near = required("podAffinity", ZONE, {"app": "db"})
    assert reasons(planned(pod("web-0", affinity=near))) == {"web-0": "PodAffinityUnsatisfiable"}


# --- pods that avoid each other -------------------------------------------------------------------------------------
def test_what_a_running_pod_would_rather_not_have_beside_it_binds_no_newcomer() -> None:
    there = node("n", ZONES[0])
    guard = pod("guard-0", node="n", affinity=liking("podAntiAffinity", HOST, "web", 100))
    solved = planned(there, guard, pod("web-0"))
    assert [e["pods"] for e in solved.report["existing"]] == [["default/web-0"]]


def test_every_choice_of_a_node_stays_where_its_pods_keep_others_off() -> None:
    """Alternatives in the other zone would let two that avoid each other meet there."""
    apart = required("podAntiAffinity", ZONE, {"app": "web"})
    solved = unjudged(*pods("web", 2, affinity=apart), options=Options(price_tolerance=5.0))
    assert len(solved.report["nodes"]) == 2
    for made in solved.report["nodes"]:
        assert made["alternatives"]
        assert {a["zone"] for a in made["alternatives"]} == {made["zone"]}


# --- pools ----------------------------------------------------------------------------------------------------------
def test_of_pools_alike_the_later_by_name_is_taken() -> None:
    alike = tuple(pool(name) for name in ("a", "c", "b"))
    assert per(planned(*pods("web", 3), pools=alike), "nodePool", "web") == {"c": 3}


def test_a_pool_without_a_weight_comes_after_one_of_weight_1() -> None:
    light, none = pool("a", weight=1, categories="r"), pool("b")
    assert per(planned(pod("web-0"), pools=(none, light)), "nodePool", "web") == {"a": 1}


def test_a_lighter_pool_takes_what_the_heavier_can_not() -> None:
    """By its requirements, its taints or its limits."""
    light = pool("light")
    for heavy in (
        pool("heavy", weight=9, requirements=[expression(ZONE, "In", ZONES[0])]),
        pool("heavy", weight=9, taints=[{"key": "team", "effect": "NoSchedule"}]),
        pool("heavy", weight=9, limits={"cpu": "1"}),
    ):
        solved = planned(pod("web-0", nodeSelector={ZONE: ZONES[1]}), pools=(heavy, light))
        assert per(solved, "nodePool", "web") == {"light": 1}


def test_the_charge_of_a_pool_counts_in_its_choice_and_in_the_cost() -> None:
    """An annotation sets it for the pool's nodes alone, instead of the general charge."""
    cheap, dear = pool("cheap"), pool("dear")
    cheap["metadata"]["annotations"] = {"nodeyard.dev/node-charge-per-hour": "0.5"}
    solved = planned(pod("web-0"), pools=(cheap, dear))
    assert per(solved, "nodePool", "web") == {"dear": 1}
    alone = planned(pod("web-0"), pools=(cheap,)).report["cost"]
    assert alone["nodeChargePerHour"] == pytest.approx(0.5)
    assert alone["objectivePerHour"] == pytest.approx(alone["pricePerHour"] + 0.5)
    default = planned(pod("web-0"), pools=(dear,)).report["cost"]
    assert default["nodeChargePerHour"] == pytest.approx(0.01)


# --- what a node may become -----------------------------------------------------------------------------------------
def test_a_node_says_why_it_is_what_it_is_and_what_the_next_types_would_have_cost() -> None:
    (made,) = planned(pod("web-0", 1500, 3000)).report["nodes"]
    assert (
        types_and_prices(made["runnersUp"])
        == [("m5.large", 0.04), ("m5.2xlarge", 0.164)][: len(made["runnersUp"])]
    )
    for runner in made["runnersUp"]:
        assert f"{runner['instanceType']} at {runner['pricePerHour']:.4f}" in made["why"]
    assert f"at {made['pricePerHour']:.4f} USD/h" in made["why"]


def types_and_prices(offerings: list[Json]) -> list[tuple[str, float]]:
    return [(o["instanceType"], o["pricePerHour"]) for o in offerings]


def test_alternatives_are_within_a_tenth_of_the_price_by_default_and_cheapest_first() -> None:
    (made,) = planned(pod("web-0", 1500, 3000)).report["nodes"]
    prices = [a["pricePerHour"] for a in made["alternatives"]]
    assert prices == sorted(prices)
    assert max(prices) <= made["pricePerHour"] * 1.1 + 1e-12
    (wide,) = unjudged(pod("web-0", 1500, 3000), options=Options(price_tolerance=0.2)).report["nodes"]
    assert {a["instanceType"] for a in wide["alternatives"]} > {
        a["instanceType"] for a in made["alternatives"]
    }


def test_a_cap_on_the_share_of_a_workload_counts_replicas_that_run() -> None:
    """Of eight, two may share a node: six run elsewhere, and the two newcomers still may not join two that are there."""
    there = [node(n, ZONES[0], cpus=8) for n in "abcd"]
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "rs", "controller": True}
    every = [pod(f"web-{i}", 100, 100, node="abc"[i // 2]) for i in range(6)] + [
        pod(f"web-{i}", 100, 100) for i in (6, 7)
    ]
    for one in every:
        one["metadata"]["ownerReferences"] = [owner]
    solved = planned(*there, *every, options=Options(max_share_per_node=0.25))
    assert {e["node"]: len(e["pods"]) for e in solved.report["existing"]} == {"d": 2}
    assert solved.report["nodes"] == []

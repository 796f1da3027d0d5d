"""Why a pod gets no place: one of a closed set of reasons, with the nearest miss and what each step excluded."""

from __future__ import annotations

import re
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from nodeyard.provisioning.model import Options, Reason
from nodeyard.provisioning.planner import plan
from tests.support.invented_market import ZONES, instance_type, offering
from tests.support.kube_rules import CAPACITY_TYPE, HOST, ZONE
from tests.support.manifests import pod, pods, pool, required
from tests.support.planning import posed, solve
from tests.support.problems import PlanningProblem
from tests.unit.provisioning.test_what_nodes_offer import MARKET, expression, planned, reasons, wanting

Json = dict[str, Any]
DOCUMENT = Path(__file__).parents[3] / "docs" / "planner-details.md"


def test_the_reasons_are_those_that_are_documented() -> None:
    section = DOCUMENT.read_text().partition("## Reasons")[2].partition("\n## ")[0]
    assert set(re.findall(r"`([A-Z][A-Za-z]+)`", section)) == {str(r) for r in Reason}


@pytest.mark.parametrize(
    ("spec", "step", "excluded"),
    [
        ({"nodeSelector": {"kubernetes.io/arch": "arm64"}}, "kubernetes.io/arch=arm64", 4),
        (
            {"affinity": wanting([expression("karpenter.k8s.aws/instance-cpu", "Gt", "99")])},
            "nodeAffinity",
            5,
        ),
    ],
)
def test_each_pool_says_which_step_excluded_how_many_types(spec: Json, step: str, excluded: int) -> None:
    amd, both = pool("amd"), pool("both", arches=("amd64", "arm64"))
    solved = planned(pod("a", 64_000, **spec), pools=(amd, both))
    details = {d["nodePool"]: d for d in solved.report["unschedulable"][0]["details"]}
    assert set(details) == {"amd", "both"}
    assert details["both"]["excluded"][step] == excluded


def test_steps_that_only_together_exclude_every_type_are_both_counted() -> None:
    """Some types are large enough and some are of the architecture; none is both."""
    solved = planned(pod("a", 6000, 100, nodeSelector={"kubernetes.io/arch": "arm64"}))
    (left,) = solved.report["unschedulable"]
    assert left["reason"] == "InsufficientResources"
    assert left["details"][0]["excluded"] == {"kubernetes.io/arch=arm64": 4, "cpu": 1}
    assert (
        "largest allowed is 2 cpu: m6g.large" in left["message"]
        or "m6g.large" in left["details"][0]["nearest"]
    )


def test_a_type_large_enough_that_is_not_sold_in_the_zone_asked_for_is_excluded_by_the_zone() -> None:
    market = {
        "m5.large": instance_type(
            "m5.large", 2, 8, [offering(z, "on-demand", 0.1) for z in ZONES[:2]], size="large"
        ),
        "m5.4xlarge": instance_type(
            "m5.4xlarge", 16, 64, [offering(ZONES[0], "on-demand", 0.8)], size="4xlarge"
        ),
    }
    large = pod("a", 8000, nodeSelector={ZONE: ZONES[1]})
    (left,) = solve(PlanningProblem("", [pool(), large], market)).report["unschedulable"]
    assert left["reason"] == "InsufficientResources"
    assert left["details"][0]["excluded"][f"{ZONE}={ZONES[1]}"] == 1
    assert "m5.large" in left["message"]


def test_nothing_for_sale_is_a_reason_of_its_own() -> None:
    gone = {"m5.large": instance_type("m5.large", 2, 8, [{**offering(ZONES[0], "on-demand", 0.1), "available": False}], size="large")}  # fmt: skip
    assert reasons(solve(PlanningProblem("", [pool(), pod("a")], gone))) == {"a": "NoOffering"}
    spot = pool(requirements=[expression(CAPACITY_TYPE, "In", "reserved")])
    assert reasons(planned(pod("a"), pools=(spot,))) == {"a": "NoOffering"}


@pytest.mark.parametrize("kind", ["podAffinity", "podAntiAffinity"])
def test_a_deadline_that_came_too_early_is_named_where_it_may_be_to_blame(kind: str) -> None:
    """Not told what the search never got round to finding out; what a pod asks of a node is known at once."""
    looks = count()
    waiting = pods("web", 2, affinity=required(kind, HOST, {"app": "web"}))
    huge = pod("huge", 900_000)
    problem = posed(PlanningProblem("", [pool(limits={"cpu": "2"}), *waiting, huge], MARKET))
    made = plan(problem, Options(deadline_s=0.001), lambda: next(looks) * 1.0)
    assert not made.complete
    told = {u.pod: u for u in made.unschedulable}
    assert told["default/huge"].reason is Reason.RESOURCES
    assert told["default/web-1"].reason is Reason.DEADLINE
    assert "deadline" in told["default/web-1"].message


def test_of_several_pools_the_one_that_came_furthest_is_named() -> None:
    tainted = pool("tainted", taints=[{"key": "a", "effect": "NoSchedule"}])
    elsewhere = pool("elsewhere", requirements=[expression(ZONE, "In", ZONES[1])])
    small = pool("small", categories="c")
    big = pod("a", 100, 6000, nodeSelector={ZONE: ZONES[0]})
    solved = planned(big, pools=(tainted, elsewhere, small))
    (left,) = solved.report["unschedulable"]
    assert left["reason"] == "InsufficientResources"
    found = {d["nodePool"]: d["reason"] for d in left["details"]}
    assert found == {
        "tainted": "UntoleratedTaints", "elsewhere": "IncompatibleRequirements", "small": "InsufficientResources"
    }  # fmt: skip


@pytest.mark.parametrize("key", ["kubernetes.io/rack", "karpenter.sh/rack", "k8s.io/rack"])
def test_labels_of_closed_domains_are_on_no_new_node(key: str) -> None:
    """No pool may set them, so a pod that asks for one waits, and no other pod is held up."""
    assert reasons(planned(pod("a", nodeSelector={key: "r1"}), pod("b"))) == {"a": "IncompatibleRequirements"}


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"resourceClaims": [{"name": "gpu"}]}, "Unsupported"),
        ({"schedulingGates": [{"name": "wait"}]}, "Unsupported"),
        ({"affinity": wanting([{"key": "a", "operator": "Gt", "values": ["many"]}])}, "InvalidPod"),
    ],
)
def test_what_can_not_be_planned_is_left_out_alone(spec: Json, reason: str) -> None:
    assert reasons(planned(pod("a", **spec), pod("b"))) == {"a": reason}


def test_a_limit_counts_devices_as_well() -> None:
    """Any resource may be limited; what is left of it is named."""
    market = {
        "g5.large": instance_type(
            "g5.large", 4, 16, [offering(ZONES[0], "on-demand", 1.0)], size="large", category="g"
        )
    }
    for part in ("capacity", "allocatable"):
        market["g5.large"][part]["nvidia.com/gpu"] = "1"
    limited = pool(categories="g", limits={"nvidia.com/gpu": "2"})
    asking = [pod(f"a-{i}", 100, 100, extra={"nvidia.com/gpu": "1"}) for i in range(3)]
    solved = solve(PlanningProblem("", [limited, *asking], market))
    assert len(solved.report["nodes"]) == 2
    (left,) = solved.report["unschedulable"]
    assert left["reason"] == "LimitsExceeded"
    assert "nvidia.com/gpu (0 nvidia.com/gpu left)" in left["message"]

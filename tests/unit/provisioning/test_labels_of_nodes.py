"""Labels that new nodes will have: which are known, which are settled for a pod, and which keys mean the same."""

from __future__ import annotations

from typing import Any

import pytest

from nodeyard.api.selectors import Requirement
from tests.support.invented_market import ZONES
from tests.support.kube_rules import ZONE
from tests.support.manifests import pod, pods, pool, required, spread
from tests.unit.provisioning.test_pods_beside_pods import per
from tests.unit.provisioning.test_what_nodes_offer import expression, planned, reasons, wanting

Json = dict[str, Any]
TEAM = "example.com/team"


def settled(requirement: Json, *pods_: Json) -> set[str | None]:
    """The values of the custom label that planned nodes are stamped with, on the node and in its claim alike."""
    solved = planned(*pods_, pools=(pool(requirements=[requirement]),))
    assert not reasons(solved)
    for made in solved.plan.nodes:
        asked = [r for r in made.requirements if r.key == TEAM]
        if TEAM in made.labels:
            assert [(r.operator, r.values) for r in asked] == [("In", (made.labels[TEAM],))]
        else:
            assert asked == [Requirement(TEAM, requirement["operator"], tuple(requirement.get("values", ())))]
    return {made.labels.get(TEAM) for made in solved.plan.nodes}


@pytest.mark.parametrize(
    ("operator", "values", "stamped"),
    [
        ("In", ("a",), {"a"}),
        ("In", ("b", "a"), {"a", "b"}),
        ("Gt", ("4",), {str(n) for n in range(5, 100)}),
        ("Gte", ("4",), {str(n) for n in range(4, 100)}),
        ("Lt", ("4",), {"3", "2", "1", "0"}),
    ],
)
def test_a_custom_label_gets_one_of_the_values_that_its_pool_allows(
    operator: str, values: tuple[str, ...], stamped: set[str]
) -> None:
    (value,) = settled(expression(TEAM, operator, *values), pod("a"))
    assert value in stamped


def test_a_custom_label_that_must_exist_gets_some_value() -> None:
    (value,) = settled(expression(TEAM, "Exists"), pod("a"))
    assert value


@pytest.mark.parametrize(
    ("requirement", "asked", "value"),
    [
        (expression(TEAM, "In", "a", "b"), expression(TEAM, "NotIn", "a"), "b"),
        (expression(TEAM, "Exists"), expression(TEAM, "In", "x"), "x"),
        (expression(TEAM, "NotIn", "a"), expression(TEAM, "In", "x"), "x"),
        (expression(TEAM, "NotIn", "a"), expression(TEAM, "DoesNotExist"), None),
        (expression(TEAM, "Gt", "4"), expression(TEAM, "In", "9"), "9"),
        (expression(TEAM, "DoesNotExist"), expression(TEAM, "NotIn", "a"), None),
    ],
)
def test_a_custom_label_is_settled_as_the_pod_asks_within_what_the_pool_allows(
    requirement: Json, asked: Json, value: str | None
) -> None:
    assert settled(requirement, pod("a", affinity=wanting([asked]))) == {value}


@pytest.mark.parametrize(
    ("requirement", "asked"),
    [
        (expression(TEAM, "In", "a"), expression(TEAM, "In", "b")),
        (expression(TEAM, "In", "a"), expression(TEAM, "NotIn", "a")),
        (expression(TEAM, "In", "a"), expression(TEAM, "DoesNotExist")),
        (expression(TEAM, "NotIn", "a"), expression(TEAM, "In", "a")),
        (expression(TEAM, "Gt", "4"), expression(TEAM, "In", "4")),
        (expression(TEAM, "DoesNotExist"), expression(TEAM, "Exists")),
    ],
)
def test_a_pod_that_asks_for_what_the_pool_excludes_is_refused(requirement: Json, asked: Json) -> None:
    solved = planned(pod("a", affinity=wanting([asked])), pools=(pool(requirements=[requirement]),))
    assert reasons(solved) == {"a": "IncompatibleRequirements"}


def test_pods_that_ask_for_different_values_get_different_nodes() -> None:
    asking = [pod(f"{v}-0", 100, 100, nodeSelector={TEAM: v}) for v in "abc"]
    assert settled(expression(TEAM, "In", "a", "b", "c", "d"), *asking) == {"a", "b", "c"}


def test_a_label_of_the_pools_template_is_on_its_nodes() -> None:
    labelled = pool(labels={TEAM: "a"})
    solved = planned(
        pod("a", nodeSelector={TEAM: "a"}), pod("b", nodeSelector={TEAM: "b"}), pools=(labelled,)
    )
    assert [n["labels"][TEAM] for n in solved.report["nodes"]] == ["a"]
    assert reasons(solved) == {"b": "IncompatibleRequirements"}


def test_labels_that_follow_from_the_type_need_not_be_in_the_pool() -> None:
    (made,) = planned(pod("a", nodeSelector={"karpenter.k8s.aws/instance-category": "r"}), pools=(pool(categories="cmr"),)).report["nodes"]  # fmt: skip
    assert made["instanceType"] == "r7.4xlarge"


@pytest.mark.parametrize("key", ["failure-domain.beta.kubernetes.io/zone", "topology.ebs.csi.aws.com/zone"])
def test_other_names_of_the_zone_are_the_zone_in_terms_and_pools_too(key: str) -> None:
    even = planned(*pods("web", 4, topologySpreadConstraints=[spread(key, "web")]))
    assert sorted(per(even, "zone", "web").values()) == [2, 2]
    apart = planned(*pods("web", 2, affinity=required("podAntiAffinity", key, {"app": "web"})))
    assert len(per(apart, "zone", "web")) == 2
    narrow = pool(requirements=[expression(key, "In", ZONES[1])])
    assert [n["zone"] for n in planned(pod("a"), pools=(narrow,)).report["nodes"]] == [ZONES[1]]
    assert reasons(planned(pod("a", affinity=wanting([expression(key, "NotIn", *ZONES)])))) == {
        "a": "IncompatibleRequirements"
    }


def test_any_of_several_affinity_terms_is_as_good_and_the_cheapest_is_taken() -> None:
    """The first that can be had is not the first choice."""
    dear = [expression("node.kubernetes.io/instance-type", "In", "r7.4xlarge")]
    cheap = [
        expression("node.kubernetes.io/instance-type", "In", "m5.large"),
        expression(ZONE, "In", ZONES[1]),
    ]
    (made,) = planned(pod("a", affinity=wanting(dear, cheap))).report["nodes"]
    assert (made["instanceType"], made["zone"]) == ("m5.large", ZONES[1])

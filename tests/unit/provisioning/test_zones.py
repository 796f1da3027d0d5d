"""Pods that wait, by the zone that their own rules and volumes leave them."""

from __future__ import annotations

from typing import Any

import pytest

from nodeyard.provisioning.zones import FLEXIBLE, NONE, effective_zones, zones_of
from tests.support.invented_market import ZONES, invented
from tests.support.kube_rules import ZONE
from tests.support.manifests import node, pod, pool
from tests.support.planning import posed
from tests.support.problems import PlanningProblem
from tests.unit.provisioning.test_what_nodes_offer import expression, stored, using

Json = dict[str, Any]


def waiting(*objects: Json) -> dict[str, int]:
    """Pods by zone, with all the invented zones for sale."""
    problem = posed(PlanningProblem("", [pool(), *objects], invented()))
    zones = zones_of(problem.snapshot, problem.catalogues.values())
    return dict(effective_zones(problem.snapshot, problem.pods, zones))


def affine(*terms: Json) -> Json:
    selector = {"nodeSelectorTerms": [{"matchExpressions": [term]} for term in terms]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": selector}}


@pytest.mark.parametrize(
    ("spec", "zone"),
    [
        ({}, FLEXIBLE),
        ({"nodeSelector": {ZONE: ZONES[1]}}, ZONES[1]),
        ({"nodeSelector": {"failure-domain.beta.kubernetes.io/zone": ZONES[1]}}, ZONES[1]),
        ({"nodeSelector": {ZONE: "nowhere-1a"}}, NONE),
        ({"affinity": affine(expression(ZONE, "In", ZONES[0]))}, ZONES[0]),
        ({"affinity": affine(expression(ZONE, "In", ZONES[0]), expression(ZONE, "In", ZONES[1]))}, FLEXIBLE),
        ({"affinity": affine(expression(ZONE, "In", ZONES[0]), expression("disk", "Exists"))}, FLEXIBLE),
        ({"affinity": affine(expression(ZONE, "NotIn", *ZONES))}, NONE),
        (
            {"nodeSelector": {ZONE: ZONES[1]}, "affinity": affine(expression(ZONE, "In", ZONES[0]))},
            NONE,
        ),
    ],
)
def test_rules_leave_one_zone_several_or_none(spec: Json, zone: str) -> None:
    assert waiting(pod("a", 100, 100, **spec), pod("b", 100, 100, **spec)) == {zone: 2}


def test_a_disk_binds_its_pod_to_its_zone_and_two_in_different_zones_leave_none() -> None:
    reach = [{"matchLabelExpressions": [{"key": ZONE, "values": [zone]}]} for zone in ZONES[:2]]
    claims = stored(("c0", {"storageClassName": "in-0"}, {}), ("c1", {"storageClassName": "in-1"}, {}))
    classes = [
        {
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": f"in-{i}"},
            "provisioner": "ebs", "volumeBindingMode": "WaitForFirstConsumer", "allowedTopologies": [reach[i]],
        }
        for i in range(2)
    ]  # fmt: skip
    both = using("both", "c0", "c1")
    assert waiting(*claims, *classes, using("one", "c0"), both) == {ZONES[0]: 1, NONE: 1}


def test_zones_that_only_nodes_are_in_count_too() -> None:
    there = {ZONE: "eu-test-1z"}
    assert waiting(node("n", "eu-test-1z"), pod("a", 100, 100, nodeSelector=there)) == {"eu-test-1z": 1}

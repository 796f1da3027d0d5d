"""Pods that spread over zones and have their volumes in them: easy to get wrong, so it has a file of its own."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.invented_market import ZONES
from tests.support.kube_rules import ZONE
from tests.support.manifests import node, spread
from tests.unit.provisioning.test_pods_beside_pods import planned
from tests.unit.provisioning.test_what_nodes_offer import expression, reasons, stored, using

Json = dict[str, Any]
BOUND = {
    "metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}},
    "status": {"phase": "Bound"},
}


def each_with_a_disk_in(*zones: str) -> list[Json]:
    """Pods of one app with maxSkew 1 over zones, one per zone given, each with its disk there."""
    out: list[Json] = []
    for i, zone in enumerate(zones):
        reach = {"required": {"nodeSelectorTerms": [{"matchExpressions": [expression(ZONE, "In", zone)]}]}}
        spec = {"csi": {"driver": "ebs", "volumeHandle": f"d{i}"}, "nodeAffinity": reach}
        out.append(
            {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": f"d{i}"}, "spec": spec}
        )
        out.append(
            using(f"web-{i}", f"c{i}", labels={"app": "web"}, topologySpreadConstraints=[spread(ZONE, "web")])
        )
    claims = ((f"c{i}", {"volumeName": f"d{i}"}, BOUND) for i in range(len(zones)))
    return [*stored(*claims), *out]


@pytest.mark.parametrize("order", [(0, 0, 1, 1), (0, 1, 0, 1), (1, 1, 0, 0), (0, 1)])
def test_spread_with_volumes(order: tuple[int, ...]) -> None:
    """Where disks are spread evenly, every pod goes to its own, whatever the order they are looked at."""
    zones = [ZONES[i] for i in order]
    solved = planned(*each_with_a_disk_in(*zones))
    assert reasons(solved) == {}
    zone_of = {pod: made["zone"] for made in solved.report["nodes"] for pod in made["pods"]}
    assert zone_of == {f"default/web-{i}": zone for i, zone in enumerate(zones)}


def test_spread_with_volumes_counts_zones_that_only_the_disk_excludes() -> None:
    """Skew is counted over the zones that the pods' own affinity allows: a disk's zone does not make it the only one."""
    solved = planned(*each_with_a_disk_in(ZONES[0], ZONES[0]))
    assert [len(made["pods"]) for made in solved.report["nodes"]] == [1]
    assert list(reasons(solved).values()) == ["TopologyUnsatisfiable"]


def test_spread_with_volumes_on_nodes_that_stand() -> None:
    solved = planned(node("a", ZONES[0]), node("b", ZONES[1]), *each_with_a_disk_in(ZONES[0], ZONES[1]))
    assert {e["node"]: e["pods"] for e in solved.report["existing"]} == {
        "a": ["default/web-0"],
        "b": ["default/web-1"],
    }

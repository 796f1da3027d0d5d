"""The demo's comparison: the cheapest plan that each pool could have with one instance type."""

from __future__ import annotations

from typing import Any

import pytest

from nodeyard.cli.demo_single import Single, cheapest_single
from nodeyard.cloudprovider.model import Catalogue, InstanceType, Offering

Json = dict[str, Any]


def kind(name: str, cores: int, arch: str, usd: float, zones: tuple[str, ...] = ("a", "b")) -> InstanceType:
    room = {"cpu": cores * 1000, "memory": cores * 4 * 2**30, "pods": 20}
    requirements: dict[str, tuple[str, ...]] = {
        "kubernetes.io/arch": (arch,),
        "kubernetes.io/os": ("linux",),
        "node.kubernetes.io/instance-type": (name,),
    }
    offerings = tuple(Offering(zone, "on-demand", usd) for zone in zones)
    return InstanceType(name, requirements, room, room, offerings)  # fmt: skip


TYPES = Catalogue(
    [kind("small", 2, "amd64", 0.10), kind("big", 8, "amd64", 0.36), kind("arm", 4, "arm64", 0.12), kind("odd", 8, "amd64", 0.30, ("a",))]
)  # fmt: skip
CLASS = {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "c"}
POOL: Json = {
    "apiVersion": "karpenter.sh/v1",
    "kind": "NodePool",
    "metadata": {"name": "general", "uid": "u"},
    "spec": {
        "template": {
            "spec": {
                "nodeClassRef": CLASS,
                "requirements": [{"key": "kubernetes.io/arch", "operator": "In", "values": ["amd64"]}],
            }
        }
    },
}
NODE: Json = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {"name": "n", "labels": {"karpenter.sh/nodepool": "general"}},
}


def pod(name: str, cpu: str, phase: str = "Running", apart: bool = False) -> Json:
    term = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}}
    terms = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": "web"}, "uid": name},
        "spec": {
            "nodeName": "n" if phase == "Running" else "",
            "affinity": terms if apart else {},
            "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu, "memory": "1Gi"}}}],
        },
        "status": {"phase": phase},
    }


def single(*pods: Json) -> list[Single]:
    return cheapest_single([POOL, NODE, *pods], {"c": TYPES}) or []


def test_the_cheapest_type_is_planned_with_whole_machines_and_the_pools_requirements() -> None:
    (found,) = single(*(pod(f"p{i}", "900m") for i in range(8)))
    assert (found.instance_type, found.nodes) == ("odd", 1)
    assert found.usd_per_hour == pytest.approx(0.30)


def test_the_pods_constraints_count() -> None:
    (found,) = single(*(pod(f"p{i}", "900m", apart=True) for i in range(8)))
    assert (found.instance_type, found.nodes) == ("small", 8)


def test_pods_that_do_not_run_do_not_count() -> None:
    (found,) = single(pod("p", "1"), pod("giant", "900", phase="Pending"))
    assert (found.instance_type, found.nodes) == ("small", 1)


def test_pods_that_fit_on_no_type_have_none() -> None:
    assert cheapest_single([POOL, NODE, pod("p", "64")], {"c": TYPES}) is None


def test_an_empty_cluster_has_none_to_compare() -> None:
    assert single() == []

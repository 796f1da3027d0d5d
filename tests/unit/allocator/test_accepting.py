"""Which planned pods may be bound to a node as it really is: the planner's own filters judge, not what was expected."""

import time
from typing import Any

import pytest

from nodeyard.provisioning.landing import accepted
from nodeyard.provisioning.planner import plan
from nodeyard.state.manifests import snapshot_from
from tests.support.manifests import Json, claim, node, pod, pool
from tests.support.planning import NOW

ZONE = "eu-west-1a"
HELD = {"key": "nodeyard.dev/bind-hold", "effect": "NoSchedule"}
PORT = [{"containerPort": 80, "hostPort": 80}]


def held(*, labels: Json | None = None, taints: tuple[Json, ...] = (), **allocatable: str) -> list[Json]:
    """A registered node that is held back for its pods, as its kubelet reports it, with its pool and claim."""
    made = node("a", ZONE, labels={"karpenter.sh/initialized": "false", **(labels or {})})
    made["spec"]["taints"] = [HELD, *taints]
    made["status"]["allocatable"] |= allocatable
    return [pool(), claim("c", ZONE, provider=f"aws:///{ZONE}/i-a"), made]


def with_volume(name: str) -> list[Json]:
    """A pod whose volume of a CSI driver is bound, with that volume."""
    volumes = [{"name": "data", "persistentVolumeClaim": {"claimName": name}}]
    bound = {"pv.kubernetes.io/bind-completed": "yes"}
    return [
        pod(name, volumes=volumes),
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name, "namespace": "default", "annotations": bound},
         "spec": {"volumeName": f"pv-{name}"}, "status": {"phase": "Bound"}},
        {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": f"pv-{name}"},
         "spec": {"csi": {"driver": "ebs.csi.aws.com", "volumeHandle": name}}},
    ]  # fmt: skip


LIMIT = {"apiVersion": "storage.k8s.io/v1", "kind": "CSINode", "metadata": {"name": "a"},
         "spec": {"drivers": [{"name": "ebs.csi.aws.com", "nodeID": "a", "allocatable": {"count": 1}}]}}  # fmt: skip
DEFAULT = [pod("x-1"), pod("x-2")]


@pytest.mark.parametrize(
    ("objects", "bound"),
    [
        ([*held(), *DEFAULT], 2),
        ([*held(cpu="900m"), *DEFAULT], 1),
        ([*held(memory="1500Mi"), *DEFAULT], 1),
        ([*held(), *DEFAULT, pod("other", 3000, node="a")], 1),
        ([*held(), pod("x-1", nodeSelector={"disk": "ssd"}), pod("x-2")], 1),
        ([*held(labels={"disk": "ssd"}), pod("x-1", nodeSelector={"disk": "ssd"}), pod("x-2")], 2),
        ([*held(taints=({"key": "theirs", "effect": "NoSchedule"},)), *DEFAULT], 0),
        ([*held(), pod("x-1", ports=PORT), pod("x-2", ports=PORT)], 1),
        ([*held(), LIMIT, *with_volume("x-1"), *with_volume("x-2")], 1),
    ],
    ids=["as planned", "less cpu", "less memory", "others came first", "a label is missing", "labels are there",
         "a taint of others", "one host port", "one attachment"],
)  # fmt: skip
def test_pods_are_bound_only_where_the_real_node_takes_them(objects: list[Any], bound: int) -> None:
    snapshot = snapshot_from(objects)
    planned = [p for p in snapshot.pods.values() if not p.node]
    found = accepted(
        snapshot, snapshot.nodes["a"], planned, now=NOW, planner=plan, clock=time.monotonic
    )  # fmt: skip
    assert len(found) == bound
    assert set(found) <= {p.key for p in planned}

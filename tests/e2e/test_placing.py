"""Pods onto the nodes that were made for them, in both modes, when machines come up late, short or without devices.

The machines are as strict as a kubelet: a pod bound to a node that cannot take it becomes Failed. So "no pod ever
failed" says that nothing was placed before the node was fit for it.
"""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest

from tests.e2e.conftest import YardFactory
from tests.support.cluster import eventually
from tests.support.yard import (
    EVENTS,
    PODS,
    Yard,
    apart,
    around,
    deployment,
    doomed,
    node_class,
    node_pool,
)

pytestmark = pytest.mark.cluster

HOLD_S = 10
GPU = {"cpu": "500m", "memory": "1Gi", "nvidia.com/gpu": "1"}


@pytest.fixture(scope="module", params=["bind", "nominate"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def binding_yard(make_yard: YardFactory) -> Yard:
    yard = make_yard(
        settings={
            "NODEYARD_VALIDATION_WAIT": "500ms",
            "NODEYARD_DISRUPTION_POLL": "1s",
            "NODEYARD_BATCH_IDLE_DURATION": "2s",  # one batch, also where pods come slowly
        },
        service_settings={"allocator": {"NODEYARD_PLACEMENT_MODE": "bind"}},
    )
    gpus = node_pool(
        "gpus",
        requirements=[
            {"key": "karpenter.k8s.aws/instance-gpu-count", "operator": "Gt", "values": ["0"]},
            {"key": "karpenter.sh/capacity-type", "operator": "In", "values": ["on-demand"]},
        ],
        taints=[{"key": "nvidia.com/gpu", "effect": "NoSchedule"}],
    )
    yard.apply(node_class(), node_pool(), gpus)
    return yard


@pytest.fixture(scope="module")
def yard(binding_yard: Yard, mode: str) -> Yard:
    """The one stand, its allocators started anew where the mode is another."""
    for replica in range(2) if mode != "bind" else ():
        binding_yard.stand.kill_service("allocator", replica, signal.SIGTERM)
        binding_yard.stand.start_service("allocator", replica, {"NODEYARD_PLACEMENT_MODE": mode})
    return binding_yard


@pytest.fixture(autouse=True)
def _leave_nothing(yard: Yard) -> object:
    yield None
    yard.dial("DELETE", "")
    yard.clear()


def planned_places(yard: Yard) -> dict[str, str]:
    """Pod name -> the node it was planned for, as the claims say."""
    places: dict[str, str] = {}
    for claim in yard.claims():
        planned = json.loads(claim["metadata"]["annotations"].get("nodeyard.dev/planned-pods", "[]"))
        places |= {key.partition("/")[2]: claim["status"].get("nodeName", "") for key in planned}
    return places


def failed(yard: Yard) -> list[str]:
    return [p["metadata"]["name"] for p in yard.items(PODS) if p["status"].get("phase") == "Failed"]


def scheduled_by_the_scheduler(yard: Yard, app: str) -> set[str]:
    """Pods of the app that the kube-scheduler says it placed."""
    return {
        event["involvedObject"]["name"]
        for event in yard.items(EVENTS)
        if event["reason"] == "Scheduled" and event["involvedObject"]["name"].startswith(f"{app}-")
    }


def taint_keys(node: dict[str, Any]) -> set[str]:
    return {taint["key"] for taint in node["spec"].get("taints") or []}


def test_every_pod_runs_where_it_was_planned_and_the_modes_own_hand_put_it_there(
    yard: Yard, mode: str
) -> None:
    app = f"tight-{mode}"
    yard.apply(deployment(app, 12, {"cpu": "900m", "memory": "1700Mi"}))
    yard.wait_running(app, 12)
    places = planned_places(yard)
    assert {p["metadata"]["name"]: p["spec"]["nodeName"] for p in yard.pods(app)} == {
        p["metadata"]["name"]: places.get(p["metadata"]["name"]) for p in yard.pods(app)
    }
    placed = scheduled_by_the_scheduler
    if mode == "nominate":
        eventually(lambda: len(placed(yard, app)) == 12)
    else:
        assert placed(yard, app) == set()
    eventually(lambda: not any("nodeyard.dev/bind-hold" in taint_keys(n) for n in yard.nodes()))
    assert failed(yard) == []


@pytest.mark.parametrize("late_s", [3, HOLD_S + 3])
def test_pods_wait_for_a_node_that_is_ready_late(yard: Yard, late_s: int) -> None:
    yard.dial("PUT", "machines", {"ready_seconds": late_s})
    yard.apply(deployment("late", 4))
    yard.wait_running("late", 4)
    yard.wait_initialized()
    assert failed(yard) == []


def test_pods_wait_for_devices_that_come_late(yard: Yard) -> None:
    yard.dial("PUT", "machines", {"devices_seconds": 4})
    train = deployment("train", 2, GPU, tolerations=[{"key": "nvidia.com/gpu", "operator": "Exists"}])
    (container,) = train["spec"]["template"]["spec"]["containers"]
    container["resources"]["limits"] = {"nvidia.com/gpu": GPU["nvidia.com/gpu"]}
    yard.apply(train)
    yard.wait_running("train", 2)
    yard.wait_initialized()
    assert failed(yard) == []
    assert all(int(node["status"]["allocatable"]["nvidia.com/gpu"]) for node in yard.nodes())


def test_pods_for_which_a_node_came_up_too_small_get_another(yard: Yard) -> None:
    yard.dial("PUT", "machines", {"memory_missing_fraction": 0.13})
    yard.apply(deployment("tight", 9, {"cpu": "100m", "memory": "1870Mi"}))
    yard.wait_running("tight", 9)
    assert failed(yard) == []


@pytest.mark.parametrize("mode", ["bind"], indirect=True)
@pytest.mark.parametrize("point", around("allocator", "bind-pods", "lift-hold"))
def test_a_held_node_gets_its_pods_though_the_allocator_dies_over_it(yard: Yard, point: str) -> None:
    before = yard.launched()
    with doomed(yard, point):
        yard.apply(apart("web", 4))
    yard.wait_running("web", 4)
    eventually(lambda: not any("nodeyard.dev/bind-hold" in taint_keys(n) for n in yard.nodes()))
    yard.wait_settled()
    assert yard.launched() - before == len(yard.claims()) == 4
    assert failed(yard) == []

"""What the reallocator does with workloads where it may: another replica before the only one is evicted, and marks for
ReplicaSets on pods that are about to leave.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.conftest import YardFactory
from tests.support.cluster import eventually
from tests.support.pod_times import Json, PodTimes
from tests.support.yard import (
    CLAIMS,
    NEVER,
    NODEPOOLS,
    ON_DEMAND,
    UNDERUTILIZED,
    Yard,
    around,
    deployment,
    doomed,
    node_class,
    node_pool,
)

pytestmark = pytest.mark.cluster

DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
PDBS = "/apis/policy/v1/namespaces/default/poddisruptionbudgets"
COST = "controller.kubernetes.io/pod-deletion-cost"
LARGE = {"key": "karpenter.k8s.aws/instance-size", "operator": "In", "values": ["4xlarge"]}


class Serving(PodTimes):
    """The fewest pods that served at once, since the first did; and those that were seen marked as leaving."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.serving: set[str] = set()
        self.fewest = 1
        self.marked: set[str] = set()

    def _note(self, pod: Json, now: float) -> None:
        super()._note(pod, now)
        name, meta = pod["metadata"]["name"], pod["metadata"]
        ready = any(
            c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions") or []
        )
        if ready and "deletionTimestamp" not in meta:
            self.serving.add(name)
        elif name in self.serving:
            self.serving.discard(name)
            self.fewest = min(self.fewest, len(self.serving))
        if COST in meta.get("annotations", {}):
            self.marked.add(name)


@pytest.fixture(scope="module")
def yard(make_yard: YardFactory) -> Yard:
    yard = make_yard(
        settings={
            "NODEYARD_SURGE": "true",
            "NODEYARD_MARK_LEAVING_PODS": "true",
            "NODEYARD_VALIDATION_WAIT": "1s",
            "NODEYARD_DISRUPTION_POLL": "1s",
            "NODEYARD_BATCH_MAX_DURATION": "3s",
            "NODEYARD_LEASE_TTL": "2s",
            "NODEYARD_NO_RETURN": "0s",
        }
    )
    yard.apply(node_class())
    return yard


@pytest.fixture(autouse=True)
def _leave_nothing(yard: Yard) -> object:
    yield None
    yard.dial("DELETE", "capacity")
    for path in (DEPLOYMENTS, PDBS, CLAIMS):
        yard.kube.delete(path)
    yard.wait_gone()
    yard.kube.delete(NODEPOOLS)


def surging(name: str) -> Json:
    made = deployment(name, 1, terminationGracePeriodSeconds=2)
    made["spec"]["template"]["metadata"]["annotations"] = {"nodeyard.dev/surge": "true"}
    return made


def wanted(yard: Yard, name: str) -> int:
    return int(yard.kube.get(f"{DEPLOYMENTS}/{name}")["spec"]["replicas"])


def as_before(yard: Yard, name: str) -> bool:
    """One replica wanted and there, and no claim says otherwise."""
    noted = any("nodeyard.dev/surges" in c["metadata"].get("annotations", {}) for c in yard.claims())
    return wanted(yard, name) == 1 and len(yard.pods(name)) == 1 and not noted


def move_all(yard: Yard) -> None:
    """Deletes every claim there is and waits until those are gone."""
    old = {claim["metadata"]["name"] for claim in yard.claims()}
    for name in old:
        yard.kube.delete(f"{CLAIMS}/{name}")
    eventually(lambda: not old & {claim["metadata"]["name"] for claim in yard.claims()}, within_s=150)


def test_the_only_replica_serves_until_another_does(yard: Yard) -> None:
    yard.apply(node_pool(requirements=ON_DEMAND, disruption=NEVER))
    with Serving(yard.stand.api(), prefix="only-") as seen:
        yard.apply(surging("only"))
        yard.wait_running("only", 1)
        yard.wait_settled()
        move_all(yard)
        eventually(lambda: as_before(yard, "only"), within_s=60)
        assert seen.fewest == 1
        assert len(seen.running) >= 2


@pytest.mark.parametrize("point", around("reallocator", "resize"))
def test_it_does_though_the_reallocator_dies_over_the_scaling(yard: Yard, point: str) -> None:
    yard.apply(node_pool(requirements=ON_DEMAND, disruption=NEVER))
    with Serving(yard.stand.api(), prefix="only-") as seen:
        yard.apply(surging("only"))
        yard.wait_running("only", 1)
        with doomed(yard, point):
            move_all(yard)
        eventually(lambda: as_before(yard, "only"), within_s=60)
        assert seen.fewest == 1


def test_a_budget_that_wants_one_pod_does_not_keep_an_oversized_node(yard: Yard) -> None:
    yard.apply(node_pool(requirements=[*ON_DEMAND, LARGE], disruption=NEVER))
    budget = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "one", "namespace": "default"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "only"}}},
    }
    yard.apply(budget, surging("only"))
    yard.wait_running("only", 1)
    yard.wait_settled()
    (old,) = yard.nodes()
    with Serving(yard.stand.api(), prefix="only-") as seen:
        seen.serving = {pod["metadata"]["name"] for pod in yard.pods("only")}
        yard.apply(node_pool(requirements=ON_DEMAND, disruption=UNDERUTILIZED))
        name = old["metadata"]["name"]
        eventually(lambda: name not in {n["metadata"]["name"] for n in yard.nodes()}, within_s=150)
        yard.wait_running("only", 1)
        eventually(lambda: as_before(yard, "only"), within_s=60)
        assert seen.fewest == 1


def test_pods_that_are_about_to_leave_are_marked_until_they_stay_after_all(yard: Yard) -> None:
    yard.apply(node_pool(requirements=[*ON_DEMAND, LARGE], disruption=NEVER))
    yard.apply(deployment("web", 2))
    yard.wait_running("web", 2)
    yard.wait_settled()
    names = {pod["metadata"]["name"] for pod in yard.pods("web")}
    yard.dial("POST", "capacity", {"instance_type": "*", "zone": "*", "capacity_type": "*"})
    with Serving(yard.stand.api(), prefix="web-") as seen:
        yard.apply(node_pool(requirements=ON_DEMAND, disruption=UNDERUTILIZED))
        assert seen.wait(lambda s: s.marked == names, within_s=150)  # type: ignore[attr-defined]
        yard.apply(node_pool(requirements=ON_DEMAND, disruption=NEVER))

    def unmarked() -> bool:
        return not any(COST in pod["metadata"].get("annotations", {}) for pod in yard.pods("web"))

    eventually(unmarked, within_s=180)
    assert {pod["metadata"]["name"] for pod in yard.pods("web")} == names

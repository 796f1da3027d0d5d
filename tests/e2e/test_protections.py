"""What Kubernetes lets a reallocator take and when: disruption budgets, do-not-disrupt, deadlines, budgets over time."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from nodeyard.local.kubeapi import KubeError
from tests.e2e.conftest import YardFactory
from tests.support.cluster import eventually
from tests.support.pod_times import PodTimes
from tests.support.yard import CLAIMS, EVENTS, NEVER, NODEPOOLS, PODS, Yard, deployment, node_class, node_pool

pytestmark = pytest.mark.cluster

ALL = [{"nodes": "100%"}]
WHEN_EMPTY = {"consolidationPolicy": "WhenEmpty", "consolidateAfter": "1s", "budgets": ALL}
PDBS = "/apis/policy/v1/namespaces/default/poddisruptionbudgets"
DAEMONS = "/apis/apps/v1/namespaces/default/daemonsets"
LOWEST = {"controller.kubernetes.io/pod-deletion-cost": "-2147483648"}
"""Evicting such a pod costs less than nothing."""


@pytest.fixture(scope="module")
def yard(make_yard: YardFactory) -> Yard:
    yard = make_yard(
        replicas=1,
        settings={
            "NODEYARD_VALIDATION_WAIT": "10s",  # time to come in between
            "NODEYARD_DISRUPTION_POLL": "1s",
            "NODEYARD_INTERRUPTION_QUEUE": "",
            "NODEYARD_BATCH_MAX_DURATION": "3s",
        },
    )
    yard.apply(node_class())
    return yard


@pytest.fixture(autouse=True)
def _leave_nothing(yard: Yard) -> object:
    yield None
    for path in (DAEMONS, PDBS, "/apis/apps/v1/namespaces/default/deployments", CLAIMS):
        yard.kube.delete(path)
    yard.wait_gone()
    yard.kube.delete(NODEPOOLS)


def let_go(yard: Yard, app: str) -> None:
    """Takes the finalizers off the pods until none is left; the other controllers may be quicker with any of them."""

    def gone() -> bool:
        for each in yard.pods(app):
            with suppress(KubeError):
                yard.kube.patch(f"{PODS}/{each['metadata']['name']}", {"metadata": {"finalizers": None}})
        return not yard.pods(app)

    eventually(gone, within_s=120)


def running(yard: Yard, app: str, annotations: dict[str, str], **spec: Any) -> dict[str, Any]:
    """A pod of its own that runs on a node of its own; the node."""
    made = deployment(app, 1, **spec)
    made["spec"]["template"]["metadata"]["annotations"] = annotations
    yard.apply(made)
    yard.wait_running(app, 1)
    yard.wait_initialized()
    (node,) = yard.nodes()
    return node


def budget(name: str, app: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {**spec, "selector": {"matchLabels": {"app": app}}},
    }


def tainted(yard: Yard, node: dict[str, Any]) -> bool:
    found = [n for n in yard.nodes() if n["metadata"]["uid"] == node["metadata"]["uid"]]
    taints = found[0]["spec"].get("taints") or [] if found else []
    return not found or any(t["key"] == "karpenter.sh/disrupted" for t in taints)


def stays_until(yard: Yard, node: dict[str, Any], end: datetime) -> None:
    """Looks on until then whether the node is left alone. A look that came back too late says nothing."""
    while True:
        disrupted = tainted(yard, node)
        if datetime.now(UTC) >= end:
            return
        assert not disrupted
        time.sleep(0.5)


def stopped_by(yard: Yard, node: dict[str, Any]) -> list[str]:
    return [b["rule"] for b in yard.proposal(node["metadata"]["name"]).get("blocks", [])]


def said(yard: Yard, reason: str) -> list[str]:
    events = [*yard.items(EVENTS), *yard.items("/api/v1/namespaces/default/events")]
    return [e["message"] for e in events if e["reason"] == reason]


def test_cost_empty_once_the_pods_own_time_is_over(yard: Yard) -> None:
    """A pod that costs nothing to evict empties its node, also where only empty nodes go, but not before the time that
    do-not-disrupt gives it from its start.
    """
    yard.apply(node_pool(disruption=WHEN_EMPTY))
    node = running(yard, "cheap", {**LOWEST, "karpenter.sh/do-not-disrupt": "30s"})
    (pod,) = yard.pods("cheap")
    began = datetime.fromisoformat(pod["status"]["startTime"])
    (claim,) = yard.claims()
    stays_until(yard, node, began + timedelta(seconds=28))
    path = f"nodeclaim/{claim['metadata']['name']}"
    said = eventually(lambda: yard.decisions(kind="disrupting", subject=path), within_s=120)
    assert {d["reason"] for d in said} == {"Empty"}
    yard.apply(node_pool(disruption=NEVER))
    eventually(
        lambda: node["metadata"]["name"] not in {n["metadata"]["name"] for n in yard.nodes()}, within_s=120
    )
    yard.wait_running("cheap", 1)


def test_deadline_tightening_shortens_a_pods_grace_to_what_is_left(yard: Yard) -> None:
    """Grace 60 s on a node that has 45 s: deleted at once, to end with the node; a finalizer keeps it to be looked at."""
    yard.apply(node_pool(disruption=NEVER, terminationGracePeriod="45s"))
    slow = deployment("slow", 1, terminationGracePeriodSeconds=60)
    slow["spec"]["template"]["metadata"]["finalizers"] = ["example.com/look"]
    yard.apply(slow)
    yard.wait_running("slow", 1)
    yard.wait_initialized()
    (claim,), (pod,) = yard.claims(), yard.pods("slow")
    yard.apply(budget("guard", "slow", maxUnavailable=0))
    name = pod["metadata"]["name"]
    try:
        with PodTimes(yard.stand.api(), prefix="slow-") as seen:
            yard.kube.delete(f"{CLAIMS}/{claim['metadata']['name']}")
            assert seen.wait(lambda s: name in s.graces, within_s=120)
        assert 1 <= seen.graces[name] <= 45
    finally:
        yard.scale("slow", 0)
        let_go(yard, "slow")


def test_a_budget_that_ends_lets_an_empty_node_go_though_nothing_else_changes(yard: Yard) -> None:
    yard.apply(node_pool(disruption=NEVER))
    node = running(yard, "web", {})
    yard.scale("web", 0)
    eventually(lambda: not yard.pods("web"), within_s=120)
    end = datetime.now(UTC) + timedelta(seconds=40)
    shut = {"nodes": "0", "end": end.strftime("%Y-%m-%dT%H:%M:%SZ")}
    yard.apply(node_pool(disruption={**WHEN_EMPTY, "budgets": [shut]}))
    eventually(lambda: "Budget" in stopped_by(yard, node), within_s=35)
    stays_until(yard, node, end - timedelta(seconds=1))
    yard.wait_gone()


def test_churn_at_validation_saves_the_node(yard: Yard) -> None:
    """A pod that is bound to an empty node between the decision and the second look keeps it."""
    yard.apply(node_pool(disruption=NEVER))
    node = running(yard, "web", {})
    name, (claim,) = node["metadata"]["name"], yard.claims()
    yard.scale("web", 0)
    eventually(lambda: not yard.pods("web"), within_s=120)
    yard.apply(node_pool(disruption=WHEN_EMPTY))
    eventually(lambda: yard.decisions(kind="proposed", subject=f"node/{name}"), within_s=120)
    late = deployment("late", 1, nodeName=name)["spec"]["template"]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        **late,
        "metadata": {**late["metadata"], "name": "late", "namespace": "default"},
    }
    yard.apply(pod)
    eventually(
        lambda: [d for d in yard.decisions(kind="blocked") if d["subject"].startswith("command/")],
        within_s=120,
    )
    assert not tainted(yard, node)
    assert [c["metadata"]["uid"] for c in yard.claims()] == [claim["metadata"]["uid"]]
    yard.wait_running("late", 1)
    yard.apply(node_pool(disruption=NEVER))
    yard.kube.delete(f"{PODS}/late")


def test_a_budget_over_daemons_keeps_their_node_until_it_lets_them_go(yard: Yard) -> None:
    yard.apply(node_pool(disruption=NEVER))
    node = running(yard, "web", {})
    agent = deployment("agent", 1, {"cpu": "10m", "memory": "16Mi"})
    del agent["spec"]["replicas"]
    agent["kind"] = "DaemonSet"
    yard.apply(agent)
    yard.wait_running("agent", 1)
    yard.apply(budget("guard", "agent", minAvailable=1))
    eventually(
        lambda: yard.kube.get(f"{PDBS}/guard").get("status", {}).get("currentHealthy") == 1, within_s=120
    )
    yard.scale("web", 0)
    yard.apply(node_pool(disruption=WHEN_EMPTY))
    eventually(lambda: "PodDisruptionBudget" in stopped_by(yard, node), within_s=120)
    assert not tainted(yard, node)
    yard.kube.delete(f"{PDBS}/guard")
    yard.wait_gone()


def test_a_node_asks_not_to_be_disrupted_and_a_pod_that_tolerates_everything_holds_up_nothing(
    yard: Yard,
) -> None:
    yard.apply(node_pool(disruption=NEVER))
    node = running(yard, "tough", LOWEST, tolerations=[{"operator": "Exists"}])
    path = f"/api/v1/nodes/{node['metadata']['name']}"
    yard.apply(budget("guard", "tough", maxUnavailable=0))
    yard.kube.patch(path, {"metadata": {"annotations": {"karpenter.sh/do-not-disrupt": "true"}}})
    yard.apply(node_pool(disruption=WHEN_EMPTY))
    eventually(lambda: "NodeDoNotDisrupt" in stopped_by(yard, node), within_s=120)
    assert not tainted(yard, node)
    yard.kube.patch(path, {"metadata": {"annotations": {"karpenter.sh/do-not-disrupt": None}}})
    eventually(lambda: tainted(yard, node), within_s=120)
    yard.apply(node_pool(disruption=NEVER))
    eventually(
        lambda: node["metadata"]["name"] not in {n["metadata"]["name"] for n in yard.nodes()}, within_s=120
    )


def test_a_pod_under_two_budgets_holds_up_a_drain_until_one_is_gone(yard: Yard) -> None:
    yard.apply(node_pool(disruption=NEVER))
    node = running(yard, "web", {})
    uid = yard.pods("web")[0]["metadata"]["uid"]
    yard.apply(budget("one", "web", maxUnavailable=1), budget("two", "web", maxUnavailable=1))
    for name in ("one", "two"):
        eventually(
            lambda n=name: yard.kube.get(f"{PDBS}/{n}").get("status", {}).get("disruptionsAllowed") == 1,
            within_s=120,
        )
    yard.kube.delete(f"/api/v1/nodes/{node['metadata']['name']}")
    eventually(lambda: said(yard, "FailedDraining"), within_s=120)
    assert uid in {p["metadata"]["uid"] for p in yard.pods("web")}
    yard.kube.delete(f"{PDBS}/two")
    eventually(lambda: uid not in {p["metadata"]["uid"] for p in yard.pods("web")}, within_s=120)
    yard.wait_running("web", 1)

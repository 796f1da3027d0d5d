"""What the chart's rights allow on a real API server, as each service's own account; and what lives behind them."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from nodeyard.adapters.kubernetes.client import KubernetesClient
from nodeyard.adapters.kubernetes.epochs import KubernetesEpochs, lease_name
from nodeyard.adapters.kubernetes.rival import karpenter_active
from nodeyard.local import install
from nodeyard.local.chart import render, render_rbac
from nodeyard.local.kubeapi import KubeApi
from nodeyard.runtime.leadership import StoreUnavailableError
from tests.support.clock import FakeClock
from tests.support.cluster import eventually

pytestmark = pytest.mark.cluster
SPACE = "rights"


@pytest.fixture(scope="module")
def installed(kube: KubeApi) -> str:
    """Installed, and seen by the API server's authorizer, which watches the rules."""
    install.install(kube, render_rbac(SPACE), namespace=SPACE)
    leases = {"group": "coordination.k8s.io", "namespace": SPACE}
    eventually(lambda: all(may(kube, *case) for case in ALLOWED))
    eventually(lambda: may(kube, "allocator", "create", "leases", **leases))
    return SPACE


@pytest.fixture
async def allocator(kube: KubeApi, installed: str, tmp_path: Path) -> AsyncIterator[KubernetesClient]:
    path = install.service_kubeconfig(
        kube, tmp_path / "a.kubeconfig", account="nodeyard-allocator", namespace=SPACE
    )
    client = await KubernetesClient.connect(str(path))
    yield client
    await client.close()


def may(
    kube: KubeApi, service: str, verb: str, resource: str, group: str = "", *, space: str = SPACE, **more: str
) -> bool:
    plural, _, sub = resource.partition("/")
    attributes: dict[str, Any] = {"verb": verb, "group": group, "resource": plural, **more}
    if sub:
        attributes["subresource"] = sub
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": f"system:serviceaccount:{space}:nodeyard-{service}",
            "resourceAttributes": attributes,
        },
    }
    answer = kube.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", body=body)
    return bool(answer["status"]["allowed"])


ALLOWED = [
    ("watcher", "watch", "pods", ""),
    ("watcher", "list", "provisioners", "karpenter.sh"),
    ("watcher", "watch", "awsnodetemplates", "karpenter.k8s.aws"),
    ("watcher", "list", "verticalpodautoscalers", "autoscaling.k8s.io"),
    ("watcher", "watch", "verticalpodautoscalers", "autoscaling.k8s.io"),
    ("allocator", "patch", "awsnodetemplates/status", "karpenter.k8s.aws"),
    ("allocator", "create", "nodeclaims", "karpenter.sh"),
    ("allocator", "patch", "nodeclaims/status", "karpenter.sh"),
    ("allocator", "patch", "pods/status", ""),
    ("allocator", "patch", "nodes", ""),
    ("allocator", "patch", "ec2nodeclasses/status", "karpenter.k8s.aws"),
    ("reallocator", "create", "pods/eviction", ""),
    ("reallocator", "create", "pods/binding", ""),
    ("reallocator", "delete", "nodes", ""),
    ("reallocator", "list", "volumeattachments", "storage.k8s.io"),
]
REFUSED = [
    ("watcher", "patch", "nodes", ""),
    ("watcher", "list", "secrets", ""),
    ("allocator", "create", "pods/binding", ""),
    ("allocator", "create", "pods/eviction", ""),
    ("allocator", "delete", "nodes", ""),
    ("allocator", "delete", "pods", ""),
    ("allocator", "get", "secrets", ""),
    ("allocator", "patch", "nodepools", "karpenter.sh"),
    ("reallocator", "patch", "pods/status", ""),
    ("reallocator", "create", "pods", ""),
    ("reallocator", "patch", "pods", ""),
    ("reallocator", "update", "deployments/scale", "apps"),
    ("reallocator", "delete", "nodepools", "karpenter.sh"),
    ("pricing", "list", "pods", ""),
    ("admin", "list", "pods", ""),
    ("admin", "get", "leases", "coordination.k8s.io"),
]


@pytest.mark.parametrize("case", ALLOWED, ids=" ".join)
def test_a_service_may_do_its_work(kube: KubeApi, installed: str, case: tuple[str, str, str, str]) -> None:
    service, verb, resource, group = case
    assert may(kube, service, verb, resource, group)


@pytest.mark.parametrize("case", REFUSED, ids=" ".join)
def test_a_service_may_do_nothing_else(
    kube: KubeApi, installed: str, case: tuple[str, str, str, str]
) -> None:
    service, verb, resource, group = case
    assert not may(kube, service, verb, resource, group)


@pytest.mark.parametrize("returning", [True, False])
def test_the_reallocator_may_bind_pods_only_where_it_is_to(kube: KubeApi, *, returning: bool) -> None:
    space = f"rights-{returning}".lower()
    install.install(
        kube,
        _renamed(render_rbac(space, reallocator={"bindReturningPods": returning}), space),
        namespace=space,
    )
    for service, allowed in (("reallocator", returning), ("allocator", False)):
        eventually(lambda s=service: may(kube, s, "patch", "nodes", space=space))  # type: ignore[misc]
        assert may(kube, service, "create", "pods/binding", space=space) is allowed


def test_the_reallocator_may_touch_workloads_only_where_it_is_to(kube: KubeApi) -> None:
    space = "rights-surge"
    told = {"surge": True, "markLeavingPods": True}
    install.install(kube, _renamed(render_rbac(space, reallocator=told), space), namespace=space)
    eventually(lambda: may(kube, "reallocator", "update", "deployments/scale", "apps", space=space))
    assert may(kube, "reallocator", "patch", "pods", space=space)
    for verb, resource, group in (
        ("update", "deployments", "apps"),
        ("patch", "deployments", "apps"),
        ("create", "pods", ""),
    ):
        assert not may(kube, "reallocator", verb, resource, group, space=space)


def _renamed(things: list[dict[str, Any]], suffix: str) -> list[dict[str, Any]]:
    """Roles of the whole cluster under names of their own, beside those installed already."""
    for thing in things:
        if thing["kind"].startswith("ClusterRole"):
            thing["metadata"]["name"] += f"-{suffix}"
        if thing["kind"] == "ClusterRoleBinding":
            thing["roleRef"]["name"] += f"-{suffix}"
    return things


def test_leases_are_each_services_own_and_in_its_namespace(kube: KubeApi, installed: str) -> None:
    lease = {"resource": "leases", "group": "coordination.k8s.io"}
    assert may(kube, "allocator", "patch", **lease, namespace=SPACE, name="nodeyard-planning-all")
    assert not may(kube, "allocator", "patch", **lease, namespace=SPACE, name="nodeyard-disruption")
    assert not may(kube, "allocator", "patch", **lease, namespace="kube-system", name="nodeyard-planning-all")
    assert may(kube, "reallocator", "patch", **lease, namespace=SPACE, name="nodeyard-disruption")


def test_the_whole_chart_is_taken_by_the_api_server(kube: KubeApi, installed: str) -> None:
    for thing in render(SPACE, values={"redis": {"password": "sesame"}}):
        path = kube.path_of(thing, namespace=SPACE)
        kube.request(
            "PATCH", path, body=thing, content_type="application/apply-patch+yaml",
            params={"dryRun": "All", "fieldManager": "t", "force": "true", "fieldValidation": "Strict"},
        )  # fmt: skip


async def test_epochs_grow_by_one_writer_at_a_time(allocator: KubernetesClient) -> None:
    epochs, other = KubernetesEpochs(allocator, SPACE), KubernetesEpochs(allocator, SPACE)
    name = "planning/all"
    assert await epochs.read(name) == 0
    assert await epochs.began(name) == (0, 0.0)
    assert await epochs.advance(name, 1, holder="me")
    assert not await other.advance(name, 1, holder="other")
    assert await other.advance(name, 5, holder="other")
    assert not await epochs.advance(name, 5)
    assert not await epochs.advance(name, 4)
    assert await epochs.read(name) == 5


async def test_of_two_writers_at_once_one_wins(allocator: KubernetesClient) -> None:
    import asyncio

    epochs = KubernetesEpochs(allocator, SPACE)
    first = await epochs.read("planning/all") + 1
    results = await asyncio.gather(*(epochs.advance("planning/all", first, holder=str(n)) for n in range(8)))
    assert results.count(True) == 1


async def test_when_an_epoch_began_is_the_api_servers_time_and_others_annotations_do_not_move_it(
    kube: KubeApi, allocator: KubernetesClient
) -> None:
    import time

    epochs = KubernetesEpochs(allocator, SPACE)
    number = await epochs.read("planning/all") + 1
    before = time.time()
    assert await epochs.advance("planning/all", number)
    began = await epochs.began("planning/all")
    assert began[0] == number
    assert before - 1.0 <= began[1] <= time.time() + 1.0, "whole seconds"
    path = f"/apis/coordination.k8s.io/v1/namespaces/{SPACE}/leases/{lease_name('planning/all')}"
    lease = kube.patch(path, {"metadata": {"annotations": {"example.com/note": "x"}}})
    assert len(lease["metadata"]["managedFields"]) > 1
    assert await epochs.began("planning/all") == began


async def test_an_epoch_that_is_not_a_number_is_named(kube: KubeApi, allocator: KubernetesClient) -> None:
    path = f"/apis/coordination.k8s.io/v1/namespaces/{SPACE}/leases/{lease_name('planning/all')}"
    before = kube.get(path)["metadata"]["annotations"]["nodeyard.dev/epoch"]
    kube.patch(path, {"metadata": {"annotations": {"nodeyard.dev/epoch": "many"}}})
    with pytest.raises(StoreUnavailableError, match="many"):
        await KubernetesEpochs(allocator, SPACE).read("planning/all")
    kube.patch(path, {"metadata": {"annotations": {"nodeyard.dev/epoch": before}}})


async def test_a_missing_right_is_an_unavailable_store(allocator: KubernetesClient) -> None:
    with pytest.raises(StoreUnavailableError, match="forbidden"):
        await KubernetesEpochs(allocator, "kube-system").read("planning/all")


async def test_karpenter_is_seen_while_its_lease_is_renewed_and_forgotten_after(
    kube: KubeApi, allocator: KubernetesClient
) -> None:
    clock = FakeClock(1_800_000_000.0)
    assert await karpenter_active(allocator, clock) is None
    body = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "karpenter-leader-election", "namespace": SPACE},
        "spec": {
            "holderIdentity": "karpenter-0",
            "leaseDurationSeconds": 15,
            "renewTime": "2027-01-15T08:00:00.000000Z",
        },
    }
    path = f"/apis/coordination.k8s.io/v1/namespaces/{SPACE}/leases"
    kube.create(path, body)
    try:
        found = await karpenter_active(allocator, clock)
        assert found is not None
        assert "karpenter-0" in found
        assert SPACE in found
        clock.skip(31.0)
        assert await karpenter_active(allocator, clock) is None
        clock.skip(-31.0)
        kube.patch(f"{path}/karpenter-leader-election", {"spec": {"holderIdentity": ""}})
        assert await karpenter_active(allocator, clock) is None
    finally:
        kube.delete(f"{path}/karpenter-leader-election")

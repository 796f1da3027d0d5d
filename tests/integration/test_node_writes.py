"""Writes to nodes that go, evictions and consent, on a real API server."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import pytest

from nodeyard.adapters.kubernetes.client import KubernetesClient
from nodeyard.adapters.kubernetes.consent import ANNOTATION, LEASE, approved_digest
from nodeyard.adapters.kubernetes.evictions import Evictions
from nodeyard.adapters.kubernetes.termination import NodeTermination
from nodeyard.api import labels as keys
from nodeyard.api.convert import node_of, pod_of
from nodeyard.api.node import Node
from nodeyard.disruption.commands import MARK, disrupted
from nodeyard.disruption.draining import Verdict
from nodeyard.local.kubeapi import KubeApi
from nodeyard.local.stand import Stand
from tests.support.cluster import eventually

pytestmark = pytest.mark.cluster
_numbers = itertools.count()


@pytest.fixture
async def client(control_plane: Stand) -> AsyncIterator[KubernetesClient]:
    client = await KubernetesClient.connect(str(control_plane.cluster.admin_kubeconfig))
    yield client
    await client.close()


@pytest.fixture
async def writes(client: KubernetesClient) -> NodeTermination:
    return NodeTermination(client)


def make_node(kube: KubeApi, **metadata: Any) -> Node:
    name = f"leaving-{next(_numbers)}"
    taints = [{"key": "theirs", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"}]
    body = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"a": "b"}, **metadata},
        "spec": {"taints": taints},
    }
    return node_of(kube.request("POST", "/api/v1/nodes", body=body))


def now(kube: KubeApi, node: Node) -> dict[str, Any]:
    return dict(kube.get(f"/api/v1/nodes/{node.name}"))


async def won(kube: KubeApi, node: Node, write: Callable[[Node], Awaitable[Node | None]]) -> Node:
    """The write's answer, on the newest version: the control plane's own controllers write new nodes too."""
    for _ in range(50):
        answer = await write(node_of(now(kube, node)))
        if answer is not None:
            return answer
    pytest.fail("lost every race")


def theirs(kube: KubeApi, node: Node) -> list[dict[str, Any]]:
    return [t for t in now(kube, node)["spec"]["taints"] if t["key"] == "theirs"]


async def test_a_node_is_tainted_and_marked_in_one_write_and_restored_as_it_was(
    kube: KubeApi, writes: NodeTermination
) -> None:
    node = make_node(kube)
    before = theirs(kube, node)
    assert before[0]["timeAdded"]
    marked = await won(kube, node, lambda now: writes.disrupt(now, "{}"))
    assert disrupted(marked)
    assert marked.annotations[MARK] == "{}"
    restored = await won(kube, node, writes.restore)
    assert not disrupted(restored)
    assert MARK not in restored.annotations
    assert theirs(kube, node) == before, "others' taints keep even their time"


async def test_a_write_on_an_older_version_does_nothing(kube: KubeApi, writes: NodeTermination) -> None:
    node = make_node(kube)
    kube.patch(f"/api/v1/nodes/{node.name}", {"metadata": {"labels": {"moved": "on"}}})
    assert await writes.disrupt(node, "{}") is None
    assert await writes.prepare_drain(node) is None
    assert not disrupted(node_of(now(kube, node)))


async def test_a_node_without_taints_or_labels_can_be_prepared_too(
    kube: KubeApi, writes: NodeTermination
) -> None:
    node = make_node(kube)
    kube.patch(f"/api/v1/nodes/{node.name}", {"spec": {"taints": None}, "metadata": {"labels": None}})
    prepared = await won(kube, node, writes.prepare_drain)
    assert disrupted(prepared)
    assert prepared.labels[keys.EXCLUDE_BALANCERS] == "karpenter"
    assert await writes.prepare_drain(prepared) is prepared, "what is done is not written again"


async def test_only_our_finalizer_is_dropped_and_the_node_goes_with_the_last(
    kube: KubeApi, writes: NodeTermination
) -> None:
    node = make_node(kube, finalizers=["example.com/theirs", keys.TERMINATION_FINALIZER])
    await writes.delete(node)
    assert node_of(now(kube, node)).deleted_at
    assert not await writes.drop_finalizer(node), "the version is an older one"
    while not await writes.drop_finalizer(node_of(now(kube, node))):
        pass
    assert now(kube, node)["metadata"]["finalizers"] == ["example.com/theirs"]
    kube.patch(f"/api/v1/nodes/{node.name}", {"metadata": {"finalizers": None}})


async def test_a_successor_of_the_same_name_is_not_deleted(kube: KubeApi, writes: NodeTermination) -> None:
    node = make_node(kube)
    await writes.delete(msgspec.structs.replace(node, uid="00000000-0000-0000-0000-000000000000"))
    assert not node_of(now(kube, node)).deleted_at
    await writes.delete(node)
    eventually(lambda: node.name not in {n["metadata"]["name"] for n in kube.get("/api/v1/nodes")["items"]})
    await writes.delete(node)


async def test_emptiness_timestamps_come_and_go(kube: KubeApi, writes: NodeTermination) -> None:
    node = make_node(kube)
    stamped = await won(kube, node, lambda now: writes.stamp(now, "2026-01-01T00:00:00Z"))
    assert stamped.annotations[keys.EMPTINESS_TIMESTAMP] == "2026-01-01T00:00:00Z"
    cleared = await won(kube, node, lambda now: writes.stamp(now, None))
    assert keys.EMPTINESS_TIMESTAMP not in cleared.annotations


async def test_labels_are_changed_and_taken_off_in_one_write(kube: KubeApi, writes: NodeTermination) -> None:
    node = make_node(kube, labels={keys.CAPACITY_TYPE: "reserved", keys.RESERVATION_ID: "cr-1", "a": "b"})
    outside = {keys.CAPACITY_TYPE: "on-demand", keys.RESERVATION_ID: None, keys.RESERVATION_TYPE: None}
    written = await won(kube, node, lambda now: writes.relabel(now, outside))
    assert (written.labels[keys.CAPACITY_TYPE], written.labels["a"]) == ("on-demand", "b")
    assert keys.RESERVATION_ID not in written.labels
    assert (await won(kube, node, lambda now: writes.relabel(now, outside))).labels == written.labels


async def test_attachments_are_listed_by_node(kube: KubeApi, writes: NodeTermination) -> None:
    node = make_node(kube)
    source = {"persistentVolumeName": f"pv-{node.name}"}
    body = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "VolumeAttachment",
        "metadata": {"name": f"va-{node.name}"},
        "spec": {"attacher": "ebs.csi.aws.com", "nodeName": node.name, "source": source},
    }
    path = "/apis/storage.k8s.io/v1/volumeattachments"
    kube.request("POST", path, body=body)
    assert (await writes.attached())[node.name] == {f"pv-{node.name}"}
    kube.delete(f"{path}/va-{node.name}")


def make_pod(kube: KubeApi, namespace: str, name: str) -> Any:
    container = {"name": "main", "image": "registry.example/app"}
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [container], "nodeName": "nowhere"},
    }
    raw = kube.request("POST", f"/api/v1/namespaces/{namespace}/pods", body=body)
    return pod_of(raw, "shape")


async def test_evictions_name_the_pods_uid(kube: KubeApi, namespace: str, client: KubernetesClient) -> None:
    evictions = Evictions(client)
    pod = make_pod(kube, namespace, "web")
    another = msgspec.structs.replace(pod, uid="00000000-0000-0000-0000-000000000000")
    assert (await evictions.evict(another)).verdict is Verdict.GONE
    assert (await evictions.delete(another, 1)).verdict is Verdict.GONE
    assert (await evictions.evict(pod)).verdict is Verdict.ACCEPTED
    assert kube.get(f"/api/v1/namespaces/{namespace}/pods/web")["metadata"]["deletionTimestamp"]
    assert (await evictions.evict(msgspec.structs.replace(pod, name="nobody"))).verdict is Verdict.GONE


async def test_budgets_block_evictions_also_when_there_are_several(
    kube: KubeApi, namespace: str, client: KubernetesClient
) -> None:
    evictions = Evictions(client)
    pod = make_pod(kube, namespace, "web")
    kube.patch(
        f"/api/v1/namespaces/{namespace}/pods/web/status",
        {"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}},
    )
    path = f"/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets"

    def budget(name: str) -> None:
        spec = {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}
        body = {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": {"name": name},
            "spec": spec,
        }
        kube.request("POST", path, body=body)

    budget("one")
    eventually(lambda: kube.get(f"{path}/one")["status"].get("observedGeneration") == 1)
    blocked = await evictions.evict(pod)
    assert (blocked.verdict, blocked.code) == (Verdict.BLOCKED, 429)
    budget("two")
    several = await evictions.evict(pod)
    assert several.verdict is Verdict.BLOCKED
    assert (await evictions.delete(pod, 1)).verdict is Verdict.ACCEPTED


async def test_a_persons_consent_is_read_from_the_lease(
    kube: KubeApi, namespace: str, client: KubernetesClient
) -> None:
    assert await approved_digest(client, namespace) == ""
    path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": LEASE}}
    kube.request("POST", path, body=lease)
    assert await approved_digest(client, namespace) == ""
    kube.patch(f"{path}/{LEASE}", {"metadata": {"annotations": {ANNOTATION: "abc"}}})
    assert await approved_digest(client, namespace) == "abc"

"""The allocator's writes on a real API server: what they carry as preconditions, and what they leave alone."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from nodeyard.adapters.kubernetes.client import KubernetesClient
from nodeyard.adapters.kubernetes.errors import AlreadyExists
from nodeyard.adapters.kubernetes.node_claims import NodeClaims
from nodeyard.adapters.kubernetes.placement import Placement
from nodeyard.adapters.kubernetes.registration import Registration
from nodeyard.api import labels as keys
from nodeyard.api.convert import node_of, pod_of
from nodeyard.api.node import LAUNCHED, Condition, Node, NodeClaim, NodeClassRef
from nodeyard.api.pod import PodRecord
from nodeyard.api.selectors import Requirement, Taint
from nodeyard.local.kubeapi import KubeApi
from nodeyard.local.stand import Stand
from tests.support.cluster import plain_node, pod

pytestmark = pytest.mark.cluster
_numbers = itertools.count()
ANOTHER = "00000000-0000-0000-0000-000000000000"
CLAIMS, NODES = "/apis/karpenter.sh/v1/nodeclaims", "/api/v1/nodes"


@pytest.fixture
async def client(control_plane: Stand) -> AsyncIterator[KubernetesClient]:
    client = await KubernetesClient.connect(str(control_plane.admin_kubeconfig))
    yield client
    await client.close()


def claim(name: str, **fields: Any) -> NodeClaim:
    return NodeClaim(
        name,
        node_class=NodeClassRef("default"),
        requirements=(Requirement(keys.CAPACITY_TYPE, "In", ("spot",)),),
        requests={"cpu": 100},
        **fields,
    )


@pytest.fixture
async def made(client: KubernetesClient) -> AsyncIterator[NodeClaim]:
    """A claim on the server; gone afterwards."""
    claims = NodeClaims(client)
    labels = {keys.NODEPOOL: "general"}
    wanted = claim(f"claim-{next(_numbers)}", labels=labels, taints=(Taint("team", "NoSchedule", "a"),))
    yield await claims.create(wanted)
    await claims.delete(wanted.name)


# --- nodes ------------------------------------------------------------------------------------------------------------
def joined(kube: KubeApi) -> Node:
    """A node as a kubelet registers it, with our taint and a label of its own."""
    body = plain_node(f"joined-{next(_numbers)}", labels={"own": "1"})
    body["spec"] = {"taints": [{"key": keys.TAINT_UNREGISTERED, "effect": keys.NO_EXECUTE}]}
    return node_of(kube.request("POST", NODES, body=body))


def node_now(kube: KubeApi, node: Node) -> dict[str, Any]:
    return dict(kube.get(f"{NODES}/{node.name}"))


async def test_a_node_is_registered_and_held_in_one_write_whatever_changed_since_it_was_seen(
    kube: KubeApi, client: KubernetesClient, made: NodeClaim
) -> None:
    seen = joined(kube)
    kube.patch(f"{NODES}/{seen.name}", {"metadata": {"labels": {"late": "yes"}}})
    written = await Registration(client).register(seen, made, hold_until="2026-01-01T00:00:10Z")
    assert written is not None
    node = node_now(kube, seen)
    labels = node["metadata"]["labels"]
    assert (labels["own"], labels["late"]) == ("1", "yes")
    assert (labels[keys.NODEPOOL], labels[keys.REGISTERED]) == ("general", "true")
    taints = {(t["key"], t["effect"]) for t in node["spec"]["taints"]}
    assert {("team", "NoSchedule"), (keys.BIND_HOLD, "NoSchedule")} <= taints
    assert keys.TAINT_UNREGISTERED not in {key for key, _ in taints}
    assert node["metadata"]["annotations"][keys.BIND_HOLD_DEADLINE] == "2026-01-01T00:00:10Z"
    assert node["metadata"]["finalizers"] == [keys.TERMINATION_FINALIZER]
    (owner,) = node["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"]) == ("NodeClaim", made.uid)
    kube.patch(f"{NODES}/{seen.name}", {"metadata": {"labels": {"later": "yes"}}})
    lifted = await Registration(client).lift_hold(written)
    assert lifted is not None
    node = node_now(kube, seen)
    assert keys.BIND_HOLD not in {t["key"] for t in node["spec"]["taints"]}
    assert keys.BIND_HOLD_DEADLINE not in node["metadata"].get("annotations", {})
    assert node["metadata"]["labels"]["later"] == "yes"
    kube.patch(f"{NODES}/{seen.name}", {"metadata": {"finalizers": None}})
    kube.delete(f"{NODES}/{seen.name}")


async def test_a_node_made_anew_under_the_same_name_is_not_registered(
    kube: KubeApi, client: KubernetesClient, made: NodeClaim
) -> None:
    real = joined(kube)
    stale = msgspec.structs.replace(real, uid=ANOTHER)
    registration = Registration(client)
    assert await registration.register(stale, made) is None
    assert await registration.initialized(stale) is None
    assert await registration.register(msgspec.structs.replace(real, name="nobody"), made) is None
    labels = node_now(kube, real)["metadata"]["labels"]
    assert not {keys.REGISTERED, keys.INITIALIZED} & labels.keys()
    kube.delete(f"{NODES}/{real.name}")


# --- pods -------------------------------------------------------------------------------------------------------------
def waiting(kube: KubeApi, namespace: str, name: str) -> PodRecord:
    path = f"/api/v1/namespaces/{namespace}/pods"
    return pod_of(kube.request("POST", path, body=pod(name, schedulerName="nobody")), "shape")


def pod_now(kube: KubeApi, record: PodRecord) -> dict[str, Any]:
    return dict(kube.get(f"/api/v1/namespaces/{record.namespace}/pods/{record.name}"))


async def test_nominations_name_the_pods_uid(kube: KubeApi, namespace: str, client: KubernetesClient) -> None:
    placement, mine = Placement(client), waiting(kube, namespace, "mine")
    anew = msgspec.structs.replace(waiting(kube, namespace, "anew"), uid=ANOTHER)
    gone = msgspec.structs.replace(mine, name="gone")
    assert await placement.nominate([mine, anew, gone], "n1") == {}
    assert pod_now(kube, mine)["status"]["nominatedNodeName"] == "n1"
    assert "nominatedNodeName" not in pod_now(kube, anew)["status"]


async def test_bindings_name_the_pods_uid_and_what_failed_is_told(
    kube: KubeApi, namespace: str, client: KubernetesClient
) -> None:
    """The server checks nothing else: this node does not exist."""
    placement, mine = Placement(client), waiting(kube, namespace, "mine")
    anew = msgspec.structs.replace(waiting(kube, namespace, "anew"), uid=ANOTHER)
    gone = msgspec.structs.replace(mine, name="gone")
    failed = await placement.bind([mine, anew, gone], "nowhere")
    assert failed.keys() == {anew.key, gone.key}
    assert pod_now(kube, mine)["spec"]["nodeName"] == "nowhere"
    assert "nodeName" not in pod_now(kube, anew)["spec"]
    again = await placement.bind([mine], "elsewhere")
    assert again.keys() == {mine.key}
    for record in (mine, anew):
        kube.delete(f"/api/v1/namespaces/{namespace}/pods/{record.name}", gracePeriodSeconds="0")


# --- claims -----------------------------------------------------------------------------------------------------------
async def test_of_two_that_write_the_same_annotation_the_first_wins(
    client: KubernetesClient, made: NodeClaim
) -> None:
    claims, other = NodeClaims(client), NodeClaims(client)
    first = await claims.annotate(made, {"a": "first"}, unless="a")
    second = await other.annotate(made, {"a": "second"}, unless="a")
    assert first is not None
    assert second is not None
    assert (first.annotations["a"], second.annotations["a"]) == ("first", "first")


async def test_a_status_written_on_an_older_claim_keeps_what_others_wrote(
    client: KubernetesClient, made: NodeClaim
) -> None:
    claims = NodeClaims(client)
    await claims.set_conditions(made, [Condition("Drifted", "True", "Drifted")], 1.0)
    after = await claims.set_conditions(made, [Condition(LAUNCHED, "True", LAUNCHED)], 2.0)
    assert after is not None
    assert after.is_true("Drifted")
    assert after.is_true(LAUNCHED)


async def test_a_claim_made_anew_under_the_same_name_is_left_alone(
    kube: KubeApi, client: KubernetesClient, made: NodeClaim
) -> None:
    """Its resourceVersion tells: a patch of a custom resource's status is taken whatever UID it names."""
    claims, stale = NodeClaims(client), msgspec.structs.replace(made, uid=ANOTHER)
    await claims.annotate(made, {"later": "1"})
    assert not await claims.delete(made.name, ANOTHER)
    assert await claims.annotate(stale, {"a": "b"}) is None
    assert await claims.set_conditions(stale, [Condition(LAUNCHED, "True", LAUNCHED)], 1.0) is None
    now = kube.get(f"{CLAIMS}/{made.name}")
    assert "deletionTimestamp" not in now["metadata"]
    assert "a" not in now["metadata"]["annotations"]
    assert "status" not in now


async def test_a_create_whose_answer_was_lost_is_found_again_by_its_plan(client: KubernetesClient) -> None:
    claims = NodeClaims(client)
    wanted = claim(f"claim-{next(_numbers)}", annotations={keys.PLAN_ID: "plan-1"})
    first = await claims.create(wanted)
    assert (await claims.create(wanted)).uid == first.uid
    with pytest.raises(AlreadyExists):
        await claims.create(msgspec.structs.replace(wanted, annotations={keys.PLAN_ID: "plan-2"}))
    await claims.delete(wanted.name)

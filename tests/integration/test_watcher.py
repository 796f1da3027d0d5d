"""The watcher and the Kubernetes adapter on a real API server."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from nodeyard.adapters.kubernetes import paths
from nodeyard.adapters.kubernetes.client import KubernetesClient
from nodeyard.adapters.kubernetes.errors import (
    AlreadyExists,
    BadConfiguration,
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    Unauthorized,
    Unavailable,
)
from nodeyard.adapters.kubernetes.events import EventRecorder
from nodeyard.api.convert import node_claim_manifest
from nodeyard.api.node import NodeClaim, NodeClassRef
from nodeyard.api.selectors import Requirement
from nodeyard.local import install
from nodeyard.local.stand import Stand
from nodeyard.state.intake import changes_of
from tests.support.cluster import StandFactory, pod
from tests.support.watcher import fed, until, watcher_process

pytestmark = pytest.mark.cluster

CLAIM = NodeClaim(
    name="watched",
    labels={"karpenter.sh/nodepool": "p"},
    requirements=(Requirement("karpenter.sh/capacity-type", "In", ("spot",)),),
    requests={"cpu": 100},
    node_class=NodeClassRef("default"),
    expire_after_s=3600.0,
)


@pytest.fixture
async def client(control_plane: Stand) -> AsyncIterator[KubernetesClient]:
    client = await KubernetesClient.connect(str(control_plane.admin_kubeconfig))
    yield client
    await client.close()


def of(body: bytes) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(body)
    return loaded


# --- the client -----------------------------------------------------------------------------------------------------
async def test_objects_are_made_changed_and_deleted_under_preconditions(
    client: KubernetesClient, namespace: str
) -> None:
    path = paths.pod(namespace, "one")
    made = of(await client.create(paths.pods(namespace), pod("one", schedulerName="nobody")))
    with pytest.raises(AlreadyExists):
        await client.create(paths.pods(namespace), pod("one"))
    version = made["metadata"]["resourceVersion"]
    labelled = of(
        await client.merge_patch(path, {"metadata": {"labels": {"a": "b"}, "resourceVersion": version}})
    )
    with pytest.raises(Conflict):
        await client.merge_patch(path, {"metadata": {"labels": {"a": "c"}, "resourceVersion": version}})
    with pytest.raises(Invalid):
        await client.json_patch(path, [{"op": "test", "path": "/metadata/uid", "value": "another"}])
    await client.merge_patch(path, {"status": {"nominatedNodeName": "n1"}}, subresource="status")
    assert of(await client.get(path))["status"]["nominatedNodeName"] == "n1"
    with pytest.raises(Conflict):
        await client.delete(path, uid="another", grace_s=0)
    with pytest.raises(Conflict):
        await client.delete(path, resource_version=labelled["metadata"]["resourceVersion"], grace_s=0)
    await client.delete(path, uid=made["metadata"]["uid"], grace_s=0)
    with pytest.raises(NotFound):
        await client.get(path)


async def test_a_bad_object_is_invalid_and_says_which_field(client: KubernetesClient, namespace: str) -> None:
    with pytest.raises(Invalid, match=r"spec\.containers"):
        await client.create(paths.pods(namespace), {"metadata": {"name": "bad"}, "spec": {"containers": []}})


async def test_server_side_apply_makes_and_remakes(client: KubernetesClient, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps/c"
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "1"}}
    await client.apply(path, body, field_manager="test")
    again = of(await client.apply(path, {**body, "data": {"a": "2"}}, field_manager="test"))
    assert again["data"] == {"a": "2"}


async def test_a_claim_is_accepted_as_we_write_it_and_reads_back(client: KubernetesClient) -> None:
    body = await client.create(paths.nodeclaims(), node_claim_manifest(CLAIM))
    try:
        (change,) = changes_of("NodeClaim", body)
        assert change.value is not None
        for field in ("labels", "requirements", "requests", "node_class", "expire_after_s"):
            assert getattr(change.value, field) == getattr(CLAIM, field)
    finally:
        await client.delete(paths.nodeclaim("watched"))


async def test_a_long_list_comes_in_pages_of_one_moment(client: KubernetesClient, namespace: str) -> None:
    for number in range(7):
        await client.create(paths.pods(namespace), pod(f"p{number}", schedulerName="nobody"))
    pages = [page async for page in client.list_pages(paths.pods(namespace), limit=3)]
    assert [len(page.items or []) for page in pages] == [3, 3, 1]
    assert len({page.metadata.resource_version for page in pages}) == 1


async def test_what_is_not_allowed_or_not_there_has_its_own_error(
    control_plane: Stand, tmp_path: Path, client: KubernetesClient
) -> None:
    with pytest.raises(NotFound):
        await client.get("/apis/karpenter.sh/v9/nodepools")
    nobody = await KubernetesClient.connect(_as_user(control_plane, tmp_path, token="no such token"))
    with pytest.raises((Unauthorized, Forbidden)):
        await nobody.get(paths.nodes())
    await nobody.close()
    away = tmp_path / "away"
    away.write_text(
        control_plane.admin_kubeconfig.read_text().replace(
            control_plane.cluster.server, "https://127.0.0.1:1"
        )
    )
    lost = await KubernetesClient.connect(str(away))
    with pytest.raises(Unavailable, match="can't be reached"):
        await lost.get(paths.nodes())
    await lost.close()
    with pytest.raises(BadConfiguration, match="nowhere"):
        await KubernetesClient.connect(str(tmp_path / "nowhere"))
    with pytest.raises(BadConfiguration, match="not in a pod"):
        await KubernetesClient.connect(None)


def _as_user(stand: Stand, directory: Path, token: str) -> str:
    import yaml

    config = yaml.safe_load(stand.admin_kubeconfig.read_text())
    config["users"][0]["user"] = {"token": token}
    path = directory / "nobody"
    path.write_text(yaml.safe_dump(config))
    return str(path)


async def test_events_are_written_once_for_the_same_words(client: KubernetesClient, namespace: str) -> None:
    recorder = EventRecorder(client, "nodeyard-test")
    writing = asyncio.create_task(recorder.run())
    said = {"kind": "Pod", "api_version": "v1", "name": "p", "namespace": namespace, "uid": "u"}
    for _ in range(3):
        recorder.publish(**said, type="Warning", reason="FailedScheduling", message="no pool admits it")
    recorder.publish(**said, reason="Nominated", message="x" * 5000)

    async def events() -> list[dict[str, Any]]:
        return list(of(await client.get(paths.events(namespace)))["items"])

    async with asyncio.timeout(60):
        while len(found := await events()) < 2:  # noqa: ASYNC110 - the API server is asked
            await asyncio.sleep(0.05)
    writing.cancel()
    assert sorted(event["reason"] for event in found) == ["FailedScheduling", "Nominated"]
    assert recorder.dropped == 0


# --- the service ----------------------------------------------------------------------------------------------------
async def test_a_watcher_shows_the_cluster_as_it_is_and_as_it_changes(
    control_plane: Stand, client: KubernetesClient, namespace: str, tmp_path: Path
) -> None:
    await client.create(
        paths.pods(namespace), pod("before", requests={"cpu": "250m"}, schedulerName="nobody")
    )
    async with (
        watcher_process(control_plane.admin_kubeconfig, tmp_path) as watcher,
        fed(watcher.address) as feed,
    ):
        await until(lambda: feed.synced)
        snapshot = feed.snapshot()
        record = snapshot.pods[f"{namespace}/before"]
        assert snapshot.shape(record).requests == {"cpu": 250, "pods": 1}
        assert namespace in snapshot.namespaces
        await client.create(paths.pods(namespace), pod("after", requests={"cpu": "400"}))
        await until(lambda: _unschedulable(feed, f"{namespace}/after"))
        body = await client.create(paths.nodeclaims(), node_claim_manifest(CLAIM))
        (own,) = changes_of("NodeClaim", body)
        feed.overlay(own)
        assert feed.snapshot().claims["watched"].uid == of(body)["metadata"]["uid"]
        await until(lambda: not feed._overlays)
        assert "watched" in feed.snapshot().claims
        await client.delete(paths.nodeclaim("watched"))
        await client.delete(paths.pod(namespace, "before"), grace_s=0)
        await until(lambda: "watched" not in feed.snapshot().claims)
        await until(lambda: f"{namespace}/before" not in feed.snapshot().pods)
        async with httpx.AsyncClient(base_url=f"http://{watcher.http}", trust_env=False) as http:
            ready = await http.get("/readyz")
            metrics = (await http.get("/metrics")).text
    assert ready.status_code == 200
    assert 'nodeyard_watcher_objects{kind="pods"}' in metrics


def _unschedulable(feed: Any, key: str) -> bool:
    pod = feed.snapshot().pods.get(key)
    return pod is not None and pod.provisionable and pod.unschedulable_since > 0


async def test_a_killed_watcher_is_replaced_and_its_subscriber_goes_on(
    control_plane: Stand, client: KubernetesClient, namespace: str, tmp_path: Path
) -> None:
    config = control_plane.admin_kubeconfig
    async with watcher_process(config, tmp_path) as first, fed(first.address) as feed:
        await until(lambda: feed.synced)
        epoch = feed.snapshot().epoch
        os.kill(first.pid, signal.SIGKILL)
        await client.create(paths.pods(namespace), pod("meanwhile", schedulerName="nobody"))
        async with watcher_process(config, tmp_path, first.address):
            await until(lambda: f"{namespace}/meanwhile" in feed.snapshot().pods)
            await until(lambda: feed.synced)
            assert feed.snapshot().epoch != epoch


async def test_an_api_server_that_restarts_is_survived(make_stand: StandFactory, tmp_path: Path) -> None:
    stand = make_stand(parts="control-plane")
    with stand.api() as api:
        install.install(api, install.definitions())
    async with watcher_process(stand.admin_kubeconfig, tmp_path) as watcher, fed(watcher.address) as feed:
        await until(lambda: feed.synced)
        epoch = feed.snapshot().epoch
        await asyncio.to_thread(stand.restart_apiserver)
        client = await KubernetesClient.connect(str(stand.admin_kubeconfig))
        await client.create("/api/v1/namespaces", {"metadata": {"name": "later"}})
        await client.close()
        await until(lambda: "later" in feed.snapshot().namespaces and feed.synced)
        assert feed.snapshot().epoch == epoch


# --- a kind that is not always there ----------------------------------------------------------------------------------
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
AUTOSCALERS = "verticalpodautoscalers.autoscaling.k8s.io"
APPROVED = {"api-approved.kubernetes.io": "https://github.com/kubernetes/kubernetes/pull/63797"}


def definition() -> dict[str, Any]:
    """As little of the VerticalPodAutoscaler's definition as the API server takes."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {
        "kind": "VerticalPodAutoscaler",
        "listKind": "VerticalPodAutoscalerList",
        "plural": "verticalpodautoscalers",
        "singular": "verticalpodautoscaler",
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": AUTOSCALERS, "annotations": APPROVED},
        "spec": {
            "group": "autoscaling.k8s.io", "scope": "Namespaced", "names": names, "versions": [version],
        },
    }  # fmt: skip


def autoscaler(cpu: str) -> dict[str, Any]:
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}
    recommended = [{"containerName": "main", "target": {"cpu": cpu}}]
    return {
        "apiVersion": "autoscaling.k8s.io/v1",
        "kind": "VerticalPodAutoscaler",
        "metadata": {"name": "web"},
        "spec": {"targetRef": target, "updatePolicy": {"updateMode": "InPlaceOrRecreate"}},
        "status": {"recommendation": {"containerRecommendations": recommended}},
    }


def on_node(node: str, name: str) -> dict[str, Any]:
    """A pod of the Deployment `web`, bound already."""
    body = pod(name, requests={"cpu": "250m"}, nodeName=node)
    owner = {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "name": "web-7d9f",
        "uid": "1",
        "controller": True,
    }
    body["metadata"] |= {"labels": {"pod-template-hash": "7d9f"}, "ownerReferences": [owner]}
    return body


async def test_autoscalers_are_followed_from_when_they_are_installed_until_they_are_not(
    control_plane: Stand, client: KubernetesClient, namespace: str, tmp_path: Path
) -> None:
    path = f"/apis/autoscaling.k8s.io/v1/namespaces/{namespace}/verticalpodautoscalers"
    key = f"{namespace}/scaled"
    async with (
        watcher_process(control_plane.admin_kubeconfig, tmp_path) as watcher,
        fed(watcher.address) as feed,
    ):

        def cpu() -> int:
            snapshot = feed.snapshot()
            return snapshot.shapes[snapshot.successor(snapshot.pods[key])].requests["cpu"]

        await client.create(paths.nodes(), {"metadata": {"name": namespace}})
        await client.create(paths.pods(namespace), on_node(namespace, "scaled"))
        await until(lambda: feed.synced and key in feed.snapshot().pods)
        assert cpu() == 250
        epoch = feed.snapshot().epoch
        await client.create(CRDS, definition())
        try:
            await _created(client, path, autoscaler("2"))
            await until(lambda: cpu() == 2000)
            await client.merge_patch(f"{path}/web", {"status": autoscaler("3")["status"]})
            await until(lambda: cpu() == 3000)
            await client.merge_patch(f"{path}/web", {"spec": {"updatePolicy": {"updateMode": "Off"}}})
            await until(lambda: cpu() == 250)
            await client.merge_patch(f"{path}/web", {"spec": {"updatePolicy": {"updateMode": "Initial"}}})
            await until(lambda: cpu() == 3000)
        finally:
            await client.delete(f"{CRDS}/{AUTOSCALERS}")
            await client.delete(paths.node(namespace))
        await until(lambda: cpu() == 250)
        assert feed.synced
        assert feed.snapshot().epoch == epoch
    told = watcher.log.read_text()
    assert "subscribers are sent away" not in told
    assert told.count("verticalpodautoscalers") <= 3


async def _created(client: KubernetesClient, path: str, body: dict[str, Any]) -> None:
    """Makes an object of a kind that is just being installed."""
    async with asyncio.timeout(60):
        while True:
            try:
                await client.create(path, body)
            except NotFound:
                await asyncio.sleep(0.1)
            else:
                return

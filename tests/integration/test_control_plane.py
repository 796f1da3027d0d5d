"""The stand's control plane does what a real cluster does: it schedules, it runs pods, it denies, it restarts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from nodeyard.local.install import service_kubeconfig
from nodeyard.local.kubeapi import KubeApi, KubeError
from nodeyard.local.processes import Processes, is_running
from nodeyard.local.stand import Options, Stand
from nodeyard.local.versions import KUBERNETES
from tests.support.cluster import StandFactory, condition, eventually, plain_node, pod

pytestmark = pytest.mark.cluster


def _create_pod(kube: KubeApi, namespace: str, body: dict[str, Any]) -> str:
    kube.create(f"/api/v1/namespaces/{namespace}/pods", body)
    return f"/api/v1/namespaces/{namespace}/pods/{body['metadata']['name']}"


def test_it_is_the_release_that_was_asked_for(kube: KubeApi) -> None:
    assert kube.get("/version")["gitVersion"].removeprefix("v") == KUBERNETES


def test_a_pod_without_a_node_is_unschedulable_and_runs_once_a_node_joins(
    kube: KubeApi, namespace: str
) -> None:
    chosen = {"nodeSelector": {"test": namespace}}
    path = _create_pod(kube, namespace, pod("waits", requests={"cpu": "1"}, **chosen))
    unschedulable = eventually(
        lambda: condition(kube.get(path), "PodScheduled").get("reason") == "Unschedulable"
    )
    assert unschedulable

    node = plain_node(namespace, labels={"test": namespace})
    kube.create("/api/v1/nodes", node)
    try:
        eventually(lambda: kube.get(path)["status"]["phase"] == "Running")
        assert kube.get(path)["spec"]["nodeName"] == node["metadata"]["name"]
        kube.delete(path)
        eventually(lambda: not kube.get(f"/api/v1/namespaces/{namespace}/pods")["items"])
    finally:
        kube.delete(f"/api/v1/nodes/{node['metadata']['name']}")


def test_a_node_whose_machine_is_not_ready_stays_not_ready_until_it_is(kube: KubeApi) -> None:
    node = plain_node("late", annotations={"machines.nodeyard.dev/ready": "false"})
    control = plain_node("early")
    path = f"/api/v1/nodes/{node['metadata']['name']}"
    try:
        kube.create("/api/v1/nodes", node)
        kube.create("/api/v1/nodes", control)
        eventually(
            lambda: (
                condition(kube.get(f"/api/v1/nodes/{control['metadata']['name']}"), "Ready").get("status")
                == "True"
            )
        )
        assert condition(kube.get(path), "Ready").get("status") != "True"
        kube.patch(path, {"metadata": {"annotations": {"machines.nodeyard.dev/ready": "true"}}})
        eventually(lambda: condition(kube.get(path), "Ready").get("status") == "True")
    finally:
        for each in (node, control):
            kube.delete(f"/api/v1/nodes/{each['metadata']['name']}")


def test_pods_on_a_machines_node_are_left_to_the_machine(kube: KubeApi, namespace: str) -> None:
    room = {"cpu": "8", "memory": "32Gi", "pods": "110"}
    machine = plain_node("x", allocatable=room, labels={"machine": namespace})
    machine["metadata"]["name"] = f"ip-10-0-0-7-{namespace}"
    selector = {"nodeSelector": {"machine": namespace}}
    kube.create("/api/v1/nodes", machine)
    try:
        path = _create_pod(kube, namespace, pod("mine", **selector))
        eventually(lambda: kube.get(path)["spec"].get("nodeName"))
        witness = plain_node(f"{namespace}-witness", labels={"witness": namespace})
        kube.create("/api/v1/nodes", witness)
        other = _create_pod(kube, namespace, pod("plain", nodeSelector={"witness": namespace}))
        eventually(lambda: kube.get(other)["status"]["phase"] == "Running")
        assert kube.get(path)["status"]["phase"] == "Pending"
        kube.delete(f"/api/v1/nodes/{witness['metadata']['name']}")
    finally:
        kube.delete(f"/api/v1/nodes/{machine['metadata']['name']}")


def test_rbac_denies_an_account_what_it_was_not_given(
    control_plane: Stand, kube: KubeApi, namespace: str, tmp_path: Path
) -> None:
    metadata = {"name": "reader", "namespace": namespace}
    rbac = "rbac.authorization.k8s.io"
    kube.apply(
        [
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata},
            {
                "apiVersion": f"{rbac}/v1",
                "kind": "Role",
                "metadata": metadata,
                "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}],
            },
            {
                "apiVersion": f"{rbac}/v1",
                "kind": "RoleBinding",
                "metadata": metadata,
                "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "reader"},
                "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": namespace}],
            },
        ]
    )
    path = service_kubeconfig(kube, tmp_path / "reader.kubeconfig", account="reader", namespace=namespace)
    with KubeApi(path) as reader:
        eventually(lambda: _allowed(reader, f"/api/v1/namespaces/{namespace}/pods"))
        for denied in (f"/api/v1/namespaces/{namespace}/secrets", "/api/v1/nodes"):
            with pytest.raises(KubeError) as refused:
                reader.get(denied)
            assert refused.value.status == 403


def _allowed(api: KubeApi, path: str) -> bool:
    try:
        api.get(path)
    except KubeError as error:
        if error.status != 403:
            raise
        return False
    return True


def test_applying_a_kind_that_is_not_served_says_so(kube: KubeApi) -> None:
    with pytest.raises(KubeError, match="404"):
        kube.apply([{"apiVersion": "no.such.group/v1", "kind": "Thing", "metadata": {"name": "a"}}])


def test_the_api_server_comes_back_at_the_same_place_with_its_data(make_stand: StandFactory) -> None:
    stand = make_stand(parts="control-plane")
    with stand.api() as api:
        api.create("/api/v1/nodes", plain_node("kept"))
        stand.restart_apiserver()
        assert api.get("/api/v1/nodes/kwok-kept")["metadata"]["name"] == "kwok-kept"


def test_a_second_start_in_the_same_place_is_quick_and_empty(tmp_path: Path) -> None:
    for _ in range(2):
        began = time.monotonic()
        with Stand(tmp_path, Options(parts="control-plane")) as stand, stand.api() as api:
            took = time.monotonic() - began
            assert not api.get("/api/v1/nodes")["items"]
            api.create("/api/v1/nodes", plain_node("left-behind"))
    assert took < 120, "a start without building anything takes seconds"
    assert not any(is_running(record) for record in Processes(tmp_path).records())


def test_nothing_is_left_running_when_the_process_that_started_it_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from nodeyard.local.stand import Options, Stand; "
        "Stand(Path(sys.argv[1]), Options(parts='control-plane')).start(); print('up', flush=True); "
        "time.sleep(600)"
    )
    child = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        records = Processes(tmp_path).records()
        assert len(records) == 5
        assert all(is_running(record) for record in records)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    eventually(lambda: not any(is_running(record) for record in records))

"""The machines of the simulated account on a real control plane: they join, admit, run, end and go as they should."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from nodeyard.local.account.server import AccountServer
from nodeyard.local.kubeapi import KubeApi, KubeError
from nodeyard.local.stand import Stand
from tests.support.account import REGION, AwsClients, DialBoard, node_config
from tests.support.cluster import StandFactory, condition, eventually, make_namespace, pod

pytestmark = pytest.mark.cluster

ZONE = "eu-west-1a"
GIB = 1024**2  # in Ki


class Yard:
    """One account whose machines join one cluster, with what tests do to both."""

    def __init__(self, server: AccountServer, kube: KubeApi) -> None:
        self.aws, self.dials, self.kube = AwsClients(server.url), DialBoard(server.url), kube
        self._templates = 0

    def launch(
        self, instance_type: str = "m5.large", *, user_data: str | None = None, spot: bool = False
    ) -> str:
        """Launches one instance of the cluster; its id."""
        self._templates += 1
        name = f"nodes-{self._templates}"
        self.aws.template(name, user_data=node_config() if user_data is None else user_data)
        answer = self.aws.fleet([(instance_type, ZONE)], template=name, spot=spot)
        assert answer["Errors"] == []
        instance: str = answer["Instances"][0]["InstanceIds"][0]
        return instance

    def machine(self, instance: str) -> dict[str, Any]:
        """What the account says of a machine; empty while it says nothing."""
        return next((m for m in self.dials.get("nodes") if m["instance_id"] == instance), {})

    def joined(self, instance: str) -> str:
        """Waits until the instance is a node; the node's path."""
        name = eventually(lambda: (m := self.machine(instance)).get("stage") == "joined" and m["node"])
        return f"/api/v1/nodes/{name}"

    def node(self, path: str) -> dict[str, Any]:
        found: dict[str, Any] = self.kube.get(path)
        return found

    def bind(self, namespace: str, body: dict[str, Any], node_path: str) -> str:
        """Creates a pod and binds it by the API that checks nothing; the pod's path."""
        body["spec"].setdefault("schedulerName", "nobody")
        name = body["metadata"]["name"]
        self.kube.create(f"/api/v1/namespaces/{namespace}/pods", body)
        path = f"/api/v1/namespaces/{namespace}/pods/{name}"
        target = {"kind": "Node", "name": node_path.rsplit("/", 1)[-1]}
        binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target}
        self.kube.create(f"{path}/binding", binding)
        return path

    def phase(self, path: str) -> str:
        return str(self.kube.get(path)["status"]["phase"])

    def failure(self, path: str) -> str:
        """Waits until the pod has failed; its reason."""
        return str(
            eventually(lambda: (s := self.kube.get(path)["status"])["phase"] == "Failed" and s["reason"])
        )

    def clear(self) -> None:
        """All instances away, all dials back, no node left."""
        self.dials.delete()
        self.dials.put("machines", shutdown_seconds=0)
        ids = [
            i["InstanceId"]
            for i in self.aws.instances()
            if i["State"]["Name"] not in ("terminated", "shutting-down")
        ]
        if ids:
            self.aws.ec2.terminate_instances(InstanceIds=ids)
        for machine in self.dials.get("nodes"):
            self.kube.delete(f"/api/v1/nodes/{machine['node']}")
        self.dials.delete()


@contextmanager
def yard_on(stand: Stand, kube: KubeApi) -> Iterator[Yard]:
    with AccountServer(region=REGION, kubeconfig=stand.admin_kubeconfig) as server:
        yield Yard(server, kube)


@pytest.fixture(scope="module")
def module_yard(control_plane: Stand, kube: KubeApi) -> Iterator[Yard]:
    with yard_on(control_plane, kube) as found:
        yield found


@pytest.fixture
def yard(module_yard: Yard) -> Iterator[Yard]:
    module_yard.dials.put("machines", register_seconds=0)
    yield module_yard
    module_yard.clear()


def memory_ki(node: dict[str, Any], which: str = "allocatable") -> int:
    return int(node["status"][which]["memory"].removesuffix("Ki"))


# -- joining


def test_an_instance_joins_as_what_its_user_data_and_its_type_make_it(yard: Yard):
    data = node_config(
        labels={"karpenter.sh/nodepool": "default", "team": "a"},
        taints="karpenter.sh/unregistered=:NoExecute",
    )
    instance = yard.launch(user_data=data)
    node = yard.node(yard.joined(instance))
    (ec2,) = yard.aws.ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"]
    labels = node["metadata"]["labels"]
    assert node["metadata"]["name"] == ec2["PrivateDnsName"]
    assert node["spec"]["providerID"] == f"aws:///{ZONE}/{instance}"
    assert labels["node.kubernetes.io/instance-type"] == "m5.large"
    assert labels["topology.kubernetes.io/zone"] == ZONE
    assert labels["topology.kubernetes.io/region"] == REGION
    assert labels["topology.k8s.aws/zone-id"] == "euw1-az3"
    assert labels["kubernetes.io/arch"] == "amd64"
    assert labels["karpenter.sh/nodepool"] == "default"
    taints = [(taint["key"], taint["effect"]) for taint in node["spec"]["taints"]]
    assert ("karpenter.sh/unregistered", "NoExecute") in taints
    assert node["status"]["capacity"]["cpu"] == "2"
    assert node["status"]["allocatable"]["pods"] == "29"
    assert memory_ki(node, "capacity") == pytest.approx(8 * GIB * (1 - 0.065), rel=1e-4)
    assert condition(node, "Ready")["status"] == "True"


def test_joining_takes_as_long_as_the_dial_says(yard: Yard):
    yard.dials.put("machines", register_seconds=1.2)
    started = time.time()
    instance = yard.launch()
    stage = yard.machine(instance).get("stage")
    assert stage in (None, "booting") or time.time() - started >= 1.2
    yard.joined(instance)
    assert time.time() - started >= 1.2


def test_some_instances_never_join_and_say_why(yard: Yard):
    yard.dials.put("machines/c5.*", register_seconds=None)
    silent = yard.launch("c5.large")
    broken = yard.launch(user_data="#!/bin/sh\necho hello\n")
    good = yard.launch()
    yard.joined(good)
    assert "never" in eventually(lambda: yard.machine(silent).get("problem") or "")
    assert "NodeConfig" in eventually(lambda: yard.machine(broken).get("problem") or "")
    names = {
        node["spec"].get("providerID", "").rsplit("/", 1)[-1]
        for node in yard.kube.get("/api/v1/nodes")["items"]
    }
    assert good in names
    assert not {silent, broken} & names


def test_an_instance_without_the_clusters_tag_is_nobody_of_ours(yard: Yard):
    answer = yard.aws.ec2.run_instances(
        ImageId=yard.aws.image(), InstanceType="m5.large", MinCount=1, MaxCount=1
    )
    stranger = answer["Instances"][0]["InstanceId"]
    yard.joined(yard.launch())
    assert yard.machine(stranger) == {}


# -- what comes late, or is less


def test_a_machine_can_be_ready_late_and_its_pods_wait_for_it(yard: Yard, namespace: str):
    yard.dials.put("machines", ready_seconds=6)
    path = yard.joined(yard.launch())
    assert condition(yard.node(path), "Ready")["status"] == "False"
    waiting = yard.bind(namespace, pod("waits"), path)
    assert yard.phase(waiting) == "Pending"
    eventually(lambda: condition(yard.node(path), "Ready")["status"] == "True")
    eventually(lambda: yard.phase(waiting) == "Running")


def test_devices_can_come_late_and_a_pod_that_came_before_them_fails(yard: Yard, namespace: str):
    yard.dials.put("machines/g4dn.*", devices_seconds=6)
    path = yard.joined(yard.launch("g4dn.xlarge"))
    assert "nvidia.com/gpu" not in yard.node(path)["status"]["allocatable"]
    gpu = {"nvidia.com/gpu": "1"}

    def wanting(name: str) -> dict[str, Any]:
        body = pod(name, requests=gpu)
        body["spec"]["containers"][0]["resources"]["limits"] = gpu
        return body

    assert yard.failure(yard.bind(namespace, wanting("early"), path)) == "UnexpectedAdmissionError"
    eventually(lambda: yard.node(path)["status"]["allocatable"].get("nvidia.com/gpu") == "1")
    first = yard.bind(namespace, wanting("first"), path)
    eventually(lambda: yard.phase(first) == "Running")
    assert yard.failure(yard.bind(namespace, wanting("second"), path)) == "OutOfnvidia.com/gpu"


def test_a_machine_can_have_less_memory_than_anyone_expected(yard: Yard, namespace: str):
    yard.dials.put("machines", memory_missing_fraction=0.2)
    path = yard.joined(yard.launch())
    found = memory_ki(yard.node(path))
    assert found < 8 * GIB * 0.8
    expected = int(8 * GIB * 0.925) - (11 * 29 + 255 + 100) * 1024
    assert expected > found
    assert (
        yard.failure(yard.bind(namespace, pod("large", requests={"memory": f"{expected}Ki"}), path))
        == "OutOfmemory"
    )


# -- admission


@pytest.mark.parametrize(
    ("reason", "requests", "spec"),
    [
        ("OutOfcpu", {"cpu": "1931m"}, {}),
        ("NodeAffinity", {}, {"nodeSelector": {"team": "another"}}),
        ("NodeAffinity", {}, {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [{"key": "team", "operator": "DoesNotExist"}]}]}}}}),
    ],
)  # fmt: skip
def test_a_bound_pod_that_the_node_cannot_take_fails_with_the_kubelets_reason(
    yard: Yard, namespace: str, reason: str, requests: dict[str, str], spec: dict[str, Any]
):
    path = yard.joined(yard.launch(user_data=node_config(labels={"team": "a"})))
    bound = yard.bind(namespace, pod("misfit", requests=requests, **spec), path)
    assert yard.failure(bound) == reason
    assert yard.kube.get(bound)["status"]["message"].startswith("Pod was rejected: ")


def test_a_full_node_is_out_of_pods_and_takes_one_again_when_one_ends(yard: Yard, namespace: str):
    path = yard.joined(yard.launch(user_data=node_config(max_pods=1)))
    first = yard.bind(namespace, pod("first"), path)
    eventually(lambda: yard.phase(first) == "Running")
    assert yard.failure(yard.bind(namespace, pod("second"), path)) == "OutOfpods"
    yard.kube.delete(first)
    eventually(lambda: yard.machine(yard.node(path)["spec"]["providerID"].rsplit("/", 1)[-1])["pods"] == 0)
    third = yard.bind(namespace, pod("third"), path)
    eventually(lambda: yard.phase(third) == "Running")


def test_a_noexecute_taint_fails_a_pod_until_it_is_gone_and_a_lagging_watch_fails_none(
    yard: Yard, namespace: str
):
    path = yard.joined(yard.launch(user_data=node_config(taints="karpenter.sh/unregistered=:NoExecute")))
    early = yard.bind(namespace, pod("early"), path)
    # The machine fails it, and the cluster's own taint eviction deletes it at about the same time.
    assert eventually(lambda: outcome(yard.kube, early)) in ("TaintToleration", "gone")
    tolerant = pod("tolerant", tolerations=[{"operator": "Exists"}])
    bound = yard.bind(namespace, tolerant, path)
    eventually(lambda: yard.phase(bound) == "Running")
    for round_ in range(5):
        taint = [{"key": "karpenter.sh/unregistered", "effect": "NoExecute"}]
        yard.kube.patch(path, {"spec": {"taints": taint}})
        body = pod(f"right-after-{round_}", schedulerName="nobody")
        yard.kube.create(f"/api/v1/namespaces/{namespace}/pods", body)
        yard.kube.patch(path, {"spec": {"taints": None}})
        after = f"/api/v1/namespaces/{namespace}/pods/right-after-{round_}"
        target = {"kind": "Node", "name": path.rsplit("/", 1)[-1]}
        yard.kube.create(
            f"{after}/binding",
            {
                "apiVersion": "v1",
                "kind": "Binding",
                "metadata": {"name": f"right-after-{round_}"},
                "target": target,
            },
        )
        eventually(lambda at=after: yard.phase(at) == "Running")


def outcome(kube: KubeApi, path: str) -> str | None:
    """ "gone", the reason of a failure, or None while neither."""
    try:
        return kube.get(path)["status"].get("reason")
    except KubeError as error:
        if error.status == 404:
            return "gone"
        raise


# -- running and ending


def test_the_real_scheduler_puts_a_pod_there_and_it_runs(yard: Yard, namespace: str):
    yard.joined(yard.launch(user_data=node_config(labels={"test": namespace})))
    body = pod("runs", requests={"cpu": "1"}, nodeSelector={"test": namespace}, initContainers=[
        {"name": "first", "image": "registry.example/init"},
    ])  # fmt: skip
    yard.kube.create(f"/api/v1/namespaces/{namespace}/pods", body)
    path = f"/api/v1/namespaces/{namespace}/pods/runs"
    eventually(lambda: yard.phase(path) == "Running")
    found = yard.kube.get(path)
    for kind in ("PodScheduled", "Initialized", "ContainersReady", "Ready", "PodReadyToStartContainers"):
        assert condition(found, kind)["status"] == "True", kind
    assert found["status"]["podIP"].startswith("10.")
    assert found["status"]["containerStatuses"][0]["ready"] is True
    assert "terminated" in found["status"]["initContainerStatuses"][0]["state"]


def test_a_readiness_gate_keeps_a_pod_unready_until_it_opens(yard: Yard, namespace: str):
    path = yard.joined(yard.launch())
    gated = yard.bind(namespace, pod("gated", readinessGates=[{"conditionType": "example.com/open"}]), path)
    eventually(lambda: yard.phase(gated) == "Running")
    assert condition(yard.kube.get(gated), "Ready")["status"] == "False"
    opened = [{"type": "example.com/open", "status": "True"}]
    yard.kube.patch(f"{gated}/status", {"status": {"conditions": opened}}, kind="strategic-merge")
    eventually(lambda: condition(yard.kube.get(gated), "Ready")["status"] == "True")


def gone(kube: KubeApi, path: str) -> Callable[[], bool]:
    collection, name = path.rsplit("/", 1)
    return lambda: name not in [each["metadata"]["name"] for each in kube.get(collection)["items"]]


def test_a_deleted_pod_ends_after_its_exit_time_but_never_after_its_grace(yard: Yard, namespace: str):
    path = yard.joined(yard.launch())
    yard.dials.put("machines", pod_exit_seconds=10)
    slow, quick = (yard.bind(namespace, pod(name), path) for name in ("slow", "quick"))
    for each in (slow, quick):
        eventually(lambda at=each: yard.phase(at) == "Running")
    started = time.time()
    yard.kube.delete(slow)
    yard.kube.delete(quick, gracePeriodSeconds="1")
    eventually(gone(yard.kube, quick))
    between = time.time() - started
    eventually(gone(yard.kube, slow))
    assert 1.0 <= between < 10
    assert time.time() - started >= 10


def test_a_terminated_machine_goes_not_ready_and_leaves_its_node_and_pods_behind(yard: Yard, namespace: str):
    instance = yard.launch()
    path = yard.joined(instance)
    bound = yard.bind(namespace, pod("left"), path)
    eventually(lambda: yard.phase(bound) == "Running")
    yard.aws.ec2.terminate_instances(InstanceIds=[instance])
    eventually(lambda: condition(yard.node(path), "Ready")["status"] == "Unknown")
    assert yard.node(path)["metadata"]["annotations"]["machines.nodeyard.dev/ready"] == "false"
    yard.kube.delete(bound)
    assert yard.kube.get(bound)["metadata"]["deletionTimestamp"]
    eventually(lambda: yard.machine(instance)["stage"] == "gone")
    yard.kube.delete(bound, gracePeriodSeconds="0")


def test_an_interrupted_machine_goes_after_its_notice(yard: Yard):
    instance = yard.launch(spot=True)
    path = yard.joined(instance)
    yard.dials.post("interrupt", instance_id=instance, delay_seconds=5)
    assert condition(yard.node(path), "Ready")["status"] == "True"
    eventually(lambda: condition(yard.node(path), "Ready")["status"] == "Unknown")


def test_a_new_machine_does_not_inherit_the_name_of_one_that_just_went(yard: Yard):
    first = yard.launch()
    path = yard.joined(first)
    yard.dials.put("machines", shutdown_seconds=0, register_seconds=0)
    yard.aws.ec2.terminate_instances(InstanceIds=[first])
    assert yard.joined(yard.launch()) != path


def test_machines_outlive_a_restart_of_the_api_server(module_stand: StandFactory):
    stand = module_stand(name="restarted", parts="control-plane")
    with stand.api() as kube, yard_on(stand, kube) as own:
        own.dials.put("machines", register_seconds=0)
        namespace = make_namespace(kube, "before")
        instance = own.launch()
        path = own.joined(instance)
        running = own.bind(namespace, pod("one"), path)
        eventually(lambda: own.phase(running) == "Running")
        stand.restart_apiserver()
        eventually(kube.ready)
        later = own.bind(namespace, pod("two"), path)
        eventually(lambda: own.phase(later) == "Running")
        own.joined(own.launch())
        assert own.phase(running) == "Running"
        assert own.machine(instance)["pods"] == 2

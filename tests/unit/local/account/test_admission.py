from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest

from nodeyard.local.account.machines.admission import Load, judge, requests
from nodeyard.local.account.machines.seen import Node, Pod

GIB = 1024**3
ALLOCATABLE = {"cpu": 2000, "memory": 4 * GIB, "ephemeral-storage": 10 * GIB, "pods": 3}
_uids = itertools.count()


def pod(cpu: str = "100m", memory: str = "100Mi", **spec: Any) -> Pod:
    containers = spec.pop(
        "containers", [{"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}}]
    )
    raw = {
        "metadata": {"name": "p", "uid": f"u{next(_uids)}"},
        "spec": {"nodeName": "n", "containers": containers, **spec},
    }
    return msgspec.convert(raw, Pod)


def node(labels: dict[str, str] | None = None, taints: list[dict[str, str]] | None = None) -> Node:
    return msgspec.convert(
        {"metadata": {"name": "n", "labels": labels or {}}, "spec": {"taints": taints or []}}, Node
    )


def reason(
    wanted: Pod,
    on: Node | None = None,
    others: list[Pod] | None = None,
    allocatable: dict[str, int] | None = None,
) -> str | None:
    load = Load()
    for other in others or []:
        load.add(other)
    found = judge(wanted, on or node(), allocatable or ALLOCATABLE, load)
    return found.reason if found else None


def asking(**resources: str) -> Pod:
    named = {name.replace("__", "/").replace("_", "."): value for name, value in resources.items()}
    return pod(containers=[{"name": "c", "resources": {"requests": named}}])


def test_a_pod_that_fits_is_taken():
    assert reason(pod("2", "4Gi")) is None


def test_a_pod_that_does_not_fit_is_out_of_the_first_resource_that_lacks():
    assert reason(pod("2001m")) == "OutOfcpu"
    assert reason(pod(memory="4.1Gi")) == "OutOfmemory"
    assert reason(pod("3", "5Gi")) == "OutOfcpu"
    assert reason(pod("1.5"), others=[pod("0.6")]) == "OutOfcpu"
    assert reason(pod(), others=[pod(), pod(), pod()]) == "OutOfpods"


def test_the_message_is_the_kubelets():
    found = judge(pod("1900m"), node(), ALLOCATABLE, load_of(pod("200m")))
    assert found is not None
    assert found.message == (
        "Pod was rejected: Node didn't have enough resource: cpu, requested: 1900, used: 200, capacity: 2000"
    )


def load_of(*pods: Pod) -> Load:
    load = Load()
    for each in pods:
        load.add(each)
    return load


def test_a_device_that_is_not_registered_is_unexpected_and_one_that_is_taken_is_out():
    gpu = asking(nvidia_com__gpu="1")
    assert reason(gpu) == "UnexpectedAdmissionError"
    with_gpu = {**ALLOCATABLE, "nvidia.com/gpu": 1}
    assert reason(gpu, allocatable=with_gpu) is None
    assert reason(gpu, others=[asking(nvidia_com__gpu="1")], allocatable=with_gpu) == "OutOfnvidia.com/gpu"


def test_a_label_that_misses_is_node_affinity():
    assert reason(pod(nodeSelector={"a": "b"})) == "NodeAffinity"
    assert reason(pod(nodeSelector={"a": "b"}), node({"a": "b"})) is None


@pytest.mark.parametrize(
    ("expression", "labels", "holds"),
    [
        ({"key": "a", "operator": "In", "values": ["x", "y"]}, {"a": "y"}, True),
        ({"key": "a", "operator": "In", "values": ["x"]}, {}, False),
        ({"key": "a", "operator": "NotIn", "values": ["x"]}, {}, True),
        ({"key": "a", "operator": "NotIn", "values": ["x"]}, {"a": "x"}, False),
        ({"key": "a", "operator": "Exists"}, {"a": ""}, True),
        ({"key": "a", "operator": "Exists"}, {}, False),
        ({"key": "a", "operator": "DoesNotExist"}, {"a": "x"}, False),
        ({"key": "a", "operator": "Gt", "values": ["4"]}, {"a": "5"}, True),
        ({"key": "a", "operator": "Gt", "values": ["5"]}, {"a": "5"}, False),
        ({"key": "a", "operator": "Lt", "values": ["5"]}, {"a": "many"}, False),
    ],
)
def test_required_affinity_holds_as_kubernetes_says(
    expression: dict[str, Any], labels: dict[str, str], holds: bool
):
    required = {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
    assert (reason(pod(affinity=affinity), node(labels)) is None) is holds


def test_terms_are_ored_and_fields_name_the_node():
    terms = [
        {"matchExpressions": [{"key": "a", "operator": "Exists"}]},
        {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]},
    ]
    affinity = {
        "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    }
    assert reason(pod(affinity=affinity)) is None
    terms.pop()
    assert reason(pod(affinity=affinity)) == "NodeAffinity"


def test_only_noexecute_taints_matter_to_a_kubelet():
    tainted = node(taints=[{"key": "karpenter.sh/unregistered", "effect": "NoExecute"}])
    assert reason(pod(), tainted) == "TaintToleration"
    assert reason(pod(), node(taints=[{"key": "x", "effect": "NoSchedule"}])) is None
    assert reason(pod(tolerations=[{"operator": "Exists"}]), tainted) is None
    exact = {"key": "karpenter.sh/unregistered", "operator": "Equal", "value": "", "effect": "NoExecute"}
    assert reason(pod(tolerations=[exact]), tainted) is None
    assert reason(pod(tolerations=[{**exact, "value": "x"}]), tainted) == "TaintToleration"
    assert reason(pod(tolerations=[{**exact, "effect": "NoSchedule"}]), tainted) == "TaintToleration"


def with_port(number: int, **more: str) -> Pod:
    return pod(containers=[{"name": "c", "ports": [{"hostPort": number, **more}]}])


def test_host_ports_clash_by_address_protocol_and_number():
    assert reason(with_port(80), others=[with_port(80)]) == "NodePorts"
    assert reason(with_port(80), others=[with_port(81)]) is None
    assert reason(with_port(80, protocol="UDP"), others=[with_port(80)]) is None
    assert reason(with_port(80, hostIP="10.0.0.1"), others=[with_port(80, hostIP="10.0.0.2")]) is None
    assert reason(with_port(80, hostIP="10.0.0.1"), others=[with_port(80)]) == "NodePorts"


def container(cpu: str, **more: str) -> dict[str, Any]:
    return {"name": "c", "resources": {"requests": {"cpu": cpu}}, **more}


def test_requests_count_init_containers_sidecars_overhead_and_pod_level():
    assert requests(pod(containers=[container("1"), container("1")]))["cpu"] == 2000
    assert requests(pod("1", initContainers=[container("3")]))["cpu"] == 3000
    sidecar = container("500m", restartPolicy="Always")
    assert requests(pod("1", initContainers=[sidecar, container("2")]))["cpu"] == 2500
    assert requests(pod("1", initContainers=[container("2"), sidecar]))["cpu"] == 2000
    assert requests(pod("1", overhead={"cpu": "250m"}))["cpu"] == 1250
    assert requests(pod("1", resources={"requests": {"cpu": "3"}}))["cpu"] == 3000


def test_a_load_forgets_what_is_removed():
    load = load_of(pod("1"))
    heavy = pod("500m")
    load.add(heavy)
    load.add(heavy)
    assert load.used["cpu"] == 1500
    load.remove(heavy.metadata.uid)
    load.remove(heavy.metadata.uid)
    assert load.used["cpu"] == 1000
    assert len(load.pods) == 1

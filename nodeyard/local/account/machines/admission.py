"""Whether a kubelet takes a pod that was bound to its node, and with which reason it fails one that it does not take.

The order and the words are the kubelet's: an unregistered device, resources, node affinity, host ports, NoExecute
taints; the first that fails is the reason. Source: Kubernetes v1.36 `pkg/kubelet/lifecycle/predicate.go` (behaviour),
"Taints and Tolerations" and "Assigning Pods to Nodes" in the docs. Pure. The preemption of pods for critical ones is
not simulated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nodeyard.local.account.machines.capacity import amount
from nodeyard.local.account.machines.seen import (
    Container,
    Expression,
    Node,
    NodeTaint,
    Pod,
    Port,
    Term,
    Toleration,
)

_NATIVE = ("cpu", "memory", "ephemeral-storage")


@dataclass(frozen=True)
class Rejection:
    """The reason and the message that the pod's status gets."""

    reason: str
    message: str


def requests(pod: Pod) -> dict[str, int]:
    """What the pod asks for: millicores, bytes, counts. Init containers run one after the other, sidecars stay."""
    running: dict[str, int] = {}
    for container in pod.spec.containers:
        _add(running, _of(container))
    highest: dict[str, int] = {}
    sidecars: dict[str, int] = {}
    for container in pod.spec.init_containers:
        mine = _of(container)
        if container.restart_policy == "Always":
            _add(sidecars, mine)
            mine = dict(sidecars)
        else:
            _add(mine, sidecars)
        for name, value in mine.items():
            highest[name] = max(highest.get(name, 0), value)
    _add(running, sidecars)
    total = {name: max(running.get(name, 0), highest.get(name, 0)) for name in {*running, *highest}}
    total.update({name: amount(name, str(text)) for name, text in pod.spec.resources.requests.items()})
    _add(total, {name: amount(name, str(text)) for name, text in pod.spec.overhead.items()})
    return total


def _of(container: Container) -> dict[str, int]:
    return {name: amount(name, str(text)) for name, text in container.resources.requests.items()}


def _add(total: dict[str, int], more: Mapping[str, int]) -> None:
    for name, value in more.items():
        total[name] = total.get(name, 0) + value


class Load:
    """What the live pods of one machine use, kept up to date pod by pod."""

    def __init__(self) -> None:
        self.used: dict[str, int] = {}
        self.pods: dict[str, Pod] = {}

    def add(self, pod: Pod) -> None:
        """Count a pod that was taken; one that is counted already changes nothing."""
        if pod.metadata.uid not in self.pods:
            self.pods[pod.metadata.uid] = pod
            _add(self.used, requests(pod))

    def remove(self, uid: str) -> None:
        """Stop counting a pod that ended or is gone."""
        pod = self.pods.pop(uid, None)
        if pod is not None:
            _add(self.used, {name: -value for name, value in requests(pod).items()})

    def ports(self) -> set[tuple[str, str, int]]:
        """The host ports that are taken."""
        return {port for pod in self.pods.values() for port in host_ports(pod)}


def judge(pod: Pod, node: Node, allocatable: Mapping[str, int], load: Load) -> Rejection | None:
    """None when the node takes the pod. `allocatable` is what the machine has now; `load` what runs on it."""
    asked = requests(pod)
    return (
        _device(asked, allocatable)
        or _resources(asked, allocatable, load.used, len(load.pods))
        or _affinity(pod, node)
        or _ports(pod, load)
        or _taints(pod, node)
    )


def _rejected(reason: str, message: str) -> Rejection:
    return Rejection(reason, f"Pod was rejected: {message}")


def _predicate(name: str, why: str) -> Rejection:
    return _rejected(name, f"Predicate {name} failed: {why}")


def _device(asked: Mapping[str, int], allocatable: Mapping[str, int]) -> Rejection | None:
    for name, wanted in sorted(asked.items()):
        extended = name not in _NATIVE and name != "pods" and not name.startswith("hugepages-")
        if wanted and extended and name not in allocatable:
            return _rejected(
                "UnexpectedAdmissionError",
                f"Allocate failed due to can't allocate unregistered device {name}, which is unexpected",
            )
    return None


def _resources(
    asked: Mapping[str, int], allocatable: Mapping[str, int], used: Mapping[str, int], count: int
) -> Rejection | None:
    if count + 1 > allocatable["pods"]:
        return _short("pods", 1, count, allocatable["pods"])
    for name in [*_NATIVE, *sorted(set(asked) - set(_NATIVE))]:
        wanted = asked.get(name, 0)
        if wanted and wanted + used.get(name, 0) > allocatable.get(name, 0):
            return _short(name, wanted, used.get(name, 0), allocatable.get(name, 0))
    return None


def _short(name: str, wanted: int, used: int, has: int) -> Rejection:
    return _rejected(
        f"OutOf{name}",
        f"Node didn't have enough resource: {name}, requested: {wanted}, used: {used}, capacity: {has}",
    )


# -- node selector and affinity


def _affinity(pod: Pod, node: Node) -> Rejection | None:
    labels = node.metadata.labels
    matches = all(labels.get(key) == value for key, value in pod.spec.node_selector.items())
    affinity = pod.spec.affinity.node_affinity if pod.spec.affinity else None
    if matches and affinity and affinity.required:
        matches = any(_term_matches(term, node) for term in affinity.required.node_selector_terms)
    return (
        None if matches else _predicate("NodeAffinity", "node(s) didn't match Pod's node affinity/selector")
    )


def _term_matches(term: Term, node: Node) -> bool:
    if not term.match_expressions and not term.match_fields:
        return False
    fields = {"metadata.name": node.metadata.name}
    return all(_holds(e, node.metadata.labels) for e in term.match_expressions) and all(
        _holds(e, fields) for e in term.match_fields
    )


def _holds(expression: Expression, labels: Mapping[str, str]) -> bool:
    found = labels.get(expression.key)
    match expression.operator:
        case "In":
            return found in expression.values
        case "NotIn":
            return found not in expression.values
        case "Exists":
            return found is not None
        case "DoesNotExist":
            return found is None
        case "Gt" | "Lt":
            return _compares(expression, found)
    return False


def _compares(expression: Expression, found: str | None) -> bool:
    try:
        left, right = int(found or ""), int(expression.values[0])
    except (ValueError, IndexError):
        return False
    return left > right if expression.operator == "Gt" else left < right


# -- ports and taints


def host_ports(pod: Pod) -> set[tuple[str, str, int]]:
    """(address, protocol, port) on the host that the pod takes."""
    return {_host_port(port) for c in pod.spec.containers for port in c.ports if port.host_port}


def _host_port(port: Port) -> tuple[str, str, int]:
    return port.host_ip or "0.0.0.0", port.protocol or "TCP", port.host_port


def _ports(pod: Pod, load: Load) -> Rejection | None:
    for address, protocol, number in host_ports(pod):
        for other, its_protocol, its_number in load.ports():
            same = (protocol, number) == (its_protocol, its_number)
            if same and (address == other or "0.0.0.0" in (address, other)):
                return _predicate("NodePorts", "node(s) didn't have free ports for the requested pod ports")
    return None


def _taints(pod: Pod, node: Node) -> Rejection | None:
    for taint in node.spec.taints:
        if taint.effect == "NoExecute" and not any(tolerates(t, taint) for t in pod.spec.tolerations):
            return _predicate("TaintToleration", "node(s) had taints that the pod didn't tolerate")
    return None


def tolerates(toleration: Toleration, taint: NodeTaint) -> bool:
    """Whether the toleration covers the taint."""
    if toleration.effect and toleration.effect != taint.effect:
        return False
    if toleration.key and toleration.key != taint.key:
        return False
    if (toleration.operator or "Equal") == "Exists":
        return True
    return bool(toleration.key) and toleration.value == taint.value

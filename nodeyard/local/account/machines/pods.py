"""What a machine writes into the status of its pods: running, or failed with the kubelet's reason.

Bodies of strategic merge patches (conditions merge by type, so that nobody else's condition is lost); each carries the
pod's UID, so that a successor of the same name is never touched. Pure; times come in.
"""

from __future__ import annotations

import itertools
from typing import Any

from nodeyard.local.account.machines.admission import Rejection
from nodeyard.local.account.machines.node import stamp
from nodeyard.local.account.machines.seen import Pod

_STARTED = ("PodReadyToStartContainers", "Initialized", "ContainersReady")


class Addresses:
    """Gives every pod an address of its own out of 10.128.0.0/9."""

    def __init__(self) -> None:
        self._next = itertools.count(10)

    def take(self) -> str:
        """An address that no pod had before (2²³ of them)."""
        number = next(self._next) % 2**23
        return f"10.{128 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"


def running(pod: Pod, address: str, host: str, at: float) -> dict[str, Any]:
    """The pod runs and is ready, unless a readiness gate of its own is still closed."""
    when = stamp(at)
    ready = gates_open(pod)
    conditions = [_condition(kind, True, when) for kind in _STARTED]
    conditions.append(_condition("Ready", ready, when, None if ready else "ReadinessGatesNotReady"))
    status: dict[str, Any] = {
        "phase": "Running",
        "conditions": conditions,
        "hostIP": host,
        "hostIPs": [{"ip": host}],
        "podIP": address,
        "podIPs": [{"ip": address}],
        "startTime": when,
        "containerStatuses": [_container(c.name, c.image, when) for c in pod.spec.containers],
    }
    if pod.spec.init_containers:
        status["initContainerStatuses"] = [
            _container(c.name, c.image, when, done=c.restart_policy != "Always")
            for c in pod.spec.init_containers
        ]
    return {"metadata": {"uid": pod.metadata.uid}, "status": status}


def ready(pod: Pod, at: float) -> dict[str, Any]:
    """The last readiness gate opened."""
    return {
        "metadata": {"uid": pod.metadata.uid},
        "status": {"conditions": [_condition("Ready", True, stamp(at))]},
    }


def failed(pod: Pod, rejection: Rejection, at: float) -> dict[str, Any]:
    """The node did not take the pod."""
    return {
        "metadata": {"uid": pod.metadata.uid},
        "status": {
            "phase": "Failed",
            "reason": rejection.reason,
            "message": rejection.message,
            "startTime": stamp(at),
        },
    }


def gates_open(pod: Pod) -> bool:
    """Whether every readiness gate's condition is True."""
    true = {c.get("type") for c in pod.status.conditions if c.get("status") == "True"}
    return all(gate.get("conditionType") in true for gate in pod.spec.readiness_gates)


def newly_ready(pod: Pod) -> bool:
    """Whether a running pod's gates are open, which its Ready condition does not say yet."""
    said = any(c.get("type") == "Ready" and c.get("status") == "True" for c in pod.status.conditions)
    return bool(pod.spec.readiness_gates) and pod.status.phase == "Running" and gates_open(pod) and not said


def _condition(kind: str, true: bool, when: str, reason: str | None = None) -> dict[str, Any]:
    return {
        "type": kind,
        "status": "True" if true else "False",
        "lastProbeTime": None,
        "lastTransitionTime": when,
        **({"reason": reason} if reason else {}),
    }


def _container(name: str, image: str, when: str, *, done: bool = False) -> dict[str, Any]:
    ended = {"exitCode": 0, "reason": "Completed", "startedAt": when, "finishedAt": when}
    return {
        "name": name,
        "image": image,
        "imageID": f"simulated/{image}",
        "ready": True,
        "started": not done,
        "restartCount": 0,
        "state": {"terminated": ended} if done else {"running": {"startedAt": when}},
    }

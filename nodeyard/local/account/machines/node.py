"""The Node object of a machine, and the changes it goes through: registered, ready, with devices, gone.

Labels are those that a kubelet and the AWS cloud provider set, plus what the user data asked for. The annotation
`machines.nodeyard.dev/ready` tells KWOK whether to keep the node's lease. Pure: builds JSON values; times come in.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from nodeyard.local.account.machines.capacity import Resources, shown
from nodeyard.local.account.machines.userdata import Boot
from nodeyard.local.versions import KUBERNETES

READY_ANNOTATION = "machines.nodeyard.dev/ready"
KWOK_ANNOTATION = "kwok.x-k8s.io/node"
_ARCH = {"x86_64": "amd64", "arm64": "arm64"}
_VERSION = f"v{KUBERNETES}"
_PRESSURES = ("MemoryPressure", "DiskPressure", "PIDPressure")


def stamp(at: float) -> str:
    """RFC 3339 in whole seconds, as Kubernetes writes times."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def provider_id(zone: str, instance_id: str) -> str:
    """As the AWS cloud provider writes it."""
    return f"aws:///{zone}/{instance_id}"


def labels(
    name: str, instance_type: str, zone: str, zone_id: str, architecture: str, boot: Boot
) -> dict[str, str]:
    """The labels that the node registers with; its own facts win over what the user data says."""
    arch = _ARCH.get(architecture, architecture)
    return {
        **boot.labels,
        "kubernetes.io/hostname": name,
        "kubernetes.io/arch": arch,
        "kubernetes.io/os": "linux",
        "beta.kubernetes.io/arch": arch,
        "beta.kubernetes.io/os": "linux",
        "beta.kubernetes.io/instance-type": instance_type,
        "node.kubernetes.io/instance-type": instance_type,
        "topology.kubernetes.io/region": zone.rstrip("abcdefghijklmnopqrstuvwxyz"),
        "topology.kubernetes.io/zone": zone,
        "failure-domain.beta.kubernetes.io/region": zone.rstrip("abcdefghijklmnopqrstuvwxyz"),
        "failure-domain.beta.kubernetes.io/zone": zone,
        "topology.k8s.aws/zone-id": zone_id,
        "k8s.io/cloud-provider-aws": "f438ffa2b45a8a2fd8a4a1a2c6a9d2c1",
    }


def manifest(
    *,
    name: str,
    provider: str,
    its_labels: Mapping[str, str],
    boot: Boot,
    address: str,
    resources: Resources,
    devices: bool,
    ready: bool,
    at: float,
) -> dict[str, Any]:
    """The Node to create. `devices` and `ready` say whether it comes with its devices, and Ready, at once."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": dict(its_labels),
            "annotations": {
                KWOK_ANNOTATION: "fake",
                READY_ANNOTATION: "true" if ready else "false",
                "node.alpha.kubernetes.io/ttl": "0",
                "volumes.kubernetes.io/controller-managed-attach-detach": "true",
            },
        },
        "spec": {"providerID": provider, "taints": [taint.manifest() for taint in boot.taints]},
        "status": {
            "addresses": [
                {"type": "InternalIP", "address": address},
                {"type": "InternalDNS", "address": name},
                {"type": "Hostname", "address": name},
            ],
            **amounts(resources, devices),
            "conditions": [ready_condition(ready, at), *(_no_pressure(kind, at) for kind in _PRESSURES)],
            "nodeInfo": _info(name, its_labels["kubernetes.io/arch"]),
        },
    }


def amounts(resources: Resources, devices: bool) -> dict[str, Any]:
    """`capacity` and `allocatable`, with the devices or without."""
    extra = resources.devices if devices else {}
    return {
        "capacity": shown({**resources.capacity, **extra}),
        "allocatable": shown({**resources.allocatable, **extra}),
    }


def ready_condition(ready: bool, at: float) -> dict[str, str]:
    """The Ready condition of a kubelet that is up (or whose network is not yet)."""
    if ready:
        return _condition("Ready", "True", "KubeletReady", "kubelet is posting ready status", at)
    why = "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:cni not initialized"
    return _condition("Ready", "False", "KubeletNotReady", why, at)


def gone_condition(at: float) -> dict[str, str]:
    """The Ready condition of a node whose machine has gone away."""
    return _condition("Ready", "Unknown", "NodeStatusUnknown", "Kubelet stopped posting node status.", at)


def _no_pressure(kind: str, at: float) -> dict[str, str]:
    return _condition(
        kind, "False", "KubeletHasSufficientResources", "kubelet has sufficient resources available", at
    )


def _condition(kind: str, status: str, reason: str, message: str, at: float) -> dict[str, str]:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastHeartbeatTime": stamp(at),
        "lastTransitionTime": stamp(at),
    }


def _info(name: str, arch: str) -> dict[str, str]:
    return {
        "architecture": arch,
        "bootID": name,
        "containerRuntimeVersion": "containerd://2.1.4",
        "kernelVersion": "6.12.40-simulated",
        "kubeProxyVersion": _VERSION,
        "kubeletVersion": _VERSION,
        "machineID": name,
        "operatingSystem": "linux",
        "osImage": "Simulated machine",
        "systemUUID": name,
    }

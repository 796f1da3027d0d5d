"""Kubernetes manifests for planning problems: pools, pods, daemons, nodes, and the terms that pods carry.

Plain dicts as an API server would write them, with as much said as a planner reads. Neighbours: `problems` makes whole
problems of them, `judge` and the planner's own readers take them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tests.support.kube_rules import CAPACITY_TYPE, HOST, NODEPOOL, REQUIRED, ZONE

Json = dict[str, Any]

CATEGORY = "karpenter.k8s.aws/instance-category"


def pool(
    name: str = "default", *, capacity_types: Iterable[str] = ("on-demand",), categories: Iterable[str] = "cmr",
    arches: Iterable[str] = ("amd64",), weight: int = 0, limits: Json | None = None, labels: Json | None = None,
    taints: Iterable[Json] = (), requirements: Iterable[Json] = (),
) -> Json:  # fmt: skip
    """A NodePool."""
    wanted = [
        {"key": CAPACITY_TYPE, "operator": "In", "values": list(capacity_types)},
        {"key": "kubernetes.io/arch", "operator": "In", "values": list(arches)},
        {"key": CATEGORY, "operator": "In", "values": list(categories)},
        *requirements,
    ]
    template: Json = {
        "requirements": wanted,
        "taints": list(taints),
        "nodeClassRef": {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "default"},
    }
    spec: Json = {"template": {"metadata": {"labels": labels or {}}, "spec": template}}
    if weight:
        spec["weight"] = weight
    if limits:
        spec["limits"] = limits
    return {"apiVersion": "karpenter.sh/v1", "kind": "NodePool", "metadata": {"name": name, "uid": f"pool-{name}"}, "spec": spec}  # fmt: skip


def pod(
    name: str, cpu_m: int = 500, memory_mib: int = 1024, *, labels: Json | None = None, namespace: str = "default",
    node: str = "", extra: Json | None = None, ports: Iterable[Json] = (), **spec: Any,
) -> Json:  # fmt: skip
    """A pending pod, or with `node` one that runs there; `extra`: further resources, requested and limited."""
    requests = {"cpu": f"{cpu_m}m", "memory": f"{memory_mib}Mi", **(extra or {})}
    container: Json = {"name": "main", "image": "registry.example/pause", "resources": {"requests": requests}}
    if extra:
        container["resources"]["limits"] = dict(extra)
    if ports:
        container["ports"] = list(ports)
    body: Json = {"containers": [container], **spec}
    if node:
        body["nodeName"] = node
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "uid": f"uid-{namespace}-{name}", "labels": labels or {"app": name.rsplit("-", 1)[0]}},
        "spec": body,
        "status": {"phase": "Running" if node else "Pending"},
    }  # fmt: skip


def pods(prefix: str, count: int, *sizes: int, **more: Any) -> list[Json]:
    """So many pods alike, labelled app=<prefix>."""
    return [pod(f"{prefix}-{i}", *sizes, **more) for i in range(count)]


def spread(key: str, app: str, *, skew: int = 1, **more: Any) -> Json:
    """A hard topology spread constraint over the pods labelled app=<app>."""
    return {
        "maxSkew": skew,
        "topologyKey": key,
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": app}},
        **more,
    }


def required(kind: str, key: str, labels: Json, **more: Any) -> Json:
    """An affinity of one required term: `kind` is podAffinity or podAntiAffinity."""
    return {kind: {REQUIRED: [{"labelSelector": {"matchLabels": labels}, "topologyKey": key, **more}]}}


def daemon(name: str, cpu_m: int, memory_mib: int, **spec: Any) -> Json:
    """A DaemonSet that tolerates everything."""
    container = {"name": "main", "image": "registry.example/pause", "resources": {"requests": {"cpu": f"{cpu_m}m", "memory": f"{memory_mib}Mi"}}}  # fmt: skip
    template = {"metadata": {"labels": {"daemon": name}}, "spec": {"containers": [container], "tolerations": [{"operator": "Exists"}], **spec}}  # fmt: skip
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": name, "namespace": "kube-system", "uid": f"daemon-{name}"},
        "spec": {"selector": {"matchLabels": {"daemon": name}}, "template": template},
    }


def node(name: str, zone: str, *, cpus: int = 4, memory_gib: int = 16, of: str = "default", labels: Json | None = None) -> Json:  # fmt: skip
    """A node of the pool `of` that stands and takes pods."""
    room = {"cpu": f"{cpus * 1000 - 80}m", "memory": f"{memory_gib - 1}Gi", "pods": "58"}
    own = {
        HOST: name, ZONE: zone, "kubernetes.io/arch": "amd64", "kubernetes.io/os": "linux", NODEPOOL: of,
        CAPACITY_TYPE: "on-demand", CATEGORY: "m", "karpenter.sh/registered": "true",
        "karpenter.sh/initialized": "true", **(labels or {}),
    }  # fmt: skip
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "uid": f"node-{name}", "labels": own},
        "spec": {"providerID": f"aws:///{zone}/i-{name}"},
        "status": {
            "capacity": {**room, "cpu": str(cpus)},
            "allocatable": room,
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def claim(name: str, zone: str, *, cpus: int = 4, memory_gib: int = 16, of: str = "default", startup_taints: Iterable[Json] = (), provider: str = "") -> Json:  # fmt: skip
    """A NodeClaim of the pool `of` that is launched and whose node has not joined (or has, with that provider id)."""
    room = {"cpu": f"{cpus * 1000 - 80}m", "memory": f"{memory_gib - 1}Gi", "pods": "58"}
    fixed = {ZONE: zone, CAPACITY_TYPE: "on-demand", "node.kubernetes.io/instance-type": f"m5.{cpus}", "kubernetes.io/arch": "amd64"}  # fmt: skip
    return {
        "apiVersion": "karpenter.sh/v1",
        "kind": "NodeClaim",
        "metadata": {"name": name, "uid": f"claim-{name}", "labels": {NODEPOOL: of, CATEGORY: "m", **fixed}},
        "spec": {
            "requirements": [{"key": k, "operator": "In", "values": [v]} for k, v in fixed.items()],
            "startupTaints": list(startup_taints),
            "nodeClassRef": {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "default"},
        },
        "status": {
            "providerID": provider or f"aws:///{zone}/i-{name}",
            "capacity": {**room, "cpu": str(cpus)},
            "allocatable": room,
            "conditions": [{"type": "Launched", "status": "True", "reason": "Launched", "lastTransitionTime": "2026-11-01T00:00:00Z"}],
        },
    }  # fmt: skip

"""From Kubernetes objects to our values, once, at the edge; and back for the one object that we create.

Every function takes the object as JSON bytes, as a manifest's dictionary or already read into its raw slice, and
raises ConversionError (with the field's path) for what can't be read; a claim or node with one odd amount or
duration is read without it, since a claim that went missing would look like an instance that nobody owns. Pools and
classes never fail: they carry their problems. Source: Kubernetes API reference; Karpenter documentation.
"""

from typing import Any, Final

from nodeyard.api import cluster, objects, validation
from nodeyard.api import labels as keys
from nodeyard.api.duration import render_duration
from nodeyard.api.node import Condition, Node, NodeClaim, NodeClassRef
from nodeyard.api.nodepool import node_class_of, pool_of_nodepool
from nodeyard.api.pod import PodRecord, ShapeId
from nodeyard.api.quantity import QuantityError, Resources, render_all
from nodeyard.api.reading import ConversionError, Source, conditions_of, read, render_time, seconds_of
from nodeyard.api.selectors import LabelSelector, NodeSelectorTerm, Requirement, Taint
from nodeyard.api.shape import Shapes, daemon_shape_of, pod_requests, shape_of

__all__ = [
    "ConversionError", "Shapes", "condition_manifest", "csi_node_of", "daemon_set_of", "namespace_of",
    "node_claim_manifest", "node_claim_of", "node_claim_status", "node_class_of", "node_of", "pdb_of", "pod_of",
    "pod_requests", "pool_of_nodepool", "priority_class_of", "pv_of", "pvc_of", "selecting_of", "shape_of",
    "storage_class_of",
]  # fmt: skip

_BIND_COMPLETED: Final = "pv.kubernetes.io/bind-completed"
_DEFAULT_CLASS: Final = (
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
)
_EBS_DRIVER: Final = "ebs.csi.aws.com"


# --- pods -----------------------------------------------------------------------------------------------------------
def pod_of(source: Source | objects.Pod, shape: ShapeId) -> PodRecord:
    """The pod's record, beside a shape made from the same object."""
    raw = read(source, objects.Pod)
    meta, spec, status = raw.metadata, raw.spec, raw.status
    placed = ready = None
    for condition in status.conditions:
        if condition.type == "PodScheduled":
            placed = condition
        elif condition.type == "Ready":
            ready = condition
    unschedulable = placed is not None and placed.status == "False" and placed.reason == "Unschedulable"
    since = seconds_of(placed.last_transition_time) if placed is not None else 0.0
    owner = next((one for one in meta.owner_references if one.controller), None)
    grace = spec.termination_grace_period_seconds
    return PodRecord(
        namespace=meta.namespace,
        name=meta.name,
        uid=meta.uid,
        shape=shape,
        resource_version=meta.resource_version,
        node=spec.node_name,
        phase=status.phase,
        unschedulable=unschedulable,
        unschedulable_since=since if unschedulable else 0.0,
        scheduled_at=since if placed is not None and placed.status == "True" else 0.0,
        nominated_node=status.nominated_node_name,
        created_at=seconds_of(meta.creation_timestamp),
        started_at=seconds_of(status.start_time),
        deleted_at=seconds_of(meta.deletion_timestamp),
        grace_period_s=30.0 if grace is None else float(grace),
        ready=ready is not None and ready.status == "True",
        owner_kind=owner.kind if owner else "",
        owner_name=owner.name if owner else "",
        owner_uid=owner.uid if owner else "",
        do_not_disrupt=_do_not_disrupt(meta.annotations) if meta.annotations else "",
        deletion_cost=_deletion_cost(meta.annotations) if meta.annotations else 0,
        surge=meta.annotations.get(keys.SURGE, "") if meta.annotations else "",
    )


def _do_not_disrupt(annotations: dict[str, str]) -> str:
    if text := annotations.get(keys.DO_NOT_DISRUPT):
        return text
    return "true" if annotations.get(keys.DO_NOT_EVICT) == "true" else ""


def _deletion_cost(annotations: dict[str, str]) -> int:
    """An int32; anything else counts as 0, as it does for the ReplicaSet controller."""
    text = annotations.get(keys.POD_DELETION_COST, "0")
    try:
        cost = int(text)
    except ValueError:
        return 0
    return cost if -(2**31) <= cost < 2**31 else 0


def daemon_set_of(source: Source | objects.DaemonSet) -> cluster.DaemonSet:
    raw = read(source, objects.DaemonSet)
    meta = raw.metadata
    try:
        shape = daemon_shape_of(meta.namespace, raw.spec.template)
    except QuantityError as error:
        raise ConversionError(f"spec.template.spec: {error}") from error
    return cluster.DaemonSet(meta.namespace, meta.name, meta.uid, shape)


# --- nodes and claims -----------------------------------------------------------------------------------------------
def node_of(source: Source | objects.Node) -> Node:
    raw = read(source, objects.Node)
    meta = raw.metadata
    return Node(
        name=meta.name,
        uid=meta.uid,
        resource_version=meta.resource_version,
        labels=meta.labels,
        annotations=meta.annotations,
        finalizers=meta.finalizers,
        taints=raw.spec.taints,
        unschedulable=raw.spec.unschedulable,
        provider_id=raw.spec.provider_id,
        capacity=_amounts(raw.status.capacity),
        allocatable=_amounts(raw.status.allocatable),
        conditions=conditions_of(raw.status.conditions),
        created_at=seconds_of(meta.creation_timestamp),
        deleted_at=seconds_of(meta.deletion_timestamp),
    )


def node_claim_of(source: Source | objects.NodeClaim) -> NodeClaim:
    raw = read(source, objects.NodeClaim)
    meta, spec, status = raw.metadata, raw.spec, raw.status
    reference = spec.node_class_ref
    return NodeClaim(
        name=meta.name,
        uid=meta.uid,
        resource_version=meta.resource_version,
        generation=meta.generation,
        labels=meta.labels,
        annotations=meta.annotations,
        finalizers=meta.finalizers,
        requirements=spec.requirements,
        requests=_amounts(spec.resources.requests if spec.resources else {}),
        taints=spec.taints,
        startup_taints=spec.startup_taints,
        node_class=NodeClassRef(reference.name, reference.kind, reference.group),
        expire_after_s=validation.read_duration(spec.expire_after, "", default_s=None)[0],
        termination_grace_period_s=validation.read_duration(
            spec.termination_grace_period, "", default_s=None
        )[0],
        provider_id=status.provider_id,
        node_name=status.node_name,
        image_id=status.image_id,
        capacity=_amounts(status.capacity),
        allocatable=_amounts(status.allocatable),
        conditions=conditions_of(status.conditions),
        last_pod_event_at=seconds_of(status.last_pod_event_time),
        created_at=seconds_of(meta.creation_timestamp),
        deleted_at=seconds_of(meta.deletion_timestamp),
    )


def _amounts(quantities: objects.Quantities) -> Resources:
    return validation.read_quantities(quantities, "")[0]


def node_claim_manifest(claim: NodeClaim) -> dict[str, Any]:
    """The NodeClaim as it is created: metadata and spec, without status (see `node_claim_status`)."""
    spec: dict[str, Any] = {
        "requirements": [_requirement(one) for one in claim.requirements],
        "resources": {"requests": render_all(claim.requests)},
        "nodeClassRef": {
            "group": claim.node_class.group,
            "kind": claim.node_class.kind,
            "name": claim.node_class.name,
        },
        "expireAfter": "Never" if claim.expire_after_s is None else render_duration(claim.expire_after_s),
    }
    if claim.taints:
        spec["taints"] = [_taint(one) for one in claim.taints]
    if claim.startup_taints:
        spec["startupTaints"] = [_taint(one) for one in claim.startup_taints]
    if claim.termination_grace_period_s is not None:
        spec["terminationGracePeriod"] = render_duration(claim.termination_grace_period_s)
    metadata: dict[str, Any] = {"name": claim.name, "labels": claim.labels, "annotations": claim.annotations}
    if claim.finalizers:
        metadata["finalizers"] = list(claim.finalizers)
    return {"apiVersion": "karpenter.sh/v1", "kind": "NodeClaim", "metadata": metadata, "spec": spec}


def node_claim_status(claim: NodeClaim) -> dict[str, Any]:
    """The claim's status as it is written; what is unknown is left out."""
    status: dict[str, Any] = {
        "providerID": claim.provider_id,
        "nodeName": claim.node_name,
        "imageID": claim.image_id,
        "capacity": render_all(claim.capacity),
        "allocatable": render_all(claim.allocatable),
        "conditions": [condition_manifest(one) for one in claim.conditions],
        "lastPodEventTime": render_time(claim.last_pod_event_at),
    }
    return {name: value for name, value in status.items() if value}


def condition_manifest(condition: Condition) -> dict[str, Any]:
    """A condition as Kubernetes writes it. `reason` must not be empty there: the type stands in."""
    out: dict[str, Any] = {
        "type": condition.type,
        "status": condition.status,
        "reason": condition.reason or condition.type,
        "message": condition.message,
        "lastTransitionTime": render_time(condition.since) or "1970-01-01T00:00:00Z",
    }
    if condition.observed_generation:
        out["observedGeneration"] = condition.observed_generation
    return out


def _requirement(requirement: Requirement) -> dict[str, Any]:
    out: dict[str, Any] = {"key": requirement.key, "operator": requirement.operator}
    if requirement.values:
        out["values"] = list(requirement.values)
    if requirement.min_values is not None:
        out["minValues"] = requirement.min_values
    return out


def _taint(taint: Taint) -> dict[str, str]:
    out = {"key": taint.key, "effect": taint.effect}
    return {**out, "value": taint.value} if taint.value else out


# --- budgets, volumes and the rest ----------------------------------------------------------------------------------
def pdb_of(source: Source | objects.PDB) -> cluster.PodDisruptionBudget:
    raw = read(source, objects.PDB)
    meta, spec, status = raw.metadata, raw.spec, raw.status
    return cluster.PodDisruptionBudget(
        namespace=meta.namespace,
        name=meta.name,
        selector=spec.selector,
        min_available="" if spec.min_available is None else str(spec.min_available),
        max_unavailable="" if spec.max_unavailable is None else str(spec.max_unavailable),
        disruptions_allowed=status.disruptions_allowed,
        current_healthy=status.current_healthy,
        desired_healthy=status.desired_healthy,
        unhealthy_pod_eviction_policy=spec.unhealthy_pod_eviction_policy or "IfHealthyBudget",
        observed=status.observed_generation >= meta.generation,
    )


def pv_of(source: Source | objects.PV) -> cluster.PersistentVolume:
    raw = read(source, objects.PV)
    spec = raw.spec
    driver = spec.csi.driver if spec.csi else ""
    if spec.aws_elastic_block_store is not None:
        driver = _EBS_DRIVER
    return cluster.PersistentVolume(
        name=raw.metadata.name,
        driver=driver,
        node_affinity=spec.node_affinity.required if spec.node_affinity else None,
        local=spec.local is not None or spec.host_path is not None,
    )


def pvc_of(source: Source | objects.PVC) -> cluster.PersistentVolumeClaim:
    raw = read(source, objects.PVC)
    meta = raw.metadata
    return cluster.PersistentVolumeClaim(
        namespace=meta.namespace,
        name=meta.name,
        volume_name=raw.spec.volume_name,
        storage_class=raw.spec.storage_class_name,
        phase=raw.status.phase,
        deleting=meta.deletion_timestamp is not None,
        bind_completed=_BIND_COMPLETED in meta.annotations,
    )


def storage_class_of(source: Source | objects.StorageClass) -> cluster.StorageClass:
    raw = read(source, objects.StorageClass)
    return cluster.StorageClass(
        name=raw.metadata.name,
        provisioner=raw.provisioner,
        binding_mode=raw.volume_binding_mode,
        allowed_topologies=tuple(
            NodeSelectorTerm(tuple(Requirement(e.key, "In", e.values) for e in term.match_label_expressions))
            for term in raw.allowed_topologies
        ),
        default=any(raw.metadata.annotations.get(key) == "true" for key in _DEFAULT_CLASS),
    )


def csi_node_of(source: Source | objects.CSINode) -> cluster.CSINode:
    raw = read(source, objects.CSINode)
    limits = {
        driver.name: driver.allocatable.count
        for driver in raw.spec.drivers or ()
        if driver.allocatable is not None and driver.allocatable.count is not None
    }
    return cluster.CSINode(raw.metadata.name, limits)


def namespace_of(source: Source | objects.Namespace) -> cluster.Namespace:
    raw = read(source, objects.Namespace)
    return cluster.Namespace(raw.metadata.name, raw.metadata.labels)


def priority_class_of(source: Source | objects.PriorityClass) -> cluster.PriorityClass:
    raw = read(source, objects.PriorityClass)
    return cluster.PriorityClass(raw.metadata.name, raw.value, raw.global_default)


def selecting_of(kind: str, source: Source | objects.MapSelecting | objects.Selecting) -> cluster.Selecting:
    """A Service, ReplicationController (plain selector maps), ReplicaSet or StatefulSet (label selectors)."""
    if kind in ("Service", "ReplicationController"):
        plain = read(source, objects.MapSelecting)
        meta, spec = plain.metadata, plain.spec
        selector = LabelSelector(spec.selector) if spec.selector else None
        return cluster.Selecting(kind, meta.namespace, meta.name, selector, spec.replicas or 0)
    full = read(source, objects.Selecting)
    meta = full.metadata
    replicas = 1 if full.spec.replicas is None else full.spec.replicas
    return cluster.Selecting(kind, meta.namespace, meta.name, full.spec.selector, replicas)

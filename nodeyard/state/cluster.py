"""Snapshot and store: dictionaries by key, one per kind of object, plus the pods of each node.

Owns the meaning of a change (replace or remove one object by key). Refuses to guess: a change for an unknown shape
is an error of the stream, not something to skip. Its neighbours are `rpc`, which carries changes, and the planner
and the disruption room, which read snapshots.
"""

import enum
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from nodeyard.api.autoscaling import VerticalPodAutoscaler
from nodeyard.api.cluster import (
    CSINode,
    DaemonSet,
    Namespace,
    PersistentVolume,
    PersistentVolumeClaim,
    PodDisruptionBudget,
    PriorityClass,
    Selecting,
    StorageClass,
)
from nodeyard.api.node import Node, NodeClaim
from nodeyard.api.nodeclass import NodeClass
from nodeyard.api.pod import PodKey, PodRecord, PodShape, ShapeId
from nodeyard.api.pool import Pool
from nodeyard.state.successors import Successors


class Kind(enum.StrEnum):
    """What a change is about; the value is its name on the wire and the snapshot's field."""

    SHAPE = "shapes"
    POD = "pods"
    NODE = "nodes"
    NODE_CLAIM = "claims"
    POOL = "pools"
    NODE_CLASS = "node_classes"
    DAEMON_SET = "daemon_sets"
    PDB = "pdbs"
    PV = "pvs"
    PVC = "pvcs"
    STORAGE_CLASS = "storage_classes"
    CSI_NODE = "csi_nodes"
    NAMESPACE = "namespaces"
    PRIORITY_CLASS = "priority_classes"
    SELECTING = "selecting"
    VPA = "vpas"


VALUE_OF: Mapping[Kind, type[Any]] = MappingProxyType(
    {
        Kind.SHAPE: PodShape,
        Kind.POD: PodRecord,
        Kind.NODE: Node,
        Kind.NODE_CLAIM: NodeClaim,
        Kind.POOL: Pool,
        Kind.NODE_CLASS: NodeClass,
        Kind.DAEMON_SET: DaemonSet,
        Kind.PDB: PodDisruptionBudget,
        Kind.PV: PersistentVolume,
        Kind.PVC: PersistentVolumeClaim,
        Kind.STORAGE_CLASS: StorageClass,
        Kind.CSI_NODE: CSINode,
        Kind.NAMESPACE: Namespace,
        Kind.PRIORITY_CLASS: PriorityClass,
        Kind.SELECTING: Selecting,
        Kind.VPA: VerticalPodAutoscaler,
    }
)


class Change(msgspec.Struct, frozen=True, gc=False):
    """One object as it now is; `value` None means that it is gone."""

    kind: Kind
    key: str
    value: Any | None
    resource_version: str = ""


class Snapshot(msgspec.Struct, frozen=True):
    """The cluster at one revision. Treat every mapping as read-only. Keys: pods, PVCs, PDBs, daemon sets and autoscalers
    by `namespace/name`; pools and node classes by pool key; the rest by name.
    """

    epoch: str = ""
    """Which run of the watcher counted `revision`."""
    revision: int = 0
    shapes: Mapping[ShapeId, PodShape] = {}
    pods: Mapping[PodKey, PodRecord] = {}
    nodes: Mapping[str, Node] = {}
    claims: Mapping[str, NodeClaim] = {}
    pools: Mapping[str, Pool] = {}
    node_classes: Mapping[str, NodeClass] = {}
    daemon_sets: Mapping[str, DaemonSet] = {}
    pdbs: Mapping[str, PodDisruptionBudget] = {}
    pvs: Mapping[str, PersistentVolume] = {}
    pvcs: Mapping[str, PersistentVolumeClaim] = {}
    storage_classes: Mapping[str, StorageClass] = {}
    csi_nodes: Mapping[str, CSINode] = {}
    namespaces: Mapping[str, Namespace] = {}
    priority_classes: Mapping[str, PriorityClass] = {}
    selecting: Mapping[str, Selecting] = {}
    vpas: Mapping[str, VerticalPodAutoscaler] = {}
    successors: Mapping[PodKey, ShapeId] = {}
    """Pods on nodes that would not come back as they are -> the shape that their successor counts with."""
    pods_on: Mapping[str, frozenset[PodKey]] = {}
    """Node name -> keys of unfinished pods bound to it."""
    claim_of_provider: Mapping[str, str] = {}
    """Provider id -> claim name."""
    node_of_provider: Mapping[str, str] = {}
    """Provider id -> node name."""

    def shape(self, pod: PodRecord) -> PodShape:
        return self.shapes[pod.shape]

    def successor(self, pod: PodRecord) -> ShapeId:
        """The shape to look for a place with, for a pod that is evicted (or waits: then its own)."""
        return self.successors.get(pod.key, pod.shape) if self.successors else pod.shape

    def claim_of(self, node: Node) -> NodeClaim | None:
        name = self.claim_of_provider.get(node.provider_id) if node.provider_id else None
        return self.claims.get(name) if name else None

    def node_of(self, claim: NodeClaim) -> Node | None:
        name = self.node_of_provider.get(claim.provider_id) if claim.provider_id else None
        return self.nodes.get(name) if name else None

    def pods_of_node(self, node: str) -> list[PodRecord]:
        return [self.pods[key] for key in sorted(self.pods_on.get(node, ()))]


class ClusterStore:
    """The mutable holder of the newest state. Not thread-safe: owned by one task."""

    def __init__(self) -> None:
        self.epoch = ""
        self.revision = 0
        self._objects: dict[Kind, dict[str, Any]] = {kind: {} for kind in Kind}
        self._pods_on: dict[str, frozenset[PodKey]] = {}
        self._claim_of_provider: dict[str, str] = {}
        self._node_of_provider: dict[str, str] = {}
        self._successors = Successors()
        self._snapshot: Snapshot | None = None

    def reset(self, epoch: str, revision: int, changes: Iterable[Change]) -> None:
        """Forget everything and start from a full listing."""
        self.__init__()  # type: ignore[misc]
        self.apply(changes, epoch=epoch, revision=revision)

    def apply(
        self, changes: Iterable[Change], *, epoch: str | None = None, revision: int | None = None
    ) -> None:
        """Apply changes in order. A shape must come before the first pod that has it."""
        self._snapshot = None
        if epoch is not None:
            self.epoch = epoch
        if revision is not None:
            self.revision = revision
        for change in changes:
            self._apply_one(change)

    def _apply_one(self, change: Change) -> None:
        objects = self._objects[change.kind]
        old = objects.get(change.key)
        if change.kind is Kind.POD:
            self._move_pod(change.key, old, change.value)
        elif change.kind is Kind.NODE_CLAIM:
            _index(self._claim_of_provider, change.key, old, change.value)
        elif change.kind is Kind.NODE:
            _index(self._node_of_provider, change.key, old, change.value)
        if change.value is None:
            objects.pop(change.key, None)
        else:
            objects[change.key] = change.value

    def _move_pod(self, key: PodKey, old: PodRecord | None, new: PodRecord | None) -> None:
        if new is not None and new.shape not in self._objects[Kind.SHAPE]:
            raise KeyError(f"pod {key} has shape {new.shape}, which was never sent")
        before = old.node if old is not None and not old.finished else ""
        after = new.node if new is not None and not new.finished else ""
        if before == after:
            return
        if before:
            rest = self._pods_on[before] - {key}
            if rest:
                self._pods_on[before] = rest
            else:
                del self._pods_on[before]
        if after:
            self._pods_on[after] = self._pods_on.get(after, frozenset()) | {key}

    def get(self, kind: Kind, key: str) -> Any | None:
        return self._objects[kind].get(key)

    def of(self, kind: Kind) -> Mapping[str, Any]:
        """All objects of a kind, by key, as they are until the next change."""
        return self._objects[kind]

    def count(self, kind: Kind) -> int:
        """How many objects of a kind there are."""
        return len(self._objects[kind])

    def snapshot(self) -> Snapshot:
        """The state now; the same object until the next change."""
        if self._snapshot is None:
            objects = {kind.value: dict(objects) for kind, objects in self._objects.items()}
            successors = self._successors.follow(objects["vpas"], objects["pods"], objects["shapes"])
            self._snapshot = Snapshot(
                epoch=self.epoch,
                revision=self.revision,
                successors=successors,
                pods_on=dict(self._pods_on),
                claim_of_provider=dict(self._claim_of_provider),
                node_of_provider=dict(self._node_of_provider),
                **objects,
            )
        return self._snapshot


def _index(index: dict[str, str], key: str, old: Any | None, new: Any | None) -> None:
    """Keep provider id -> key. Two objects with one provider id: the later change wins until it goes."""
    if old is not None and old.provider_id and index.get(old.provider_id) == key:
        del index[old.provider_id]
    if new is not None and new.provider_id:
        index[new.provider_id] = key


def with_successors(snapshot: Snapshot) -> Snapshot:
    """The snapshot with what its autoscalers make of its pods, where either is another than a store said."""
    if not snapshot.vpas:
        return snapshot
    shapes = dict(snapshot.shapes)
    found = Successors().follow(snapshot.vpas, snapshot.pods, shapes)
    return msgspec.structs.replace(snapshot, shapes=shapes, successors=found)


def snapshot_of(changes: Iterable[Change]) -> Snapshot:
    """A snapshot from scratch, for plans from files and for tests."""
    store = ClusterStore()
    store.reset("", 0, changes)
    return store.snapshot()

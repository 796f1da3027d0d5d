"""What the watcher reads, turned into changes of the store: the one place where Kubernetes kinds meet ours.

`CONVERTERS` says what each Kubernetes kind becomes. `Intake` follows listings and events of every kind, drops what
did not change, removes what a new listing no longer has, and keeps each shape for as long as a pod has it. An
object that can't be read is reported once and treated as not having changed. Pure: logs and metrics are the
caller's.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import msgspec

from nodeyard.api import convert, objects
from nodeyard.api.autoscaling import autoscaler_of
from nodeyard.api.nodepool import node_class_of, pool_of_nodepool
from nodeyard.api.provider import TEMPLATE, node_class_of_template
from nodeyard.api.provisioner import pool_of_provisioner
from nodeyard.api.quantity import QuantityError
from nodeyard.api.reading import ConversionError, Source, identity_of, read
from nodeyard.api.shape import Shapes, named_by, named_by_shape
from nodeyard.state.cluster import Change, ClusterStore, Kind

POD: Final = "Pod"
_PROVISIONER: Final = "provisioner"
_TEMPLATE: Final = "awsnodetemplate"
Converter = Callable[[Source, Shapes], tuple[Change, ...]]


# --- one object -----------------------------------------------------------------------------------------------------
def _pod(source: Source, shapes: Shapes) -> tuple[Change, ...]:
    raw = read(source, objects.Pod)
    record = convert.pod_of(raw, "")
    try:
        shape = shapes.shape_of(raw)
    except QuantityError as error:
        raise ConversionError(f"spec: {error}") from error
    record = msgspec.structs.replace(record, shape=shape.id)
    return (
        Change(Kind.SHAPE, shape.id, shape),
        Change(Kind.POD, record.key, record, record.resource_version),
    )


def _versioned(kind: Kind, of: Callable[[Source], Any], key: str) -> Converter:
    """For values that carry their resourceVersion; `key` names the attribute they are kept by."""

    def convert_one(source: Source, _shapes: Shapes) -> tuple[Change, ...]:
        value = of(source)
        return (Change(kind, getattr(value, key), value, value.resource_version),)

    return convert_one


def _plain(kind: Kind, of: Callable[[Source], Any], key: str = "key") -> Converter:
    def convert_one(source: Source, _shapes: Shapes) -> tuple[Change, ...]:
        value = of(source)
        return (Change(kind, getattr(value, key), value),)

    return convert_one


def _selecting(kind: str) -> Converter:
    def convert_one(source: Source, _shapes: Shapes) -> tuple[Change, ...]:
        value = convert.selecting_of(kind, source)
        if kind == "ReplicaSet" and value.replicas == 0:
            return ()  # a Deployment's past: it has no pods, and there are ten of them to each that has
        return (Change(Kind.SELECTING, value.key, value),)

    return convert_one


def _autoscaler(source: Source, _shapes: Shapes) -> tuple[Change, ...]:
    value = autoscaler_of(source)
    return (Change(Kind.VPA, value.key, value),) if value is not None else ()


def _pool_and_class(cluster_name: str) -> Converter:
    def convert_one(source: Source, _shapes: Shapes) -> tuple[Change, ...]:
        pool, node_class = pool_of_provisioner(source, cluster_name)
        of_pool = Change(Kind.POOL, pool.key, pool, pool.resource_version)
        if node_class is None:
            return (of_pool,)
        return (Change(Kind.NODE_CLASS, node_class.key, node_class, node_class.resource_version), of_pool)

    return convert_one


def _template(cluster_name: str) -> Converter:
    return _versioned(Kind.NODE_CLASS, lambda source: node_class_of_template(source, cluster_name), "key")


CONVERTERS: Final[Mapping[str, Converter]] = MappingProxyType(
    {
        POD: _pod,
        "Node": _versioned(Kind.NODE, convert.node_of, "name"),
        "NodeClaim": _versioned(Kind.NODE_CLAIM, convert.node_claim_of, "name"),
        "NodePool": _versioned(Kind.POOL, pool_of_nodepool, "key"),
        "EC2NodeClass": _versioned(Kind.NODE_CLASS, node_class_of, "key"),
        "Provisioner": _pool_and_class("nodeyard"),
        TEMPLATE: _template("nodeyard"),
        "DaemonSet": _plain(Kind.DAEMON_SET, convert.daemon_set_of),
        "PodDisruptionBudget": _plain(Kind.PDB, convert.pdb_of),
        "PersistentVolume": _plain(Kind.PV, convert.pv_of, "name"),
        "PersistentVolumeClaim": _plain(Kind.PVC, convert.pvc_of),
        "StorageClass": _plain(Kind.STORAGE_CLASS, convert.storage_class_of, "name"),
        "CSINode": _plain(Kind.CSI_NODE, convert.csi_node_of, "name"),
        "Namespace": _plain(Kind.NAMESPACE, convert.namespace_of, "name"),
        "PriorityClass": _plain(Kind.PRIORITY_CLASS, convert.priority_class_of, "name"),
        "Service": _selecting("Service"),
        "ReplicaSet": _selecting("ReplicaSet"),
        "ReplicationController": _selecting("ReplicationController"),
        "StatefulSet": _selecting("StatefulSet"),
        "VerticalPodAutoscaler": _autoscaler,
    }
)
"""Kubernetes kind -> what one object of it becomes. Each raises ConversionError for an object that can't be read."""


def converters(cluster_name: str) -> Mapping[str, Converter]:
    """CONVERTERS for a cluster of this name, which a Provisioner's default selectors look for."""
    own = {"Provisioner": _pool_and_class(cluster_name), TEMPLATE: _template(cluster_name)}
    return MappingProxyType({**CONVERTERS, **own})


_SOURCE_OF_KIND: Final = MappingProxyType(
    {
        "Node": Kind.NODE.value,
        POD: Kind.POD.value,
        "NodeClaim": Kind.NODE_CLAIM.value,
        "NodePool": Kind.POOL.value,
        "EC2NodeClass": Kind.NODE_CLASS.value,
        "Provisioner": f"{Kind.POOL.value}/{_PROVISIONER}",
        TEMPLATE: f"{Kind.NODE_CLASS.value}/{_TEMPLATE}",
        "DaemonSet": Kind.DAEMON_SET.value,
        "PodDisruptionBudget": Kind.PDB.value,
        "PersistentVolume": Kind.PV.value,
        "PersistentVolumeClaim": Kind.PVC.value,
        "StorageClass": Kind.STORAGE_CLASS.value,
        "CSINode": Kind.CSI_NODE.value,
        "Namespace": Kind.NAMESPACE.value,
        "PriorityClass": Kind.PRIORITY_CLASS.value,
        "VerticalPodAutoscaler": Kind.VPA.value,
    }
)


def source_of(kind: Kind, key: str) -> str:
    """Which of the watcher's watches a change comes from: ours mostly, apart where several Kubernetes kinds feed one
    of ours. resourceVersions are compared within one source. Empty for shapes, which have none.
    """
    if kind is Kind.SHAPE:
        return ""
    if kind is Kind.SELECTING:
        return f"{kind.value}/{key.partition('/')[0]}"
    if kind in (Kind.POOL, Kind.NODE_CLASS) and key.startswith(f"{_PROVISIONER}/"):
        return f"{Kind.POOL.value}/{_PROVISIONER}"
    if kind is Kind.NODE_CLASS and key.startswith(f"{_TEMPLATE}/"):
        return f"{kind.value}/{_TEMPLATE}"
    return kind.value


def source_of_kind(kubernetes_kind: str) -> str:
    """The same for a Kubernetes kind."""
    return _SOURCE_OF_KIND.get(kubernetes_kind, f"{Kind.SELECTING.value}/{kubernetes_kind}")


def changes_of(kubernetes_kind: str, source: Source, shapes: Shapes | None = None) -> tuple[Change, ...]:
    """What one object becomes; nothing for kinds that we do not read. Raises ConversionError.

    For the answers to our own writes, and for manifests.
    """
    converter = CONVERTERS.get(kubernetes_kind)
    return converter(source, Shapes() if shapes is None else shapes) if converter else ()


# --- the whole ------------------------------------------------------------------------------------------------------
class Undecodable(msgspec.Struct, frozen=True):
    """An object that can't be read: `why` names the field."""

    kind: str
    name: str
    why: str


class Taken(msgspec.Struct):
    """What some input led to. `changes` are applied to the store already."""

    changes: list[Change] = []
    undecodable: list[Undecodable] = []


_Emitted = tuple[tuple[Kind, str], ...]


class Intake:
    """Follows every kind of object into one store. `converters` maps the Kubernetes kinds that are read."""

    def __init__(self, store: ClusterStore, converters: Mapping[str, Converter] = CONVERTERS) -> None:
        self._store = store
        self._converters = converters
        self._shapes = Shapes()
        self._emitted: dict[str, dict[str, _Emitted]] = {kind: {} for kind in converters}
        self._listing: dict[str, set[str]] = {}
        self._pods_of_shape: dict[str, int] = {}
        self._idle_shapes: set[str] = set()
        self.pods_outdated = False
        """Some selector names a label that shapes have left out so far: list the pods again, then reset this."""

    def begin(self, kind: str) -> None:
        """A full listing of `kind` starts; whatever it does not show is gone when it ends."""
        self._listing[kind] = set()

    def page(self, kind: str, items: Iterable[Source]) -> Taken:
        """Some objects of the listing."""
        taken = Taken()
        for item in items:
            self._take(kind, item, taken)
        return taken

    def end(self, kind: str, resource_version: str) -> Taken:
        """The listing is complete, as of `resource_version`."""
        seen = self._listing.pop(kind, set())
        taken = Taken()
        for name in [name for name in self._emitted[kind] if name not in seen]:
            self._forget(kind, name, resource_version, taken)
        return taken

    def events(self, kind: str, events: Iterable[tuple[str, Source]]) -> Taken:
        """Events in order: ADDED, MODIFIED or DELETED, and the object."""
        taken = Taken()
        for happened, item in events:
            if happened == "DELETED":
                self._delete(kind, item, taken)
            else:
                self._take(kind, item, taken)
        return taken

    def gone(self, kind: str) -> Taken:
        """The kind is not served any more: nothing of it is left."""
        self.begin(kind)
        return self.end(kind, "")

    def sweep(self) -> list[Change]:
        """Removes shapes that no pod has had since the last sweep. Call now and then."""
        idle = {shape for shape, pods in self._pods_of_shape.items() if pods == 0}
        gone = idle & self._idle_shapes
        self._idle_shapes = idle - gone
        for shape in gone:
            del self._pods_of_shape[shape]
        self._shapes.forget(gone)
        changes = [Change(Kind.SHAPE, shape, None) for shape in sorted(gone)]
        self._store.apply(changes)
        return changes

    # --- one object ---------------------------------------------------------------------------------------------------
    def _take(self, kind: str, item: Source, taken: Taken) -> None:
        try:
            changes = self._converters[kind](item, self._shapes)
            name = _name_of(kind, changes, item)
        except ConversionError as error:
            self._unreadable(kind, item, str(error), taken)
            return
        if kind in self._listing:
            self._listing[kind].add(name)
        emitted: _Emitted = tuple((c.kind, c.key) for c in changes if c.kind is not Kind.SHAPE)
        before = self._emitted[kind].get(name, ())
        for change in changes:
            self._offer(change, taken)
        for stale_kind, key in before:
            if (stale_kind, key) not in emitted:
                self._put(Change(stale_kind, key, None), taken)
        if emitted:
            self._emitted[kind][name] = emitted
        elif before:
            del self._emitted[kind][name]

    def _offer(self, change: Change, taken: Taken) -> None:
        """Passes a change on unless the store has it so already."""
        old = self._store.get(change.kind, change.key)
        if old is not None and (change.kind is Kind.SHAPE or old == change.value):
            return
        self._note_selectors(change)
        self._put(change, taken)

    def _put(self, change: Change, taken: Taken) -> None:
        if change.kind is Kind.POD:
            self._count(self._store.get(Kind.POD, change.key), change.value)
        elif change.kind is Kind.SHAPE:
            self._pods_of_shape.setdefault(change.key, 0)
        self._store.apply((change,))
        taken.changes.append(change)

    def _count(self, old: Any | None, new: Any | None) -> None:
        before, after = (old.shape if old else ""), (new.shape if new else "")
        if before == after:
            return
        if before:
            self._pods_of_shape[before] -= 1
        if after:
            self._pods_of_shape[after] += 1

    def _note_selectors(self, change: Change) -> None:
        value: Any = change.value
        if change.kind is Kind.SHAPE:
            self.pods_outdated |= self._shapes.keep(named_by_shape(value))
        elif change.kind in (Kind.PDB, Kind.SELECTING):
            self.pods_outdated |= self._shapes.keep(named_by(value.selector))

    def _delete(self, kind: str, item: Source, taken: Taken) -> None:
        try:
            meta = identity_of(item).metadata
        except ConversionError as error:
            taken.undecodable.append(Undecodable(kind, "", str(error)))
            return
        self._forget(kind, _object_name(meta), meta.resource_version, taken)

    def _forget(self, kind: str, name: str, resource_version: str, taken: Taken) -> None:
        for our_kind, key in self._emitted[kind].pop(name, ()):
            self._put(Change(our_kind, key, None, resource_version), taken)

    def _unreadable(self, kind: str, item: Source, why: str, taken: Taken) -> None:
        """Leaves what is known of the object as it is."""
        try:
            name = _object_name(identity_of(item).metadata)
        except ConversionError:
            name = ""
        if kind in self._listing and name:
            self._listing[kind].add(name)
        taken.undecodable.append(Undecodable(kind, name, why))


def _object_name(meta: objects.Meta) -> str:
    return f"{meta.namespace}/{meta.name}" if meta.namespace else meta.name


def _name_of(kind: str, changes: Sequence[Change], item: Source) -> str:
    """The object's `namespace/name`, from its change where that is its key, which saves reading it twice."""
    if kind in (POD, "Node") and changes:
        return changes[-1].key
    return _object_name(identity_of(item).metadata)

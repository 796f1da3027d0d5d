"""From manifests (Kubernetes objects as dictionaries) to a snapshot of them alone.

Serves plans and simulations from files and dry runs over HTTP; the watcher, which follows a live cluster, feeds
`intake` itself. Workloads are expanded to their missing pods first. Objects of kinds that placement does not depend
on are passed over. Strict where the watcher is lenient: what can't be read is an error that names object and field.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from nodeyard.api.convert import selecting_of
from nodeyard.api.reading import ConversionError
from nodeyard.api.shape import Shapes, named_by, named_by_shape
from nodeyard.api.workloads import WorkloadError, expand
from nodeyard.state.cluster import Change, Kind, Snapshot, snapshot_of
from nodeyard.state.intake import CONVERTERS, POD, changes_of

Json = dict[str, Any]
_SELECT_PODS: Final = frozenset({"Deployment", "ReplicaSet", "StatefulSet", "ReplicationController"})
"""Workloads whose selectors the cluster's default spread follows; a Deployment stands for its ReplicaSet."""
NAMESPACED: Final = frozenset(
    {POD, "DaemonSet", "PodDisruptionBudget", "PersistentVolumeClaim", "Service", "VerticalPodAutoscaler"}
)


class ManifestError(ValueError):
    """An object that can't be read. `subject` is `<Kind> [<namespace>/]<name>`, the message names the field."""

    def __init__(self, subject: str, message: str) -> None:
        super().__init__(f"{subject}: {message}")
        self.subject, self.message = subject, message


def subject_of(manifest: Mapping[str, Any]) -> str:
    """How an object is called in messages."""
    meta = manifest.get("metadata")
    meta = meta if isinstance(meta, Mapping) else {}
    name = meta.get("name") or "(without a name)"
    space = f"{meta['namespace']}/" if meta.get("namespace") else ""
    return f"{manifest.get('kind') or 'object'} {space}{name}"


def snapshot_from(manifests: Iterable[Json]) -> Snapshot:
    """A snapshot of these objects. Raises ManifestError."""
    return snapshot_of(changes_from(manifests))


def changes_from(manifests: Iterable[Json]) -> list[Change]:
    """The changes that bring these objects into a state, shapes before their pods. Raises ManifestError."""
    prepared = [_with_namespace(_identified(manifest)) for manifest in manifests]
    workloads = [manifest for manifest in prepared if manifest["kind"] in _SELECT_PODS]
    try:
        prepared = expand(prepared)
    except WorkloadError as error:
        subject, _, message = str(error).partition(": ")
        raise ManifestError(subject, message) from error
    shapes = Shapes()
    rest = [m for m in prepared if m["kind"] != POD and m["kind"] in CONVERTERS]
    changes = [change for manifest in rest for change in _converted(manifest, shapes)]
    changes += [_selecting(manifest) for manifest in workloads]
    shapes.keep(
        key for c in changes if c.kind is Kind.SELECTING and c.value for key in named_by(c.value.selector)
    )
    return changes + _pods([m for m in prepared if m["kind"] == POD], _priorities(prepared), shapes)


def _identified(manifest: Json) -> Json:
    kind, meta = manifest.get("kind"), manifest.get("metadata")
    if not isinstance(kind, str) or not kind:
        raise ManifestError(subject_of(manifest), "kind: is missing")
    if not isinstance(meta, dict) or not meta.get("name"):
        raise ManifestError(subject_of(manifest), "metadata.name: is missing")
    return manifest


def _with_namespace(manifest: Json) -> Json:
    meta = manifest["metadata"]
    if meta.get("namespace") or manifest["kind"] not in NAMESPACED:
        return manifest
    return {**manifest, "metadata": {**meta, "namespace": "default"}}


def _converted(manifest: Json, shapes: Shapes) -> tuple[Change, ...]:
    try:
        return changes_of(manifest["kind"], manifest, shapes)
    except ConversionError as error:
        raise ManifestError(subject_of(manifest), str(error)) from error


def _selecting(workload: Json) -> Change:
    """What a workload selects, which outlasts its expansion."""
    meta = workload["metadata"]
    namespaced = {**workload, "metadata": {**meta, "namespace": meta.get("namespace") or "default"}}
    try:
        value = selecting_of(workload["kind"], namespaced)
    except ConversionError as error:
        raise ManifestError(subject_of(workload), str(error)) from error
    return Change(Kind.SELECTING, value.key, value)


def _priorities(manifests: Iterable[Json]) -> dict[str, int]:
    out: dict[str, int] = {}
    for manifest in manifests:
        if manifest["kind"] != "PriorityClass":
            continue
        value = manifest.get("value") or 0
        if isinstance(value, bool) or not isinstance(value, int):
            raise ManifestError(subject_of(manifest), "value: a whole number is wanted")
        out[manifest["metadata"]["name"]] = value
    return out


def _with_priority(manifest: Json, priorities: Mapping[str, int]) -> Json:
    """The priority that admission would have filled in from the pod's class."""
    spec = manifest.get("spec") or {}
    if not isinstance(spec, dict):
        return manifest  # whoever converts it says so
    priority = priorities.get(str(spec.get("priorityClassName")))
    if priority is None or spec.get("priority") is not None:
        return manifest
    return {**manifest, "spec": {**spec, "priority": priority}}


def _pods(manifests: list[Json], priorities: Mapping[str, int], shapes: Shapes) -> list[Change]:
    """Shapes and pods. A label unique to a pod stays in its shape where any pod's selector names it."""
    prepared = [_with_priority(manifest, priorities) for manifest in manifests]
    made = [change for manifest in prepared for change in _converted(manifest, shapes)]
    shaped = [change.value for change in made if change.kind is Kind.SHAPE and change.value is not None]
    named = {key for shape in shaped for key in named_by_shape(shape)}
    if shapes.keep(named):
        made = [change for manifest in prepared for change in _converted(manifest, shapes)]
    return made


def plannable(snapshot: Snapshot) -> tuple[str, ...]:
    """Keys of the pods a file plan places: every one without a node that is not finished, a daemon's or a mirror."""
    return tuple(
        key
        for key, pod in snapshot.pods.items()
        if not pod.node and not pod.finished and not pod.daemon and not pod.terminating
    )

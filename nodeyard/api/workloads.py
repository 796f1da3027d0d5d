"""Workloads with replicas, expanded to the pods that their controllers would make.

A Deployment, ReplicaSet, StatefulSet, ReplicationController or Job in a dry run stands for its pods: as many as it
wants and the input does not already hold, named `<workload>-<0..n-1>`. Objects in and out are dicts as Kubernetes
writes them. Pure. Source: Kubernetes API reference, apps/v1 and batch/v1.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Final

import msgspec

from nodeyard.api.reading import ConversionError, read

Json = dict[str, Any]
MOST_PODS: Final = 200_000
"""Of one workload; more is taken for a slip of the pen."""
_Count = Annotated[int, msgspec.Meta(ge=0)]
_Pods = Annotated[int, msgspec.Meta(ge=0, le=MOST_PODS)]


class WorkloadError(ValueError):
    """A workload that can't be expanded; says which field of which object."""


class _Owner(msgspec.Struct):
    kind: str
    name: str
    controller: bool = True


class _Meta(msgspec.Struct, rename="camel"):
    name: str
    namespace: str = ""
    uid: str = ""
    owner_references: list[_Owner] = []


class _Status(msgspec.Struct):
    succeeded: _Count = 0
    phase: str = ""


class _Object(msgspec.Struct):
    """What is read here of any object."""

    metadata: _Meta


class _Pod(_Object):
    status: _Status = msgspec.field(default_factory=_Status)


class _Named(msgspec.Struct):
    name: str


class _TemplateMeta(msgspec.Struct):
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class _ClaimTemplate(msgspec.Struct):
    metadata: _Named
    spec: dict[str, Any] = {}


class _ClaimMade(msgspec.Struct):
    spec: dict[str, Any] = {}


class _Ephemeral(msgspec.Struct, rename="camel"):
    volume_claim_template: _ClaimMade = msgspec.field(default_factory=_ClaimMade)


class _Volume(_Named):
    ephemeral: _Ephemeral | None = None


class _PodSpec(msgspec.Struct):
    volumes: list[_Volume] = []


class _Template(msgspec.Struct):
    metadata: _TemplateMeta = msgspec.field(default_factory=_TemplateMeta)
    spec: _PodSpec = msgspec.field(default_factory=_PodSpec)


class _Spec(msgspec.Struct, rename="camel"):
    template: _Template
    replicas: _Pods = 1
    parallelism: _Pods = 1
    completions: _Count | None = None
    suspend: bool = False
    volume_claim_templates: list[_ClaimTemplate] = []


class _Workload(_Object, kw_only=True):
    spec: _Spec
    status: _Status = msgspec.field(default_factory=_Status)


def _replicas(workload: Json) -> int:
    return read(workload, _Workload).spec.replicas


def _job_pods(job: Json) -> int:
    """Pods that run at once: parallelism, but no more than completions still to come."""
    known = read(job, _Workload)
    spec = known.spec
    if spec.suspend:
        return 0
    if spec.completions is None:
        return spec.parallelism
    return min(spec.parallelism, max(0, spec.completions - known.status.succeeded))


WANTED: Final[dict[str, Callable[[Json], int]]] = {
    "Deployment": _replicas,
    "ReplicaSet": _replicas,
    "ReplicationController": _replicas,
    "StatefulSet": _replicas,
    "Job": _job_pods,
}


def expand(objects: Iterable[Json]) -> list[Json]:
    """The objects with every workload replaced by its missing pods; order kept. Volume claims that a StatefulSet makes
    for them, and those of generic ephemeral volumes of any pod that waits, are added unless they are here already.
    Raises WorkloadError.
    """
    objects = list(objects)
    for item in objects:
        _check(item)
    volume_claims = {
        (_namespace(o), o["metadata"]["name"]) for o in objects if o.get("kind") == "PersistentVolumeClaim"
    }
    present, owned_by_sets = _present(objects)
    out: list[Json] = []
    for item in objects:
        if item.get("kind") == "ReplicaSet" and _owner(item) in owned_by_sets:
            continue  # its Deployment is here too and stands for it
        made = _pods_of(item, present) if item.get("kind") in WANTED else [item]
        claims = [claim for each in made if each.get("kind") == "Pod" for claim in _ephemeral_claims(each)]
        out.extend(
            each
            for each in (*claims, *made)
            if each is item
            or each["kind"] == "Pod"
            or (_namespace(each), each["metadata"]["name"]) not in volume_claims
        )
    return out


def _check(item: Json) -> None:
    """Raise WorkloadError where what is read here of an object is not as it should be."""
    kind = item.get("kind")
    try:
        if kind in WANTED:
            read(item, _Workload)
        else:
            part = {name: item.get(name) for name in ("metadata", "status")}
            read(part, _Pod if kind == "Pod" else _Object)
    except ConversionError as error:
        meta = item.get("metadata")
        meta = meta if isinstance(meta, dict) else {}
        subject = f"{kind} {meta.get('namespace') or 'default'}/{meta.get('name')}"
        raise WorkloadError(f"{subject}: {error}") from error


def _present(objects: list[Json]) -> tuple[Counter[tuple[str, str, str]], set[tuple[str, str, str]]]:
    """Unfinished pods in the input by (kind, namespace, name) of the workload, ReplicaSets resolved to Deployments."""
    deployments = {
        ("Deployment", _namespace(o), o["metadata"]["name"]) for o in objects if o.get("kind") == "Deployment"
    }
    set_owner = {
        ("ReplicaSet", _namespace(o), o["metadata"]["name"]): _owner(o)
        for o in objects
        if o.get("kind") == "ReplicaSet" and _owner(o) in deployments
    }
    present: Counter[tuple[str, str, str]] = Counter()
    for pod in objects:
        if pod.get("kind") != "Pod" or (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
            continue
        if owner := _owner(pod):
            present[set_owner.get(owner) or _deployment_of(owner, deployments)] += 1
    return present, deployments


def _deployment_of(
    owner: tuple[str, str, str], deployments: set[tuple[str, str, str]]
) -> tuple[str, str, str]:
    """A ReplicaSet that is not in the input is named after its Deployment: `<deployment>-<hash>`."""
    kind, namespace, name = owner
    candidate = ("Deployment", namespace, name.rpartition("-")[0])
    return candidate if kind == "ReplicaSet" and candidate in deployments else owner


def _namespace(item: Json) -> str:
    return item["metadata"].get("namespace") or "default"


def _owner(item: Json) -> tuple[str, str, str] | None:
    owners = item["metadata"].get("ownerReferences") or []
    owner = next((o for o in owners if o and o.get("controller") is not False), None)
    return (owner["kind"], _namespace(item), owner["name"]) if owner else None


def _pods_of(workload: Json, present: Counter[tuple[str, str, str]]) -> list[Json]:
    kind, name, namespace = workload["kind"], workload["metadata"]["name"], _namespace(workload)
    template = workload["spec"]["template"]
    wanted = WANTED[kind](workload)
    missing = max(0, wanted - present[(kind, namespace, name)])
    names = [f"{name}-{i}" for i in range(missing)]
    return [item for pod in names for item in (*_claims(workload, pod), _pod(workload, template, pod))]


def _claims(workload: Json, pod: str) -> list[Json]:
    """The PersistentVolumeClaims that a StatefulSet makes for one of its pods."""
    return [
        _claim(workload, f"{template['metadata']['name']}-{pod}", template.get("spec") or {})
        for template in workload["spec"].get("volumeClaimTemplates") or []
        if template is not None
    ]


def _ephemeral_claims(pod: Json) -> list[Json]:
    """The PersistentVolumeClaims that Kubernetes will make for the generic ephemeral volumes of a pod that waits; none
    of a pod that can't be understood, which its reader says. Source: kubernetes.io "Ephemeral Volumes".
    """
    spec = pod.get("spec")
    if not isinstance(spec, dict) or spec.get("nodeName") or not spec.get("volumes"):
        return []
    try:
        volumes = read({"volumes": spec["volumes"]}, _PodSpec).volumes
    except ConversionError:
        return []
    return [
        _claim(pod, f"{pod['metadata']['name']}-{volume.name}", volume.ephemeral.volume_claim_template.spec)
        for volume in volumes
        if volume.ephemeral is not None
    ]


def _claim(of: Json, name: str, spec: Json) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": _namespace(of)},
        "spec": spec,
        "status": {"phase": "Pending"},
    }


def _pod(workload: Json, template: Json, name: str) -> Json:
    meta = template.get("metadata") or {}
    spec = dict(template.get("spec") or {})
    if claims := workload["spec"].get("volumeClaimTemplates"):
        mine = [
            {
                "name": c["metadata"]["name"],
                "persistentVolumeClaim": {"claimName": f"{c['metadata']['name']}-{name}"},
            }
            for c in claims
            if c is not None
        ]
        spec["volumes"] = [*(spec.get("volumes") or []), *mine]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": _namespace(workload),
            "labels": meta.get("labels") or {},
            "annotations": meta.get("annotations") or {},
            "ownerReferences": [
                {
                    "apiVersion": workload.get("apiVersion", "apps/v1"),
                    "kind": workload["kind"],
                    "name": workload["metadata"]["name"],
                    "uid": workload["metadata"].get("uid", ""),
                    "controller": True,
                }
            ],
        },
        "spec": spec,
        "status": {"phase": "Pending"},
    }

"""From a Kubernetes pod to its shape: what it requests, where it may run, and an id equal for equal content.

Owns Kubernetes' rule for a pod's requests and the choice of what a shape leaves out. A label that differs in every
pod of a workload (`UNIQUE_LABELS`) would give each pod a shape of its own, so such labels are left out for as long
as no selector known to us names them: neither the pod's own affinity and spread terms nor what `Shapes.keep` was
told of (budgets, services, other pods). Once one does, the caller converts its pods again.
Sources: kubernetes.io "Sidecar Containers" (effective requests), "Pod Overhead", "Assign Pod-level CPU and memory
resources"; KEP-753, KEP-2837; "Scheduling Group".
"""

from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Final

import msgspec

from nodeyard.api import labels as keys
from nodeyard.api import objects
from nodeyard.api.pod import INIT, SIDECAR, ContainerShape, PodShape, ShapeId
from nodeyard.api.quantity import PODS, Resources, largest, parse_all, total
from nodeyard.api.resizing import count_held
from nodeyard.api.selectors import (
    HostPort,
    LabelSelector,
    NodeAffinity,
    NodeSelector,
    PodAffinity,
    Toleration,
)

UNIQUE_LABELS: Final = frozenset(
    {
        "statefulset.kubernetes.io/pod-name",
        "apps.kubernetes.io/pod-index",
        "batch.kubernetes.io/job-completion-index",
        "batch.kubernetes.io/controller-uid",
        "batch.kubernetes.io/job-name",
        "controller-uid",
        "job-name",
        keys.ZONE,
        keys.REGION,
    }
)
"""Set by controllers, different in every pod or every run of a job; and what the API server copies from the node that a
pod is bound to (KEP-4742), which its successor does not have yet."""
_GANG_LABELS: Final = ("scheduling.x-k8s.io/pod-group", "pod-group.scheduling.sigs.k8s.io")
_DAEMON_TOLERATIONS: Final = (
    Toleration(key=keys.TAINT_NOT_READY, operator="Exists", effect=keys.NO_EXECUTE),
    Toleration(key=keys.TAINT_UNREACHABLE, operator="Exists", effect=keys.NO_EXECUTE),
    Toleration(key="node.kubernetes.io/disk-pressure", operator="Exists", effect=keys.NO_SCHEDULE),
    Toleration(key="node.kubernetes.io/memory-pressure", operator="Exists", effect=keys.NO_SCHEDULE),
    Toleration(key="node.kubernetes.io/pid-pressure", operator="Exists", effect=keys.NO_SCHEDULE),
    Toleration(key=keys.TAINT_UNSCHEDULABLE, operator="Exists", effect=keys.NO_SCHEDULE),
)
"""What the DaemonSet controller adds to its pods. Source: kubernetes.io "DaemonSet", "Taints and tolerations"."""

_encoder: Final = msgspec.json.Encoder()
_canonical: Final = msgspec.json.Encoder(order="deterministic")


# --- requests -------------------------------------------------------------------------------------------------------
def pod_requests(spec: objects.PodSpec) -> Resources:
    """What the scheduler reserves for a pod, `pods: 1` included; resources asked for at 0 are left out.

    Containers and sidecars run together; an init container runs with the sidecars started before it and its peak
    counts where it is higher; pod-level requests replace the sum for cpu, memory and huge pages; overhead is added.
    Raises QuantityError.
    """
    requests = requests_together(containers_of(spec))
    if spec.resources is not None:
        requests |= _pod_level(spec.resources, requests)
    requests = total((requests, parse_all(spec.overhead)))
    requests[PODS] = 1
    return {name: requests[name] for name in sorted(requests) if requests[name] > 0}


def containers_of(spec: objects.PodSpec) -> tuple[ContainerShape, ...]:
    """All containers, those that start first in front. Raises QuantityError."""
    return (
        *(_container(c, SIDECAR if c.restart_policy == "Always" else INIT) for c in spec.init_containers),
        *(_container(c, "") for c in spec.containers),
    )


def _container(container: objects.Container, stage: str) -> ContainerShape:
    limits = container.resources.limits if container.resources is not None else {}
    return ContainerShape(container.name, _requests(container.resources), parse_all(limits), stage)


def requests_together(containers: Iterable[ContainerShape]) -> Resources:
    """What containers ask for together, in the order in which they start: the most at any moment."""
    running: Resources = {}
    peak: Resources = {}
    for container in containers:
        wanted = total((container.requests, running))
        if container.stage != INIT:
            running = wanted
        peak = largest(wanted, peak)
    return peak


def _requests(resources: objects.ResourceRequirements | None) -> Resources:
    """A container's requests; a limit stands in where no request is given."""
    if resources is None:
        return {}
    if not resources.limits:
        return parse_all(resources.requests)
    return parse_all({**resources.limits, **resources.requests})


def _pod_level(resources: objects.ResourceRequirements, of_containers: Resources) -> Resources:
    """Pod-level requests; a pod-level limit stands in only where no container asks for the resource either."""
    limits = {name: text for name, text in resources.limits.items() if name not in of_containers}
    return {name: n for name, n in parse_all({**limits, **resources.requests}).items() if _at_pod_level(name)}


def _at_pod_level(resource: str) -> bool:
    return resource in ("cpu", "memory") or resource.startswith("hugepages-")


# --- shapes ---------------------------------------------------------------------------------------------------------
def shape_of(pod: objects.Pod, *, keep: frozenset[str] = frozenset()) -> PodShape:
    """The pod's shape. `keep`: labels among UNIQUE_LABELS that some selector names. Changes `pod.spec`. Raises QuantityError."""
    count_held(pod)
    daemon = any(owner.controller and owner.kind == "DaemonSet" for owner in pod.metadata.owner_references)
    labels = _kept(pod.metadata.labels, pod.spec, keep)
    return _shape(pod.metadata.namespace, pod.metadata.name, labels, pod.spec, daemon=daemon)


def daemon_shape_of(namespace: str, template: objects.PodTemplate) -> PodShape:
    """The shape of a DaemonSet's pods, with the tolerations that its controller adds. Raises QuantityError."""
    spec = msgspec.structs.replace(template.spec)
    extra = [toleration for toleration in _DAEMON_TOLERATIONS if toleration not in spec.tolerations]
    if spec.host_network:
        extra.append(
            Toleration(
                key="node.kubernetes.io/network-unavailable", operator="Exists", effect=keys.NO_SCHEDULE
            )
        )
    spec.tolerations = (*spec.tolerations, *extra)
    return _shape(namespace, "", template.metadata.labels, spec, daemon=True)


def _shape(
    namespace: str, pod: str, labels: dict[str, str], spec: objects.PodSpec, *, daemon: bool
) -> PodShape:
    affinity = spec.affinity
    fixed = daemon or spec.resources is not None
    shape = PodShape(
        id="",
        namespace=namespace,
        labels=labels,
        requests=pod_requests(spec),
        node_selector=spec.node_selector,
        node_affinity=_node_affinity(affinity.node_affinity if affinity else None, daemon=daemon),
        pod_affinity=_some(affinity.pod_affinity if affinity else None),
        pod_anti_affinity=_some(affinity.pod_anti_affinity if affinity else None),
        tolerations=tuple(sorted(set(spec.tolerations), key=_encoder.encode)),
        topology_spread_constraints=spec.topology_spread_constraints,
        host_ports=_host_ports(spec),
        volume_claims=_volume_claims(pod, spec),
        priority=spec.priority or 0,
        scheduler_name=spec.scheduler_name or "default-scheduler",
        resource_claims=bool(spec.resource_claims),
        scheduling_gates=bool(spec.scheduling_gates),
        gang=_gang(labels, spec),
        preemption_policy=spec.preemption_policy,
        containers=() if fixed else containers_of(spec),
    )
    return msgspec.structs.replace(shape, id=shape_id(shape))


def shape_id(shape: PodShape) -> ShapeId:
    """The digest of a shape's content, whatever id it carries: 20 hexadecimal digits, equal in every process."""
    bare = msgspec.structs.replace(shape, id="") if shape.id else shape
    return blake2b(_canonical.encode(bare), digest_size=10).hexdigest()


def _kept(labels: dict[str, str], spec: objects.PodSpec, keep: frozenset[str]) -> dict[str, str]:
    unique = [key for key in labels if key in UNIQUE_LABELS and key not in keep]
    if not unique:
        return labels
    named = frozenset(_named_by_spec(spec))
    return {key: value for key, value in labels.items() if key not in unique or key in named}


def _node_affinity(affinity: NodeAffinity | None, *, daemon: bool) -> NodeAffinity | None:
    """A daemon pod is tied to its node by name (matchFields); that is no part of its shape."""
    if affinity is None or not (affinity.required or affinity.preferred):
        return None
    if not daemon or affinity.required is None:
        return affinity
    bare = tuple(
        term if not term.match_fields else msgspec.structs.replace(term, match_fields=())
        for term in affinity.required.node_selector_terms
    )
    required = NodeSelector(tuple(term for term in bare if term.match_expressions))
    kept = required if required.node_selector_terms else None
    return NodeAffinity(kept, affinity.preferred) if kept or affinity.preferred else None


def _some(affinity: PodAffinity | None) -> PodAffinity | None:
    return affinity if affinity is not None and (affinity.required or affinity.preferred) else None


def _host_ports(spec: objects.PodSpec) -> tuple[HostPort, ...]:
    sidecars = [container for container in spec.init_containers if container.restart_policy == "Always"]
    ports = {
        HostPort(port.host_port or port.container_port, port.protocol or "TCP", port.host_ip)
        for container in (*spec.containers, *sidecars)
        for port in container.ports
        if port.host_port or (spec.host_network and port.container_port)
    }
    return tuple(sorted(ports, key=lambda port: (port.port, port.protocol, port.host_ip)))


def _volume_claims(pod: str, spec: objects.PodSpec) -> tuple[str, ...]:
    claims = {
        volume.persistent_volume_claim.claim_name
        if volume.persistent_volume_claim
        else f"{pod}-{volume.name}"
        for volume in spec.volumes
        if volume.persistent_volume_claim is not None or volume.ephemeral is not None
    }
    return tuple(sorted(claims))


def _gang(labels: dict[str, str], spec: objects.PodSpec) -> str:
    if spec.scheduling_group is not None and spec.scheduling_group.pod_group_name:
        return spec.scheduling_group.pod_group_name
    if spec.workload_ref is not None:
        reference = spec.workload_ref
        return "/".join(filter(None, (reference.name, reference.pod_group, reference.pod_group_replica_key)))
    return next((labels[key] for key in _GANG_LABELS if labels.get(key)), "")


# --- which labels selectors name --------------------------------------------------------------------------------------
def named_by(selector: LabelSelector | None) -> Iterator[str]:
    """Label keys that a selector looks at."""
    if selector is not None:
        yield from selector.match_labels
        yield from (expression.key for expression in selector.match_expressions)


def named_by_shape(shape: PodShape) -> Iterator[str]:
    """Label keys of pods that the shape's affinity and spread terms look at."""
    for affinity in (shape.pod_affinity, shape.pod_anti_affinity):
        yield from _named_by_affinity(affinity)
    for constraint in shape.topology_spread_constraints:
        yield from named_by(constraint.label_selector)
        yield from constraint.match_label_keys


def _named_by_spec(spec: objects.PodSpec) -> Iterator[str]:
    if spec.affinity is not None:
        yield from _named_by_affinity(spec.affinity.pod_affinity)
        yield from _named_by_affinity(spec.affinity.pod_anti_affinity)
    for constraint in spec.topology_spread_constraints:
        yield from named_by(constraint.label_selector)
        yield from constraint.match_label_keys


def _named_by_affinity(affinity: PodAffinity | None) -> Iterator[str]:
    if affinity is None:
        return
    for term in (*affinity.required, *(weighted.pod_affinity_term for weighted in affinity.preferred)):
        yield from named_by(term.label_selector)
        yield from term.match_label_keys
        yield from term.mismatch_label_keys


class Shapes:
    """Remembers the shapes it made, so that the thousandth pod of a workload costs one encoding and a lookup."""

    def __init__(self) -> None:
        self._by_content: dict[bytes, PodShape] = {}
        self._by_id: dict[ShapeId, PodShape] = {}
        self._keep: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(self._by_id)

    def shape_of(self, pod: objects.Pod) -> PodShape:
        """The pod's shape, the same object for the same content. Blanks what is the pod's own in `pod.spec`; read
        that before. Raises QuantityError.
        """
        count_held(pod)
        spec, meta = pod.spec, pod.metadata
        spec.node_name = ""
        spec.termination_grace_period_seconds = None
        spec.volumes = tuple(v for v in spec.volumes if v.persistent_volume_claim or v.ephemeral is not None)
        own_name = meta.name if any(volume.ephemeral is not None for volume in spec.volumes) else ""
        daemon = any(owner.controller and owner.kind == "DaemonSet" for owner in meta.owner_references)
        if daemon and spec.affinity is not None:
            bare = _node_affinity(spec.affinity.node_affinity, daemon=True)
            spec.affinity = msgspec.structs.replace(spec.affinity, node_affinity=bare)
        labels = _kept(meta.labels, spec, self._keep)
        content = _encoder.encode((meta.namespace, own_name, labels, spec))
        digest = blake2b(content, digest_size=16).digest()
        known = self._by_content.get(digest)
        if known is None:
            made = _shape(meta.namespace, meta.name, labels, spec, daemon=daemon)
            known = self._by_content[digest] = self._by_id.setdefault(made.id, made)
        return known

    def keep(self, named: Iterable[str]) -> bool:
        """Says that selectors look at these label keys. True: shapes made so far may lack one, make them anew."""
        fresh = UNIQUE_LABELS.intersection(named) - self._keep
        if fresh:
            self._keep |= fresh
            self._by_content.clear()
        return bool(fresh)

    def forget(self, ids: Iterable[ShapeId]) -> None:
        """Drops shapes that no pod has any more."""
        gone = {shape for shape in ids if self._by_id.pop(shape, None) is not None}
        if gone:
            self._by_content = {
                content: shape for content, shape in self._by_content.items() if shape.id not in gone
            }

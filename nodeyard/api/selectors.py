"""Selectors and terms that pods and pools constrain nodes and other pods with, as frozen values.

Field names are Kubernetes' in snake_case; encoded they read as in the Kubernetes API (camelCase), so these structs
decode straight from manifests. Source: Kubernetes API reference, core/v1 `Affinity`, `Toleration`, `Taint`,
`TopologySpreadConstraint`, meta/v1 `LabelSelector`.
"""

import msgspec


class Value(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, gc=False):
    """Base of all values: frozen, compared by content, encoded in Kubernetes' spelling."""


class Requirement(Value, frozen=True):
    """One expression over a label: key, operator (In, NotIn, Exists, DoesNotExist, Gt, Lt, Gte, Lte) and values."""

    key: str
    operator: str
    values: tuple[str, ...] = ()
    min_values: int | None = None


class NodeSelectorTerm(Value, frozen=True):
    """ANDed expressions; `match_fields` is not supported for scheduling and reported."""

    match_expressions: tuple[Requirement, ...] = ()
    match_fields: tuple[Requirement, ...] = ()


class PreferredNodeTerm(Value, frozen=True):
    weight: int
    preference: NodeSelectorTerm


class NodeSelector(Value, frozen=True):
    node_selector_terms: tuple[NodeSelectorTerm, ...] = ()


class NodeAffinity(Value, frozen=True):
    required: NodeSelector | None = msgspec.field(
        default=None, name="requiredDuringSchedulingIgnoredDuringExecution"
    )
    preferred: tuple[PreferredNodeTerm, ...] = msgspec.field(
        default=(), name="preferredDuringSchedulingIgnoredDuringExecution"
    )


class LabelSelector(Value, frozen=True):
    """An empty selector matches everything; None (absent) matches nothing."""

    match_labels: dict[str, str] = {}
    match_expressions: tuple[Requirement, ...] = ()


class PodAffinityTerm(Value, frozen=True):
    topology_key: str
    label_selector: LabelSelector | None = None
    namespaces: tuple[str, ...] = ()
    namespace_selector: LabelSelector | None = None
    match_label_keys: tuple[str, ...] = ()
    mismatch_label_keys: tuple[str, ...] = ()


class WeightedPodAffinityTerm(Value, frozen=True):
    weight: int
    pod_affinity_term: PodAffinityTerm


class PodAffinity(Value, frozen=True):
    """Affinity or anti-affinity to other pods."""

    required: tuple[PodAffinityTerm, ...] = msgspec.field(
        default=(), name="requiredDuringSchedulingIgnoredDuringExecution"
    )
    preferred: tuple[WeightedPodAffinityTerm, ...] = msgspec.field(
        default=(), name="preferredDuringSchedulingIgnoredDuringExecution"
    )


class Affinity(Value, frozen=True):
    node_affinity: NodeAffinity | None = None
    pod_affinity: PodAffinity | None = None
    pod_anti_affinity: PodAffinity | None = None


class Toleration(Value, frozen=True):
    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""
    toleration_seconds: int | None = None


class Taint(Value, frozen=True):
    key: str
    effect: str
    value: str = ""


class TopologySpreadConstraint(Value, frozen=True):
    max_skew: int
    topology_key: str
    when_unsatisfiable: str
    label_selector: LabelSelector | None = None
    min_domains: int | None = None
    match_label_keys: tuple[str, ...] = ()
    node_affinity_policy: str = "Honor"
    node_taints_policy: str = "Ignore"


class HostPort(Value, frozen=True):
    port: int
    protocol: str = "TCP"
    host_ip: str = ""

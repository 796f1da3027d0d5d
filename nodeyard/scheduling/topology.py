"""Terms that look at other pods: topology spread, pod affinity and anti-affinity, each as one canonical value.

A `PodGroup` says who is counted (namespaces and selector), a `TopologyTerm` what is asked of the counts over the
domains of one key. Equal terms of different pods are equal values, so that each is counted once. Label keys to be
matched (`matchLabelKeys`) are folded into the selector from the pod's own labels. Sources: Kubernetes API reference,
`TopologySpreadConstraint`, `PodAffinityTerm`; kubernetes.io "Pod Topology Spread Constraints".
"""

import enum
from collections.abc import Callable, Iterable, Mapping, Sequence

from nodeyard.api import labels as keys
from nodeyard.api.pod import PodShape
from nodeyard.api.selectors import (
    LabelSelector,
    PodAffinityTerm,
    Requirement,
    TopologySpreadConstraint,
    Value,
)
from nodeyard.scheduling.requirements import canonical_key
from nodeyard.scheduling.selectors import labels_match, value_matches

SOFT_SPREAD_WEIGHT = 100
"""ScheduleAnyway has no weight of its own; a pod beyond the skew counts as one preference of full weight not kept."""


class TermKind(enum.StrEnum):
    SPREAD = "spread"
    AFFINITY = "affinity"
    ANTI_AFFINITY = "anti-affinity"


class PodGroup(Value, frozen=True):
    """Pods in the namespaces (None: all of them) that every expression matches; `expressions` sorted."""

    namespaces: tuple[str, ...] | None
    expressions: tuple[Requirement, ...] = ()
    nobody: bool = False

    def selects(self, namespace: str, labels: Mapping[str, str]) -> bool:
        if self.nobody or (self.namespaces is not None and namespace not in self.namespaces):
            return False
        return all(value_matches(e, labels.get(e.key)) for e in self.expressions)


class TopologyTerm(Value, frozen=True):
    """`soft`: a preference, worth `weight`. `honor_affinity`, `honor_taints`: which nodes' domains are counted."""

    kind: TermKind
    key: str
    group: PodGroup
    max_skew: int = 1
    min_domains: int = 1
    honor_affinity: bool = True
    honor_taints: bool = False
    soft: bool = False
    weight: int = 0

    @property
    def per_host(self) -> bool:
        return self.key == keys.HOSTNAME


NamespacesOf = Callable[[LabelSelector], tuple[str, ...] | None]
"""The namespaces a selector selects, sorted; None for all."""


def namespaces_by_label(known: Mapping[str, Mapping[str, str]]) -> NamespacesOf:
    """Select among known namespaces; each has its name as a label too. An empty selector selects all there can be."""

    def select(selector: LabelSelector) -> tuple[str, ...] | None:
        if not selector.match_labels and not selector.match_expressions:
            return None
        return tuple(
            sorted(n for n, own in known.items() if labels_match(selector, {**own, keys.NAMESPACE_NAME: n}))
        )

    return select


def group_of(
    selector: LabelSelector | None,
    namespaces: tuple[str, ...] | None,
    labels: Mapping[str, str],
    match_keys: Iterable[str] = (),
    mismatch_keys: Iterable[str] = (),
) -> PodGroup:
    """Canonical group of a selector, with the pod's own labels folded in for the keys to be matched."""
    if selector is None:
        return PodGroup(namespaces, nobody=True)
    parts = {Requirement(k, "In", (v,)) for k, v in selector.match_labels.items()}
    parts |= {
        Requirement(e.key, e.operator, tuple(sorted(set(e.values)))) for e in selector.match_expressions
    }
    parts |= {Requirement(k, "In", (labels[k],)) for k in match_keys if k in labels}
    parts |= {Requirement(k, "NotIn", (labels[k],)) for k in mismatch_keys if k in labels}
    return PodGroup(namespaces, tuple(sorted(parts, key=lambda e: (e.key, e.operator, e.values))))


def spread_term(constraint: TopologySpreadConstraint, shape: PodShape) -> TopologyTerm:
    return TopologyTerm(
        TermKind.SPREAD,
        canonical_key(constraint.topology_key),
        group_of(constraint.label_selector, (shape.namespace,), shape.labels, constraint.match_label_keys),
        max_skew=constraint.max_skew,
        min_domains=constraint.min_domains or 1,
        honor_affinity=constraint.node_affinity_policy != "Ignore",
        honor_taints=constraint.node_taints_policy == "Honor",
        soft=constraint.when_unsatisfiable == "ScheduleAnyway",
        weight=SOFT_SPREAD_WEIGHT if constraint.when_unsatisfiable == "ScheduleAnyway" else 0,
    )


def affinity_term(
    term: PodAffinityTerm,
    shape: PodShape,
    kind: TermKind,
    namespaces_of: NamespacesOf,
    *,
    weight: int = 0,
) -> TopologyTerm:
    """A pod (anti-)affinity term; `weight` above zero makes it a preference."""
    group = group_of(
        term.label_selector,
        _term_namespaces(term, shape.namespace, namespaces_of),
        shape.labels,
        term.match_label_keys,
        term.mismatch_label_keys,
    )
    return TopologyTerm(kind, canonical_key(term.topology_key), group, soft=weight > 0, weight=weight)


def _term_namespaces(term: PodAffinityTerm, own: str, namespaces_of: NamespacesOf) -> tuple[str, ...] | None:
    if term.namespace_selector is None:
        return tuple(sorted(set(term.namespaces))) or (own,)
    chosen = namespaces_of(term.namespace_selector)
    return None if chosen is None else tuple(sorted({*chosen, *term.namespaces}))


def _together(terms: Sequence[TopologyTerm]) -> list[TopologyTerm]:
    """Required affinity terms of one pod count only pods that match all of them, as the kube-scheduler's filter does."""
    if len({t.group for t in terms}) < 2:
        return list(terms)
    group = terms[0].group
    for term in terms[1:]:
        group = _both(group, term.group)
    return [TopologyTerm(t.kind, t.key, group, soft=t.soft, weight=t.weight) for t in terms]


def _both(one: PodGroup, other: PodGroup) -> PodGroup:
    """The pods that are in both groups."""
    spaces = one.namespaces
    if spaces is None:
        spaces = other.namespaces
    elif other.namespaces is not None:
        spaces = tuple(n for n in spaces if n in other.namespaces)
    parts = {*one.expressions, *other.expressions}
    ordered = tuple(sorted(parts, key=lambda e: (e.key, e.operator, e.values)))
    return PodGroup(spaces, ordered, one.nobody or other.nobody)


def terms_of(
    shape: PodShape, namespaces_of: NamespacesOf, default_spread: Iterable[TopologySpreadConstraint] = ()
) -> tuple[TopologyTerm, ...]:
    """Every term of a pod, required ones first; `default_spread` stands in where it has no spread of its own."""
    out: list[TopologyTerm] = []
    if shape.pod_affinity is not None:
        required = [
            affinity_term(term, shape, TermKind.AFFINITY, namespaces_of)
            for term in shape.pod_affinity.required
        ]
        out += _together(required)
    if shape.pod_anti_affinity is not None:
        for term in shape.pod_anti_affinity.required:
            out.append(affinity_term(term, shape, TermKind.ANTI_AFFINITY, namespaces_of))
    for constraint in shape.topology_spread_constraints or default_spread:
        out.append(spread_term(constraint, shape))
    if shape.pod_affinity is not None:
        for weighted in shape.pod_affinity.preferred:
            out.append(
                affinity_term(
                    weighted.pod_affinity_term,
                    shape,
                    TermKind.AFFINITY,
                    namespaces_of,
                    weight=weighted.weight,
                )
            )
    if shape.pod_anti_affinity is not None:
        for weighted in shape.pod_anti_affinity.preferred:
            out.append(
                affinity_term(
                    weighted.pod_affinity_term,
                    shape,
                    TermKind.ANTI_AFFINITY,
                    namespaces_of,
                    weight=weighted.weight,
                )
            )
    return tuple(sorted(dict.fromkeys(out), key=lambda t: t.soft))

"""Pods grouped into classes: those that every constraint treats alike are planned as one thing with a count.

Shapes that differ only in labels that no selector mentions fall together. A class knows its request, its node rule,
the terms it carries, and the terms whose groups count it. What makes a pod impossible by itself (a volume claim that
can't be used, a field that is not supported) is a refusal here, before any planning. Neighbours: `scheduling.topology`
has the terms, `columns` and `hosts` are what classes are matched with.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from nodeyard.api import labels as keys
from nodeyard.api.cluster import DaemonSet
from nodeyard.api.pod import PodKey, PodRecord, PodShape
from nodeyard.api.quantity import CPU, MEMORY, PODS
from nodeyard.api.selectors import (
    HostPort,
    NodeSelector,
    NodeSelectorTerm,
    PreferredNodeTerm,
    Toleration,
    TopologySpreadConstraint,
)
from nodeyard.provisioning.labelled import Bools, Floats, Ints, NodeRule
from nodeyard.provisioning.model import Problem, Reason
from nodeyard.scheduling.default_spread import DefaultSpread
from nodeyard.scheduling.requirements import RequirementError, canonical_key, states_of
from nodeyard.scheduling.topology import (
    NamespacesOf,
    PodGroup,
    TermKind,
    TopologyTerm,
    namespaces_by_label,
    terms_of,
)
from nodeyard.scheduling.volumes import VolumeProblem, volume_needs

Tag = tuple[str, tuple[tuple[str, str], ...]]
"""Namespace and the labels that some selector mentions."""


ANY_TAINT = (Toleration(operator="Exists"),)


@dataclass(slots=True)
class Bare:
    """One shape as planning sees it, before classes are formed."""

    shape: PodShape
    rule: NodeRule
    terms: tuple[TopologyTerm, ...] = ()
    attachments: tuple[tuple[str, str], ...] = ()
    unbound: tuple[str, ...] = ()
    preferred: tuple[PreferredNodeTerm, ...] = ()
    numbers: tuple[int, ...] = ()
    """Of its terms, once all are known."""


@dataclass(slots=True)
class PodClass:
    """`carried`, `soft` and `matched` are numbers of terms; `matched` are those whose group counts these pods."""

    number: int
    shape: PodShape
    pods: list[PodKey]
    request: Floats
    rule: NodeRule
    tag: Tag
    carried: tuple[int, ...] = ()
    soft: tuple[int, ...] = ()
    matched: tuple[int, ...] = ()
    preferred: tuple[PreferredNodeTerm, ...] = ()
    ports: tuple[HostPort, ...] = ()
    attachments: tuple[tuple[str, str], ...] = ()
    unbound: tuple[str, ...] = ()
    priority: int = 0
    workload: str = ""

    @property
    def demand(self) -> int:
        return len(self.pods)


@dataclass(slots=True)
class Classes:
    """All classes of a problem, the terms they and standing pods bring, and the pods refused at once."""

    resources: list[str]
    classes: list[PodClass] = field(default_factory=list)
    terms: list[TopologyTerm] = field(default_factory=list)
    counted: list[NodeRule | None] = field(default_factory=list)
    """Per term: the rule a node must keep for its pods to be counted; None: every node counts."""
    refused: list[tuple[PodKey, Reason, str]] = field(default_factory=list)
    mentioned: dict[str, frozenset[str] | None] = field(default_factory=dict)
    label_keys: frozenset[str] = frozenset()
    standing_terms: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Shape id of standing pods -> anti-affinity terms they carry."""
    namespaces_of: NamespacesOf | None = None

    def tag(self, shape: PodShape) -> Tag:
        return tag_of(shape, self.label_keys)

    def matching(self, tags: Sequence[Tag]) -> Bools:
        """[term, tag]: whether the term's group selects pods with the tag."""
        out = np.zeros((len(self.terms), len(tags)), np.bool_)
        groups: dict[PodGroup, Bools] = {}
        plain = [(ns, dict(labels)) for ns, labels in tags]
        for number, term in enumerate(self.terms):
            row = groups.get(term.group)
            if row is None:
                row = np.fromiter((term.group.selects(ns, own) for ns, own in plain), np.bool_, len(tags))
                groups[term.group] = row
            out[number] = row
        return out


def tag_of(shape: PodShape, label_keys: frozenset[str]) -> Tag:
    if not label_keys:
        return "", ()
    return shape.namespace, tuple(sorted((k, v) for k, v in shape.labels.items() if k in label_keys))


def classes_of(
    problem: Problem,
    shapes_standing: Iterable[str],
    default_spread: Sequence[TopologySpreadConstraint] = (),
    daemons: Sequence[DaemonSet] = (),
    *,
    soft: bool = True,
    by_workload: bool = False,
) -> Classes:
    """Group the problem's pods. `shapes_standing`: ids of the shapes of pods that stay where they are.
    `daemons`: those that nodes will get. `soft`: look at preferences too. `by_workload`: keep the pods of different owners apart.
    """
    snapshot = problem.snapshot
    by_shape: dict[tuple[str, str], list[PodKey]] = {}
    pods = snapshot.pods
    out = Classes(resources=[])
    for key in problem.pods:
        record = pods[key]
        group = (snapshot.successor(record), workload_of(record) if by_workload else "")
        by_shape.setdefault(group, []).append(key)
    known = {name: n.labels for name, n in snapshot.namespaces.items()}
    used = {s.namespace for s in snapshot.shapes.values()}
    namespaces_of = namespaces_by_label({**{n: {} for n in used}, **known})
    out.namespaces_of = namespaces_of
    default = DefaultSpread(default_spread, snapshot.selecting)
    bare: dict[tuple[str, str], Bare] = {}
    for group, members in by_shape.items():
        shape = snapshot.shapes[group[0]]
        refusal = _impossible(shape)
        first = pods[members[0]]
        spread = default.of(shape, first.owner_kind, first.owner_name)
        made = _bare(problem, shape, namespaces_of, spread, soft) if refusal is None else refusal
        if isinstance(made, Bare):
            bare[group] = made
        else:
            out.refused += [(key, *made) for key in members]
    _number_terms(out, problem, bare.values(), set(shapes_standing), daemons, namespaces_of)
    out.resources = _resources(problem, [b.shape for b in bare.values()])
    _form(out, problem, by_shape, bare)
    out.mentioned = _mentioned(out)
    return out


def workload_of(record: PodRecord) -> str:
    """What a pod is a replica of: its owner, or for want of one its shape."""
    return record.owner_uid or f"{record.owner_kind}/{record.owner_name or record.shape}"


def _impossible(shape: PodShape) -> tuple[Reason, str] | None:
    """Why a pod of this shape can't be planned at all."""
    if shape.resource_claims:
        return Reason.UNSUPPORTED, "asks for devices by resource claims, which are not supported"
    if shape.scheduling_gates:
        return Reason.UNSUPPORTED, "is held back by scheduling gates"
    terms: list[NodeSelectorTerm] = []
    if shape.node_affinity is not None and shape.node_affinity.required is not None:
        terms += shape.node_affinity.required.node_selector_terms
    if any(t.match_fields for t in terms):
        return Reason.UNSUPPORTED, "matchFields in node affinity is not supported"
    try:
        for term in terms:
            for expression in term.match_expressions:
                states_of(expression)
    except RequirementError as error:
        return Reason.INVALID, f"node affinity: {error}"
    bad = next((r for r, a in shape.requests.items() if a < 0), None)
    return (Reason.INVALID, f"requests a negative amount of {bad}") if bad else None


def _bare(
    problem: Problem,
    shape: PodShape,
    namespaces_of: NamespacesOf,
    default_spread: Sequence[TopologySpreadConstraint],
    soft: bool,
) -> Bare | tuple[Reason, str]:
    snapshot = problem.snapshot
    rule = rule_of(shape)
    attachments: tuple[tuple[str, str], ...] = ()
    unbound: tuple[str, ...] = ()
    if shape.volume_claims:
        needs = volume_needs(
            shape.namespace, shape.volume_claims, snapshot.pvcs, snapshot.pvs, snapshot.storage_classes
        )
        if isinstance(needs, VolumeProblem):
            return Reason.VOLUME_INVALID, needs.message
        rule = NodeRule(rule.selector, rule.required, rule.tolerations, needs.reach)
        attachments, unbound = needs.attachments, needs.unbound
    terms = terms_of(shape, namespaces_of, default_spread)
    if not soft:
        terms = tuple(t for t in terms if not t.soft)
    preferred = shape.node_affinity.preferred if soft and shape.node_affinity is not None else ()
    return Bare(shape, rule, terms, attachments, unbound, preferred)


def rule_of(shape: PodShape) -> NodeRule:
    """The node rule of a shape, volumes aside."""
    required: NodeSelector | None = shape.node_affinity.required if shape.node_affinity else None
    return NodeRule(tuple(sorted(shape.node_selector.items())), required, shape.tolerations)


def counted_by(term: TopologyTerm, rule: NodeRule) -> NodeRule | None:
    """Whose pods a spread term counts: those on nodes its pod's affinity (and taints, if it says so) would allow."""
    if term.kind is not TermKind.SPREAD or term.per_host:
        return None
    selector, required = (rule.selector, rule.required) if term.honor_affinity else ((), None)
    tolerations = rule.tolerations if term.honor_taints else ANY_TAINT
    if not selector and required is None and tolerations == ANY_TAINT:
        return None
    return NodeRule(selector, required, tolerations)


def _number_terms(
    out: Classes,
    problem: Problem,
    bare: Iterable[Bare],
    standing: set[str],
    daemons: Sequence[DaemonSet],
    namespaces_of: NamespacesOf,
) -> None:
    """Give every term a number; standing pods bring the anti-affinity that newcomers must keep away from."""
    numbers: dict[tuple[TopologyTerm, NodeRule | None], int] = {}
    for one in bare:
        pairs = [(term, counted_by(term, one.rule)) for term in one.terms]
        one.numbers = tuple([numbers.setdefault(pair, len(numbers)) for pair in pairs])
    inverse = [problem.snapshot.shapes[i] for i in standing] + [d.shape for d in daemons]
    for shape in inverse:
        if shape.pod_anti_affinity is None or not shape.pod_anti_affinity.required:
            continue
        mine = [t for t in terms_of(shape, namespaces_of) if t.kind is TermKind.ANTI_AFFINITY and not t.soft]
        out.standing_terms[shape.id] = tuple(numbers.setdefault((t, None), len(numbers)) for t in mine)
    out.terms = [term for term, _ in numbers]
    out.counted = [rule for _, rule in numbers]
    out.label_keys = frozenset(e.key for t in out.terms for e in t.group.expressions)
    if out.terms and not out.label_keys:
        out.label_keys = frozenset({""})  # namespaces alone tell pods apart


def _resources(problem: Problem, shapes: Iterable[PodShape]) -> list[str]:
    """Resources that matter: what pods ask for, the usual three first."""
    asked = {r for s in shapes for r, a in s.requests.items() if a > 0}
    limited = {r for p in problem.snapshot.pools.values() for r in p.limits if r != "nodes"}
    first = [CPU, MEMORY, PODS]
    return first + sorted((asked | limited) - set(first))


def _form(
    out: Classes,
    problem: Problem,
    by_shape: Mapping[tuple[str, str], list[PodKey]],
    bare: Mapping[tuple[str, str], Bare],
) -> None:
    found: dict[object, PodClass] = {}
    limits = any(p.limits for p in problem.snapshot.pools.values())
    for group, one in bare.items():
        shape = one.shape
        tag = out.tag(shape)
        requests = tuple(shape.requests.get(r, 0) for r in out.resources)
        terms, priority = one.numbers, shape.priority
        identity = (
            tag, requests, one.rule, terms, one.preferred, shape.host_ports, one.attachments,
            one.unbound, priority if limits else 0, group[1],
        )  # fmt: skip
        known = found.get(identity)
        if known is not None:
            known.pods += by_shape[group]
            continue
        found[identity] = PodClass(
            len(found), shape, list(by_shape[group]), np.array(requests, np.float64), one.rule, tag,
            carried=tuple(n for n in terms if not out.terms[n].soft),
            soft=tuple(n for n in terms if out.terms[n].soft),
            preferred=one.preferred, ports=shape.host_ports, attachments=one.attachments,
            unbound=one.unbound, priority=priority, workload=group[1],
        )  # fmt: skip
    out.classes = list(found.values())
    if out.terms:
        tags = list(dict.fromkeys(c.tag for c in out.classes))
        index = {t: i for i, t in enumerate(tags)}
        matching = out.matching(tags)
        by_tag = [tuple(int(n) for n in np.nonzero(matching[:, i])[0]) for i in range(len(tags))]
        for one_class in out.classes:
            one_class.matched = by_tag[index[one_class.tag]]


def _mentioned(out: Classes) -> dict[str, frozenset[str] | None]:
    """Label keys that classes name, with the values they name; None where every value tells nodes apart."""
    values: dict[str, set[str]] = {}
    rules = {c.rule for c in out.classes}
    expressions = {e for r in rules for e in r.expressions}
    expressions |= {e for c in out.classes for p in c.preferred for e in p.preference.match_expressions}
    for expression in expressions:
        values.setdefault(canonical_key(expression.key), set()).update(expression.values)
    found: dict[str, frozenset[str] | None] = {k: frozenset(v) for k, v in values.items()}
    for term in out.terms:
        if term.key != keys.HOSTNAME:
            found[term.key] = None
    return found


def order_of(classes: Sequence[PodClass], weight: Floats) -> Ints:
    """Largest first by weighted request, higher priority before everything else."""
    size = np.array([float(c.request @ weight) for c in classes])
    priority = np.array([c.priority for c in classes], np.float64)
    order: Ints = np.lexsort((-size, -priority))
    return order

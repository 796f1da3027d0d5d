"""The cluster compiled for the first look, kept from pass to pass: only nodes that changed are compiled again.

`Resident` holds a row per node: how many more pods of each *kind* (a node rule and a request) it would take beside all that it
has, and what it has, by class. A row stays while the node, its claim, its pods and whether it is open are the very same;
totals follow by difference. Classes are made anew when a shape comes or goes, columns when pools, prices or what pods name
do. `provisioning.compiling` compiles the parts. Neighbours: `screening` asks.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import is_
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from nodeyard.api.cluster import DaemonSet
from nodeyard.api.node import Node, NodeClaim
from nodeyard.api.pod import PodKey, PodRecord
from nodeyard.api.quantity import Resources
from nodeyard.api.selectors import Taint
from nodeyard.disruption.model import Candidate
from nodeyard.provisioning.claims import planned_pods_of
from nodeyard.provisioning.classes import Classes, PodClass
from nodeyard.provisioning.columns import Columns
from nodeyard.provisioning.compiling import (
    compiled_classes,
    compiled_columns,
    compiled_hosts,
    usable_pools,
)
from nodeyard.provisioning.daemons import daemons_of
from nodeyard.provisioning.field import Rules
from nodeyard.provisioning.hosts import Host, Hosts, hosts_of_claims, hosts_of_nodes, settle_claims
from nodeyard.provisioning.labelled import Bools, Floats, Ints, LabelColumn, NodeRule, coded
from nodeyard.provisioning.model import Options, Problem
from nodeyard.scheduling.topology import TermKind, TopologyTerm
from nodeyard.state.cluster import Snapshot

Shorts = NDArray[np.int16]
_MOST: Final = np.iinfo(np.int16).max
_PART: Final = 65_536
"""Pairs of node and kind that are compared at once, so that it stays in the processor's cache."""
_NOBODY: Final[frozenset[PodKey]] = frozenset()
_SPARE_KINDS: Final = 64
_NO_ROWS: Final = np.zeros(0, np.int64)


@dataclass(slots=True)
class _Row:
    """One node. What it was compiled from, and what does not fit into arrays."""

    node: Node
    claim: NodeClaim | None
    keys: frozenset[PodKey]
    records: tuple[PodRecord, ...]
    closed: bool
    planned: frozenset[PodKey]
    awaits: bool
    """Whether pods that are promised to it were counted."""
    standing: frozenset[str] = frozenset()
    moving: Mapping[str, int] = field(default_factory=dict)
    pool: str = ""
    capacity: Resources = field(default_factory=dict)
    taints: tuple[Taint, ...] = ()
    held: tuple[Ints, Ints] = (_NO_ROWS, _NO_ROWS)


class Resident:
    """One cluster's nodes. Not thread-safe. Arrays that are by node follow `names`, which are sorted.

    `takes`: [kind, node], how many more pods; `total`: [kind], of all nodes. `kind_of`, `request`: by class.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.at: dict[str, int] = {}
        self.classes = Classes(resources=[])
        self.columns = Columns((), (), {}, 0.0)
        self.class_of: dict[str, int] = {}
        """Shape -> class; shapes whose pods can't be planned have none."""
        self.request: Floats = np.zeros((0, 0))
        self.buyer_of: Ints = _NO_ROWS
        """By class: which of `buyers` ([buyer, column]: whether they may use it, room aside) its pods are."""
        self.buyers: Bools = np.zeros((0, 0), np.bool_)
        self.far: Bools = np.zeros(0, np.bool_)
        """By class: whether terms that bind its pods count others beyond the node."""
        self.kind_of: Ints = _NO_ROWS
        self.takes: Shorts = np.zeros((0, 0), np.int16)
        self.total: Ints = _NO_ROWS
        self.alone: list[Host] = []
        """Claims that have no node yet."""
        self.stood: frozenset[str] = frozenset()
        """Shapes of all pods on nodes."""
        self.counting: dict[int, frozenset[str]] = {}
        """Term -> shapes of those that it counts or that carry it, as far as it was asked for."""
        self.compiled = 0
        """Nodes that the last look compiled."""
        self._rows: dict[str, _Row] = {}
        self._moving: Counter[str] = Counter()
        self._standing: Counter[str] = Counter()
        self._successors: Mapping[PodKey, str] = {}
        self._ground: tuple[object, ...] = ()
        """What classes were made from; `_sold`: what columns were; `_measured`: what rows were, beside nodes."""
        self._sold: tuple[object, ...] = ()
        self._measured: tuple[object, ...] = ()
        self._rules: dict[NodeRule, int] = {}
        self._kinds: dict[tuple[int, bytes], int] = {}
        self._asked: Floats = np.zeros((0, 0))
        """[kind, resource]."""
        self._rule_of: Ints = _NO_ROWS
        self._room: Floats = np.zeros((0, 0))
        self._admits: Bools = np.zeros((0, 0), np.bool_)

    def held(self, node: str) -> tuple[Ints, Ints] | None:
        """(classes, how many pods of each) that would have to move from a node; None where it is not there."""
        row = self._rows.get(node)
        return None if row is None else row.held

    def standing(self) -> Iterator[tuple[str, frozenset[str]]]:
        """(node, shapes of the pods that are there or promised to it)."""
        return ((name, self._rows[name].standing) for name in self.names)

    def labels(self, key: str) -> LabelColumn:
        """A label of all nodes."""
        return coded([self._rows[name].node.labels.get(key) for name in self.names])

    def tolerated(self, rule: NodeRule) -> Bools:
        """Nodes among whose lasting taints a pod with this rule may land."""
        return np.fromiter(
            (rule.endures(self._rows[n].taints) for n in self.names), np.bool_, len(self.names)
        )

    def hosts(self) -> Iterable[tuple[str, str, Resources]]:
        """(name, pool, capacity) of all nodes and claims."""
        yield from ((row.node.name, row.pool, row.capacity) for row in self._rows.values())
        yield from ((host.name, host.pool, host.capacity) for host in self.alone)

    def follow(self, problem: Problem, options: Options, found: Sequence[Candidate], terms: object) -> None:
        """Takes over the cluster as it is now. `problem`: nobody to move; `terms`: another object where pools, prices,
        volumes or namespaces are others than last time.
        """
        cluster = problem.snapshot
        stale = self._stale(problem)
        promised: set[PodKey] = set()
        raw = hosts_of_nodes(problem, (cluster.nodes[name] for name in stale), promised)
        self._renew(problem, raw, {c.node: c for c in found})
        self.alone = hosts_of_claims(problem, promised)
        daemons = daemons_of(cluster)
        renumbered = self._classify(problem, options, daemons, found, terms)
        if renumbered or self.stood != self._standing.keys():
            self.stood, self.counting = frozenset(self._standing), {}
        settle_claims(problem, self.alone, self.columns)
        if renumbered and self._enroll(daemons):
            raw = hosts_of_nodes(problem, cluster.nodes.values(), set())
        self._fill(compiled_hosts(problem, raw, self.classes.resources, daemons))
        for row in self._rows.values() if renumbered else (self._rows[host.name] for host in raw):
            row.held = self._by_class(row.moving)

    # --- which nodes changed ----------------------------------------------------------------------------------------
    def _stale(self, problem: Problem) -> list[str]:
        """Nodes to compile, in the snapshot's order; rows of nodes that are gone go."""
        cluster = problem.snapshot
        waiting = {key for key, pod in cluster.pods.items() if not (pod.node or pod.finished)}
        others = self._otherwise(cluster)
        names = sorted(cluster.nodes.keys() - problem.without_nodes)
        if names != self.names:
            self._arrange(names)
        return [
            name for name, node in cluster.nodes.items()
            if name in self.at and (name in others or not self._same(problem, node, waiting))
        ]  # fmt: skip

    def _otherwise(self, cluster: Snapshot) -> set[str]:
        """Nodes with pods that would come back as others than last time."""
        before, self._successors = self._successors, cluster.successors
        if before is cluster.successors:
            return set()
        changed = {key for key, _ in before.items() ^ cluster.successors.items()}
        return {pod.node for key in changed if (pod := cluster.pods.get(key)) is not None}

    def _same(self, problem: Problem, node: Node, waiting: set[PodKey]) -> bool:
        """Whether the node's row still holds. Pods that are promised to a node count there, and may come and go."""
        row, cluster = self._rows.get(node.name), problem.snapshot
        return (
            row is not None
            and row.node is node
            and row.claim is cluster.claim_of(node)
            and row.keys is cluster.pods_on.get(node.name, _NOBODY)
            and row.closed is (node.name in problem.closed_nodes)
            and not row.awaits
            and (not waiting or row.planned.isdisjoint(waiting))
            and all(map(is_, row.records, map(cluster.pods.__getitem__, row.keys)))
        )

    def _arrange(self, names: list[str]) -> None:
        """Rows for these nodes: those there were keep what they have."""
        before = self.at
        self.names, self.at = names, {name: i for i, name in enumerate(names)}
        for name in before.keys() - self.at.keys():
            self._count(self._rows.pop(name, None), None)
            self.total = self.total - self.takes[:, before[name]]
        kept = [(i, before[name]) for i, name in enumerate(names) if name in before]
        to, source = np.array(kept, np.int64).reshape(-1, 2).T
        self.takes = np.ascontiguousarray(_moved(self.takes.T, to, source, len(names)).T)
        self._room = _moved(self._room, to, source, len(names))
        self._admits = _moved(self._admits, to, source, len(names))

    def _renew(self, problem: Problem, raw: Iterable[Host], found: Mapping[str, Candidate]) -> None:
        """New rows for nodes that changed."""
        cluster = problem.snapshot
        for host in raw:
            node = cluster.nodes[host.name]
            keys, claim = cluster.pods_on.get(host.name, _NOBODY), cluster.claim_of(node)
            candidate = found.get(host.name)
            row = _Row(
                node, claim, keys, tuple(map(cluster.pods.__getitem__, keys)), host.name in problem.closed_nodes,
                frozenset(planned_pods_of(claim)) if claim is not None else _NOBODY,
                any(not pod.node for pod in host.pods),
                frozenset(pod.shape for pod in host.pods),
                Counter(map(cluster.successor, map(cluster.pods.__getitem__, candidate.pods))) if candidate else {},
                host.pool, host.capacity, host.taints,
            )  # fmt: skip
            self._count(self._rows.get(host.name), row)
            self._rows[host.name] = row

    def _count(self, before: _Row | None, now: _Row | None) -> None:
        for counter, kind in ((self._moving, "moving"), (self._standing, "standing")):
            for row, sign in ((now, 1), (before, -1)):
                for shape in getattr(row, kind, ()):
                    counter[shape] += sign
                    if not counter[shape]:
                        del counter[shape]

    # --- classes, columns and kinds ---------------------------------------------------------------------------------
    def _classify(
        self, problem: Problem, options: Options, daemons: tuple[DaemonSet, ...], found: Sequence[Candidate],
        terms: object,
    ) -> bool:  # fmt: skip
        """Makes classes and columns anew where something they hang on is another; whether it was."""
        cluster = problem.snapshot
        standing = {*self._standing, *(pod.shape for host in self.alone for pod in host.pods)}
        against = frozenset(id_ for id_ in standing if cluster.shapes[id_].pod_anti_affinity is not None)
        spaces = frozenset(shape.namespace for shape in cluster.shapes.values())
        owners = self._owners(cluster, found) if options.default_spread else ()
        ground = (frozenset(self._moving), against, spaces, owners, daemons, options, terms)
        if ground == self._ground:
            return False
        self._ground = ground
        samples = tuple(sorted(_samples(cluster, self._within(found)).values()))
        problem = msgspec.structs.replace(problem, pods=samples)
        self.classes = compiled_classes(problem, options, against, daemons)
        sold = (self.classes.resources, self.classes.mentioned, daemons, options, terms)
        if sold != self._sold:
            self._sold = sold
            pools, _ = usable_pools(problem)
            self.columns = compiled_columns(problem, options, pools, self.classes, daemons)
        classes = self.classes.classes
        self.class_of = {cluster.successor(cluster.pods[key]): c.number for c in classes for key in c.pods}
        self.request = np.array([c.request for c in classes]).reshape(
            len(classes), len(self.classes.resources)
        )
        rules = Rules(self.columns, Hosts((), self.classes.resources))
        self.buyer_of, self.buyers = _alike([rules.on_columns(c) for c in classes], self.columns.count)
        self.far = np.array([_looks_far(self.classes, c) for c in classes], np.bool_)
        return True

    def _within(self, found: Iterable[Candidate]) -> Iterable[Candidate]:
        return (candidate for candidate in found if candidate.node in self._rows)

    def _owners(self, cluster: Snapshot, found: Sequence[Candidate]) -> tuple[object, ...]:
        """Whose pods stand for the shapes: default constraints select by that."""
        samples = _samples(cluster, self._within(found))
        return tuple(
            (shape, cluster.pods[key].owner_kind, cluster.pods[key].owner_name)
            for shape, key in sorted(samples.items())
        )

    def _enroll(self, daemons: tuple[DaemonSet, ...]) -> bool:
        """A row of `takes` for each kind of pod; whether all nodes have to be compiled for it."""
        measured = (self.classes.resources, daemons)
        many = len(self._kinds) > 2 * len(self.classes.classes) + _SPARE_KINDS
        new_rule = any(c.rule not in self._rules for c in self.classes.classes)
        again = measured != self._measured or many or new_rule
        if again:
            self._measured, self._rules, self._kinds = measured, {}, {}
        known = len(self._kinds)
        kinds = []
        for one in self.classes.classes:
            rule = self._rules.setdefault(one.rule, len(self._rules))
            kinds.append(self._kinds.setdefault((rule, one.request.tobytes()), len(self._kinds)))
        self.kind_of = np.array(kinds, np.int64)
        self._rule_of = np.array([rule for rule, _ in self._kinds], np.int64)
        asked = [np.frombuffer(request) for _, request in self._kinds]
        self._asked = np.array(asked).reshape(len(asked), len(self.classes.resources))
        if again:
            self._blank()
            return True
        if len(self._kinds) > known:
            more = _fits(self._room, self._admits, self._rule_of[known:], self._asked[known:])
            self.takes = np.concatenate([self.takes, more])
            self.total = np.concatenate([self.total, more.sum(axis=1, dtype=np.int64)])
        return False

    def _blank(self) -> None:
        nodes = len(self.names)
        self._room = np.zeros((nodes, len(self.classes.resources)))
        self._admits = np.zeros((nodes, len(self._rules)), np.bool_)
        self.takes = np.zeros((len(self._kinds), nodes), np.int16)
        self.total = np.zeros(len(self._kinds), np.int64)

    # --- rows -------------------------------------------------------------------------------------------------------
    def _fill(self, hosts: Hosts) -> None:
        """The arrays' rows of these nodes."""
        self.compiled = hosts.count
        if not hosts.count:
            return
        at = np.array([self.at[host.name] for host in hosts.hosts], np.int64)
        admits = np.array([hosts.admitted(rule) for rule in self._rules], np.bool_)
        self._room[at] = hosts.room
        self._admits[at] = admits.reshape(len(self._rules), hosts.count).T
        takes = _fits(self._room[at], self._admits[at], self._rule_of, self._asked)
        self.total += takes.sum(axis=1, dtype=np.int64) - self.takes[:, at].sum(axis=1, dtype=np.int64)
        self.takes[:, at] = takes

    def _by_class(self, moving: Mapping[str, int]) -> tuple[Ints, Ints]:
        """Counts by class of counts by shape; pods that can't be planned at all are left out."""
        found: dict[int, int] = {}
        for shape, many in moving.items():
            if (number := self.class_of.get(shape)) is not None:
                found[number] = found.get(number, 0) + many
        numbers = sorted(found)
        return np.array(numbers, np.int64), np.array([found[n] for n in numbers], np.int64)


def _alike(masks: Sequence[Bools], columns: int) -> tuple[Ints, Bools]:
    """(which distinct mask each is, the distinct ones)."""
    seen: dict[bytes, int] = {}
    which = np.array([seen.setdefault(mask.tobytes(), len(seen)) for mask in masks], np.int64)
    distinct = [np.frombuffer(mask, np.bool_) for mask in seen]
    return which, np.array(distinct, np.bool_).reshape(len(seen), columns)


def looks_far(term: TopologyTerm) -> bool:
    """Whether a term that binds a pod counts others beyond its node."""
    return not term.per_host or term.kind is TermKind.AFFINITY


def keeps_away(term: TopologyTerm) -> bool:
    """Whether a term that counts a pod may be others' against it, beyond their node."""
    return term.kind is TermKind.ANTI_AFFINITY and not term.soft and not term.per_host


def _looks_far(classes: Classes, one: PodClass) -> bool:
    """Whether terms that bind the class, or that others have against it, count pods beyond the node."""
    bound = any(looks_far(classes.terms[n]) for n in one.carried)
    return bound or any(keeps_away(classes.terms[n]) for n in one.matched)


def _samples(cluster: Snapshot, found: Iterable[Candidate]) -> dict[str, PodKey]:
    """The first pod of each shape that would have to move."""
    first: dict[str, PodKey] = {}
    for candidate in found:
        for key in candidate.pods:
            shape = cluster.successor(cluster.pods[key])
            if shape not in first or key < first[shape]:
                first[shape] = key
    return first


def _moved(array: NDArray[Any], to: Ints, source: Ints, count: int) -> NDArray[Any]:
    """An array with so many rows, of which some are another's."""
    out = np.zeros((count, *array.shape[1:]), array.dtype)
    out[to] = array[source]
    return out


def _fits(room: Floats, admits: Bools, rule_of: Ints, asked: Floats) -> Shorts:
    """[kind, node]: how many pods there is room for. `admits`: [node, rule]."""
    out = np.zeros((len(asked), len(room)), np.int16)
    step = max(1, _PART // max(len(room), 1))
    for start in range(0, len(asked), step):
        part = slice(start, start + step)
        fit = np.full(out[part].shape, float(_MOST))
        for j in range(asked.shape[1]):
            needs = np.nonzero(asked[part, j])[0]
            share = room[:, j] / asked[part][needs, j, None]
            if len(needs) == len(fit):
                np.minimum(fit, share, out=fit)
            else:
                fit[needs] = np.minimum(fit[needs], share)
        fit = np.floor(np.maximum(fit, 0.0) + 1e-9)
        out[part] = np.where(admits.T[rule_of[part]], fit, 0.0).astype(np.int16)
    return out

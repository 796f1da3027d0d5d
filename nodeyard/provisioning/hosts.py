"""Nodes that exist, and claims that are about to: what is free on them, and whom they take.

A node still starting is judged without the taints it will lose; its daemons that are yet to come are taken off, and
so are pods promised to it that are not part of the problem. A claim without a node has the least room that any type
it may still become would give. Nodes that take no pods are kept too: their pods count for topology. Neighbours:
`columns` knows the types, `field` keeps the counts while pods are placed.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from nodeyard.api import labels as keys
from nodeyard.api.cluster import DaemonSet
from nodeyard.api.node import Node, NodeClaim
from nodeyard.api.pod import PodKey, PodRecord, PodShape
from nodeyard.api.quantity import Resources
from nodeyard.api.selectors import HostPort, Taint
from nodeyard.provisioning.classes import rule_of
from nodeyard.provisioning.columns import Columns
from nodeyard.provisioning.daemons import runs
from nodeyard.provisioning.labelled import Bools, Floats, Ints, LabelColumn, Labelled, NodeRule, coded
from nodeyard.provisioning.model import Problem
from nodeyard.scheduling.taints import lasting_taints


@dataclass(slots=True)
class Host:
    """One node or claim. `pods`: those that stay, promised ones included."""

    name: str
    labels: dict[str, str]
    taints: tuple[Taint, ...]
    allocatable: Resources
    capacity: Resources
    pool: str
    open: bool
    initialized: bool
    pods: list[PodRecord] = field(default_factory=list)
    claim: bool = False


class Hosts:
    """All hosts, those that take pods first (initialized before starting, then by name). `room`: [host, resource]."""

    def __init__(self, hosts: Sequence[Host], resources: Sequence[str]) -> None:
        self.hosts = sorted(hosts, key=lambda h: (not h.open, not h.initialized, h.name))
        self.count = len(self.hosts)
        self.open: Bools = np.array([h.open for h in self.hosts], np.bool_)
        self.labelled = Labelled(self.count, self._label)
        taint_sets: dict[tuple[Taint, ...], int] = {}
        self._taints = np.array(
            [taint_sets.setdefault(h.taints, len(taint_sets)) for h in self.hosts], np.int64
        )
        self.taint_sets = list(taint_sets)
        self.room: Floats = np.zeros((self.count, len(resources)))
        for j, resource in enumerate(resources):
            self.room[:, j] = [h.allocatable.get(resource, 0) for h in self.hosts]
        standing = [p.shape for h in self.hosts for p in h.pods]
        many = np.array([len(h.pods) for h in self.hosts], np.int64)
        self.pod_host: Ints = np.repeat(np.arange(self.count), many)
        self.shapes = list(dict.fromkeys(standing))
        number = {shape: i for i, shape in enumerate(self.shapes)}
        self.pod_shape: Ints = np.fromiter(map(number.__getitem__, standing), np.int64, len(standing))
        self.coming: list[tuple[PodShape, Bools]] = []
        """Daemons still to come, and to which hosts."""

    def _label(self, key: str) -> LabelColumn:
        if key == keys.HOSTNAME:
            return coded([h.labels.get(key, None if h.claim else h.name) for h in self.hosts])
        return coded([h.labels.get(key) for h in self.hosts])

    def tolerated(self, rule: NodeRule) -> Bools:
        ok = [rule.endures(taints) for taints in self.taint_sets]
        return np.array(ok, np.bool_)[self._taints] if self.count else np.zeros(0, np.bool_)

    def admitted(self, rule: NodeRule) -> Bools:
        """Which hosts a pod with this rule may land on, room aside."""
        return self.labelled.admitted(rule) & self.tolerated(rule) & self.open

    def use(self, requests: Floats) -> None:
        """Take standing pods off the room; `requests`: [shape in `shapes`, resource]."""
        if not len(self.pod_host):
            return
        flat = self.pod_host * len(self.shapes) + self.pod_shape
        pairs, counts = np.unique(flat, return_counts=True)
        np.subtract.at(
            self.room, pairs // len(self.shapes), requests[pairs % len(self.shapes)] * counts[:, None]
        )


def hosts_of(problem: Problem) -> list[Host]:
    """The hosts of a problem; claims' rooms are filled in by `settle_claims`, which needs the columns."""
    promised: set[PodKey] = set()
    nodes = hosts_of_nodes(problem, problem.snapshot.nodes.values(), promised)
    return nodes + hosts_of_claims(problem, promised)


def hosts_of_nodes(problem: Problem, nodes: Iterable[Node], promised: set[PodKey]) -> list[Host]:
    """Some of the nodes. `promised`: pods that hosts have been given already; those of these are added."""
    moving = set(problem.pods)
    staying = (node for node in nodes if node.name not in problem.without_nodes)
    return [_host_of(problem, node, moving, promised) for node in staying]


def hosts_of_claims(problem: Problem, promised: set[PodKey]) -> list[Host]:
    """The claims that have no node yet."""
    snapshot, moving = problem.snapshot, set(problem.pods)
    return [
        _claim_host(problem, claim, moving, promised)
        for claim in snapshot.claims.values()
        if not (claim.deleting or claim.name in problem.without_claims)
        and snapshot.node_of(claim) is None
        and claim.node_name not in snapshot.nodes
    ]


def _host_of(problem: Problem, node: Node, moving: set[PodKey], promised: set[PodKey]) -> Host:
    snapshot = problem.snapshot
    claim = snapshot.claim_of(node)
    pool, initialized = node.pool, node.initialized
    initialized = initialized or not (pool or claim)
    taints, allocatable = node.taints, node.allocatable
    if not initialized:
        taints = lasting_taints(taints, claim.startup_taints if claim else (), initialized=False)
    open_ = (
        not (node.deleted_at or node.unschedulable or node.name in problem.closed_nodes)
        and not (claim and claim.deleting)
        and (initialized or problem.uninitialized_targets)
        and (not initialized or not node.conditions or node.ready)
        and not any(t.key == keys.TAINT_DISRUPTED for t in node.taints)
    )
    if not initialized and claim:
        # devices and real memory come late; until then the claim says what to expect
        late = {name: amount for name, amount in claim.allocatable.items() if not allocatable.get(name)}
        allocatable = {**allocatable, **late}
    bound: Iterable[PodKey] = snapshot.pods_on.get(node.name, ())
    if not moving.isdisjoint(bound):
        bound = [key for key in bound if key not in moving]
    pods = list(map(snapshot.pods.__getitem__, bound))
    if claim:
        pods += _promised(problem, claim, moving, promised)
    return Host(node.name, node.labels, taints, allocatable, node.capacity, pool, open_, initialized, pods)


def _claim_host(problem: Problem, claim: NodeClaim, moving: set[PodKey], promised: set[PodKey]) -> Host:
    labels = dict(claim.labels)
    for requirement in claim.requirements:
        if requirement.operator == "In" and len(requirement.values) == 1:
            labels.setdefault(requirement.key, requirement.values[0])
    open_ = problem.uninitialized_targets and f"nodeclaim/{claim.name}" not in problem.closed_nodes
    return Host(
        f"nodeclaim/{claim.name}",
        labels,
        claim.taints,
        dict(claim.allocatable),
        dict(claim.capacity),
        claim.pool,
        open_,
        False,
        _promised(problem, claim, moving, promised),
        claim=True,
    )


def _promised(
    problem: Problem, claim: NodeClaim, moving: set[PodKey], promised: set[PodKey]
) -> list[PodRecord]:
    """Pods the claim was made for that are still unbound and not to be planned now."""
    text = claim.annotations.get(keys.PLANNED_PODS)
    if not text:
        return []
    try:
        names = json.loads(text)
    except ValueError:
        return []
    out = []
    for key in names if isinstance(names, list) else []:
        record = problem.snapshot.pods.get(key) if isinstance(key, str) else None
        if record is None or record.node or record.finished or key in moving or key in promised:
            continue
        promised.add(key)
        out.append(record)
    return out


def settle_claims(problem: Problem, hosts: Sequence[Host], columns: Columns) -> None:
    """Give each claim without known allocatable the least of what its types would have, and the labels they share."""
    for host in hosts:
        if not host.claim or host.allocatable:
            continue
        claim = problem.snapshot.claims[host.name.removeprefix("nodeclaim/")]
        mine = np.array([v.pool.key == host.pool for v in columns.variants], np.bool_)
        mask = mine[columns.variant] if columns.count else np.zeros(0, np.bool_)
        for requirement in claim.requirements:
            if requirement.key != keys.HOSTNAME:
                mask = mask & columns.labelled.satisfying(requirement)
        chosen = np.nonzero(mask)[0]
        if not len(chosen):
            host.open = False
            continue
        low = columns.room_before_daemons[chosen].min(axis=0)
        high = columns.capacity[chosen].max(axis=0)
        host.allocatable = {r: int(low[j]) for j, r in enumerate(columns.resources)}
        host.capacity = {r: int(high[j]) for j, r in enumerate(columns.resources)}
        some = columns.labels_of(int(chosen[0]))
        for key in some:
            codes, values = columns.labelled.column(key)
            found = np.unique(codes[chosen])
            value = values[int(found[0])]
            if len(found) == 1 and value is not None:
                host.labels.setdefault(key, value)


def daemons_to_come(daemons: Sequence[DaemonSet], hosts: Hosts, resources: Sequence[str]) -> None:
    """Take off each host's room what its daemons will use beyond those that run there already."""
    for daemon in daemons:
        rule = rule_of(daemon.shape)
        coming = hosts.labelled.admitted(rule) & hosts.tolerated(rule) & hosts.open
        for i in np.nonzero(coming)[0]:
            coming[i] = not any(runs(daemon, pod) for pod in hosts.hosts[i].pods)
        hosts.coming.append((daemon.shape, coming))
        for j, resource in enumerate(resources):
            if amount := daemon.shape.requests.get(resource, 0):
                hosts.room[coming, j] -= amount


def taken_ports(problem: Problem, hosts: Hosts, host: int) -> list[HostPort]:
    """Host ports that standing pods hold, daemons to come included."""
    out = [p for pod in hosts.hosts[host].pods for p in problem.snapshot.shapes[pod.shape].host_ports]
    return out + [p for shape, coming in hosts.coming if coming[host] for p in shape.host_ports]

"""What replays are measured against: largest-fit for pending pods, and nodes removed when they are empty.

Pods are taken by falling size; each goes to the first node with room. For those left the type is bought that holds
the most of them, the cheapest of those that hold as many, until none is left. That is how early autoscalers without
groups decided; it never moves a running pod. Prices matter only between types that hold the same pods.
"""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from nodeyard.api import labels as keys
from nodeyard.api.pod import PodKey, PodRecord
from nodeyard.disruption.model import Candidate, Command, Reason
from nodeyard.provisioning.classes import PodClass
from nodeyard.provisioning.compiling import compile_problem
from nodeyard.provisioning.field import Rules
from nodeyard.provisioning.labelled import Bools, Floats, Ints
from nodeyard.provisioning.model import (
    Options,
    Placement,
    Plan,
    PlannedNode,
    Problem,
    Unschedulable,
)
from nodeyard.provisioning.model import Reason as Refused
from nodeyard.provisioning.setting import Setting
from nodeyard.state.cluster import Snapshot

_MOST_PER_NODE: Final = 256


def largest_fit(problem: Problem, options: Options, clock: Callable[[], float]) -> Plan:
    """The baseline's plan for the problem's pods."""
    began = clock()
    setting, _ = compile_problem(problem, options)
    pods = sorted(
        ((one, key) for one in setting.classes.classes for key in one.pods),
        key=lambda p: (
            -p[0].request[_column(setting, "cpu")],
            -p[0].request[_column(setting, "memory")],
            p[1],
        ),
    )
    existing, left = _onto_hosts(setting, pods)
    nodes: list[PlannedNode] = []
    refused = [Unschedulable(key, reason, message) for key, reason, message in setting.classes.refused]
    while left:
        made, left = _buy(setting, left, len(nodes))
        if made is None:
            refused.append(Unschedulable(left[0][1], Refused.RESOURCES, "no type holds it"))
            left = left[1:]
        else:
            nodes.append(made)
    return Plan(tuple(nodes), existing, tuple(refused), plan_s=clock() - began)


def _column(setting: Setting, resource: str) -> int:
    return setting.classes.resources.index(resource) if resource in setting.classes.resources else 0


Sized = list[tuple[PodClass, PodKey]]


def _onto_hosts(setting: Setting, pods: Sized) -> tuple[tuple[Placement, ...], Sized]:
    """First fit onto nodes and claims that exist."""
    room: Floats = setting.hosts.room.copy()
    masks: dict[int, Bools] = {}
    placed: dict[str, list[PodKey]] = {}
    left: Sized = []
    for one, key in pods:
        if one.number not in masks:
            masks[one.number] = setting.rules.on_hosts(one.rule)
        fits = np.nonzero(masks[one.number] & (room >= one.request).all(axis=1))[0]
        if not len(fits):
            left.append((one, key))
            continue
        room[fits[0]] -= one.request
        placed.setdefault(setting.hosts.hosts[int(fits[0])].name, []).append(key)
    return tuple(Placement(name, tuple(keys)) for name, keys in placed.items()), left


def _buy(setting: Setting, pods: Sized, number: int) -> tuple[PlannedNode | None, Sized]:
    """One node of the type that holds the most of the pods, and the pods it does not hold."""
    columns = setting.columns
    first = pods[0][0]
    mine = setting.rules.on_columns(first) & (columns.room >= first.request).all(axis=1)
    chosen = np.nonzero(mine)[0]
    if not len(chosen):
        return None, pods
    held = _held(setting.rules, chosen, columns.room[chosen].copy(), pods[:_MOST_PER_NODE])
    count = held.sum(axis=1)
    best = min(range(len(chosen)), key=lambda i: (-int(count[i]), float(columns.cost[chosen[i]]), i))
    taken = held[best]
    keys = tuple(key for (_, key), here in zip(pods, taken, strict=False) if here)
    node = _node(setting, int(chosen[best]), keys, number)
    return node, [pod for i, pod in enumerate(pods) if i >= len(taken) or not taken[i]]


def _held(rules: Rules, chosen: Ints, room: Floats, pods: Sized) -> Bools:
    """[column, pod]: which pods each column holds when they are put in one by one."""
    held = np.zeros((len(chosen), len(pods)), np.bool_)
    for i, (one, _) in enumerate(pods):
        fits = rules.on_columns(one)[chosen] & (room >= one.request).all(axis=1)
        room[fits] -= one.request
        held[:, i] = fits
    return held


def _node(setting: Setting, column: int, pods: tuple[PodKey, ...], number: int) -> PlannedNode:
    columns = setting.columns
    pool, labels = columns.pool_of(column), columns.labels_of(column)
    return PlannedNode(
        f"{pool.key}-{number}", pool.key, columns.type_of(column).name, labels[keys.ZONE],
        labels[keys.CAPACITY_TYPE], float(columns.price[column]), pods, labels=labels, taints=pool.taints,
        node_charge_per_hour=float(columns.charge[column]),
    )  # fmt: skip


def remove_empty(
    snapshot: Snapshot, now: float, since: Callable[[str], float], after_s: float
) -> Command | None:
    """All initialized nodes without pods for so long, together. `since`: when a node's last pod came or went."""
    found = []
    for name in sorted(snapshot.nodes):
        node = snapshot.nodes[name]
        claim = snapshot.claim_of(node)
        if claim is None or claim.deleting or _busy(snapshot.pods_of_node(name)):
            continue
        if now - max(since(name), node.created_at) >= after_s:
            found.append(Candidate(name, claim.name, claim_uid=claim.uid, pool=claim.pool))
    return Command(f"empty-{now:.3f}", Reason.EMPTY, tuple(found), decided_at=now) if found else None


def _busy(pods: Sequence[PodRecord]) -> bool:
    return any(not pod.daemon for pod in pods)

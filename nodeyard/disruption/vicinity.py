"""A question about one node, asked of the nodes its pods could go to instead of the whole cluster, and remembered.

The problem has those nodes with their pods, the node's own pods, and what the pools' limits leave. `Answers` keeps what
the planner said for as long as every object in the problem is the very one it was asked about: an answer can't be stale,
and a pass after a change asks about nodes near the change only. Neighbours: `screening` picks the nodes, `simulation` asks.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from nodeyard.api.pod import PodKey, PodRecord
from nodeyard.api.pool import Pool
from nodeyard.cloudprovider.model import Catalogue
from nodeyard.disruption.model import Candidate
from nodeyard.disruption.remembering import without_status
from nodeyard.disruption.resident import Resident
from nodeyard.disruption.screening import Screen
from nodeyard.disruption.worth import Appraisal
from nodeyard.provisioning.model import Plan, Problem
from nodeyard.state.cluster import Snapshot

MOST: Final = 60
"""Nodes that a question is asked of, where a few of them will do."""
Told = tuple[object, ...]


class Answers:
    """What the planner said about single nodes, the cluster as it was compiled last and what its pods were worth. Not thread-safe."""

    def __init__(self) -> None:
        self.resident, self.appraisal = Resident(), Appraisal()
        self.terms = object()
        """Another one whenever something that concerns all questions is."""
        self._told: Told = ()
        self._pools: tuple[Pool, ...] = ()
        self._known: dict[tuple[str, bool], tuple[Told, Plan]] = {}

    def begin(self, cluster: Snapshot, catalogues: Mapping[str, Catalogue], *, default_spread: bool) -> None:
        """Forgets everything where something that concerns all questions is another, and nodes that are gone.
        `default_spread`: what selects pods counts too.
        """
        same: list[Mapping[str, object]] = [
            catalogues, cluster.daemon_sets, cluster.pvs, cluster.pvcs, cluster.storage_classes, cluster.namespaces,
        ]  # fmt: skip
        same += [cluster.selecting] if default_spread else []
        terms = tuple(one for each in same for one in (*each, None, *each.values()))
        pools = tuple(map(without_status, cluster.pools.values()))
        if pools != self._pools or not _same(terms, self._told):
            self._known, self.terms = {}, object()
        elif len(self._known) > 2 * len(cluster.nodes):
            self._known = {at: known for at, known in self._known.items() if at[0] in cluster.nodes}
        self._told, self._pools = terms, pools

    def recall(self, at: tuple[str, bool], told: Told) -> Plan | None:
        """What was said to the same question, if it was asked. `at`: the node, and whether it was asked thoroughly."""
        known = self._known.get(at)
        return known[1] if known is not None and _same(known[0], told) else None

    def remember(self, at: tuple[str, bool], told: Told, plan: Plan) -> None:
        """Keeps an answer; one that was cut short is none."""
        if plan.complete:
            self._known[at] = told, plan


def _same(one: Told, other: Told) -> bool:
    """Whether they are the very same objects; words and numbers only have to be equal."""
    return len(one) == len(other) and all(
        a is b or (isinstance(a, str | int) and a == b) for a, b in zip(one, other, strict=True)
    )


def told(problem: Problem) -> Told:
    """Everything that an answer depends on beside what concerns all questions."""
    cluster = problem.snapshot
    limits = tuple(left for pool in cluster.pools.values() for left in pool.limits.values())
    volumes = tuple(cluster.csi_nodes.get(name) for name in cluster.nodes)
    return (
        *limits, problem.least_types, None, *cluster.nodes.values(), None, *cluster.claims.values(), None,
        *cluster.pods.values(), *cluster.shapes.values(), *volumes,
        *(map(cluster.successor, map(cluster.pods.__getitem__, problem.pods)) if cluster.successors else ()),
    )  # fmt: skip


def cut_out(whole: Problem, candidate: Candidate, near: tuple[str, ...], screen: Screen) -> Problem:
    """The question about the candidate's pods with these nodes only."""
    base = whole.snapshot
    pods: dict[PodKey, PodRecord] = {key: base.pods[key] for key in whole.pods}
    pods_on = {name: base.pods_on.get(name, frozenset()) for name in near}
    for name in near:
        pods.update((key, base.pods[key]) for key in sorted(pods_on[name]))
    nodes = {name: base.nodes[name] for name in near}
    claims = {claim.name: claim for node in nodes.values() if (claim := base.claim_of(node)) is not None}
    used = {pod.shape for pod in pods.values()} | {base.successor(pods[key]) for key in whole.pods}
    shapes = {id_: base.shapes[id_] for id_ in sorted(used)}
    inside = frozenset((*near, candidate.node))
    pools = {key: _narrowed(pool, screen, inside) for key, pool in base.pools.items()}
    snapshot = msgspec.structs.replace(
        base, nodes=nodes, claims=claims, pods=pods, pods_on=pods_on, shapes=shapes, pools=pools
    )
    return msgspec.structs.replace(whole, snapshot=snapshot)


def _narrowed(pool: Pool, screen: Screen, inside: frozenset[str]) -> Pool:
    """The pool with what its limits leave beside the nodes outside the question."""
    if not pool.limits:
        return pool
    left = {r: most - screen.used_outside(pool.key, r, inside) for r, most in pool.limits.items()}
    return msgspec.structs.replace(pool, limits=left)

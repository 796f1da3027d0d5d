"""What if these nodes were gone: where their pods would go, asked of the planner.

First the pods that look for a place anyway (pending ones, those of nodes being removed) are settled once per pass, as
the allocator would settle them; then each question is asked of the cluster as it will be. Running pods may only count
on initialized nodes, and not on nodes inside their consolidateAfter window; pods without a place may count on both.
Source: Karpenter documentation, "Consolidation".
"""

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from nodeyard.api import labels as keys
from nodeyard.api.node import INITIALIZED
from nodeyard.api.pod import PodKey
from nodeyard.disruption.model import Block, Candidate, Planner, View
from nodeyard.disruption.screening import Screen
from nodeyard.disruption.vicinity import MOST, Answers, cut_out, told
from nodeyard.provisioning.model import Options, Plan, Problem
from nodeyard.provisioning.pending import node_leaving, pending
from nodeyard.state.cluster import Snapshot

_CLAIM_TARGET: Final = "nodeclaim/"
_EFFORT_PER_POD_S: Final = 0.02
_MOST_EFFORT_S: Final = 6.0


def effort_s(problem: Problem) -> float:
    """Seconds of work worth spending on a cheaper answer: the pods of one node want little, those of many nodes more."""
    return min(_EFFORT_PER_POD_S * len(problem.pods), _MOST_EFFORT_S) if problem.thorough else 0.0


class Simulation:
    """Questions to one view. `found` are all its candidates."""

    def __init__(
        self, view: View, planner: Planner, found: Sequence[Candidate], answers: Answers | None = None
    ) -> None:
        self._view = view
        self._planner = planner
        self._found = found
        self._answers = answers or Answers()
        self._screen: Screen | None = None
        self._leaving = leaving(view.snapshot)
        self._closed = closed_targets(view, found)
        self._settled: Snapshot | None = None
        self._receiving: dict[str, int] = {}

    @property
    def receiving(self) -> dict[str, int]:
        """Node -> how many pods without a place would land there."""
        self.cluster()
        return self._receiving

    def cluster(self) -> Snapshot:
        """The snapshot with the pods that look for a place settled on the nodes there are."""
        if self._settled is None:
            self._settled = self._settle()
        return self._settled

    def without(
        self,
        gone: Iterable[Candidate],
        closed: frozenset[str] = frozenset(),
        *,
        windows: bool = True,
        thorough: bool = True,
    ) -> Plan:
        """The plan for the pods of `gone` once those nodes are away. `closed`: more nodes they may not go to;
        `windows` False: they may go to nodes inside their consolidateAfter window. `thorough` False: the first plan will do.
        """
        question = self._question(tuple(gone), closed, windows=windows)
        return self._planner(msgspec.structs.replace(question, thorough=thorough))

    def nearby(self, candidate: Candidate, *, thorough: bool = False) -> Plan | Block:
        """The plan for the node's pods among nodes that have room for some, or why they can't go for less, where that
        needs no planning. `thorough`: a plan that was searched for, not the first.
        """
        screen = self.screen()
        refusal = screen.refusal(candidate)
        if refusal is not None:
            return refusal
        question = msgspec.structs.replace(self._question((candidate,), frozenset()), thorough=thorough)
        near = None if screen.has_reservations else screen.near(candidate, MOST)
        if near is None:
            return self._planner(question)
        part = cut_out(question, candidate, near, screen)
        asked = told(part)
        plan = self._answers.recall((candidate.node, thorough), asked)
        if plan is None:
            plan = self._planner(part)
            self._answers.remember((candidate.node, thorough), asked, plan)
        return plan

    def alone(self, candidate: Candidate, *, thorough: bool) -> Plan:
        """The plan for the node's pods among all nodes there are; those that have room for none of them are left out once
        it is known which do.
        """
        screen = self._screen
        near = None if screen is None or screen.has_reservations else screen.near(candidate)
        if screen is None or near is None:
            return self.without([candidate], thorough=thorough)
        question = msgspec.structs.replace(self._question((candidate,), frozenset()), thorough=thorough)
        return self._planner(cut_out(question, candidate, near, screen))

    def screen(self) -> Screen:
        """The cluster compiled for a first look at single nodes."""
        if self._screen is None:
            view, cluster = self._view, self.cluster()
            spread = view.options.default_spread
            self._answers.begin(cluster, view.catalogues, default_spread=bool(spread))
            charge = view.options.node_charge_usd_per_hour
            options = Options(node_charge_usd_per_hour=charge, default_spread=spread)
            resident = self._answers.resident
            resident.follow(self._question((), frozenset()), options, self._found, self._answers.terms)
            self._screen = Screen(resident, self._found, cluster.shapes)
        return self._screen

    def _question(
        self, gone: Sequence[Candidate], closed: frozenset[str], *, windows: bool = True
    ) -> Problem:
        nodes = frozenset(c.node for c in gone)
        return Problem(
            snapshot=self.cluster(),
            pods=pods_of(gone),
            catalogues=self._view.catalogues,
            now=self._view.now,
            without_nodes=nodes | self._leaving,
            without_claims=frozenset(c.claim for c in gone if c.claim),
            uninitialized_targets=False,
            closed_nodes=((self._closed if windows else self._view.in_command) | closed) - nodes,
            least_types=self._least_types(gone),
        )

    def _least_types(self, gone: Sequence[Candidate]) -> int:
        """One spot node is exchanged for spot only where many types would do, so all of these have to be named."""
        options = self._view.options
        alone = len(gone) == 1 and gone[0].capacity_type == keys.SPOT
        return options.spot_to_spot_types if options.spot_to_spot and alone else 0

    def _settle(self) -> Snapshot:
        snapshot = self._view.snapshot
        pods = homeless(self._view)
        if not pods:
            return snapshot
        plan = self._planner(
            Problem(
                snapshot=snapshot,
                pods=pods,
                catalogues=self._view.catalogues,
                now=self._view.now,
                without_nodes=self._leaving,
            )
        )
        self._receiving = {p.node: len(p.pods) for p in plan.existing if p.pods}
        return settled(snapshot, plan)


def pods_of(gone: Iterable[Candidate]) -> tuple[PodKey, ...]:
    """The pods that have to move when all of `gone` go."""
    return tuple(sorted({pod for candidate in gone for pod in candidate.pods}))


def leaving(snapshot: Snapshot) -> frozenset[str]:
    """Nodes that are being removed."""
    deleting = any(claim.deleting for claim in snapshot.claims.values())
    return frozenset(
        name
        for name, node in snapshot.nodes.items()
        if node.deleted_at > 0 or (deleting and node_leaving(snapshot, node))
    )


def closed_targets(view: View, found: Sequence[Candidate]) -> frozenset[str]:
    """Nodes that running pods may not be moved onto: something just came there, or a command concerns them."""
    closed = set(view.in_command)
    for candidate in found:
        pool = view.snapshot.pools.get(candidate.pool)
        window = pool.disruption.consolidate_after_s if pool is not None else None
        if window and view.now - candidate.quiet_since < window:
            closed.add(candidate.node)
    return frozenset(closed)


def homeless(view: View) -> tuple[PodKey, ...]:
    """Pods that look for a place on what there is: pending ones, those of nodes being removed, and those whose
    promised node is up, which the kube-scheduler is about to bind.
    """
    found = pending(view.snapshot, view.now)
    landing = [
        pod for pod, claim in found.promised.items() if view.snapshot.claims[claim].is_true(INITIALIZED)
    ]
    return tuple(sorted({*found.all, *landing}))


def settled(snapshot: Snapshot, plan: Plan) -> Snapshot:
    """The snapshot after the plan's placements on nodes that exist."""
    pods = dict(snapshot.pods)
    pods_on = dict(snapshot.pods_on)
    for placement in plan.existing:
        if placement.node.startswith(_CLAIM_TARGET):
            continue
        for key in placement.pods:
            old = pods[key]
            if old.node:
                pods_on[old.node] = pods_on.get(old.node, frozenset()) - {key}
            pods[key] = msgspec.structs.replace(old, node=placement.node, shape=snapshot.successor(old))
        pods_on[placement.node] = pods_on.get(placement.node, frozenset()) | frozenset(placement.pods)
    return msgspec.structs.replace(snapshot, pods=pods, pods_on=pods_on)

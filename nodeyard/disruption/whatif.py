"""What if these nodes went, or these came: where each pod would go, what would be launched, what blocks it, what it
costs and saves.

The answer of the planner that the allocator uses, to a question a person asks. Blocks are reported and do not stop the
answer. consolidateAfter windows and budgets of pools bind the reallocator, not a person who asks; they are not
looked at. Pods that look for a place anyway are settled first, and never on nodes that go. Neighbours: `reaction`
(what the reallocator would do of itself in a changed world), `asking` (questions and answers as JSON).
"""

from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from nodeyard.api import labels as keys
from nodeyard.api.node import Node
from nodeyard.cloudprovider.model import Catalogue
from nodeyard.disruption.candidates import candidates
from nodeyard.disruption.model import Block, Candidate, DrainEstimate, Planner, View
from nodeyard.disruption.outlook import Outlook
from nodeyard.disruption.simulation import homeless, leaving, pods_of, settled
from nodeyard.provisioning.model import Plan, Problem
from nodeyard.provisioning.report import plan_json
from nodeyard.state.cluster import Snapshot


class UnusableQuestion(ValueError):
    """A question that can't be answered; the message says why, and what it is about."""


class UnknownNode(UnusableQuestion):
    """A node that is not in the cluster, or that belongs to no pool."""


class Answer(msgspec.Struct, frozen=True):
    """What would happen. Money is USD per hour over all nodes of pools whose price is known."""

    action: str
    blocks: tuple[tuple[str, Block], ...]
    moves: tuple[tuple[str, str, str], ...]
    """Pod, the node it is on, the node it would be on."""
    plan: Plan
    rent_before: float
    rent_after: float
    objective_before: float
    objective_after: float
    unpriced: tuple[str, ...] = ()
    """Nodes whose price is unknown; only their charge counts."""
    drain: DrainEstimate = DrainEstimate()
    """Of all nodes that go, at the same time."""
    singletons: tuple[str, ...] = ()
    """Pods that move and are their workload's only one."""


def without_nodes(view: View, names: Collection[str], planner: Planner) -> Answer:
    """These nodes removed, their pods on nodes that exist or on new ones. Raises UnknownNode."""
    found = candidates(view)
    return _answer("remove", view, found, _chosen(view, found, names), planner)


def replaced(view: View, names: Collection[str], planner: Planner) -> Answer:
    """These nodes removed, their pods on new nodes only. Raises UnknownNode."""
    found = candidates(view)
    closed = frozenset(view.snapshot.nodes)
    return _answer("replace", view, found, _chosen(view, found, names), planner, closed)


def drained_zone(view: View, zone: str, planner: Planner) -> Answer:
    """All nodes of pools in the zone removed, and nothing placed or bought there."""
    found = candidates(view)
    gone = tuple(c for c in found if c.zone == zone)
    closed = frozenset(name for name, node in view.snapshot.nodes.items() if _zone(node) == zone)
    return _answer("drain-zone", view, found, gone, planner, closed, _outside(view.catalogues, zone))


def with_added(view: View, fuller: View, pods: Collection[str], planner: Planner) -> Answer:
    """`fuller` is `view` with nodes and pods added: where those pods, and those that look for a place anyway, would go."""
    before, found = candidates(view), candidates(fuller)
    problem = Problem(
        snapshot=fuller.snapshot,
        pods=tuple(sorted({*homeless(fuller), *pods})),
        catalogues=fuller.catalogues,
        now=fuller.now,
        without_nodes=leaving(fuller.snapshot),
    )
    plan = planner(problem) if problem.pods else Plan()
    rent, objective = _running(found)
    return Answer(
        action="add",
        blocks=(),
        moves=moves_of(plan, fuller.snapshot),
        plan=plan,
        rent_before=_running(before)[0],
        rent_after=rent + sum(n.price_per_hour for n in plan.nodes),
        objective_before=_running(before)[1],
        objective_after=objective + sum(n.price_per_hour + n.node_charge_per_hour for n in plan.nodes),
        unpriced=tuple(c.node for c in found if c.price_per_hour is None),
    )


def moves_of(plan: Plan, snapshot: Snapshot) -> tuple[tuple[str, str, str], ...]:
    """Pod, the node it is on (empty: none), the node it would be on."""
    targets = [(n.name, n.pods) for n in plan.nodes] + [(p.node, p.pods) for p in plan.existing]
    return tuple(sorted((pod, snapshot.pods[pod].node, name) for name, held in targets for pod in held))


def _running(found: Collection[Candidate]) -> tuple[float, float]:
    """Rent of these nodes, and rent with charges."""
    rent = sum(c.price_per_hour or 0.0 for c in found)
    return rent, rent + sum(c.node_charge_per_hour for c in found)


def zones(view: View) -> frozenset[str]:
    """Zones of nodes and of what is on sale."""
    sold = {o.zone for c in view.catalogues.values() for t in c.types for o in t.offerings}
    return frozenset(sold | {z for n in view.snapshot.nodes.values() if (z := _zone(n))})


def answer_json(answer: Answer) -> dict[str, Any]:
    """The documented form."""
    made = plan_json(answer.plan)
    return {
        "action": answer.action,
        "blocks": [
            {"node": node, "rule": block.rule.value, "message": block.message}
            for node, block in answer.blocks
        ],
        "moves": [{"pod": pod, "from": old, "to": new} for pod, old, new in answer.moves],
        "launch": made["nodes"],
        "unschedulable": made["unschedulable"],
        "before": {"pricePerHour": answer.rent_before, "objectivePerHour": answer.objective_before},
        "after": {"pricePerHour": answer.rent_after, "objectivePerHour": answer.objective_after},
        "savesPerHour": answer.objective_before - answer.objective_after,
        "unpriced": list(answer.unpriced),
        "drain": drain_json(answer.drain),
        "singletons": list(answer.singletons),
    }


def drain_json(drain: DrainEstimate) -> dict[str, Any]:
    """The documented form of an estimate."""
    return {"seconds": drain.seconds, "cutShort": drain.cut_short, "heldBy": list(drain.held_by)}


def _chosen(view: View, found: tuple[Candidate, ...], names: Collection[str]) -> tuple[Candidate, ...]:
    by_name = {c.node: c for c in found}
    for name in names:
        if name not in view.snapshot.nodes:
            raise UnknownNode(f"no node {name!r} in the cluster")
        if name not in by_name:
            raise UnknownNode(f"node {name!r} belongs to no pool")
    return tuple(by_name[name] for name in sorted(set(names)))


def _answer(
    action: str,
    view: View,
    found: tuple[Candidate, ...],
    gone: tuple[Candidate, ...],
    planner: Planner,
    closed: frozenset[str] = frozenset(),
    sold: Mapping[str, Catalogue] | None = None,
) -> Answer:
    names = frozenset(c.node for c in gone)
    away = names | leaving(view.snapshot)
    claims = frozenset(c.claim for c in gone if c.claim)
    problem = Problem(
        snapshot=_settled(view, away, claims, planner),
        pods=pods_of(gone),
        catalogues=view.catalogues if sold is None else sold,
        now=view.now,
        without_nodes=away,
        without_claims=claims,
        uninitialized_targets=False,
        closed_nodes=(view.in_command | closed) - names,
    )
    plan = planner(problem) if problem.pods else Plan()
    rent, objective = _running(found)
    outlook = Outlook(view.snapshot, view.now, surge=view.options.surge)
    change = sum(n.price_per_hour for n in plan.nodes) - sum(c.price_per_hour or 0.0 for c in gone)
    charges = sum(n.node_charge_per_hour for n in plan.nodes) - sum(c.node_charge_per_hour for c in gone)
    return Answer(
        action=action,
        blocks=tuple((c.node, block) for c in gone for block in c.blocks),
        moves=moves_of(plan, view.snapshot),
        plan=plan,
        rent_before=rent,
        rent_after=rent + change,
        objective_before=objective,
        objective_after=objective + change + charges,
        unpriced=tuple(c.node for c in found if c.price_per_hour is None),
        drain=outlook.drain([c.node for c in gone]),
        singletons=outlook.singletons(problem.pods),
    )


def _settled(view: View, away: frozenset[str], claims: frozenset[str], planner: Planner) -> Snapshot:
    waiting = homeless(view)
    if not waiting:
        return view.snapshot
    problem = Problem(
        snapshot=view.snapshot,
        pods=waiting,
        catalogues=view.catalogues,
        now=view.now,
        without_nodes=away,
        without_claims=claims,
    )
    return settled(view.snapshot, planner(problem))


def _outside(catalogues: Mapping[str, Catalogue], zone: str) -> dict[str, Catalogue]:
    """What is on sale elsewhere than in the zone."""
    out = {}
    for key, catalogue in catalogues.items():
        types = [
            msgspec.structs.replace(t, offerings=tuple(o for o in t.offerings if o.zone != zone))
            for t in catalogue.types
        ]
        out[key] = Catalogue(types, f"{catalogue.revision} without {zone}")
    return out


def _zone(node: Node) -> str:
    return node.labels.get(keys.ZONE, "")

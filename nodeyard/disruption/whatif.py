"""What if these nodes went: where each pod would go, what would be launched, what blocks it, what it costs and saves.

The answer of the planner that the allocator uses, to a question a person asks. Blocks are reported and do not stop the
answer. consolidateAfter windows and budgets of pools bind the reallocator, not a person who asks; they are not
looked at. Pods that look for a place anyway are settled first, and never on nodes that go.
"""

from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from nodeyard.api import labels as keys
from nodeyard.api.node import Node
from nodeyard.cloudprovider.model import Catalogue
from nodeyard.disruption.candidates import candidates
from nodeyard.disruption.model import Block, Candidate, Planner, View
from nodeyard.disruption.simulation import homeless, leaving, pods_of, settled
from nodeyard.provisioning.model import Plan, Problem
from nodeyard.provisioning.report import plan_json
from nodeyard.state.cluster import Snapshot


class UnknownNode(ValueError):
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
    }


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
    targets = [(n.name, n.pods) for n in plan.nodes] + [(p.node, p.pods) for p in plan.existing]
    pods = view.snapshot.pods
    rent = sum(c.price_per_hour or 0.0 for c in found)
    objective = rent + sum(c.node_charge_per_hour for c in found)
    change = sum(n.price_per_hour for n in plan.nodes) - sum(c.price_per_hour or 0.0 for c in gone)
    charges = sum(n.node_charge_per_hour for n in plan.nodes) - sum(c.node_charge_per_hour for c in gone)
    return Answer(
        action=action,
        blocks=tuple((c.node, block) for c in gone for block in c.blocks),
        moves=tuple(sorted((pod, pods[pod].node, name) for name, held in targets for pod in held)),
        plan=plan,
        rent_before=rent,
        rent_after=rent + change,
        objective_before=objective,
        objective_after=objective + change + charges,
        unpriced=tuple(c.node for c in found if c.price_per_hour is None),
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

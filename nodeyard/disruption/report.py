"""A played consolidation as JSON: what `nodeyard simulate consolidate --output json` shows.

Nodes are written as in a plan, those that ran before with `existing`; money is USD per hour.
"""

from typing import Any

from nodeyard.disruption.arrangement import Arrangement, Place
from nodeyard.disruption.consolidation import Played

Json = dict[str, Any]


def played_json(played: Played) -> Json:
    """The documented form."""
    after = played.after
    return {
        "before": _cost(played.before),
        "after": {
            **_cost(after),
            "nodes": [_node(place, after) for _, place in sorted(after.places.items())],
        },
        "lowerBound": played.bound,
        "steps": _steps(played),
        "kept": [
            {"node": name, "reason": f"{block.rule.value}: {block.message}"}
            for name, block in sorted(played.kept.items())
            if name in after.places
        ],
        "unschedulable": [{"pod": pod} for pod in played.unplaced],
        "seconds": round(played.seconds, 3),
    }


def _steps(played: Played) -> list[Json]:
    """Each with the nodes it launches, and where every pod that it moves goes."""
    at = {key: name for name, held in played.before.held.items() for key in held}
    out = []
    for step in played.steps:
        out.append(
            {
                "remove": list(step.remove),
                "add": list(step.add),
                "evictions": step.evictions,
                "savesPerHour": step.saves_per_hour,
                "reason": step.reason,
                "launch": [_described(played.made[name]) for name in step.add],
                "moves": [
                    {"pod": pod, "from": at.get(pod, ""), "to": node}
                    for pod, node in sorted(step.moves.items())
                ],
            }
        )
        at |= step.moves
    return out


def _cost(arrangement: Arrangement) -> Json:
    return {"pricePerHour": arrangement.rent, "objectivePerHour": arrangement.cost}


def _node(place: Place, arrangement: Arrangement) -> Json:
    return {
        **_described(place),
        "existing": place.planned is None,
        "pods": sorted(arrangement.held.get(place.name, ())),
    }


def _described(place: Place) -> Json:
    return {
        "name": place.name,
        "nodePool": place.pool,
        "instanceType": place.instance_type,
        "zone": place.zone,
        "capacityType": place.capacity_type,
        "pricePerHour": place.price,
        "nodeChargePerHour": place.charge,
        "labels": place.node.labels,
        "taints": [{"key": t.key, "value": t.value, "effect": t.effect} for t in place.node.taints],
    }

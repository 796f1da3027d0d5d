"""A plan as JSON: what `nodeyard plan --output json`, the dry run and the console show."""

from typing import Any

from nodeyard.provisioning.model import Cost, OfferingRef, Plan, PlannedNode, Unschedulable
from nodeyard.state.cluster import Snapshot

Json = dict[str, Any]


def plan_json(plan: Plan, snapshot: Snapshot | None = None) -> Json:
    """The plan in the documented form; times in seconds, money in USD per hour."""
    return {
        "nodes": [_node(n) for n in plan.nodes],
        "existing": [{"node": p.node, "pods": list(p.pods)} for p in plan.existing],
        "unschedulable": [_left_out(u) for u in plan.unschedulable],
        "cost": _cost(plan.cost),
        "complete": plan.complete,
        "seconds": {
            "parse": 0.0,
            "plan": round(plan.plan_s, 6),
            "bound": round(plan.bound_s, 6),
            "total": round(plan.plan_s + plan.bound_s, 6),
        },
    }


def _node(node: PlannedNode) -> Json:
    return {
        "name": node.name,
        "nodePool": node.pool,
        **_offering(node),
        **({"priceSource": node.price_source} if node.price_source else {}),
        "labels": node.labels,
        "taints": [{"key": t.key, "value": t.value, "effect": t.effect} for t in node.taints],
        "pods": list(node.pods),
        "alternatives": [_offering(a) for a in node.alternatives],
        "nodeChargePerHour": node.node_charge_per_hour,
        "why": node.why,
        "runnersUp": [_offering(r) for r in node.runners_up],
    }


def _offering(offering: OfferingRef | PlannedNode) -> Json:
    return {
        "instanceType": offering.instance_type,
        "zone": offering.zone,
        "capacityType": offering.capacity_type,
        "pricePerHour": offering.price_per_hour,
        **({"reservation": offering.reservation} if offering.reservation else {}),
    }


def _left_out(one: Unschedulable) -> Json:
    return {
        "pod": one.pod,
        "reason": str(one.reason),
        "message": one.message,
        "details": [
            {
                "nodePool": d.pool,
                "reason": d.reason,
                "message": d.message,
                "excluded": d.excluded,
                "nearest": d.nearest,
                "hint": d.hint,
            }
            for d in one.details
        ],
    }


def _cost(cost: Cost) -> Json:
    return {
        "pricePerHour": cost.price_per_hour,
        "nodeChargePerHour": cost.node_charge_per_hour,
        "objectivePerHour": cost.objective_per_hour,
        "preferencesPerHour": cost.preferences_per_hour,
        **({"riskPerHour": cost.risk_per_hour} if cost.risk_per_hour else {}),
        "dearestPerHour": cost.dearest_per_hour,
        "lowerBound": cost.lower_bound,
        "gap": cost.gap,
        "boundIgnores": list(cost.bound_ignores),
    }

"""A plan for people: nodes with their pods summed by workload, the cost beside its bound, and what was left out."""

from __future__ import annotations

import re
from collections import Counter
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from nodeyard.provisioning.model import Cost, Plan
from nodeyard.state.cluster import Snapshot

_NUMBER: Final = re.compile(r"-\d+$")
"""Pods without an owner that differ by a number alone are shown together."""


def render(plan: Plan, snapshot: Snapshot) -> RenderableType:
    """The plan as tables."""
    parts: list[RenderableType] = [_nodes(plan, snapshot)] if plan.nodes else [Text("no new node is needed")]
    if plan.existing:
        parts.append(_existing(plan, snapshot))
    if plan.unschedulable:
        parts.append(_left_out(plan, snapshot))
    parts.append(_cost(plan.cost))
    if not plan.complete:
        parts.append(Text("the deadline cut the search short; the plan is valid", style="yellow"))
    parts.append(Text(f"planned in {plan.plan_s:.3f} s, bound in {plan.bound_s:.3f} s", style="dim"))
    return Group(*parts)


def _workload(snapshot: Snapshot, key: str) -> str:
    pod = snapshot.pods[key]
    return f"{pod.namespace}/{pod.owner_name}" if pod.owner_name else _NUMBER.sub("-*", key)


def _summed(snapshot: Snapshot, pods: tuple[str, ...]) -> str:
    counts = Counter(_workload(snapshot, key) for key in pods)
    shown = [f"{count}×{name}" if count > 1 else name for name, count in counts.most_common(6)]
    rest = len(counts) - len(shown)
    return ", ".join(shown) + (f" and {rest} more workloads" if rest > 0 else "")


def _nodes(plan: Plan, snapshot: Snapshot) -> Table:
    table = Table("node", "pool", "type", "zone", "capacity", "$/h", "pods", "of", "also", title="new nodes")
    for node in plan.nodes:
        table.add_row(
            node.name,
            node.pool,
            node.instance_type,
            node.zone,
            node.capacity_type,
            f"{node.price_per_hour:.4f}",
            str(len(node.pods)),
            _summed(snapshot, node.pods),
            f"{len(node.alternatives)} more" if node.alternatives else "",
        )
    return table


def _existing(plan: Plan, snapshot: Snapshot) -> Table:
    table = Table("node", "pods", "of", title="onto nodes that exist")
    for placement in plan.existing:
        table.add_row(placement.node, str(len(placement.pods)), _summed(snapshot, placement.pods))
    return table


def _left_out(plan: Plan, snapshot: Snapshot) -> Table:
    table = Table("pods", "workload", "reason", "why", title="not placed")
    groups: dict[tuple[str, str, str], int] = {}
    for left in plan.unschedulable:
        group = (_workload(snapshot, left.pod), str(left.reason), left.message)
        groups[group] = groups.get(group, 0) + 1
    for (workload, reason, message), count in sorted(groups.items()):
        table.add_row(str(count), workload, reason, message)
    return table


def _cost(cost: Cost) -> Text:
    text = f"rent ${cost.price_per_hour:.4f}/h"
    if cost.node_charge_per_hour:
        text += f", node charges ${cost.node_charge_per_hour:.4f}/h (not money spent)"
    if cost.dearest_per_hour > cost.price_per_hour + 5e-5:
        text += f", rent up to ${cost.dearest_per_hour:.4f}/h if every node falls back"
    if cost.preferences_per_hour:
        text += f", preferences not kept ${cost.preferences_per_hour:.4f}/h"
    if cost.lower_bound is not None and cost.gap is not None:
        text += f"; no plan can be below ${cost.lower_bound:.4f}/h: at most {100 * cost.gap:.1f} % above the optimum"
        if cost.bound_ignores:
            text += f" (the bound leaves out {', '.join(cost.bound_ignores)})"
    return Text(text)

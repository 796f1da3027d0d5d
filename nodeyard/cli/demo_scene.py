"""What the demo sees at one moment, and how it is drawn: as a live board, or as one line when unattended."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Scene:
    """Pods, nodes, claims and events as the API server has them; prices and decisions as admin tells them; the
    account's running cost in USD per hour.
    """

    pods: list[Json]
    nodes: list[Json]
    claims: list[Json]
    events: list[Json]
    priced: list[Json]
    decisions: list[Json]
    rate: float

    @property
    def running(self) -> int:
        return self.phases["Running"]

    @property
    def phases(self) -> Counter[str]:
        return Counter(pod["status"].get("phase", "Pending") for pod in self.pods)

    def refusals(self, workload: str) -> list[str]:
        """Messages of our FailedScheduling events about a workload's pods, newest first (not kube-scheduler's)."""
        mine = [
            event
            for event in self.events
            if event["reason"] == "FailedScheduling"
            and event["involvedObject"].get("name", "").startswith(f"{workload}-")
            and event.get("source", {}).get("component", event.get("reportingComponent"))
            != "default-scheduler"
            and event.get("reportingComponent") != "default-scheduler"
        ]
        mine.sort(key=lambda e: e.get("lastTimestamp") or e.get("eventTime") or "", reverse=True)
        return [event.get("message", "") for event in mine]


def line(scene: Scene) -> str:
    """The scene in one line."""
    phases = ", ".join(f"{count} {phase}" for phase, count in sorted(scene.phases.items())) or "none"
    types = Counter(
        node["metadata"]["labels"].get("node.kubernetes.io/instance-type", "?") for node in scene.nodes
    )
    nodes = ", ".join(f"{count}×{kind}" for kind, count in sorted(types.items())) or "none"
    return f"pods: {phases} · claims: {len(scene.claims)} · nodes: {nodes} · ${scene.rate:.4f}/h"


def board(scene: Scene) -> RenderableType:
    """The scene as tables: workloads, nodes, decisions."""
    return Group(_workloads(scene), _nodes(scene), _decisions(scene))


def _workloads(scene: Scene) -> Table:
    table = Table(
        "workload", "pending", "running", "other", title=f"pods · ${scene.rate:.4f}/h", title_justify="left"
    )
    by_app: dict[str, Counter[str]] = {}
    for pod in scene.pods:
        app = pod["metadata"].get("labels", {}).get("app", pod["metadata"]["name"])
        by_app.setdefault(app, Counter())[pod["status"].get("phase", "Pending")] += 1
    for app, phases in sorted(by_app.items()):
        other = phases.total() - phases["Pending"] - phases["Running"]
        table.add_row(app, str(phases["Pending"]), str(phases["Running"]), str(other))
    return table


def _nodes(scene: Scene) -> Table:
    table = Table(
        "claim",
        "pool",
        "type",
        "zone",
        "capacity",
        "$/h",
        "pods",
        "phase",
        title="nodes",
        title_justify="left",
    )
    for node in scene.priced:
        price = node.get("pricePerHour")
        table.add_row(
            node.get("nodeClaim", ""),
            node.get("pool", ""),
            node.get("instanceType", ""),
            node.get("zone", ""),
            node.get("capacityType", ""),
            "" if price is None else f"{price:.4f}",
            str(node.get("pods", 0)),
            node.get("phase", ""),
        )
    return table


def _decisions(scene: Scene) -> Table:
    table = Table("time", "service", "decision", "subject", "why", title="decisions", title_justify="left")
    for decision in scene.decisions:
        at = datetime.fromtimestamp(decision["at"], UTC).strftime("%H:%M:%S")
        why = decision.get("message") or decision.get("reason", "")
        table.add_row(at, decision["service"], decision["kind"], decision["subject"], why[:90])
    return table

"""The demo's closing figures, from the API server's objects and the account's bill alone."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from nodeyard.cli.demo_scene import Scene

Json = dict[str, Any]
Facts = list[tuple[str, str]]


def summary(scene: Scene, account: Json) -> Facts:
    """(what, value) lines: times from the pods' conditions, money from the account."""
    running = [pod for pod in scene.pods if pod["status"].get("phase") == "Running"]
    asked = min(_time(pod["metadata"]["creationTimestamp"]) for pod in running)
    bound = sorted(_since(pod, "PodScheduled") - asked for pod in running)
    ready = sorted(_since(pod, "Ready") - asked for pod in running)
    rented = [i for i in account["instances"] if i["ended_at"] is None]
    spot = sum(i["capacity_type"] == "spot" for i in rented)
    return [
        (
            "from the first pod's creation to the first bound",
            f"{bound[0]:.0f} s (the API server counts whole seconds)",
        ),
        ("… to all running", f"{ready[-1]:.0f} s"),
        ("pods running", f"{len(running)} of {len(scene.pods)}"),
        ("machines", f"{len(rented)} ({spot} spot, {len(rented) - spot} on demand)"),
        ("cost", f"${account['rate_usd_per_hour']:.4f} per hour"),
    ]


def _time(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def _since(pod: Json, kind: str) -> float:
    return next(
        (_time(c["lastTransitionTime"]) for c in pod["status"].get("conditions", []) if c["type"] == kind),
        0.0,
    )

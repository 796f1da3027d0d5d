"""The demo's closing figures, from the API server's objects and the account's bill alone."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from math import ceil
from typing import Any

from nodeyard.api.quantity import parse
from nodeyard.cli.demo_scene import Scene

Json = dict[str, Any]
Facts = list[tuple[str, str]]
ARCH = "kubernetes.io/arch"


def summary(scene: Scene, account: Json, offerings: Iterable[Json]) -> Facts:
    """(what, value) lines: times from the pods' conditions, money from the account, a comparison from the prices."""
    running = [pod for pod in scene.pods if pod["status"].get("phase") == "Running"]
    asked = min(_time(pod["metadata"]["creationTimestamp"]) for pod in running)
    bound = sorted(_since(pod, "PodScheduled") - asked for pod in running)
    ready = sorted(_since(pod, "Ready") - asked for pod in running)
    rented = [i for i in account["instances"] if i["ended_at"] is None]
    spot = sum(i["capacity_type"] == "spot" for i in rented)
    facts = [
        (
            "from the first pod's creation to the first bound",
            f"{bound[0]:.0f} s (the API server counts whole seconds)",
        ),
        ("… to all running", f"{ready[-1]:.0f} s"),
        ("pods running", f"{len(running)} of {len(scene.pods)}"),
        ("machines", f"{len(rented)} ({spot} spot, {len(rented) - spot} on demand)"),
        ("cost", f"${account['rate_usd_per_hour']:.4f} per hour"),
    ]
    if single := cheapest_single_type(running, offerings):
        kind, count, price = single
        facts.append(
            ("the cheapest single type, on demand, would cost", f"${price:.4f} per hour ({count}×{kind})")
        )
    return facts


def cheapest_single_type(pods: list[Json], offerings: Iterable[Json]) -> tuple[str, int, float] | None:
    """(type, nodes, USD per hour) of the cheapest way to hold all these pods on one on-demand type per architecture.

    Counts summed cpu, memory and pods against the whole machine, which flatters the single type: what the kubelet
    reserves, spreading and rounding per machine are left out.
    Types of two architectures are joined with "+".
    """
    by_arch: dict[str, list[Json]] = {}
    for pod in pods:
        by_arch.setdefault(pod["spec"].get("nodeSelector", {}).get(ARCH, "amd64"), []).append(pod)
    cheapest: dict[str, Json] = {}
    for offering in offerings:
        known = cheapest.get(offering["instanceType"])
        if offering["capacityType"] == "on-demand" and (
            known is None or offering["priceUsdPerHour"] < known["priceUsdPerHour"]
        ):
            cheapest[offering["instanceType"]] = offering
    found = [best for arch, group in by_arch.items() if (best := _best(arch, group, cheapest.values()))]
    if len(found) != len(by_arch) or not found:
        return None
    return (
        "+".join(kind for kind, _, _ in found),
        sum(n for _, n, _ in found),
        sum(price for _, _, price in found),
    )


def _best(arch: str, pods: list[Json], offerings: Iterable[Json]) -> tuple[str, int, float] | None:
    need = {"cpu": 0, "memory": 0, "pods": len(pods)}
    largest = {"cpu": 0, "memory": 0, "pods": 1}
    for pod in pods:
        for resource in ("cpu", "memory"):
            amount = sum(
                parse(resource, str(c.get("resources", {}).get("requests", {}).get(resource, "0")))
                for c in pod["spec"]["containers"]
            )
            need[resource] += amount
            largest[resource] = max(largest[resource], amount)
    best: tuple[str, int, float] | None = None
    for offering in offerings:
        room = {"cpu": offering["vcpus"] * 1000, "memory": offering["memoryMiB"] * 2**20, "pods": 110}
        if offering["arch"] != arch or any(room[r] < largest[r] for r in need):
            continue
        count = max(ceil(need[r] / room[r]) for r in need)
        cost = count * offering["priceUsdPerHour"]
        if best is None or cost < best[2]:
            best = (offering["instanceType"], count, cost)
    return best


def _time(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def _since(pod: Json, kind: str) -> float:
    return next(
        (_time(c["lastTransitionTime"]) for c in pod["status"].get("conditions", []) if c["type"] == kind),
        0.0,
    )

"""The main job's figures, on a stand: 800 pods of 45 deployments, and from refusal to CreateFleet.

Printed as tables. Times depend on the machine and on what else runs on it; the table says how loaded it was.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from typing import Any

import httpx
import pytest
from rich.console import Console
from rich.table import Table

from tests.e2e.conftest import YardFactory, make_yard
from tests.support.cluster import eventually
from tests.support.pod_times import PodTimes
from tests.support.yard import PODS, Yard, deployment, node_class, node_pool

pytestmark = [pytest.mark.cluster, pytest.mark.benchmark, pytest.mark.timeout(600)]
__all__ = ["make_yard"]

DEPLOYMENTS, PODS_IN_ALL = 45, 800
CPUS, MEMORY = (100, 250, 500, 1000, 2000), (128, 256, 512, 1024, 2048, 4096)


def workloads() -> list[dict[str, Any]]:
    """45 deployments, 800 pods, sizes in a fixed pattern."""
    counts = [PODS_IN_ALL // DEPLOYMENTS + (i < PODS_IN_ALL % DEPLOYMENTS) for i in range(DEPLOYMENTS)]
    return [
        deployment(f"d{i:02d}", n, {"cpu": f"{CPUS[i % 5]}m", "memory": f"{MEMORY[i % 6]}Mi"}, tolerations=[])
        for i, n in enumerate(counts)
    ]


def dialled(yard: Yard) -> None:
    yard.dial("PUT", "machines", {"register_seconds": 0.0})
    yard.apply(
        node_class(), node_pool(disruption={"consolidationPolicy": "WhenEmpty", "consolidateAfter": "Never"})
    )
    time.sleep(3.0)  # let the pool become ready: it is there long before the pods in life


def rounds(yard: Yard) -> float:
    """Planning rounds so far, over all allocators."""
    total = 0.0
    for replica in range(yard.stand.options.replicas):
        text = httpx.get(f"{yard.stand.endpoint('allocator', replica).url}/metrics").text
        for line in text.splitlines():
            if line.startswith("karpenter_scheduler_scheduling_duration_seconds_count"):
                total += float(line.rpartition(" ")[2])
    return total


def planned_places(yard: Yard) -> dict[str, str]:
    """Pod name -> node name, as the claims say."""
    places: dict[str, str] = {}
    for claim in yard.claims():
        planned = json.loads(claim["metadata"]["annotations"].get("nodeyard.dev/planned-pods", "[]"))
        places |= {key.partition("/")[2]: claim["status"].get("nodeName", "") for key in planned}
    return places


@pytest.mark.parametrize("mode", ["nominate", "bind"])
def test_800_pods_of_45_deployments(make_yard: YardFactory, mode: str) -> None:
    yard = make_yard(replicas=1, service_settings={"allocator": {"NODEYARD_PLACEMENT_MODE": mode}})
    dialled(yard)
    before = rounds(yard)
    with PodTimes(yard.stand.api()) as seen:
        began = time.time()
        yard.apply(*workloads())
        assert seen.wait(lambda s: len(s.running) == PODS_IN_ALL, within_s=120), f"{len(seen.running)} run"
    last_refused = max(seen.refused.values())
    places = planned_places(yard)
    astray = sum(places.get(name) != node for name, node in seen.node_of.items())
    cost = yard.dial("GET", "cost")
    table = Table(
        "mode", "what", "figure", "wanted", title=f"800 pods, load average {os.getloadavg()[0]:.1f}"
    )
    for what, figure, wanted in (
        ("last refusal, from creation", f"{last_refused - began:.2f} s", "about 6 s"),
        (
            "first pod placed, from the last refusal",
            f"{min(seen.placed.values()) - last_refused:.2f} s",
            "< 3 s",
        ),
        ("all Running, from the last refusal", f"{max(seen.running.values()) - last_refused:.2f} s", "< 8 s"),
        ("all Running, from creation", f"{max(seen.running.values()) - began:.2f} s", "24 s (Karpenter)"),
        ("planning rounds", f"{rounds(yard) - before:.0f}", "1"),
        ("pods elsewhere than planned", str(astray), "0"),
        ("nodes, USD per hour", f"{cost['running']}, {cost['rate_usd_per_hour']:.3f}", ""),
    ):
        table.add_row(mode, what, figure, wanted)
    Console(width=120).print(table)
    assert len(yard.items(PODS)) == PODS_IN_ALL


def test_from_the_last_refusal_to_create_fleet(make_yard: YardFactory) -> None:
    yard = make_yard(replicas=1)
    dialled(yard)
    taken: list[float] = []
    for trial in range(8):
        yard.dial("DELETE", "calls")
        name = f"t{trial}"
        with PodTimes(yard.stand.api(), prefix=f"{name}-") as seen:
            yard.apply(deployment(name, 100, {"cpu": "900m", "memory": "1700Mi"}))
            assert seen.wait(
                lambda s: len(s.refused) + len(s.placed.keys() - s.refused.keys()) >= 100, within_s=60
            )
            eventually(lambda: yard.calls("CreateFleet"), within_s=30)
            assert seen.wait(lambda s: len(s.running) == 100, within_s=60)
        last = max(seen.refused.values())
        taken += [call["at"] - last for call in yard.calls("CreateFleet") if call["at"] > last]
    over = sorted(1000 * (t - 1.0) for t in taken)
    p95 = over[min(len(over) - 1, round(0.95 * len(over)))]
    table = Table("what", "figure", "wanted", title=f"100 pods, load average {os.getloadavg()[0]:.1f}")
    table.add_row("CreateFleet calls", str(len(over)), "")
    table.add_row("past the batch idle window, median", f"{statistics.median(over):.0f} ms", "")
    table.add_row("past the batch idle window, p95", f"{p95:.0f} ms", "150 ms")
    Console(width=120).print(table)
    assert over

"""What the live reallocator makes of a cluster that was scaled down: 800 pods in eight waves, then 259, on demand.

Counted from the moment that the pool allows consolidation: how long until nothing goes any more, the dearest moment, the
evictions, the longest a pod waited, and the objective at the end beside the bound that `nodeyard simulate consolidate`
proves for the same pods. The cost is read from the account, nodes and pods from the API server.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from tests.benchmark.test_main_job import workloads
from tests.e2e.conftest import YardFactory, make_yard
from tests.support.yard import EVENTS, NODEPOOLS, PODS, Yard, node_class, node_pool

pytestmark = [pytest.mark.cluster, pytest.mark.benchmark, pytest.mark.timeout(900)]
__all__ = ["make_yard"]

WAVES, LEFT = 8, 259
CHARGE = 0.01
QUIET_S, LONGEST_S = 45.0, 240.0
ON_DEMAND = [
    {"key": "kubernetes.io/arch", "operator": "In", "values": ["amd64"]},
    {"key": "karpenter.sh/capacity-type", "operator": "In", "values": ["on-demand"]},
    {"key": "karpenter.k8s.aws/instance-category", "operator": "In", "values": ["c", "m", "r"]},
]
OPEN = {
    "consolidationPolicy": "WhenEmptyOrUnderutilized",
    "consolidateAfter": "0s",
    "budgets": [{"nodes": "100%"}],
}


def running(yard: Yard) -> int:
    return sum(p["status"].get("phase") == "Running" for p in yard.items(PODS))


def wait_running(yard: Yard, count: int) -> None:
    deadline = time.monotonic() + 300
    while running(yard) != count or len(yard.items(PODS)) != count:
        assert time.monotonic() < deadline, f"{running(yard)} pods run, not {count}"
        time.sleep(0.5)


def proved(yard: Yard, directory: Path) -> dict[str, Any]:
    """What a simulation says of the cluster as it is now."""
    nodeyard = [sys.executable, "-m", "nodeyard.cli.main"]
    environment = {**os.environ, **yard.stand.aws_environment}
    catalog, cluster = directory / "catalog.jsonl", directory / "cluster.json"
    subprocess.run([*nodeyard, "catalog", "export", "-o", str(catalog)], env=environment, check=True)
    kinds = {"/api/v1/nodes": ("v1", "Node"), PODS: ("v1", "Pod"), NODEPOOLS: ("karpenter.sh/v1", "NodePool")}
    objects = []
    for path, (version, kind) in kinds.items():
        objects += [{**item, "apiVersion": version, "kind": kind} for item in yard.items(path)]
    cluster.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
    command = ["simulate", "consolidate", "-f", str(cluster), "--catalog", str(catalog), "--output", "json"]
    command += ["--disruption-price", "0"]
    said = subprocess.run([*nodeyard, *command], stdout=subprocess.PIPE, check=True).stdout
    answer: dict[str, Any] = json.loads(said)
    return answer


def test_a_cluster_scaled_down_to_259_pods(make_yard: YardFactory, tmp_path: Path) -> None:
    yard = make_yard(replicas=1, settings={"NODEYARD_EVICTION_COST": "0"})
    yard.dial("PUT", "machines", {"register_seconds": 0.0})
    yard.apply(
        node_class(),
        node_pool(
            requirements=ON_DEMAND,
            disruption={"consolidationPolicy": "WhenEmpty", "consolidateAfter": "Never"},
        ),
    )
    deployments, applied = workloads(), 0
    for wave in range(WAVES):
        now = deployments[wave::WAVES]
        yard.apply(*now)
        applied += sum(d["spec"]["replicas"] for d in now)
        wait_running(yard, applied)
    peak = yard.dial("GET", "cost")["rate_usd_per_hour"]
    for number, deployment in enumerate(deployments):
        yard.scale(
            deployment["metadata"]["name"], LEFT // len(deployments) + (number < LEFT % len(deployments))
        )
    wait_running(yard, LEFT)
    start = yard.dial("GET", "cost")
    before = {p["metadata"]["uid"] for p in yard.items(PODS)}
    yard.kube.patch(f"{NODEPOOLS}/general", {"spec": {"disruption": OPEN}})
    began = moved = time.monotonic()
    rate = dearest = start["rate_usd_per_hour"]
    launched, pending_since, longest_pending = start["launched"], {}, 0.0
    while (moved == began or time.monotonic() - moved < QUIET_S) and time.monotonic() - began < LONGEST_S:
        cost = yard.dial("GET", "cost")
        if (cost["rate_usd_per_hour"], cost["launched"]) != (rate, launched):
            rate, launched, moved = cost["rate_usd_per_hour"], cost["launched"], time.monotonic()
        dearest = max(dearest, rate)
        moment, waiting = time.monotonic(), set()
        for pod in yard.items(PODS):
            if pod["status"].get("phase") == "Pending":
                waiting.add(pod["metadata"]["uid"])
                since = pending_since.setdefault(pod["metadata"]["uid"], moment)
                longest_pending = max(longest_pending, moment - since)
        time.sleep(0.2)
    evicted = [e for e in yard.items(EVENTS) if e["reason"] == "Evicted"]
    end = proved(yard, tmp_path)
    objective = rate + CHARGE * len(yard.instances())
    table = Table("what", "figure", "wanted", title=f"259 of 800 pods, load {os.getloadavg()[0]:.1f}")
    for what, figure, wanted in (
        ("at the peak, 800 pods", f"{peak:.3f} USD/h", "39.8 (Karpenter)"),
        ("before consolidation", f"{start['rate_usd_per_hour']:.3f} USD/h", ""),
        ("dearest moment", f"{dearest / start['rate_usd_per_hour']:.1%}", "< 110 %"),
        ("at the end, rent", f"{rate:.3f} USD/h on {len(yard.instances())} nodes", ""),
        ("objective over the bound", f"{objective / end['lowerBound'] - 1:.1%}", "< 5 %"),
        ("last change after", f"{moved - began:.0f} s", "< 120 s"),
        ("pods replaced by others", str(len(before - {p["metadata"]["uid"] for p in yard.items(PODS)})), ""),
        ("evictions", str(sum(e.get("count") or 1 for e in evicted)), "< 265"),
        ("longest pending", f"{longest_pending:.1f} s", "< 5 s"),
    ):
        table.add_row(what, figure, wanted)
    Console(width=120).print(table)
    assert running(yard) == LEFT

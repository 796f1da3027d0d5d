"""How long one pass of the live reallocator takes over a large cluster, and again after one node has changed.

Clusters come from `consolidation_clusters` on an invented market; times are processor seconds of the pass alone, on a
ready view. A pass ends by itself at its own deadline, so the table says whether it looked at every node.
"""

from __future__ import annotations

import json
import resource
import time

import msgspec
import pytest
from rich.console import Console
from rich.table import Table

from nodeyard.cloudprovider.jsonl import read_catalogue
from nodeyard.disruption.burdens import Burdens
from nodeyard.disruption.completing import completed
from nodeyard.disruption.methods import decide
from nodeyard.disruption.model import Outcome, View
from nodeyard.provisioning.model import Options, Plan, Problem
from nodeyard.provisioning.planner import plan
from nodeyard.state.cluster import Snapshot
from nodeyard.state.manifests import snapshot_from
from tests.benchmark.consolidation_clusters import fresh_waves
from tests.support.invented_market import three_families

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(1200)]


def planner(problem: Problem) -> Plan:
    return plan(problem, Options(deadline_s=10.0, bound=False), time.process_time)


def timed(view: View, burdens: Burdens) -> tuple[Outcome, float]:
    began = time.process_time()
    outcome = decide(view, planner, time.process_time, burdens=burdens)
    return outcome, time.process_time() - began


def with_one_node_changed(snapshot: Snapshot) -> Snapshot:
    name, node = next(iter(snapshot.nodes.items()))
    changed = msgspec.structs.replace(node, labels={**node.labels, "changed": "yes"})
    return msgspec.structs.replace(snapshot, nodes={**snapshot.nodes, name: changed})


@pytest.mark.parametrize(("nodes", "wanted_s"), [(1_000, 5.0), (5_000, 60.0)])
def test_a_pass_over_a_large_cluster_and_another_after_one_change(nodes: int, wanted_s: float) -> None:
    entries = three_families()
    market = {"": read_catalogue([json.dumps(e).encode() for e in entries.values()], revision="invented")}
    snapshot = completed(snapshot_from(fresh_waves(entries, nodes, 1)), market)
    burdens = Burdens()
    first, first_s = timed(View(snapshot, market, time.time()), burdens)
    again, again_s = timed(View(with_one_node_changed(snapshot), market, time.time()), burdens)
    table = Table(
        "what",
        "figure",
        "wanted",
        title=f"{len(snapshot.nodes)} nodes, {len(snapshot.pods)} pods, {len(snapshot.shapes)} shapes",
    )
    for what, outcome, seconds, wanted in (
        ("first pass", first, first_s, f"{wanted_s:.0f} s"),
        ("after one node's change", again, again_s, "1 s"),
    ):
        late = sum(any(b.rule == "Deadline" for b in p.blocks) for p in outcome.proposals)
        goes = len(outcome.command.candidates) if outcome.command is not None else 0
        told = f"{seconds:.2f} s, {goes} nodes go, {late} nodes not looked at in time"
        table.add_row(what, told, wanted)
    table.add_row("memory", f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB", "2,048 MB")
    Console(width=120).print(table)
    assert first.proposals
    assert again.proposals

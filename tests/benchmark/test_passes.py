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

from nodeyard.api import labels as keys
from nodeyard.cloudprovider.jsonl import read_catalogue
from nodeyard.disruption.burdens import Burdens
from nodeyard.disruption.completing import completed
from nodeyard.disruption.methods import decide
from nodeyard.disruption.model import Outcome, View
from nodeyard.disruption.simulation import effort_s
from nodeyard.disruption.vicinity import Answers
from nodeyard.provisioning.model import Options, Plan, Problem
from nodeyard.provisioning.planner import plan
from nodeyard.state.cluster import Change, Kind, Snapshot, snapshot_of
from nodeyard.state.manifests import snapshot_from
from tests.benchmark.consolidation_clusters import fresh_waves
from tests.support.invented_market import three_families

MIB = 2**20
pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(1200)]


def planner(problem: Problem) -> Plan:
    """As the reallocator makes it."""
    options = Options(deadline_s=10.0, search_s=effort_s(problem), bound=False)
    return plan(problem, options, time.process_time)


def timed(view: View, burdens: Burdens, answers: Answers) -> tuple[Outcome, float]:
    began = time.process_time()
    outcome = decide(view, planner, time.process_time, burdens=burdens, answers=answers)
    return outcome, time.process_time() - began


def enlarged(snapshot: Snapshot, times: int) -> Snapshot:
    """So many of the cluster side by side, each with deployments of its own that ask for a little less memory than the
    one before: to generate as many nodes one by one takes a quarter of an hour.
    """
    changes: list[Change] = [Change(Kind.POOL, key, pool) for key, pool in snapshot.pools.items()]
    for number in range(times):
        for shape in snapshot.shapes.values():
            less = {r: n - (number * MIB if r == "memory" else 0) for r, n in shape.requests.items()}
            own = msgspec.structs.replace(shape, id=f"{shape.id}-{number}", requests=less)
            changes.append(Change(Kind.SHAPE, own.id, own))
        for node in snapshot.nodes.values():
            name = f"{node.name}-{number}"
            labels = {**node.labels, keys.HOSTNAME: name}
            own_node = msgspec.structs.replace(
                node, name=name, uid=name, labels=labels, provider_id=f"file:///{name}"
            )
            changes.append(Change(Kind.NODE, name, own_node))
        for pod in snapshot.pods.values():
            own_pod = msgspec.structs.replace(
                pod, name=f"{pod.name}-{number}", uid=f"{pod.uid}-{number}", node=f"{pod.node}-{number}",
                shape=f"{pod.shape}-{number}", owner_name=f"{pod.owner_name}-{number}",
            )  # fmt: skip
            changes.append(Change(Kind.POD, own_pod.key, own_pod))
    return snapshot_of(changes)


def with_one_node_changed(snapshot: Snapshot) -> Snapshot:
    """A pod less on the first node that has several, so that there is room for others."""
    name = next(name for name in snapshot.nodes if len(snapshot.pods_on[name]) > 1)
    gone = min(snapshot.pods_on[name])
    pods = {key: pod for key, pod in snapshot.pods.items() if key != gone}
    pods_on = {**snapshot.pods_on, name: snapshot.pods_on[name] - {gone}}
    return msgspec.structs.replace(snapshot, pods=pods, pods_on=pods_on)


@pytest.mark.parametrize(("times", "wanted_s"), [(1, 5.0), (6, 60.0)])
def test_a_pass_over_a_large_cluster_and_another_after_one_change(times: int, wanted_s: float) -> None:
    entries = three_families()
    market = {"": read_catalogue([json.dumps(e).encode() for e in entries.values()], revision="invented")}
    snapshot = completed(enlarged(snapshot_from(fresh_waves(entries, 1_000, 1)), times), market)
    burdens, answers = Burdens(), Answers()
    first, first_s = timed(View(snapshot, market, time.time()), burdens, answers)
    again, again_s = timed(View(with_one_node_changed(snapshot), market, time.time()), burdens, answers)
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

"""How much of what the bound allows a consolidation finds, kind by kind, and how long it takes.

Clusters come from `consolidation_clusters` on an invented market. Each row is one cluster: what it cost, what it costs
at the end, the bound, the share of the savings between them, steps, evictions and seconds.
"""

from __future__ import annotations

import json
import time

import pytest
from rich.console import Console
from rich.table import Table

from nodeyard.cloudprovider.jsonl import read_catalogue
from nodeyard.disruption.completing import completed
from nodeyard.disruption.consolidation import Play, Settings
from nodeyard.disruption.model import View
from nodeyard.provisioning.model import Options
from nodeyard.state.manifests import snapshot_from
from tests.benchmark.consolidation_clusters import clusters
from tests.support.invented_market import three_families

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(1200)]
SIZES = (20, 100, 400)


def test_savings_found_of_those_the_bound_allows() -> None:
    entries = three_families()
    market = {"": read_catalogue([json.dumps(e).encode() for e in entries.values()], revision="invented")}
    table = Table("kind", "nodes", "pods", "before", "after", "bound", "found", "steps", "evictions", "s")
    for kind, _, objects in clusters(entries, SIZES):
        snapshot = completed(snapshot_from(objects), market)
        view = View(snapshot, market, time.time())
        wanted = Settings(disruption_usd=0.0, seconds=20.0)
        played = Play(view, Options(deadline_s=10.0), wanted, time.monotonic).run()
        before, after, bound = played.before.cost, played.after.cost, played.bound
        found = (before - after) / (before - bound) if before > bound else 1.0
        table.add_row(
            kind, str(len(played.before.places)), str(sum(map(len, played.before.held.values()))),
            f"{before:.3f}", f"{after:.3f}", f"{bound:.3f}", f"{found:.1%}", str(len(played.steps)),
            str(sum(s.evictions for s in played.steps)), f"{played.seconds:.1f}",
        )  # fmt: skip
    Console(width=140).print(table)

"""How long the live loop takes to bring a scaled-down cluster to its cheapest nodes, waits and processor time apart.

The services' own loops run on a virtual clock over a cluster that lives by itself (`tests.support.living`): machines take
3 s, pods 1 s to end, drains their least time, the validation wait is the default. So the figures hold on a busy machine.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import pytest
from rich.console import Console
from rich.table import Table

from nodeyard.api.node import Node
from nodeyard.cloudprovider.jsonl import read_catalogue
from nodeyard.disruption.completing import completed
from nodeyard.disruption.model import Options
from nodeyard.provisioning.model import OfferingRef
from nodeyard.provisioning.model import Options as Planning
from nodeyard.provisioning.planner import plan
from nodeyard.state.cluster import Snapshot
from nodeyard.state.manifests import snapshot_from
from tests.benchmark.consolidation_clusters import CAPACITY_TYPE, POOL, TYPE, ZONE, Builder, after_scale_down
from tests.support.invented_market import three_families
from tests.support.living import Living, VirtualClock
from tests.support.reallocating import Replica

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(600)]
CHARGE = 0.01
LAUNCH_S, QUIET_S, LONGEST_S = 3.0, 30.0, 300.0
ENTRIES = three_families()
MARKET = read_catalogue([json.dumps(e).encode() for e in ENTRIES.values()], revision="invented")


def price(kind: str, zone: str, capacity_type: str) -> float:
    offers = next(t.offerings for t in MARKET.types if t.name == kind)
    return next(o.price for o in offers if (o.zone, o.capacity_type) == (zone, capacity_type))


def price_of(node: Node) -> float:
    return price(node.labels[TYPE], node.labels[ZONE], node.labels[CAPACITY_TYPE])


def made(offering: OfferingRef, name: str) -> Node:
    """A node as such an instance becomes it."""
    builder = Builder(ENTRIES, 0, capacity_types=(offering.capacity_type,))
    wanted = (offering.instance_type, offering.zone, offering.capacity_type)
    builder.node(next(o for o in builder.offered if (o.name, o.zone, o.capacity_type) == wanted))
    (node,) = snapshot_from(builder.finished()).nodes.values()
    labels = {**node.labels, "kubernetes.io/hostname": name, POOL: offering.capacity_type}
    return msgspec.structs.replace(node, name=name, labels=labels)


async def played(snapshot: Snapshot) -> dict[str, Any]:
    clock = VirtualClock()
    world = Living(clock, made, LAUNCH_S)
    world.settle(snapshot, price_of)
    start = world.rate

    def planner(problem: Any) -> Any:
        return plan(problem, Planning(node_charge_usd_per_hour=CHARGE, bound=False), clock.monotonic)

    options = Options(node_charge_usd_per_hour=CHARGE, eviction_usd=0.0)
    replica = Replica(world, clock, planner=planner, options=options)  # type: ignore[arg-type]
    replica.prices.catalogue = MARKET
    loops = (
        world.live(), replica.disruption.run_passes(), replica.disruption.run_turns(),
        replica.disruption.run_courses(), replica.termination.run(),
    )  # fmt: skip
    tasks = [asyncio.ensure_future(loop) for loop in loops]

    def over() -> bool:
        quiet = clock.monotonic() - world.changed_at > QUIET_S and world.evictions > 0
        return quiet or clock.monotonic() > LONGEST_S or any(t.done() for t in tasks)

    await clock.pass_until(over)
    for task in tasks:
        if task.done():
            task.result()
        task.cancel()
    return {
        "start": start, "end": world.rate, "nodes": len(world.snapshot().nodes), "evictions": world.evictions,
        "dearest": world.dearest / start, "wait_s": world.longest_wait_s, "took_s": world.changed_at,
        "processor_s": clock.processor_s,
    }  # fmt: skip


def test_a_scaled_down_cluster_in_time() -> None:
    snapshot = completed(snapshot_from(after_scale_down(ENTRIES, 40, 1)), {"": MARKET})
    found = asyncio.run(played(snapshot))
    table = Table("nodes", "pods", "USD/h", "dearest", "evictions", "longest wait", "took", "processor")
    table.add_row(
        f"{len(snapshot.nodes)} → {found['nodes']}", str(len(snapshot.pods)),
        f"{found['start']:.2f} → {found['end']:.2f}", f"{found['dearest']:.1%}", str(found["evictions"]),
        f"{found['wait_s']:.1f} s", f"{found['took_s']:.0f} s", f"{found['processor_s']:.0f} s",
    )  # fmt: skip
    Console(width=140).print(table)
    assert found["dearest"] < 1.101
    assert found["evictions"] <= len(snapshot.pods)
    assert found["wait_s"] < 5.0
    assert found["took_s"] < 120.0

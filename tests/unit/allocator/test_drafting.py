"""A plan made ahead counts only if it is a plan for what is there when the batch closes."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from nodeyard.api import labels as keys
from nodeyard.api.node import Condition, Node, NodeClaim
from nodeyard.api.pod import PodRecord, PodShape
from nodeyard.api.pool import Pool
from nodeyard.api.selectors import Taint
from nodeyard.cloudprovider.model import Catalogue
from nodeyard.provisioning.model import Plan, Problem
from nodeyard.provisioning.pending import pending
from nodeyard.state.cluster import Change, Kind, snapshot_of
from services.allocator.controller import QUIET_S
from services.allocator.drafting import Drafts, Inputs
from tests.support.allocator import Replica, World

CATALOGUES = {"default": Catalogue(())}
NODE = Node(
    "n", resource_version="1", conditions=(Condition("Ready", "True", since=1.0),), allocatable={"cpu": 1}
)


def inputs(*more: Change, node: Node = NODE, catalogues: Any = CATALOGUES) -> Inputs:
    changes = [
        Change(Kind.SHAPE, "s", PodShape("s", "ns")),
        Change(Kind.SHAPE, "t", PodShape("t", "ns")),
        Change(Kind.POD, "ns/p", PodRecord("ns", "p", "u", "s", unschedulable=True)),
        Change(Kind.POOL, "default", Pool("default")),
        Change(Kind.NODE, "n", node),
        *more,
    ]
    snapshot = snapshot_of(changes)
    return Inputs(snapshot, pending(snapshot, 0.0), catalogues)


async def drafted(before: Inputs, after: Inputs) -> bool:
    drafts = Drafts()

    async def make(_: Inputs) -> Plan:
        return Plan(plan_s=1.0)

    drafts.begin(before, make)
    await asyncio.sleep(0)
    return await drafts.take(after) is not None


async def test_a_draft_is_taken_when_nothing_changed() -> None:
    assert await drafted(inputs(), inputs())


async def test_a_heartbeat_changes_nothing() -> None:
    beat = (Condition("Ready", "True", since=99.0),)
    assert await drafted(
        inputs(), inputs(node=msgspec.structs.replace(NODE, resource_version="2", conditions=beat))
    )


async def test_what_is_counted_and_noted_on_pools_and_claims_changes_nothing() -> None:
    claim = NodeClaim("c", resource_version="1", provider_id="i-1")
    pool = Pool("default", resource_version="1")
    later = msgspec.structs.replace(claim, resource_version="2", last_pod_event_at=5.0)
    counted = msgspec.structs.replace(
        pool,
        resource_version="2",
        resources={"nodes": 1},
        conditions=(Condition("Ready", "True", since=9.0),),
    )
    before = inputs(Change(Kind.POOL, "default", pool), Change(Kind.NODE_CLAIM, "c", claim))
    assert await drafted(
        before, inputs(Change(Kind.POOL, "default", counted), Change(Kind.NODE_CLAIM, "c", later))
    )
    gone = msgspec.structs.replace(later, deleted_at=1.0)
    assert not await drafted(
        before, inputs(Change(Kind.POOL, "default", counted), Change(Kind.NODE_CLAIM, "c", gone))
    )


@pytest.mark.parametrize(
    "after",
    [
        inputs(Change(Kind.POD, "ns/q", PodRecord("ns", "q", "v", "s", unschedulable=True))),
        inputs(Change(Kind.POD, "ns/p", None)),
        inputs(Change(Kind.POD, "ns/p", PodRecord("ns", "p", "u", "t", unschedulable=True))),
        inputs(Change(Kind.POD, "ns/r", PodRecord("ns", "r", "w", "s", node="n"))),
        inputs(Change(Kind.POOL, "default", Pool("default", weight=1))),
        inputs(node=msgspec.structs.replace(NODE, taints=(Taint("t", keys.NO_SCHEDULE),))),
        inputs(node=msgspec.structs.replace(NODE, conditions=())),
        inputs(Change(Kind.NODE, "m", Node("m"))),
        inputs(catalogues={"default": Catalogue(())}),
        inputs(catalogues={}),
    ],
    ids=[
        "new pod",
        "pod gone",
        "other shape",
        "pod bound",
        "pool",
        "taint",
        "not ready",
        "new node",
        "prices",
        "class",
    ],
)
async def test_a_change_that_matters_voids_the_draft(after: Inputs) -> None:
    assert not await drafted(inputs(), after)


async def test_a_draft_is_used_once_and_made_once() -> None:
    drafts, made = Drafts(), []

    async def make(given: Inputs) -> Plan:
        made.append(given)
        return Plan()

    drafts.begin(inputs(), make)
    drafts.begin(inputs(), make)
    assert await drafts.take(inputs()) is not None
    assert await drafts.take(inputs()) is None
    assert len(made) == 1


async def test_a_failed_draft_raises_when_it_is_taken_and_is_forgotten_when_it_is_not() -> None:
    async def fail(_: Inputs) -> Plan:
        raise RuntimeError("broken")

    drafts = Drafts()
    drafts.begin(inputs(), fail)
    await asyncio.sleep(0)
    assert await drafts.take(inputs(catalogues={})) is None
    drafts.begin(inputs(), fail)
    with pytest.raises(RuntimeError, match="broken"):
        await drafts.take(inputs())


async def test_pods_that_come_while_a_draft_is_made_get_one_of_their_own_before_the_batch_closes() -> None:
    world, planned = World(), list[int]()
    going_on = threading.Event()

    def slow(problem: Problem, *_: object) -> Plan:
        planned.append(len(problem.pods))
        assert going_on.wait(10.0)
        return Plan()

    replica = Replica(world, planner=slow)
    await replica.classes.refresh()
    drafting = asyncio.create_task(replica.controller.draft())
    for prefix, many in (("first", 1), ("more", 2)):
        world.pending_pods(many, prefix)
        replica.controller.offer(pending(replica.stream.snapshot(), world.clock.now()))
        await world.clock.advance(QUIET_S + 0.01)
        await until(lambda: len(planned) >= 1)
    assert planned == [1]
    going_on.set()
    await until(lambda: len(planned) == 2)
    await replica.controller.round(1)
    assert planned == [1, 3]
    drafting.cancel()


async def until(happened: Callable[[], bool]) -> None:
    """Lets other threads and tasks run until something happened; raises if it does not within some seconds."""
    for _ in range(1000):
        if happened():
            return
        await asyncio.to_thread(threading.Event().wait, 0.01)
    raise AssertionError("it did not happen")

"""From a node that joined to one that is Initialized: nominations, holds and bindings, in a small honest world."""

import asyncio
from collections.abc import Sequence

import msgspec
import pytest

from nodeyard.api import labels as keys
from nodeyard.api.node import INITIALIZED, REGISTERED
from nodeyard.api.selectors import Taint
from nodeyard.provisioning.claims import (
    LAUNCH_RECORD,
)
from nodeyard.provisioning.pending import pending
from nodeyard.state.cluster import Change, Kind
from tests.support.allocator import Replica, World


@pytest.fixture
def world() -> World:
    return World()


# --- registration -----------------------------------------------------------------------------------------------------
async def test_planned_pods_are_nominated_before_the_scheduler_is_let_in(world: World) -> None:
    pods = world.pending_pods(3)
    replica = world.replica()
    await replica.round()
    (name,) = world.api.claims
    node = world.join(name)
    world.api.writes.clear()
    await replica.follow()
    assert world.api.writes[:2] == ["nominate", "register"]
    assert {world.api.pods[key].nominated_node for key in pods} == {node.name}
    registered = world.api.nodes[node.name]
    assert all(t.key != keys.TAINT_UNREGISTERED for t in registered.taints)
    assert registered.labels["team"] == "a"
    assert registered.labels[keys.REGISTERED] == "true"
    assert registered.annotations["note"] == "x"
    assert LAUNCH_RECORD not in registered.annotations
    assert Taint("team", "NoSchedule", "a") in registered.taints
    claim = world.api.claims[name]
    assert claim.is_true(REGISTERED)
    assert claim.node_name == node.name
    assert not claim.is_true(INITIALIZED), "its startup taint is still there"


async def test_a_nomination_taken_back_is_made_again_before_the_node_opens(world: World) -> None:
    world.pending_pods(3)
    replica = world.replica()
    await replica.round()
    world.join(next(iter(world.api.claims)))
    world.api.writes.clear()
    world.api.takes_back = 1
    following = asyncio.create_task(replica.follow())
    await world.clock.advance(1.0)
    await following
    assert world.api.writes[:3] == ["nominate", "nominate", "register"]


async def open_node(world: World, pods: int) -> tuple[Replica, list[str], str]:
    """A replica, pods nominated for a new node, and that node, which is open."""
    keys_ = world.pending_pods(pods)
    replica = world.replica()
    await replica.round()
    node = world.join(next(iter(world.api.claims)))
    await replica.follow()
    world.change_node(node.name, taints=())
    return replica, keys_, node.name


def nominate(world: World, pods: Sequence[str], nodes: Sequence[str]) -> None:
    """The pods' nominations as the kube-scheduler leaves them."""
    for key, node in zip(pods, nodes, strict=True):
        world.api.put(Kind.POD, key, msgspec.structs.replace(world.api.pods[key], nominated_node=node))


async def test_a_nomination_taken_back_later_is_made_again_unless_another_was_made(world: World) -> None:
    replica, pods, node = await open_node(world, 2)
    await replica.follow()
    nominate(world, pods, ("", "where-the-scheduler-preempts"))
    await replica.follow()
    assert [world.api.pods[key].nominated_node for key in pods] == [node, "where-the-scheduler-preempts"]


async def test_a_nomination_is_not_made_again_for_a_place_that_is_taken(world: World) -> None:
    replica, pods, node = await open_node(world, 2)
    requests = next(iter(replica.stream.snapshot().shapes.values())).requests
    world.change_node(node, allocatable={**requests, "pods": 1})
    nominate(world, pods, (node, ""))
    await replica.follow()
    assert [world.api.pods[key].nominated_node for key in pods] == [node, ""]


async def test_a_node_is_opened_as_it_is_then_not_as_it_was_when_its_pods_were_first_nominated(
    world: World,
) -> None:
    world.pending_pods(1)
    replica = world.replica()
    await replica.round()
    node = world.join(next(iter(world.api.claims)))
    world.api.takes_back = 1
    following = asyncio.create_task(replica.follow())
    await asyncio.sleep(0.05)
    world.change_node(node.name, labels={**world.api.nodes[node.name].labels, "late": "yes"})
    await world.clock.advance(1.0)
    await following
    assert world.api.stale_writes == 0
    assert world.api.nodes[node.name].labels["late"] == "yes"


async def test_a_node_is_initialized_once_its_startup_taints_are_gone(world: World) -> None:
    world.pending_pods(1)
    replica = world.replica()
    await replica.round()
    (name,) = world.api.claims
    node = world.join(name)
    await replica.follow()
    taints = tuple(t for t in world.api.nodes[node.name].taints if t.key != "cni")
    world.change_node(node.name, taints=taints)
    await replica.follow()
    assert world.api.claims[name].is_true(INITIALIZED)
    assert world.api.claims[name].is_true("Ready")
    assert world.api.nodes[node.name].labels[keys.INITIALIZED] == "true"


async def test_a_node_that_lacks_a_requested_device_is_not_initialized(world: World) -> None:
    world.pending_pods(1)
    replica = world.replica()
    await replica.round()
    (name,) = world.api.claims
    claim = world.api.claims[name]
    world.api.put(
        Kind.NODE_CLAIM,
        name,
        msgspec.structs.replace(claim, requests={**claim.requests, "nvidia.com/gpu": 1}),
    )
    world.join(name, taints=(Taint(keys.TAINT_UNREGISTERED, keys.NO_EXECUTE),))
    await replica.follow()
    node = world.api.nodes[f"node-{name}"]
    world.change_node(node.name, taints=())
    await replica.follow()
    assert not world.api.claims[name].is_true(INITIALIZED)
    world.clock.skip(6)
    await replica.follow()
    assert world.api.claims[name].condition(INITIALIZED).reason == "ResourceNotRegistered"  # type: ignore[union-attr]


async def test_a_node_that_never_joins_ends_its_claim_for_the_reallocator(world: World) -> None:
    world.pending_pods(1)
    replica = world.replica()
    await replica.round()
    (name,) = world.api.claims
    world.clock.skip(901)
    await replica.follow()
    assert world.api.claims[name].deleting
    assert world.api.claims[name].finalizers, "the reallocator finalizes what was launched"


async def test_pods_that_did_not_land_are_planned_again_half_a_minute_after_initialization(
    world: World,
) -> None:
    world.pending_pods(1)
    replica = world.replica()
    await replica.round()
    (name,) = world.api.claims
    world.join(name, taints=(Taint(keys.TAINT_UNREGISTERED, keys.NO_EXECUTE),))
    await replica.follow()
    world.change_node(f"node-{name}", taints=())
    await replica.follow()
    assert world.api.claims[name].is_true(INITIALIZED)
    assert pending(replica.stream.snapshot(), world.clock.now() + 29).pods == ()
    assert pending(replica.stream.snapshot(), world.clock.now() + 31).pods == ("default/p0",)


# --- bind mode --------------------------------------------------------------------------------------------------------
async def held_world(world: World, **shape: object) -> tuple[object, str]:
    world.pending_pods(2, **shape)
    replica = world.replica(mode="bind")
    await replica.round()
    (name,) = world.api.claims
    world.join(name, ready=False, taints=(Taint(keys.TAINT_UNREGISTERED, keys.NO_EXECUTE),))
    await replica.follow()
    return replica, f"node-{name}"


async def test_a_held_node_gets_its_pods_bound_once_ready_and_is_let_go(world: World) -> None:
    replica, node = await held_world(world)
    assert any(t.key == keys.BIND_HOLD for t in world.api.nodes[node].taints)
    assert all(not pod.node and not pod.nominated_node for pod in world.api.pods.values())
    ready = (msgspec.structs.replace(world.api.nodes[node].conditions[0], status="True"),)
    world.change_node(node, taints=(Taint(keys.BIND_HOLD, keys.NO_SCHEDULE),), conditions=ready)
    await replica.follow()  # type: ignore[attr-defined]
    assert {pod.node for pod in world.api.pods.values()} == {node}
    assert all(t.key != keys.BIND_HOLD for t in world.api.nodes[node].taints)


async def test_a_held_node_is_starting_however_long_its_allocator_is_away_and_its_pods_stay_promised(
    world: World,
) -> None:
    world.fixed[0] = Change(Kind.POOL, "default", msgspec.structs.replace(world.pool, startup_taints=()))
    world.pending_pods(2)
    replica = world.replica(mode="bind")
    await replica.round()
    (name,) = world.api.claims
    world.join(name, taints=(Taint(keys.TAINT_UNREGISTERED, keys.NO_EXECUTE),))
    await replica.follow()
    assert world.api.claims[name].is_true(REGISTERED)
    assert not world.api.claims[name].is_true(INITIALIZED)
    world.clock.skip(60)
    other = world.replica("b", mode="bind")
    world.leases.holders.clear()
    for _ in range(2):
        await other.follow()
    assert world.api.claims[name].is_true(INITIALIZED)
    snapshot, now = other.stream.snapshot(), world.clock.now()
    assert (pending(snapshot, now + 29).pods, len(pending(snapshot, now + 31).pods)) == ((), 2)


async def test_what_the_real_node_can_not_take_is_not_bound(world: World) -> None:
    replica, node = await held_world(world)
    ready = (msgspec.structs.replace(world.api.nodes[node].conditions[0], status="True"),)
    small = {"cpu": 600, "memory": 2**31, "pods": 10}
    hold = (Taint(keys.BIND_HOLD, keys.NO_SCHEDULE),)
    world.change_node(node, taints=hold, conditions=ready, allocatable=small)
    await replica.follow()  # type: ignore[attr-defined]
    assert sorted(pod.node for pod in world.api.pods.values()) == ["", node]


async def test_any_replica_lifts_a_hold_at_its_deadline_and_nominates_instead(world: World) -> None:
    _, node = await held_world(world)
    other = world.replica("b", mode="nominate")
    await other.follow()
    assert any(t.key == keys.BIND_HOLD for t in world.api.nodes[node].taints)
    world.clock.skip(11)
    await other.follow()
    assert all(t.key != keys.BIND_HOLD for t in world.api.nodes[node].taints)
    assert {pod.nominated_node for pod in world.api.pods.values()} == {node}


@pytest.mark.parametrize(
    "shape",
    [
        {"scheduler_name": "other"},
        {"resource_claims": True},
        {"scheduling_gates": True},
        {"gang": "g"},
        {"volume_claims": ("data",)},
        {"requests": {"nvidia.com/gpu": 1}},
    ],
    ids=["scheduler", "claims", "gates", "gang", "volume", "device"],
)
async def test_pods_that_somebody_else_must_act_on_are_never_held_for(
    world: World, shape: dict[str, object]
) -> None:
    from nodeyard.provisioning.landing import landing

    world.pending_pods(1)
    replica = world.replica(mode="bind")
    await replica.round()
    claim = next(iter(world.api.claims.values()))
    snapshot = replica.stream.snapshot()
    (key,) = snapshot.shapes
    odd = msgspec.structs.replace(snapshot.shapes[key], **shape)
    pods = landing(msgspec.structs.replace(snapshot, shapes={key: odd}), claim, "bind")
    assert not pods.bind
    assert len(pods.nominate) == 1

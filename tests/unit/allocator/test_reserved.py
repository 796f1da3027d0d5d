"""Capacity reservations in the allocator: the last place, those who wait for it, refusals, what a claim ends up with."""

from __future__ import annotations

import msgspec
import pytest

from nodeyard.api import labels as keys
from nodeyard.api.node import NodeClaim
from nodeyard.api.nodeclass import NodeClass, ReservationTerm
from nodeyard.api.selectors import Requirement
from nodeyard.cloudprovider.reservations import CapacityReservation
from nodeyard.provisioning.claims import launch_record_of
from nodeyard.provisioning.planner import plan
from nodeyard.state.cluster import Change, Kind
from services.allocator.controller import RETRY_S
from tests.support.allocator import Replica, World

ONE = CapacityReservation("cr-1", "m5.large", "eu-west-1a", 1, 1, tags={"team": "a"})


@pytest.fixture
def world() -> World:
    made = World()
    terms = (ReservationTerm(tags={"team": "a"}),)
    selecting = NodeClass("default", uid="class", generation=1, capacity_reservation_terms=terms)
    bought = Requirement(keys.CAPACITY_TYPE, "In", (keys.RESERVED, keys.ON_DEMAND))
    made.pool = msgspec.structs.replace(made.pool, taints=(), startup_taints=(), requirements=(bought,))
    made.fixed[0] = Change(Kind.POOL, "default", made.pool)
    made.fixed[1] = Change(Kind.NODE_CLASS, "default", selecting)
    made.cloud.reserved, made.cloud.places = (ONE,), {"cr-1": 1}
    made.cloud.counted_at = made.clock.now()
    return made


def replica_of(world: World) -> Replica:
    """One that plans in earnest."""
    made = world.replica()
    made.controller._planner = plan
    return made


def live(world: World) -> list[NodeClaim]:
    return [c for c in world.api.claims.values() if not c.deleting]


def capacity_types(world: World) -> list[str]:
    return sorted(c.labels.get(keys.CAPACITY_TYPE, "") for c in live(world))


LARGE = {"cpu": 1500, "memory": 2**30, "pods": 1}


async def test_of_two_pods_one_gets_the_last_place_and_the_other_falls_back_once_it_is_taken(
    world: World,
) -> None:
    world.pending_pods(2, requests=LARGE)
    replica = replica_of(world)
    await replica.classes.refresh()
    await replica.controller.round(replica.leader.epoch or 0)
    (claim,) = live(world)
    record = launch_record_of(claim)
    assert record is not None
    assert (record.capacity_type, record.reservations["m5.large/eu-west-1a"].id) == ("reserved", "cr-1")
    await replica.controller.round(replica.leader.epoch or 0)
    assert len(live(world)) == 1, "while the place is only promised, nobody falls back"
    assert ("Pod", "p1", "FailedScheduling") not in world.quiet.events
    await replica.follow()
    (claim,) = live(world)
    assert claim.provider_id
    assert (claim.labels[keys.CAPACITY_TYPE], claim.labels[keys.RESERVATION_ID]) == ("reserved", "cr-1")
    assert claim.labels[keys.RESERVATION_TYPE] == "default"
    await world.clock.advance(RETRY_S)
    await replica.round()
    assert capacity_types(world) == ["on-demand", "reserved"]


async def test_a_pod_that_waits_is_offered_again_soon(world: World) -> None:
    pods = world.pending_pods(2, requests=LARGE)
    replica = replica_of(world)
    await replica.classes.refresh()
    await replica.controller.round(replica.leader.epoch or 0)
    soon = world.clock.monotonic() + RETRY_S
    assert [at for key, (at, _) in replica.controller._considered.items() if key in pods and at <= soon]


async def test_a_reservation_that_others_filled_is_left_alone_until_it_is_counted_again(world: World) -> None:
    world.cloud.places = {"cr-1": 0}
    world.pending_pods(1, requests=LARGE)
    replica = replica_of(world)
    await replica.round()
    assert [(r.code, r.reservation) for r in world.cloud.refused] == [("ReservationCapacityExceeded", "cr-1")]
    await replica.round()
    assert capacity_types(world) == ["on-demand"]


async def test_a_reservation_that_ended_before_the_launch_gives_the_pods_back(world: World) -> None:
    world.pending_pods(1, requests=LARGE)
    replica = replica_of(world)
    await replica.classes.refresh()
    await replica.controller.round(replica.leader.epoch or 0)
    assert len(live(world)) == 1
    world.cloud.reserved = (msgspec.structs.replace(ONE, state="expiring", available=0),)
    world.cloud.places = {"cr-1": 0}
    await replica.follow()
    await replica.round()
    assert capacity_types(world) == ["on-demand"]

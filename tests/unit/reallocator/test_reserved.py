"""Nodes whose capacity reservation ends: on-demand in name and price, or drained before their block takes them along."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from nodeyard.api import labels as keys
from nodeyard.api.nodeclass import FoundReservation, NodeClass
from nodeyard.cloudprovider.errors import Unreachable
from nodeyard.cloudprovider.model import Catalogue, InstanceType, Offering, Reserved
from nodeyard.disruption.candidates import price
from nodeyard.disruption.drift import DriftReason, drift_of
from nodeyard.disruption.model import View
from nodeyard.state.cluster import Kind
from services.reallocator.reserved import ReservedNodes
from tests.support.clock import FakeClock, settle
from tests.support.disruption import ZONE
from tests.support.disruption_world import World
from tests.support.reallocating import Replica

RESERVED = {
    keys.CAPACITY_TYPE: keys.RESERVED, keys.RESERVATION_ID: "cr-1", keys.RESERVATION_TYPE: "default",
    keys.RESERVATION_INTERRUPTIBLE: "false",
}  # fmt: skip


class Scene:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.world = World(self.clock)
        self.world.build.pool()
        self.replica = Replica(self.world, self.clock)
        self.loop = ReservedNodes(
            cluster=self.world, machines=self.world, claims=self.world, nodes=self.world, lead=self.replica.lead,
            chronicle=self.replica.chronicle, clock=self.clock, permitted=lambda: True,
        )  # fmt: skip

    def reserved_node(self, name: str, reservation: str = "cr-1", kind: str = "default") -> None:
        labels = {**RESERVED, keys.RESERVATION_ID: reservation, keys.RESERVATION_TYPE: kind}
        node, claim = self.world.node(name)
        self.world.build.put(
            Kind.NODE_CLAIM, claim.name, msgspec.structs.replace(claim, labels=claim.labels | labels)
        )
        self.world.build.put(Kind.NODE, name, msgspec.structs.replace(node, labels=node.labels | labels))
        self.seat(name, reservation)

    def seat(self, name: str, reservation: str, state: str = "running") -> None:
        """Where EC2 shows the node's instance."""
        one = self.world.instances[f"i-{name}"]
        self.world.instances[one.id] = msgspec.structs.replace(one, reservation=reservation, state=state)

    def labels(self, name: str) -> tuple[dict[str, str], dict[str, str]]:
        """Those of the claim and of the node that tell of reservations."""
        snapshot = self.world.snapshot()
        both = snapshot.claims[f"{name}-c"].labels, snapshot.nodes[name].labels
        claim, node = ({k: v for k, v in one.items() if k in RESERVED} for one in both)
        return claim, node

    def ending(self, reservation: str, kind: str, state: str) -> None:
        found = FoundReservation(reservation, reservation_type=kind, state=state)
        self.world.build.put(Kind.NODE_CLASS, "default", NodeClass("default", capacity_reservations=(found,)))


@pytest.fixture
def scene() -> Scene:
    return Scene()


ON_DEMAND = {keys.CAPACITY_TYPE: keys.ON_DEMAND}


async def test_within_a_minute_of_its_reservation_s_end_a_node_is_on_demand_in_claim_and_node(
    scene: Scene,
) -> None:
    scene.reserved_node("a")
    scene.reserved_node("b")
    running = asyncio.create_task(scene.loop.run())
    await settle()
    assert scene.labels("a") == (RESERVED, RESERVED)
    scene.seat("a", "")
    await scene.clock.advance(60.0)
    running.cancel()
    assert scene.labels("a") == (ON_DEMAND, ON_DEMAND)
    assert scene.labels("b") == (RESERVED, RESERVED)
    assert not scene.world.snapshot().claims["a-c"].deleting


async def test_what_ec2_does_not_show_or_what_ends_anyway_is_left_as_it_is(scene: Scene) -> None:
    scene.reserved_node("a")
    scene.reserved_node("b")
    del scene.world.instances["i-a"]
    scene.seat("b", "", "shutting-down")
    await scene.loop.once()
    assert scene.labels("a") == scene.labels("b") == (RESERVED, RESERVED)


async def test_a_node_that_was_not_reached_is_relabelled_the_next_time(scene: Scene) -> None:
    scene.reserved_node("a")
    claim = scene.world.snapshot().claims["a-c"]
    labels = {k: v for k, v in claim.labels.items() if k not in RESERVED} | ON_DEMAND
    scene.world.build.put(Kind.NODE_CLAIM, claim.name, msgspec.structs.replace(claim, labels=labels))
    await scene.loop.once()
    assert scene.labels("a") == (ON_DEMAND, ON_DEMAND)


async def test_without_the_cloud_nothing_changes_and_it_goes_on(scene: Scene) -> None:
    scene.reserved_node("a")
    scene.seat("a", "")
    scene.world.cloud_down = True
    with pytest.raises(Unreachable):
        await scene.loop.once()
    assert scene.labels("a") == (RESERVED, RESERVED)


async def test_claims_of_a_block_that_is_about_to_end_are_drained_others_are_not(scene: Scene) -> None:
    scene.reserved_node("a", "cb-1", "capacity-block")
    scene.reserved_node("b", "cr-1")
    for kind, state, ends in (
        ("capacity-block", "active", False),
        ("default", "expiring", False),
        ("capacity-block", "expiring", True),
    ):
        scene.ending("cb-1", kind, state)
        await scene.loop.once()
        assert scene.world.snapshot().claims["a-c"].deleting is ends
    assert not scene.world.snapshot().claims["b-c"].deleting


# -- drift and price


def catalogue(*reserved: Offering, unselected: tuple[str, ...] = ()) -> Catalogue:
    kind = InstanceType("m5.xlarge", offerings=(Offering(ZONE, keys.ON_DEMAND, 0.2), *reserved))
    return Catalogue([kind], unselected=unselected)


FULL = Offering(ZONE, keys.RESERVED, 2e-8, available=False, reserved=Reserved("cr-1"))


@pytest.mark.parametrize(
    ("offered", "reason"),
    [
        (catalogue(FULL), None),
        (catalogue(), None),
        (catalogue(unselected=("cr-1",)), DriftReason.RESERVATION),
        (catalogue(FULL, unselected=("cr-2",)), None),
    ],
    ids=["full", "ended", "not selected any more", "another is not selected"],
)
def test_only_a_reservation_that_is_there_but_not_selected_drifts_its_nodes(
    scene: Scene, offered: Catalogue, reason: DriftReason | None
) -> None:
    scene.reserved_node("a")
    snapshot = scene.world.snapshot()
    found = drift_of(snapshot.claims["a-c"], snapshot, {"": offered}, scene.clock.now() + 7200.0)
    assert (found.reason if found is not None else None) == reason


def test_a_reserved_node_costs_what_its_place_costs_even_nothing(scene: Scene) -> None:
    free = msgspec.structs.replace(FULL, price=0.0, reserved=Reserved("cr-2"))
    view = View(scene.world.snapshot(), {"": catalogue(FULL, free)}, scene.clock.now())
    where = ("default", "m5.xlarge", ZONE, keys.RESERVED)
    assert [price(view, *where, reservation) for reservation in ("cr-1", "cr-2", "cr-3")] == [2e-8, 0.0, None]

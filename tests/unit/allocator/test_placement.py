"""Nodes of a placement group: labelled with their partition before a pod comes, and launched into the one asked for."""

import msgspec
import pytest

from nodeyard.api import labels as keys
from nodeyard.api.node import REGISTERED, NodeClaim, NodeClassRef
from nodeyard.api.placement import PlacementGroup, PlacementGroupSelector
from nodeyard.api.selectors import Requirement
from nodeyard.provisioning.claims import launch_record_of
from nodeyard.state.cluster import Change
from tests.support.allocator import World


@pytest.fixture
def world() -> World:
    return World()


def in_group(world: World, strategy: str) -> None:
    """The world's class names a placement group of this strategy, with three partitions where it has any."""
    group = PlacementGroup("pg-1", "g", strategy, 3 if strategy == "partition" else 0)
    known: Change = world.fixed[1]
    found = msgspec.structs.replace(
        known.value, placement_group_selector=PlacementGroupSelector("g"), placement_group=group
    )
    world.fixed[1] = Change(known.kind, known.key, found)


async def test_a_node_registers_only_once_its_partition_is_known_and_carries_it(world: World) -> None:
    in_group(world, "partition")
    world.pending_pods(1)
    replica = world.replica()
    await replica.round()
    (name,) = world.api.claims
    made = world.api.claims[name]
    record = launch_record_of(made)
    assert record is not None
    assert record.placement_group == "pg-1"
    assert made.labels[keys.PLACEMENT_GROUP] == "pg-1"
    assert keys.PLACEMENT_PARTITION not in made.labels
    node = world.join(name)
    await replica.follow()
    assert not world.api.claims[name].is_true(REGISTERED)
    world.cloud.partitions[made.provider_id.rpartition("/")[2]] = 2
    world.clock.skip(2)
    await replica.follow()
    assert world.api.claims[name].is_true(REGISTERED)
    assert world.api.nodes[node.name].labels[keys.PLACEMENT_PARTITION] == "2"


async def test_a_node_of_a_spread_group_waits_for_nothing(world: World) -> None:
    in_group(world, "spread")
    world.pending_pods(1)
    replica = world.replica()
    await replica.round()
    (name,) = world.api.claims
    node = world.join(name)
    await replica.follow()
    assert world.api.nodes[node.name].labels[keys.PLACEMENT_GROUP] == "pg-1"


async def launched(world: World, *requirements: Requirement) -> NodeClaim:
    """A claim with these requirements, after its launch."""
    wanted = NodeClaim(
        "c",
        uid="c",
        labels={keys.NODEPOOL: "default"},
        node_class=NodeClassRef("default"),
        requirements=requirements,
    )
    replica = world.replica()
    await replica.classes.refresh()
    await world.api.create(wanted)
    await replica.follow()
    return world.api.claims["c"]


async def test_a_claim_that_names_its_partition_is_launched_into_it(world: World) -> None:
    in_group(world, "partition")
    made = await launched(world, Requirement(keys.PLACEMENT_PARTITION, "In", ("3",)))
    assert made.labels[keys.PLACEMENT_PARTITION] == "3"
    record = launch_record_of(made)
    assert record is not None
    assert record.placement_group == "pg-1/3", "what is refused there says nothing about other partitions"


@pytest.mark.parametrize(
    ("allowed", "tenancy"),
    [((), "default"), (("default", "dedicated"), "default"), (("dedicated",), "dedicated")],
)
async def test_hardware_of_its_own_is_rented_only_where_shared_hardware_will_not_do(
    world: World, allowed: tuple[str, ...], tenancy: str
) -> None:
    asked = [Requirement(keys.TENANCY, "In", allowed)] if allowed else []
    made = await launched(world, *asked)
    assert made.labels[keys.TENANCY] == tenancy

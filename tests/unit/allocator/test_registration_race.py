"""Nodes that join otherwise than they should: easy to get wrong, so it has a file of its own."""

import pytest

from nodeyard.api import labels as keys
from nodeyard.api.node import REGISTERED
from nodeyard.api.selectors import Taint
from tests.support.allocator import World


@pytest.fixture
def world() -> World:
    return World()


async def test_registration_race(world: World) -> None:
    """A node that joins without the unregistered taint still gets its claim's labels and taints, and an event says
    so; of two nodes with one provider id neither is chosen, and nothing is deleted.
    """
    world.pending_pods(1)
    replica = world.replica()
    await replica.round()
    (name,) = world.api.claims
    node = world.join(name, taints=())
    await replica.follow()
    registered = world.api.nodes[node.name]
    assert world.api.claims[name].is_true(REGISTERED)
    assert registered.labels["team"] == "a"
    assert registered.labels[keys.REGISTERED] == "true"
    assert Taint("team", "NoSchedule", "a") in registered.taints
    assert ("NodeClaim", name, "UnregisteredTaintMissing") in world.quiet.events


async def test_registration_race_of_two_nodes_with_one_provider_id(world: World) -> None:
    world.pending_pods(1)
    replica = world.replica()
    await replica.round()
    (name,) = world.api.claims
    node = world.join(name)
    twin = world.join(name, name="twin")
    for _ in range(3):
        await replica.follow()
        world.clock.skip(30)
    condition = world.api.claims[name].condition(REGISTERED)
    assert condition is not None
    assert (condition.status, condition.reason) == ("False", "MultipleNodesFound")
    assert not world.api.claims[name].deleting
    assert set(world.api.nodes) == {node.name, twin.name}
    assert all(keys.REGISTERED not in n.labels for n in world.api.nodes.values())

"""Prices that move wake the pass where they touch a node, at once, and let it rest where they don't."""

import asyncio
from collections.abc import Callable

import pytest

from nodeyard.api import labels as keys
from nodeyard.cloudprovider.model import Catalogue, InstanceType, Offering
from tests.support.clock import FakeClock
from tests.support.disruption import TYPES, catalogue
from tests.support.disruption_world import World
from tests.support.reallocating import Replica


class Scene:
    """An m5.xlarge that is the cheapest for its pod, and nothing to do."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.world = World(self.clock)
        self.world.build.pool()
        self.world.build.shape("big", 3500)
        self.world.node("a", capacity_type=keys.SPOT)
        self.world.build.pod("p", "a", shape="big")
        self.replica = Replica(self.world, self.clock)

    def looks(self) -> float:
        found = self.replica.registry.get_sample_value("nodeyard_disruption_price_looks_total")
        return found or 0.0


@pytest.fixture
def scene() -> Scene:
    return Scene()


def spot_at(price: float, name: str = "m5.xlarge", *, spot: float = 1 / 3) -> Catalogue:
    """The usual prices, but for one type's on spot. `spot`: what all others cost there, as a share of on demand."""

    def offers(kind: InstanceType) -> tuple[Offering, ...]:
        own = kind.offerings
        return (own[0], Offering(own[1].zone, keys.SPOT, price)) if kind.name == name else own

    usual = catalogue(spot=spot)
    return Catalogue(
        InstanceType(t.name, t.requirements, t.capacity, t.allocatable, offers(t)) for t in usual.types
    )


async def test_a_price_that_touches_no_node_leaves_the_pass_at_rest(scene: Scene) -> None:
    assert await scene.replica.disruption.once() is not None
    scene.replica.prices.move(spot_at(0.05, "m5.large"))
    scene.replica.prices.move(spot_at(TYPES["m5.4xlarge"][1], "m5.4xlarge"))
    assert await scene.replica.disruption.once() is None
    assert scene.looks() == 0


async def test_a_spot_price_that_fell_below_a_nodes_is_acted_upon_although_nothing_else_changed(
    scene: Scene,
) -> None:
    scene.world.node("a", capacity_type=keys.ON_DEMAND)
    scene.replica.prices.move(catalogue(spot=1.5))
    assert await scene.replica.disruption.once() is not None
    scene.replica.prices.move(spot_at(0.05, spot=1.5))
    doing = asyncio.create_task(scene.replica.disruption.once())
    while not doing.done():
        await asyncio.sleep(0)
        await scene.clock.advance(1.0 if scene.clock.sleeping else 0.0)
    outcome = await doing
    assert outcome is not None
    assert outcome.command is not None
    assert outcome.command.nodes == ("a",)
    assert [node.capacity_type for node in outcome.command.replacements] == [keys.SPOT]
    assert scene.looks() == 1


async def test_prices_are_measured_against_the_last_look_so_that_small_falls_add_up(scene: Scene) -> None:
    least = TYPES["m5.xlarge"][1] / 3
    assert await scene.replica.disruption.once() is not None
    for price in (0.9, 0.5, least * 1.01):
        scene.replica.prices.move(spot_at(price, "m5.2xlarge"))
        assert await scene.replica.disruption.once() is None
    scene.replica.prices.move(spot_at(least * 0.9, "m5.2xlarge"))
    assert await scene.replica.disruption.once() is not None


async def test_the_loop_wakes_for_a_price_without_waiting_for_its_next_poll(scene: Scene) -> None:
    loop = asyncio.create_task(scene.replica.disruption.run_passes())
    await until(lambda: bool(scene.replica.disruption.proposals.all), scene.clock)
    await settled(scene.clock, 2.0)
    scene.replica.prices.move(spot_at(0.5))
    before = scene.clock.now()
    await until(lambda: scene.looks() == 1, scene.clock)
    assert scene.clock.now() - before <= 2.0, "polls are ten seconds apart"
    loop.cancel()


async def until(holds: Callable[[], bool], clock: FakeClock) -> None:
    for _ in range(200):
        if holds():
            return
        await settled(clock, 0.1)
    raise AssertionError("never came")


async def settled(clock: FakeClock, seconds: float) -> None:
    """Lets time pass, and threads come back."""
    await clock.advance(seconds)
    await asyncio.sleep(0.01)

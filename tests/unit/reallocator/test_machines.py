"""What became of an instance: asked soon and then less often, while one shuts down."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest

from nodeyard.disruption.collection import Instance
from nodeyard.disruption.termination import InstanceState
from services.reallocator.machines import InstanceBook
from tests.support.clock import FakeClock
from tests.support.disruption_world import World


class Watched(World):
    """Remembers when it was asked."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self.asked: list[float] = []

    async def describe(self, ids: Iterable[str]) -> dict[str, Instance]:
        self.asked.append(self.clock.now())
        return await super().describe(ids)


@pytest.mark.parametrize("takes_s", [0.2, 8.0, 60.0])
async def test_an_instance_that_shuts_down_is_found_gone_soon_and_not_asked_about_too_often(
    takes_s: float,
) -> None:
    clock = FakeClock()
    world = Watched(clock)
    world.node("a")
    world.stop_s = takes_s
    book = InstanceBook(world, clock)
    began = clock.now()

    async def until_gone() -> None:
        await book.terminate("i-a")
        while await book.state("i-a", ours_only=False) is not InstanceState.GONE:
            await clock.sleep(0.25)

    waiting = asyncio.create_task(until_gone())
    while not waiting.done():
        await clock.advance(0.25)
        world.tick()
    took_s = clock.now() - began
    assert took_s <= takes_s * 1.6 + 1.5
    assert took_s <= takes_s + 6.0
    assert len(world.asked) <= 6 + took_s / 5.0

"""Nodes that open together: nobody before the last is prepared, the fullest first, nobody waits for ever."""

import asyncio

import pytest

from services.allocator.opening import Openings, room_to_spare
from tests.support.clock import FakeClock


class Yard:
    """Nodes that are prepared when the test says so, and note when they open."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.openings = Openings(self.clock)
        self.opened: list[str] = []
        self.prepared: dict[str, asyncio.Event] = {}
        self.tasks: list[asyncio.Task[str]] = []

    def begin(self, name: str, room: float, fails: bool = False) -> asyncio.Task[str]:
        event = self.prepared[name] = asyncio.Event()

        async def prepare() -> None:
            await event.wait()
            if fails:
                raise OSError("the API server is away")

        async def write() -> str:
            self.opened.append(name)
            return name

        task = asyncio.create_task(self.openings.together(prepare(), write, room))
        self.tasks.append(task)
        return task

    async def settle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)


@pytest.fixture
def yard() -> Yard:
    return Yard()


async def test_nodes_open_once_the_last_is_prepared_and_the_fullest_goes_first(yard: Yard) -> None:
    for name, room in (("roomy", 0.3), ("full", 0.0), ("nearly", 0.1)):
        yard.begin(name, room)
    await yard.settle()
    for name in ("roomy", "nearly"):
        yard.prepared[name].set()
    await yard.settle()
    assert yard.opened == []
    yard.prepared["full"].set()
    await asyncio.gather(*yard.tasks)
    assert yard.opened == ["full", "nearly", "roomy"]


async def test_a_node_waits_three_seconds_at_most_for_one_that_is_not_prepared(yard: Yard) -> None:
    first, slow = yard.begin("first", 0.1), yard.begin("slow", 0.0)
    await yard.settle()
    yard.prepared["first"].set()
    await yard.settle()
    await yard.clock.advance(2.5)
    assert yard.opened == []
    await yard.clock.advance(1.0)
    assert yard.opened == ["first"]
    yard.prepared["slow"].set()
    await yard.clock.advance(1.0)
    assert await slow == "slow"
    assert await first == "first"


async def test_a_node_that_can_not_be_prepared_stops_only_itself(yard: Yard) -> None:
    broken, good = yard.begin("broken", 0.0, fails=True), yard.begin("good", 0.5)
    await yard.settle()
    yard.prepared["broken"].set()
    yard.prepared["good"].set()
    assert await good == "good"
    with pytest.raises(OSError, match="away"):
        await broken
    assert yard.opened == ["good"]


async def test_one_that_comes_later_opens_by_itself(yard: Yard) -> None:
    yard.begin("a", 0.0)
    yard.prepared["a"].set()
    await asyncio.gather(*yard.tasks)
    yard.begin("b", 0.0)
    yard.prepared["b"].set()
    await asyncio.gather(*yard.tasks)
    assert yard.opened == ["a", "b"]


@pytest.mark.parametrize(
    ("planned", "room"),
    [({"cpu": 900}, 0.1), ({"cpu": 1000, "memory": 1}, 0.0), ({"cpu": 2000}, 0.0), ({}, 1.0)],
)
def test_room_to_spare_is_that_of_the_resource_that_runs_out_first(
    planned: dict[str, int], room: float
) -> None:
    assert room_to_spare({"cpu": 1000, "memory": 4000, "devices": 0}, planned) == pytest.approx(room)

"""While another autoscaler works beside us nothing of its objects is written; afterwards all goes on by itself."""

import asyncio
from typing import Any

from nodeyard.cloudprovider.boot import Boot
from nodeyard.runtime.metrics import new_registry
from services.allocator.metrics import AllocatorMetrics
from services.allocator.pools import Pools
from tests.support.allocator import Quiet, World


class Statuses(Quiet):
    """Counts what is written about pools and classes."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: set[str] = set()

    async def write_pool(self, key: str, resources: Any, conditions: Any) -> bool:
        self.writes.add(f"pool {key}")
        return True

    async def write_class(self, found: Any) -> bool:
        self.writes.add(f"class {found.key}")
        return True

    async def hold_class(self, node_class: Any) -> bool:
        self.writes.add(f"hold {node_class.key}")
        return True


async def test_statuses_finalizers_templates_and_tags_wait_until_nobody_else_is_at_work() -> None:
    world = World()
    world.quiet = statuses = Statuses()
    world.account.templates = {"somebody's": Boot(cluster="nodeyard")}
    swept = asyncio.Event()

    async def unnamed() -> dict[str, str]:
        swept.set()
        return {}

    world.cloud.unnamed = unnamed  # type: ignore[method-assign]
    world.stopped = "Karpenter is active"
    replica = world.replica()
    pools = Pools(
        cluster=replica.stream, classes=replica.classes, statuses=statuses, leader=world.leader,
        measures=AllocatorMetrics(new_registry(process=False)), clock=world.clock, stopped=world.why_stopped,
    )  # fmt: skip
    loops = [asyncio.create_task(run()) for run in (replica.classes.run, pools.run, replica.namer.run)]
    try:
        await world.clock.advance(40.0)
        assert statuses.writes == set()
        assert list(world.account.templates) == ["somebody's"]
        assert not swept.is_set()
        world.stopped = None
        wanted = {"class default", "hold default", "pool default"}
        for _ in range(2000):
            await world.clock.advance(0.5)
            if statuses.writes == wanted and swept.is_set():
                break
            await asyncio.sleep(0.001)  # a catalogue is made in a thread
        assert statuses.writes == wanted
        assert len(world.account.templates) > 1
        assert swept.is_set()
    finally:
        for task in loops:
            task.cancel()
        await asyncio.gather(*loops, return_exceptions=True)

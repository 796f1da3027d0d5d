"""What follows when the cloud says that an instance goes: drained in time, once, and its pool is out of favour."""

import asyncio
from collections.abc import Callable, Sequence

import msgspec
import pytest

from nodeyard.api import labels as keys
from nodeyard.cloudprovider.errors import Unreachable
from nodeyard.cloudprovider.refusals import Refusal
from nodeyard.cloudprovider.scarcity import interrupted, taken_back
from nodeyard.disruption.interruption import SPOT_WARNING_S, Message, Notice, NoticeKind
from nodeyard.disruption.termination import deadline_of, render_time
from services.reallocator.interruptions import Interruptions
from tests.support.clock import FakeClock
from tests.support.disruption import ZONE
from tests.support.disruption_world import World
from tests.support.reallocating import Replica


class Queue:
    """A queue that delivers what is not deleted, every time it is asked."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.waiting: list[Message] = []
        self.away = False
        self.keeps = False
        """Deletions fail."""

    def put(self, kind: NoticeKind, *instances: str, problem: str = "", ends_at: float = 0.0) -> None:
        notice = Notice(kind, instances, self.clock.now(), problem, ends_at)
        id_ = f"m-{len(self.waiting)}-{self.clock.now()}"
        self.waiting.append(Message(id_, f"handle of {id_}", notice, self.clock.now()))

    async def receive(self) -> list[Message]:
        if self.away:
            raise Unreachable("the queue is away")
        if not self.waiting:
            await self.clock.sleep(5)
        return self.waiting[:10]

    async def delete(self, handles: Sequence[str]) -> int:
        if self.keeps:
            return 0
        before = len(self.waiting)
        self.waiting = [m for m in self.waiting if m.handle not in handles]
        return before - len(self.waiting)


class Market:
    def __init__(self) -> None:
        self.told: list[Refusal] = []

    async def report_refusals(self, refusals: Sequence[Refusal]) -> bool:
        self.told += refusals
        return True


class Scene:
    """One replica with a queue over a small cluster."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.world = World(self.clock)
        self.world.build.pool()
        self.replica = Replica(self.world, self.clock)
        self.queue = Queue(self.clock)
        self.market = Market()
        self.permitted = True
        self.interruptions = Interruptions(
            queue=self.queue, cluster=self.world, claims=self.world, refusals=self.market,
            chronicle=self.replica.chronicle, clock=self.clock, measures=self.replica.measures,
            permitted=lambda: self.permitted,
        )  # fmt: skip

    async def run(self, seconds: float, *, until: Callable[[], bool] | None = None) -> None:
        """Termination alone, in simulated time."""
        end = self.clock.now() + seconds
        while self.clock.now() < end and not (until is not None and until()):
            sweep = asyncio.create_task(self.replica.termination.sweep())
            await self.clock.advance(0.25)
            await sweep
            self.world.tick()

    def deleting(self, name: str = "a") -> bool:
        claim = self.world.claim(f"{name}-c")
        return claim is None or claim.deleting

    def metric(self, name: str, **labels: str) -> float:
        return self.replica.registry.get_sample_value(name, labels) or 0.0

    def events(self) -> set[tuple[str, str]]:
        return {(kind, reason) for kind, _, reason in self.replica.notes.events}


@pytest.fixture
def scene() -> Scene:
    return Scene()


async def test_a_spot_interruption_drains_the_node_before_its_two_minutes_are_over(scene: Scene) -> None:
    scene.world.node("a", capacity_type=keys.SPOT)
    scene.world.node("b")
    scene.world.build.pod("p", "a", grace_period_s=10)
    scene.queue.put(NoticeKind.SPOT, "i-a")
    said_at = scene.clock.now()
    assert await scene.interruptions.once() == 1
    assert scene.queue.waiting == []
    await scene.run(SPOT_WARNING_S, until=lambda: "terminate i-a" in scene.world.log)
    assert scene.clock.now() - said_at < 30.0
    assert "default/p" not in scene.world.snapshot().pods
    assert not scene.deleting("b")


async def test_pods_that_a_budget_would_keep_are_told_to_end_before_the_machine_is_taken(
    scene: Scene,
) -> None:
    scene.world.node("a", capacity_type=keys.SPOT)
    scene.world.build.pod("p", "a", grace_period_s=30)
    scene.world.budget["web"] = 0
    scene.queue.put(NoticeKind.SPOT, "i-a")
    said_at = scene.clock.now()
    await scene.interruptions.once()
    await scene.run(60)
    assert "default/p" in scene.world.snapshot().pods, "kept as long as it could still end by itself"
    await scene.run(SPOT_WARNING_S, until=lambda: "default/p" not in scene.world.snapshot().pods)
    assert scene.clock.now() - said_at < SPOT_WARNING_S
    (grace_s,) = [int(entry.split()[2]) for entry in scene.world.log if entry.startswith("delete-pod p")]
    assert 28 <= grace_s <= 30, "nearly all of its grace period"


async def test_the_pool_that_took_its_instance_back_is_reported_to_pricing(scene: Scene) -> None:
    scene.world.node("a", "m5.large", capacity_type=keys.SPOT)
    scene.queue.put(NoticeKind.SPOT, "i-a")
    await scene.interruptions.once()
    assert scene.market.told == [interrupted("m5.large", ZONE)]


async def test_a_reservation_that_takes_its_instance_back_counts_as_full_and_the_drain_ends_in_time(
    scene: Scene,
) -> None:
    _, claim = scene.world.node("a", "m5.large", capacity_type=keys.RESERVED)
    scene.world.node("b", "m5.large", capacity_type=keys.RESERVED)
    scene.world._put_claim(
        msgspec.structs.replace(claim, labels={**claim.labels, keys.RESERVATION_ID: "cr-1"})
    )
    ends_at = scene.clock.now() + 600.0
    scene.queue.put(NoticeKind.RESERVATION, "i-a", ends_at=ends_at)
    await scene.interruptions.once()
    assert scene.market.told == [taken_back("m5.large", ZONE, "cr-1")]
    assert scene.deleting("a")
    assert not scene.deleting("b")
    deadline = deadline_of(scene.world.claim("a-c"))  # type: ignore[arg-type]
    assert deadline is not None
    assert ends_at - 10.0 < deadline < ends_at


async def test_a_claim_that_does_not_tell_its_pool_shuts_no_pool(scene: Scene) -> None:
    _, claim = scene.world.node("a", capacity_type=keys.SPOT)
    bare = {key: value for key, value in claim.labels.items() if key != keys.INSTANCE_TYPE}
    scene.world._put_claim(msgspec.structs.replace(claim, labels=bare))
    scene.queue.put(NoticeKind.SPOT, "i-a")
    await scene.interruptions.once()
    assert scene.deleting("a")
    assert scene.market.told == []


@pytest.mark.parametrize(
    ("kind", "event"),
    [
        (NoticeKind.SPOT, "SpotInterrupted"),
        (NoticeKind.RESERVATION, "CapacityReservationInstanceInterrupted"),
        (NoticeKind.SCHEDULED_CHANGE, "InstanceUnhealthy"),
        (NoticeKind.STOPPED, "InstanceStopping"),
        (NoticeKind.TERMINATED, "InstanceTerminating"),
    ],
)
async def test_an_instance_that_goes_takes_its_claim_with_it_and_both_objects_say_why(
    scene: Scene, kind: NoticeKind, event: str
) -> None:
    scene.world.node("a")
    scene.queue.put(kind, "i-a")
    await scene.interruptions.once()
    assert scene.deleting("a")
    wanted = {(of, reason) for of in ("Node", "NodeClaim") for reason in (event, "TerminatingOnInterruption")}
    assert wanted <= scene.events()
    assert scene.replica.notes.kinds() == [f"interrupted nodeclaim/a-c {event}"]
    capacity_type = keys.ON_DEMAND
    count = scene.metric(
        "karpenter_nodeclaims_disrupted_total",
        reason=kind.value,
        nodepool="default",
        capacity_type=capacity_type,
    )
    assert count == 1
    assert bool(scene.market.told) == (kind is NoticeKind.SPOT)


async def test_a_rebalance_recommendation_is_only_passed_on(scene: Scene) -> None:
    scene.world.node("a", capacity_type=keys.SPOT)
    scene.queue.put(NoticeKind.REBALANCE, "i-a")
    await scene.interruptions.once()
    assert not scene.deleting("a")
    assert scene.events() == {(kind, "SpotRebalanceRecommendation") for kind in ("Node", "NodeClaim")}
    assert scene.market.told == []
    assert scene.queue.waiting == []


async def test_a_notice_about_somebody_elses_instance_is_deleted_and_changes_nothing(scene: Scene) -> None:
    scene.world.node("a")
    scene.queue.put(NoticeKind.SPOT, "i-of-another-cluster")
    await scene.interruptions.once()
    assert not scene.deleting("a")
    assert scene.queue.waiting == []
    assert scene.market.told == []


async def test_the_end_that_we_began_ourselves_is_not_news(scene: Scene) -> None:
    scene.world.node("a")
    scene.world.delete_claim("a-c")
    scene.queue.put(NoticeKind.TERMINATED, "i-a")
    await scene.interruptions.once()
    assert scene.events() == set()
    assert scene.replica.notes.kinds() == []


async def test_a_node_on_its_way_out_gets_a_closer_deadline_when_its_instance_is_taken(scene: Scene) -> None:
    far = {"annotations": {keys.TERMINATION_TIMESTAMP: render_time(scene.clock.now() + 3600)}}
    scene.world.node("a", capacity_type=keys.SPOT, claim=far)
    scene.world.delete_claim("a-c")
    scene.queue.put(NoticeKind.SPOT, "i-a")
    await scene.interruptions.once()
    claim = scene.world.claim("a-c")
    deadline = deadline_of(claim)
    assert deadline is not None
    assert 0 < deadline - scene.clock.now() < SPOT_WARNING_S


async def test_a_deadline_is_never_moved_away(scene: Scene) -> None:
    near = render_time(scene.clock.now() + 20)
    scene.world.node("a", capacity_type=keys.SPOT, claim={"annotations": {keys.TERMINATION_TIMESTAMP: near}})
    scene.queue.put(NoticeKind.SPOT, "i-a")
    await scene.interruptions.once()
    claim = scene.world.claim("a-c")
    assert claim is not None
    assert claim.annotations[keys.TERMINATION_TIMESTAMP] == near


async def test_a_message_that_comes_again_does_nothing_more(scene: Scene) -> None:
    scene.world.node("a", capacity_type=keys.SPOT)
    scene.queue.put(NoticeKind.SPOT, "i-a")
    scene.queue.keeps = True
    await scene.interruptions.once()
    log, told = list(scene.world.log), list(scene.market.told)
    await scene.interruptions.once()
    assert scene.world.log == log
    assert scene.market.told == told
    assert (
        scene.metric("karpenter_interruption_received_messages_total", message_type="spot_interrupted") == 1
    )
    scene.queue.keeps = False
    await scene.interruptions.once()
    assert scene.queue.waiting == []
    assert scene.metric("karpenter_interruption_deleted_messages_total") == 1


async def test_another_replica_that_gets_the_message_again_does_nothing_more_either(scene: Scene) -> None:
    scene.world.node("a", capacity_type=keys.SPOT)
    scene.queue.put(NoticeKind.SPOT, "i-a")
    scene.queue.keeps = True
    await scene.interruptions.once()
    log = list(scene.world.log)
    other = Replica(scene.world, scene.clock, name="r1")
    second = Interruptions(
        queue=scene.queue, cluster=scene.world, claims=scene.world, refusals=scene.market,
        chronicle=other.chronicle, clock=scene.clock, measures=other.measures, permitted=lambda: True,
    )  # fmt: skip
    await second.once()
    assert scene.world.log == log
    assert other.notes.decisions == []


async def test_what_the_api_server_could_not_be_told_is_delivered_again(scene: Scene) -> None:
    scene.world.node("a", capacity_type=keys.SPOT)
    scene.queue.put(NoticeKind.SPOT, "i-a")
    scene.world.api_down = True
    await scene.interruptions.once()
    assert len(scene.queue.waiting) == 1
    assert (
        scene.metric("karpenter_interruption_received_messages_total", message_type="spot_interrupted") == 0
    )
    scene.world.api_down = False
    await scene.interruptions.once()
    assert scene.deleting("a")
    assert scene.queue.waiting == []


async def test_a_message_that_cannot_be_read_is_counted_deleted_and_stops_no_other(scene: Scene) -> None:
    scene.world.node("a")
    scene.queue.put(NoticeKind.MALFORMED, problem="JSON is malformed")
    scene.queue.put(NoticeKind.TERMINATED, "i-a")
    await scene.interruptions.once()
    assert scene.queue.waiting == []
    assert scene.deleting("a")
    assert scene.metric("karpenter_interruption_received_messages_total", message_type="malformed") == 1


async def test_nothing_is_fetched_that_may_not_be_acted_on(scene: Scene) -> None:
    scene.world.node("a")
    scene.queue.put(NoticeKind.TERMINATED, "i-a")
    scene.permitted = False
    loop = asyncio.create_task(scene.interruptions.run())
    await scene.clock.advance(30)
    assert len(scene.queue.waiting) == 1
    assert not scene.deleting("a")
    loop.cancel()


async def test_a_queue_that_is_away_is_asked_again(scene: Scene) -> None:
    scene.world.node("a")
    scene.queue.away = True
    loop = asyncio.create_task(scene.interruptions.run())
    await scene.clock.advance(10)
    assert not loop.done()
    scene.queue.put(NoticeKind.TERMINATED, "i-a")
    scene.queue.away = False
    await scene.clock.advance(120)
    assert scene.deleting("a")
    loop.cancel()

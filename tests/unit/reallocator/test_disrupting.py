"""The pass, commands and garbage collection, against a small world."""

import asyncio
from collections.abc import Callable

import msgspec
import pytest

from nodeyard.api import labels as keys
from nodeyard.api.pool import Budget
from nodeyard.disruption.collection import Instance
from nodeyard.disruption.commands import MARK, disrupted
from nodeyard.disruption.model import Reason
from nodeyard.runtime.leadership import StoreUnavailableError
from nodeyard.state.cluster import Kind
from tests.support.clock import FakeClock
from tests.support.disruption import NOW, TYPES, ZONE, catalogue
from tests.support.disruption_world import World
from tests.support.reallocating import Replica


class Scene:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.world = World(self.clock)
        self.world.build.pool()
        self.replica = Replica(self.world, self.clock)

    async def decide(self, *, during_wait: Callable[[], object] = lambda: None) -> None:
        """One pass with its wait before the second look."""
        doing = asyncio.create_task(self.replica.disruption.once())
        waited = False
        while not doing.done():
            await asyncio.sleep(0)  # the pass thinks in a thread
            if self.clock.sleeping:
                if not waited:
                    during_wait()
                waited = True
                await self.clock.advance(1.0)
        await doing

    async def turn(self) -> None:
        await self.replica.execution.advance()

    def replacement(self) -> str:
        return next(n for n, c in self.world.snapshot().claims.items() if MARK in c.annotations)

    def initialize(self, claim_name: str) -> None:
        """The allocator's part: the claim gets a node that is ready."""
        self.world.node("fresh", "m5.large")
        claim = self.world.claim(claim_name)
        fresh = self.world.claim("fresh-c")
        assert claim is not None
        assert fresh is not None
        self.world.build.put(Kind.NODE_CLAIM, "fresh-c", None)
        joined = msgspec.structs.replace(claim, provider_id=fresh.provider_id, conditions=fresh.conditions)
        self.world.build.put(Kind.NODE_CLAIM, claim_name, joined)

    def deleting(self, name: str) -> bool:
        claim = self.world.claim(f"{name}-c")
        return claim is not None and claim.deleting

    def tainted(self, name: str) -> bool:
        return disrupted(self.world.snapshot().nodes[name])


@pytest.fixture
def scene() -> Scene:
    return Scene()


async def replacing(scene: Scene) -> str:
    """A command that has made its replacement; its claim's name."""
    scene.world.node("old", "m5.4xlarge")
    scene.world.build.pod("p", "old")
    await scene.decide()
    return scene.replacement()


async def test_empty_nodes_are_tainted_and_deleted_after_the_wait(scene: Scene) -> None:
    scene.world.node("a")
    scene.world.node("b")
    await scene.decide()
    assert scene.deleting("a")
    assert scene.deleting("b")
    assert scene.clock.now() - NOW >= 15.0
    assert scene.tainted("a")
    assert scene.world.log.index("disrupt a") < scene.world.log.index("delete a-c")


async def test_nothing_happens_when_a_pod_comes_during_the_wait(scene: Scene) -> None:
    scene.world.node("a")
    await scene.decide(during_wait=lambda: scene.world.build.pod("late", "a"))
    assert not scene.deleting("a")
    assert not scene.tainted("a")
    assert any(kind.startswith("blocked command/") for kind in scene.replica.notes.kinds())


async def test_nodes_of_commands_that_no_longer_hold_are_counted(scene: Scene) -> None:
    for node in ("a", "b"):
        scene.world.node(node)

    def pods_come() -> None:
        for node in ("a", "b"):
            scene.world.build.pod(f"late-{node}", node)

    await scene.decide(during_wait=pods_come)
    failed = "karpenter_voluntary_disruption_failed_validations_total"
    assert scene.replica.registry.get_sample_value(failed, {"consolidation_type": "empty"}) == 2


async def test_the_replacement_is_made_first_and_promises_no_pod_by_name(scene: Scene) -> None:
    name = await replacing(scene)
    claim = scene.world.claim(name)
    assert claim is not None
    assert msgspec.json.decode(claim.annotations[keys.REPLACES]) == ["old"]
    assert keys.PLANNED_PODS not in claim.annotations
    assert claim.annotations[keys.PLANNER_EPOCH] == "1"
    assert scene.tainted("old")
    assert not scene.deleting("old")
    old = scene.world.claim("old-c")
    assert old is not None
    assert old.is_true("DisruptionReason")


async def test_the_old_node_goes_once_the_new_one_is_initialized_and_that_one_is_kept_from_being_empty(
    scene: Scene,
) -> None:
    name = await replacing(scene)
    await scene.turn()
    assert not scene.deleting("old")
    scene.initialize(name)
    await scene.turn()
    assert scene.deleting("old")
    assert scene.replica.nominations.nodes == {"fresh"}


async def test_events_tell_what_a_command_waits_for_and_ends(scene: Scene) -> None:
    name = await replacing(scene)
    await scene.turn()
    assert ("NodeClaim", name, "DisruptionWaitingReadiness") in scene.replica.notes.events
    assert ("NodeClaim", "old-c", "DisruptionTerminating") not in scene.replica.notes.events
    scene.initialize(name)
    await scene.turn()
    assert ("NodeClaim", "old-c", "DisruptionTerminating") in scene.replica.notes.events


async def test_the_node_that_takes_a_workloads_only_pod_is_nominated_before_the_other_goes(
    scene: Scene,
) -> None:
    for name in ("a", "b"):
        scene.world.node(name, "m5.large", capacity_type=keys.SPOT)
        scene.world.build.pod(f"p-{name}", name, owner_name=f"rs-{name}")
    await scene.decide()
    gone, stays = ("a", "b") if scene.deleting("a") else ("b", "a")
    assert scene.deleting(gone)
    assert scene.replica.nominations.nodes == {stays}


async def test_the_journal_tells_how_long_the_drain_will_take_and_who_is_alone(scene: Scene) -> None:
    scene.world.node("old", "m5.4xlarge")
    scene.world.build.pod("p", "old", grace_period_s=90.0)
    await scene.decide()
    said = next(d for d in scene.replica.notes.decisions if d.subject.startswith("command/"))
    assert (said.facts["drain_s"], said.facts["singletons"]) == (90.0, 1)
    proposal = next(p for p in scene.replica.disruption.proposals.all if p.node == "old")
    assert (proposal.drain.seconds, proposal.singletons) == (90.0, ("default/p",))


async def test_a_replacement_that_vanishes_sets_everything_back(scene: Scene) -> None:
    name = await replacing(scene)
    scene.world.build.put(Kind.NODE_CLAIM, name, None)
    await scene.turn()
    assert not scene.tainted("old")
    assert MARK not in scene.world.snapshot().nodes["old"].annotations
    old = scene.world.claim("old-c")
    assert old is not None
    assert old.condition("DisruptionReason") is None


async def test_a_late_replacement_sets_everything_back_and_means_nothing_later(scene: Scene) -> None:
    name = await replacing(scene)
    scene.clock.skip(601)
    await scene.turn()
    assert not scene.tainted("old")
    scene.initialize(name)
    await scene.turn()
    assert not scene.deleting("old")


async def test_after_a_restart_another_replica_finishes_the_command(scene: Scene) -> None:
    name = await replacing(scene)
    scene.replica = Replica(scene.world, scene.clock, name="r1")
    await scene.turn()
    assert scene.tainted("old")
    scene.initialize(name)
    await scene.turn()
    assert scene.deleting("old")


async def test_after_a_restart_before_the_replacement_was_made_everything_is_set_back(scene: Scene) -> None:
    name = await replacing(scene)
    scene.world.build.put(Kind.NODE_CLAIM, name, None)
    scene.replica = Replica(scene.world, scene.clock, name="r1")
    await scene.turn()
    assert not scene.tainted("old")


async def test_a_taint_that_nobody_stands_behind_is_taken_off(scene: Scene) -> None:
    node, _ = scene.world.node("a")
    await scene.world.disrupt(node, "{}")
    await scene.turn()
    assert not scene.tainted("a")


async def test_a_replica_that_lost_the_lease_writes_nothing(scene: Scene) -> None:
    scene.world.node("a")
    await scene.decide(during_wait=lambda: setattr(scene.replica.lead, "epoch", None))
    assert not scene.deleting("a")
    assert not scene.tainted("a")


async def test_a_node_that_changed_under_our_hands_is_left_alone(scene: Scene) -> None:
    scene.world.node("a")

    async def moved_on(node: object, mark: str) -> None:
        return None

    scene.world.disrupt = moved_on  # type: ignore[assignment,method-assign]
    await scene.decide()
    assert not scene.deleting("a")


async def test_nothing_new_while_redis_is_away(scene: Scene) -> None:
    scene.world.node("a")
    scene.replica.nominations.away = True
    with pytest.raises(StoreUnavailableError):
        await scene.replica.disruption.once()
    assert not scene.tainted("a")


async def test_a_quiet_pass_is_not_repeated_until_something_changes(scene: Scene) -> None:
    scene.world.node("a", "m5.large")
    scene.world.build.pod("p", "a", do_not_disrupt="true")
    scene.world.build.node("b", annotations={keys.DO_NOT_DISRUPT: "true"})
    assert await scene.replica.disruption.once() is not None
    assert await scene.replica.disruption.once() is None
    scene.clock.skip(301)
    assert await scene.replica.disruption.once() is not None
    assert await scene.replica.disruption.once() is None
    scene.world.build.pod("q", "b")
    assert await scene.replica.disruption.once() is not None


async def test_a_budget_that_opens_is_noticed_without_any_change(scene: Scene) -> None:
    scene.world.build.pool(budgets=(Budget("0", schedule="* * * * *", duration_s=30.0),))
    scene.clock.skip(60 - NOW % 60)
    scene.world.node("a")
    await scene.decide()
    assert not scene.deleting("a")
    scene.clock.skip(31)
    await scene.decide()
    assert scene.deleting("a")


async def test_an_expired_claim_is_deleted_at_once_whatever_the_budgets_say(scene: Scene) -> None:
    scene.world.build.pool(budgets=(Budget("0"),))
    scene.world.node("a", claim={"expire_after_s": 60.0})
    scene.world.build.pod("p", "a")
    await scene.replica.disruption._expire()
    assert scene.deleting("a")
    assert f"disrupting nodeclaim/a-c {Reason.EXPIRED}" in scene.replica.notes.kinds()


async def test_marks_write_the_last_pod_event_and_the_emptiness_timestamp(scene: Scene) -> None:
    scene.world.build.pool("provisioner/p", policy="WhenEmpty", after=30.0, budgets=())
    scene.world.node("a")
    scene.world.build.pod("p", "a", scheduled_at=NOW - 40)
    scene.world.node("empty", pool="provisioner/p")
    await scene.replica.disruption.write_marks()
    claim = scene.world.claim("a-c")
    assert claim is not None
    assert claim.last_pod_event_at == NOW - 40
    assert keys.EMPTINESS_TIMESTAMP in scene.world.snapshot().nodes["empty"].annotations


async def test_a_protection_that_cannot_be_read_is_said_on_the_pod(scene: Scene) -> None:
    scene.world.node("a")
    for name, text in (("odd", "soon"), ("yes", "true"), ("timed", "10m"), ("plain", "")):
        scene.world.build.pod(name, "a", do_not_disrupt=text)
    await scene.replica.disruption.write_marks()
    said = [name for kind, name, reason in scene.replica.notes.events if reason == "InvalidDoNotDisrupt"]
    assert said == ["odd"]


async def test_proposals_tell_what_stops_each_node_and_are_said_once(scene: Scene) -> None:
    scene.world.build.pool(budgets=(Budget("0"),))
    scene.world.node("a")
    await scene.decide()
    await scene.decide()
    (proposal,) = await scene.replica.disruption.list_proposals()
    assert (proposal.node, proposal.blocks[0].rule) == ("a", "Budget")
    assert scene.replica.notes.kinds().count("blocked node/a Budget") == 1


NO_PRICE = catalogue({**TYPES, "m5.large": (2000, 0.0)})
STOPPED: dict[str, tuple[Callable[[Scene], object], tuple[str, str, str]]] = {
    "price": (lambda s: s.replica.prices.move(NO_PRICE), ("Node", "a", "Unconsolidatable")),
    "policy": (lambda s: s.world.build.pool(policy="WhenEmpty"), ("Node", "a", "Unconsolidatable")),
    "no other place": (lambda s: None, ("Node", "a", "Unconsolidatable")),
    "budget": (lambda s: s.world.build.pdb("guard", 0), ("Node", "a", "DisruptionBlocked")),
    "grace period": (
        lambda s: s.world.node(
            "a", "m5.large", capacity_type=keys.SPOT, claim={"termination_grace_period_s": 20.0}
        ),
        ("Node", "a", "DisruptionBlocked"),
    ),
    "balance": (
        lambda s: (
            s.world.build.pool(policy="Balanced"),
            s.world.node("a", "m5.xlarge"),
            s.world.node("busy", "m5.4xlarge", annotations={keys.DO_NOT_DISRUPT: "true"}),
        ),
        ("Node", "a", "ConsolidationRejected"),
    ),
    "pools": (
        lambda s: (s.world.build.pool(budgets=(Budget("0"),)), s.world.node("b", "m5.4xlarge")),
        ("NodePool", "default", "DisruptionBlocked"),
    ),
}


@pytest.mark.parametrize("why", STOPPED)
async def test_what_stops_a_node_is_said_on_it_or_its_pool(scene: Scene, why: str) -> None:
    scene.world.node("a", "m5.large", capacity_type=keys.SPOT)
    scene.world.build.pod("p", "a")
    stop, event = STOPPED[why]
    stop(scene)
    await scene.decide()
    said = list(scene.replica.notes.events)
    assert event in said
    await scene.decide()
    assert scene.replica.notes.events == said


async def test_pools_that_had_no_turn_have_it_in_the_next_pass(scene: Scene) -> None:
    looked: list[frozenset[str]] = []
    disruption = scene.replica.disruption
    disruption._options = msgspec.structs.replace(disruption._options, deadline_s=-1.0)
    scene.world.node("a", "m5.large")
    scene.world.build.pod("p", "a")
    for _ in range(2):
        looked.append((await disruption.view_now()).overdue)
        await scene.decide()
    assert looked == [frozenset(), frozenset({"default"})]


async def test_another_replica_answers_for_proposals_too(scene: Scene) -> None:
    scene.world.node("a")
    scene.replica.lead.epoch = None
    (proposal,) = await scene.replica.disruption.list_proposals()
    assert proposal.node == "a"
    assert scene.replica.notes.kinds() == []


# --- garbage --------------------------------------------------------------------------------------------------------
def orphan(scene: Scene, name: str, age: float = 300.0) -> None:
    at = scene.clock.now() - age
    scene.world.instances[f"i-{name}"] = Instance(
        f"i-{name}", "running", at, ZONE, "cluster-1", f"{name}-c", "x"
    )


async def test_an_orphan_ends_and_its_node_object_with_it(scene: Scene) -> None:
    scene.world.node("a")
    scene.world.build.put(Kind.NODE_CLAIM, "a-c", None)
    await scene.replica.collector.once()
    assert not scene.world.instances["i-a"].alive
    assert scene.world.snapshot().nodes["a"].deleted_at


async def test_an_orphan_whose_claim_the_api_server_knows_lives(scene: Scene) -> None:
    orphan(scene, "a")
    scene.world.build.node("a")
    hidden = scene.world.snapshot()

    class Behind:
        synced, lag_s = True, 0.0

        def snapshot(self) -> object:
            return msgspec.structs.replace(hidden, claims={}, claim_of_provider={})

    scene.replica.collector._cluster = Behind()  # type: ignore[assignment]
    await scene.replica.collector.once()
    assert scene.world.instances["i-a"].alive


@pytest.mark.parametrize(
    "why", ["the stream is not whole", "the stream is behind", "Karpenter is active", "not the holder"]
)
async def test_nothing_is_collected_until_all_is_seen_and_it_is_permitted(scene: Scene, why: str) -> None:
    orphan(scene, "a")
    collector, may = scene.replica.collector, why != "Karpenter is active"
    collector._permitted = lambda: may
    scene.world.synced = why != "the stream is not whole"
    scene.world.lag_s = 6.0 if why == "the stream is behind" else 0.0
    scene.replica.lead.epoch = None if why == "not the holder" else 1
    collecting = asyncio.create_task(collector.run())
    await scene.clock.advance(300.0)
    assert scene.world.instances["i-a"].alive
    may = scene.world.synced = True
    scene.world.lag_s, scene.replica.lead.epoch = 0.0, 1
    await scene.clock.advance(121.0)
    assert not scene.world.instances["i-a"].alive
    collecting.cancel()


async def test_a_claim_without_an_instance_is_deleted(scene: Scene) -> None:
    scene.world.node("a", ready=False)
    del scene.world.instances["i-a"]
    await scene.replica.collector.once()
    assert scene.deleting("a")


async def test_much_garbage_at_once_waits_for_a_person_and_is_said_once(scene: Scene) -> None:
    for name in "abc":
        orphan(scene, name)
    await scene.replica.collector.once()
    held = await scene.replica.collector.once()
    assert held.held
    assert all(i.alive for i in scene.world.instances.values())
    assert scene.replica.notes.kinds() == ["paused garbage-collection GarbageCollectionHeld"]
    assert scene.replica.measures.held._value.get() == 3
    scene.replica.approved = held.digest
    await scene.replica.collector.once()
    assert not any(i.alive for i in scene.world.instances.values())

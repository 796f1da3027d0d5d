"""What the reallocator writes and remembers beside its commands: drift on claims, moves, what it saved and refused."""

import asyncio
import math

import msgspec
import pytest

from nodeyard.api import labels as keys
from nodeyard.api.nodeclass import Image, NodeClass
from nodeyard.api.pool import Budget, Steadiness
from nodeyard.disruption.commands import MARK
from nodeyard.disruption.drift import DRIFTED
from nodeyard.disruption.model import Distance, Fate, Outcome, Reason, Rule
from nodeyard.provisioning.claims import HASH_VERSION
from nodeyard.state.cluster import Kind
from tests.support.clock import FakeClock
from tests.support.disruption_world import World
from tests.support.reallocating import Replica

STAMPED = {keys.NODEPOOL_HASH: "old", keys.NODEPOOL_HASH_VERSION: HASH_VERSION}


class Scene:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.world = World(self.clock)
        self.world.build.pool(hash="old")
        self.replica = Replica(self.world, self.clock)

    async def decide(self) -> None:
        doing = asyncio.create_task(self.replica.disruption.once())
        while not doing.done():
            await asyncio.sleep(0)
            if self.clock.sleeping:
                await self.clock.advance(1.0)
        await doing

    def replacement(self) -> str:
        return next(n for n, c in self.world.snapshot().claims.items() if MARK in c.annotations)

    def initialize(self, claim_name: str, type_: str = "m5.large") -> None:
        """The allocator's part: the claim gets a node that is ready, of the type that could be had."""
        self.world.node("fresh", type_, capacity_type=keys.SPOT)
        claim, fresh = self.world.claim(claim_name), self.world.claim("fresh-c")
        assert claim is not None
        assert fresh is not None
        self.world.build.put(Kind.NODE_CLAIM, "fresh-c", None)
        joined = msgspec.structs.replace(
            claim,
            provider_id=fresh.provider_id,
            conditions=fresh.conditions,
            labels=claim.labels | fresh.labels,
        )
        self.world.build.put(Kind.NODE_CLAIM, claim_name, joined)

    def condition(self, name: str) -> tuple[str, str] | None:
        claim = self.world.claim(f"{name}-c")
        assert claim is not None
        found = claim.condition(DRIFTED)
        return (found.status, found.reason) if found is not None else None


@pytest.fixture
def scene() -> Scene:
    return Scene()


# --- drift --------------------------------------------------------------------------------------------------------------
async def test_drift_is_written_on_claims_said_once_and_taken_off_again(scene: Scene) -> None:
    scene.world.node("a", claim={"annotations": STAMPED})
    await scene.replica.disruption.write_marks()
    assert scene.condition("a") is None
    scene.world.build.pool(hash="new")
    await scene.replica.disruption.write_marks()
    await scene.replica.disruption.write_marks()
    assert scene.condition("a") == ("True", "NodePoolDrifted")
    assert [e for e in scene.replica.notes.events if e[2] == DRIFTED] == [("NodeClaim", "a-c", DRIFTED)]
    assert scene.replica.notes.kinds().count("proposed nodeclaim/a-c Drifted") == 1
    scene.world.build.pool(hash="old")
    await scene.replica.disruption.write_marks()
    assert scene.condition("a") is None


async def test_quiet_nodes_are_told_to_be_consolidatable(scene: Scene) -> None:
    scene.world.build.pool(hash="old", after=60.0)
    scene.world.node("a", claim={"annotations": STAMPED})
    await scene.replica.disruption.write_marks()
    claim = scene.world.claim("a-c")
    assert claim is not None
    assert claim.is_true("Consolidatable")
    scene.world.build.pod("late", "a", scheduled_at=scene.clock.now())
    await scene.replica.disruption.write_marks()
    claim = scene.world.claim("a-c")
    assert claim is not None
    assert claim.condition("Consolidatable") is None


async def test_hashes_of_another_version_are_stamped_anew(scene: Scene) -> None:
    scene.world.node("a", claim={"annotations": {keys.NODEPOOL_HASH: "1", keys.NODEPOOL_HASH_VERSION: "v3"}})
    await scene.replica.disruption.write_marks()
    claim = scene.world.claim("a-c")
    assert claim is not None
    assert claim.annotations.items() >= STAMPED.items()
    assert scene.condition("a") is None


async def test_drift_is_not_judged_while_prices_and_types_are_unknown(scene: Scene) -> None:
    scene.world.node("a", claim={"image_id": "ami-1"})
    scene.world.build.put(Kind.NODE_CLASS, "default", NodeClass("default", images=(Image("ami-2"),)))
    scene.replica.prices.ready = False
    await scene.replica.disruption.write_marks()
    assert scene.condition("a") is None
    scene.replica.prices.ready = True
    await scene.replica.disruption.write_marks()
    assert scene.condition("a") == ("True", "AMIDrift")


async def test_a_drifted_node_goes_after_its_replacement_which_says_why_it_was_made(scene: Scene) -> None:
    scene.world.node("old", "m5.large", claim={"annotations": STAMPED})
    scene.world.build.pod("p", "old")
    scene.world.build.pool(hash="new", after=None)
    await scene.replica.disruption.write_marks()
    await scene.decide()
    name = scene.replacement()
    made = scene.world.claim(name)
    assert made is not None
    assert made.annotations[keys.DISRUPTION_REASON] == "Drifted"
    assert made.annotations[keys.NODEPOOL_HASH] == "new"
    scene.initialize(name)
    await scene.replica.execution.advance()
    old = scene.world.claim("old-c")
    assert old is not None
    assert old.deleting
    (move,) = scene.replica.moves.kept.values()
    assert (move.reason, move.fate) == (Reason.DRIFTED, Fate.DONE)


async def test_every_method_says_why_it_left_a_node_alone_and_says_it_once(scene: Scene) -> None:
    scene.world.build.pool(hash="new", budgets=(Budget("0", reasons=("Drifted",)),))
    scene.world.node("a", "m5.large", claim={"annotations": STAMPED}, capacity_type=keys.SPOT)
    scene.world.build.pod("p", "a")
    await scene.decide()
    await scene.decide()
    told = [(d.facts["method"], d.reason) for d in scene.replica.notes.decisions if d.kind == "blocked"]
    assert told == [("drift", "Budget"), ("underutilization", "NotCheaper")]
    (proposal,) = await scene.replica.disruption.list_proposals()
    assert (proposal.reason, proposal.blocks[0].rule) == (Reason.DRIFTED, Rule.BUDGET)


# --- moves ----------------------------------------------------------------------------------------------------------------
async def replacing(scene: Scene) -> str:
    scene.world.node("old", "m5.4xlarge")
    scene.world.build.pod("p", "old")
    await scene.decide()
    return scene.replacement()


async def test_a_move_is_remembered_with_what_was_launched_in_the_end(scene: Scene) -> None:
    name = await replacing(scene)
    (move,) = scene.replica.moves.kept.values()
    assert (move.fate, move.left, move.came) == (Fate.STARTED, ("m5.4xlarge/on-demand",), ("m5.large/spot",))
    scene.initialize(name, "m5.xlarge")
    await scene.replica.execution.advance()
    (move,) = scene.replica.moves.kept.values()
    assert (move.fate, move.came) == (Fate.DONE, ("m5.xlarge/spot",))


async def test_a_failed_move_is_remembered_by_another_replica_which_does_not_repeat_it(scene: Scene) -> None:
    name = await replacing(scene)
    scene.world.build.put(Kind.NODE_CLAIM, name, None)
    await scene.replica.execution.advance()
    kept = scene.replica.moves.kept
    assert [(m.fate, m.came) for m in kept.values()] == [(Fate.UNDONE, ("m5.large/spot",))]
    scene.replica = Replica(scene.world, scene.clock, name="r1")
    scene.replica.moves.kept = kept
    await scene.decide()
    again = scene.world.claim(scene.replacement())
    assert again is not None
    types = next(r.values for r in again.requirements if r.key == keys.INSTANCE_TYPE)
    assert "m5.large" not in types


async def test_a_replica_that_took_over_remembers_what_was_planned_too(scene: Scene) -> None:
    name = await replacing(scene)
    kept = scene.replica.moves.kept
    scene.replica = Replica(scene.world, scene.clock, name="r1")
    scene.replica.moves.kept = kept
    scene.world.build.put(Kind.NODE_CLAIM, name, None)
    await scene.replica.execution.advance()
    assert [(m.fate, m.came) for m in kept.values()] == [(Fate.UNDONE, ("m5.large/spot",))]


async def test_moves_are_kept_here_while_redis_is_away_and_hold_nothing_up(scene: Scene) -> None:
    name = await replacing(scene)
    scene.replica.moves.away = True
    scene.initialize(name)
    await scene.replica.execution.advance()
    old = scene.world.claim("old-c")
    assert old is not None
    assert old.deleting
    assert [m.fate for m in scene.replica.moves.kept.values()] == [Fate.STARTED]
    scene.replica.moves.away = False
    assert [m.fate for m in await scene.replica.memory.recall()] == [Fate.DONE]


async def test_empty_nodes_are_no_moves(scene: Scene) -> None:
    scene.world.node("a")
    await scene.decide()
    assert scene.replica.moves.kept == {}


# --- measures -------------------------------------------------------------------------------------------------------------
def value(scene: Scene, name: str, **labels: str) -> float:
    found = scene.replica.registry.get_sample_value(name, labels)
    assert found is not None
    return found


async def test_what_runs_costs_what_was_saved_and_what_was_refused_are_measured(scene: Scene) -> None:
    name = await replacing(scene)
    assert value(scene, "nodeyard_running_cost_usd_per_hour", nodepool="default") == pytest.approx(0.81)
    assert value(scene, "karpenter_nodepools_cost_total", nodepool="default") == pytest.approx(0.80)
    scene.initialize(name)
    await scene.replica.execution.advance()
    await scene.replica.execution.advance()
    saved = 0.81 - 0.1 / 3 - 0.01
    made = "nodeyard_disruption_savings_usd_per_hour_total"
    assert value(scene, made, reason="Underutilized") == pytest.approx(saved)


async def test_how_far_the_cluster_stands_from_the_cheapest_is_measured_as_of_the_last_search(
    scene: Scene,
) -> None:
    measures = scene.replica.measures
    measures.observe_pass(Outcome(distance=Distance(1.5, 1.2)))
    measures.observe_pass(Outcome())
    assert value(scene, "nodeyard_cluster_cost_usd_per_hour") == 1.5
    assert value(scene, "nodeyard_cluster_least_cost_usd_per_hour") == 1.2
    assert value(scene, "nodeyard_cluster_cost_gap_ratio") == pytest.approx(0.25)


async def test_how_far_the_cluster_stands_is_no_number_while_nobody_knows(scene: Scene) -> None:
    measures, name = scene.replica.measures, "nodeyard_cluster_cost_gap_ratio"
    assert math.isnan(value(scene, name))
    measures.observe_pass(Outcome(distance=Distance(1.5, 1.2), judged={"course": ()}))
    assert value(scene, name) == pytest.approx(0.25)
    measures.observe_pass(Outcome(judged={"course": ()}))
    assert math.isnan(value(scene, name))


async def test_the_journal_tells_how_far_the_cluster_stands_from_the_cheapest_when_that_changes(
    scene: Scene,
) -> None:
    proposals, snapshot = scene.replica.disruption.proposals, scene.world.snapshot()
    for distance in (Distance(1.5, 1.2), None, Distance(1.5, 1.2), Distance(1.2, 1.2)):
        await proposals.take(Outcome(distance=distance), snapshot)
    said = [d for d in scene.replica.notes.decisions if d.kind == "measured"]
    assert [(d.subject, d.facts["cost_per_hour"], d.facts["least_per_hour"]) for d in said] == [
        ("cluster/all", 1.5, 1.2), ("cluster/all", 1.2, 1.2),
    ]  # fmt: skip
    assert [d.facts["gap"] for d in said] == pytest.approx([0.25, 0.0])


async def test_a_saving_that_is_refused_is_counted_under_its_rule_and_method(scene: Scene) -> None:
    pool = scene.world.build.pool(budgets=(Budget("0"),))
    scene.world.node("a")
    await scene.decide()
    assert value(scene, "nodeyard_disruption_blocked_nodes", method="emptiness", rule="Budget") == 1
    refused = "nodeyard_disruption_refused_savings_usd_per_hour"
    assert value(scene, refused, rule="Budget") == pytest.approx(0.21)
    wants = msgspec.structs.replace(
        pool.disruption, budgets=(Budget("100%"),), steadiness=Steadiness(min_saving_share=1.0)
    )
    scene.world.build.put(Kind.POOL, "default", msgspec.structs.replace(pool, disruption=wants))
    scene.world.build.pod("p", "a")
    await scene.decide()
    assert value(scene, "nodeyard_disruption_blocked_nodes", method="emptiness", rule="Budget") == 0
    found = {
        sample.labels["rule"]: sample.value
        for metric in scene.replica.registry.collect()
        if metric.name == "nodeyard_disruption_blocked_nodes"
        for sample in metric.samples
        if sample.labels["method"] == "underutilization" and sample.value
    }
    assert found == {Rule.MIN_SAVING.value: 1}


async def test_commands_are_counted_as_karpenter_counts_them(scene: Scene) -> None:
    labels = {"decision": "replace", "reason": "underutilized", "consolidation_type": "single"}
    name = await replacing(scene)
    assert value(scene, "karpenter_voluntary_disruption_decisions_total", **labels) == 1
    scene.world.build.put(Kind.NODE_CLAIM, name, None)
    await scene.replica.execution.advance()
    assert value(scene, "karpenter_voluntary_disruption_queue_failures_total", **labels) == 1
    assert value(scene, "karpenter_voluntary_disruption_eligible_nodes", reason="underutilized") == 1

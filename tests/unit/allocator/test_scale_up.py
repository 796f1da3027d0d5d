"""The allocator's way from pending pods to launched claims, in a small honest world."""

import msgspec
import pytest

from nodeyard.adapters.kubernetes.errors import Unavailable
from nodeyard.api import labels as keys
from nodeyard.api.node import LAUNCHED, REGISTERED
from nodeyard.api.selectors import Taint
from nodeyard.cloudprovider.commitments import Marginal
from nodeyard.cloudprovider.errors import NotFound, Throttled, Unreachable
from nodeyard.cloudprovider.market import market_of
from nodeyard.cloudprovider.refusals import Shut
from nodeyard.provisioning.claims import (
    LAUNCH_RECORD,
    encode_record,
    launch_record_of,
    planned_pods_of,
)
from nodeyard.provisioning.model import Placement, Plan, Problem
from nodeyard.state.cluster import Kind
from tests.support.allocator import Replica, World
from tests.support.catalogue import on_demand_sheet, spot_sheet, table_of


@pytest.fixture
def world() -> World:
    return World()


async def test_pending_pods_get_one_launched_claim_that_promises_them(world: World) -> None:
    pods = world.pending_pods(3)
    await world.replica().round()
    (claim,) = world.api.claims.values()
    assert set(planned_pods_of(claim)) == set(pods)
    assert claim.provider_id.startswith("aws:///eu-west-1")
    assert claim.is_true(LAUNCHED)
    assert len(world.cloud.instances) == 1
    assert claim.labels[keys.INSTANCE_TYPE] in claim.annotations[keys.LAUNCH_OFFERINGS]
    assert claim.labels[keys.CAPACITY_TYPE] == "on-demand"
    assert claim.labels["team"] == "a"
    assert claim.capacity["cpu"] >= 2000
    assert claim.finalizers == (keys.TERMINATION_FINALIZER,)


async def test_a_launch_writes_on_the_claim_as_it_is_and_never_on_an_older_one(world: World) -> None:
    world.pending_pods(3)
    await world.replica().round()
    (claim,) = world.api.claims.values()
    assert claim.is_true(LAUNCHED)
    assert world.api.stale_claims == 0


async def test_a_launch_at_prices_of_our_own_says_in_which_order_to_try_them(world: World) -> None:
    world.pending_pods(1)
    table = table_of()
    paid_for = {("m5.large", zone.name): Marginal(1e-8, 1e-8) for zone in table.zones}
    world.cloud.market = market_of(
        table, on_demand_sheet(table), spot_sheet(table), Shut(), now=0.0, margins=paid_for
    )
    await world.replica().round()
    ((_, record),) = world.cloud.calls
    assert record.prioritized
    assert {place.partition("/")[0] for place in record.prices} == {"m5.large"}


async def test_pods_promised_to_a_claim_are_not_planned_again(world: World) -> None:
    world.pending_pods(3)
    replica = world.replica()
    await replica.round()
    await replica.round()
    assert len(world.api.claims) == 1


async def test_own_claims_count_before_the_stream_shows_them(world: World) -> None:
    world.pending_pods(3)
    replica = world.replica()
    replica.stream.paused = True
    await replica.round()
    await replica.round()
    assert len(world.api.claims) == 1


async def test_a_new_planner_sees_the_claims_that_its_stream_does_not_show_yet(world: World) -> None:
    world.pending_pods(3)
    first, second = world.replica("a"), world.replica("b")
    second.stream.paused = True
    await first.round()
    world.leader.epoch = world.leader.newest = 2
    await second.round()
    assert len(world.api.claims) == 1


async def test_a_plan_is_dropped_when_its_epoch_ended(world: World) -> None:
    world.pending_pods(3)
    replica = world.replica()
    await replica.classes.refresh()
    world.leader.epoch = 2
    await replica.controller.round(1)
    assert world.api.claims == {}


async def test_the_launch_is_on_the_claim_before_the_call(world: World) -> None:
    world.pending_pods(1)
    world.cloud.failures = [Throttled("slow down")]
    await world.replica().round()
    (claim,) = world.api.claims.values()
    assert launch_record_of(claim) is not None
    assert claim.condition(LAUNCHED).reason == "Throttled"  # type: ignore[union-attr]
    assert claim.condition(LAUNCHED).status == "Unknown"  # type: ignore[union-attr]


async def test_a_launch_whose_answer_was_lost_is_repeated_with_the_same_request(world: World) -> None:
    world.pending_pods(1)
    world.cloud.failures = [Unreachable("cut", may_have_taken_effect=True)]
    first, second = world.replica("a"), world.replica("b")
    await first.round()
    assert not next(iter(world.api.claims.values())).provider_id
    await second.classes.refresh()
    await second.follow()
    assert len(world.cloud.instances) == 1
    assert next(iter(world.api.claims.values())).is_true(LAUNCHED)
    assert world.cloud.calls[0] == world.cloud.calls[1]


async def test_two_replicas_share_the_launches_and_launch_nothing_twice(world: World) -> None:
    first, second = world.replica("a"), world.replica("b")
    for number in range(6):
        world.pending_pods(1, prefix=f"q{number}-")
        await first.classes.refresh()
        await second.classes.refresh()
        await first.controller.round(1)
        second.follower.look()
        await first.follow()
        await second.follow()
    assert len(world.cloud.instances) == len(world.api.claims) == 6


async def test_refused_capacity_ends_the_claim_and_the_next_round_buys_something_else(world: World) -> None:
    world.pending_pods(1)
    replica = world.replica()
    first = {("m5.large", zone) for zone in ("eu-west-1a", "eu-west-1b", "eu-west-1c")}
    world.cloud.full = first
    await replica.round()
    assert world.api.claims == {}
    assert {(r.instance_type, r.zone) for r in world.cloud.refused} <= first
    assert world.cloud.refused
    await replica.round()
    (claim,) = world.api.claims.values()
    assert claim.labels[keys.INSTANCE_TYPE] != "m5.large"
    assert claim.is_true(LAUNCHED)


async def test_a_lost_template_is_made_again_and_the_launch_repeated_as_a_new_attempt(world: World) -> None:
    world.pending_pods(1)
    world.cloud.failures = [NotFound("no such launch template")]
    await world.replica().round()
    (claim,) = world.api.claims.values()
    assert claim.is_true(LAUNCHED)
    assert launch_record_of(claim).attempt == 1  # type: ignore[union-attr]
    assert world.account.forgotten


async def test_a_claim_of_an_older_planner_written_after_a_newer_began_is_deleted(world: World) -> None:
    world.pending_pods(1)
    replica = world.replica()
    world.cloud.failures = [Throttled("slow down")]
    await replica.round()
    world.leader.epoch, world.leader.newest = 2, 2
    world.leader.began_at = world.clock.now() - 5
    await world.clock.advance(2)
    await replica.follow()
    assert world.api.claims == {}
    assert world.cloud.instances == {}


async def test_a_claim_written_before_the_newer_planner_began_is_launched(world: World) -> None:
    world.pending_pods(1)
    replica = world.replica()
    world.cloud.failures = [Throttled("slow down")]
    await replica.round()
    world.leader.epoch, world.leader.newest, world.leader.began_at = 2, 2, world.clock.now() + 1
    await world.clock.advance(2)
    await replica.follow()
    assert next(iter(world.api.claims.values())).is_true(LAUNCHED)


async def test_a_claim_that_never_launches_is_given_up_after_its_time(world: World) -> None:
    world.pending_pods(1)
    replica = world.replica()
    world.cloud.failures = [Throttled("slow down")] * 50
    await replica.round()
    for _ in range(20):
        await world.clock.advance(20)
        await replica.follow()
    assert world.api.claims == {}


async def test_giving_up_adopts_an_instance_that_was_made_after_all(world: World) -> None:
    world.pending_pods(1)
    replica = world.replica()
    world.cloud.failures = [Unreachable("cut", may_have_taken_effect=True)]
    await replica.round()
    await world.clock.advance(400)
    await replica.follow()
    (claim,) = world.api.claims.values()
    assert claim.provider_id
    assert not claim.deleting


async def test_a_deleted_claim_without_instance_is_let_go(world: World) -> None:
    world.pending_pods(1)
    replica = world.replica()
    world.cloud.failures = [Throttled("slow down")]
    await replica.round()
    await world.api.delete(next(iter(world.api.claims)))
    await replica.follow()
    assert world.api.claims == {}


async def test_a_deleted_claim_whose_instance_exists_becomes_launched_and_stays_for_the_reallocator(
    world: World,
) -> None:
    world.pending_pods(1)
    replica = world.replica()
    world.cloud.failures = [Unreachable("cut", may_have_taken_effect=True)]
    await replica.round()
    await world.api.delete(next(iter(world.api.claims)))
    await replica.follow()
    (claim,) = world.api.claims.values()
    assert claim.provider_id
    assert claim.deleting
    assert claim.finalizers


async def test_a_failed_create_leaves_the_pods_for_the_next_round(world: World) -> None:
    world.pending_pods(2)
    world.api.fail["create"] = Unavailable(503, "", "away")
    replica = world.replica()
    await replica.round()
    assert world.api.claims == {}
    await replica.round()
    assert len(world.api.claims) == 1


async def test_launches_go_on_without_redis(world: World) -> None:
    world.pending_pods(1)
    world.leases.away = world.quiet.away = True
    replica = world.replica()
    await replica.round()
    (claim,) = world.api.claims.values()
    world.join(claim.name, taints=(Taint(keys.TAINT_UNREGISTERED, keys.NO_EXECUTE),))
    await replica.follow()
    assert world.api.claims[claim.name].is_true(REGISTERED)


async def test_a_claim_without_ready_class_ends_at_once(world: World) -> None:
    world.pending_pods(1)
    replica = world.replica()
    await replica.classes.refresh()
    await replica.controller.round(1)
    claim = next(iter(world.api.claims.values()))
    gone = msgspec.structs.replace(
        claim,
        name="other",
        uid="",
        provider_id="",
        annotations={},
        node_class=msgspec.structs.replace(claim.node_class, name="missing"),
    )
    await world.api.create(gone)
    await replica.follow()
    assert "other" not in world.api.claims
    assert ("NodeClassNotReady", "nodeclaim/other") in {(d.reason, d.subject) for d in world.quiet.decisions}


async def test_a_user_written_claim_is_launched_from_the_catalogue(world: World) -> None:
    replica = world.replica()
    world.pending_pods(1)
    await replica.round()
    planned = next(iter(world.api.claims.values()))
    own = msgspec.structs.replace(
        planned, name="mine", uid="", provider_id="", annotations={}, finalizers=(), conditions=(), labels={}
    )
    await world.api.create(own)
    await replica.follow()
    mine = world.api.claims["mine"]
    assert mine.is_true(LAUNCHED)
    assert mine.finalizers == (keys.TERMINATION_FINALIZER,)
    assert mine.labels[keys.CAPACITY_TYPE] == "spot"
    assert LAUNCH_RECORD in mine.annotations


async def test_refused_pods_are_told_why_once(world: World) -> None:
    world.pending_pods(2, node_selector={"gpu": "yes"})
    replica = world.replica()
    await replica.round()
    await replica.round()
    refused = [d for d in world.quiet.decisions if d.kind == "refused"]
    assert len(refused) == 2
    assert ("Pod", "p0", "FailedScheduling") in world.quiet.events


# --- batching ---------------------------------------------------------------------------------------------------------
async def test_a_considered_pod_is_not_offered_again_until_it_is_time(world: World) -> None:
    from nodeyard.provisioning.pending import pending

    world.pending_pods(1, node_selector={"gpu": "yes"})
    replica = world.replica()
    await replica.round()

    def offered() -> int:
        replica.controller.offer(pending(replica.stream.snapshot(), world.clock.now()))
        return replica.batcher.pending

    assert offered() == 0
    world.clock.skip(10.5)
    assert offered() == 1


async def test_a_changed_pool_brings_refused_pods_up_again_at_once(world: World) -> None:
    from nodeyard.provisioning.pending import pending

    world.pending_pods(1, node_selector={"gpu": "yes"})
    replica = world.replica()
    await replica.round()
    world.api.put(Kind.POOL, "default", msgspec.structs.replace(world.pool, generation=2))
    replica.controller.offer(pending(replica.stream.snapshot(), world.clock.now()))
    assert replica.batcher.pending == 1


# --- two replicas -----------------------------------------------------------------------------------------------------
async def test_a_claim_whose_lease_another_replica_holds_is_left_to_it(world: World) -> None:
    world.pending_pods(1)
    replica = world.replica("a")
    await replica.classes.refresh()
    world.cloud.failures = [Throttled("slow down")]
    await replica.round()
    (name,) = world.api.claims
    calls = len(world.cloud.calls)
    world.leases.holders[f"node/{name}"] = "b"
    await world.clock.advance(5)
    await replica.follow()
    assert len(world.cloud.calls) == calls
    del world.leases.holders[f"node/{name}"]
    await world.clock.advance(5)
    await replica.follow()
    assert world.api.claims[name].is_true(LAUNCHED)


async def test_the_first_launch_record_on_a_claim_wins(world: World) -> None:
    world.pending_pods(1)
    replica = world.replica()
    await replica.round()
    planned = next(iter(world.api.claims.values()))
    bare = msgspec.structs.replace(
        planned, name="mine", uid="", provider_id="", annotations={}, conditions=(), labels={}
    )
    replica.stream.paused = True
    made = await world.api.create(bare)
    theirs = launch_record_of(planned)
    assert theirs is not None
    theirs = msgspec.structs.replace(theirs, tags={"written": "by the other replica"})
    await world.api.annotate(made, {LAUNCH_RECORD: encode_record(theirs)})
    await replica.launcher.launch(made)
    assert world.cloud.calls[-1] == (("mine",), theirs)


async def test_a_node_that_pods_were_planned_onto_is_nominated_for_two_batches_a_new_claim_is_not(
    world: World,
) -> None:
    """Source: Karpenter documentation, "Disruption"."""
    world.pending_pods(1)
    replica = world.replica()
    await replica.round()
    assert world.quiet.nominated == []
    (claim,) = world.api.claims
    node = world.join(claim, taints=())
    labels = {**world.api.claims[claim].labels, keys.REGISTERED: "true", keys.INITIALIZED: "true"}
    world.change_node(node.name, labels=labels)
    world.pending_pods(1, "later")

    def onto_the_node(problem: Problem, *_: object) -> Plan:
        return Plan(existing=(Placement(node.name, problem.pods),))

    other = Replica(world, "b", planner=onto_the_node)
    await other.classes.refresh()
    await other.controller.round(1)
    assert len(world.api.claims) == 1
    assert world.quiet.nominated == [node.name]
    assert world.quiet.nominated_for_s == 20.0


async def test_pods_that_wait_are_measured_by_the_zone_that_is_left_to_them(world: World) -> None:
    def shown(replica: Replica) -> dict[str, float]:
        (metric,) = replica.measures.zones.collect()
        return {sample.labels["zone"]: sample.value for sample in metric.samples}

    world.pending_pods(3)
    world.pending_pods(2, "bound", node_selector={keys.ZONE: "eu-west-1b"})
    world.pending_pods(1, "lost", node_selector={keys.ZONE: "nowhere-1a"})
    replica = world.replica()
    await replica.round()
    assert shown(replica) == {"flexible": 3, "eu-west-1b": 2, "none": 1}
    await replica.round()
    assert shown(replica) == {"eu-west-1b": 2, "none": 1}

"""Launches put together in one CreateFleet, and what becomes of a batch when its replica or the cloud fails."""

import asyncio

import msgspec
import pytest

from nodeyard.adapters.kubernetes.errors import Unavailable
from nodeyard.api import labels as keys
from nodeyard.api.node import LAUNCHED, NodeClaim, NodeClassRef
from nodeyard.api.selectors import Requirement
from nodeyard.cloudprovider.errors import CloudError, InvalidRequest, NotFound, Throttled, Unreachable
from nodeyard.provisioning.batches import LAUNCH_BATCH, batch_of
from nodeyard.provisioning.claims import launch_record_of
from services.allocator.naming import Namer
from tests.support.allocator import Replica, World

CUT = Unreachable("cut", may_have_taken_effect=True)


@pytest.fixture
def world() -> World:
    return World()


async def claims(world: World, count: int, *, kind: str = "m5.large", prefix: str = "c") -> None:
    """Claims that a user wrote, all alike."""
    for number in range(count):
        await world.api.create(
            NodeClaim(
                f"{prefix}{number}", node_class=NodeClassRef("default"), labels={keys.NODEPOOL: "default"},
                requirements=(Requirement(keys.INSTANCE_TYPE, "In", (kind,)), Requirement(keys.CAPACITY_TYPE, "In", ("on-demand",))),
            )
        )  # fmt: skip


async def ready(world: World, name: str = "a", window_s: float = 0.0) -> Replica:
    replica = world.replica(name, window_s=window_s)
    await replica.classes.refresh()
    return replica


async def go_on(world: World, *replicas: Replica, rounds: int = 12, each_s: float = 10.0) -> None:
    for _ in range(rounds):
        for replica in replicas:
            await replica.follow()
        await world.clock.advance(each_s)


def one_to_one(world: World) -> bool:
    """Whether every claim is launched and no two share an instance."""
    owned = [c.provider_id for c in world.api.claims.values() if c.is_true(LAUNCHED)]
    return len(set(owned)) == len(owned) == len(world.api.claims) == len(world.cloud.instances)


async def test_claims_of_the_same_kind_share_one_call(world: World) -> None:
    await claims(world, 5)
    await claims(world, 3, kind="m5.xlarge", prefix="d")
    replica = await ready(world)
    await replica.follow()
    assert sorted(len(names) for names, _ in world.cloud.calls) == [3, 5]
    assert one_to_one(world)


async def test_a_window_closes_once_the_last_claim_of_the_plan_has_come_or_failed(world: World) -> None:
    replica = await ready(world, window_s=0.035)
    replica.launcher.expect(["c0", "c1", "never"])
    await claims(world, 2)
    replica.follower.look()
    await asyncio.sleep(0.05)
    assert world.cloud.calls == []
    replica.launcher.expect_no_more("never")
    await replica.follow()
    assert [len(names) for names, _ in world.cloud.calls] == [2]
    assert world.clock.monotonic() == 0.0


async def test_a_window_closes_a_moment_after_the_last_claim_and_at_the_latest_after_a_second(
    world: World,
) -> None:
    replica = await ready(world, window_s=0.035)
    for number in range(40):
        await claims(world, 1, prefix=f"x{number}-")
        replica.follower.look()
        await world.clock.advance(0.03)
        if world.cloud.calls:
            break
    assert world.clock.monotonic() == pytest.approx(1.0, abs=0.07)
    await claims(world, 1, prefix="alone")
    before, calls = world.clock.monotonic(), len(world.cloud.calls)
    await world.clock.advance(1.0)
    calls = len(world.cloud.calls)
    replica.follower.look()
    await world.clock.advance(0.034)
    assert len(world.cloud.calls) == calls
    await world.clock.advance(0.002)
    assert len(world.cloud.calls) == calls + 1
    assert world.clock.monotonic() - before < 1.1


async def test_more_claims_than_one_batch_may_hold_become_several(world: World) -> None:
    await claims(world, 230)
    await (await ready(world)).follow()
    assert sorted(len(names) for names, _ in world.cloud.calls) == [30, 100, 100]
    assert one_to_one(world)


async def test_the_batch_is_on_every_claim_before_the_call(world: World) -> None:
    await claims(world, 3)
    world.cloud.failures = [CUT]
    await (await ready(world)).follow()
    batches = {claim.annotations[LAUNCH_BATCH] for claim in world.api.claims.values()}
    assert len(batches) == 1
    assert {name for name, _ in batch_of(world.api.claims["c0"]).members} == set(world.api.claims)  # type: ignore[union-attr]
    assert not any(claim.provider_id for claim in world.api.claims.values())


async def test_a_lost_answer_is_asked_for_again_with_the_same_request_by_any_replica(world: World) -> None:
    await claims(world, 4)
    world.cloud.failures = [CUT]
    await (await ready(world, "a")).follow()
    successor = await ready(world, "b")
    await successor.follow()
    assert world.cloud.calls[0] == world.cloud.calls[1]
    assert one_to_one(world)


async def test_two_replicas_that_finish_one_batch_agree_whose_instance_is_whose(world: World) -> None:
    await claims(world, 6)
    world.cloud.failures = [CUT]
    await (await ready(world, "dead")).follow()
    one, two = await ready(world, "a"), await ready(world, "b")
    world.leases.away = True
    one.follower.look()
    two.follower.look()
    await go_on(world, one, two, rounds=2)
    assert one_to_one(world)


async def test_a_batch_written_on_some_of_its_claims_only_is_completed_by_the_successor(world: World) -> None:
    await claims(world, 3)
    world.cloud.failures = [CUT]
    await (await ready(world, "a")).follow()
    world.cloud.instances.clear()
    await world.api.annotate(world.api.claims["c2"], {LAUNCH_BATCH: None})
    world.cloud._answers.clear()
    await (await ready(world, "b")).follow()
    assert {names for names, _ in world.cloud.calls} == {("c0", "c1", "c2")}
    assert one_to_one(world)


async def test_a_claim_taken_into_another_batch_voids_the_first_which_was_never_called(world: World) -> None:
    await claims(world, 3)
    world.cloud.failures = [Throttled("slow down")]
    await (await ready(world, "a")).follow()
    world.cloud.calls.clear()
    alone = world.api.claims["c2"]
    successor = await ready(world, "b")
    await world.api.annotate(alone, {LAUNCH_BATCH: None})
    record = launch_record_of(alone)
    assert record is not None
    await successor.batches.launch(world.api.claims["c2"], msgspec.structs.replace(record, attempt=1))
    await go_on(world, successor)
    assert one_to_one(world)
    assert sorted(len(names) for names, _ in world.cloud.calls) == [1, 2]


async def test_half_a_fleet_gives_what_came_and_ends_the_other_claims(world: World) -> None:
    await claims(world, 5)
    world.cloud.left = {"m5.large": 3}
    replica = await ready(world)
    await replica.follow()
    assert len(world.api.claims) == len(world.cloud.instances) == 3
    assert one_to_one(world)
    assert len(world.cloud.refused) == len(set(world.cloud.refused)) > 0


async def test_a_partial_answer_that_was_lost_ends_the_same_way(world: World) -> None:
    await claims(world, 5)
    world.cloud.left = {"m5.large": 3}
    world.cloud.failures = [CUT]
    await (await ready(world, "a")).follow()
    await go_on(world, await ready(world, "b"))
    assert len(world.api.claims) == 3
    assert one_to_one(world)


@pytest.mark.parametrize(
    "failures",
    [
        [Throttled("slow down")] * 3,
        [CUT, CUT, CUT],
        [Throttled("slow down"), CUT, Throttled("slow down")],
        [NotFound("no such template"), CUT],
        [InvalidRequest("no"), CUT],
    ],
    ids=["throttled", "cut", "mixed", "template-gone", "refused"],
)
@pytest.mark.parametrize("lag_s", [0.0, 30.0])
async def test_whatever_fails_there_is_one_instance_for_each_claim(
    world: World, failures: list[CloudError], lag_s: float
) -> None:
    world.cloud.lag_s = lag_s
    await claims(world, 7)
    world.cloud.failures = list(failures)
    await go_on(world, await ready(world, "a"), await ready(world, "b"))
    assert one_to_one(world)
    assert len(world.api.claims) == 7


async def test_an_answer_that_says_no_for_another_reason_is_followed_by_another_attempt(world: World) -> None:
    await claims(world, 2)
    world.cloud.answer_errors = [InvalidRequest("no such subnet")]
    replica = await ready(world)
    await replica.follow()
    assert {launch_record_of(c).attempt for c in world.api.claims.values()} == {1}  # type: ignore[union-attr]
    assert not any(batch_of(c) for c in world.api.claims.values())
    await go_on(world, replica)
    assert one_to_one(world)


async def test_a_vanished_claim_of_an_unanswered_batch_makes_the_others_wait_for_ec2s_lag(
    world: World,
) -> None:
    """Nobody knows whether the batch was called; EC2's silence counts once it has lasted."""
    await claims(world, 3)
    world.cloud.failures = [Throttled("slow down")]
    await (await ready(world, "a")).follow()
    world.api.put_away("c1")
    successor = await ready(world, "b")
    await go_on(world, successor, rounds=5)
    assert len(world.cloud.calls) == 1
    await go_on(world, successor, rounds=8)
    assert one_to_one(world)
    assert len(world.cloud.instances) == 2


async def test_a_vanished_claim_of_a_called_batch_leaves_the_others_theirs(world: World) -> None:
    world.cloud.lag_s = 45.0
    await claims(world, 3)
    world.cloud.failures = [CUT]
    await (await ready(world, "a")).follow()
    world.api.put_away("c1")
    await go_on(world, await ready(world, "b"), rounds=14)
    owned = {c.provider_id.rpartition("/")[2] for c in world.api.claims.values()}
    assert len(owned) == 2
    assert owned < set(world.cloud.instances)
    assert len(world.cloud.instances) == 3


async def test_a_failed_write_of_a_batch_is_made_good(world: World) -> None:
    await claims(world, 4)
    replica = await ready(world)
    world.api.fail["annotate"] = Unavailable(503, "", "away")
    await go_on(world, replica, rounds=4)
    assert one_to_one(world)


async def test_a_manifest_copied_with_its_batch_is_a_claim_of_its_own(world: World) -> None:
    await claims(world, 2)
    replica = await ready(world)
    await replica.follow()
    original = world.api.claims["c0"]
    await world.api.create(msgspec.structs.replace(original, name="copy", provider_id="", conditions=()))
    await go_on(world, replica, rounds=2)
    assert one_to_one(world)


async def test_instances_of_a_batch_are_tagged_as_their_claims_and_what_was_missed_is_found(
    world: World,
) -> None:
    await claims(world, 3)
    replica = await ready(world, "a")
    await replica.follow()
    assert world.cloud.claims == {}
    successor = await ready(world, "b")
    await successor.namer.sweep()
    await successor.namer.drain()
    wanted = {c.provider_id.rpartition("/")[2]: c.uid for c in world.api.claims.values()}
    assert world.cloud.claims == wanted
    await replica.namer.drain()
    assert world.cloud.claims == wanted


async def test_instances_in_a_zone_that_traffic_is_shifted_from_are_tagged_once_that_is_over(
    world: World,
) -> None:
    await claims(world, 3)
    replica = await ready(world, "a")
    await replica.follow()
    zones = {c.provider_id.split("/")[-2] for c in world.api.claims.values()}
    out = set(zones)
    namer = Namer(world.cloud, replica.stream, world.clock, world.why_stopped, lambda: frozenset(out))
    await namer.sweep()
    assert namer.pending == 0
    out.clear()
    await namer.sweep()
    await namer.drain()
    assert world.cloud.claims == {c.provider_id.rpartition("/")[2]: c.uid for c in world.api.claims.values()}

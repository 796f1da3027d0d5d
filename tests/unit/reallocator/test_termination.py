"""Termination: the order of things, what holds it up, and that it goes on after whatever stopped it."""

import asyncio
from collections.abc import Callable

import msgspec
import pytest

from nodeyard.api import labels as keys
from nodeyard.api.node import Condition
from nodeyard.disruption.collection import instance_id
from nodeyard.state.cluster import Kind
from tests.support.clock import FakeClock
from tests.support.disruption_world import World
from tests.support.reallocating import Leases, Replica


class Scene:
    """A world with one replica; `run` lets it work for a while in simulated seconds."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.world = World(self.clock)
        self.world.build.pool()
        self.leases = Leases()
        self.replicas = [Replica(self.world, self.clock, leases=self.leases)]

    async def run(self, seconds: float, *, until: Callable[[], bool] | None = None) -> None:
        end = self.clock.now() + seconds
        while self.clock.now() < end and not (until is not None and until()):
            sweeps = [asyncio.create_task(r.termination.sweep()) for r in self.replicas]
            await self.clock.advance(0.25)
            await asyncio.gather(*sweeps)
            self.world.tick()

    @property
    def log(self) -> list[str]:
        return self.world.log

    def gone(self, name: str = "a") -> bool:
        return self.world.claim(f"{name}-c") is None and name not in self.world.snapshot().nodes


@pytest.fixture
def scene() -> Scene:
    return Scene()


def order(log: list[str], *steps: str) -> list[int]:
    return [next(i for i, entry in enumerate(log) if entry.startswith(step)) for step in steps]


async def test_a_node_leaves_in_order_and_nothing_of_it_remains(scene: Scene) -> None:
    scene.world.node("a")
    scene.world.build.pod("p", "a", grace_period_s=2)
    scene.world.delete_claim("a-c")
    await scene.run(60, until=scene.gone)
    assert scene.gone()
    assert scene.world.instances["i-a"].state == "terminated"
    steps = order(
        scene.log,
        "delete a",
        "mark a",
        "evict p",
        "condition Drained=True",
        "condition VolumesDetached=True",
        "terminate i-a",
        "condition InstanceTerminating=True",
        "drop-node-finalizer a",
        "remove-claim a-c",
    )
    assert steps == sorted(steps)
    assert scene.log.count("terminate i-a") == 1
    took = {
        name: scene.replicas[0].registry.get_sample_value(f"karpenter_{name}_seconds_sum", {"nodepool": "default"}) or 0.0
        for name in (
            "nodes_termination_duration", "nodeclaims_termination_duration",
            "nodeclaims_instance_termination_duration", "nodes_lifetime_duration",
        )
    }  # fmt: skip
    node, claim, instance, lifetime = took.values()
    assert 5.0 <= node <= claim < 60.0
    assert 0.0 < instance < claim
    assert lifetime == pytest.approx(3600.0, abs=60.0)


async def test_deleting_the_node_object_takes_its_claim_with_it(scene: Scene) -> None:
    scene.world.node("a")
    scene.world.delete_node("a")
    await scene.run(60, until=scene.gone)
    assert scene.gone()
    assert scene.world.instances["i-a"].state == "terminated"


async def test_a_drain_lasts_at_least_five_seconds(scene: Scene) -> None:
    scene.world.node("a")
    scene.world.delete_claim("a-c")
    began = scene.clock.now()
    await scene.run(60, until=lambda: "terminate i-a" in scene.log)
    assert 5.0 <= scene.clock.now() - began <= 7.0


async def test_a_budget_that_allows_none_delays_the_drain_until_it_does(scene: Scene) -> None:
    scene.world.node("a")
    scene.world.build.pod("p", "a", grace_period_s=1)
    scene.world.budget["web"] = 0
    scene.world.delete_claim("a-c")
    await scene.run(120)
    assert "default/p" in scene.world.snapshot().pods
    assert scene.world.instances["i-a"].alive
    assert ("Node", "a", "FailedDraining") in scene.replicas[0].notes.events
    scene.world.budget["web"] = 1
    await scene.run(60, until=scene.gone)
    assert scene.gone()


async def test_refused_evictions_are_asked_again_with_patience(scene: Scene) -> None:
    scene.world.node("a")
    scene.world.build.pod("p", "a")
    scene.world.budget["web"] = 0
    scene.world.delete_claim("a-c")
    await scene.run(120)
    asked = scene.replicas[0].measures.evictions.labels("429")._value.get()
    assert 12 <= asked <= 40


async def test_a_protected_pod_holds_the_drain_for_ever_without_a_grace_period(scene: Scene) -> None:
    scene.world.node("a")
    scene.world.build.pod("p", "a", do_not_disrupt="true")
    scene.world.delete_claim("a-c")
    await scene.run(600)
    assert scene.world.instances["i-a"].alive


async def test_the_termination_grace_period_ends_it_whatever_protects_the_pods(scene: Scene) -> None:
    scene.world.node("a", claim={"termination_grace_period_s": 60.0})
    scene.world.build.pod("p", "a", do_not_disrupt="true", grace_period_s=10)
    scene.world.budget["web"] = 0
    scene.world.delete_claim("a-c")
    await scene.run(45)
    assert "default/p" in scene.world.snapshot().pods
    assert not any(entry.startswith("delete-pod") for entry in scene.log)
    await scene.run(60, until=scene.gone)
    assert scene.gone()
    assert "delete-pod p 10" in scene.log or "delete-pod p 9" in scene.log


async def test_a_deadline_is_only_moved_closer(scene: Scene) -> None:
    early = {keys.TERMINATION_TIMESTAMP: "2023-11-14T22:13:30Z"}  # 10 s after the world begins
    scene.world.node("a", claim={"termination_grace_period_s": 3600.0, "annotations": early})
    scene.world.build.pod("p", "a", do_not_disrupt="true", grace_period_s=5)
    scene.world.delete_claim("a-c")
    await scene.run(60, until=scene.gone)
    assert scene.gone()


async def test_volumes_are_waited_for_but_not_those_of_pods_that_stay(scene: Scene) -> None:
    scene.world.node("a")
    scene.world.attachments = {"a": frozenset({"pv-1"})}
    scene.world.delete_claim("a-c")
    await scene.run(60)
    claim = scene.world.claim("a-c")
    assert claim is not None
    waiting = claim.condition("VolumesDetached")
    assert waiting is not None
    assert (waiting.status, waiting.reason) == ("Unknown", "AwaitingVolumeDetachment")
    scene.world.attachments = {}
    await scene.run(60, until=scene.gone)
    assert scene.gone()


async def test_volumes_are_not_waited_for_after_the_deadline(scene: Scene) -> None:
    scene.world.node("a", claim={"termination_grace_period_s": 20.0})
    scene.world.attachments = {"a": frozenset({"pv-1"})}
    scene.world.delete_claim("a-c")
    await scene.run(60, until=scene.gone)
    assert scene.gone()
    assert "condition VolumesDetached=False" in scene.log


async def test_a_vanished_instance_needs_no_drain(scene: Scene) -> None:
    scene.world.node("a", ready=False)
    scene.world.build.pod("p", "a", do_not_disrupt="true")
    del scene.world.instances["i-a"]
    scene.world.delete_claim("a-c")
    await scene.run(20, until=scene.gone)
    assert scene.gone()
    assert "evict p" not in scene.log


async def test_a_node_that_is_not_ready_but_still_there_is_drained(scene: Scene) -> None:
    scene.world.node("a", ready=False)
    scene.world.build.pod("p", "a", grace_period_s=1)
    scene.world.delete_claim("a-c")
    await scene.run(60, until=scene.gone)
    assert scene.gone()
    assert "evict p" in scene.log


async def test_a_claim_whose_node_never_came_ends_with_its_instance(scene: Scene) -> None:
    scene.world.node("a")
    scene.world.build.put(Kind.NODE, "a", None)
    scene.world.delete_claim("a-c")
    await scene.run(30, until=scene.gone)
    assert scene.gone()
    assert scene.world.instances["i-a"].state == "terminated"


async def test_a_claim_that_was_never_launched_is_its_launchers(scene: Scene) -> None:
    _, claim = scene.world.node("a")
    scene.world.build.put(Kind.NODE, "a", None)
    unlaunched = msgspec.structs.replace(claim, provider_id="", conditions=(Condition("Launched"),))
    scene.world.build.put(Kind.NODE_CLAIM, "a-c", unlaunched)
    scene.world.delete_claim("a-c")
    await scene.run(30)
    assert scene.world.claim("a-c") is not None


async def test_a_node_without_a_claim_is_finished_if_its_instance_is_ours(scene: Scene) -> None:
    for name in ("ours", "foreign"):
        scene.world.node(name)
        scene.world.build.put(Kind.NODE_CLAIM, f"{name}-c", None)
        scene.world.delete_node(name)
    stranger = msgspec.structs.replace(scene.world.instances["i-foreign"], cluster_uid="another")
    scene.world.instances["i-foreign"] = stranger
    await scene.run(60)
    assert scene.gone("ours")
    assert scene.world.instances["i-foreign"].alive
    assert "foreign" in scene.world.snapshot().nodes


async def test_another_replica_goes_on_where_the_first_was_killed(scene: Scene) -> None:
    scene.world.node("a")
    scene.world.build.pod("p", "a", grace_period_s=1)
    scene.world.delete_claim("a-c")
    await scene.run(60, until=lambda: "condition Drained=True" in scene.log)
    scene.leases.holders.clear()
    scene.replicas = [Replica(scene.world, scene.clock, name="r1", leases=scene.leases)]
    await scene.run(60, until=scene.gone)
    assert scene.gone()
    assert scene.log.count("evict p") == 1
    assert scene.log.count("terminate i-a") == 1


async def test_two_replicas_share_the_work_and_do_nothing_twice(scene: Scene) -> None:
    scene.replicas.append(Replica(scene.world, scene.clock, name="r1", leases=scene.leases))
    for i in range(6):
        scene.world.node(f"n{i}")
        scene.world.delete_claim(f"n{i}-c")
    await scene.run(60, until=lambda: not scene.world.snapshot().claims)
    assert not scene.world.snapshot().claims
    ends = [entry for entry in scene.log if entry.startswith("terminate")]
    assert len(ends) == len(set(ends)) == 6


async def test_drains_go_on_while_redis_is_away(scene: Scene) -> None:
    scene.world.node("a")
    scene.leases.away = True
    scene.world.delete_claim("a-c")
    await scene.run(60, until=scene.gone)
    assert scene.gone()


async def test_an_api_server_or_cloud_that_is_away_only_delays(scene: Scene) -> None:
    scene.world.node("a")
    scene.world.delete_claim("a-c")
    scene.world.api_down = True
    await scene.run(10)
    scene.world.api_down, scene.world.cloud_down = False, True
    await scene.run(20)
    assert scene.world.instances[instance_id("aws:///z/i-a")].alive
    scene.world.cloud_down = False
    await scene.run(60, until=scene.gone)
    assert scene.gone()

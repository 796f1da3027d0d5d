"""Pods that ask for another replica before they are evicted: never none that serves, and nothing left behind."""

import asyncio
from collections.abc import Callable

import msgspec
import pytest

from nodeyard.adapters.kubernetes.errors import Conflict, Forbidden
from nodeyard.api import labels as keys
from nodeyard.api.pod import PodRecord
from nodeyard.disruption.candidates import candidates
from nodeyard.disruption.model import Options, Rule
from nodeyard.disruption.outlook import Outlook
from nodeyard.disruption.surging import Scale, surges_of
from nodeyard.state.cluster import Kind
from tests.support.clock import FakeClock
from tests.support.disruption import Builder
from tests.support.disruption_world import World
from tests.support.reallocating import Leases, Replica


class Deployments:
    """The scale of default/web, and its pods as the ReplicaSet controller and the kubelets keep them."""

    def __init__(self, world: World, *, boots_s: float = 3.0) -> None:
        self.world = world
        self.wanted = 1
        self.boots_s = boots_s
        self.version = 1
        self.made = 0
        self.asked: list[int] = []
        self.refuses: type[Exception] | None = None
        self.most = 0

    async def read(self, deployment: str) -> Scale | None:
        self._check()
        return Scale(deployment, self.wanted, str(self.version)) if deployment == "default/web" else None

    async def resize(self, scale: Scale, replicas: int) -> None:
        self._check()
        if scale.resource_version != str(self.version):
            raise Conflict(409, "Conflict", "it has changed")
        self.scale(replicas)
        self.asked.append(replicas)

    def scale(self, replicas: int) -> None:
        self.wanted, self.version = replicas, self.version + 1

    def _check(self) -> None:
        if self.refuses is not None:
            raise self.refuses(403, "Forbidden", "you may not")  # type: ignore[call-arg]

    def tick(self) -> None:
        """One turn of the controller, of the kube-scheduler (node b) and of the kubelet."""
        now = self.world.clock.now()
        for pod in self._pods():
            if pod.node and not pod.ready and now - pod.scheduled_at >= self.boots_s:
                self.world.build.put(Kind.POD, pod.key, msgspec.structs.replace(pod, ready=True))
        active = self._pods()
        self.most = max(self.most, len(active))
        if len(active) < self.wanted:
            self.pod(f"web-{self.made}", "b", ready=False)
        elif len(active) > self.wanted:
            last = sorted(active, key=lambda p: (p.ready, -p.created_at))[0]
            self.world.build.put(Kind.POD, last.key, None)

    def pod(
        self, name: str, node: str, *, surge: str = "true", ready: bool = True, shape: str = "template"
    ) -> PodRecord:
        self.made += 1
        now = self.world.clock.now()
        return self.world.build.pod(
            name, node, shape=shape, owner_name="web-5d8f", owner_uid="uid-rs", surge=surge, ready=ready,
            created_at=now, scheduled_at=now, grace_period_s=2,
        )  # fmt: skip

    def _pods(self) -> list[PodRecord]:
        return [
            p for p in self.world.snapshot().pods.values() if p.owner_uid == "uid-rs" and not p.terminating
        ]


class Scene:
    """Nodes a and b; a pod of default/web on a, whose claim goes."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.world = World(self.clock)
        self.world.build.pool()
        labels = {"app": "web", keys.POD_TEMPLATE_HASH: "5d8f"}
        self.world.build.shape("template", labels=labels)
        self.world.build.shape("on-disk", labels=labels, volume_claims=("data",))
        self.web = Deployments(self.world)
        self.leases = Leases()
        self.replica = self.fresh()
        self.world.node("a")
        self.world.node("b")
        self.serving: list[int] = []

    def fresh(self) -> Replica:
        """A replica that remembers nothing."""
        self.replica = Replica(self.world, self.clock, leases=self.leases, scales=self.web)
        return self.replica

    async def run(self, seconds: float, *, until: Callable[[], bool] = lambda: False) -> None:
        end = self.clock.now() + seconds
        while self.clock.now() < end and not until():
            sweep = asyncio.create_task(self.replica.termination.sweep())
            await self.clock.advance(0.25)
            await sweep
            self.world.tick()
            self.web.tick()
            self.serving.append(sum(p.ready and p.node != "" for p in self.world.snapshot().pods.values()))

    def gone(self) -> bool:
        return self.world.claim("a-c") is None

    def events(self, reason: str) -> int:
        return sum(event[2] == reason for event in self.replica.notes.events)


@pytest.fixture
def scene() -> Scene:
    return Scene()


async def test_a_replica_more_is_ready_before_the_only_one_is_evicted_and_is_the_one_that_stays(
    scene: Scene,
) -> None:
    old = scene.web.pod("web-old", "a")
    scene.world.delete_claim("a-c")
    await scene.run(60, until=scene.gone)
    await scene.run(5)
    assert scene.gone()
    assert min(scene.serving) == 1
    assert scene.web.asked == [2, 1]
    (left,) = scene.world.snapshot().pods.values()
    assert (left.node, left.ready) == ("b", True)
    assert left.name != old.name
    assert scene.events("SurgeStarted") == 1


@pytest.mark.parametrize("surge", ["", "false", "soon"])
async def test_pods_that_do_not_ask_for_it_are_evicted_as_they_are(scene: Scene, surge: str) -> None:
    scene.web.pod("web-old", "a", surge=surge)
    scene.world.delete_claim("a-c")
    await scene.run(60, until=scene.gone)
    assert scene.gone()
    assert scene.web.asked == []
    assert min(scene.serving) == 0


async def test_a_pod_with_a_volume_is_evicted_as_it_is(scene: Scene) -> None:
    scene.web.pod("web-old", "a", shape="on-disk")
    scene.world.delete_claim("a-c")
    await scene.run(60, until=scene.gone)
    assert scene.gone()
    assert scene.web.asked == []


async def test_a_pod_whose_deployment_has_more_replicas_needs_no_other(scene: Scene) -> None:
    scene.web.wanted = 3
    scene.web.pod("web-old", "a")
    scene.web.pod("web-two", "b")
    scene.web.pod("web-three", "b")
    scene.world.delete_claim("a-c")
    await scene.run(60, until=scene.gone)
    assert scene.gone()
    assert scene.web.asked == []


async def test_where_scaling_is_refused_the_drain_goes_on_and_says_so(scene: Scene) -> None:
    scene.web.pod("web-old", "a")
    scene.web.refuses = Forbidden
    scene.world.delete_claim("a-c")
    await scene.run(60, until=scene.gone)
    assert scene.gone()
    assert scene.events("SurgeGivenUp") == 1


async def test_another_that_never_gets_ready_holds_the_drain_as_a_budget_would(scene: Scene) -> None:
    scene.web.pod("web-old", "a")
    scene.web.boots_s = 1e9
    scene.world.delete_claim("a-c")
    await scene.run(900)
    assert min(scene.serving) == 1
    scene.web.boots_s = 0.0
    await scene.run(60, until=scene.gone)
    assert scene.gone()
    assert scene.web.wanted == 1


async def test_the_wait_ends_with_the_time_that_the_pod_gives_it(scene: Scene) -> None:
    scene.web.pod("web-old", "a", surge="1m")
    scene.web.boots_s = 1e9
    scene.world.delete_claim("a-c")
    began = scene.clock.now()
    await scene.run(300, until=scene.gone)
    assert 60 <= scene.clock.now() - began <= 90
    assert scene.events("SurgeGivenUp") == 1
    assert scene.web.wanted == 1


async def test_the_deadline_of_the_node_ends_the_wait(scene: Scene) -> None:
    scene.world.node("a", claim={"termination_grace_period_s": 40.0})
    scene.web.pod("web-old", "a")
    scene.web.boots_s = 1e9
    scene.world.delete_claim("a-c")
    began = scene.clock.now()
    await scene.run(300, until=scene.gone)
    assert scene.clock.now() - began <= 70
    assert scene.web.wanted == 1


async def test_a_machine_that_is_gone_leaves_no_replica_more(scene: Scene) -> None:
    scene.web.pod("web-old", "a")
    scene.web.boots_s = 1e9
    scene.world.delete_claim("a-c")
    await scene.run(3)
    assert scene.web.wanted == 2
    await scene.world.terminate(["i-a"])
    await scene.run(60, until=scene.gone)
    assert scene.gone()
    assert scene.web.wanted == 1


async def test_whoever_scales_the_deployment_meanwhile_is_obeyed(scene: Scene) -> None:
    scene.web.pod("web-old", "a")
    scene.web.boots_s = 20.0
    scene.world.delete_claim("a-c")
    await scene.run(5)
    scene.web.scale(5)
    await scene.run(90, until=scene.gone)
    assert scene.gone()
    assert scene.web.wanted == 5


async def test_a_deployment_that_is_scaled_back_meanwhile_is_not_scaled_again(scene: Scene) -> None:
    scene.web.pod("web-old", "a")
    scene.web.boots_s = 20.0
    scene.world.delete_claim("a-c")
    await scene.run(3)
    scene.web.scale(1)
    await scene.run(60, until=scene.gone)
    assert scene.gone()
    assert scene.web.asked == [2]
    assert scene.events("SurgeGivenUp") == 1


@pytest.mark.parametrize("after", [0.5, 1.0, 2.0, 4.0, 6.0, 8.0])
async def test_another_replica_of_ours_goes_on_wherever_one_stopped(scene: Scene, after: float) -> None:
    scene.web.pod("web-old", "a")
    scene.world.delete_claim("a-c")
    await scene.run(after)
    scene.fresh()
    await scene.run(60, until=scene.gone)
    await scene.run(5)
    assert scene.gone()
    assert min(scene.serving) == 1
    assert scene.web.wanted == 1
    assert len(scene.world.snapshot().pods) == 1


async def test_what_was_written_down_before_the_deployment_was_scaled_is_carried_out(scene: Scene) -> None:
    scene.web.pod("web-old", "a")
    scene.world.delete_claim("a-c")
    await scene.run(60, until=lambda: bool(surges_of(scene.world.snapshot().claims["a-c"])))
    scene.web.scale(1)  # as if the scaling had not come to pass
    scene.fresh()
    await scene.run(60, until=scene.gone)
    assert scene.gone()
    assert min(scene.serving) == 1


def test_a_budget_that_wants_one_pod_keeps_no_node_whose_pod_gets_another_first() -> None:
    build = Builder()
    build.pool()
    build.node("a")
    build.shape("template", labels={"app": "web", keys.POD_TEMPLATE_HASH: "5d8f"})
    fields = {"owner_name": "web-5d8f", "owner_uid": "uid-rs", "surge": "true"}
    build.pod("p", "a", shape="template", **fields)
    build.pdb("one", 0, min_available="1", current_healthy=1, desired_healthy=1)

    def blocked(*, surge: bool) -> list[Rule]:
        (candidate,) = candidates(build.view(options=Options(surge=surge)))
        return [block.rule for block in candidate.blocks]

    assert blocked(surge=False) == [Rule.PDB]
    assert blocked(surge=True) == []
    assert Outlook(build.snapshot, build.now, surge=True).drain(["a"]).held_by == ()
    build.pdb("one", 0, max_unavailable="0", current_healthy=1, desired_healthy=1)
    assert blocked(surge=True) == [Rule.PDB]

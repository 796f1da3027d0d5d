"""A course against a small world: closed before the first eviction, one command after the other, opened at the end and
whenever something comes in between.
"""

import asyncio
from typing import Any

import msgspec
import pytest

from nodeyard.api import labels as keys
from nodeyard.api.node import Condition
from nodeyard.api.pod import PodRecord
from nodeyard.disruption.budgets import INSTANCE_TERMINATING
from nodeyard.disruption.candidates import candidates
from nodeyard.disruption.commands import MARK, command_of, disrupted
from nodeyard.disruption.model import Course, Reason
from nodeyard.provisioning.keeping import keeping_of, kept_of
from nodeyard.state.cluster import Kind
from tests.support.clock import FakeClock
from tests.support.disruption_world import World
from tests.support.reallocating import Replica

NODES = ("a", "b", "stays")


class Scene:
    """Nodes a and b go, one after the other; their pods fit on the third."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.world = World(self.clock)
        self.world.build.pool()
        self.replica = Replica(self.world, self.clock)
        for name in NODES:
            self.world.node(name)
            self.world.build.pod(f"p-{name}", name, owner_uid="u")

    def course(self) -> Course:
        view = self.world.build.view()
        found = {c.node: c for c in candidates(view)}
        commands = tuple(command_of(view.now, Reason.UNDERUTILIZED, [found[n]], 0.2) for n in ("a", "b"))
        return Course(commands[0].id, commands, {"stays": kept_of(view.snapshot.pods.values())}, 0.4)

    async def begin(self) -> bool:
        return await self.replica.courses.begin(self.course())

    async def turn(self) -> None:
        await self.replica.disruption.turn_course()

    async def gone(self, name: str) -> None:
        """The node is drained: its pod comes back under another name, its instance is told to end."""
        claim = self.world.claim(f"{name}-c")
        assert claim is not None
        ending = Condition(INSTANCE_TERMINATING, "True", INSTANCE_TERMINATING)
        await self.world.set_conditions(claim, [ending], self.clock.now())
        self.world.build.put(Kind.POD, f"default/p-{name}", None)
        self.came_back(f"new-{name}")

    def came_back(self, name: str, **fields: Any) -> PodRecord:
        return self.world.build.pod(name, **{"owner_uid": "u", **fields})

    def stranger(self, cpu: int, name: str = "stranger") -> PodRecord:
        """A pod of somebody else's that looks for a place."""
        self.world.build.shape(f"{name}-shape", cpu)
        return self.came_back(name, owner_uid="v", shape=f"{name}-shape")

    def where(self, pod: str) -> str:
        return self.world.snapshot().pods[f"default/{pod}"].node

    def tainted(self, name: str) -> bool:
        return disrupted(self.world.snapshot().nodes[name])

    def deleting(self, name: str) -> bool:
        claim = self.world.claim(f"{name}-c")
        return claim is None or claim.deleting

    def held(self, name: str = "stays") -> bool:
        node = self.world.snapshot().nodes[name]
        return any(t.key == keys.BIND_HOLD for t in node.taints)

    def kept(self, name: str = "stays") -> bool:
        claim = self.world.claim(f"{name}-c")
        return claim is not None and keeping_of(claim, self.clock.now()) is not None


@pytest.fixture
def scene() -> Scene:
    return Scene()


async def test_all_nodes_are_closed_before_the_first_pod_is_evicted(scene: Scene) -> None:
    assert await scene.begin()
    assert scene.tainted("a")
    assert scene.tainted("b")
    assert scene.held()
    assert scene.kept()
    assert not scene.deleting("a")


async def test_one_command_follows_the_other_once_its_pods_have_their_places(scene: Scene) -> None:
    await scene.begin()
    await scene.turn()
    assert scene.deleting("a")
    await scene.turn()
    assert not scene.deleting("b")
    await scene.gone("a")
    await scene.turn()
    assert scene.where("new-a") == "stays"
    assert scene.deleting("b")


async def test_all_is_open_again_at_the_end(scene: Scene) -> None:
    await scene.begin()
    for name in ("a", "b"):
        await scene.turn()
        await scene.gone(name)
    await scene.turn()
    assert [scene.where(f"new-{n}") for n in ("a", "b")] == ["stays", "stays"]
    assert not scene.held()
    assert not scene.kept()
    assert not scene.replica.courses.on


async def test_places_are_kept_for_as_long_as_it_lasts(scene: Scene) -> None:
    await scene.begin()
    await scene.turn()
    for _ in range(4):
        scene.clock.skip(25)
        await scene.turn()
        assert scene.kept()


async def test_somebody_elses_pod_that_no_held_node_has_room_for_opens_everything_at_once(
    scene: Scene,
) -> None:
    await scene.begin()
    await scene.turn()
    scene.stranger(cpu=2600)
    await scene.turn()
    assert not scene.held()
    assert not scene.tainted("b")
    assert not scene.deleting("b")
    assert scene.deleting("a"), "what has begun goes on"


async def test_somebody_elses_pod_is_let_in_beside_the_kept_places_and_the_course_goes_on(
    scene: Scene,
) -> None:
    await scene.begin()
    await scene.turn()
    guest = scene.stranger(cpu=2400)
    await scene.turn()
    assert not scene.held(), "open until the pod has landed"
    assert scene.kept()
    assert scene.tainted("b")
    await scene.gone("a")
    await scene.turn()
    assert not scene.deleting("b"), "not while somebody is about to land"
    scene.world.build.put(Kind.POD, guest.key, msgspec.structs.replace(guest, node="stays"))
    await scene.turn()
    assert scene.held()
    assert scene.where("new-a") == "stays"
    assert scene.deleting("b")


async def test_guests_share_what_room_there_is(scene: Scene) -> None:
    await scene.begin()
    await scene.turn()
    scene.stranger(cpu=1400)
    await scene.turn()
    assert not scene.held()
    assert scene.kept()
    scene.stranger(cpu=1400, name="second")
    await scene.turn()
    assert not scene.kept(), "there is no room for both beside the kept places"
    assert not scene.tainted("b")


async def test_a_guest_that_does_not_land_soon_ends_the_course(scene: Scene) -> None:
    await scene.begin()
    await scene.turn()
    scene.stranger(cpu=500)
    await scene.turn()
    assert scene.kept()
    scene.clock.skip(6)
    await scene.turn()
    assert not scene.kept()
    assert not scene.tainted("b")


async def test_a_long_binding_is_not_taken_for_a_pod_that_gets_no_place(scene: Scene) -> None:
    scene.world.bind_s = 8.0
    await scene.begin()
    await scene.turn()
    await scene.gone("a")
    await scene.turn()
    assert scene.where("new-a") == "stays"
    assert scene.deleting("b")


async def test_a_command_does_not_begin_where_pods_came_to_its_node(scene: Scene) -> None:
    await scene.begin()
    await scene.turn()
    scene.came_back("late", node="b")
    await scene.gone("a")
    await scene.turn()
    assert not scene.deleting("b")
    assert not scene.tainted("b")
    assert not scene.held()


async def test_a_pod_that_does_not_get_to_its_place_opens_everything(scene: Scene) -> None:
    await scene.begin()
    await scene.turn()
    large = scene.world.build.shape("huge", 100_000)
    _rewrite_kept(scene, large.id)
    scene.came_back("too-large", shape=large.id)
    await scene.turn()
    assert scene.where("too-large") == ""
    assert scene.held()
    scene.clock.skip(7)
    await scene.turn()
    assert not scene.held()


def _rewrite_kept(scene: Scene, shape: str) -> None:
    claim = scene.world.claim("stays-c")
    assert claim is not None
    text = claim.annotations[keys.KEPT_PLACES].replace('"web"', f'"{shape}"')
    changed = msgspec.structs.replace(claim, annotations={**claim.annotations, keys.KEPT_PLACES: text})
    scene.world.build.put(Kind.NODE_CLAIM, claim.name, changed)


async def test_a_replica_that_takes_over_brings_pods_home_and_begins_nothing_more(scene: Scene) -> None:
    await scene.begin()
    await scene.turn()
    scene.replica = Replica(scene.world, scene.clock, name="r1")
    await scene.gone("a")
    await scene.turn()
    assert scene.where("new-a") == "stays"
    await scene.replica.execution.advance()
    assert not scene.tainted("b"), "no command stands behind its taint"
    await scene.turn()
    assert not scene.held()
    assert not scene.deleting("b")


async def test_a_replica_that_may_bind_no_pod_leaves_them_be_and_opens_when_the_time_is_up(
    scene: Scene,
) -> None:
    await scene.begin()
    await scene.turn()
    scene.replica = Replica(scene.world, scene.clock, name="r1", binds=False)
    await scene.gone("a")
    await scene.turn()
    assert scene.where("new-a") == ""
    scene.clock.skip(61)
    scene.world.build.put(Kind.NODE_CLAIM, "a-c", None)
    scene.world.build.put(Kind.NODE, "a", None)
    await scene.replica.execution.advance()
    await scene.turn()
    assert scene.where("new-a") == ""
    assert not scene.held()
    assert not scene.kept()


async def test_what_cannot_be_closed_is_opened_again_and_nothing_goes(scene: Scene) -> None:
    course = scene.course()
    scene.world.delete_claim("b-c")
    beginning = asyncio.create_task(scene.replica.courses.begin(course))
    await scene.clock.advance(10.0)
    assert not await beginning
    assert not scene.tainted("a")
    assert not scene.held()
    await scene.turn()
    assert not scene.deleting("a")


async def test_a_replica_that_lost_the_lease_binds_nothing(scene: Scene) -> None:
    await scene.begin()
    await scene.turn()
    await scene.gone("a")
    scene.replica.lead.epoch = None
    with pytest.raises(Exception, match="lease"):
        await scene.turn()
    assert scene.where("new-a") == ""


@pytest.mark.parametrize("grants", [1, 2])
async def test_a_replica_that_lost_the_lease_goes_on_where_nobody_else_had_it_meanwhile(
    scene: Scene, grants: int
) -> None:
    await scene.begin()
    await scene.turn()
    await scene.gone("a")
    assert scene.replica.lead.epoch is not None
    scene.replica.lead.epoch += grants
    await scene.turn()
    if grants == 1:
        assert scene.deleting("b")
        return
    assert not scene.deleting("b")
    assert not scene.tainted("b")
    assert not scene.replica.courses.on


async def test_nothing_is_opened_that_another_command_has_taken_since(scene: Scene) -> None:
    course = scene.course()
    await scene.replica.courses.begin(course)
    node = scene.world.snapshot().nodes["b"]
    taken = node.annotations[MARK].replace(course.commands[1].id, "another")
    scene.world.build.put(Kind.NODE, "b", msgspec.structs.replace(node, annotations={MARK: taken}))
    await scene.replica.courses.give_up("a test says so")
    assert scene.tainted("b")
    assert not scene.tainted("a")

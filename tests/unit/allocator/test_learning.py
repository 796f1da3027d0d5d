"""Which nodes' memory is told to pricing, and that nothing is told twice or lost."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from nodeyard.api import labels as keys
from nodeyard.api.node import Node, NodeClaim
from nodeyard.api.nodeclass import Kubelet, NodeClass
from nodeyard.api.pool import NodeClassRef
from nodeyard.cloudprovider.learned import LearnedMemory, settings_of
from nodeyard.state.cluster import Snapshot
from services.allocator.learning import Learning
from tests.support.clock import FakeClock

CLASS = NodeClass("default", hash="1", kubelet=Kubelet(max_pods=30))
REF = NodeClassRef("default")


class World:
    """A cluster that shows one snapshot, and a pricing that can be deaf."""

    synced = True

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.claims: dict[str, NodeClaim] = {}
        self.deaf = False
        self.told: list[LearnedMemory] = []

    def node(self, name: str, memory: int = 7 << 30, initialized: bool = True, class_hash: str = "1") -> None:
        labels = {keys.INSTANCE_TYPE: "m5.large", keys.INITIALIZED: "true" if initialized else ""}
        self.nodes[name] = Node(
            name, labels=labels, provider_id=f"aws:///{name}", capacity={"memory": memory}
        )
        self.claims[name] = NodeClaim(
            name, node_class=REF, provider_id=f"aws:///{name}", image_id="ami-1",
            annotations={keys.NODECLASS_HASH: class_hash},
        )  # fmt: skip

    def snapshot(self) -> Snapshot:
        return Snapshot(
            nodes=self.nodes, claims=self.claims, node_classes={REF.key: CLASS},
            claim_of_provider={c.provider_id: c.name for c in self.claims.values()},
        )  # fmt: skip

    async def report_capacity(self, seen: Sequence[LearnedMemory]) -> bool:
        if not self.deaf:
            self.told += seen
        return not self.deaf


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def learning(world: World) -> Learning:
    return Learning(world, world, FakeClock())  # type: ignore[arg-type]


async def test_each_kind_of_node_is_told_once(world: World, learning: Learning) -> None:
    world.node("one")
    world.node("two")
    await learning.look()
    await learning.look()
    assert world.told == [LearnedMemory("m5.large", "ami-1", settings_of(CLASS), 7 << 30)]
    world.node("three", memory=6 << 30)
    await learning.look()
    assert [seen.memory_bytes for seen in world.told] == [7 << 30, 6 << 30]


async def test_only_initialized_nodes_of_the_class_as_it_is_now_are_told(
    world: World, learning: Learning
) -> None:
    world.node("young", initialized=False)
    world.node("drifted", class_hash="0")
    world.node("foreign")
    del world.claims["foreign"]
    world.node("imageless")
    world.claims["imageless"] = msgspec.structs.replace(world.claims["imageless"], image_id="")
    await learning.look()
    assert world.told == []


async def test_what_could_not_be_told_is_told_later(world: World, learning: Learning) -> None:
    world.node("one")
    world.deaf = True
    await learning.look()
    world.deaf = False
    await learning.look()
    assert len(world.told) == 1

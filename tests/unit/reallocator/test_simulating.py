"""What-if over gRPC: the live cluster's answer, and refusals with the code that says whose fault it is."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import msgspec
import pytest

from nodeyard.rpc.calls import Replicas, ServiceError
from nodeyard.rpc.v1 import disruption_pb2, disruption_pb2_grpc
from services.reallocator.servicer import Servicer
from services.reallocator.simulating import Simulator
from tests.support.clock import FakeClock
from tests.support.disruption import first_fit
from tests.support.disruption_world import World
from tests.support.reallocating import Replica


class Scene:
    def __init__(self) -> None:
        clock = FakeClock()
        self.world = World(clock)
        self.world.build.pool()
        for name in ("n0", "n1"):
            self.world.node(name)
            self.world.build.pod(f"p-{name}", name)
        self.replica = Replica(self.world, clock)
        self.reason: str | None = None
        simulator = Simulator(self.replica.disruption.view_now, first_fit, clock.monotonic)
        self.servicer = Servicer(self.replica.disruption.list_proposals, simulator, lambda: self.reason)
        self.client = Replicas("reallocator", [], disruption_pb2_grpc.ReallocatorStub)

    async def ask(self, **question: Any) -> dict[str, Any]:
        request = disruption_pb2.SimulateRequest(question_json=msgspec.json.encode(question))
        answer = await self.client.call("Simulate", request, 30.0)
        return msgspec.json.decode(answer.answer_json)  # type: ignore[no-any-return]


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    made = Scene()
    server = grpc.aio.server()
    disruption_pb2_grpc.add_ReallocatorServicer_to_server(made.servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    made.client = Replicas("reallocator", [f"127.0.0.1:{port}"], disruption_pb2_grpc.ReallocatorStub)
    yield made
    await made.client.close()
    await server.stop(None)


async def test_a_question_about_the_live_cluster_is_answered_and_changes_nothing(scene: Scene) -> None:
    before = scene.world.snapshot()
    answer = await scene.ask(action="remove", nodes=["n0"])
    assert answer["moves"] == [{"pod": "default/p-n0", "from": "n0", "to": "n1"}]
    assert scene.world.snapshot() is before
    assert scene.world.log == []
    assert scene.replica.notes.decisions == []


@pytest.mark.parametrize(
    ("question", "words"), [({"action": "remove", "nodes": ["n9"]}, "n9"), ({"action": "fly"}, "fly")]
)
async def test_a_question_that_makes_no_sense_is_the_askers_fault(
    scene: Scene, question: dict[str, Any], words: str
) -> None:
    with pytest.raises(ServiceError, match=words) as refused:
        await scene.ask(**question)
    assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_replica_that_can_not_know_says_so(scene: Scene) -> None:
    scene.reason = "no catalogue yet"
    with pytest.raises(ServiceError, match="no catalogue yet") as refused:
        await scene.ask(action="remove", nodes=["n0"])
    assert refused.value.code is grpc.StatusCode.FAILED_PRECONDITION
    scene.reason = None
    scene.replica.nominations.away = True
    with pytest.raises(ServiceError, match="Redis") as refused:
        await scene.ask(action="remove", nodes=["n0"])
    assert refused.value.code is grpc.StatusCode.FAILED_PRECONDITION

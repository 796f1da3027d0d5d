"""Dry runs over gRPC: the planner's answer for given pods or for what waits, with nothing written."""

from typing import Any

import grpc
import msgspec
import pytest

from nodeyard.provisioning.model import Options
from nodeyard.provisioning.planner import plan
from nodeyard.provisioning.report import plan_json
from nodeyard.rpc.v1 import planning_pb2 as pb
from services.allocator.servicer import AllocatorServicer
from tests.support.allocator import Replica, World


class AbortedError(Exception):
    """What a client would get."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class Context:
    async def abort(self, code: grpc.StatusCode, message: str) -> None:
        raise AbortedError(code, message)


class Asked:
    """A replica whose classes are known, asked for dry runs."""

    def __init__(self, world: World) -> None:
        self.replica: Replica = world.replica()
        self._servicer = AllocatorServicer(
            cluster=self.replica.stream, offers=world.cloud, controller=self.replica.controller, planner=plan,
            report=plan_json, options=Options(deadline_s=5.0), clock=world.clock, stopped=world.why_stopped,
        )  # fmt: skip

    async def plan(self, objects: bytes = b"", *, pending: bool = False, options: bytes = b"") -> Any:
        await self.replica.classes.refresh()
        request = pb.PlanRequest(objects_json=objects, include_pending=pending, options_json=options)
        return msgspec.json.decode((await self._servicer.Plan(request, Context())).plan_json)


@pytest.fixture
def world() -> World:
    return World()


POD = {
    "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "given", "namespace": "default"},
    "spec": {
        "containers": [{"name": "m", "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}],
        "tolerations": [{"operator": "Exists"}],
    },
}  # fmt: skip


def planned(answer: Any) -> set[str]:
    return {key for node in answer["nodes"] for key in node["pods"]}


async def test_given_pods_are_planned_on_the_live_cluster_and_nothing_is_written(world: World) -> None:
    world.pending_pods(1)
    asked = Asked(world)
    answer = await asked.plan(msgspec.json.encode([POD]))
    assert planned(answer) == {"default/given"}
    assert (world.api.claims, world.api.writes, world.cloud.calls) == ({}, [], [])
    assert "default/given" not in asked.replica.stream.snapshot().pods


async def test_what_waits_is_planned_with_or_without_given_pods(world: World) -> None:
    world.pending_pods(2, tolerations=())
    refused = await Asked(world).plan()
    waiting = {"default/p0", "default/p1"}
    assert {u["pod"] for u in refused["unschedulable"]} == waiting, "they don't bear the pool's taint"
    both = await Asked(world).plan(msgspec.json.encode([POD]), pending=True)
    assert {u["pod"] for u in both["unschedulable"]} == waiting
    assert planned(both) == {"default/given"}


@pytest.mark.parametrize(
    ("objects", "options", "says"),
    [
        (b"{", b"", "objects"),
        (msgspec.json.encode([{**POD, "spec": {"containers": "many"}}]), b"", "given"),
        (b"", b'{"no_such": 1}', "no_such"),
    ],
)
async def test_what_cannot_be_read_is_refused_by_name(
    world: World, objects: bytes, options: bytes, says: str
) -> None:
    with pytest.raises(AbortedError, match=says) as refused:
        await Asked(world).plan(objects, options=options)
    assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT


async def test_while_another_autoscaler_works_the_reason_is_the_answer(world: World) -> None:
    asked = Asked(world)
    world.stopped = "Karpenter is active on this cluster"
    with pytest.raises(AbortedError, match="Karpenter is active") as refused:
        await asked.plan(msgspec.json.encode([POD]))
    assert refused.value.code is grpc.StatusCode.FAILED_PRECONDITION

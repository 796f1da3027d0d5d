"""Events: the same words once in two minutes, never faster than allowed, never in anybody's way."""

import asyncio
from typing import Any, cast

from nodeyard.adapters.kubernetes.client import KubernetesClient
from nodeyard.adapters.kubernetes.errors import Forbidden
from nodeyard.adapters.kubernetes.events import EventRecorder
from tests.support.clock import FakeClock, settle

POD = {"kind": "Pod", "api_version": "v1", "name": "p", "namespace": "n", "uid": "u"}


class Written:
    """A client that keeps what it is told to create, or refuses."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.refuses = False

    async def create(self, path: str, body: dict[str, Any]) -> bytes:
        if self.refuses:
            raise Forbidden(403, "Forbidden", "no events for you")
        self.events.append((path, body))
        return b"{}"


def recorder() -> tuple[EventRecorder, Written, FakeClock]:
    written, clock = Written(), FakeClock()
    return EventRecorder(cast(KubernetesClient, written), "nodeyard-allocator", clock=clock), written, clock


async def test_the_same_words_are_said_once_in_two_minutes() -> None:
    events, written, clock = recorder()
    task = asyncio.create_task(events.run())
    for _ in range(5):
        events.publish(**POD, reason="FailedScheduling", message="no room")
    await settle()
    assert len(written.events) == 1
    await clock.advance(119.0)
    events.publish(**POD, reason="FailedScheduling", message="no room")
    events.publish(**POD, reason="FailedScheduling", message="other words")
    await clock.advance(2.0)
    events.publish(**POD, reason="FailedScheduling", message="no room")
    await settle()
    assert [body["message"] for _, body in written.events] == ["no room", "other words", "no room"]
    task.cancel()


async def test_a_flood_is_written_at_ten_a_second_after_a_burst() -> None:
    events, written, clock = recorder()
    task = asyncio.create_task(events.run())
    for number in range(80):
        events.publish(**POD, reason="Nominated", message=str(number))
    for _ in range(5):
        await settle()
    assert len(written.events) == 50
    await clock.advance(1.0)
    assert 59 <= len(written.events) <= 60
    task.cancel()


async def test_more_than_the_queue_holds_is_dropped_and_counted() -> None:
    events, _, _ = recorder()
    for number in range(1200):
        events.publish(**POD, reason="Nominated", message=str(number))
    assert events.dropped == 200


async def test_a_refusal_is_counted_and_forgotten() -> None:
    events, written, _ = recorder()
    written.refuses = True
    task = asyncio.create_task(events.run())
    events.publish(**POD, reason="A", message="x")
    await settle()
    assert events.dropped == 1
    written.refuses = False
    events.publish(**POD, reason="B", message="y")
    await settle()
    assert [body["reason"] for _, body in written.events] == ["B"]
    task.cancel()


async def test_an_event_says_what_kubernetes_wants_to_know() -> None:
    events, written, _ = recorder()
    task = asyncio.create_task(events.run())
    events.publish(
        kind="NodePool",
        api_version="karpenter.sh/v1",
        name="general",
        type="Warning",
        reason="Bad",
        message="é" * 2000,
    )
    await settle()
    task.cancel()
    ((path, body),) = written.events
    assert path == "/api/v1/namespaces/default/events"
    assert body["involvedObject"] == {
        "kind": "NodePool",
        "apiVersion": "karpenter.sh/v1",
        "name": "general",
        "namespace": "",
        "uid": "",
    }
    assert len(body["message"]) == 1024
    assert (body["type"], body["source"]) == ("Warning", {"component": "nodeyard-allocator"})
    assert body["firstTimestamp"] == "2023-11-14T22:13:20Z"

"""Kubernetes Events for people: why a pod waits, why a claim went away.

Owns their deduplication (the same words about the same object once in two minutes) and their rate; refuses to hold
anybody up or to fail: `publish` only queues, and what can't be written is counted and forgotten.
Source: Kubernetes API reference, core/v1 `Event`.
"""

import asyncio
import collections
from collections.abc import Callable
from typing import Any, Final
from uuid import uuid4

import msgspec

from nodeyard.adapters.kubernetes import paths
from nodeyard.adapters.kubernetes.client import KubernetesClient
from nodeyard.adapters.kubernetes.errors import KubernetesError
from nodeyard.api.reading import render_time
from nodeyard.runtime.clock import Clock, SystemClock
from nodeyard.runtime.logging import get_logger

DEDUPLICATE_S: Final = 120.0
_PER_SECOND: Final = 10.0
_BURST: Final = 50.0
_QUEUED: Final = 1000
_REMEMBERED: Final = 10_000
_MESSAGE: Final = 1024

log = get_logger("nodeyard.adapters.kubernetes.events")


class Subject(msgspec.Struct, frozen=True):
    """The object that an event is about."""

    kind: str
    api_version: str
    name: str
    namespace: str = ""
    uid: str = ""


class EventRecorder:
    """Queues events with `publish`, writes them in `run`."""

    def __init__(
        self,
        client: KubernetesClient,
        component: str,
        *,
        clock: Clock | None = None,
        instance: str = "",
        unique: Callable[[], str] = lambda: uuid4().hex[:16],
    ) -> None:
        self._client = client
        self._component = component
        self._instance = instance or component
        self._clock = clock or SystemClock()
        self._unique = unique
        self._queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue(_QUEUED)
        self._said: collections.OrderedDict[tuple[Subject, str, str], float] = collections.OrderedDict()
        self._tokens = _BURST
        self._refilled_at = self._clock.monotonic()
        self.dropped = 0
        """Events not written: too many at once, or refused."""

    def publish(
        self,
        *,
        kind: str,
        api_version: str,
        name: str,
        namespace: str = "",
        uid: str = "",
        type: str = "Normal",
        reason: str,
        message: str,
    ) -> None:
        """Says `message` about an object, unless just said. `type` is Normal or Warning, `reason` one CamelCase word.

        Returns at once and never raises.
        """
        subject = Subject(kind, api_version, name, namespace, uid)
        if self._just_said(subject, reason, message):
            return
        try:
            self._queue.put_nowait(self._event(subject, type, reason, message))
        except asyncio.QueueFull:
            self.dropped += 1

    async def run(self) -> None:
        """Writes queued events, at most ten a second after a burst of fifty, until cancelled."""
        while True:
            event = await self._queue.get()
            await self._wait_for_token()
            try:
                await self._client.create(paths.events(event["metadata"]["namespace"]), event)
            except KubernetesError as error:
                self.dropped += 1
                log.debug("event not written", reason=event["reason"], error=str(error))

    def _just_said(self, subject: Subject, reason: str, message: str) -> bool:
        now = self._clock.monotonic()
        key = (subject, reason, message)
        before = self._said.get(key)
        if before is not None and now - before < DEDUPLICATE_S:
            return True
        self._said[key] = now
        self._said.move_to_end(key)
        while len(self._said) > _REMEMBERED or now - next(iter(self._said.values())) >= DEDUPLICATE_S:
            self._said.popitem(last=False)
        return False

    async def _wait_for_token(self) -> None:
        now = self._clock.monotonic()
        self._tokens = min(_BURST, self._tokens + (now - self._refilled_at) * _PER_SECOND)
        self._refilled_at = now
        if self._tokens < 1.0:
            await self._clock.sleep((1.0 - self._tokens) / _PER_SECOND)
        self._tokens -= 1.0

    def _event(self, subject: Subject, type_: str, reason: str, message: str) -> dict[str, Any]:
        namespace = subject.namespace or "default"
        now = render_time(self._clock.now())
        if len(message) > _MESSAGE:
            message = message[: _MESSAGE - 1] + "…"
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{subject.name[:200]}.{self._unique()}", "namespace": namespace},
            "involvedObject": {
                "kind": subject.kind,
                "apiVersion": subject.api_version,
                "name": subject.name,
                "namespace": subject.namespace,
                "uid": subject.uid,
            },
            "reason": reason,
            "message": message,
            "type": type_,
            "count": 1,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "source": {"component": self._component},
            "reportingComponent": self._component,
            "reportingInstance": self._instance,
        }

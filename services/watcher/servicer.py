"""The watcher's stream to one subscriber: where it can go on from, everything since, and a sign of life each second.

Refuses (UNAVAILABLE) while the watcher can't be relied on, so that a subscriber goes to another replica or holds
still. A slow subscriber slows nobody else: see nodeyard.rpc.cluster_log.
"""

from collections.abc import AsyncIterator
from typing import Any, Final

import grpc
import grpc.aio

from nodeyard.rpc.cluster_log import Response
from nodeyard.rpc.v1 import cluster_pb2, cluster_pb2_grpc
from nodeyard.runtime.clock import Clock
from nodeyard.runtime.logging import get_logger
from services.watcher.metrics import WatcherMetrics
from services.watcher.ports import Following

HEARTBEAT_S: Final = 1.0
# Events of a burst arrive one by one; a moment's patience sends them together.
_GATHER_S: Final = 0.002

log = get_logger("services.watcher")


class ClusterServicer(cluster_pb2_grpc.ClusterServicer):
    """Serves the controller's log."""

    def __init__(self, following: Following, measures: WatcherMetrics, clock: Clock) -> None:
        self._following = following
        self._measures = measures
        self._clock = clock

    async def Watch(  # noqa: N802 - the name is the wire contract's
        self, request: cluster_pb2.WatchClusterRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[Response]:
        """Streams until the subscriber leaves or the watcher can't be relied on."""
        await self._abort_unless_serving(context)
        source = self._following.log
        resumes = source.remembers(request.epoch, request.revision)
        log.info("subscriber came", subscriber=request.subscriber, resumes=resumes, revision=request.revision)
        self._measures.subscribers.inc()
        try:
            cursor = request.revision if resumes else -1
            heartbeat_at = float("-inf")
            while True:
                if cursor != source.revision:
                    messages, cursor = self._since(cursor)
                    for message in messages:
                        yield message
                if cursor == source.revision and self._clock.monotonic() >= heartbeat_at:
                    heartbeat_at = self._clock.monotonic() + HEARTBEAT_S
                    if not self._following.hesitates():
                        yield source.heartbeat(self._following.reached())
                await source.moved(cursor, max(0.0, heartbeat_at - self._clock.monotonic()))
                if cursor != source.revision:
                    await self._clock.sleep(_GATHER_S)
                await self._abort_unless_serving(context)
        finally:
            self._measures.subscribers.dec()
            log.info("subscriber left", subscriber=request.subscriber)

    def _since(self, cursor: int) -> tuple[list[Response], int]:
        """What leads from `cursor` to now, and the revision that this is. A snapshot for one who is new or too late."""
        source = self._following.log
        if cursor >= 0 and source.remembers(source.epoch, cursor):
            return source.changes_after(cursor), source.revision
        self._measures.snapshots.inc()
        return source.snapshot(self._following.reached()), source.revision

    async def _abort_unless_serving(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        if reason := self._following.not_serving_because():
            await context.abort(grpc.StatusCode.UNAVAILABLE, reason)

"""What the watcher remembers for its subscribers: the newest changes by revision, and snapshots in parts.

Each subscriber is a cursor into one ring, so a slow one costs nothing: it finds its changes merged (the last one of
each object), or, when the ring has moved past it, gets a new snapshot. Not thread-safe: owned by one loop.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from nodeyard.rpc.cluster_codec import encode_change
from nodeyard.rpc.v1 import cluster_pb2
from nodeyard.state.cluster import Change, ClusterStore, Kind

PART_CHANGES: Final = 1000
PART_BYTES: Final = 2 * 2**20
_REMEMBERED: Final = 50_000

Response = cluster_pb2.WatchClusterResponse


class ClusterLog:
    """The log of one run (`epoch`) of the watcher over its store."""

    def __init__(self, store: ClusterStore, epoch: str, remembered: int = _REMEMBERED) -> None:
        self._store = store
        self.epoch = epoch
        self.revision = 0
        """Of the newest change; each change has its own."""
        self._size = remembered
        self._ring: list[Change | None] = [None] * remembered
        self._moved = asyncio.Event()
        self._snapshot: tuple[int, list[Response]] | None = None

    def append(self, changes: Sequence[Change]) -> None:
        """Remembers changes that the store has already, in order."""
        if not changes:
            return
        for change in changes:
            self.revision += 1
            self._ring[self.revision % self._size] = change
        self._snapshot = None
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    async def moved(self, revision: int, timeout_s: float) -> None:
        """Returns when there is something after `revision`, or after `timeout_s`."""
        if self.revision != revision:
            return
        waiting = self._moved
        try:
            async with asyncio.timeout(timeout_s):
                await waiting.wait()
        except TimeoutError:
            return

    def remembers(self, epoch: str, revision: int) -> bool:
        """Whether a subscriber that has this can go on from there."""
        return epoch == self.epoch and self.revision - self._size <= revision <= self.revision

    def changes_after(self, revision: int) -> list[Response]:
        """Messages that lead from `revision`, which must be remembered, to now. Only the last says so: a subscriber
        that loses the stream in between starts again from where it was.
        """
        latest: dict[tuple[Kind, str], Change] = {}
        for number in range(revision + 1, self.revision + 1):
            change = self._ring[number % self._size]
            if change is not None:
                latest.pop(
                    (change.kind, change.key), None
                )  # the last one's place: a shape stays before its pods
                latest[change.kind, change.key] = change
        responses = [
            Response(
                epoch=self.epoch,
                revision=revision,
                phase=cluster_pb2.WatchClusterResponse.PHASE_CHANGES,
                changes=part,
            )
            for part in _parts(iter(latest.values()))
        ]
        responses[-1].revision = self.revision
        return responses

    def snapshot(self, reached: Mapping[str, str]) -> list[Response]:
        """Messages that make the whole cluster, shapes first. `reached`: source -> resourceVersion, for the last."""
        if self._snapshot is None or self._snapshot[0] != self.revision:
            self._snapshot = (self.revision, self._encode_snapshot())
        responses = list(self._snapshot[1])
        last = Response()
        last.CopyFrom(responses[-1])
        last.resource_versions.update(reached)
        return [*responses[:-1], last]

    def _encode_snapshot(self) -> list[Response]:
        responses = [
            Response(
                epoch=self.epoch,
                revision=self.revision,
                phase=cluster_pb2.WatchClusterResponse.PHASE_SNAPSHOT,
                changes=part,
            )
            for part in _parts(self._everything())
        ]
        responses[-1].phase = cluster_pb2.WatchClusterResponse.PHASE_SNAPSHOT_END
        return responses

    def _everything(self) -> Iterator[Change]:
        """Kind's order has shapes before pods. What follows from objects is left to who reads them."""
        for kind in Kind:
            for key, value in self._store.of(kind).items():
                yield Change(kind, key, value, getattr(value, "resource_version", ""))

    def heartbeat(self, reached: Mapping[str, str]) -> Response:
        """Says that all is well and nothing is newer."""
        return Response(
            epoch=self.epoch,
            revision=self.revision,
            phase=cluster_pb2.WatchClusterResponse.PHASE_HEARTBEAT,
            resource_versions=reached,
        )


def _parts(changes: Iterator[Change]) -> Iterator[list[cluster_pb2.Change]]:
    """Encoded changes in parts of bounded number and size; at least one, perhaps empty."""
    part: list[cluster_pb2.Change] = []
    size = 0
    for change in changes:
        message = encode_change(change)
        part.append(message)
        size += len(message.json)
        if len(part) >= PART_CHANGES or size >= PART_BYTES:
            yield part
            part, size = [], 0
    yield part

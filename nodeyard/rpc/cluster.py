"""A subscriber's side of the watcher's stream: the newest snapshot, and our own writes on top of it.

`ClusterFeed.run` follows one watcher, resumes after a break where it can, and goes to the next address when one is
silent. Until what it has is whole and current, `synced` is False and nobody should decide anything. A write of ours
is shown at once (`overlay`) until the stream has passed its resourceVersion, so that nobody plans on a cluster that
lacks what he just did; and a watcher that is behind what another one has shown already is waited for.
"""

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, cast

import grpc
import grpc.aio
import structlog

from nodeyard.rpc.cluster_codec import CodecError, decode_change
from nodeyard.rpc.v1 import cluster_pb2, cluster_pb2_grpc
from nodeyard.state.cluster import Change, ClusterStore, Kind, Snapshot
from nodeyard.state.intake import source_of

CURRENT_S: Final = 5.0
"""Without a word from the watcher for longer, what we have is not current. It says something each second."""
OVERLAY_S: Final = 30.0
"""An own write that the stream has not confirmed by then is no longer shown."""
_BEHIND_S: Final = 60.0
_RETRY_FIRST_S: Final = 0.1
_RETRY_MOST_S: Final = 0.5
_MESSAGE_BYTES: Final = 64 * 2**20
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", _MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)

_EOF: Final = cast(Any, grpc.aio).EOF

log = structlog.get_logger(source="nodeyard.rpc.cluster")
_Id = tuple[Kind, str]


class _Lost(Exception):
    """The stream ended; the message says why."""


class _Overlay:
    """One own write, and what the stream says lies under it."""

    def __init__(self, change: Change, under: Any | None, until: float) -> None:
        self.change = change
        self.under = under
        self.until = until
        """Monotonic time."""

    def passed_by(self, shown: Any | None, resource_version: str) -> bool:
        """Whether the stream, which shows the object so, has got to the write or beyond it."""
        ours, theirs = _number(self.change.resource_version), _number(resource_version)
        if ours is None:
            return not self._binds(shown)
        return theirs is None or theirs >= ours

    def _binds(self, shown: Any | None) -> bool:
        """Whether this is a binding that the stream does not show yet. The API answers a binding without a version, and
        nothing undoes one: what shows the pod unbound is older, such as what the kube-scheduler said of it.
        """
        bound = self.change.value
        if self.change.kind is not Kind.POD or bound is None or shown is None:
            return False
        return bool(bound.node) and shown.uid == bound.uid and not shown.node


class ClusterFeed:
    """Follows the first of `addresses` (host:port) that serves. Owned by the loop that runs `run`."""

    def __init__(
        self,
        addresses: Sequence[str],
        subscriber: str,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        if not addresses:
            raise ValueError("no address of a watcher is given")
        self._addresses = tuple(addresses)
        self._subscriber = subscriber
        self._monotonic = monotonic
        self._chance = chance
        self._store = ClusterStore()
        self._overlays: dict[_Id, _Overlay] = {}
        self._heard_at: float | None = None
        self._changed = asyncio.Event()
        self._parts: list[Change] = []
        self._seen: dict[str, int] = {}
        self._reached: dict[str, int] = {}
        self._behind_since: float | None = None
        self.address = ""
        """The watcher that is being followed; empty while none is."""

    # --- for those who read -------------------------------------------------------------------------------------------
    @property
    def synced(self) -> bool:
        """The snapshot is whole and current. Decide nothing new while it is not."""
        return self.not_synced_because is None

    @property
    def not_synced_because(self) -> str | None:
        """Why `synced` is False, for readiness; None when it is True."""
        if not self._store.epoch:
            return f"no snapshot from a watcher yet ({', '.join(self._addresses)})"
        if self.lag_s > CURRENT_S:
            return f"nothing heard from a watcher for {self.lag_s:.0f} s"
        if self._behind_since is not None:
            return "the watcher is behind what was seen before"
        return None

    @property
    def lag_s(self) -> float:
        """Seconds since the watcher last said something; infinity before the first time."""
        return float("inf") if self._heard_at is None else max(0.0, self._monotonic() - self._heard_at)

    def snapshot(self) -> Snapshot:
        """The cluster as last heard of, with own writes on top. Treat as read-only."""
        self._drop_old_overlays()
        return self._store.snapshot()

    async def wait_changed(self, after_revision: int, timeout_s: float) -> int:
        """The snapshot's revision, as soon as it is another than `after_revision` or `timeout_s` has passed.

        Another, not a larger one: a new watcher counts anew.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while self._store.revision == after_revision:
                    await self._changed.wait()
        except TimeoutError:
            pass
        return self._store.revision

    def overlay(self, change: Change) -> None:
        """Shows a write of ours: the object as the API server answered it, or None as the value where it is gone.

        Give the change the answer's resourceVersion; without one it holds until the object's next change, and a pod's
        binding until the stream shows the pod bound.
        """
        identity = (change.kind, change.key)
        known = self._overlays.get(identity)
        under = known.under if known else self._store.get(change.kind, change.key)
        if _newer(getattr(under, "resource_version", ""), change.resource_version):
            return  # the stream was faster than the answer
        if change.kind is Kind.POD and not self._has_shape(change.value):
            return
        self._overlays[identity] = _Overlay(change, under, self._monotonic() + OVERLAY_S)
        self._store.apply((change,))

    def _has_shape(self, pod: Any | None) -> bool:
        return pod is None or self._store.get(Kind.SHAPE, pod.shape) is not None

    # --- following ----------------------------------------------------------------------------------------------------
    async def run(self) -> None:
        """Follows, for ever: resumes, and tries the other addresses when one fails."""
        index = failures = 0
        told = ""
        while True:
            address = self._addresses[index]
            started, heard = self._monotonic(), self._heard_at
            try:
                await self._follow(address)
            except _Lost as lost:
                say = log.debug if f"{address} {lost}" == told else log.info
                say("watcher stream lost", address=address, reason=str(lost))
                told = f"{address} {lost}"
            finally:
                self.address = ""
                self._parts.clear()
            if self._heard_at != heard and self._monotonic() - started > CURRENT_S:
                failures = 0
                if self.lag_s < CURRENT_S:
                    continue  # it served until now, so it or its successor may be back: resume there at once
            failures += 1
            index = (index + 1) % len(self._addresses)
            await asyncio.sleep(self._pause_s(failures))

    def _pause_s(self, failures: int) -> float:
        """Grows with each round through the addresses."""
        rounds = failures // len(self._addresses)
        return min(_RETRY_MOST_S, _RETRY_FIRST_S * 2.0 ** min(rounds, 10)) * (0.5 + 0.5 * self._chance())

    async def _follow(self, address: str) -> None:
        request = cluster_pb2.WatchClusterRequest(
            subscriber=self._subscriber, epoch=self._store.epoch, revision=self._store.revision
        )
        async with grpc.aio.insecure_channel(address, options=_OPTIONS) as channel:
            call: Any = cluster_pb2_grpc.ClusterStub(channel).Watch(request)
            try:
                while True:
                    async with asyncio.timeout(CURRENT_S):
                        message = await call.read()
                    if message is _EOF:
                        raise _Lost("the watcher ended the stream")
                    self._take(message)
                    self.address = address
            except TimeoutError:
                raise _Lost(f"silent for {CURRENT_S:.0f} s") from None
            except grpc.aio.AioRpcError as error:
                raise _Lost(f"{error.code().name}: {error.details()}") from error
            except CodecError as error:
                # Whatever was applied up to here may be half of something: begin with a snapshot.
                self._store.epoch = ""
                raise _Lost(str(error)) from error
            finally:
                call.cancel()

    def _take(self, message: cluster_pb2.WatchClusterResponse) -> None:
        """Applies one message of the stream."""
        phase = message.phase
        phases = cluster_pb2.WatchClusterResponse
        changes = [decode_change(change) for change in message.changes]
        if phase in (phases.PHASE_SNAPSHOT, phases.PHASE_SNAPSHOT_END):
            self._parts.extend(changes)
            if phase == phases.PHASE_SNAPSHOT_END:
                self._reset(message.epoch, message.revision)
        elif changes:
            self._apply(changes, message.epoch, message.revision)
        self._note_reached(message.resource_versions)
        self._heard_at = self._monotonic()
        if phase != phases.PHASE_SNAPSHOT and phase != phases.PHASE_HEARTBEAT:
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()

    def _reset(self, epoch: str, revision: int) -> None:
        """A whole snapshot has arrived: start from it, and put the own writes that it lacks back on top."""
        parts, self._parts = self._parts, []
        self._store.reset(epoch, revision, parts)
        self._reached.clear()
        self._note_seen(parts)
        for identity, overlay in list(self._overlays.items()):
            overlay.under = self._store.get(*identity)
            shown = getattr(overlay.under, "resource_version", "")
            if overlay.under is not None and overlay.passed_by(overlay.under, shown):
                del self._overlays[identity]
            else:
                self._show(overlay)
        log.info("cluster snapshot received", epoch=epoch, revision=revision, objects=len(parts))

    def _apply(self, changes: Iterable[Change], epoch: str, revision: int) -> None:
        changes = list(changes)
        self._note_seen(changes)
        visible = [change for change in changes if not self._hidden(change)]
        try:
            self._store.apply(visible, epoch=epoch, revision=revision)
        except KeyError as error:
            raise CodecError(str(error)) from error

    def _hidden(self, change: Change) -> bool:
        """Whether an own write of ours lies on top of the change; if the change passes it, it is shown no more."""
        identity = (change.kind, change.key)
        overlay = self._overlays.get(identity)
        if overlay is None:
            return False
        if overlay.passed_by(change.value, change.resource_version):
            del self._overlays[identity]
            return False
        overlay.under = change.value
        return True

    def _show(self, overlay: _Overlay) -> None:
        if overlay.change.kind is not Kind.POD or self._has_shape(overlay.change.value):
            self._store.apply((overlay.change,))

    def _uncover(self, identity: _Id) -> None:
        """Takes an own write away and shows what the stream said."""
        overlay = self._overlays.pop(identity)
        kind, key = identity
        self._store.apply((Change(kind, key, overlay.under, ""),))

    def _drop_old_overlays(self) -> None:
        if not self._overlays:
            return
        now = self._monotonic()
        for identity in [one for one, overlay in self._overlays.items() if overlay.until <= now]:
            log.warning(
                "own write was never confirmed by the stream", kind=identity[0].value, key=identity[1]
            )
            self._uncover(identity)

    # --- how far ------------------------------------------------------------------------------------------------------
    def _note_seen(self, changes: Iterable[Change]) -> None:
        for change in changes:
            number = _number(change.resource_version)
            source = source_of(change.kind, change.key)
            if number is not None and source and number > self._seen.get(source, 0):
                self._seen[source] = number
            if number is not None and source and number > self._reached.get(source, 0):
                self._reached[source] = number

    def _note_reached(self, versions: Mapping[str, str]) -> None:
        """The watcher says how far it is: own writes older than that are in what it sent, or gone again."""
        if not versions:
            return
        for source, version in versions.items():
            number = _number(version)
            if number is not None:
                self._reached[source] = max(number, self._reached.get(source, 0))
        for identity, overlay in list(self._overlays.items()):
            written = _number(overlay.change.resource_version)
            reached = self._reached.get(source_of(*identity), 0)
            if written is not None and reached >= written:
                self._uncover(identity)
        self._judge_behind()

    def _judge_behind(self) -> None:
        behind = [source for source, seen in self._seen.items() if self._reached.get(source, seen) < seen]
        now = self._monotonic()
        if not behind:
            self._behind_since = None
        elif self._behind_since is None:
            self._behind_since = now
            log.warning("watcher is behind what was seen before", sources=behind)
        elif now - self._behind_since > _BEHIND_S:
            # Not a watcher that lags but a cluster that was set back, e.g. restored from a backup.
            log.warning("going on from an older state of the cluster", sources=behind)
            self._seen.clear()
            self._behind_since = None


def _number(resource_version: str) -> int | None:
    """resourceVersions of one server can be compared as numbers. Source: KEP-5504."""
    return int(resource_version) if resource_version.isascii() and resource_version.isdigit() else None


def _newer(first: str, second: str) -> bool:
    a, b = _number(first), _number(second)
    return a is not None and b is not None and a > b

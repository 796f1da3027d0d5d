"""The watcher's work: one follower per kind into one intake, its changes into one log.

Owns when we are synced (everything listed, or known not to be served) and whether we are current (every kind is
being followed and the API server answers). Level-triggered throughout: a listing repairs whatever an event missed.
"""

import gc
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Final

import msgspec

from nodeyard.rpc.cluster_log import ClusterLog
from nodeyard.runtime.clock import Clock
from nodeyard.runtime.logging import get_logger
from nodeyard.state.cluster import ClusterStore, Kind
from nodeyard.state.intake import CONVERTERS, POD, Converter, Intake, Taken, source_of_kind
from services.watcher.metrics import WatcherMetrics
from services.watcher.ports import ApiServer, Event, Follow

ESSENTIAL: Final = frozenset({POD, "Node", "NodeClaim", "NodePool"})
"""Without these nothing can be decided; any other kind may be missing or forbidden."""
FAILING_S: Final = 5.0
"""A kind that can't be followed for longer makes us not current."""
SILENT_S: Final = 10.0
_PULSE_S: Final = 2.0
_SWEEP_S: Final = 60.0
_TOLD: Final = 10_000

log = get_logger("services.watcher")


class Controller:
    """Follows every kind of `converters`. `loops` are its work; `log` is what subscribers read."""

    def __init__(
        self,
        follow: Follow,
        server: ApiServer,
        epoch: str,
        measures: WatcherMetrics,
        clock: Clock,
        converters: Mapping[str, Converter] = CONVERTERS,
    ) -> None:
        self._server = server
        self._measures = measures
        self._clock = clock
        self._started_at = clock.monotonic()
        self._answered_at = clock.monotonic()
        self._synced = False
        self._current = False
        self._told: set[tuple[str, str, str]] = set()
        self.store = ClusterStore()
        self.intake = Intake(self.store, converters)
        self.log = ClusterLog(self.store, epoch)
        self._followers = {kind: follow(kind, _Inflow(self, kind, clock)) for kind in converters}

    @property
    def loops(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """Name -> what runs until cancelled."""
        following = {f"follow {kind}": follower.run for kind, follower in self._followers.items()}
        return {**following, "pulse": self._feel_pulse, "sweep": self._sweep}

    # --- how well ---------------------------------------------------------------------------------------------------
    def not_serving_because(self) -> str | None:
        """Why nobody should rely on us now, for readiness and for subscribers; None when all is well."""
        reason = self._not_synced_because() or self._not_current_because()
        self._measures.current.set(reason is None)
        if reason is None and not self._current:
            log.info("watcher is current")
        elif reason is not None and self._current:
            log.warning("watcher is not current: subscribers are sent away", reason=reason)
        self._current = reason is None
        return reason

    def _not_synced_because(self) -> str | None:
        if self._synced:
            return None
        waiting = [kind for kind in self._followers if not self._settled(kind)]
        if not waiting:
            self._become_synced()
            return None
        troubles = [f"{kind} ({trouble})" for kind in waiting if (trouble := self._followers[kind].trouble)]
        return f"waiting for {', '.join(troubles or waiting)}"

    def _settled(self, kind: str) -> bool:
        follower = self._followers[kind]
        return follower.listings > 0 if kind in ESSENTIAL else follower.settled

    def _become_synced(self) -> None:
        self._synced = True
        took_s = self._clock.monotonic() - self._started_at
        self._measures.sync_s.set(took_s)
        gc.collect()
        gc.freeze()
        log.info(
            "cluster is synced",
            epoch=self.log.epoch, revision=self.log.revision, seconds=round(took_s, 3),
            **{kind.value: self.store.count(kind) for kind in (Kind.POD, Kind.SHAPE, Kind.NODE, Kind.NODE_CLAIM, Kind.POOL)},
            not_served=[kind for kind, follower in self._followers.items() if follower.refused],
        )  # fmt: skip

    def _not_current_because(self) -> str | None:
        now = self._clock.monotonic()
        for kind, since in self._failing():
            if now - since > FAILING_S:
                return f"{kind} can't be followed: {self._followers[kind].trouble}"
        if now - self._answered_at > SILENT_S:
            return "the API server does not answer"
        return None

    def hesitates(self) -> bool:
        """Something is not being followed just now, or the API server is slow to answer: claim nothing."""
        silent_s = self._clock.monotonic() - self._answered_at
        return silent_s > SILENT_S / 2 or next(self._failing(), None) is not None

    def _failing(self) -> Iterator[tuple[str, float]]:
        """What can't be followed now, and since when; not what is optional and refused."""
        for kind, follower in self._followers.items():
            since = follower.failing_since
            if since is not None and (kind in ESSENTIAL or not follower.refused):
                yield kind, since

    def reached(self) -> dict[str, str]:
        """Source -> the resourceVersion that the log is at."""
        versions = {kind: follower.resource_version for kind, follower in self._followers.items()}
        return {source_of_kind(kind): version for kind, version in versions.items() if version}

    # --- loops ------------------------------------------------------------------------------------------------------
    async def _feel_pulse(self) -> None:
        """A watch of a server that hangs is merely silent: ask it something now and then."""
        while True:
            if await self._server.answers():
                self._answered_at = self._clock.monotonic()
            self.not_serving_because()  # notes that all is listed, also while nobody asks
            for kind in Kind:
                self._measures.objects.labels(kind.value).set(self.store.count(kind))
            await self._clock.sleep(_PULSE_S)

    async def _sweep(self) -> None:
        while True:
            await self._clock.sleep(_SWEEP_S)
            self.log.append(self.intake.sweep())

    # --- what comes in ----------------------------------------------------------------------------------------------
    def take(self, kind: str, taken: Taken, received: int, began_at: float) -> None:
        """Passes on what some input led to."""
        self.log.append(taken.changes)
        measures = self._measures
        measures.events.labels(kind).inc(received)
        measures.changes.labels(kind).inc(len(taken.changes))
        measures.convert.observe(self._clock.monotonic() - began_at)
        for one in taken.undecodable:
            measures.undecodable.labels(kind).inc()
            told = (one.kind, one.name, one.why)
            if told not in self._told and len(self._told) < _TOLD:
                self._told.add(told)
                log.warning(
                    "object can't be read and is left as it was", kind=one.kind, name=one.name, reason=one.why
                )
        if self.intake.pods_outdated:
            self.intake.pods_outdated = False
            self._list_pods_again()

    def _list_pods_again(self) -> None:
        """Shapes made so far lack a label that now matters."""
        follower = self._followers.get(POD)
        if follower is not None:
            log.info("pods are listed again: a selector names a label that shapes left out")
            follower.relist()

    def listed(self, kind: str) -> None:
        """A listing is complete."""
        self._measures.listings.labels(kind).inc()


class _Inflow:
    """One kind's way into the intake."""

    def __init__(self, controller: Controller, kind: str, clock: Clock) -> None:
        self._controller = controller
        self._kind = kind
        self._clock = clock

    def begin(self) -> None:
        self._controller.intake.begin(self._kind)

    def page(self, items: Sequence[msgspec.Raw]) -> None:
        began_at = self._clock.monotonic()
        self._controller.take(
            self._kind, self._controller.intake.page(self._kind, items), len(items), began_at
        )

    def end(self, resource_version: str) -> None:
        began_at = self._clock.monotonic()
        taken = self._controller.intake.end(self._kind, resource_version)
        self._controller.take(self._kind, taken, 0, began_at)
        self._controller.listed(self._kind)

    def events(self, events: Sequence[Event]) -> None:
        began_at = self._clock.monotonic()
        taken = self._controller.intake.events(self._kind, ((event.type, event.object) for event in events))
        self._controller.take(self._kind, taken, len(events), began_at)

    def missing(self) -> None:
        """Of an essential kind, what is known is kept: without it we are not current anyway."""
        if self._kind not in ESSENTIAL:
            began_at = self._clock.monotonic()
            self._controller.take(self._kind, self._controller.intake.gone(self._kind), 0, began_at)

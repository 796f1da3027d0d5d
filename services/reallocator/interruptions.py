"""Follows what the cloud says about instances, and takes their nodes out of use in time.

Runs in every replica: a claim is deleted by its UID, a deadline only moves closer and a refusal of the same moment is
the same news, so a message that is delivered twice does nothing more. What could not be done leaves its message in
the queue, which delivers it again. What follows a deletion (drain, instance) is `termination`'s; where the pods go is
the allocator's. Kill points: reallocator.before-/after- interrupt, and those of NodeClaims.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from nodeyard.adapters.kubernetes.errors import KubernetesError
from nodeyard.api import labels as keys
from nodeyard.api.node import NodeClaim
from nodeyard.cloudprovider.errors import CloudError
from nodeyard.cloudprovider.refusals import Refusal
from nodeyard.cloudprovider.scarcity import interrupted, taken_back
from nodeyard.disruption.collection import instance_id
from nodeyard.disruption.interruption import (
    MEANINGS,
    Meaning,
    Message,
    Notice,
    NoticeKind,
    claims_of,
    deadline_for,
)
from nodeyard.disruption.termination import render_time
from nodeyard.runtime.backoff import Backoff
from nodeyard.runtime.clock import Clock
from nodeyard.runtime.lifecycle import kill_point
from nodeyard.runtime.logging import get_logger
from nodeyard.state.cluster import Change, Kind
from services.reallocator.chronicle import Chronicle
from services.reallocator.metrics import ReallocatorMetrics
from services.reallocator.ports import Claims, Cluster, Notices, Refusals

_IDLE_S: Final = 1.0
_REMEMBERED: Final = 5_000

log = get_logger("services.reallocator.interruptions")


class Interruptions:
    """Run `run` in every replica that was given a queue."""

    def __init__(
        self,
        *,
        queue: Notices,
        cluster: Cluster,
        claims: Claims,
        refusals: Refusals,
        chronicle: Chronicle,
        clock: Clock,
        measures: ReallocatorMetrics,
        permitted: Callable[[], bool],
    ) -> None:
        self._queue = queue
        self._cluster = cluster
        self._claims = claims
        self._refusals = refusals
        self._chronicle = chronicle
        self._clock = clock
        self._measures = measures
        self._permitted = permitted
        self._handled: dict[str, None] = {}
        """Messages seen here and not to be handled again should their deletion have failed."""

    async def run(self) -> None:
        """Polls for ever; a queue that can't be asked is asked again, every minute at last, until cancelled."""
        pauses, problem = Backoff(1.0, 60.0), ""
        while True:
            if not self._cluster.synced or not self._permitted():
                await self._clock.sleep(_IDLE_S)
                continue
            try:
                await self.once()
            except CloudError as error:
                if str(error) != problem:
                    log.warning("interruption queue can't be asked", error=str(error))
                problem = str(error)
                await self._clock.sleep(pauses.next_s())
            else:
                problem = ""
                pauses.reset()

    async def once(self) -> int:
        """One poll and all that follows from it; how many messages came. Raises CloudError."""
        messages = await self._queue.receive()
        done = await asyncio.gather(*(self._handle(message) for message in messages))
        handles = [message.handle for message, ok in zip(messages, done, strict=True) if ok]
        self._measures.messages_deleted.inc(await self._queue.delete(handles))
        return len(messages)

    async def _handle(self, message: Message) -> bool:
        """Whether the message is done with."""
        if message.id in self._handled:
            return True
        notice = message.notice
        try:
            await self._act(notice)
        except KubernetesError as error:
            log.warning("interruption can't be acted on yet", kind=notice.kind.value, error=str(error))
            return False
        if notice.kind is NoticeKind.MALFORMED:
            log.warning(
                "interruption message can't be read and is dropped", id=message.id, problem=notice.problem
            )
        self._measures.messages_received.labels(notice.kind.value).inc()
        if message.sent_at:
            self._measures.message_wait.observe(max(0.0, self._clock.now() - message.sent_at))
        self._handled[message.id] = None
        while len(self._handled) > _REMEMBERED:
            del self._handled[next(iter(self._handled))]
        return True

    async def _act(self, notice: Notice) -> None:
        meaning = MEANINGS.get(notice.kind)
        if meaning is None:
            return
        found = list(claims_of(notice, self._cluster.snapshot().claims.values()))
        lost = LOSSES[notice.kind](found) if notice.kind in LOSSES else ()
        await asyncio.gather(
            self._refusals.report_refusals(lost),
            *(self._interrupt(claim, notice, meaning) for claim in found),
        )

    async def _interrupt(self, claim: NodeClaim, notice: Notice, meaning: Meaning) -> None:
        """Says it, and takes the node out of use where the notice means its end."""
        self._say(claim, meaning)
        if not meaning.ends:
            return
        kill_point("reallocator.before-interrupt")
        deadline = deadline_for(notice, claim)
        if deadline is not None:
            written = await self._claims.annotate(claim, {keys.TERMINATION_TIMESTAMP: render_time(deadline)})
            if written is not None:
                self._cluster.overlay(
                    Change(Kind.NODE_CLAIM, written.name, written, written.resource_version)
                )
        if claim.deleting:
            return
        await self._claims.delete(claim.name, claim.uid)
        kill_point("reallocator.after-interrupt")
        capacity_type = claim.labels.get(keys.CAPACITY_TYPE, "")
        self._measures.disrupted.labels(notice.kind.value, claim.pool, capacity_type).inc()
        await self._chronicle.decided(
            "interrupted", f"nodeclaim/{claim.name}", meaning.event, f"deleted: {meaning.words}",
            pool=claim.pool, instance=instance_id(claim.provider_id), capacity_type=capacity_type,
            instance_type=claim.labels.get(keys.INSTANCE_TYPE, ""), zone=claim.labels.get(keys.ZONE, ""),
        )  # fmt: skip

    def _say(self, claim: NodeClaim, meaning: Meaning) -> None:
        node = self._cluster.snapshot().node_of(claim)
        said = [(meaning.event, meaning.words)]
        if meaning.ends and not claim.deleting:
            said.append(("TerminatingOnInterruption", f"is being drained and removed: {meaning.words}"))
        for reason, words in said:
            self._chronicle.on_claim(claim, reason, words, warning=meaning.ends)
            if node is not None:
                self._chronicle.on_node(node, reason, words, warning=meaning.ends)


def losses(claims: Iterable[NodeClaim]) -> tuple[Refusal, ...]:
    """The pools that took these claims' instances back; a claim that does not tell its pool says nothing of any."""
    pools = {(c.labels.get(keys.INSTANCE_TYPE, ""), c.labels.get(keys.ZONE, "")) for c in claims}
    return tuple(interrupted(type_, zone) for type_, zone in sorted(pools) if type_ and zone)


def reservations_lost(claims: Iterable[NodeClaim]) -> tuple[Refusal, ...]:
    """The reservations that take these claims' instances back; a claim that is in none says nothing of any."""
    wanted = (keys.INSTANCE_TYPE, keys.ZONE, keys.RESERVATION_ID)
    places = {tuple(c.labels.get(key, "") for key in wanted) for c in claims}
    return tuple(taken_back(type_, zone, id_) for type_, zone, id_ in sorted(places) if id_)


LOSSES: Final = {NoticeKind.SPOT: losses, NoticeKind.RESERVATION: reservations_lost}
"""Notices that say something about what can be bought, and what."""

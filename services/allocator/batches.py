"""Launches put together: claims with the same launch record share one CreateFleet, and its answer is dealt out.

A window per record stays open for 35 ms after its last claim (1 s at most, 100 claims) or until the last claim of the
plan that is being carried out has come, and three calls are under way at once. The batch is written on all its claims,
then called; a batch found on a claim is finished the same way, whoever wrote it. While an outcome is unknown the stored
request is repeated; where that can't be, EC2 is asked by the batch's tag, and silence counts only after it has lasted
longer than EC2's consistency lag. A batch that made nothing is struck from its claims under the batch's lease, with the
attempt counted up, so nobody calls it again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import msgspec

from nodeyard.adapters.kubernetes.errors import KubernetesError
from nodeyard.api.node import NodeClaim
from nodeyard.cloudprovider.errors import CloudError, IdempotencyMismatch, NotFound, Unreachable
from nodeyard.cloudprovider.refusals import Refusal
from nodeyard.provisioning.batches import (
    LAUNCH_BATCH,
    MOST_CLAIMS,
    Answer,
    Batch,
    assigned,
    assigned_by_description,
    batch_of,
    encode_batch,
    members_of,
    merge_key,
)
from nodeyard.provisioning.claims import LaunchRecord, launch_record_of, record_annotations
from nodeyard.provisioning.launches import Launched, Refused
from nodeyard.runtime.clock import Clock, within
from nodeyard.state.cluster import Change, Kind
from services.allocator.leases import NodeLeases
from services.allocator.ports import Claims, Cluster, Fleet
from services.allocator.reporting import log

IDLE_S: Final = 0.035
MAX_S: Final = 1.0
CALLS_AT_ONCE: Final = 3
CONSISTENCY_LAG_S: Final = 60.0
_REMEMBERED: Final = 2_000


class Nothing(msgspec.Struct, frozen=True):
    """A batch made nothing and is struck from its claims: decide the launch anew. `cause` where EC2 said why."""

    cause: CloudError | None = None


class _Settled(msgspec.Struct, frozen=True):
    """What came of a batch: instances by claim UID, and the answer for those without."""

    instances: dict[str, Launched]
    answer: Answer


class _Window:
    """Claims that come together. `waiting` is by UID."""

    def __init__(self, record: LaunchRecord, now: float) -> None:
        self.record = record
        self.opened_at = self.last_at = now
        self.waiting: dict[str, tuple[NodeClaim, LaunchRecord, asyncio.Future[Batch]]] = {}
        self.complete = asyncio.Event()


class Batches:
    """Launches of one replica, put together. Raises CloudError, KubernetesError; the claim is tried again later."""

    def __init__(
        self,
        *,
        fleet: Fleet,
        claims: Claims,
        cluster: Cluster,
        leases: NodeLeases,
        clock: Clock,
        idle_s: float = IDLE_S,
        max_s: float = MAX_S,
        most: int = MOST_CLAIMS,
        consistency_lag_s: float = CONSISTENCY_LAG_S,
    ) -> None:
        self._fleet = fleet
        self._claims = claims
        self._cluster = cluster
        self._leases = leases
        self._clock = clock
        self._idle_s = idle_s
        self._max_s = max_s
        self._most = most
        self._lag_s = consistency_lag_s
        self._room = asyncio.Semaphore(CALLS_AT_ONCE)
        self._windows: dict[bytes, _Window] = {}
        self._coming: set[str] = set()
        self._finishing: dict[str, asyncio.Task[_Settled | Nothing]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._settled: dict[str, _Settled] = {}
        self._uncalled: set[str] = set()
        """Batches written here whose every call so far certainly had no effect."""
        self._asked: dict[str, tuple[float, int]] = {}
        """Batch id -> since when EC2 shows this many instances of it, seconds."""
        self._calling: Callable[[NodeClaim], None] = lambda claim: None
        self._refused: Callable[[tuple[Refusal, ...]], Awaitable[None]] | None = None

    def on_call(self, tell: Callable[[NodeClaim], None]) -> None:
        """`tell` is called for each claim right before its CreateFleet."""
        self._calling = tell

    def on_refusals(self, tell: Callable[[tuple[Refusal, ...]], Awaitable[None]]) -> None:
        """`tell` is awaited once for each answer, with what EC2 refused beside what it made."""
        self._refused = tell

    def expect(self, names: Iterable[str]) -> None:
        """Claims that are about to be created together and launched here: once all are here, no window waits longer."""
        self._coming = set(names)

    def expect_no_more(self, name: str) -> None:
        """The claim has come, or will not."""
        if name in self._coming:
            self._coming.remove(name)
            if not self._coming:
                for window in self._windows.values():
                    window.complete.set()

    async def launch(self, claim: NodeClaim, record: LaunchRecord) -> Launched | Refused | Nothing:
        """What came of the claim's batch, which it joins now or is in already."""
        batch = batch_of(claim)
        if batch is None or claim.uid not in {uid for _, uid in batch.members}:
            batch = await self._joined(claim, record)
        outcome = await self._finished(batch, record)
        if isinstance(outcome, Nothing):
            return outcome
        made = outcome.instances.get(claim.uid)
        return made or Refused(outcome.answer.refusals, outcome.answer.message)

    async def look_up(self, claim: NodeClaim) -> Launched | None:
        """The instance that was made for a claim which is not to be launched any more. Raises CloudError while that is
        not certain.
        """
        batch = batch_of(claim)
        if batch is None or batch.id in self._uncalled:
            return None
        settled = self._settled.get(batch.id) or await self._described(batch)
        return settled.instances.get(claim.uid) if settled is not None else None

    # --- joining ------------------------------------------------------------------------------------------------------
    async def _joined(self, claim: NodeClaim, record: LaunchRecord) -> Batch:
        """The batch that the claim is written into, here or by another replica that was faster."""
        key, now = merge_key(record), self._clock.monotonic()
        window = self._windows.get(key)
        if window is None:
            window = self._windows[key] = _Window(record, now)
            task = asyncio.create_task(self._close(key, window), name="launch window")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        future: asyncio.Future[Batch] = asyncio.get_running_loop().create_future()
        window.last_at = now
        window.waiting[claim.uid] = (claim, record, future)
        if len(window.waiting) >= self._most:
            del self._windows[key]
        self.expect_no_more(claim.name)
        return await future

    async def _close(self, key: bytes, window: _Window) -> None:
        while self._windows.get(key) is window:
            closes_at = min(window.last_at + self._idle_s, window.opened_at + self._max_s)
            left = closes_at - self._clock.monotonic()
            await within(self._clock, window.complete.wait(), max(0.0, left))
            if (left <= 0 or window.complete.is_set()) and self._windows.get(key) is window:
                del self._windows[key]
        try:
            await self._write(list(window.waiting.values()))
        except (KubernetesError, CloudError) as error:
            for _, _, future in window.waiting.values():
                if not future.done():
                    future.set_exception(error)
                    future.exception()  # whoever waits may have been cancelled
        finally:
            for _, _, future in window.waiting.values():
                future.cancel()

    async def _write(self, rows: list[tuple[NodeClaim, LaunchRecord, asyncio.Future[Batch]]]) -> None:
        """Writes a batch on all the claims, without those that turn out to be gone or in another one."""
        before = ""
        while rows := [row for row in rows if not row[2].done()]:
            members = members_of(claim for claim, _, _ in rows)
            batch = Batch(self._fleet.stamp(rows[0][1], members), members)
            text = encode_batch(batch)
            written = await asyncio.gather(
                *(
                    self._claims.annotate(
                        claim,
                        {**record_annotations(record), LAUNCH_BATCH: text},
                        unless=LAUNCH_BATCH,
                        replacing=before or _copied(claim),
                    )
                    for claim, record, _ in rows
                )
            )
            whole = True
            for (_, _, future), now in zip(rows, written, strict=True):
                theirs = batch_of(now) if now is not None else None
                if now is not None:
                    self._shown(now)
                if theirs is None or theirs.id != batch.id:
                    whole = False
                    if theirs is None:
                        future.set_exception(NotFound("the claim is gone"))
                        future.exception()
                    else:
                        future.set_result(theirs)
            if whole:
                self._remember_uncalled(batch)
                for _, _, future in rows:
                    future.set_result(batch)
            before = text

    # --- finishing ----------------------------------------------------------------------------------------------------
    async def _finished(self, batch: Batch, record: LaunchRecord) -> _Settled | Nothing:
        """What came of the batch; called once for all its claims."""
        if (known := self._settled.get(batch.id)) is not None:
            return known
        task = self._finishing.get(batch.id)
        if task is None:
            task = asyncio.create_task(self._finish(batch, record), name=f"batch {batch.id}")
            self._finishing[batch.id] = task
            task.add_done_callback(lambda _: self._finishing.pop(batch.id, None))
        return await asyncio.shield(task)

    async def _finish(self, batch: Batch, record: LaunchRecord) -> _Settled | Nothing:
        async with self._leases.held(f"batch-{batch.id}") as mine:
            if not mine:
                raise Unreachable("another replica finishes this claim's batch")
            return await self._called(batch, record)

    async def _called(self, batch: Batch, record: LaunchRecord) -> _Settled | Nothing:
        states = await asyncio.gather(*(self._carries(member, batch, record) for member in batch.members))
        if any(state is False for state in states):
            return await self._struck(batch, record, None)
        if any(state is None for state in states):
            return await self._by_description(batch, record)
        uncalled = batch.id in self._uncalled
        self._uncalled.discard(batch.id)
        try:
            async with self._room:
                self._tell_calling(batch)
                answer = await self._fleet.launch(record, batch)
        except IdempotencyMismatch:
            return await self._by_description(batch, record)
        except NotFound as error:
            return await self._struck(batch, record, error)
        except CloudError as error:
            if uncalled and not error.may_have_taken_effect:
                self._uncalled.add(batch.id)
            raise
        if answer.refusals and self._refused is not None:
            await self._refused(answer.refusals)
        if answer.error is not None:
            return await self._struck(batch, record, answer.error)
        return self._remember(batch, _Settled(assigned(batch, answer.made), answer))

    def _tell_calling(self, batch: Batch) -> None:
        known = self._cluster.snapshot().claims
        for name, _ in batch.members:
            if (claim := known.get(name)) is not None:
                self._calling(claim)

    async def _carries(self, member: tuple[str, str], batch: Batch, record: LaunchRecord) -> bool | None:
        """Whether the claim carries the batch, written on it now where its writer had not come so far. False: it is in
        another one, so that this one was never called or made nothing. None: it is gone, and nobody knows.
        """
        name, uid = member
        claim = self._cluster.snapshot().claims.get(name)
        if claim is None or claim.uid != uid or not _in(claim, batch):
            claim = await self._claims.get(name)
        if claim is None or claim.uid != uid:
            return None
        if batch_of(claim) is None:
            mine = launch_record_of(claim)
            if mine is not None and mine.attempt > record.attempt:
                return False
            written = await self._claims.annotate(
                claim, {**record_annotations(record), LAUNCH_BATCH: encode_batch(batch)}, unless=LAUNCH_BATCH
            )
            if written is None:
                return None
            claim = self._shown(written)
        return _in(claim, batch)

    async def _struck(self, batch: Batch, record: LaunchRecord, cause: CloudError | None) -> Nothing:
        """Takes a batch that made nothing off its claims, their next attempt being another."""
        text = encode_batch(batch)

        async def strike(name: str, uid: str) -> None:
            claim = await self._claims.get(name)
            if claim is None or claim.uid != uid or not _in(claim, batch):
                return
            again = msgspec.structs.replace(record, attempt=record.attempt + 1)
            written = await self._claims.annotate(
                claim, {**record_annotations(again), LAUNCH_BATCH: None}, unless=LAUNCH_BATCH, replacing=text
            )
            if written is not None:
                self._shown(written)

        await asyncio.gather(*(strike(name, uid) for name, uid in batch.members))
        self._asked.pop(batch.id, None)
        log.warning("a launch made nothing and is decided anew", batch=batch.id, claims=len(batch.members),
                    error=str(cause) if cause is not None else "")  # fmt: skip
        return Nothing(cause)

    async def _by_description(self, batch: Batch, record: LaunchRecord) -> _Settled | Nothing:
        return await self._described(batch) or await self._struck(batch, record, None)

    async def _described(self, batch: Batch) -> _Settled | None:
        """What EC2 shows of the batch, None where it made nothing. Raises Unreachable while that is not certain."""
        found = await self._fleet.find(batch)
        since, count = self._asked.get(batch.id, (self._clock.monotonic(), -1))
        if count != len(found):
            since = self._clock.monotonic()
        self._asked[batch.id] = (since, len(found))
        lasted = self._clock.monotonic() - since > self._lag_s
        if not lasted and len(found) < len(batch.members):
            raise Unreachable(
                f"EC2 shows {len(found)} of {len(batch.members)} instances of the claim's batch, which may change",
                may_have_taken_effect=True,
            )
        if not found:
            return None
        answer = Answer(message="the instance of this claim was not made, or is gone")
        return self._remember(batch, _Settled(assigned_by_description(batch, found), answer))

    # --- remembering --------------------------------------------------------------------------------------------------
    def _remember(self, batch: Batch, settled: _Settled) -> _Settled:
        self._asked.pop(batch.id, None)
        self._settled[batch.id] = settled
        while len(self._settled) > _REMEMBERED:
            self._settled.pop(next(iter(self._settled)))
        return settled

    def _remember_uncalled(self, batch: Batch) -> None:
        if len(self._uncalled) > _REMEMBERED:
            self._uncalled.clear()
        self._uncalled.add(batch.id)

    def _shown(self, claim: NodeClaim) -> NodeClaim:
        self._cluster.overlay(Change(Kind.NODE_CLAIM, claim.name, claim, claim.resource_version))
        return claim


def _copied(claim: NodeClaim) -> str:
    """A batch's text that came with a copied manifest and does not speak of this claim."""
    batch = batch_of(claim)
    mine = batch is None or claim.uid in {uid for _, uid in batch.members}
    return "" if mine else claim.annotations[LAUNCH_BATCH]


def _in(claim: NodeClaim, batch: Batch) -> bool:
    found = batch_of(claim)
    return found is not None and found.id == batch.id

"""Keeps the board fresh: four schedules, the replicas' shared memory, and the refusals' coming and going.

A part is refreshed when its age reaches its interval, give or take a tenth. Before AWS is asked, what another replica
learned meanwhile is taken over; while one replica asks, the others wait for its answer, except for a part of which
nothing is known here. Level-triggered: the news channel only makes the others faster, and after each reconnection
everything is read anew.
"""

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from nodeyard.cloudprovider.commitments import CommitmentsError
from nodeyard.cloudprovider.errors import CloudError
from nodeyard.cloudprovider.feed import FeedError
from nodeyard.cloudprovider.learned import LearnedMemory, problem_of
from nodeyard.cloudprovider.market import PriceSheet, TypeTable
from nodeyard.cloudprovider.refusals import Refusal
from nodeyard.cloudprovider.reservations import ReservationSheet
from nodeyard.cloudprovider.scarcity import Key, Standing
from nodeyard.runtime import logging
from nodeyard.runtime.backoff import Backoff
from nodeyard.runtime.clock import Clock
from nodeyard.runtime.leadership import StoreUnavailableError
from services.pricing.board import PARTS, PriceBoard
from services.pricing.metrics import PricingMetrics
from services.pricing.ports import Backup, Cloud, Memory, Paid, Part, Shelf, Shifts

Learned = TypeTable | PriceSheet | ReservationSheet
"""A part as it is kept."""

log = logging.get_logger("services.pricing.controller")

_CLAIM_MOST_S, _CLAIM_LEAST_S = 60.0, 5.0
"""Longer than a refresh mostly takes; a replica that dies with the claim delays the others by this at most."""
_OTHERS_ASK_S: Final = 1.0
_RELISTEN_FIRST_S, _RELISTEN_MOST_S = 0.2, 0.5
"""Short, so that a restart that finds Redis later than itself serves within a second of Redis being there."""
_SWEEP_S: Final = 10.0
SHIFTS_S: Final = 30.0
"""How often it is asked which zones traffic is shifted away from."""


class PricingController:
    """Loops over one board. `intervals`: part -> seconds between refreshes."""

    def __init__(
        self,
        cloud: Cloud,
        memory: Memory,
        board: PriceBoard,
        clock: Clock,
        *,
        replica: str,
        intervals: Mapping[Part, float],
        metrics: PricingMetrics,
        backup: Backup | None = None,
        disk: Shelf | None = None,
        paid: Paid | None = None,
        shifts: Shifts | None = None,
        usage_interval_s: float = 60.0,
        feed_interval_s: float = 3600.0,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._cloud = cloud
        self._memory = memory
        self._board = board
        self._clock = clock
        self._replica = replica
        self._intervals = dict(intervals)
        self._metrics = metrics
        self._backup = backup
        self._disk = disk
        self._paid = paid
        self._shifts = shifts
        self._usage_interval_s = usage_interval_s
        self._feed_interval_s = feed_interval_s
        self._chance = chance
        self._untold: dict[Key, Standing] = {}
        """Refusals that Redis has not been told of yet."""
        self._swept = asyncio.Event()
        self._counting = asyncio.Lock()

    # -- what others call

    async def refused(self, refusals: Iterable[Refusal]) -> None:
        """The cloud refused these just now: out at once, here and at all replicas."""
        found = list(refusals)
        now = self._clock.now()
        standings = self._board.scarcity.refuse(found, now)
        await self._board.publish(now)
        self._swept.set()
        self._untold.update({standing.refusal.key: standing for standing in standings})
        strikes = max((standing.strikes for standing in standings), default=0)
        log.info("cloud refused offerings", count=len(found), first=_shown(found), most_strikes=strikes)
        await self._tell()

    async def count_reservations(self) -> float:
        """Counts the capacity reservations now, one count for all who asked before it began; when they were last counted
        (Unix seconds), 0 for never.
        """
        wanted = self._clock.now()
        async with self._counting:
            counted = self._board.asked_at("reservations")
            if counted is None or counted < wanted:
                await self._ask("reservations")
        return self._board.asked_at("reservations") or 0.0

    def now(self) -> float:
        """Unix seconds by our clock."""
        return self._clock.now()

    async def observed(self, seen: Iterable[LearnedMemory]) -> None:
        """Nodes turned out to have this much: counts from now on, here and at all replicas."""
        table = self._board.table
        types = {described.name: described for described in table.types} if table is not None else {}
        believed: list[LearnedMemory] = []
        for one in seen:
            problem = problem_of(one, types.get(one.instance_type))
            if problem:
                log.warning("node reports what its type can't have", problem=problem, image=one.image)
            else:
                believed.append(one)
        await self._board.learn_capacity(believed, self._clock.now())
        try:
            await self._memory.learn(believed, self._clock.now())
        except StoreUnavailableError as error:
            log.warning("learned capacity is not saved yet", error=str(error))

    async def restore(self) -> None:
        """Takes over what Redis or the disk remembers; nothing of it is needed to start."""
        try:
            for part in PARTS:
                await self._adopt(part)
            await self._recall()
            await self._relearn()
        except StoreUnavailableError as error:
            log.warning("shared memory can't be read; AWS will be asked", error=str(error))
        if self._disk is not None:
            for part in PARTS:
                await self._adopt(part, self._disk)
        if self._backup is not None:
            await self._read_feed(self._backup)
        log.info("catalogue restored", warm=self._board.market is not None)

    # -- loops

    async def keep_types(self) -> None:
        """Refreshes the instance types for ever."""
        await self._keep("types")

    async def keep_on_demand(self) -> None:
        """Refreshes the on-demand prices for ever."""
        await self._keep("on-demand")

    async def keep_spot(self) -> None:
        """Refreshes the spot prices for ever."""
        await self._keep("spot")

    async def keep_reservations(self) -> None:
        """Counts what is left of the capacity reservations for ever."""
        await self._keep("reservations")

    async def keep_feed(self) -> None:
        """Reads the price feed anew for ever, if there is one."""
        while True:
            await self._clock.sleep(self._feed_interval_s * self._jitter())
            if self._backup is not None:
                await self._read_feed(self._backup)

    async def keep_commitments(self) -> None:
        """Follows what is paid for already and what uses it up, for ever, if anything is."""
        while True:
            if self._paid is not None:
                await self._read_commitments(self._paid)
            await self._clock.sleep(self._usage_interval_s * self._jitter())

    async def keep_shifts(self) -> None:
        """Follows for ever which zones traffic is shifted away from, where anybody says so. What was last said holds
        while it can't be asked.
        """
        while True:
            if self._shifts is not None:
                await self._read_shifts(self._shifts)
            await self._clock.sleep(SHIFTS_S * self._jitter())

    async def listen(self) -> None:
        """Takes over what other replicas learn, as they learn it."""
        delay = Backoff(_RELISTEN_FIRST_S, _RELISTEN_MOST_S)
        while True:
            try:
                async for news in self._memory.news():
                    delay.reset()
                    if news == "refusals":
                        await self._recall()
                    elif news == "learned":
                        await self._relearn()
                    elif news is not None:
                        await self._adopt(news)
                    else:
                        self._untold.update({s.refusal.key: s for s in self._board.scarcity.standings()})
                        await self._tell()
                        await self._memory.learn(self._board.learned.entries, self._clock.now())
                        await self._recall()
                        await self._relearn()
                        await self._share()
            except StoreUnavailableError as error:
                log.warning("shared memory is away; working on alone", error=str(error))
            await self._clock.sleep(delay.next_s())

    async def sweep(self) -> None:
        """Lets refusals end, and their odds fade, on time."""
        while True:
            now = self._clock.now()
            self._board.scarcity.forget(now)
            await self._board.let_back(now)
            end = self._board.scarcity.next_change(now)
            wait_s = _SWEEP_S if end is None else min(_SWEEP_S, max(0.05, end - now))
            sleeping = asyncio.ensure_future(self._clock.sleep(wait_s))
            waking = asyncio.ensure_future(self._swept.wait())
            try:
                await asyncio.wait({sleeping, waking}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                sleeping.cancel()
                waking.cancel()
            self._swept.clear()

    # -- refreshing

    async def _keep(self, part: Part) -> None:
        delay = Backoff(1.0, max(1.0, min(300.0, self._intervals[part])))
        share = self._jitter()
        while True:
            asked_at = self._board.asked_at(part)
            due_s = 0.0
            if asked_at is not None:
                due_s = asked_at + self._intervals[part] * share - self._clock.now()
            if due_s > 0:
                await self._clock.sleep(min(due_s, self._intervals[part]))
            elif await self._refresh(part):
                delay.reset()
                share = self._jitter()
            else:
                await self._clock.sleep(delay.next_s())

    async def _refresh(self, part: Part) -> bool:
        """One attempt; False when it failed and is to be tried again later."""
        known = self._board.asked_at(part)
        claimed = await self._claimed(part)
        if claimed is False and known is not None:
            await self._clock.sleep(_OTHERS_ASK_S)
            return True
        if self._board.asked_at(part) != known:
            self._metrics.refreshes.labels(part, "adopted").inc()
            await self._release(part, claimed)
            return True
        try:
            return await self._ask(part)
        finally:
            await self._release(part, claimed)

    async def _ask(self, part: Part) -> bool:
        started = self._clock.monotonic()
        now = self._clock.now()
        try:
            count = await self._ask_and_learn(part, now)
        except CloudError as error:
            self._metrics.refreshes.labels(part, type(error).__name__).inc()
            log.warning("source can't be asked; the last known figures stay", part=part, error=str(error))
            await self._board.failed(part, str(error), now)
            return False
        took = self._clock.monotonic() - started
        self._metrics.refreshes.labels(part, "asked").inc()
        self._metrics.refresh_seconds.labels(part).observe(took)
        log.info("catalogue refreshed", part=part, entries=count, seconds=round(took, 3))
        return True

    async def _ask_and_learn(self, part: Part, now: float) -> int:
        """Asks AWS, puts the answer on the board and into the shared memory; how many entries it has."""
        if part == "types":
            table = await self._cloud.types()
            await self._board.learn_types(table, now, now)
            await self._save(part, table)
            return len(table.types)
        if part == "reservations":
            counted = await self._cloud.reservations(now)
            await self._board.learn_reservations(counted, now)
            await self._save(part, counted)
            return len(counted.reservations)
        sheet = await (self._cloud.on_demand(now) if part == "on-demand" else self._cloud.spot(now))
        await self._board.learn_prices(part, sheet, now)
        await self._save(part, sheet)
        return len(sheet.usd)

    async def _read_feed(self, backup: Backup) -> None:
        now = self._clock.now()
        try:
            await self._board.learn_feed(await backup.read(now), now)
        except (CloudError, FeedError) as error:
            self._metrics.refreshes.labels("feed", type(error).__name__).inc()
            self._board.feed_failed(str(error))
            log.warning("price feed can't be used; what was read of it before stays", error=str(error))
            return
        self._metrics.refreshes.labels("feed", "asked").inc()
        if self._board.feed_problems:
            log.warning("price feed has figures of no use", problems=self._board.feed_problems)

    async def _read_commitments(self, paid: Paid) -> None:
        try:
            commitments, usage = await paid.commitments(), await paid.usage()
        except (CloudError, CommitmentsError) as error:
            self._metrics.refreshes.labels("commitments", type(error).__name__).inc()
            self._board.commitments_problem = str(error)
            log.warning("commitments can't be followed; what was known of them stays", error=str(error))
            return
        self._metrics.refreshes.labels("commitments", "asked").inc()
        await self._board.learn_commitments(commitments, usage, self._clock.now())

    async def _read_shifts(self, shifts: Shifts) -> None:
        try:
            zones = await shifts.shifted_zones()
        except CloudError as error:
            self._metrics.refreshes.labels("zonal-shift", type(error).__name__).inc()
            log.warning("zonal shifts can't be followed; what was last said holds", error=str(error))
            return
        self._metrics.refreshes.labels("zonal-shift", "asked").inc()
        if zones != self._board.shifted:
            log.info("traffic is shifted away from zones", zones=sorted(zones))
        await self._board.learn_shifted(zones, self._clock.now())

    async def _adopt(self, part: Part, shelf: Shelf | None = None) -> None:
        """Takes the shelf's part (the shared memory's) over if it is newer. Raises StoreUnavailableError."""
        shelf = shelf or self._memory
        known = self._board.asked_at(part) or 0.0
        now = self._clock.now()
        if part == "types":
            found = await shelf.types()
            if found is not None and found[1] > known:
                await self._board.learn_types(*found, now)
            return
        if part == "reservations":
            counted = await shelf.reservations()
            if counted is not None and counted.asked_at > known:
                await self._board.learn_reservations(counted, now)
            return
        sheet = await shelf.sheet(part)
        if sheet is not None and sheet.asked_at > known:
            await self._board.learn_prices(part, sheet, now)

    # -- shared memory

    async def _claimed(self, part: Part) -> bool | None:
        """Whether the claim is ours; None when there is no memory to hold it. Takes over what is newer first."""
        try:
            lasts_s = min(_CLAIM_MOST_S, max(_CLAIM_LEAST_S, self._intervals[part]))
            claimed = await self._memory.claim(part, self._replica, lasts_s)
            await self._adopt(part)
        except StoreUnavailableError:
            return None
        return claimed

    async def _release(self, part: Part, claimed: bool | None) -> None:
        if claimed:
            try:
                await self._memory.release(part, self._replica)
            except StoreUnavailableError:
                log.debug("claim is left to end by itself", part=part)

    async def _save(self, part: Part, learned: Learned) -> None:
        for shelf in filter(None, (self._memory, self._disk)):
            try:
                if isinstance(learned, TypeTable):
                    await shelf.save_types(learned, self._board.types_asked_at)
                elif isinstance(learned, ReservationSheet):
                    await shelf.save_reservations(learned)
                else:
                    await shelf.save_sheet(part, learned)
            except StoreUnavailableError as error:
                log.warning("catalogue is not saved; a restart may ask AWS", part=part, error=str(error))

    async def _share(self) -> None:
        """Takes over what is newer in the shared memory and gives it what it has lost."""
        for part in PARTS:
            await self._adopt(part)
            learned = self._known(part)
            if learned is not None and await self._kept(part) is None:
                await self._save(part, learned)

    def _known(self, part: Part) -> Learned | None:
        if part == "types":
            return self._board.table
        return self._board.reserved if part == "reservations" else self._board.sheets.get(part)

    async def _kept(self, part: Part) -> object:
        if part == "types":
            return await self._memory.types()
        return await (self._memory.reservations() if part == "reservations" else self._memory.sheet(part))

    async def _recall(self) -> None:
        now = self._clock.now()
        if self._board.scarcity.merge(await self._memory.refusals(now)):
            await self._board.publish(now)
            self._swept.set()

    async def _relearn(self) -> None:
        now = self._clock.now()
        await self._board.learn_capacity(await self._memory.learned(now), now)

    async def _tell(self) -> None:
        """Writes down what Redis does not know yet; what can't be written now is kept for later."""
        now = self._clock.now()
        told = dict(self._untold)
        try:
            await self._memory.remember(told.values(), now)
        except StoreUnavailableError:
            return
        for key, standing in told.items():
            if self._untold.get(key) is standing:
                del self._untold[key]

    def _jitter(self) -> float:
        return 0.9 + 0.2 * self._chance()


def _shown(refusals: list[Refusal]) -> str:
    return "/".join(filter(None, refusals[0].key)) if refusals else ""

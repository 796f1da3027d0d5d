"""A cloud and a shared memory for pricing, honest and with dials."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

import msgspec

from nodeyard.cloudprovider.commitments import Commitments
from nodeyard.cloudprovider.errors import CloudError, Unreachable
from nodeyard.cloudprovider.feed import Feed
from nodeyard.cloudprovider.learned import KEPT_S, Learned, LearnedMemory, merged
from nodeyard.cloudprovider.market import FEED, PriceSheet, TypeTable
from nodeyard.cloudprovider.reservations import CapacityReservation, ReservationSheet
from nodeyard.cloudprovider.scarcity import Standing
from nodeyard.runtime.clock import Clock
from nodeyard.runtime.leadership import StoreUnavailableError
from services.pricing.ports import News, Part
from tests.support.catalogue import on_demand_sheet, spot_sheet, table_of


class FakeCloud:
    """Answers at once. `down`: parts that can't be asked. `asked` counts the calls."""

    def __init__(self) -> None:
        self.table = table_of()
        self.spot_usd: float | None = None
        self.down: set[Part] = set()
        self.reserved: tuple[CapacityReservation, ...] = ()
        self.asked: dict[Part, int] = {"types": 0, "on-demand": 0, "spot": 0, "reservations": 0}

    def _asked(self, part: Part) -> None:
        self.asked[part] += 1
        if part in self.down:
            raise _unreachable(part)

    async def types(self) -> TypeTable:
        self._asked("types")
        return self.table

    async def on_demand(self, now: float) -> PriceSheet:
        self._asked("on-demand")
        return on_demand_sheet(self.table, now)

    async def spot(self, now: float) -> PriceSheet:
        self._asked("spot")
        return spot_sheet(self.table, now, self.spot_usd)

    async def reservations(self, now: float) -> ReservationSheet:
        self._asked("reservations")
        return ReservationSheet(now, self.reserved)


class FakeFeed:
    """A feed of one price for everything on demand. `broken` is raised instead, where set."""

    def __init__(self, on_demand_usd: float = 0.123) -> None:
        self.on_demand_usd = on_demand_usd
        self.broken: Exception | None = None

    async def read(self, now: float) -> Feed:
        if self.broken is not None:
            raise self.broken
        usd = dict.fromkeys(("m5.large", "c7g.xlarge"), self.on_demand_usd)
        return Feed(PriceSheet(FEED, now - 1000.0, usd), PriceSheet(FEED, now - 1000.0, {}))


class FakeAccount:
    """Commitments and what uses them up."""

    def __init__(self, commitments: Commitments) -> None:
        self.paid = commitments
        self.running: dict[tuple[str, str], float] = {}
        self.broken: Exception | None = None

    async def commitments(self) -> Commitments:
        if self.broken is not None:
            raise self.broken
        return self.paid

    async def usage(self) -> dict[tuple[str, str], float]:
        return dict(self.running)


class FakeShifts:
    """Zones that traffic is shifted away from. `broken` is raised instead, where set."""

    def __init__(self, *zones: str) -> None:
        self.zones = frozenset(zones)
        self.broken: Exception | None = None

    async def shifted_zones(self) -> frozenset[str]:
        if self.broken is not None:
            raise self.broken
        return self.zones


class FakeMemory:
    """What Redis would keep, and its channel. `away` makes everything fail."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.away = False
        self.kept_types: tuple[TypeTable, float] | None = None
        self.sheets: dict[Part, PriceSheet] = {}
        self.counted: ReservationSheet | None = None
        self.claims: dict[Part, tuple[str, float]] = {}
        self.kept: dict[tuple[str, ...], Standing] = {}
        self.known: dict[tuple[str, ...], LearnedMemory] = {}
        self._listeners: list[asyncio.Queue[News | None]] = []

    async def types(self) -> tuple[TypeTable, float] | None:
        self._reach()
        return self.kept_types

    async def sheet(self, part: Part) -> PriceSheet | None:
        self._reach()
        return self.sheets.get(part)

    async def reservations(self) -> ReservationSheet | None:
        self._reach()
        return self.counted

    async def save_reservations(self, sheet: ReservationSheet) -> None:
        self._reach()
        self.counted = sheet
        self._tell("reservations")

    async def save_types(self, table: TypeTable, asked_at: float) -> None:
        self._reach()
        self.kept_types = (table, asked_at)
        self._tell("types")

    async def save_sheet(self, part: Part, sheet: PriceSheet) -> None:
        self._reach()
        self.sheets[part] = sheet
        self._tell(part)

    async def claim(self, part: Part, holder: str, ttl_s: float) -> bool:
        self._reach()
        if part in self.claims and self.claims[part][1] > self._clock.now():
            return False
        self.claims[part] = (holder, self._clock.now() + ttl_s)
        return True

    async def release(self, part: Part, holder: str) -> None:
        self._reach()
        if self.claims.get(part, ("", 0.0))[0] == holder:
            del self.claims[part]

    async def remember(self, standings: Iterable[Standing], now: float) -> None:
        self._reach()
        told = list(standings)
        for standing in told:
            known = self.kept.get(standing.refusal.key, standing)
            if standing.at >= known.at:
                until = max(standing.until, known.until)
                self.kept[standing.refusal.key] = msgspec.structs.replace(standing, until=until)
        if told:
            self._tell("refusals")

    async def refusals(self, now: float) -> list[Standing]:
        self._reach()
        return [standing for standing in self.kept.values() if standing.forgotten_at > now]

    async def learn(self, seen: Iterable[LearnedMemory], now: float) -> None:
        self._reach()
        told = Learned(self.known.values())
        after = merged(told, seen, now)
        self.known = {entry.key: entry for entry in after.entries}
        if after.digest != told.digest:
            self._tell("learned")

    async def learned(self, now: float) -> list[LearnedMemory]:
        self._reach()
        return [entry for entry in self.known.values() if now - entry.at <= KEPT_S]

    async def news(self) -> AsyncIterator[News | None]:
        self._reach()
        queue: asyncio.Queue[News | None] = asyncio.Queue()
        self._listeners.append(queue)
        try:
            yield None
            while True:
                heard = await queue.get()
                self._reach()
                yield heard
        finally:
            self._listeners.remove(queue)

    def go_away(self) -> None:
        """From now on nothing works, and who listens notices."""
        self.away = True
        for queue in self._listeners:
            queue.put_nowait(None)

    def _tell(self, news: News) -> None:
        for queue in self._listeners:
            queue.put_nowait(news)

    def _reach(self) -> None:
        if self.away:
            raise StoreUnavailableError("the memory is away")


def _unreachable(part: Part) -> CloudError:
    return Unreachable("no answer", operation=part)

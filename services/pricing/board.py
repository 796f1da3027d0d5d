"""What is known now, joined into the market that subscribers see.

Holds the latest of each part and the refusals in force, makes a new market whenever one of them changes, and wakes
those who wait for it. Nothing is published before types are known and both price sources have either answered or
failed once, so that nobody plans with estimates only because the process is a second old.
"""

import asyncio

from nodeyard.cloudprovider.market import Market, PriceSheet, TypeTable, market_of
from nodeyard.cloudprovider.scarcity import Key, Pool, ScarcityMemory
from services.pricing.metrics import PricingMetrics
from services.pricing.ports import Part

PARTS: tuple[Part, ...] = ("types", "on-demand", "spot")


class PriceBoard:
    """One process's knowledge. Not for several threads."""

    def __init__(self, metrics: PricingMetrics, scarcity: ScarcityMemory | None = None) -> None:
        self._metrics = metrics
        self._changed = asyncio.Condition()
        self.table: TypeTable | None = None
        self.types_asked_at = 0.0
        self.sheets: dict[Part, PriceSheet] = {}
        self.scarcity = scarcity or ScarcityMemory()
        self._said: tuple[frozenset[Key], dict[Pool, float]] = (frozenset(), {})
        """What the market was last made with."""
        self.market: Market | None = None
        self.problems: dict[Part, str] = {}
        """Part -> why the last attempt to ask for it failed; absent when it did not."""

    def asked_at(self, part: Part) -> float | None:
        """When the part was last learned (Unix seconds); None: never."""
        if part == "types":
            return self.types_asked_at if self.table is not None else None
        sheet = self.sheets.get(part)
        return sheet.asked_at if sheet is not None else None

    def unready(self) -> str | None:
        """Why there is nothing to serve; None when there is."""
        if self.market is not None:
            return None
        for part in PARTS:
            if self.asked_at(part) is None:
                what = "instance types" if part == "types" else f"{part} prices"
                reason = f": {self.problems[part]}" if part in self.problems else ""
                return f"no {what} known yet{reason}"
        return "the first market is being made"

    async def learn_types(self, table: TypeTable, asked_at: float, now: float) -> None:
        """Takes a newer table over; one of the same content only renews its time."""
        if self.table is None or self.table.digest != table.digest:
            self.table = table
        self.types_asked_at = asked_at
        self.problems.pop("types", None)
        await self.publish(now)

    async def learn_prices(self, part: Part, sheet: PriceSheet, now: float) -> None:
        """Takes newer prices over."""
        self.sheets[part] = sheet
        self.problems.pop(part, None)
        await self.publish(now)

    async def failed(self, part: Part, problem: str, now: float) -> None:
        """Notes that a source could not be asked: what is known of it is marked as the last known."""
        self.problems[part] = problem
        sheet = self.sheets.get(part)
        if sheet is not None and not sheet.stale:
            self.sheets[part] = PriceSheet(sheet.source, sheet.asked_at, sheet.usd, stale=True)
        await self.publish(now)

    async def publish(self, now: float) -> None:
        """Makes the market anew and wakes the subscribers, if anything in it is new."""
        shut, odds = self.scarcity.shut(now), self.scarcity.odds(now)
        self._said = (shut.keys, odds)
        self._metrics.refusals.set(len(shut.keys))
        if self.table is None or not all(part in self.sheets or part in self.problems for part in PARTS[1:]):
            return
        market = market_of(
            self.table,
            self.sheets.get("on-demand"),
            self.sheets.get("spot"),
            shut,
            now=now,
            odds=odds,
        )
        known = self.market
        if known is not None and known.revision == market.revision and known.asked_at == market.asked_at:
            return
        async with self._changed:
            self.market = market
            self._changed.notify_all()
        self._measure(market)

    async def let_back(self, now: float) -> None:
        """Publishes if a refusal has ended, or the odds of another have faded, since the last time."""
        said = (self.scarcity.shut(now).keys, self.scarcity.odds(now))
        if said != self._said:
            await self.publish(now)

    async def next(self, older: Market | None) -> Market:
        """The market, as soon as it is another than `older`."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.market is not None and self.market is not older)
        assert self.market is not None
        return self.market

    def _measure(self, market: Market) -> None:
        counts = market.counts()
        for source in ("pricing-api", "spot-history", "file", "last-known", "estimate", ""):
            self._metrics.offerings.labels(source or "none").set(counts.get(source, 0))
        self._metrics.unavailable.set(sum(1 for row in market.rows if row.price > 0 and not row.available))
        for part in PARTS:
            self._metrics.asked_at.labels(part).set(self.asked_at(part) or 0)

"""What is known now, joined into the market that subscribers see.

Holds the latest of each part and the refusals in force, makes a new market whenever one of them changes, and wakes
those who wait for it. Nothing is published before types are known and whoever is asked for prices and reservations has
either answered or failed once, so that nobody plans with estimates, or buys beside what is reserved, only because the
process is a second old.
"""

import asyncio
from collections.abc import Iterable, Mapping, Set

from nodeyard.cloudprovider.commitments import Billing, Commitments, Usage
from nodeyard.cloudprovider.feed import Feed, screened
from nodeyard.cloudprovider.learned import NOTHING, LearnedMemory, merged
from nodeyard.cloudprovider.market import (
    RESERVATIONS,
    Margins,
    Market,
    PriceSheet,
    TypeTable,
    listed_prices,
    market_of,
    reoffered,
)
from nodeyard.cloudprovider.refusals import ZONAL_SHIFT, Refusal, Shut
from nodeyard.cloudprovider.reservations import ReservationSheet, standing
from nodeyard.cloudprovider.scarcity import Pool, ScarcityMemory
from services.pricing.metrics import PricingMetrics
from services.pricing.ports import Part

PARTS: tuple[Part, ...] = ("types", "on-demand", "spot", "reservations")
NEEDED = PARTS[:3]
"""Parts that must be known before anything is served; a permission that lacks for the rest stops nobody."""
ASKED_FIRST = PARTS[1:]
"""Parts that must have been asked for, with or without success, before anything is served."""


Refused = tuple[Shut, dict[Pool, float]]
"""What is out, and the odds of another refusal for what is not."""


class PriceBoard:
    """One process's knowledge. Not for several threads.

    `trusted_s`: part -> how old AWS's last answer may be before the feed goes before it, while AWS can't be asked.
    `reserved_interfaces`: how many network interfaces of each instance are kept from pods.
    """

    def __init__(
        self,
        metrics: PricingMetrics,
        scarcity: ScarcityMemory | None = None,
        trusted_s: Mapping[Part, float] | None = None,
        reserved_interfaces: int = 0,
    ) -> None:
        self._reserved_interfaces = reserved_interfaces
        self._metrics = metrics
        self._trusted_s = dict(trusted_s or {})
        self._changed = asyncio.Condition()
        self.table: TypeTable | None = None
        self.types_asked_at = 0.0
        self.sheets: dict[Part, PriceSheet] = {}
        self.reserved: ReservationSheet | None = None
        self.scarcity = scarcity or ScarcityMemory()
        self._made: tuple[object, Refused, Market] | None = None
        """The last market with what it was made of and the refusals it was made under."""
        self.market: Market | None = None
        self.feed: Feed | None = None
        """The price feed as last read, before it is held against the types."""
        self.commitments: Commitments | None = None
        self.usage: Usage = {}
        self.commitments_problem = ""
        """Why commitments or what uses them up could not be read the last time; empty when they could."""
        self.learned = NOTHING
        self._worked_out: tuple[object, Margins] | None = None
        self._screened: tuple[Feed, TypeTable, Feed] | None = None
        self._feed_failure = ""
        self.shifted: frozenset[str] = frozenset()
        """Names or ids of the zones that traffic is shifted away from."""
        self.problems: dict[Part, str] = {}
        """Part -> why the last attempt to ask for it failed; absent when it did not."""

    def asked_at(self, part: Part) -> float | None:
        """When the part was last learned (Unix seconds); None: never."""
        if part == "types":
            return self.types_asked_at if self.table is not None else None
        if part == "reservations":
            return self.reserved.asked_at if self.reserved is not None else None
        sheet = self.sheets.get(part)
        return sheet.asked_at if sheet is not None else None

    def unready(self) -> str | None:
        """Why there is nothing to serve; None when there is."""
        if self.market is not None:
            return None
        for part in NEEDED:
            if self.asked_at(part) is None:
                what = "instance types" if part == "types" else f"{part} prices"
                reason = f": {self.problems[part]}" if part in self.problems else ""
                return f"no {what} known yet{reason}"
        if self.asked_at("reservations") is None:
            return "capacity reservations are being counted"
        return "the first market is being made"

    async def learn_types(self, table: TypeTable, asked_at: float, now: float) -> None:
        """Takes a newer table over; one of the same content only renews its time."""
        table = TypeTable(table.region, table.zones, table.types, self._reserved_interfaces)
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

    async def learn_reservations(self, sheet: ReservationSheet, now: float) -> None:
        """Takes a newer count of the reservations over."""
        self.reserved = sheet
        self.problems.pop("reservations", None)
        await self.publish(now)

    async def failed(self, part: Part, problem: str, now: float) -> None:
        """Notes that a source could not be asked: what is known of it is marked as the last known."""
        self.problems[part] = problem
        sheet = self.sheets.get(part)
        if sheet is not None and not sheet.stale:
            self.sheets[part] = PriceSheet(sheet.source, sheet.asked_at, sheet.usd, stale=True)
        await self.publish(now)

    async def learn_feed(self, feed: Feed, now: float) -> None:
        """Takes a newer feed over."""
        self.feed, self._feed_failure = feed, ""
        await self.publish(now)

    async def learn_commitments(self, commitments: Commitments, usage: Usage, now: float) -> None:
        """Takes over what is paid for already and what uses it up at this moment."""
        self.commitments, self.usage, self.commitments_problem = commitments, usage, ""
        await self.publish(now)

    async def learn_capacity(self, seen: Iterable[LearnedMemory], now: float) -> None:
        """Takes over what real nodes turned out to have."""
        before = self.learned
        self.learned = merged(before, seen, now)
        if self.learned.digest != before.digest:
            await self.publish(now)

    async def learn_shifted(self, zones: Set[str], now: float) -> None:
        """Takes over which zones (by name or id) traffic is shifted away from."""
        if zones != self.shifted:
            self.shifted = frozenset(zones)
            await self.publish(now)

    @property
    def zones_out(self) -> list[str]:
        """Names of the zones that traffic is shifted away from."""
        zones = self.table.zones if self.table is not None else ()
        return [zone.name for zone in zones if self.shifted & {zone.name, zone.id}]

    def _shut(self, now: float) -> Shut:
        """What the cloud refuses, and the zones that are out as a whole."""
        return self.scarcity.shut(now, (Refusal(zone=zone, code=ZONAL_SHIFT) for zone in self.zones_out))

    def _margins(self, on_demand: tuple[PriceSheet, ...], now: float) -> Margins | None:
        committed = self.commitments.at(now) if self.commitments is not None else Commitments()
        if committed == Commitments() or self.table is None:
            return None
        depends = (committed, self.usage, on_demand, self.table)
        if self._worked_out is None or self._worked_out[0] != depends:
            offerings = [(t.name, zone) for t in self.table.types for zone in t.zones]
            billing = Billing(committed, listed_prices(self.table, on_demand))
            self._worked_out = (depends, billing.marginal(self.usage, offerings))
        return self._worked_out[1]

    @property
    def feed_problems(self) -> tuple[str, ...]:
        """Why the feed can't be had, and what in it is of no use."""
        read = self._screened[2] if self._screened else self.feed
        failed = (self._feed_failure,) if self._feed_failure else ()
        return (*failed, *(read.problems if read else ()))

    def feed_failed(self, problem: str) -> None:
        """Notes that the feed can't be used; what was read before stays."""
        self._feed_failure = problem
        self._metrics.feed_problems.set(len(self.feed_problems))

    def _sheets(self, part: Part, feed: PriceSheet | None, now: float) -> tuple[PriceSheet, ...]:
        """Where a part's prices are looked for, in order."""
        sheet = self.sheets.get(part)
        if sheet is None or feed is None or not feed.usd:
            return tuple(s for s in (sheet, feed) if s is not None and (s is sheet or s.usd))
        if not sheet.stale:
            return (sheet,)
        recent = now - sheet.asked_at <= self._trusted_s.get(part, 0.0)
        return (sheet, feed) if recent else (feed, sheet)

    def _screened_feed(self) -> Feed | None:
        if self.feed is None or self.table is None:
            return None
        if (
            self._screened is None
            or self._screened[0] is not self.feed
            or self._screened[1] is not self.table
        ):
            self._screened = (self.feed, self.table, screened(self.feed, self.table))
        return self._screened[2]

    async def publish(self, now: float) -> None:
        """Makes the market anew and wakes the subscribers, if anything in it is new."""
        refused = (self._shut(now), self.scarcity.odds(now))
        self._metrics.refusals.set(len(refused[0].keys))
        if self.table is None or any(
            self.asked_at(part) is None and part not in self.problems for part in ASKED_FIRST
        ):
            return
        market = self._market_under(refused, now)
        known, self.market = self.market, market
        if known is not None and known.revision == market.revision and known.asked_at == market.asked_at:
            self.market = known
            return
        async with self._changed:
            self._changed.notify_all()
        asyncio.get_running_loop().call_soon(self._measure, market)  # once the subscribers have it

    def _market_under(self, refused: Refused, now: float) -> Market:
        """The market under these refusals; where nothing else is new, only the rows they touch are made anew."""
        assert self.table is not None
        feed = self._screened_feed()
        on_demand = self._sheets("on-demand", feed.on_demand if feed else None, now)
        spot = self._sheets("spot", feed.spot if feed else None, now)
        margins = self._margins(on_demand, now)
        reserved = standing(self.reserved, now, refused[0].reservations, refused[0].zones_out)
        made_of = (self.table, on_demand, spot, margins, self.learned, reserved)
        if self._made is not None and self._made[0] == made_of:
            market = reoffered(self._made[2], self._made[1], refused)
        else:
            shut, odds = refused
            market = market_of(
                self.table, on_demand, spot, shut, now=now, odds=odds, margins=margins, learned=self.learned,
                reservations=reserved,
            )  # fmt: skip
        self._made = (made_of, refused, market)
        if self.reserved is None:
            return market
        asked_at = {**market.asked_at, RESERVATIONS: self.reserved.asked_at}
        return market.with_rows(
            {}, market.exhausted_subnets, asked_at, refused_in_groups=market.refused_in_groups,
            zones_out=market.zones_out,
        )  # fmt: skip

    async def let_back(self, now: float) -> None:
        """Publishes if a refusal has ended, or the odds of another have faded, since the last time."""
        said = (self._shut(now).keys, self.scarcity.odds(now))
        if self._made is None or said != (self._made[1][0].keys, self._made[1][1]):
            await self.publish(now)

    async def next(self, older: Market | None) -> Market:
        """The market, as soon as it is another than `older`."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.market is not None and self.market is not older)
        assert self.market is not None
        return self.market

    def _measure(self, market: Market) -> None:
        self._metrics.feed_asked_at.set(self.feed.on_demand.asked_at if self.feed else 0)
        self._metrics.feed_problems.set(len(self.feed_problems))
        counts = market.counts()
        for source in ("pricing-api", "spot-history", "feed", "last-known", "estimate", ""):
            self._metrics.offerings.labels(source or "none").set(counts.get(source, 0))
        self._metrics.unavailable.set(sum(1 for row in market.rows if row.price > 0 and not row.available))
        for part in PARTS:
            self._metrics.asked_at.labels(part).set(self.asked_at(part) or 0)

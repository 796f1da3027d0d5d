"""What is for sale: types, zones and one price per offering, as columns, with the refusals in force applied.

A `TypeTable` holds what changes once in hours, a `PriceSheet` one answer of a price source; `market_of` joins them
into a `Market`, which the pricing service publishes and its subscribers rebuild. The rows of two markets with the
same table stand for the same offerings in the same order, so that a change travels as a few rows. A price that no
source has is 0 and its offering unavailable; where a source could not be asked at all, an estimate stands in and is
marked. Neighbours: `resolve` (a market seen by one node class), `estimates`, `refusals`.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from hashlib import blake2b
from typing import Final

import msgspec

from nodeyard.api.labels import ON_DEMAND, SPOT
from nodeyard.api.selectors import Value
from nodeyard.cloudprovider.commitments import Marginal
from nodeyard.cloudprovider.description import TypeDescription
from nodeyard.cloudprovider.estimates import SPOT_SHARE, estimate_scale, on_demand_estimate
from nodeyard.cloudprovider.learned import NOTHING, Learned
from nodeyard.cloudprovider.refusals import InGroup, Shut
from nodeyard.cloudprovider.reservations import CapacityReservation
from nodeyard.cloudprovider.rows import Row, Rows
from nodeyard.cloudprovider.scarcity import Pool, risk_of

PRICING_API: Final = "pricing-api"
SPOT_HISTORY: Final = "spot-history"
FEED: Final = "feed"
LAST_KNOWN: Final = "last-known"
ESTIMATE: Final = "estimate"
RESERVATIONS: Final = "capacity-reservations"
"""No price's source: under this name stands when reservations were last counted."""
UNPRICED: Final = ""

CAPACITY_TYPES: Final = (ON_DEMAND, SPOT)


class Zone(Value, frozen=True):
    """An availability zone: `eu-west-1a` in this account, `euw1-az1` in all."""

    name: str
    id: str = ""


class PriceSheet(Value, frozen=True):
    """One source's prices, USD per hour, by type (on demand) or `<type>/<zone>` (spot)."""

    source: str
    asked_at: float
    """Unix seconds of the answer."""
    usd: dict[str, float] = {}
    stale: bool = False
    """A later attempt to ask failed, so these are the last known."""


Margins = Mapping[tuple[str, str], Marginal]
"""By (instance type, zone)."""
Sheets = PriceSheet | Sequence[PriceSheet] | None
"""Where a price is looked for, in order; nothing: nobody ever answered."""


class TypeTable:
    """Types and zones of one region, in fixed order, and which offerings there are. Immutable.

    `reserved_interfaces`: how many network interfaces of each instance are kept from pods (custom networking).
    """

    def __init__(
        self,
        region: str,
        zones: Sequence[Zone],
        types: Iterable[TypeDescription],
        reserved_interfaces: int = 0,
    ) -> None:
        self.reserved_interfaces = reserved_interfaces
        self.region = region
        self.zones = tuple(zones)
        self.types = tuple(sorted(types, key=lambda described: described.name))

    @cached_property
    def json(self) -> bytes:
        """The types, encoded."""
        return msgspec.json.encode(self.types)

    @cached_property
    def digest(self) -> str:
        zones = msgspec.json.encode((self.region, self.zones, self.reserved_interfaces))
        return blake2b(self.json + zones, digest_size=8).hexdigest()

    @cached_property
    def rows(self) -> tuple[tuple[int, int, str], ...]:
        """(type index, zone index, capacity type) of every offering."""
        zone_index = {zone.name: index for index, zone in enumerate(self.zones)}
        return tuple(
            (index, zone_index[zone], capacity_type)
            for index, described in enumerate(self.types)
            if described.launchable()
            for zone in described.zones
            if zone in zone_index
            for capacity_type in CAPACITY_TYPES
            if capacity_type in described.usage_classes
        )

    @cached_property
    def type_index(self) -> dict[str, int]:
        """Instance type -> its place in `types`."""
        return {described.name: index for index, described in enumerate(self.types)}

    def row_of(self, pool: Pool) -> int | None:
        """The row of (capacity type, instance type, zone)."""
        capacity_type, name, zone = pool
        zone_index = next((index for index, known in enumerate(self.zones) if known.name == zone), -1)
        return self.index.get((self.type_index.get(name, -1), zone_index, capacity_type))

    @cached_property
    def index(self) -> dict[tuple[int, int, str], int]:
        """Offering -> its row."""
        return {key: index for index, key in enumerate(self.rows)}


class Market:
    """A table and a row for each of its offerings. Immutable; equal content has equal `revision`."""

    def __init__(
        self,
        table: TypeTable,
        rows: Sequence[Row],
        exhausted_subnets: Iterable[str] = (),
        asked_at: Mapping[str, float] | None = None,
        learned: Learned = NOTHING,
        reservations: Sequence[CapacityReservation] = (),
        refused_in_groups: Iterable[InGroup] = (),
        zones_out: Iterable[str] = (),
    ) -> None:
        if len(rows) != len(table.rows):
            raise ValueError(f"{len(rows)} rows for a table of {len(table.rows)} offerings")
        self.table = table
        self.rows = rows if isinstance(rows, Rows) else Rows(rows)
        self.exhausted_subnets = frozenset(exhausted_subnets)
        self.asked_at = dict(asked_at or {})
        """Source -> Unix seconds at which all its prices were last confirmed."""
        self.learned = learned
        """What real nodes turned out to have."""
        self.reservations = tuple(reservations)
        """The capacity reservations of the account, whichever class may use them."""
        self.refused_in_groups = frozenset(refused_in_groups)
        self.zones_out = frozenset(zones_out)
        """Zones that nothing is bought in or asked of."""

    @cached_property
    def revision(self) -> str:
        """Digest of everything but the times."""
        digest = blake2b(self.table.digest.encode(), digest_size=8)
        digest.update(b"".join(self.rows.digests))
        digest.update("\0".join((*sorted(self.exhausted_subnets), self.learned.digest)).encode())
        if self.reservations:
            digest.update(msgspec.json.encode(self.reservations, order="deterministic"))
        if self.refused_in_groups:
            digest.update(msgspec.json.encode(sorted(self.refused_in_groups)))
        if self.zones_out:
            digest.update(msgspec.json.encode(["zones out", *sorted(self.zones_out)]))
        return digest.hexdigest()

    def changed_since(self, older: "Market") -> list[int] | None:
        """Indices of rows that say something else; None when the tables differ, so that everything does."""
        if older.table is not self.table and older.table.digest != self.table.digest:
            return None
        return self.rows.changed_since(older.rows)

    def with_rows(
        self,
        changes: Mapping[int, Row],
        exhausted_subnets: Iterable[str],
        asked_at: Mapping[str, float],
        learned: Learned | None = None,
        reservations: Sequence[CapacityReservation] | None = None,
        refused_in_groups: Iterable[InGroup] = (),
        zones_out: Iterable[str] = (),
    ) -> "Market":
        """The market after some of its rows changed, with what was learned and reserved where that is given."""
        reserved = self.reservations if reservations is None else reservations
        return Market(
            self.table,
            self.rows.replaced(changes),
            exhausted_subnets,
            asked_at,
            learned or self.learned,
            reserved,
            refused_in_groups,
            zones_out,
        )

    def listed(self, type_index: int, zone_index: int) -> float:
        """The on-demand price without commitments and discounts, USD per hour; 0 where nobody knows it."""
        row = self.table.index.get((type_index, zone_index, ON_DEMAND))
        return 0.0 if row is None else self.rows[row].list_price or self.rows[row].price

    def counts(self) -> dict[str, int]:
        """Offerings by price source; "" counts those without a price."""
        out: dict[str, int] = {}
        for row in self.rows:
            out[row.source] = out.get(row.source, 0) + 1
        return out


def market_of(
    table: TypeTable,
    on_demand: Sheets,
    spot: Sheets,
    shut: Shut,
    *,
    now: float,
    odds: Mapping[Pool, float] | None = None,
    margins: Margins | None = None,
    learned: Learned = NOTHING,
    reservations: Sequence[CapacityReservation] = (),
) -> Market:
    """Joins types, prices and refusals, and what is reserved.

    The first sheet that has a price counts. Where none has, the offering is unpriced if the cloud itself has ever
    answered, else an estimate stands in. `odds`: the probability that a pool which is let back is refused again.
    `margins`: what one more on-demand instance costs, where that is not its list price.
    """
    layers = (_layers(on_demand), _layers(spot))
    estimates = _estimates(table, *layers)
    rows: list[Row] = []
    for type_index, zone_index, capacity_type in table.rows:
        name, zone = table.types[type_index].name, table.zones[zone_index].name
        is_spot = capacity_type == SPOT
        found = _figure(layers[is_spot], f"{name}/{zone}" if is_spot else name)
        price, source, priced_at = found or (estimates[type_index][is_spot], ESTIMATE, now)
        available = price > 0 and not (shut and shut.offering(capacity_type, name, zone))
        risk = 0.0
        if odds and available and (chance := odds.get((capacity_type, name, zone))):
            listed = _figure(layers[0], name)
            risk = risk_of(chance, price, listed[0] if listed else estimates[type_index][0])
        margin = None if is_spot or not margins or price <= 0 else margins.get((name, zone))
        if margin is not None:
            rows.append(Row(margin.price, available, source, priced_at, risk, price, margin.release))
        else:
            rows.append(Row(price, available, source, priced_at, risk))
    asked_at = {sheet.source: sheet.asked_at for of in layers for sheet in of if not sheet.stale}
    return Market(
        table, rows, shut.exhausted_subnets, asked_at, learned, reservations, shut.in_groups, shut.zones_out
    )


def reoffered(
    market: Market,
    before: tuple[Shut, Mapping[Pool, float]],
    after: tuple[Shut, Mapping[Pool, float]],
) -> Market:
    """The market under other refusals and odds, all else the same: only the rows that they touch are made anew."""
    (shut_before, odds_before), (shut, odds) = before, after
    table = market.table
    rows, changes = market.rows, dict[int, Row]()
    touched: Iterable[int] = range(len(rows))
    if shut_before.wide == shut.wide:
        doubted = {p for p in (*odds_before, *odds) if odds_before.get(p) != odds.get(p)}
        pools = (shut_before.exact ^ shut.exact) | doubted
        touched = [place for pool in pools if (place := table.row_of(pool)) is not None]
    for index in touched:
        type_index, zone_index, capacity_type = table.rows[index]
        name, zone = table.types[type_index].name, table.zones[zone_index].name
        row = rows[index]
        available = row.price > 0 and not shut.offering(capacity_type, name, zone)
        chance = odds.get((capacity_type, name, zone), 0.0) if available else 0.0
        on_demand = table.index.get((type_index, zone_index, ON_DEMAND))
        listed = 0.0 if on_demand is None else rows[on_demand].list_price or rows[on_demand].price
        risk = risk_of(chance, row.list_price or row.price, listed) if chance else 0.0
        changes[index] = msgspec.structs.replace(row, available=available, risk=risk)
    return market.with_rows(
        changes,
        shut.exhausted_subnets,
        market.asked_at,
        refused_in_groups=shut.in_groups,
        zones_out=shut.zones_out,
    )


def listed_prices(table: TypeTable, on_demand: Sheets) -> dict[str, float]:
    """The on-demand price of each type that somebody has one for, USD per hour."""
    layers = _layers(on_demand)
    figures = ((described.name, _figure(layers, described.name)) for described in table.types)
    return {name: figure[0] for name, figure in figures if figure is not None and figure[0] > 0}


def _layers(sheets: Sheets) -> tuple[PriceSheet, ...]:
    if sheets is None:
        return ()
    return (sheets,) if isinstance(sheets, PriceSheet) else tuple(sheets)


def _figure(layers: Sequence[PriceSheet], key: str) -> tuple[float, str, float] | None:
    """(price, source, Unix seconds); a price of 0 where the cloud answered without one; None: nobody knows."""
    unpriced = None
    for sheet in layers:
        price = sheet.usd.get(key, 0.0)
        if price > 0:
            return price, LAST_KNOWN if sheet.stale else sheet.source, sheet.asked_at
        if sheet.source != FEED:
            unpriced = (0.0, UNPRICED, sheet.asked_at)
    return unpriced


def _estimates(
    table: TypeTable, on_demand: Sequence[PriceSheet], spot: Sequence[PriceSheet]
) -> dict[int, tuple[float, float]]:
    if all(any(sheet.source != FEED for sheet in layers) for layers in (on_demand, spot)):
        return {}
    scale = estimate_scale(table.region)
    out: dict[int, tuple[float, float]] = {}
    for index, described in enumerate(table.types):
        known = _figure(on_demand, described.name)
        price = (known[0] if known else 0.0) or round(on_demand_estimate(described) * scale, 6)
        out[index] = (price, round(price * SPOT_SHARE, 6))
    return out

"""A price feed: somebody's file of prices, read with suspicion.

Two shapes are understood: `{"currency", "region", "asOf", "onDemand": {type: price}, "spot": {"type/zone": price}}`
(all but the prices may be left out), and the catalogue's JSON Lines as `nodeyard catalog export` writes them. A feed
in another currency or of another region is refused whole; a figure that is no price, or far from anything the type
could cost, is dropped with its reason, and its offering falls back to the next source. Fetching is the adapters'
business. Neighbours: `market` (where the sheets go), `estimates` (what "far" is measured by).
"""

import math
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final

import msgspec

from nodeyard.api.labels import ON_DEMAND, REGION, SPOT
from nodeyard.api.selectors import Value
from nodeyard.cloudprovider.estimates import currency_of, estimate_scale, on_demand_estimate
from nodeyard.cloudprovider.jsonl import CatalogueError, read_catalogue
from nodeyard.cloudprovider.market import FEED, PriceSheet, TypeTable

_FACTOR: Final = 25.0
"""A price this many times an estimate is absurd; so is one this small a part of it, spot a tenth of that."""
_SPOT_DEPTH: Final = 10.0
_NAMED: Final = 10
"""Problems named one by one."""


class FeedError(Exception):
    """A feed that is of no use as a whole; the message says why."""


class Feed(Value, frozen=True):
    """What a feed says. `problems`: what was dropped, and why."""

    on_demand: PriceSheet
    spot: PriceSheet
    problems: tuple[str, ...] = ()


class _Document(Value, frozen=True):
    currency: str = ""
    region: str = ""
    as_of: str = ""
    on_demand: dict[str, object] = {}
    spot: dict[str, object] = {}


def read_feed(raw: bytes, region: str, modified_at: float) -> Feed:
    """The feed in `raw`. `modified_at` (Unix seconds) is its age where it does not tell. Raises FeedError."""
    lines = raw.strip().split(b"\n", 1)
    try:
        first = msgspec.json.decode(lines[0])
        exported = isinstance(first, dict) and "offerings" in first
    except msgspec.DecodeError:
        exported = False
    document = _exported(raw) if exported else _document(raw)
    if document.region not in ("", region):
        raise FeedError(f"prices of {document.region}, not of {region}")
    if document.currency.upper() not in ("", currency_of(region)):
        raise FeedError(f"prices in {document.currency}, not in {currency_of(region)}")
    at = _moment(document.as_of, modified_at)
    problems: list[str] = []
    on_demand = _figures("onDemand", document.on_demand, problems)
    spot = _figures("spot", document.spot, problems)
    if not on_demand and not spot:
        raise FeedError(f"no prices in it{': ' + problems[0] if problems else ''}")
    return Feed(PriceSheet(FEED, at, on_demand), PriceSheet(FEED, at, spot), shortened(problems))


def screened(feed: Feed, table: TypeTable) -> Feed:
    """The feed without prices that the types they name can't have; names of no type of the region are let be."""
    scale = estimate_scale(table.region)
    estimates = {t.name: on_demand_estimate(t) * scale for t in table.types}
    problems: list[str] = []
    sheets: list[PriceSheet] = []
    for what, sheet, lowest in (
        ("onDemand", feed.on_demand, 1 / _FACTOR),
        ("spot", feed.spot, 1 / _FACTOR / _SPOT_DEPTH),
    ):
        kept: dict[str, float] = {}
        for key, price in sheet.usd.items():
            usual = estimates.get(key.partition("/")[0])
            if usual is not None and not usual * lowest <= price <= usual * _FACTOR:
                problems.append(f"{what}[{key}]: {price:g} is absurd for a type of about {usual:.3g} an hour")
            else:
                kept[key] = price
        sheets.append(PriceSheet(sheet.source, sheet.asked_at, kept, sheet.stale))
    return Feed(sheets[0], sheets[1], shortened([*feed.problems, *problems]))


def shortened(problems: Iterable[str]) -> tuple[str, ...]:
    """The first few, and how many more there are."""
    every = list(problems)
    more = len(every) - _NAMED
    return (*every[:_NAMED], f"… and {more} more") if more > 0 else tuple(every)


def _document(raw: bytes) -> _Document:
    try:
        return msgspec.json.decode(raw, type=_Document)
    except msgspec.ValidationError as error:
        raise FeedError(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FeedError(f"not JSON: {error}") from None


def _exported(raw: bytes) -> _Document:
    try:
        catalogue = read_catalogue(raw.splitlines())
    except CatalogueError as error:
        raise FeedError(str(error)) from None
    on_demand: dict[str, object] = {}
    spot: dict[str, object] = {}
    regions: set[str] = set()
    for found in catalogue.types:
        regions.update(found.requirements.get(REGION, ()))
        for offering in found.offerings:
            if offering.capacity_type == ON_DEMAND:
                on_demand[found.name] = offering.price
            elif offering.capacity_type == SPOT:
                spot[f"{found.name}/{offering.zone}"] = offering.price
    return _Document(region=", ".join(sorted(regions)), on_demand=on_demand, spot=spot)


def _figures(what: str, figures: Mapping[str, object], problems: list[str]) -> dict[str, float]:
    out: dict[str, float] = {}
    for key, given in figures.items():
        price = _number(given)
        if price is None or not math.isfinite(price) or price <= 0:
            problems.append(f"{what}[{key}]: {given!r} is not a price")
        else:
            out[key] = price
    return out


def _number(given: object) -> float | None:
    if isinstance(given, bool) or not isinstance(given, int | float | str):
        return None
    try:
        return float(given)
    except ValueError:
        return None


def _moment(text: str, otherwise: float) -> float:
    if not text:
        return otherwise
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise FeedError(f"asOf: {text!r} is not a time") from None
    if moment.tzinfo is None:
        raise FeedError(f"asOf: {text!r} has no time zone")
    return moment.timestamp()

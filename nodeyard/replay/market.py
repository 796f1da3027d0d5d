"""Prices over simulated time, and spot capacity that the cloud takes back.

A market is the catalogue at the start, price moves, and reclaims: at a reclaim every spot node of that type and zone
is given two minutes' notice, whoever runs it, so that policies meet the same weather. Prices are USD per hour.
"""

from collections.abc import Iterable, Sequence

import msgspec

from nodeyard.api import labels as keys
from nodeyard.api.selectors import Value
from nodeyard.cloudprovider.model import Catalogue, InstanceType, Offering
from nodeyard.replay.trace import TraceError

Spot = tuple[str, str, str]
"""Instance type, zone, capacity type: what has a price."""


class PriceMove(Value, frozen=True):
    """From `at_s` on the offering costs `price`."""

    at_s: float
    instance_type: str
    zone: str
    capacity_type: str
    price: float

    @property
    def offering(self) -> Spot:
        return (self.instance_type, self.zone, self.capacity_type)


class Reclaim(Value, frozen=True):
    """At `at_s` the cloud takes back all spot nodes of this type in this zone."""

    at_s: float
    instance_type: str
    zone: str


class Market(msgspec.Struct, frozen=True):
    """`catalogues`: the catalogue from each moment on, by time; the first is from 0."""

    catalogues: tuple[tuple[float, Catalogue], ...]
    reclaims: tuple[Reclaim, ...] = ()


def market_of(
    catalogue: Catalogue, moves: Iterable[PriceMove] = (), reclaims: Iterable[Reclaim] = ()
) -> Market:
    """The market of these moves, in any order. Raises TraceError for an offering that the catalogue has not."""
    known = {(t.name, o.zone, o.capacity_type) for t in catalogue.types for o in t.offerings}
    ordered = sorted(moves, key=lambda m: (m.at_s, m.offering))
    for move in ordered:
        if move.offering not in known:
            raise TraceError(f"price of {' '.join(move.offering)}: the catalogue has no such offering")
        if not 0 < move.price < float("inf") or not 0 <= move.at_s < float("inf"):
            raise TraceError(
                f"price of {' '.join(move.offering)}: {move.price:g} at {move.at_s:g} s is not a price"
            )
    taken = tuple(sorted(reclaims, key=lambda r: (r.at_s, r.instance_type, r.zone)))
    for reclaim in taken:
        if (reclaim.instance_type, reclaim.zone, keys.SPOT) not in known:
            raise TraceError(
                f"reclaim of {reclaim.instance_type} {reclaim.zone}: the catalogue sells no spot there"
            )
    return Market(tuple(_catalogues(catalogue, ordered)), taken)


def _catalogues(catalogue: Catalogue, moves: Sequence[PriceMove]) -> Iterable[tuple[float, Catalogue]]:
    """One per moment at which anything moves, made from the one before."""
    now = Catalogue(catalogue.types, f"{catalogue.revision}@0")
    at = 0.0
    waiting: dict[Spot, float] = {}
    for move in moves:
        if move.at_s > at:
            now = _moved(now, waiting, f"{catalogue.revision}@{at:.3f}")
            yield at, now
            at, waiting = move.at_s, {}
        waiting[move.offering] = move.price
    yield at, _moved(now, waiting, f"{catalogue.revision}@{at:.3f}")


def _moved(catalogue: Catalogue, prices: dict[Spot, float], revision: str) -> Catalogue:
    if not prices:
        return Catalogue(catalogue.types, revision)
    touched = {name for name, _, _ in prices}
    return Catalogue([_repriced(t, prices) if t.name in touched else t for t in catalogue.types], revision)


def _repriced(found: InstanceType, prices: dict[Spot, float]) -> InstanceType:
    offers = tuple(_offer(found.name, offer, prices) for offer in found.offerings)
    return msgspec.structs.replace(found, offerings=offers)


def _offer(name: str, offer: Offering, prices: dict[Spot, float]) -> Offering:
    price = prices.get((name, offer.zone, offer.capacity_type))
    return offer if price is None else msgspec.structs.replace(offer, price=price)

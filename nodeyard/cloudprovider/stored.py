"""The parts of the catalogue as bytes that outlive a process, in Redis or on disk.

Compressed msgpack with the region in it. What can't be decoded, or is of another region, counts as absent, since
another version of us, or a cluster elsewhere, may have written it.
"""

import zlib
from typing import Final, TypeVar

import msgspec

from nodeyard.api.selectors import Value
from nodeyard.cloudprovider.description import TypeDescription
from nodeyard.cloudprovider.market import PriceSheet, TypeTable, Zone
from nodeyard.cloudprovider.reservations import ReservationSheet


class _StoredTypes(Value, frozen=True):
    region: str
    asked_at: float
    zones: tuple[Zone, ...] = ()
    types: tuple[TypeDescription, ...] = ()
    facts: int = 1
    """Which facts the descriptions have; those of another version are read from the cloud again."""


class _StoredSheet(Value, frozen=True):
    region: str
    sheet: PriceSheet


class _StoredReservations(Value, frozen=True):
    region: str
    sheet: ReservationSheet


FACTS: Final = 2
S = TypeVar("S", _StoredTypes, _StoredSheet, _StoredReservations)


def packed_types(table: TypeTable, asked_at: float) -> bytes:
    """The table and when it was read (Unix seconds)."""
    return _packed(_StoredTypes(table.region, asked_at, table.zones, table.types, FACTS))


def packed_sheet(region: str, sheet: PriceSheet) -> bytes:
    """One part's prices."""
    return _packed(_StoredSheet(region, sheet))


def packed_reservations(region: str, sheet: ReservationSheet) -> bytes:
    """The reservations as last counted."""
    return _packed(_StoredReservations(region, sheet))


def types_in(raw: bytes | None, region: str) -> tuple[TypeTable, float] | None:
    """What `packed_types` made, if it is of this region."""
    stored = _unpacked(raw, _StoredTypes)
    if stored is None or stored.region != region or stored.facts != FACTS:
        return None
    return TypeTable(stored.region, stored.zones, stored.types), stored.asked_at


def sheet_in(raw: bytes | None, region: str) -> PriceSheet | None:
    """What `packed_sheet` made, if it is of this region."""
    stored = _unpacked(raw, _StoredSheet)
    return stored.sheet if stored is not None and stored.region == region else None


def reservations_in(raw: bytes | None, region: str) -> ReservationSheet | None:
    """What `packed_reservations` made, if it is of this region."""
    stored = _unpacked(raw, _StoredReservations)
    return stored.sheet if stored is not None and stored.region == region else None


def _packed(value: Value) -> bytes:
    return zlib.compress(msgspec.msgpack.encode(value), 3)


def _unpacked(raw: bytes | None, kind: type[S]) -> S | None:
    if raw is None:
        return None
    try:
        return msgspec.msgpack.decode(zlib.decompress(raw), type=kind)
    except (zlib.error, msgspec.MsgspecError):
        return None

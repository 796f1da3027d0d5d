"""Capacity reservations in one launch: which of them it goes into, and what its nodes are called.

Source: EC2 CreateFleet (capacity reservations in launch templates); Karpenter documentation, "On-Demand Capacity
Reservations".
"""

from collections.abc import Iterable, Mapping
from typing import Final

from nodeyard.api import labels as keys
from nodeyard.cloudprovider.model import Catalogue, Reserved
from nodeyard.provisioning.claims import ReservationRef
from nodeyard.provisioning.model import OfferingRef


def one_reservation_each(
    offers: Iterable[OfferingRef], catalogue: Catalogue
) -> list[tuple[OfferingRef, Reserved]]:
    """What one CreateFleet may be asked for: reservations that take an instance, of one kind (that of the cheapest;
    on ties default before blocks before interruptible ones), a single block, and per type and zone the one with most
    places.
    """
    found = [
        (o, offering.reserved)
        for o in offers
        if (offering := catalogue.offering(o.instance_type, o.zone, keys.RESERVED, o.reservation)) is not None
        and offering.available
        and offering.reserved is not None
    ]
    if not found:
        return []
    found.sort(key=lambda row: (row[0].price_per_hour, _KINDS.index(_kind(row[1])), -row[1].left, row[1].id))
    kind, block = _kind(found[0][1]), found[0][1].id
    out: dict[tuple[str, str], tuple[OfferingRef, Reserved]] = {}
    for offer, reserved in found:
        if _kind(reserved) != kind or (kind == keys.CAPACITY_BLOCK and reserved.id != block):
            continue
        place = (offer.instance_type, offer.zone)
        if place not in out or reserved.left > out[place][1].left:
            out[place] = (offer, reserved)
    return list(out.values())


_KINDS: Final = ("default", keys.CAPACITY_BLOCK, "interruptible")


def _kind(reserved: Reserved) -> str:
    if reserved.kind == keys.CAPACITY_BLOCK:
        return keys.CAPACITY_BLOCK
    return "interruptible" if reserved.interruptible else "default"


def reference(reserved: Reserved) -> ReservationRef:
    """What a claim says of the reservation that it is launched into."""
    return ReservationRef(reserved.id, reserved.kind, reserved.interruptible)


def by_reservation(
    rows: Iterable[tuple[str, str, str]], reservations: Mapping[str, ReservationRef]
) -> list[tuple[ReservationRef | None, tuple[tuple[str, str, str], ...]]]:
    """The overrides by the reservation that they are launched into: each has launch templates of its own."""
    groups: dict[ReservationRef | None, list[tuple[str, str, str]]] = {}
    for row in rows:
        groups.setdefault(reservations.get(f"{row[0]}/{row[1]}"), []).append(row)
    return [(into, tuple(found)) for into, found in groups.items()]


def reservation_labels(into: Reserved | ReservationRef | None) -> dict[str, str]:
    """The labels of a node in a capacity reservation."""
    if into is None:
        return {}
    return {
        keys.RESERVATION_ID: into.id,
        keys.RESERVATION_TYPE: into.kind,
        keys.RESERVATION_INTERRUPTIBLE: "true" if into.interruptible else "false",
    }

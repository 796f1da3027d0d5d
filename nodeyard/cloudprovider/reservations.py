"""Capacity reservations and capacity blocks: which there are, which a node class may use, how many instances are left.

The pricing service asks for all that the account can use and publishes them beside the offerings; a node class picks
its own by `capacityReservationSelectorTerms`, so that every subscriber comes to the same choice without asking EC2.
A block is `expiring` 40 minutes before it ends: nothing more is launched into it. What was last counted holds for a
day while EC2 can't be asked; after that nothing is assumed to be left. Pure; time is an argument.
Source: EC2 API reference, DescribeCapacityReservations; Karpenter documentation, "NodeClasses".
"""

from collections.abc import Iterable, Mapping, Set
from fnmatch import fnmatchcase
from typing import Final

import msgspec

from nodeyard.api.labels import CAPACITY_BLOCK
from nodeyard.api.nodeclass import FoundReservation, NodeClass, ReservationTerm
from nodeyard.api.reading import render_time
from nodeyard.api.selectors import Value

ACTIVE: Final = "active"
EXPIRING: Final = "expiring"
EXPIRING_S: Final = 40 * 60.0
"""EC2 begins to take the instances of a block back half an hour before its end; pods get ten minutes before that."""
COUNTS_LAST_S: Final = 86_400.0
"""How long the last counts are believed while EC2 can't be asked."""
PRICE_DIVISOR: Final = 10_000_000.0
"""An instance in a reservation costs this part of its on-demand price: it is paid for, and types keep their order."""


class CapacityReservation(Value, frozen=True):
    """One reservation as EC2 counts it. `available` instances of `total` are free; `ends_at` is in Unix seconds."""

    id: str
    instance_type: str
    zone: str
    total: int = 0
    available: int = 0
    kind: str = "default"
    """EC2's reservation type: default or capacity-block."""
    match: str = "targeted"
    """EC2's instance match criteria: open or targeted."""
    state: str = ACTIVE
    owner_id: str = ""
    platform: str = "Linux/UNIX"
    interruptible: bool = False
    ends_at: float | None = None
    tags: dict[str, str] = {}
    placement_group: str = ""
    """Name of the placement group that it was made in; only launches into that group can use it."""


class ReservationSheet(Value, frozen=True):
    """EC2's last answer: every reservation that was active at `asked_at` (Unix seconds)."""

    asked_at: float
    reservations: tuple[CapacityReservation, ...] = ()


def standing(
    sheet: ReservationSheet | None,
    now: float,
    refused: Set[str] = frozenset(),
    zones_out: Set[str] = frozenset(),
) -> tuple[CapacityReservation, ...]:
    """The reservations that can be counted on at `now` (Unix seconds), by id, `available` being what may be used.
    `refused`: ids of those that were found full since. `zones_out`: zones in which nothing is bought.
    """
    if sheet is None:
        return ()
    believed = now - sheet.asked_at <= COUNTS_LAST_S
    out = []
    for one in sorted(sheet.reservations, key=lambda r: r.id):
        if one.state != ACTIVE or (one.ends_at is not None and one.ends_at <= now):
            continue
        if one.kind == CAPACITY_BLOCK and one.ends_at is not None and one.ends_at - now <= EXPIRING_S:
            one = msgspec.structs.replace(one, state=EXPIRING, available=0)
        elif not believed or one.id in refused or one.zone in zones_out:
            one = msgspec.structs.replace(one, available=0)
        out.append(one)
    return tuple(out)


def selected(
    node_class: NodeClass, reservations: Iterable[CapacityReservation]
) -> tuple[CapacityReservation, ...]:
    """Those that a term of the class matches, its image family runs on and its placement group has; in the order given.
    A reservation made in no group serves launches into any.
    """
    windows = node_class.ami_family.startswith("Windows")
    group = node_class.placement_group.name if node_class.placement_group is not None else ""
    return tuple(
        one
        for one in reservations
        if one.platform.startswith("Windows") == windows
        and one.placement_group in ("", group)
        and any(_matches(term, one) for term in node_class.capacity_reservation_terms)
    )


def found_of(reservations: Iterable[CapacityReservation]) -> tuple[FoundReservation, ...]:
    """As the class's status lists them."""
    return tuple(
        FoundReservation(
            id=r.id,
            instance_type=r.instance_type,
            zone=r.zone,
            reservation_type=r.kind,
            instance_match_criteria=r.match,
            owner_id=r.owner_id,
            state=r.state,
            interruptible=r.interruptible,
            end_time=render_time(r.ends_at or 0.0) or "",
        )
        for r in reservations
    )


def reserved_price(on_demand: float) -> float:
    """USD per hour of an instance in a reservation; 0 where nobody knows the on-demand price."""
    return on_demand / PRICE_DIVISOR


def _matches(term: ReservationTerm, one: CapacityReservation) -> bool:
    if term.id:
        return term.id == one.id
    if not (term.tags or term.owner_id or term.instance_match_criteria):
        return False
    return (
        term.owner_id in ("", one.owner_id)
        and term.instance_match_criteria in ("", one.match)
        and _tagged(term.tags, one.tags)
    )


def _tagged(wanted: Mapping[str, str], tags: Mapping[str, str]) -> bool:
    return all(key in tags and fnmatchcase(tags[key], value) for key, value in wanted.items())

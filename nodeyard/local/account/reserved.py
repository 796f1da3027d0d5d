"""Capacity reservations and capacity blocks of the account: made, counted, ended, and which instances sit in them.

moto knows none of it. A reservation that ends or is cancelled lets its instances run on outside it; a block takes
its instances away half an hour before it ends, as EC2 does. Open reservations take on-demand launches of their kind
that do not say otherwise; targeted ones only those that name them. Time is the account's. Neighbours: `ec2` (the
API), `board` (what only AWS or another account could do), `fleet` (who launches).
Source: EC2 User Guide, "Capacity Reservations" and "Capacity Blocks for ML".
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec
from moto.ec2.exceptions import EC2ClientError

from nodeyard.local.account.book import Ledger
from nodeyard.local.account.catalogue import any_match, offered

BLOCK = "capacity-block"
TAKEN_BACK_S = 1800.0
"""A block's instances end this long before the block does."""
_LIVE = ("pending", "running", "stopping", "stopped")


class ReservationWish(msgspec.Struct, forbid_unknown_fields=True):
    """What to reserve. `owner_id` another account's: it shares the reservation. `ends_in_seconds` null: no end.
    `placement_group`: name of the one that it is reserved in; empty: in none.
    """

    instance_type: str
    zone: str
    count: Annotated[int, msgspec.Meta(ge=1)] = 1
    kind: Literal["default", "capacity-block"] = "default"
    match: Literal["open", "targeted"] = "targeted"
    interruptible: bool = False
    ends_in_seconds: Annotated[float, msgspec.Meta(ge=0)] | None = None
    owner_id: str = ""
    tags: dict[str, str] = {}
    placement_group: str = ""


class ReservationTurn(msgspec.Struct, forbid_unknown_fields=True):
    """What to change in one: its size, or when it ends."""

    count: Annotated[int, msgspec.Meta(ge=0)] | None = None
    ends_in_seconds: Annotated[float, msgspec.Meta(ge=0)] | None = None


class Reserved(msgspec.Struct):
    """One reservation. Times in epoch seconds."""

    id: str
    wish: ReservationWish
    made_at: float
    count: int
    ends_at: float | None = None
    cancelled: bool = False

    def state(self, now: float) -> str:
        """EC2's word: active, expired, cancelled."""
        if self.cancelled:
            return "cancelled"
        return "expired" if self.ends_at is not None and self.ends_at <= now else "active"


class ReservationDesk:
    """The account's reservations. Hold the account's lock. `end` terminates an instance, `later` runs after seconds."""

    def __init__(
        self,
        ledger: Ledger,
        clock: Callable[[], float],
        later: Callable[[float, Callable[[], None]], object],
        end: Callable[[str, str], object],
        *,
        account_id: str,
        region: str,
    ) -> None:
        self._ledger, self._clock, self._later, self._end = ledger, clock, later, end
        self._account_id, self._region = account_id, region
        self._made: dict[str, Reserved] = {}

    def make(self, wish: ReservationWish) -> Reserved:
        """Reserves. Raises EC2ClientError where the zone does not sell the type."""
        if not offered(wish.instance_type, self._region, wish.zone):
            raise EC2ClientError(
                "InvalidParameterValue", f"{wish.instance_type} is not offered in {wish.zone}."
            )
        now = self._clock()
        ends_at = None if wish.ends_in_seconds is None else now + wish.ends_in_seconds
        one = Reserved(f"cr-{len(self._made) + 1:017x}", wish, now, wish.count, ends_at)
        self._made[one.id] = one
        self._watch_end(one)
        return one

    def turn(self, reservation_id: str, change: ReservationTurn) -> Reserved:
        """Changes one. Raises EC2ClientError where there is none."""
        one = self.get(reservation_id)
        if change.count is not None:
            one.count = change.count
        if change.ends_in_seconds is not None:
            one.ends_at = self._clock() + change.ends_in_seconds
            self._watch_end(one)
        self._let_go()
        return one

    def cancel(self, reservation_id: str) -> None:
        """Ends one now; its instances run on outside it. Raises EC2ClientError where there is none."""
        self.get(reservation_id).cancelled = True
        self._let_go()

    def get(self, reservation_id: str) -> Reserved:
        """Raises EC2ClientError where there is none."""
        found = self._made.get(reservation_id)
        if found is None:
            raise EC2ClientError(
                "InvalidCapacityReservationId.NotFound",
                f"The capacity reservation ID '{reservation_id}' does not exist",
            )
        return found

    def available(self, one: Reserved) -> int:
        """How many instances it still takes."""
        if one.state(self._clock()) != "active":
            return 0
        sitting = sum(e.capacity_reservation == one.id and e.state in _LIVE for e in self._ledger.all())
        return max(0, one.count - sitting)

    def open_for(self, instance_type: str, zone: str) -> Reserved | None:
        """An open reservation with room that takes such an instance without being named."""
        for one in self._made.values():
            wish = one.wish
            fits = (wish.instance_type, wish.zone, wish.match, wish.placement_group) == (
                instance_type, zone, "open", "",
            )  # fmt: skip
            if fits and wish.kind != BLOCK and self.available(one) > 0:
                return one
        return None

    def all(self) -> list[Reserved]:
        """Every reservation, in the order they were made."""
        return list(self._made.values())

    def shown(self, one: Reserved) -> dict[str, Any]:
        """As DescribeCapacityReservations shows it."""
        wish = one.wish
        return {
            "CapacityReservationId": one.id,
            "OwnerId": wish.owner_id or self._account_id,
            "InstanceType": wish.instance_type,
            "InstancePlatform": "Linux/UNIX",
            "AvailabilityZone": wish.zone,
            "Tenancy": "default",
            "TotalInstanceCount": one.count,
            "AvailableInstanceCount": self.available(one),
            "State": one.state(self._clock()),
            "StartDate": datetime.fromtimestamp(one.made_at, UTC),
            "CreateDate": datetime.fromtimestamp(one.made_at, UTC),
            "EndDate": None if one.ends_at is None else datetime.fromtimestamp(one.ends_at, UTC),
            "EndDateType": "unlimited" if one.ends_at is None else "limited",
            "InstanceMatchCriteria": wish.match,
            "ReservationType": wish.kind,
            "Interruptible": wish.interruptible,
            "PlacementGroupArn": self._group_arn(wish.placement_group),
            "Tags": [{"Key": key, "Value": value} for key, value in wish.tags.items()],
        }

    def _group_arn(self, name: str) -> str | None:
        return f"arn:aws:ec2:{self._region}:{self._account_id}:placement-group/{name}" if name else None

    def _watch_end(self, one: Reserved) -> None:
        if one.ends_at is None:
            return
        left_s = one.ends_at - self._clock()
        if one.wish.kind == BLOCK:
            self._later(max(0.0, left_s - TAKEN_BACK_S), lambda: self._take_back(one))
        self._later(max(0.0, left_s) + 0.01, self._let_go)

    def _take_back(self, one: Reserved) -> None:
        if one.ends_at is None or one.ends_at - self._clock() > TAKEN_BACK_S + 1.0:
            return  # it was prolonged
        for entry in self._ledger.all():
            if entry.capacity_reservation == one.id:
                self._end(entry.instance_id, "Server.CapacityBlockExpired")

    def _let_go(self) -> None:
        """Instances of reservations that are no more run on outside them."""
        now = self._clock()
        gone = {one.id for one in self._made.values() if one.state(now) != "active"}
        for entry in self._ledger.all():
            if entry.capacity_reservation in gone:
                entry.capacity_reservation = ""


_FIELDS: dict[str, str] = {
    "state": "State",
    "tenancy": "Tenancy",
    "instance-type": "InstanceType",
    "owner-id": "OwnerId",
    "availability-zone": "AvailabilityZone",
    "instance-match-criteria": "InstanceMatchCriteria",
}


def passes(shown: dict[str, Any], filters: list[dict[str, Any]]) -> bool:
    """Whether a shown reservation passes every filter. Raises EC2ClientError for a filter that is not simulated."""
    for each in filters:
        name, values = str(each.get("Name")), each.get("Values") or []
        if name not in _FIELDS:
            raise EC2ClientError("InvalidParameterValue", f"The filter '{name}' is invalid")
        if not any_match(str(shown[_FIELDS[name]]), values):
            return False
    return True

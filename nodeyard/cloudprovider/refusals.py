"""What the cloud just refused to sell, and what that says about an offering.

A `Refusal` names the pool it is about; an empty field means "any", so one refusal can shut a whole capacity type
(no service-linked role for spot), one subnet (no free addresses) or
one placement group in a zone (its limit). What was refused in a placement group says nothing about launches outside. `Shut` answers whether an offering is affected.
How often in a row, and what follows from that, is `scarcity`'s; here are only the meaning and a short memory for
those who wait for pricing's word.
"""

from collections.abc import Iterable
from typing import Final

from nodeyard.api.selectors import Value

REFUSAL_TTL_S: Final = 180.0
"""How long an offering stays out after a refusal; Karpenter documentation, "Insufficient capacity errors"."""

RESERVATION_TTL_S: Final = 60.0
"""How long a reservation counts as full after a refusal: about as long as until it is counted again."""

NO_ADDRESSES: Final = "InsufficientFreeAddressesInSubnet"
"""EC2's code for a subnet that is full."""


ZONAL_SHIFT: Final = "ZonalShift"
"""The code under which a zone is out that traffic is shifted away from."""


InGroup = tuple[str, tuple[str, str, str]]
"""(placement group or partition of one, (capacity type, type, zone)) that is refused; an empty field stands for all values."""


class Refusal(Value, frozen=True):
    """Insufficient capacity of (capacity type × type × zone), or of a subnet; an empty field stands for all values."""

    instance_type: str = ""
    zone: str = ""
    capacity_type: str = ""
    code: str = ""
    """The cloud's own error code."""
    subnet: str = ""
    """Set: the subnet has no free addresses; its zone is out only when all the class's subnets there are."""
    placement_group: str = ""
    """Set: only launches into the group with this id, or into that partition of it (`pg-1/2`), are affected."""
    reservation: str = ""
    """Set: the capacity reservation is full; nothing else is meant. With a placement group: it has no room for the group."""

    @property
    def key(self) -> tuple[str, str, str, str, str, str]:
        """What the refusal is about, whatever the code."""
        return (
            self.capacity_type,
            self.instance_type,
            self.zone,
            self.subnet,
            self.placement_group,
            self.reservation,
        )

    @property
    def ttl_s(self) -> float:
        """How long a single one counts where nobody keeps count."""
        return RESERVATION_TTL_S if self.reservation else REFUSAL_TTL_S


def covers(wide: tuple[str, str, str], pool: tuple[str, str, str]) -> bool:
    """Whether a (capacity type, type, zone) with empty fields for "any" includes this one."""
    return all(not field or field == own for field, own in zip(wide, pool, strict=True))


class Shut:
    """The refusals in force, indexed."""

    def __init__(self, refusals: Iterable[Refusal] = ()) -> None:
        self.keys = frozenset(r.key for r in refusals)
        self.exhausted_subnets = frozenset(key[3] for key in self.keys if key[3])
        self.reservations = frozenset(key[5] for key in self.keys if key[5] and not key[4])
        pools = [key for key in self.keys if not any(key[3:])]
        self.exact = frozenset(key[:3] for key in pools if all(key[:3]))
        self.wide = tuple(key[:3] for key in pools if not all(key[:3]))
        self.zones_out = frozenset(zone for kind, name, zone in self.wide if zone and not kind and not name)
        """Zones of which nothing at all can be had."""
        self.in_groups: frozenset[InGroup] = frozenset((key[4], key[:3]) for key in self.keys if key[4])

    def __bool__(self) -> bool:
        return bool(self.keys)

    def offering(self, capacity_type: str, instance_type: str, zone: str) -> bool:
        """Whether a refusal in force covers this offering."""
        pool = (capacity_type, instance_type, zone)
        if pool in self.exact:
            return True
        return any(covers(wide, pool) for wide in self.wide)


class RefusalMemory:
    """Refusals with the time at which each is forgotten. Not immutable: one owner keeps it; time is an argument."""

    def __init__(self) -> None:
        self._until: dict[Refusal, float] = {}

    def remember(self, refusals: Iterable[Refusal], until: float) -> bool:
        """Notes refusals; a later end wins. True when something not remembered before was added."""
        news = False
        for refusal in refusals:
            news = news or refusal not in self._until
            self._until[refusal] = max(until, self._until.get(refusal, 0.0))
        return news

    def forget(self, now: float) -> bool:
        """Drops what has ended by `now`. True when something was dropped."""
        ended = [refusal for refusal, until in self._until.items() if until <= now]
        for refusal in ended:
            del self._until[refusal]
        return bool(ended)

    def shut(self) -> Shut:
        """What they say about offerings."""
        return Shut(self._until)

"""Which reservations one CreateFleet is asked for: one kind, one block, and per type and zone the largest."""

from __future__ import annotations

from nodeyard.api import labels as keys
from nodeyard.cloudprovider.model import Catalogue, InstanceType, Offering, Reserved
from nodeyard.provisioning.model import OfferingRef
from nodeyard.provisioning.reserved_launches import one_reservation_each


def asked(*reserved: tuple[str, str, float, Reserved]) -> list[str]:
    """Ids that are asked for, of offerings (type, zone, price, reservation)."""
    types: dict[str, list[Offering]] = {}
    for kind, zone, price, one in reserved:
        offering = Offering(zone, keys.RESERVED, price, available=one.left > 0, reserved=one)
        types.setdefault(kind, []).append(offering)
    catalogue = Catalogue([InstanceType(name, offerings=tuple(offers)) for name, offers in types.items()])
    offers = [OfferingRef(kind, zone, keys.RESERVED, price, one.id) for kind, zone, price, one in reserved]
    return sorted(one.id for _, one in one_reservation_each(offers, catalogue))


def plain(name: str, left: int = 1) -> Reserved:
    return Reserved(name, left=left)


def block(name: str, left: int = 1) -> Reserved:
    return Reserved(name, keys.CAPACITY_BLOCK, left=left)


def borrowed(name: str, left: int = 1) -> Reserved:
    return Reserved(name, interruptible=True, left=left)


def test_of_a_type_in_a_zone_the_reservation_with_most_places_is_asked() -> None:
    assert asked(("a", "z1", 1.0, plain("few", 2)), ("a", "z1", 1.0, plain("many", 5))) == ["many"]
    assert asked(("a", "z1", 1.0, plain("one")), ("a", "z2", 1.0, plain("two")), ("b", "z1", 2.0, plain("three"))) == [
        "one", "three", "two",
    ]  # fmt: skip


def test_kinds_do_not_mix_and_on_ties_default_comes_before_blocks_before_interruptible_ones() -> None:
    every = (
        ("a", "z1", 1.0, borrowed("i", 9)),
        ("a", "z1", 1.0, block("b", 9)),
        ("a", "z1", 1.0, plain("d")),
    )
    assert asked(*every) == ["d"]
    assert asked(*every[:2]) == ["b"]
    assert asked(("a", "z1", 0.5, borrowed("i")), ("b", "z1", 1.0, plain("d"))) == ["i"], "price comes first"


def test_one_block_goes_into_a_call() -> None:
    assert asked(
        ("a", "z1", 1.0, block("b1")), ("a", "z2", 1.0, block("b2")), ("b", "z1", 2.0, block("b3"))
    ) == ["b1"]


def test_what_takes_nothing_any_more_is_not_asked() -> None:
    assert asked(("a", "z1", 1.0, plain("full", 0)), ("b", "z1", 2.0, plain("free"))) == ["free"]
    assert asked(("a", "z1", 1.0, plain("full", 0))) == []

"""Which reservations a node class may use, and what is left of them at a moment."""

from __future__ import annotations

import itertools

import msgspec
import pytest

from nodeyard.api.convert import node_class_of
from nodeyard.api.nodeclass import ReservationTerm
from nodeyard.api.placement import PlacementGroup
from nodeyard.cloudprovider.market import RESERVATIONS
from nodeyard.cloudprovider.model import Catalogue, Reserved
from nodeyard.cloudprovider.refusals import Refusal, Shut
from nodeyard.cloudprovider.reservations import (
    COUNTS_LAST_S,
    CapacityReservation,
    ReservationSheet,
    found_of,
    selected,
    standing,
)
from nodeyard.cloudprovider.resolve import resolve
from nodeyard.cloudprovider.scarcity import ScarcityMemory
from tests.support.catalogue import node_class, small_market

OURS, SHARED = "111122223333", "444455556666"
EVERY = tuple(
    CapacityReservation(
        f"cr-{n}", "m5.large", "eu-west-1a", 2, 1, match=match, owner_id=owner, tags=tags, ends_at=1e9
    )
    for n, (match, owner, tags) in enumerate(
        itertools.product(
            ("open", "targeted"), (OURS, SHARED), ({}, {"team": "a"}, {"team": "b", "env": "x"})
        )
    )
)


@pytest.mark.parametrize(
    ("terms", "wanted"),
    [
        ((), set()),
        ((ReservationTerm(),), set()),
        ((ReservationTerm(id="cr-3"), ReservationTerm(id="cr-9")), {3, 9}),
        ((ReservationTerm(tags={"team": "a"}),), {1, 4, 7, 10}),
        ((ReservationTerm(tags={"team": "*", "env": "x"}),), {2, 5, 8, 11}),
        ((ReservationTerm(tags={"team": "*"}, owner_id=SHARED),), {4, 5, 10, 11}),
        ((ReservationTerm(instance_match_criteria="open", owner_id=OURS),), {0, 1, 2}),
        ((ReservationTerm(tags={"team": "a"}, instance_match_criteria="targeted"),), {7, 10}),
    ],
)
def test_fields_of_a_term_are_anded_and_terms_are_ored(
    terms: tuple[ReservationTerm, ...], wanted: set[int]
) -> None:
    found = selected(node_class(capacity_reservation_terms=terms), EVERY)
    assert {int(r.id.removeprefix("cr-")) for r in found} == wanted


def test_a_reservation_of_another_system_is_not_selected() -> None:
    by_id = (ReservationTerm(id="cr-0"), ReservationTerm(id="cr-1"))
    windows = msgspec.structs.replace(EVERY[0], platform="Windows")
    both = (windows, EVERY[1])
    assert selected(node_class(capacity_reservation_terms=by_id), both) == (EVERY[1],)
    of_windows = node_class(capacity_reservation_terms=by_id, ami_family="Windows2022")
    assert selected(of_windows, both) == (windows,)


def test_one_made_in_a_placement_group_serves_classes_of_that_group_alone() -> None:
    inside = msgspec.structs.replace(EVERY[0], placement_group="racks")
    both = (inside, EVERY[1])
    terms = (ReservationTerm(id="cr-0"), ReservationTerm(id="cr-1"))

    def found(group: str) -> tuple[CapacityReservation, ...]:
        of = PlacementGroup(f"pg-{group}", group, "cluster") if group else None
        return selected(node_class(capacity_reservation_terms=terms, placement_group=of), both)

    assert found("") == found("other") == (EVERY[1],)
    assert found("racks") == both


def test_what_a_group_has_no_room_for_leaves_its_reservation_to_classes_outside() -> None:
    refused = (
        Refusal("m5.large", "eu-west-1a", "reserved", "UnfulfillableCapacity", "", "pg-1", MINE.id),
        Refusal(zone="eu-west-1b", code="UnfulfillableCapacity", placement_group="pg-1"),
    )
    other = msgspec.structs.replace(MINE, id="cr-2", zone="eu-west-1b")
    market = small_market(refusals=refused).with_rows(
        {}, (), {RESERVATIONS: 50.0}, reservations=(MINE, other), refused_in_groups=Shut(refused).in_groups
    )

    def open_to(group: PlacementGroup | None) -> set[str]:
        found = resolve(market, node_class(capacity_reservation_terms=TERMS, placement_group=group), now=60.0)
        return {o.reserved.id for t in found.types for o in t.offerings if o.reserved and o.available}

    assert open_to(None) == open_to(PlacementGroup("pg-2", "h", "spread")) == {"cr-1", "cr-2"}
    assert open_to(PlacementGroup("pg-1", "g", "spread")) == set()


def test_the_status_lists_them_as_the_field_s_objects_do() -> None:
    (shown,) = msgspec.to_builtins(found_of(EVERY[:1]))
    assert shown == {
        "id": "cr-0", "instanceType": "m5.large", "availabilityZone": "eu-west-1a", "reservationType": "default",
        "instanceMatchCriteria": "open", "ownerID": OURS, "state": "active", "endTime": "2001-09-09T01:46:40Z",
    }  # fmt: skip
    read = node_class_of({"metadata": {"name": "x"}, "spec": {}, "status": {"capacityReservations": [shown]}})
    assert read.capacity_reservations == found_of(EVERY[:1])


def test_counts_are_believed_for_a_day() -> None:
    sheet = ReservationSheet(1000.0, EVERY[:1])
    assert standing(sheet, 1000.0 + COUNTS_LAST_S) == EVERY[:1]
    (old,) = standing(sheet, 1001.0 + COUNTS_LAST_S)
    assert (old.id, old.available) == ("cr-0", 0)
    assert standing(None, 0.0) == ()


def test_only_a_block_expires_before_its_end() -> None:
    ends_at = 100_000.0
    plain = msgspec.structs.replace(EVERY[0], ends_at=ends_at)
    block = msgspec.structs.replace(EVERY[1], kind="capacity-block", ends_at=ends_at)
    sheet = ReservationSheet(ends_at - 3000.0, (plain, block))
    at = {left: standing(sheet, ends_at - left * 60.0) for left in (41, 40, 39, 0)}
    assert [(r.state, r.available) for r in at[41]] == [("active", 1), ("active", 1)]
    assert [(r.state, r.available) for r in at[40]] == [("active", 1), ("expiring", 0)]
    assert at[39] == at[40]
    assert at[0] == ()


def test_one_that_is_not_active_is_not_counted_on() -> None:
    pending = msgspec.structs.replace(EVERY[0], state="pending")
    assert standing(ReservationSheet(0.0, (pending,)), 0.0) == ()


@pytest.mark.parametrize(
    ("term", "problem"),
    [
        ({"id": "cr-1", "ownerID": OURS}, "can't be combined"),
        ({"ownerID": OURS}, "is wanted"),
        ({"instanceMatchCriteria": "any"}, "neither open nor targeted"),
    ],
)
def test_a_term_that_makes_no_sense_is_a_problem_of_the_class(term: dict[str, str], problem: str) -> None:
    spec = {"capacityReservationSelectorTerms": [term]}
    read = node_class_of({"metadata": {"name": "x"}, "spec": spec})
    assert any("capacityReservationSelectorTerms[0]" in p and problem in p for p in read.problems)


# -- what a class can buy


def resolved(*reservations: CapacityReservation, refused: tuple[Refusal, ...] = ()) -> Catalogue:
    market = small_market().with_rows({}, (), {RESERVATIONS: 50.0}, reservations=reservations)
    return resolve(market, node_class(capacity_reservation_terms=TERMS), now=60.0, shut=Shut(refused))


TERMS = (ReservationTerm(tags={"team": "a"}),)
MINE = CapacityReservation("cr-1", "m5.large", "eu-west-1a", 2, 1, tags={"team": "a"})


def test_what_is_reserved_is_an_offering_for_a_ten_millionth_of_the_price() -> None:
    offering = resolved(MINE).offering("m5.large", "eu-west-1a", "reserved", "cr-1")
    assert offering is not None
    assert (offering.price, offering.available, offering.zone_id) == (0.1 / 10_000_000, True, "euw1-az1")
    assert offering.reserved == Reserved("cr-1", left=1, counted_at=50.0)


def test_without_an_on_demand_price_a_place_costs_nothing() -> None:
    market = small_market(prices={"m5.large": 0.0}).with_rows({}, (), {}, reservations=(MINE,))
    catalogue = resolve(market, node_class(capacity_reservation_terms=TERMS), now=60.0)
    offering = catalogue.offering("m5.large", "eu-west-1a", "reserved")
    assert offering is not None
    assert (offering.price, offering.available) == (0.0, True)


def test_one_that_is_full_or_refused_is_there_but_takes_nothing() -> None:
    refusal = Refusal("m5.large", "eu-west-1a", "reserved", "ReservationCapacityExceeded", reservation="cr-1")
    full = msgspec.structs.replace(MINE, available=0)
    for catalogue in (resolved(full), resolved(MINE, refused=(refusal,))):
        offering = catalogue.offering("m5.large", "eu-west-1a", "reserved")
        assert offering is not None
        assert not offering.available
        assert catalogue.offering("m5.large", "eu-west-1a", "on-demand", "").available  # type: ignore[union-attr]


def test_a_class_sees_its_own_reservations_only_in_zones_that_it_has() -> None:
    other = msgspec.structs.replace(MINE, id="cr-2", tags={})
    catalogue = resolved(MINE, other)
    assert catalogue.offering("m5.large", "eu-west-1a", "reserved", "cr-2") is None
    assert catalogue.unselected == {"cr-2"}
    market = small_market().with_rows({}, (), {}, reservations=(MINE,))
    elsewhere = node_class("eu-west-1b", capacity_reservation_terms=TERMS)
    assert resolve(market, elsewhere, now=0.0).offering("m5.large", "eu-west-1a", "reserved") is None


def test_a_refusal_of_a_reservation_is_out_for_a_minute_and_is_no_strike() -> None:
    memory = ScarcityMemory(180.0)
    refusal = Refusal("m5.large", "eu-west-1a", "reserved", "ReservationCapacityExceeded", reservation="cr-1")
    for at in (0.0, 100.0, 200.0):
        memory.refuse([refusal], at)
        assert memory.shut(at + 59.0).reservations == {"cr-1"}
        assert memory.shut(at + 61.0).reservations == frozenset()
    assert not memory.shut(201.0).offering("reserved", "m5.large", "eu-west-1a")
    assert memory.odds(300.0) == {}
    assert [r.available for r in standing(ReservationSheet(0.0, (MINE,)), 0.0, frozenset({"cr-1"}))] == [0]

"""Launches into capacity reservations, from EC2's list of them to the instance that sits in one, through real boto3."""

from __future__ import annotations

import time
from collections.abc import Iterator

import msgspec
import pytest

from nodeyard.adapters.ec2.describe import read_reservations
from nodeyard.adapters.ec2.launch import Fleet
from nodeyard.adapters.ec2.launch_templates import LaunchTemplates, template_data
from nodeyard.adapters.ec2.node_class import Resolver
from nodeyard.adapters.ec2.session import Ec2Session
from nodeyard.api import labels as keys
from nodeyard.api.node import NodeClaim
from nodeyard.api.nodeclass import NodeClass, ReservationTerm
from nodeyard.api.placement import PlacementGroupSelector
from nodeyard.api.selectors import Requirement
from nodeyard.cloudprovider.boot import Boot
from nodeyard.cloudprovider.market import RESERVATIONS
from nodeyard.cloudprovider.model import Catalogue
from nodeyard.cloudprovider.reservations import standing
from nodeyard.cloudprovider.resolve import resolve
from nodeyard.local.account.server import AccountServer
from nodeyard.provisioning.claims import LaunchRecord, ReservationRef, TemplateChoice
from nodeyard.provisioning.launch_labels import resolved_labels
from nodeyard.provisioning.launches import Choice, as_recorded, choose
from nodeyard.provisioning.reserved_launches import by_reservation
from tests.support.account import REGION, AwsClients, DialBoard, account_server, reach
from tests.support.catalogue import small_market
from tests.support.clock import FakeClock
from tests.support.launching import CLASS, OURS
from tests.support.providers import batch, launched

__all__ = ["account_server"]
A = f"{REGION}a"
BOOT = Boot(cluster="nodeyard", endpoint="https://api")
TERMS = (ReservationTerm(tags={"team": "a"}),)


@pytest.fixture
def session(account_server: AccountServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ec2Session]:
    reach(account_server, monkeypatch)
    session = Ec2Session(threads=4, attempts=1)
    yield session
    session.close()


class Bench:
    """A class that selects reservations, and what it takes to launch by it."""

    def __init__(self, session: Ec2Session) -> None:
        self._session = session
        self.fleet = Fleet(session, cluster_uid="uid")
        self._templates = LaunchTemplates(session, cluster="nodeyard", tags=OURS)
        self.found: NodeClass = CLASS

    async def catalogue(self, group: str = "") -> Catalogue:
        """What the class, in that placement group, can buy after another look at the account."""
        selector = PlacementGroupSelector(group) if group else None
        wanted = msgspec.structs.replace(
            CLASS, capacity_reservation_terms=TERMS, placement_group_selector=selector
        )
        resolver = Resolver(
            self._session, FakeClock(), cluster="nodeyard", cluster_uid="uid", kubernetes_version="1.36"
        )
        self.found = await resolver.resolve(wanted)
        sheet = await read_reservations(self._session, time.time())
        market = small_market().with_rows(
            {}, (), {RESERVATIONS: sheet.asked_at}, reservations=standing(sheet, time.time())
        )
        return resolve(market, self.found, now=0.0)

    async def record(self, *requirements: Requirement, group: str = "") -> LaunchRecord:
        """The launch of a claim of nobody's plan that must be reserved."""
        reserved = Requirement(keys.CAPACITY_TYPE, "In", (keys.RESERVED,))
        claim = NodeClaim("c", requirements=(reserved, *requirements), requests={"cpu": 1000})
        chosen = choose(claim, self.found, await self.catalogue(group))
        assert isinstance(chosen, Choice), chosen
        choices = []
        for image, overrides in chosen.groups:
            for into, rows in by_reservation(overrides, chosen.reservations):
                name = await self._templates.ensure(self.found, image, BOOT, into)
                choices.append(TemplateChoice(name, image.id, rows))
        return LaunchRecord(
            chosen.capacity_type, tuple(choices), OURS, prices=chosen.prices, reservations=chosen.reservations,
            placement_group=self.found.placement_group.id if self.found.placement_group is not None else "",
        )  # fmt: skip


@pytest.fixture
async def bench(session: Ec2Session) -> Bench:
    made = Bench(session)
    await made.catalogue()
    return made


@pytest.fixture
def aws(account_server: AccountServer) -> AwsClients:
    return AwsClients(account_server.url)


@pytest.fixture
def dials(account_server: AccountServer) -> DialBoard:
    return DialBoard(account_server.url)


def reserve(dials: DialBoard, **more: object) -> str:
    wish = {"instance_type": "m5.large", "zone": A, "tags": {"team": "a"}, **more}
    return str(dials.post("reservations", **wish)["CapacityReservationId"])


async def test_an_instance_comes_to_sit_in_the_reservation_and_its_labels_say_so(
    bench: Bench, dials: DialBoard, aws: AwsClients
) -> None:
    reservation = reserve(dials, count=2)
    reserve(dials, tags={"team": "b"})
    record = await bench.record()
    assert record.reservations == {f"m5.large/{A}": ReservationRef(reservation)}
    answer = await launched(bench.fleet, record, "one")
    (made,) = answer.made
    (shown,) = aws.instances()
    assert shown["CapacityReservationId"] == reservation
    kind = (await bench.catalogue()).by_name["m5.large"]
    labels = resolved_labels(made, kind, REGION)
    assert {k: v for k, v in labels.items() if "reservation" in k or k == keys.CAPACITY_TYPE} == {
        keys.CAPACITY_TYPE: keys.RESERVED, keys.RESERVATION_ID: reservation, keys.RESERVATION_TYPE: "default",
        keys.RESERVATION_INTERRUPTIBLE: "false",
    }  # fmt: skip
    (found,) = await bench.fleet.find(batch(bench.fleet, record, "one"))
    assert as_recorded(found.made, record) == made
    offering = (await bench.catalogue()).offering("m5.large", A, keys.RESERVED, reservation)
    assert offering is not None
    assert offering.reserved is not None
    assert (offering.available, offering.reserved.left, offering.price) == (True, 1, 0.1 / 10_000_000)


async def test_a_full_reservation_refuses_for_itself_alone(bench: Bench, dials: DialBoard) -> None:
    reservation = reserve(dials)
    record = await bench.record()
    assert len((await launched(bench.fleet, record, "one")).made) == 1
    answer = await launched(bench.fleet, record, "two")
    assert answer.made == ()
    (refusal,) = answer.refusals
    assert (refusal.code, refusal.reservation) == ("ReservationCapacityExceeded", reservation)
    full = (await bench.catalogue()).offering("m5.large", A, keys.RESERVED, reservation)
    assert full is not None
    assert not full.available


async def test_one_made_in_a_placement_group_takes_the_instances_of_its_classes(
    bench: Bench, dials: DialBoard, aws: AwsClients
) -> None:
    aws.ec2.create_placement_group(GroupName="close", Strategy="cluster")
    inside = reserve(dials, placement_group="close")
    record = await bench.record(group="close")
    assert [into.id for into in record.reservations.values()] == [inside]
    (made,) = (await launched(bench.fleet, record, "one")).made
    (shown,) = aws.instances()
    assert (shown["CapacityReservationId"], shown["Placement"]["GroupName"]) == (inside, "close")
    assert made.capacity_type == keys.RESERVED
    assert (await bench.catalogue()).offering("m5.large", A, keys.RESERVED) is None


async def test_a_group_without_room_and_a_full_reservation_are_told_apart(
    bench: Bench, dials: DialBoard, aws: AwsClients
) -> None:
    aws.ec2.create_placement_group(GroupName="seven", Strategy="spread")
    reservation = reserve(dials, count=8)
    record = await bench.record(group="seven")
    assert len((await launched(bench.fleet, record, *"abcdefg")).made) == 7
    (crowded,) = (await launched(bench.fleet, record, "h")).refusals
    assert (crowded.placement_group, crowded.reservation) == (record.placement_group, "")
    outside = await bench.record()
    assert len((await launched(bench.fleet, outside, "i")).made) == 1
    (full,) = (await launched(bench.fleet, outside, "j")).refusals
    assert (full.placement_group, full.reservation) == ("", reservation)


async def test_one_that_ended_since_it_was_counted_refuses_as_well(bench: Bench, dials: DialBoard) -> None:
    reservation = reserve(dials)
    record = await bench.record()
    dials.delete(f"reservations/{reservation}")
    answer = await launched(bench.fleet, record, "one")
    assert (answer.made, answer.error) == ((), None)
    assert [(r.code, r.reservation) for r in answer.refusals] == [
        ("InvalidCapacityReservationState", reservation)
    ]


async def test_a_block_is_bought_as_a_block_and_alone(
    bench: Bench, dials: DialBoard, aws: AwsClients
) -> None:
    blocks = {reserve(dials, kind="capacity-block", ends_in_seconds=7200, count=n) for n in (1, 2)}
    record = await bench.record(Requirement(keys.RESERVATION_TYPE, "In", (keys.CAPACITY_BLOCK,)))
    (into,) = record.reservations.values()
    assert into.id in blocks
    assert record.in_block
    assert len((await launched(bench.fleet, record, "one")).made) == 1
    (shown,) = aws.instances()
    assert shown["CapacityReservationId"] == into.id


async def test_only_on_demand_launches_of_classes_without_terms_may_match_open_reservations(
    bench: Bench, dials: DialBoard
) -> None:
    without = msgspec.structs.replace(bench.found, capacity_reservation_terms=())
    (image, *_) = bench.found.images
    said = "CapacityReservationSpecification"
    assert template_data(bench.found, image, BOOT)[said] == {"CapacityReservationPreference": "none"}
    assert said not in template_data(without, image, BOOT)
    inside = template_data(bench.found, image, BOOT, ReservationRef("cr-1"))[said]
    assert inside == {
        "CapacityReservationPreference": "capacity-reservations-only",
        "CapacityReservationTarget": {"CapacityReservationId": "cr-1"},
    }


async def test_a_cancelled_reservation_lets_its_instances_run_on_outside_it(
    bench: Bench, dials: DialBoard, aws: AwsClients
) -> None:
    reservation = reserve(dials)
    await launched(bench.fleet, await bench.record(), "one")
    dials.delete(f"reservations/{reservation}")
    (shown,) = aws.instances()
    assert (shown["State"]["Name"], shown.get("CapacityReservationId")) == ("running", None)
    assert (await bench.catalogue()).offering("m5.large", A, keys.RESERVED) is None

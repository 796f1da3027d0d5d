"""Capacity reservations of the simulated account through boto3, and how we read them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from botocore.exceptions import ClientError

from nodeyard.adapters.ec2.describe import read_reservations
from nodeyard.adapters.ec2.session import Ec2Session
from nodeyard.cloudprovider.reservations import CapacityReservation
from nodeyard.local.account.server import AccountServer
from tests.support.account import REGION, AwsClients, DialBoard, account_server, reach

__all__ = ["account_server"]

A = f"{REGION}a"


@pytest.fixture
def aws(account_server: AccountServer) -> AwsClients:
    return AwsClients(account_server.url)


@pytest.fixture
def dials(account_server: AccountServer) -> DialBoard:
    return DialBoard(account_server.url)


@pytest.fixture
def session(account_server: AccountServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ec2Session]:
    reach(account_server, monkeypatch)
    session = Ec2Session(threads=2)
    yield session
    session.close()


async def test_what_is_reserved_is_read_with_all_that_selects_it(
    aws: AwsClients, dials: DialBoard, session: Ec2Session
) -> None:
    made = aws.ec2.create_capacity_reservation(
        InstanceType="m5.large", InstancePlatform="Linux/UNIX", AvailabilityZone=A, InstanceCount=2,
        InstanceMatchCriteria="targeted", EndDateType="limited", EndDate=datetime.now(UTC) + timedelta(hours=1),
        TagSpecifications=[
            {"ResourceType": "capacity-reservation", "Tags": [{"Key": "team", "Value": "a"}]}],
    )["CapacityReservation"]  # fmt: skip
    block = dials.post(
        "reservations", instance_type="g4dn.xlarge", zone=A, kind="capacity-block", ends_in_seconds=7200,
        owner_id="111122223333", interruptible=True,
    )  # fmt: skip
    aws.ec2.cancel_capacity_reservation(
        CapacityReservationId=dials.post("reservations", instance_type="m5.large", zone=A)[
            "CapacityReservationId"
        ]
    )
    now = time.time()
    sheet = await read_reservations(session, now)
    first, second = sheet.reservations
    assert sheet.asked_at == now
    assert first.ends_at == pytest.approx(now + 3600, abs=10)
    assert first == CapacityReservation(
        made["CapacityReservationId"], "m5.large", A, 2, 2, "default", "targeted", "active", made["OwnerId"],
        ends_at=first.ends_at, tags={"team": "a"},
    )  # fmt: skip
    assert (second.id, second.kind, second.owner_id, second.interruptible) == (
        block["CapacityReservationId"], "capacity-block", "111122223333", True,
    )  # fmt: skip


async def test_all_pages_are_read(dials: DialBoard, session: Ec2Session, aws: AwsClients) -> None:
    for _ in range(7):
        dials.post("reservations", instance_type="m5.large", zone=A)
    pages = aws.ec2.get_paginator("describe_capacity_reservations").paginate(PaginationConfig={"PageSize": 3})
    assert [len(page["CapacityReservations"]) for page in pages] == [3, 3, 1]
    assert len((await read_reservations(session, 0.0)).reservations) == 7


async def test_one_that_has_ended_is_not_read(dials: DialBoard, session: Ec2Session) -> None:
    dials.post("reservations", instance_type="m5.large", zone=A, ends_in_seconds=0)
    assert (await read_reservations(session, 0.0)).reservations == ()


def test_what_cannot_be_reserved_is_refused(aws: AwsClients) -> None:
    with pytest.raises(ClientError, match="InvalidParameterValue"):
        aws.ec2.create_capacity_reservation(
            InstanceType="m5.huge", InstancePlatform="Linux/UNIX", AvailabilityZone=A, InstanceCount=1
        )
    with pytest.raises(ClientError, match="InvalidCapacityReservationId"):
        aws.ec2.cancel_capacity_reservation(CapacityReservationId="cr-0")

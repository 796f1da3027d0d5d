"""Launching while EC2 fails: one instance for each claim in the end, and nothing leaked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from nodeyard.adapters.ec2.budget import CallBudget
from nodeyard.adapters.ec2.session import Ec2Session
from nodeyard.api import labels as keys
from nodeyard.local.account.server import AccountServer
from tests.support.account import REGION, AwsClients, DialBoard, account_server
from tests.support.cluster import eventually
from tests.support.launching import LaunchBench

__all__ = ["account_server"]

COUNT, SETS = 24, 4


@pytest.fixture
def dials(account_server: AccountServer) -> DialBoard:
    return DialBoard(account_server.url)


@pytest.fixture
def session(account_server: AccountServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ec2Session]:
    for name, value in {
        "AWS_ENDPOINT_URL": account_server.url, "AWS_REGION": REGION, "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    session = Ec2Session(threads=16, budget=CallBudget())
    yield session
    session.close()


def owned_one_to_one(bench: LaunchBench, account: AccountServer) -> int:
    """How many claims have an instance; every instance is one claim's and tagged so."""
    owners = {c.provider_id.rpartition("/")[2]: c.uid for c in bench.api.claims.values()}
    aws = AwsClients(account.url)
    eventually(lambda: len(aws.instances(instance_state_name="*")) >= len(owners), within_s=10)
    shown = aws.instances(instance_state_name="*")
    tagged = {
        i["InstanceId"]: {t["Key"]: t["Value"] for t in i["Tags"]}.get(keys.NODECLAIM_UID_TAG) for i in shown
    }
    assert tagged == owners
    assert len(owners) == len(bench.api.claims)
    return len(owners)


Fault = Callable[[DialBoard], Any]


@pytest.mark.parametrize(
    "fault",
    [
        lambda dials: dials.post("faults", kind="throttle", action="CreateFleet", every_nth=3),
        lambda dials: dials.post("faults", kind="fail", action="CreateFleet", after_effect=True, times=3),
        lambda dials: dials.post("faults", kind="fail", action="CreateFleet", after_effect=True, times=9),
        lambda dials: dials.post("faults", kind="fail", action="CreateFleet", times=4),
        lambda dials: dials.post("faults", kind="fail", action="CreateTags", times=3),
        lambda dials: dials.put("consistency", lag_seconds=2.0),
    ],
    ids=[
        "throttled",
        "answers-lost",
        "answers-lost-for-long",
        "refused-for-a-while",
        "tags-fail",
        "shown-late",
    ],
)
async def test_every_claim_gets_its_one_instance(
    fault: Fault, session: Ec2Session, account_server: AccountServer, dials: DialBoard
) -> None:
    fault(dials)
    bench = LaunchBench(session, consistency_lag_s=3.0)
    await bench.launched(COUNT, SETS)
    assert owned_one_to_one(bench, account_server) == COUNT


async def test_half_a_fleet_leaves_as_many_claims_as_there_are_instances(
    session: Ec2Session, account_server: AccountServer, dials: DialBoard
) -> None:
    for kind, zone, left in (("m5.large", "a", 9), ("*", "b", 0), ("*", "c", 0), ("m5.xlarge", "a", 0)):
        dials.post("capacity", instance_type=kind, zone=f"{REGION}{zone}", capacity_type="*", left=left)
    bench = LaunchBench(session)
    await bench.launched(COUNT, 1)
    assert owned_one_to_one(bench, account_server) == 9


async def test_templates_deleted_beneath_us_are_made_again(
    session: Ec2Session, account_server: AccountServer
) -> None:
    bench = LaunchBench(session)
    await bench.launched(2, 2)
    ec2 = AwsClients(account_server.url).ec2
    for template in ec2.describe_launch_templates()["LaunchTemplates"]:
        ec2.delete_launch_template(LaunchTemplateName=template["LaunchTemplateName"])
    await bench.launched(COUNT, 2, first=2)
    assert owned_one_to_one(bench, account_server) == COUNT + 2

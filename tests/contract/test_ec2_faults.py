"""Launching while EC2 fails: one instance for each claim in the end, and nothing leaked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nodeyard.adapters.ec2.budget import CallBudget
from nodeyard.adapters.ec2.instances import Instances
from nodeyard.adapters.ec2.session import Ec2Session
from nodeyard.adapters.redis.call_buckets import CallBuckets
from nodeyard.adapters.redis.connection import connect
from nodeyard.adapters.redis.leases import RedisLeases
from nodeyard.api import labels as keys
from nodeyard.api.nodeclass import SelectorTerm
from nodeyard.local.account.server import AccountServer
from nodeyard.state.cluster import Change, Kind
from tests.support.account import REGION, AwsClients, DialBoard, account_server, reach
from tests.support.cluster import eventually
from tests.support.launching import CLASS, LaunchBench
from tests.support.redis import TestRedis

__all__ = ["account_server"]

COUNT, SETS = 24, 4
FREE_ADDRESSES = 11
"""Of a /28: AWS keeps five."""


@pytest.fixture
def dials(account_server: AccountServer) -> DialBoard:
    return DialBoard(account_server.url)


@pytest.fixture
def session(account_server: AccountServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ec2Session]:
    reach(account_server, monkeypatch)
    session = Ec2Session(threads=16, budget=CallBudget())
    yield session
    session.close()


def owned_one_to_one(bench: LaunchBench, account: AccountServer) -> int:
    """How many claims have an instance; every instance is one claim's and tagged so."""
    owners = {c.provider_id.rpartition("/")[2]: c.uid for c in bench.api.claims.values()}
    aws = AwsClients(account.url)
    eventually(lambda: len(aws.instances(instance_state_name="*")) >= len(owners))
    shown = aws.instances(instance_state_name="*")
    tagged = {
        i["InstanceId"]: {t["Key"]: t["Value"] for t in i["Tags"]}.get(keys.NODECLAIM_UID_TAG) for i in shown
    }
    assert tagged == owners
    assert len(owners) == len(bench.api.claims)
    return len(owners)


def small_subnet(aws: AwsClients, *, keep_zones: str) -> str:
    """A subnet for eleven instances in zone a, found as the cluster's, with those in `keep_zones` only beside it."""
    mark = {"Key": "karpenter.sh/discovery", "Value": "nodeyard"}
    theirs = aws.subnets()
    vpc = aws.ec2.describe_subnets()["Subnets"][0]["VpcId"]
    aws.ec2.delete_tags(Resources=[s for z, s in theirs.items() if z[-1] not in keep_zones], Tags=[mark])
    made = aws.ec2.create_subnet(
        VpcId=vpc, CidrBlock="172.31.250.0/28", AvailabilityZone=f"{REGION}a",
        TagSpecifications=[{"ResourceType": "subnet", "Tags": [mark]}],
    )  # fmt: skip
    return str(made["Subnet"]["SubnetId"])


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


async def test_a_full_subnet_leaves_its_share_to_the_others(
    session: Ec2Session, account_server: AccountServer
) -> None:
    small = small_subnet(AwsClients(account_server.url), keep_zones="bc")
    bench = LaunchBench(session)
    await bench.launched(COUNT, 1)
    assert owned_one_to_one(bench, account_server) == COUNT
    assert len(AwsClients(account_server.url).instances(subnet_id=small)) <= FREE_ADDRESSES


async def test_the_only_subnet_full_leaves_as_many_claims_as_there_are_addresses(
    session: Ec2Session, account_server: AccountServer
) -> None:
    small_subnet(AwsClients(account_server.url), keep_zones="")
    bench = LaunchBench(session)
    await bench.launched(COUNT, 1)
    assert owned_one_to_one(bench, account_server) == FREE_ADDRESSES
    await bench.launched(2, 1, first=COUNT)
    assert owned_one_to_one(bench, account_server) == FREE_ADDRESSES, "and nobody gets one that is not there"


async def test_without_redis_two_replicas_that_both_act_make_one_instance_for_each_claim(
    session: Ec2Session, account_server: AccountServer, dials: DialBoard, tmp_path: Path
) -> None:
    dials.post("faults", kind="fail", action="CreateFleet", after_effect=True, times=2)
    with TestRedis(tmp_path) as server:
        redis = connect(server.url)
        shared = Ec2Session(threads=16, budget=CallBudget(shared=CallBuckets(redis, "test:")))
        first = LaunchBench(shared, consistency_lag_s=3.0, leases=RedisLeases(redis, "test:"))
        await first.launched(2, 1)
        server.stop()
        second = LaunchBench(session, consistency_lag_s=3.0, leases=RedisLeases(redis, "test:"), beside=first)
        for claim in first.api.claims.values():
            second.stream.show(Change(Kind.NODE_CLAIM, claim.name, claim))
        await asyncio.gather(first.launched(COUNT, SETS, first=2), second.followed())
        await redis.aclose()
        shared.close()
    assert owned_one_to_one(first, account_server) == COUNT + 2


async def test_instances_end_once_and_all_of_them_whatever_fails(
    session: Ec2Session, account_server: AccountServer, dials: DialBoard
) -> None:
    bench = LaunchBench(session)
    await bench.launched(6, 1)
    kept, *ended = sorted(c.provider_id.rpartition("/")[2] for c in bench.api.claims.values())
    dials.post("faults", kind="throttle", action="TerminateInstances", times=2)
    dials.post("faults", kind="fail", action="TerminateInstances", after_effect=True)
    dials.post("faults", kind="fail", action="TerminateInstances")
    machines = Instances(session, cluster_uid="uid")
    await machines.terminate([*ended, "i-00000000000000000"])
    assert [i.id for i in await machines.list_ours() if i.alive] == [kept]


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


async def test_full_subnets_are_left_alone_one_by_one_and_their_zone_with_the_last(
    session: Ec2Session, account_server: AccountServer
) -> None:
    ec2 = AwsClients(account_server.url).ec2
    vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
    small = [
        ec2.create_subnet(VpcId=vpc, CidrBlock=f"172.31.{net}.0/28", AvailabilityZone=f"{REGION}a")["Subnet"]
        for net in (240, 241)
    ]
    large = next(s for s in ec2.describe_subnets()["Subnets"] if s["AvailabilityZone"] == f"{REGION}b")
    terms = tuple(SelectorTerm(id=subnet["SubnetId"]) for subnet in (*small, large))
    bench = LaunchBench(session, node_class=msgspec.structs.replace(CLASS, subnet_terms=terms))
    await bench.launched(COUNT, SETS)
    await bench.launched(COUNT, SETS, first=COUNT)
    assert owned_one_to_one(bench, account_server) == 2 * COUNT
    shown = {s["SubnetId"]: s["AvailableIpAddressCount"] for s in ec2.describe_subnets()["Subnets"]}
    assert [shown[s["SubnetId"]] for s in small] == [0, 0]
    assert {r.subnet for r in bench.offers.refused} == {s["SubnetId"] for s in small}
    assert {zone for c in bench.api.claims.values() if (zone := c.labels[keys.ZONE])} == {
        f"{REGION}a",
        f"{REGION}b",
    }

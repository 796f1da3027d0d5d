"""What is EC2's own in node classes, launch templates and launches, through real boto3; see also test_provider."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import msgspec
import pytest

from nodeyard.adapters.ec2.budget import CallBudget
from nodeyard.adapters.ec2.images import alias_parameters
from nodeyard.adapters.ec2.launch import Fleet
from nodeyard.adapters.ec2.launch_templates import LaunchTemplates, template_data
from nodeyard.adapters.ec2.node_class import Resolver
from nodeyard.adapters.ec2.session import Ec2Session
from nodeyard.api import labels as keys
from nodeyard.api.networking import ConnectionTracking, NetworkInterface
from nodeyard.api.nodeclass import (
    BlockDevice,
    BlockDeviceMapping,
    Image,
    Kubelet,
    NodeClass,
    SecurityGroup,
    SelectorTerm,
)
from nodeyard.api.selectors import Taint
from nodeyard.cloudprovider.boot import Boot
from nodeyard.cloudprovider.errors import IdempotencyMismatch, Throttled, Unreachable
from nodeyard.local.account.machines import userdata
from nodeyard.local.account.server import AccountServer
from nodeyard.provisioning.batches import LAUNCH_BATCH
from nodeyard.provisioning.claims import LaunchRecord, TemplateChoice
from nodeyard.provisioning.launches import missing_in
from tests.support.account import REGION, AwsClients, DialBoard, account, dials, session
from tests.support.clock import FakeClock
from tests.support.providers import batch, launched

__all__ = ["account", "dials", "session"]

FOUND_BY = (SelectorTerm(tags={"karpenter.sh/discovery": "nodeyard"}),)
CLASS = NodeClass(
    "default", uid="class-uid", generation=3, subnet_terms=FOUND_BY, security_group_terms=FOUND_BY,
    ami_terms=(SelectorTerm(alias="al2023@latest"),), role="KarpenterNodeRole-nodeyard",
)  # fmt: skip
BOOT = Boot(
    cluster="nodeyard",
    endpoint="https://api",
    labels={"team": "a"},
    taints=(Taint(keys.TAINT_UNREGISTERED, keys.NO_EXECUTE),),
)


def resolver(session: Ec2Session) -> Resolver:
    return Resolver(session, FakeClock(), cluster="nodeyard", cluster_uid="uid", kubernetes_version="1.36")


def templates(session: Ec2Session) -> LaunchTemplates:
    return LaunchTemplates(session, cluster="nodeyard", tags={keys.CLUSTER_UID_TAG: "uid"})


async def launchable(session: Ec2Session, *types: str, spot: bool = False) -> LaunchRecord:
    found = await resolver(session).resolve(CLASS)
    image = found.images[0]
    name = await templates(session).ensure(found, image, BOOT)
    rows = tuple((kind, s.zone, s.id) for kind in types for s in sorted(found.subnets, key=lambda s: s.zone))
    capacity_type = keys.SPOT if spot else keys.ON_DEMAND
    tags = {keys.CLUSTER_UID_TAG: "uid", "kubernetes.io/cluster/nodeyard": "owned"}
    return LaunchRecord(capacity_type, (TemplateChoice(name, image.id, rows),), tags)


# --- node classes -----------------------------------------------------------------------------------------------------
async def test_everything_that_a_class_names_is_found(session: Ec2Session) -> None:
    found = await resolver(session).resolve(CLASS)
    assert {s.zone for s in found.subnets} == {f"{REGION}{z}" for z in "abc"}
    assert all(s.zone_id for s in found.subnets)
    assert found.security_groups
    arches = {
        (r.values, len(i.requirements)) for i in found.images for r in i.requirements if r.key == keys.ARCH
    }
    assert {values for values, _ in arches} == {("amd64",), ("arm64",)}
    assert found.resolved_profile.startswith("nodeyard-nodeyard-")
    assert {c.type: c.status for c in found.conditions} == dict.fromkeys(
        (
            "AMIsReady",
            "InstanceProfileReady",
            "Ready",
            "SecurityGroupsReady",
            "SubnetsReady",
            "ValidationSucceeded",
        ),
        "True",
    )
    assert {c.observed_generation for c in found.conditions} == {3}


@pytest.mark.parametrize(
    ("alias", "count"),
    [("al2023@v20260801", 5), ("al2@latest", 3), ("bottlerocket@latest", 4), ("bottlerocket@1.48.0", 4)],
)
async def test_aliases_of_every_family_name_images(session: Ec2Session, alias: str, count: int) -> None:
    asked = msgspec.structs.replace(CLASS, ami_terms=(SelectorTerm(alias=alias),))
    found = await resolver(session).resolve(asked)
    assert len(found.images) == count


async def test_what_is_not_there_becomes_a_condition_that_says_so(session: Ec2Session) -> None:
    nothing = (SelectorTerm(tags={"no": "such"}),)
    asked = msgspec.structs.replace(
        CLASS, key="odd", subnet_terms=nothing, ami_terms=(SelectorTerm(id="ami-0"),), role=""
    )
    found = await resolver(session).resolve(asked)
    conditions = {c.type: c for c in found.conditions}
    assert conditions["SubnetsReady"].status == "False"
    assert "subnetSelectorTerms" in conditions["SubnetsReady"].message
    assert conditions["AMIsReady"].status == "False"
    assert "spec.role" in conditions["InstanceProfileReady"].message
    assert conditions["Ready"].status == "False"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"ami_family": "Bottlerocket", "user_data": "[settings"}, "not TOML"),
        ({"user_data": "kind: Pod"}, "NodeConfig"),
        ({"ami_family": "AL2", "kubelet": Kubelet(other={"someLaterField": 1})}, "someLaterField"),
        ({"ami_family": "Windows2022", "instance_store_policy": "RAID0"}, "RAID0"),
        ({"launch_template": "mine"}, "into an EC2NodeClass"),
    ],
)
async def test_a_class_whose_instances_could_not_join_is_not_launched_and_says_why(
    session: Ec2Session, fields: dict[str, Any], words: str
) -> None:
    found = await resolver(session).resolve(msgspec.structs.replace(CLASS, **fields))
    (condition,) = (c for c in found.conditions if c.type == "ValidationSucceeded")
    assert condition.status == "False"
    assert words in condition.message
    assert words in missing_in(found).message  # type: ignore[union-attr]


@pytest.mark.parametrize("year", ["2019", "2022", "2025"])
def test_windows_aliases_name_the_newest_image_of_their_year(year: str) -> None:
    ((path, requirements),) = alias_parameters(f"windows{year}", "latest", "1.36")
    assert path == (
        f"/aws/service/ami-windows-latest/Windows_Server-{year}-English-Core-EKS_Optimized-1.36/image_id"
    )
    assert {(r.key, r.values) for r in requirements} == {(keys.OS, ("windows",)), (keys.ARCH, ("amd64",))}
    assert alias_parameters(f"windows{year}", "v1", "1.36") == []


async def test_a_cloud_that_does_not_answer_makes_conditions_unknown(
    session: Ec2Session, dials: DialBoard
) -> None:
    dials.post("faults", kind="throttle", action="DescribeSubnets")
    found = await resolver(session).resolve(CLASS)
    conditions = {c.type: c.status for c in found.conditions}
    assert (conditions["SubnetsReady"], conditions["Ready"]) == ("Unknown", "Unknown")
    assert conditions["SecurityGroupsReady"] == "True"


async def test_what_was_found_is_not_asked_for_again(session: Ec2Session, dials: DialBoard) -> None:
    one = resolver(session)
    await one.resolve(CLASS)
    before = dials.get("calls")["counts"]
    await one.resolve(CLASS)
    assert dials.get("calls")["counts"] == before


# --- launch templates -------------------------------------------------------------------------------------------------
async def test_a_template_holds_what_the_machine_reads(session: Ec2Session, account: AccountServer) -> None:
    root = BlockDeviceMapping("/dev/xvda", True, BlockDevice(volume_size="100Gi", volume_type="gp3"))
    asked = msgspec.structs.replace(CLASS, block_device_mappings=(root,))
    found = await resolver(session).resolve(asked)
    name = await templates(session).ensure(found, found.images[0], BOOT)
    answer = AwsClients(account.url).ec2.describe_launch_template_versions(LaunchTemplateName=name)
    data = answer["LaunchTemplateVersions"][0]["LaunchTemplateData"]
    assert data["BlockDeviceMappings"][0]["Ebs"]["VolumeSize"] == 100
    assert data["MetadataOptions"]["HttpTokens"] == "required"
    assert data["SecurityGroupIds"] == [g.id for g in found.security_groups]
    boot = userdata.read(base64.b64decode(data["UserData"]).decode())
    assert boot.labels == {"team": "a"}
    assert [(t.key, t.effect) for t in boot.taints] == [(keys.TAINT_UNREGISTERED, keys.NO_EXECUTE)]


async def test_interfaces_are_launched_as_the_class_says(session: Ec2Session, account: AccountServer) -> None:
    asked = msgspec.structs.replace(
        CLASS,
        network_interfaces=(
            NetworkInterface(),
            NetworkInterface(0, 1, "efa-only"),
            NetworkInterface(1, 0, "efa-only"),
        ),
        ip_prefix_count=2,
        connection_tracking=ConnectionTracking(tcp_established_timeout=600),
        associate_public_ip=False,
    )
    found = await resolver(session).resolve(asked)
    name = await templates(session).ensure(found, found.images[0], BOOT)
    answer = AwsClients(account.url).ec2.describe_launch_template_versions(LaunchTemplateName=name)
    data = answer["LaunchTemplateVersions"][0]["LaunchTemplateData"]
    groups = [g.id for g in found.security_groups]
    assert "SecurityGroupIds" not in data
    assert data["NetworkInterfaces"] == [
        {
            "DeviceIndex": 0,
            "Groups": groups,
            "Ipv4PrefixCount": 2,
            "ConnectionTrackingSpecification": {"TcpEstablishedTimeout": 600},
        },
        {"DeviceIndex": 1, "Groups": groups, "InterfaceType": "efa-only"},
        {"DeviceIndex": 0, "Groups": groups, "InterfaceType": "efa-only", "NetworkCardIndex": 1},
    ]
    aws = AwsClients(account.url)
    zone = f"{REGION}a"
    made = aws.fleet([("c6in.32xlarge", zone)], template=name)["Instances"][0]["InstanceIds"]
    (shown,) = aws.instances(instance_id=made[0])
    assert [i["InterfaceType"] for i in shown["NetworkInterfaces"]] == ["interface", "efa-only", "efa-only"]
    assert [e["ErrorCode"] for e in aws.fleet([("m5.large", zone)], template=name)["Errors"]]


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ({}, None),
        ({"associate_public_ip": True}, {"AssociatePublicIpAddress": True}),
        ({"ip_prefix_count": 1}, {"Ipv4PrefixCount": 1}),
        (
            {"connection_tracking": ConnectionTracking(udp_timeout=45)},
            {"ConnectionTrackingSpecification": {"UdpTimeout": 45}},
        ),
    ],
)
def test_one_interface_is_spelled_out_only_where_something_is_asked_of_it(
    asked: dict[str, Any], wanted: dict[str, Any] | None
) -> None:
    of = msgspec.structs.replace(CLASS, security_groups=(SecurityGroup("sg-1"),), **asked)
    data = template_data(of, Image("ami-1"), BOOT)
    expected = None if wanted is None else [{"DeviceIndex": 0, "Groups": ["sg-1"], **wanted}]
    assert data.get("NetworkInterfaces") == expected
    assert data.get("SecurityGroupIds") == (["sg-1"] if wanted is None else None)


async def test_a_template_wanted_by_many_at_once_is_made_once(session: Ec2Session, dials: DialBoard) -> None:
    found = await resolver(session).resolve(CLASS)
    made, boot = templates(session), msgspec.structs.replace(BOOT, labels={"team": "crowd"})
    before = dials.get("calls")["counts"].get("CreateLaunchTemplate", 0)
    names = await asyncio.gather(*(made.ensure(found, found.images[0], boot) for _ in range(20)))
    assert len(set(names)) == 1
    assert dials.get("calls")["counts"]["CreateLaunchTemplate"] == before + 1


# --- launches ---------------------------------------------------------------------------------------------------------
@pytest.fixture
def fleet(session: Ec2Session) -> Fleet:
    return Fleet(session, cluster_uid="uid")


async def test_a_single_claims_instance_carries_what_it_is_found_by(
    session: Ec2Session, fleet: Fleet, account: AccountServer
) -> None:
    record = await launchable(session, "m5.large")
    (made,) = (await launched(fleet, record, "web-2")).made
    (found,) = await fleet.find(batch(fleet, record, "web-2"))
    assert (found.made, found.claim_uid, found.alive) == (made, "web-2-uid", True)
    tags = tags_of(account, made.instance_id)
    assert tags[keys.NODECLAIM_TAG] == tags["Name"] == "web-2"
    assert tags[keys.CLUSTER_UID_TAG] == "uid"
    assert tags["kubernetes.io/cluster/nodeyard"] == "owned"
    assert made.instance_id not in await fleet.unnamed()


@pytest.mark.parametrize("spot", [False, True])
async def test_ec2_goes_by_its_own_prices_unless_they_are_ours(
    session: Ec2Session, fleet: Fleet, dials: DialBoard, spot: bool
) -> None:
    """m5.xlarge costs twice what m5.large does, unless it is paid for already."""
    record = await launchable(session, "m5.large", "m5.xlarge", spot=spot)
    prices = {
        f"{kind}/{REGION}{z}": usd for kind, usd in (("m5.large", 0.1), ("m5.xlarge", 0.01)) for z in "abc"
    }
    record = msgspec.structs.replace(record, prices=prices)
    ours = msgspec.structs.replace(record, prioritized=True)
    (theirs,) = (await launched(fleet, record, f"theirs-{spot}")).made
    (made,) = (await launched(fleet, ours, f"ours-{spot}")).made
    assert (theirs.instance_type, made.instance_type) == ("m5.large", "m5.xlarge")


async def test_instances_of_a_batch_carry_its_id_and_their_claims_tags_once_told(
    session: Ec2Session, fleet: Fleet, account: AccountServer
) -> None:
    record = await launchable(session, "m5.large")
    together = batch(fleet, record, "tag-1", "tag-2")
    answer = await fleet.launch(record, together)
    ids = {made.instance_id for made in answer.made}
    assert {f.made.instance_id for f in await fleet.find(together)} == ids
    assert {i: b for i, b in (await fleet.unnamed()).items() if i in ids} == dict.fromkeys(ids, together.id)
    one, two = sorted(ids)
    await fleet.name(one, "tag-1", "tag-1-uid", named=False)
    await fleet.name(two, "tag-2", "tag-2-uid", named=True)
    assert {f.claim_uid for f in await fleet.find(together)} == {"tag-1-uid", "tag-2-uid"}
    assert not ids & set(await fleet.unnamed())
    tags = tags_of(account, one)
    assert (tags["Name"], tags[keys.NODECLAIM_TAG], tags[LAUNCH_BATCH]) == ("tag-1", "tag-1", together.id)
    assert "Name" not in tags_of(account, two)


def tags_of(account: AccountServer, instance_id: str) -> dict[str, str]:
    (shown,) = AwsClients(account.url).instances(instance_id=instance_id)
    return {t["Key"]: t["Value"] for t in shown["Tags"]}


async def test_no_capacity_at_all_is_a_refusal_of_every_offering(
    session: Ec2Session, fleet: Fleet, dials: DialBoard
) -> None:
    dials.post("capacity", instance_type="c5.large", zone="*", capacity_type="*")
    refused = await launched(fleet, await launchable(session, "c5.large"), "web-5")
    assert (refused.made, refused.error) == ((), None)
    assert {(r.instance_type, r.zone, r.capacity_type) for r in refused.refusals} == {
        ("c5.large", f"{REGION}{z}", "on-demand") for z in "abc"
    }
    assert {r.code for r in refused.refusals} == {"InsufficientInstanceCapacity"}


async def test_a_request_that_would_be_worded_otherwise_is_not_sent(
    session: Ec2Session, fleet: Fleet, dials: DialBoard
) -> None:
    record = await launchable(session, "m5.large")
    theirs = batch(fleet, await launchable(session, "m5.xlarge"), "web-6")
    before = dials.get("calls")["counts"].get("CreateFleet", 0)
    with pytest.raises(IdempotencyMismatch):
        await fleet.launch(record, theirs)
    assert dials.get("calls")["counts"].get("CreateFleet", 0) == before


async def test_throttling_reaches_the_caller_as_such(
    session: Ec2Session, fleet: Fleet, dials: DialBoard
) -> None:
    record = await launchable(session, "m5.large")
    dials.post("faults", kind="throttle", action="CreateFleet")
    with pytest.raises(Throttled):
        await launched(fleet, record, "web-8")


async def test_within_a_budget_throttled_and_unanswered_calls_are_repeated(
    session: Ec2Session, account: AccountServer, dials: DialBoard
) -> None:
    record = await launchable(session, "m5.large")
    patient = Ec2Session(budget=CallBudget())
    fleet = Fleet(patient, cluster_uid="uid")
    dials.post("faults", kind="throttle", action="CreateFleet", times=2)
    dials.post("faults", kind="fail", action="CreateFleet", after_effect=True)
    answer = await launched(fleet, record, "patient-1", "patient-2")
    found = await fleet.find(batch(fleet, record, "patient-1", "patient-2"))
    patient.close()
    assert len(answer.made) == len(found) == 2


async def test_a_launch_whose_answer_is_lost_is_found_and_not_repeated(
    session: Ec2Session, fleet: Fleet, dials: DialBoard
) -> None:
    record = await launchable(session, "m5.large")
    dials.post("faults", kind="fail", action="CreateFleet", after_effect=True)
    with pytest.raises(Unreachable) as lost:
        await launched(fleet, record, "web-9")
    assert lost.value.may_have_taken_effect
    (found,) = await fleet.find(batch(fleet, record, "web-9"))
    assert (await launched(fleet, record, "web-9")).made == (found.made,)

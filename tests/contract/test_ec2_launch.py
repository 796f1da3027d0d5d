"""Node classes, launch templates and launches through real boto3 against the simulated account."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import msgspec
import pytest

from nodeyard.adapters.ec2.launch import Fleet
from nodeyard.adapters.ec2.launch_templates import LaunchTemplates
from nodeyard.adapters.ec2.node_class import Resolver
from nodeyard.adapters.ec2.session import Ec2Session
from nodeyard.adapters.ec2.user_data import Boot
from nodeyard.api import labels as keys
from nodeyard.api.nodeclass import BlockDevice, BlockDeviceMapping, NodeClass, SelectorTerm
from nodeyard.api.selectors import Taint
from nodeyard.cloudprovider.errors import IdempotencyMismatch, NotFound, Throttled, Unreachable
from nodeyard.local.account.machines import userdata
from nodeyard.local.account.server import AccountServer
from nodeyard.provisioning.claims import LaunchRecord, TemplateChoice
from nodeyard.provisioning.launches import Launched, Refused
from tests.support.account import REGION, AwsClients, DialBoard
from tests.support.clock import FakeClock

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


@pytest.fixture(scope="module")
def account() -> Iterator[AccountServer]:
    with AccountServer(region=REGION) as server:
        yield server


@pytest.fixture
def dials(account: AccountServer) -> Iterator[DialBoard]:
    board = DialBoard(account.url)
    yield board
    board.delete()


@pytest.fixture
def session(account: AccountServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ec2Session]:
    for name, value in {
        "AWS_ENDPOINT_URL": account.url, "AWS_REGION": REGION, "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    session = Ec2Session(attempts=1)
    yield session
    session.close()


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


async def test_the_same_content_is_one_template_for_every_replica(
    session: Ec2Session, dials: DialBoard
) -> None:
    found = await resolver(session).resolve(CLASS)
    first, second = templates(session), templates(session)
    name = await first.ensure(found, found.images[0], BOOT)
    assert await second.ensure(found, found.images[0], BOOT) == name
    other = msgspec.structs.replace(BOOT, labels={"team": "b"})
    assert await first.ensure(found, found.images[0], other) != name
    before = dials.get("calls")["counts"]["CreateLaunchTemplate"]
    await first.ensure(found, found.images[0], BOOT)
    assert dials.get("calls")["counts"]["CreateLaunchTemplate"] == before


async def test_templates_of_a_class_are_deleted_with_it(session: Ec2Session) -> None:
    asked = msgspec.structs.replace(CLASS, key="going", uid="going")
    found = await resolver(session).resolve(asked)
    made = templates(session)
    await made.ensure(found, found.images[0], msgspec.structs.replace(BOOT, labels={"team": "going"}))
    assert await made.delete_of("going") == 1
    assert await made.delete_of("going") == 0


# --- launches ---------------------------------------------------------------------------------------------------------
async def test_repeating_a_launch_gives_the_same_instance(session: Ec2Session) -> None:
    record = await launchable(session, "m5.large")
    fleet = Fleet(session, cluster_uid="uid")
    first = await fleet.launch("web-1", "claim-uid-1", record)
    assert isinstance(first, Launched)
    assert await fleet.launch("web-1", "claim-uid-1", record) == first
    assert first.instance_type == "m5.large"
    assert first.provider_id == f"aws:///{first.zone}/{first.instance_id}"


async def test_an_instance_carries_what_it_is_found_by(session: Ec2Session, account: AccountServer) -> None:
    record = await launchable(session, "m5.large")
    fleet = Fleet(session, cluster_uid="uid")
    made = await fleet.launch("web-2", "claim-uid-2", record)
    assert isinstance(made, Launched)
    found = await fleet.find("claim-uid-2")
    assert found is not None
    assert (found.instance_id, found.zone, found.capacity_type) == (made.instance_id, made.zone, "on-demand")
    (shown,) = AwsClients(account.url).instances(instance_id=made.instance_id)
    tags = {t["Key"]: t["Value"] for t in shown["Tags"]}
    assert tags[keys.NODECLAIM_TAG] == "web-2"
    assert tags[keys.CLUSTER_UID_TAG] == "uid"
    assert tags["kubernetes.io/cluster/nodeyard"] == "owned"


async def test_a_terminated_instance_is_not_found(session: Ec2Session) -> None:
    fleet = Fleet(session, cluster_uid="uid")
    made = await fleet.launch("web-3", "claim-uid-3", await launchable(session, "m5.large"))
    assert isinstance(made, Launched)
    await fleet.terminate(made.instance_id)
    assert await fleet.find("claim-uid-3") is None
    assert await fleet.find("never-launched") is None


async def test_a_full_zone_is_told_and_another_is_taken(session: Ec2Session, dials: DialBoard) -> None:
    dials.post("capacity", instance_type="c5.large", zone=f"{REGION}a", capacity_type="*")
    dials.post("capacity", instance_type="c5.large", zone=f"{REGION}b", capacity_type="*")
    made = await Fleet(session, cluster_uid="uid").launch(
        "web-4", "uid-4", await launchable(session, "c5.large", spot=True)
    )
    assert isinstance(made, Launched)
    assert made.zone == f"{REGION}c"
    assert made.capacity_type == keys.SPOT


async def test_no_capacity_at_all_is_a_refusal_of_every_offering(
    session: Ec2Session, dials: DialBoard
) -> None:
    dials.post("capacity", instance_type="c5.large", zone="*", capacity_type="*")
    refused = await Fleet(session, cluster_uid="uid").launch(
        "web-5", "uid-5", await launchable(session, "c5.large")
    )
    assert isinstance(refused, Refused)
    assert {(r.instance_type, r.zone, r.capacity_type) for r in refused.refusals} == {
        ("c5.large", f"{REGION}{z}", "on-demand") for z in "abc"
    }
    assert {r.code for r in refused.refusals} == {"InsufficientInstanceCapacity"}


async def test_a_token_with_another_request_is_refused_as_such(session: Ec2Session) -> None:
    fleet = Fleet(session, cluster_uid="uid")
    await fleet.launch("web-6", "uid-6", await launchable(session, "m5.large"))
    with pytest.raises(IdempotencyMismatch):
        await fleet.launch("web-6", "uid-6", await launchable(session, "m5.xlarge"))


async def test_a_lost_template_is_a_missing_object(session: Ec2Session) -> None:
    record = await launchable(session, "m5.large")
    choice = msgspec.structs.replace(record.choices[0], template="no-such-template")
    with pytest.raises(NotFound):
        await Fleet(session, cluster_uid="uid").launch(
            "web-7", "uid-7", msgspec.structs.replace(record, choices=(choice,))
        )


async def test_throttling_reaches_the_caller_as_such(session: Ec2Session, dials: DialBoard) -> None:
    record = await launchable(session, "m5.large")
    dials.post("faults", kind="throttle", action="CreateFleet")
    with pytest.raises(Throttled):
        await Fleet(session, cluster_uid="uid").launch("web-8", "uid-8", record)


async def test_a_launch_whose_answer_is_lost_is_found_and_not_repeated(
    session: Ec2Session, dials: DialBoard
) -> None:
    record = await launchable(session, "m5.large")
    fleet = Fleet(session, cluster_uid="uid")
    dials.post("faults", kind="fail", action="CreateFleet", after_effect=True)
    with pytest.raises(Unreachable) as lost:
        await fleet.launch("web-9", "uid-9", record)
    assert lost.value.may_have_taken_effect
    found = await fleet.find("uid-9")
    again = await fleet.launch("web-9", "uid-9", record)
    assert found is not None
    assert isinstance(again, Launched)
    assert again.instance_id == found.instance_id

"""What a node class's selectors find in the account, for how long that is remembered, and what it keeps there."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest

from nodeyard.adapters.ec2.launch_templates import template_data
from nodeyard.adapters.ec2.node_class import ALIAS_S, GROUPS_S, SUBNETS_S, Resolver, managed_profile
from nodeyard.adapters.ec2.session import Ec2Session
from nodeyard.api.nodeclass import BlockDevice, BlockDeviceMapping, Image, NodeClass, SelectorTerm
from nodeyard.cloudprovider.boot import Boot
from nodeyard.local.account.server import AccountServer
from tests.support.account import REGION, AwsClients, account, session
from tests.support.clock import FakeClock
from tests.support.launching import CLASS

__all__ = ["account", "session"]


@pytest.fixture
def aws(account: AccountServer) -> AwsClients:
    return AwsClients(account.url)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def resolver(session: Ec2Session, clock: FakeClock) -> Resolver:
    return resolver_over(session, clock)


def resolver_over(session: Any, clock: FakeClock) -> Resolver:
    return Resolver(session, clock, cluster="nodeyard", cluster_uid="uid", kubernetes_version="1.36")


def made_subnet(aws: AwsClients, cidr: str, **tags: str) -> str:
    vpc = aws.ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
    marks = [{"Key": key, "Value": value} for key, value in tags.items()]
    made = aws.ec2.create_subnet(
        VpcId=vpc, CidrBlock=cidr, AvailabilityZone=f"{REGION}a",
        TagSpecifications=[{"ResourceType": "subnet", "Tags": marks}] if marks else [],
    )  # fmt: skip
    return str(made["Subnet"]["SubnetId"])


def made_group(aws: AwsClients, name: str, **tags: str) -> str:
    vpc = aws.ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
    group = aws.ec2.create_security_group(GroupName=name, Description=name, VpcId=vpc)["GroupId"]
    aws.ec2.create_tags(
        Resources=[group],
        Tags=[{"Key": k, "Value": v} for k, v in tags.items()] or [{"Key": "x", "Value": ""}],
    )
    return str(group)


# --- selectors --------------------------------------------------------------------------------------------------------
async def test_terms_are_ored_their_tags_anded_and_a_star_stands_for_anything(
    resolver: Resolver, aws: AwsClients
) -> None:
    both = made_subnet(aws, "172.31.200.0/28", team="red-one", tier="app")
    half = made_subnet(aws, "172.31.201.0/28", team="red-two")
    byid = made_subnet(aws, "172.31.202.0/28")

    async def found(*terms: SelectorTerm) -> set[str]:
        resolved = await resolver.resolve(msgspec.structs.replace(CLASS, subnet_terms=terms))
        return {subnet.id for subnet in resolved.subnets}

    assert await found(SelectorTerm(tags={"team": "red-*", "tier": "*"})) == {both}
    assert await found(SelectorTerm(tags={"team": "red-*"})) == {both, half}
    assert await found(SelectorTerm(id=byid), SelectorTerm(tags={"team": "red-two"})) == {byid, half}


async def test_security_groups_are_selected_by_name_too(resolver: Resolver, aws: AwsClients) -> None:
    named, tagged = made_group(aws, "web-front"), made_group(aws, "other", team="sg")
    terms = (SelectorTerm(name="web-*"), SelectorTerm(tags={"team": "sg"}))
    found = await resolver.resolve(msgspec.structs.replace(CLASS, security_group_terms=terms))
    assert {group.id for group in found.security_groups} == {named, tagged}


async def test_subnets_are_looked_up_again_each_minute_and_security_groups_each_five(
    resolver: Resolver, clock: FakeClock, aws: AwsClients
) -> None:
    made_subnet(aws, "172.31.203.0/28", again="yes")
    made_group(aws, "again-1", again="yes")
    again = (SelectorTerm(tags={"again": "yes"}),)
    asked = msgspec.structs.replace(CLASS, subnet_terms=again, security_group_terms=again)

    async def counts() -> tuple[int, int]:
        found = await resolver.resolve(asked)
        return len(found.subnets), len(found.security_groups)

    assert await counts() == (1, 1)
    made_subnet(aws, "172.31.204.0/28", again="yes")
    made_group(aws, "again-2", again="yes")
    await clock.advance(SUBNETS_S - 1.0)
    assert await counts() == (1, 1)
    await clock.advance(2.0)
    assert await counts() == (2, 1)
    await clock.advance(GROUPS_S - SUBNETS_S)
    assert await counts() == (2, 2)


async def test_what_was_not_there_is_looked_for_again_after_a_minute(
    resolver: Resolver, clock: FakeClock, aws: AwsClients
) -> None:
    late = msgspec.structs.replace(CLASS, security_group_terms=(SelectorTerm(tags={"late": "yes"}),))
    assert (await resolver.resolve(late)).security_groups == ()
    group = made_group(aws, "late", late="yes")
    await clock.advance(61.0)
    assert [g.id for g in (await resolver.resolve(late)).security_groups] == [group]


# --- images -----------------------------------------------------------------------------------------------------------
class ImageShelf:
    """An account that has these images and nothing else; remembers how it was asked."""

    def __init__(self, *images: dict[str, Any]) -> None:
        self.images = [{"State": "available", "Architecture": "x86_64", **image} for image in images]
        self.asked: list[dict[str, Any]] = []

    async def pages(self, service: str, operation: str, **params: Any) -> list[dict[str, Any]]:
        if operation != "describe_images":
            return []
        self.asked.append(params)
        return [{"Images": self.images}]

    async def call(self, service: str, operation: str, **params: Any) -> dict[str, Any]:
        return {"InstanceProfile": {"Roles": []}}


async def images_of(shelf: ImageShelf, clock: FakeClock) -> list[str]:
    asked = msgspec.structs.replace(CLASS, ami_family="Custom", ami_terms=(SelectorTerm(name="mine-*"),))
    return [image.id for image in (await resolver_over(shelf, clock).resolve(asked)).images]


async def test_the_newest_image_comes_first_and_deprecated_ones_last(clock: FakeClock) -> None:
    """AWS's own images name the time of their deprecation, two years ahead, from the day they are made."""
    ahead, past = "2999-01-01T00:00:00.000Z", "1970-01-01T00:00:00.000Z"
    shelf = ImageShelf(
        {"ImageId": "ami-old", "CreationDate": "2026-01-01T00:00:00.000Z"},
        {"ImageId": "ami-gone", "CreationDate": "2026-09-01T00:00:00.000Z", "DeprecationTime": past},
        {"ImageId": "ami-new", "CreationDate": "2026-08-01T00:00:00.000Z", "DeprecationTime": ahead},
    )
    assert await images_of(shelf, clock) == ["ami-new", "ami-old", "ami-gone"]
    assert shelf.asked[0]["IncludeDeprecated"], "usable where there is nothing else"
    assert shelf.asked[0]["Owners"] == ["self", "amazon"]


async def test_images_that_no_machine_of_ours_boots_are_left_out(clock: FakeClock) -> None:
    shelf = ImageShelf(
        {"ImageId": "ami-mac", "Architecture": "arm64_mac"},
        {"ImageId": "ami-32", "Architecture": "i386"},
        {"ImageId": "ami-pending", "State": "pending"},
        {"ImageId": "ami-arm", "Architecture": "arm64"},
    )
    assert await images_of(shelf, clock) == ["ami-arm"]


async def test_what_a_parameter_stands_for_is_read_again_after_half_an_hour(
    resolver: Resolver, clock: FakeClock, aws: AwsClients
) -> None:
    first, second = (i["ImageId"] for i in aws.ec2.describe_images(Owners=["amazon"])["Images"][:2])
    ssm = aws.of("ssm")
    ssm.put_parameter(Name="/mine/image", Value=first, Type="String")
    asked = msgspec.structs.replace(
        CLASS, ami_family="Custom", ami_terms=(SelectorTerm(ssm_parameter="/mine/image"),)
    )
    assert [i.id for i in (await resolver.resolve(asked)).images] == [first]
    ssm.put_parameter(Name="/mine/image", Value=second, Type="String", Overwrite=True)
    await clock.advance(ALIAS_S - 1.0)
    assert [i.id for i in (await resolver.resolve(asked)).images] == [first]
    await clock.advance(302.0)
    assert [i.id for i in (await resolver.resolve(asked)).images] == [second]


# --- identity ---------------------------------------------------------------------------------------------------------
async def test_a_profile_is_kept_for_a_role_follows_it_and_goes_with_the_class(
    session: Ec2Session, aws: AwsClients
) -> None:
    iam = aws.of("iam")
    iam.create_role(RoleName="another", AssumeRolePolicyDocument="{}")
    asked = msgspec.structs.replace(CLASS, key="kept", uid="kept-uid")
    name = managed_profile("nodeyard", asked)

    def roles() -> list[str]:
        found = iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]["Roles"]
        return [role["RoleName"] for role in found]

    assert (await resolver_over(session, FakeClock()).resolve(asked)).resolved_profile == name
    assert roles() == ["KarpenterNodeRole-nodeyard"]
    turned = msgspec.structs.replace(asked, role="arn:aws:iam::123456789012:role/another")
    await resolver_over(session, FakeClock()).resolve(turned)
    assert roles() == ["another"]
    own = msgspec.structs.replace(asked, role="", instance_profile="of-my-own")
    assert (await resolver_over(session, FakeClock()).resolve(own)).resolved_profile == "of-my-own"
    await resolver_over(session, FakeClock()).delete_profile(own)
    with pytest.raises(iam.exceptions.NoSuchEntityException):
        roles()


# --- what goes into the launch template -------------------------------------------------------------------------------
def data_of(node_class: NodeClass) -> dict[str, Any]:
    return template_data(node_class, Image("ami-1"), Boot("nodeyard", endpoint="https://api"))


def test_metadata_is_served_by_imdsv2_to_the_node_alone_unless_said_otherwise() -> None:
    assert data_of(CLASS)["MetadataOptions"] == {
        "HttpEndpoint": "enabled", "HttpProtocolIpv6": "disabled", "HttpPutResponseHopLimit": 1, "HttpTokens": "required",
    }  # fmt: skip


def test_disks_are_encrypted_and_end_with_the_instance_unless_said_otherwise() -> None:
    (default,) = data_of(CLASS)["BlockDeviceMappings"]
    assert default == {
        "DeviceName": "/dev/xvda",
        "Ebs": {"VolumeSize": 20, "VolumeType": "gp3", "Encrypted": True, "DeleteOnTermination": True},
    }
    fast = BlockDevice(
        volume_size="50Gi", volume_type="io2", iops=4000, encrypted=False, snapshot_id="snap-1",
        delete_on_termination=False, volume_initialization_rate=200,
    )  # fmt: skip
    asked = msgspec.structs.replace(
        CLASS, block_device_mappings=(BlockDeviceMapping("/dev/xvdb", False, fast),)
    )
    assert data_of(asked)["BlockDeviceMappings"] == [
        {
            "DeviceName": "/dev/xvdb",
            "Ebs": {
                "VolumeSize": 50, "VolumeType": "io2", "Iops": 4000, "Encrypted": False, "DeleteOnTermination": False,
                "SnapshotId": "snap-1", "VolumeInitializationRate": 200,
            },
        }
    ]  # fmt: skip


def test_user_data_of_the_class_comes_before_what_joins_the_node() -> None:
    script = "#!/bin/bash\necho mine"
    text = base64.b64decode(data_of(msgspec.structs.replace(CLASS, user_data=script))["UserData"]).decode()
    assert text.index("echo mine") < text.index("https://api")

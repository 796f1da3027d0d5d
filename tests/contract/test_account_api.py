"""The mended AWS APIs of the simulated account, each held against a real boto3 client."""

from __future__ import annotations

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import Any

import pytest
from botocore.exceptions import ClientError

from nodeyard.local.account.server import AccountServer
from tests.support.account import AwsClients, DialBoard, account_server, node_config
from tests.support.cluster import eventually

__all__ = ["account_server"]

A, B, C = "eu-west-1a", "eu-west-1b", "eu-west-1c"


@pytest.fixture
def aws(account_server: AccountServer) -> AwsClients:
    return AwsClients(account_server.url)


@pytest.fixture
def dials(account_server: AccountServer) -> DialBoard:
    return DialBoard(account_server.url)


@pytest.fixture
def nodes(aws: AwsClients) -> AwsClients:
    """The clients, with a launch template `nodes`."""
    aws.template(user_data=node_config())
    return aws


def code(refused: pytest.ExceptionInfo[ClientError]) -> str:
    return str(refused.value.response["Error"]["Code"])


def launched(answer: dict[str, Any]) -> list[str]:
    return [instance for group in answer["Instances"] for instance in group["InstanceIds"]]


def test_the_patches_over_moto_are_held_against_this_version_of_it():
    assert version("moto") == "5.2.5"


# -- what is there from the start


def test_subnets_and_security_group_are_found_by_the_clusters_tags(aws: AwsClients):
    assert set(aws.subnets()) == {A, B, C}
    for key, value in (("kubernetes.io/cluster/nodeyard", "owned"), ("karpenter.sh/discovery", "nodeyard")):
        groups = aws.ec2.describe_security_groups(Filters=[{"Name": f"tag:{key}", "Values": [value]}])
        assert [group["GroupName"] for group in groups["SecurityGroups"]] == ["nodeyard-nodes"]


def test_zones_have_ids(aws: AwsClients):
    zones = aws.ec2.describe_availability_zones()["AvailabilityZones"]
    assert {zone["ZoneName"]: zone["ZoneId"] for zone in zones}[A].startswith("euw1-az")


@pytest.mark.parametrize(
    ("parameter", "architecture", "name"),
    [
        (
            "eks/optimized-ami/1.36/amazon-linux-2023/x86_64/standard/recommended",
            "x86_64",
            "amazon-eks-node-al2023",
        ),
        (
            "eks/optimized-ami/1.36/amazon-linux-2023/arm64/standard/recommended",
            "arm64",
            "amazon-eks-node-al2023",
        ),
        ("eks/optimized-ami/1.31/amazon-linux-2-arm64/recommended", "arm64", "amazon-eks-arm64-node-1.31"),
        ("bottlerocket/aws-k8s-1.36/arm64/latest", "arm64", "bottlerocket-aws-k8s-1.36-aarch64"),
    ],
)
def test_recommended_images_exist_with_their_architecture(
    aws: AwsClients, parameter: str, architecture: str, name: str
):
    image = aws.of("ssm").get_parameter(Name=f"/aws/service/{parameter}/image_id")["Parameter"]["Value"]
    found = aws.ec2.describe_images(ImageIds=[image])["Images"][0]
    assert found["Architecture"] == architecture
    assert found["Name"].startswith(name)


def test_the_recommended_image_is_the_newest_of_its_name(aws: AwsClients):
    wanted = [{"Name": "name", "Values": ["amazon-eks-node-al2023-x86_64-standard-1.36-*"]}]
    images = aws.ec2.describe_images(Owners=["amazon"], Filters=wanted)["Images"]
    assert len(images) == 2
    assert max(images, key=lambda image: image["CreationDate"])["ImageId"] == aws.image()


def test_profile_role_and_queue_exist(aws: AwsClients):
    profile = aws.of("iam").get_instance_profile(InstanceProfileName="KarpenterNodeInstanceProfile-nodeyard")
    assert profile["InstanceProfile"]["Roles"][0]["RoleName"] == "KarpenterNodeRole-nodeyard"
    assert aws.of("sqs").get_queue_url(QueueName="nodeyard")["QueueUrl"].endswith("/nodeyard")
    assert aws.of("sts").get_caller_identity()["Account"] == "123456789012"


# -- CreateFleet


def test_a_fleet_launches_with_all_that_the_template_says(aws: AwsClients):
    group = aws.ec2.describe_security_groups(GroupNames=["nodeyard-nodes"])["SecurityGroups"][0]["GroupId"]
    aws.template(
        user_data="#!/bin/sh\n",
        IamInstanceProfile={"Name": "KarpenterNodeRole-nodeyard"},
        SecurityGroupIds=[group],
        BlockDeviceMappings=[{"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 77, "VolumeType": "gp3"}}],
        MetadataOptions={"HttpTokens": "required", "HttpPutResponseHopLimit": 2},
        TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "from", "Value": "template"}]}],
    )
    answer = aws.fleet([("m5.large", B)], token="t-1", tags={"karpenter.sh/nodeclaim": "c-1"})
    assert answer["Errors"] == []
    (found,) = aws.instances(client_token="t-1")
    assert found["InstanceId"] == launched(answer)[0]
    assert found["Placement"]["AvailabilityZone"] == B
    assert found["SubnetId"] == aws.subnets()[B]
    assert found["IamInstanceProfile"]["Arn"].endswith("instance-profile/KarpenterNodeRole-nodeyard")
    assert [each["GroupId"] for each in found["SecurityGroups"]] == [group]
    assert found["MetadataOptions"]["HttpTokens"] == "required"
    assert found["ImageId"] == aws.image()
    assert (
        found["PrivateDnsName"]
        == f"ip-{found['PrivateIpAddress'].replace('.', '-')}.eu-west-1.compute.internal"
    )
    assert "InstanceLifecycle" not in found
    tags = {tag["Key"]: tag["Value"] for tag in found["Tags"]}
    assert tags["from"] == "template"
    assert tags["karpenter.sh/nodeclaim"] == "c-1"
    assert tags["aws:ec2:fleet-id"] == answer["FleetId"]
    volume = found["BlockDeviceMappings"][0]["Ebs"]["VolumeId"]
    assert aws.ec2.describe_volumes(VolumeIds=[volume])["Volumes"][0]["Size"] == 77
    data = aws.ec2.describe_instance_attribute(InstanceId=found["InstanceId"], Attribute="userData")
    assert base64.b64decode(data["UserData"]["Value"]) == b"#!/bin/sh\n"


def test_the_same_token_with_the_same_parameters_launches_once(nodes: AwsClients):
    first, second = (nodes.fleet([("m5.large", A), ("m5.large", B)], token="same") for _ in range(2))
    assert launched(first) == launched(second)
    assert len(nodes.instances()) == 1


def test_one_token_from_many_threads_launches_once(nodes: AwsClients):
    nodes.subnets()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: nodes.fleet([("m5.large", A)], token="one"), range(8)))
    assert len({launched(answer)[0] for answer in answers}) == 1
    assert len(nodes.instances()) == 1


def test_the_same_token_with_other_parameters_is_refused(nodes: AwsClients):
    nodes.fleet([("m5.large", A)], token="same")
    with pytest.raises(ClientError) as refused:
        nodes.fleet([("m5.xlarge", A)], token="same")
    assert code(refused) == "IdempotentParameterMismatch"
    assert len(nodes.instances()) == 1


def test_a_dry_run_launches_nothing(nodes: AwsClients):
    with pytest.raises(ClientError) as refused:
        nodes.ec2.create_fleet(
            DryRun=True,
            Type="instant",
            LaunchTemplateConfigs=[
                {"LaunchTemplateSpecification": {"LaunchTemplateName": "nodes", "Version": "1"}}
            ],
            TargetCapacitySpecification={"TotalTargetCapacity": 1},
        )
    assert code(refused) == "DryRunOperation"
    assert nodes.instances() == []


def test_on_demand_takes_the_cheapest_pool_whatever_the_order(nodes: AwsClients):
    pools = [("m5.4xlarge", A), ("m5.xlarge", B), ("m5.large", C)]
    assert nodes.fleet(pools)["Instances"][0]["InstanceType"] == "m5.large"


def test_on_demand_prioritized_follows_the_priorities(nodes: AwsClients):
    pools = [("m5.large", A), ("m5.xlarge", B)]
    answer = nodes.fleet(pools, strategy="prioritized", priorities=[2.0, 1.0])
    assert answer["Instances"][0]["InstanceType"] == "m5.xlarge"


def test_spot_takes_the_lowest_price_of_the_moment(nodes: AwsClients, dials: DialBoard):
    dials.post("spot/prices", instance_type="m5.2xlarge", zone=B, price_usd_per_hour=0.001)
    answer = nodes.fleet([("m5.large", A), ("m5.2xlarge", B)], spot=True, strategy="lowest-price")
    (group,) = answer["Instances"]
    assert (group["InstanceType"], group["Lifecycle"]) == ("m5.2xlarge", "spot")
    assert nodes.instances()[0]["InstanceLifecycle"] == "spot"
    assert len(nodes.instances(instance_lifecycle="spot")) == 1


def test_price_capacity_optimized_prefers_deep_pools_and_then_the_price(nodes: AwsClients):
    zones = [(name, zone) for name in ("m5.large", "m5.xlarge", "m5.2xlarge") for zone in (A, B, C)]
    answer = nodes.fleet(zones, spot=True, strategy="price-capacity-optimized")
    assert answer["Instances"][0]["InstanceType"] == "m5.large"


def test_a_pool_without_capacity_leaves_an_error_and_the_next_one_gives(nodes: AwsClients, dials: DialBoard):
    dials.post("capacity", instance_type="m5.large", zone=A)
    answer = nodes.fleet([("m5.large", A), ("m5.xlarge", B)])
    assert answer["Instances"][0]["InstanceType"] == "m5.xlarge"
    (error,) = answer["Errors"]
    assert error["ErrorCode"] == "InsufficientInstanceCapacity"
    assert error["Lifecycle"] == "on-demand"
    refused = error["LaunchTemplateAndOverrides"]["Overrides"]
    assert (refused["InstanceType"], refused["AvailabilityZone"]) == ("m5.large", A)


def test_without_any_capacity_there_are_errors_only(nodes: AwsClients, dials: DialBoard):
    dials.post("capacity", capacity_type="spot")
    pools = [("m5.large", A), ("m5.large", B)]
    answer = nodes.fleet(pools, spot=True)
    assert answer["Instances"] == []
    assert [error["ErrorCode"] for error in answer["Errors"]] == ["InsufficientInstanceCapacity"] * 2
    assert launched(nodes.fleet(pools))


def test_a_pool_with_little_left_gives_that_and_the_rest_comes_from_the_next(
    nodes: AwsClients, dials: DialBoard
):
    dials.post("capacity", instance_type="m5.large", left=2)
    answer = nodes.fleet([("m5.large", A), ("m5.xlarge", A)], count=5)
    assert {group["InstanceType"]: len(group["InstanceIds"]) for group in answer["Instances"]} == {
        "m5.large": 2,
        "m5.xlarge": 3,
    }
    assert [error["ErrorCode"] for error in answer["Errors"]] == ["InsufficientInstanceCapacity"]


def test_what_one_rule_leaves_for_several_pools_is_given_once(nodes: AwsClients, dials: DialBoard):
    dials.post("capacity", left=3)
    answer = nodes.fleet([("m5.large", A), ("m5.xlarge", A), ("m5.large", B)], count=5)
    assert len(launched(answer)) == 3
    assert len(nodes.instances()) == 3


def test_the_addresses_of_a_subnet_are_given_once_to_all_pools_in_it(nodes: AwsClients):
    vpc = nodes.ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
    small = nodes.ec2.create_subnet(VpcId=vpc, CidrBlock="172.31.240.0/28", AvailabilityZone=A)["Subnet"]
    nodes.subnets = lambda: {A: small["SubnetId"]}
    answer = nodes.fleet([("m5.large", A), ("m5.xlarge", A)], count=small["AvailableIpAddressCount"] + 2)
    assert len(launched(answer)) == small["AvailableIpAddressCount"]
    assert {e["ErrorCode"] for e in answer["Errors"]} == {"InsufficientFreeAddressesInSubnet"}


@pytest.mark.parametrize(
    ("pool", "template", "wanted"),
    [
        (("m5.huge", A), {}, "InvalidParameterValue"),
        (("m6g.large", A), {}, "InvalidParameterValue"),
        (("p5.48xlarge", A), {}, "InvalidFleetConfiguration"),
        (("m5.large", A), {"ImageId": "ami-0123456789abcdef0"}, "InvalidAMIID.NotFound"),
        (("m5.large", A), {"IamInstanceProfile": {"Name": "nobody"}}, "InvalidParameterValue"),
        (("m5.large", A), {"SecurityGroupIds": ["sg-0123"]}, "InvalidGroup.NotFound"),
    ],
)
def test_a_configuration_that_cannot_launch_is_an_error_entry(
    aws: AwsClients, pool: tuple[str, str], template: dict[str, Any], wanted: str
):
    aws.template(**template)
    answer = aws.fleet([pool])
    assert answer["Instances"] == []
    assert [error["ErrorCode"] for error in answer["Errors"]] == [wanted]


def test_a_template_that_does_not_exist_refuses_the_fleet(aws: AwsClients):
    with pytest.raises(ClientError) as refused:
        aws.fleet([("m5.large", A)], template="nothing")
    assert code(refused).startswith("InvalidLaunchTemplateName.NotFound")


# -- RunInstances


def test_run_instances_is_idempotent_by_token_too(aws: AwsClients, dials: DialBoard):
    def run(instance_type: str) -> list[str]:
        answer = aws.ec2.run_instances(
            ImageId=aws.image(), InstanceType=instance_type, MinCount=1, MaxCount=1, ClientToken="r"
        )
        return [instance["InstanceId"] for instance in answer["Instances"]]

    assert run("m5.large") == run("m5.large")
    with pytest.raises(ClientError) as refused:
        run("m5.xlarge")
    assert code(refused) == "IdempotentParameterMismatch"
    assert [each["ClientToken"] for each in aws.instances()] == ["r"]


def test_run_instances_knows_capacity_and_types(aws: AwsClients, dials: DialBoard):
    dials.post("capacity", instance_type="m5.large")
    for name, wanted in (("m5.large", "InsufficientInstanceCapacity"), ("m5.huge", "InvalidParameterValue")):
        with pytest.raises(ClientError) as refused:
            aws.ec2.run_instances(ImageId=aws.image(), InstanceType=name, MinCount=1, MaxCount=1)
        assert code(refused) == wanted


# -- describing and ending


def test_instances_pass_by_way_of_shutting_down(nodes: AwsClients, dials: DialBoard):
    dials.put("machines", shutdown_seconds=3)
    (instance,) = launched(nodes.fleet([("m5.large", A)]))
    (change,) = nodes.ec2.terminate_instances(InstanceIds=[instance])["TerminatingInstances"]
    assert (change["PreviousState"]["Name"], change["CurrentState"]["Name"]) == ("running", "shutting-down")
    assert nodes.instances()[0]["State"]["Name"] == "shutting-down"
    eventually(lambda: nodes.instances()[0]["State"]["Name"] == "terminated")
    again = nodes.ec2.terminate_instances(InstanceIds=[instance])["TerminatingInstances"][0]
    assert again["CurrentState"]["Name"] == "terminated"
    assert "PrivateIpAddress" not in nodes.instances()[0]
    assert nodes.ec2.describe_network_interfaces()["NetworkInterfaces"] == []


def test_ending_an_instance_that_never_was_is_refused(aws: AwsClients):
    with pytest.raises(ClientError) as refused:
        aws.ec2.terminate_instances(InstanceIds=["i-0123456789abcdef0"])
    assert code(refused) == "InvalidInstanceID.NotFound"


def test_filters_and_together_and_their_values_or(nodes: AwsClients):
    nodes.fleet([("m5.large", A)], tags={"team": "a", "karpenter.sh/nodepool": "x"})
    nodes.fleet([("m5.large", B)], tags={"team": "b"})

    def found(*filters: tuple[str, list[str]]) -> int:
        wanted = [{"Name": name, "Values": values} for name, values in filters]
        return sum(len(r["Instances"]) for r in nodes.ec2.describe_instances(Filters=wanted)["Reservations"])

    assert found(("tag:team", ["a"])) == 1
    assert found(("tag:team", ["a", "b"])) == 2
    assert found(("tag:team", ["*"]), ("availability-zone", [B])) == 1
    assert found(("tag-key", ["karpenter.sh/nodepool"]), ("instance-state-name", ["pending", "running"])) == 1
    assert found(("tag:team", ["c"])) == 0
    with pytest.raises(ClientError) as refused:
        found(("colour", ["red"]))
    assert code(refused) == "InvalidParameterValue"


def test_tags_can_be_added_and_are_found(nodes: AwsClients):
    (instance,) = launched(nodes.fleet([("m5.large", A)]))
    nodes.ec2.create_tags(Resources=[instance], Tags=[{"Key": "Name", "Value": "late"}])
    assert nodes.instances(**{"tag:Name": "late"})[0]["InstanceId"] == instance


def test_instances_come_in_pages(nodes: AwsClients):
    nodes.fleet([("m5.large", A)], count=12)
    pages = list(nodes.ec2.get_paginator("describe_instances").paginate(MaxResults=5))
    ids = [i["InstanceId"] for page in pages for r in page["Reservations"] for i in r["Instances"]]
    assert len(pages) == 3
    assert len(set(ids)) == 12


# -- types, offerings, prices


def test_all_types_come_in_pages_with_their_descriptions(aws: AwsClients):
    pages = list(aws.ec2.get_paginator("describe_instance_types").paginate(MaxResults=100))
    found = {each["InstanceType"]: each for page in pages for each in page["InstanceTypes"]}
    assert len(found) == 1395
    assert found["m5.large"]["MemoryInfo"]["SizeInMiB"] == 8192
    assert found["g4dn.xlarge"]["GpuInfo"]["Gpus"][0]["Manufacturer"] == "NVIDIA"


def test_types_are_filtered(aws: AwsClients):
    wanted = [{"Name": "instance-type", "Values": ["m5.*"]}, {"Name": "bare-metal", "Values": ["false"]}]
    names = {
        each["InstanceType"] for each in aws.ec2.describe_instance_types(Filters=wanted)["InstanceTypes"]
    }
    assert "m5.large" in names
    assert "m5.metal" not in names
    with pytest.raises(ClientError) as refused:
        aws.ec2.describe_instance_types(InstanceTypes=["m5.huge"])
    assert code(refused) == "InvalidInstanceType"


def test_offerings_are_by_zone(aws: AwsClients):
    pages = aws.ec2.get_paginator("describe_instance_type_offerings").paginate(
        LocationType="availability-zone", Filters=[{"Name": "instance-type", "Values": ["m5.large"]}]
    )
    assert {each["Location"] for page in pages for each in page["InstanceTypeOfferings"]} == {A, B, C}


def history(aws: AwsClients, **more: Any) -> list[dict[str, Any]]:
    pages = aws.ec2.get_paginator("describe_spot_price_history").paginate(
        ProductDescriptions=["Linux/UNIX", "Linux/UNIX (Amazon VPC)"], **more
    )
    return [row for page in pages for row in page["SpotPriceHistory"]]


def test_history_from_now_gives_each_pool_once(aws: AwsClients):
    rows = history(aws, StartTime=datetime.now(UTC) + timedelta(hours=1))  # no change comes while it is asked
    pools = [(row["InstanceType"], row["AvailabilityZone"]) for row in rows]
    assert len(pools) == len(set(pools)) > 3000
    assert all(float(row["SpotPrice"]) > 0 for row in rows)


def test_history_from_earlier_gives_the_changes(aws: AwsClients, dials: DialBoard):
    dials.post("spot/prices", instance_type="m5.large", zone=A, price_usd_per_hour=0.0123)
    rows = history(
        aws, InstanceTypes=["m5.large"], AvailabilityZone=A, StartTime=datetime.now(UTC) - timedelta(hours=3)
    )
    assert len(rows) > 3
    assert rows[0]["SpotPrice"] == "0.012300"
    assert [row["Timestamp"] for row in rows] == sorted((row["Timestamp"] for row in rows), reverse=True)


def test_the_pricing_service_sells_what_is_billed(aws: AwsClients, dials: DialBoard):
    wanted = {
        "regionCode": "eu-west-1",
        "operatingSystem": "Linux",
        "tenancy": "Shared",
        "capacitystatus": "Used",
    }
    filters = [{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in wanted.items()]
    pages = aws.of("pricing").get_paginator("get_products").paginate(ServiceCode="AmazonEC2", Filters=filters)
    entries = [json.loads(text) for page in pages for text in page["PriceList"]]
    prices = {entry["product"]["attributes"]["instanceType"]: entry for entry in entries}
    assert len(prices) == len(entries) > 1000
    term = next(iter(prices["m5.large"]["terms"]["OnDemand"].values()))
    usd = float(next(iter(term["priceDimensions"].values()))["pricePerUnit"]["USD"])
    aws.template()
    aws.fleet([("m5.large", A)])
    assert dials.get("cost")["rate_usd_per_hour"] == pytest.approx(usd)


def test_an_action_that_is_not_simulated_says_so(aws: AwsClients):
    with pytest.raises(ClientError) as refused:
        aws.ec2.describe_spot_datafeed_subscription()
    assert code(refused) == "UnsupportedOperation"

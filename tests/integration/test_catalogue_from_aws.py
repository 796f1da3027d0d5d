"""Types and prices read through real boto3 clients from the simulated account, and what its faults become."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from moto.ec2.models.instance_types import INSTANCE_TYPES
from typer.testing import CliRunner

from nodeyard.adapters.ec2.describe import read_spot_prices, read_types
from nodeyard.adapters.ec2.session import Ec2Session
from nodeyard.adapters.ec2.usage import read_usage
from nodeyard.adapters.ec2.zonal_shift import read_shifted_zones
from nodeyard.adapters.pricing.products import read_on_demand_prices
from nodeyard.cli.catalog import app
from nodeyard.cli.files import read_catalogue_file
from nodeyard.cloudprovider.errors import InvalidRequest, NotFound, Throttled, Unauthorized, Unreachable
from nodeyard.cloudprovider.market import TypeTable
from nodeyard.local.account.prices import on_demand_usd_per_hour
from nodeyard.local.account.server import AccountServer
from tests.support.account import REGION, AwsClients, DialBoard, account, dials

__all__ = ["account", "dials"]


@pytest.fixture(autouse=True)
def environment(account: AccountServer, monkeypatch: pytest.MonkeyPatch) -> None:
    point_at(account, monkeypatch)


def point_at(account: AccountServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """boto3's environment for the account."""
    for name, value in (
        ("AWS_ENDPOINT_URL", account.url),
        ("AWS_ACCESS_KEY_ID", "testing"),
        ("AWS_SECRET_ACCESS_KEY", "testing"),
        ("AWS_REGION", REGION),
    ):
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def table(account: AccountServer) -> TypeTable:
    """Read once: the account takes seconds to describe everything."""

    async def read() -> TypeTable:
        session = Ec2Session()
        try:
            return await read_types(session)
        finally:
            session.close()

    with pytest.MonkeyPatch.context() as patch:
        point_at(account, patch)
        return asyncio.run(read())


@pytest.fixture
async def session() -> AsyncIterator[Ec2Session]:
    made = Ec2Session(attempts=2)
    yield made
    made.close()


def test_every_type_of_the_region_comes_with_its_zones(table: TypeTable) -> None:
    assert len(table.types) == 1395
    assert table.region == REGION
    assert [zone.name for zone in table.zones] == ["eu-west-1a", "eu-west-1b", "eu-west-1c"]
    assert all(zone.id.startswith("euw1-az") for zone in table.zones)
    by_name = {t.name: t for t in table.types}
    assert by_name["m5.large"].zones == ("eu-west-1a", "eu-west-1b", "eu-west-1c")
    sold = {zone for t in table.types for zone in t.zones}
    assert sold == {zone.name for zone in table.zones}


async def test_on_demand_prices_are_those_of_plain_linux(session: Ec2Session, table: TypeTable) -> None:
    sheet = await read_on_demand_prices(session, 5.0)
    sold = {t.name for t in table.types if t.zones}
    assert sheet.usd.keys() == sold
    for name in ("m5.large", "c7g.xlarge", "g5.xlarge", "m5.metal"):
        listed = on_demand_usd_per_hour(INSTANCE_TYPES[name], REGION)
        assert sheet.usd[name] == pytest.approx(listed, abs=1e-9)


async def test_spot_prices_are_those_in_force(session: Ec2Session, dials: DialBoard) -> None:
    dials.post("spot/prices", instance_type="m5.large", zone="eu-west-1b", price_usd_per_hour=0.0123)
    sheet = await read_spot_prices(session, time.time())
    assert sheet.usd["m5.large/eu-west-1b"] == 0.0123
    assert sheet.usd["m5.large/eu-west-1a"] != 0.0123
    assert len(sheet.usd) > 3000


async def test_usage_counts_what_runs_on_demand_of_every_owner(session: Ec2Session) -> None:
    assert await read_usage(session) == {}
    clients = AwsClients(session_url())
    clients.template()
    clients.fleet([("m5.large", "eu-west-1a")], count=2)
    clients.fleet([("m5.large", "eu-west-1b")], spot=True)
    assert await read_usage(session) == {("m5.large", "eu-west-1a"): 2.0}


def session_url() -> str:
    return os.environ["AWS_ENDPOINT_URL"]


async def test_zones_that_traffic_is_shifted_away_from_are_those_without_weight(
    session: Ec2Session, dials: DialBoard, table: TypeTable
) -> None:
    cluster = f"arn:aws:eks:{REGION}:123456789012:cluster/nodeyard"
    assert await read_shifted_zones(session, cluster) == frozenset()
    dials.put("zonal-shift", zone_ids=[table.zones[1].id])
    assert await read_shifted_zones(session, cluster) == {table.zones[1].id}
    dials.post("faults", kind="fail", service="arc-zonal-shift", code="AccessDeniedException", status=403)
    with pytest.raises(Unauthorized, match="GetManagedResource"):
        await read_shifted_zones(session, cluster)


async def test_throttling_is_waited_out(session: Ec2Session, dials: DialBoard) -> None:
    dials.post("faults", kind="throttle", action="DescribeAvailabilityZones", times=1)
    answer = await session.call("ec2", "DescribeAvailabilityZones")
    assert len(answer["AvailabilityZones"]) == 3


async def test_throttling_without_end_is_told_as_such(session: Ec2Session, dials: DialBoard) -> None:
    dials.post("faults", kind="throttle", action="DescribeAvailabilityZones")
    with pytest.raises(Throttled) as caught:
        await session.call("ec2", "describe_availability_zones")
    assert caught.value.operation == "ec2:DescribeAvailabilityZones"
    assert caught.value.code == "RequestLimitExceeded"


async def test_a_missing_permission_names_the_action(session: Ec2Session, dials: DialBoard) -> None:
    dials.post(
        "faults", kind="fail", action="DescribeSpotPriceHistory", code="UnauthorizedOperation", status=403
    )
    with pytest.raises(Unauthorized) as caught:
        await read_spot_prices(session, time.time())
    assert caught.value.action == "ec2:DescribeSpotPriceHistory"


async def test_an_object_that_is_not_there_is_not_found(session: Ec2Session) -> None:
    with pytest.raises(NotFound):
        await session.call("ec2", "describe_instances", InstanceIds=["i-00000000000000000"])


async def test_a_request_that_boto3_refuses_is_invalid(session: Ec2Session) -> None:
    with pytest.raises(InvalidRequest):
        await session.call("ec2", "describe_instances", NoSuchParameter=True)


async def test_an_endpoint_that_nobody_serves_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    gone = Ec2Session(attempts=1)
    with pytest.raises(Unreachable) as caught:
        await gone.call("ec2", "describe_availability_zones")
    assert not caught.value.may_have_taken_effect
    gone.close()


def test_export_writes_what_the_account_sells(tmp_path: Path) -> None:
    path = tmp_path / "catalogue.jsonl.gz"
    arguments = ["export", "--region", REGION, "--zones", "eu-west-1a,euw1-az1", "-o", str(path)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    catalogue = read_catalogue_file(str(path))
    assert len(catalogue) == 1395
    found = catalogue.by_name["m5.large"]
    assert len({o.zone for o in found.offerings}) == 2
    assert {o.source for o in found.offerings} == {"pricing-api", "spot-history"}
    assert found.allocatable["cpu"] == 1930


@pytest.mark.parametrize(
    ("region", "zone_id", "m5_large_between"),
    [
        ("us-east-1", "use1-az1", (0.05, 0.2)),
        ("us-gov-west-1", "usgw1-az1", (0.05, 0.2)),
        ("cn-north-1", "cnn1-az1", (0.4, 1.2)),  # CNY
    ],
)
def test_export_serves_other_regions_and_partitions(
    tmp_path: Path, region: str, zone_id: str, m5_large_between: tuple[float, float]
) -> None:
    path = tmp_path / "catalogue.jsonl"
    result = CliRunner().invoke(app, ["export", "--region", region, "--zones", zone_id, "-o", str(path)])
    assert result.exit_code == 0, result.output
    catalogue = read_catalogue_file(str(path))
    found = catalogue.by_name["m5.large"]
    assert found.requirements["topology.kubernetes.io/region"] == (region,)
    assert {(o.zone_id, o.capacity_type, o.source) for o in found.offerings} == {
        (zone_id, "on-demand", "pricing-api"),
        (zone_id, "spot", "spot-history"),
    }
    low, high = m5_large_between
    assert all(low * 0.25 < o.price < high for o in found.offerings)
    assert low < max(o.price for o in found.offerings)


def test_export_goes_on_with_estimates_where_prices_cannot_be_asked(dials: DialBoard) -> None:
    dials.post("faults", kind="fail", action="GetProducts", code="AccessDeniedException", status=400, times=9)
    result = CliRunner().invoke(app, ["export", "--ami-family", "Bottlerocket"])
    assert result.exit_code == 0, result.output
    assert "no on-demand prices, estimates stand in" in result.stderr
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    sources = {o["source"] for line in lines for o in line["offerings"] if o["capacityType"] == "on-demand"}
    assert sources == {"estimate"}


def test_export_takes_a_feed_where_prices_cannot_be_asked(dials: DialBoard, tmp_path: Path) -> None:
    dials.post("faults", kind="fail", action="GetProducts", code="AccessDeniedException", status=400, times=9)
    feed = tmp_path / "prices.json"
    feed.write_text('{"onDemand": {"m5.large": 0.107, "m5.xlarge": -1}}')
    result = CliRunner().invoke(app, ["export", "--price-feed", str(feed)])
    assert result.exit_code == 0, result.output
    assert "the feed and estimates stand in" in result.stderr
    assert "onDemand[m5.xlarge]: -1 is not a price" in result.stderr
    lines = {found["name"]: found for found in map(json.loads, result.stdout.splitlines())}
    shown = {
        name: {o["source"] for o in lines[name]["offerings"] if o["capacityType"] == "on-demand"}
        for name in ("m5.large", "m5.xlarge")
    }
    assert shown == {"m5.large": {"feed"}, "m5.xlarge": {"estimate"}}


def test_export_follows_a_node_class_in_a_file(tmp_path: Path) -> None:
    body = {
        "apiVersion": "karpenter.k8s.aws/v1", "kind": "EC2NodeClass", "metadata": {"name": "big"},
        "spec": {
            "amiFamily": "Bottlerocket",
            "kubelet": {
                "maxPods": 20, "kubeReserved": {"memory": "1Gi"}, "systemReserved": {"cpu": "200m"},
                "evictionHard": {"memory.available": "5%"},
            },
            "blockDeviceMappings": [{"deviceName": "/dev/xvdb", "ebs": {"volumeSize": "100Gi"}}],
        },
    }  # fmt: skip
    path, out = tmp_path / "class.yaml", tmp_path / "catalogue.jsonl"
    path.write_text(json.dumps(body))
    result = CliRunner().invoke(app, ["export", "--node-class", str(path), "-o", str(out)])
    assert result.exit_code == 0, result.output
    found = read_catalogue_file(str(out)).by_name["m5.large"]
    assert found.capacity["pods"] == 20
    assert found.capacity["ephemeral-storage"] == 100 << 30
    assert found.allocatable["cpu"] == 2000 - 70 - 200
    memory = found.capacity["memory"]
    assert found.allocatable["memory"] == memory - (1 << 30) - -(-memory // 20)
    body["spec"]["kubelet"]["evictionHard"] = {"memory.available": "lots"}  # type: ignore[index]
    path.write_text(json.dumps(body))
    refused = CliRunner().invoke(app, ["export", "--node-class", str(path)])
    assert refused.exit_code == 1
    assert "kubelet.evictionHard[memory.available]: 'lots'" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--price-feed", "ftp://x/y"], "--price-feed: ftp://x/y: ftp:// is none of"),
        (["--node-class", "/nothing.yaml"], "/nothing.yaml"),
        (["--ami-family", "Debian"], "--ami-family: 'Debian'"),
        (["--zones", "eu-west-1z"], "--zones: eu-west-1z not in eu-west-1"),
    ],
)
def test_export_refuses_what_makes_no_sense(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["export", *arguments])
    assert result.exit_code == 1
    assert message in result.stderr


def test_export_says_when_nobody_can_be_asked(dials: DialBoard) -> None:
    dials.post(
        "faults",
        kind="fail",
        action="DescribeInstanceTypes",
        code="UnauthorizedOperation",
        status=403,
        times=9,
    )
    result = CliRunner().invoke(app, ["export"])
    assert result.exit_code == 1
    assert "ec2:DescribeInstanceTypes" in result.stderr

"""What we ask of AWS, asked of AWS itself: that it understands our requests and we its answers.

Nothing is made, changed or paid for: reading calls, and dry runs of those that would. A permission that is missing
fails the test with the name of the call.
"""

from __future__ import annotations

import time

import pytest

from nodeyard.adapters.ec2.describe import read_reservations, read_spot_prices, read_types
from nodeyard.adapters.ec2.images import alias_parameters
from nodeyard.adapters.ec2.instances import Instances
from nodeyard.adapters.ec2.launch import Fleet
from nodeyard.adapters.ec2.launch_templates import LaunchTemplates
from nodeyard.adapters.ec2.node_class import Resolver
from nodeyard.adapters.ec2.placement import find_group
from nodeyard.adapters.ec2.session import Ec2Session
from nodeyard.adapters.ec2.usage import read_usage
from nodeyard.adapters.pricing.account_commitments import read_account_commitments
from nodeyard.adapters.pricing.products import read_on_demand_prices
from nodeyard.api import labels as keys
from nodeyard.api.nodeclass import NodeClass, SelectorTerm
from nodeyard.api.placement import PlacementGroupSelector
from nodeyard.cloudprovider.boot import Boot
from nodeyard.cloudprovider.errors import NotFound
from nodeyard.cloudprovider.market import market_of
from nodeyard.cloudprovider.refusals import Shut
from nodeyard.cloudprovider.resolve import Resolver as CatalogueResolver
from nodeyard.provisioning.batches import Batch
from nodeyard.provisioning.claims import LaunchRecord, TemplateChoice
from nodeyard.runtime.clock import SystemClock

pytestmark = pytest.mark.aws
TAGS = {keys.CLUSTER_UID_TAG: "dry-run", "kubernetes.io/cluster/dry-run": "owned"}
NO_INSTANCE = "i-0123456789abcdef0"


async def resolved(session: Ec2Session) -> NodeClass:
    """A class of the default VPC's subnets and security groups; its instance profile is a name only."""
    subnets = (await session.call("ec2", "describe_subnets"))["Subnets"]
    groups = (await session.call("ec2", "describe_security_groups"))["SecurityGroups"]
    assert subnets, "the account has no subnet in this region"
    vpc = subnets[0]["VpcId"]
    asked = NodeClass(
        "dry-run", uid="dry-run", instance_profile="dry-run",
        subnet_terms=tuple(SelectorTerm(id=s["SubnetId"]) for s in subnets if s["VpcId"] == vpc),
        security_group_terms=tuple(SelectorTerm(id=g["GroupId"]) for g in groups if g["VpcId"] == vpc)[:5],
        ami_terms=(SelectorTerm(alias="al2023@latest"),),
    )  # fmt: skip
    resolver = Resolver(
        session, SystemClock(), cluster="dry-run", cluster_uid="dry-run", kubernetes_version="1.33"
    )
    return await resolver.resolve(asked)


async def test_types_and_prices_make_a_catalogue(session: Ec2Session) -> None:
    now = time.time()
    table = await read_types(session)
    spot, on_demand = await read_spot_prices(session, now), await read_on_demand_prices(session, now)
    assert len(table.types) > 200
    assert len(table.zones) >= 2
    assert {zone for described in table.types for zone in described.zones} <= {z.name for z in table.zones}
    sold = {described.name for described in table.types if described.zones}
    assert len(sold & set(on_demand.usd)) > 0.9 * len(sold), "types without an on-demand price"
    assert len({key.partition("/")[0] for key in spot.usd} & sold) > 0.5 * len(sold)
    market = market_of(table, [on_demand], [spot], Shut(), now=now)
    catalogue = CatalogueResolver().resolve(market, await resolved(session), now=now)
    assert len(catalogue.types) > 100
    assert all(kind.allocatable["memory"] > 0 and kind.allocatable["cpu"] > 0 for kind in catalogue.types)


async def test_what_runs_can_be_read(session: Ec2Session) -> None:
    await read_usage(session)
    machines = Instances(session, cluster_uid="dry-run")
    assert await machines.list_ours() == []
    assert await machines.describe([NO_INSTANCE]) == {}
    assert await Fleet(session, cluster_uid="dry-run").unnamed() == {}


async def test_what_is_paid_for_can_be_read(session: Ec2Session) -> None:
    await read_account_commitments(session)


async def test_capacity_reservations_can_be_counted_and_a_group_looked_for(session: Ec2Session) -> None:
    now = time.time()
    sheet = await read_reservations(session, now)
    assert sheet.asked_at == now
    for one in sheet.reservations:
        assert one.id.startswith("cr-")
        assert one.instance_type
        assert one.zone
        assert 0 <= one.available <= one.total
        assert one.kind in ("default", keys.CAPACITY_BLOCK)
        assert one.match in ("open", "targeted")
    assert await find_group(session, PlacementGroupSelector("dry-run-no-such-group")) is None


@pytest.mark.parametrize("alias", ["al2023", "bottlerocket", "windows2022"])
async def test_image_aliases_stand_for_parameters_that_exist(session: Ec2Session, alias: str) -> None:
    """The plain image for amd64 must; not every accelerator has one for arm64."""
    found = []
    for path, _ in alias_parameters(alias, "latest", "1.33"):
        try:
            await session.call("ssm", "get_parameter", Name=path)
            found.append(path)
        except NotFound:
            continue
    assert alias_parameters(alias, "latest", "1.33")[0][0] in found


async def test_a_class_is_resolved(session: Ec2Session) -> None:
    found = await resolved(session)
    conditions = {c.type: (c.status, c.message) for c in found.conditions}
    for part in ("SubnetsReady", "SecurityGroupsReady", "AMIsReady"):
        assert conditions[part][0] == "True", conditions[part]


async def test_a_launch_would_be_allowed_as_we_word_it(session: Ec2Session) -> None:
    found = await resolved(session)
    image = found.images[0]
    name = await LaunchTemplates(session, cluster="dry-run", tags=TAGS).ensure(
        found, image, Boot(cluster="dry-run", endpoint="https://127.0.0.1", service_cidr="10.100.0.0/16")
    )
    rows = tuple(("m5.large", subnet.zone, subnet.id) for subnet in found.subnets)
    fleet = Fleet(session, cluster_uid="dry-run")
    for capacity_type in (keys.ON_DEMAND, keys.SPOT):
        record = LaunchRecord(capacity_type, (TemplateChoice(name, image.id, rows),), TAGS)
        members = (("dry-run", "dry-run-uid"),)
        try:
            answer = await fleet.launch(record, Batch(fleet.stamp(record, members), members))
        except NotFound as error:
            assert "LaunchTemplate" in error.code, "the template of a dry run is not there"  # noqa: PT017
        else:
            assert (answer.made, answer.error) == ((), None)


async def test_naming_and_ending_would_be_allowed_as_we_word_them(session: Ec2Session) -> None:
    """A permission that depends on an instance's tags can't be told without one; EC2 may say that it is not there."""
    fleet, machines = Fleet(session, cluster_uid="dry-run"), Instances(session, cluster_uid="dry-run")
    try:
        await fleet.name(NO_INSTANCE, "dry-run", "dry-run-uid", named=False)
    except NotFound as error:
        assert error.code.startswith("InvalidInstanceID")  # noqa: PT017
    await machines.terminate([NO_INSTANCE])

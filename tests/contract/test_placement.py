"""Placement groups, tenancy and CPU options through real boto3: found, launched into, and what is refused in them stays in them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from nodeyard.adapters.ec2.launch import Fleet
from nodeyard.adapters.ec2.launch_templates import LaunchTemplates
from nodeyard.adapters.ec2.node_class import Resolver
from nodeyard.adapters.ec2.placement import Partitions
from nodeyard.adapters.ec2.session import Ec2Session
from nodeyard.api import labels as keys
from nodeyard.api.cpu_options import CpuOptions
from nodeyard.api.nodeclass import NodeClass
from nodeyard.api.placement import Placement, PlacementGroupSelector
from nodeyard.cloudprovider.boot import Boot
from nodeyard.cloudprovider.errors import NotFound
from nodeyard.cloudprovider.refusals import Refusal
from nodeyard.local.account.server import AccountServer
from nodeyard.provisioning.batches import Answer, Batch
from nodeyard.provisioning.claims import LaunchRecord, TemplateChoice
from nodeyard.provisioning.launches import missing_in
from tests.support.account import REGION, AwsClients, account, session
from tests.support.clock import FakeClock
from tests.support.launching import CLASS, OURS

__all__ = ["account", "session"]

Rows = tuple[tuple[str, str, str], ...]
ANYWHERE = Placement()


@pytest.fixture
def ec2(account: AccountServer) -> Any:
    return AwsClients(account.url).ec2


def in_group(name: str = "", id: str = "") -> NodeClass:
    return msgspec.structs.replace(CLASS, placement_group_selector=PlacementGroupSelector(name, id))


def resolver(session: Ec2Session, clock: FakeClock | None = None) -> Resolver:
    return Resolver(
        session, clock or FakeClock(), cluster="nodeyard", cluster_uid="uid", kubernetes_version="1.36"
    )


async def launched(
    session: Ec2Session,
    node_class: NodeClass,
    count: int,
    *,
    zones: str = "abc",
    placement: Placement = ANYWHERE,
) -> tuple[Answer, LaunchRecord]:
    """`count` m5.large by the class, wherever in `zones`."""
    found = msgspec.structs.replace(await resolver(session).resolve(node_class), placement=placement)
    image = found.images[0]
    template = await LaunchTemplates(session, cluster="nodeyard", tags=OURS).ensure(
        found, image, Boot("nodeyard")
    )
    rows: Rows = tuple(
        ("m5.large", s.zone, s.id) for s in sorted(found.subnets, key=lambda s: s.zone) if s.zone[-1] in zones
    )
    group = found.placement_group.id if found.placement_group is not None else ""
    record = LaunchRecord(
        keys.ON_DEMAND, (TemplateChoice(template, image.id, rows),), dict(OURS), placement_group=group
    )
    fleet = Fleet(session, cluster_uid="uid")
    members = tuple((f"c{n}", f"{template}-{zones}-{n}") for n in range(count))
    return await fleet.launch(record, Batch(fleet.stamp(record, members), members)), record


def placements(ec2: Any, answer: Answer) -> list[dict[str, Any]]:
    ids = [made.instance_id for made in answer.made]
    return [
        i["Placement"]
        for r in ec2.describe_instances(InstanceIds=ids)["Reservations"]
        for i in r["Instances"]
    ]


@pytest.mark.parametrize("by", ["name", "id"])
async def test_a_group_is_found_by_name_and_by_id(session: Ec2Session, ec2: Any, by: str) -> None:
    made = ec2.create_placement_group(GroupName=f"found-{by}", Strategy="partition", PartitionCount=3)
    wanted = in_group(f"found-{by}") if by == "name" else in_group(id=made["PlacementGroup"]["GroupId"])
    found = await resolver(session).resolve(wanted)
    group = found.placement_group
    assert group is not None
    assert (group.name, group.strategy, group.partition_count) == (f"found-{by}", "partition", 3)
    assert group.id == made["PlacementGroup"]["GroupId"]
    assert {c.type: c.status for c in found.conditions}["PlacementGroupReady"] == "True"
    assert missing_in(found) is None


async def test_a_class_whose_group_does_not_exist_says_so_and_launches_nothing(
    session: Ec2Session, ec2: Any
) -> None:
    clock = FakeClock()
    looking = resolver(session, clock)
    found = await looking.resolve(in_group("to-come"))
    condition = next(c for c in found.conditions if c.type == "PlacementGroupReady")
    assert (condition.status, condition.reason) == ("False", "PlacementGroupNotFound")
    assert "to-come" in condition.message
    missing = missing_in(found)
    assert missing is not None
    assert missing.reason == "PlacementGroupNotFound"
    ec2.create_placement_group(GroupName="to-come", Strategy="cluster")
    await clock.advance(61.0)
    assert missing_in(await looking.resolve(in_group("to-come"))) is None


async def test_a_class_without_a_group_has_no_condition_about_one(session: Ec2Session) -> None:
    found = await resolver(session).resolve(CLASS)
    assert "PlacementGroupReady" not in {c.type for c in found.conditions}


@pytest.mark.parametrize("strategy", ["cluster", "spread", "partition"])
async def test_instances_go_into_the_group(session: Ec2Session, ec2: Any, strategy: str) -> None:
    ec2.create_placement_group(
        GroupName=f"into-{strategy}",
        Strategy=strategy,
        **({"PartitionCount": 2} if strategy == "partition" else {}),
    )
    answer, _ = await launched(session, in_group(f"into-{strategy}"), 2)
    shown = placements(ec2, answer)
    assert [p["GroupName"] for p in shown] == [f"into-{strategy}"] * 2
    if strategy == "partition":
        assert {p["PartitionNumber"] for p in shown} == {1, 2}
        where = Partitions(session)
        assert {await where.partition_of(made.instance_id) for made in answer.made} == {1, 2}


async def test_a_launch_may_name_its_partition_and_its_tenancy(session: Ec2Session, ec2: Any) -> None:
    ec2.create_placement_group(GroupName="chosen", Strategy="partition", PartitionCount=2)
    answer, _ = await launched(session, in_group("chosen"), 2, placement=Placement(2, "dedicated"))
    assert {(p["PartitionNumber"], p["Tenancy"]) for p in placements(ec2, answer)} == {(2, "dedicated")}


async def test_the_limit_of_a_spread_group_shuts_its_zone_for_that_group_alone(
    session: Ec2Session, ec2: Any
) -> None:
    ec2.create_placement_group(GroupName="seven", Strategy="spread")
    node_class = in_group("seven")
    first, record = await launched(session, node_class, 9, zones="a")
    assert len(first.made) == 7
    assert first.refusals == (
        Refusal(zone=f"{REGION}a", code="UnfulfillableCapacity", placement_group=record.placement_group),
    )
    second, _ = await launched(session, node_class, 1, zones="ab")
    assert [made.zone for made in second.made] == [f"{REGION}b"]
    elsewhere, _ = await launched(session, CLASS, 1, zones="a")
    assert len(elsewhere.made) == 1


async def test_what_a_cluster_group_has_no_room_for_elsewhere_is_refused_for_that_group_alone(
    session: Ec2Session, ec2: Any
) -> None:
    ec2.create_placement_group(GroupName="pinned", Strategy="cluster")
    await launched(session, in_group("pinned"), 1, zones="a")
    answer, record = await launched(session, in_group("pinned"), 1, zones="b")
    assert not answer.made
    assert answer.refusals == (
        Refusal(
            "m5.large", f"{REGION}b", keys.ON_DEMAND, "UnfulfillableCapacity",
            placement_group=record.placement_group,
        ),
    )  # fmt: skip


async def test_a_group_deleted_under_us_is_not_found(session: Ec2Session, ec2: Any) -> None:
    ec2.create_placement_group(GroupName="gone", Strategy="spread")
    found = await resolver(session).resolve(in_group("gone"))
    ec2.delete_placement_group(GroupName="gone")
    template = await LaunchTemplates(session, cluster="nodeyard", tags=OURS).ensure(
        found, found.images[0], Boot("nodeyard")
    )
    subnet = found.subnets[0]
    choice = TemplateChoice(template, found.images[0].id, (("m5.large", subnet.zone, subnet.id),))
    record = LaunchRecord(keys.ON_DEMAND, (choice,), dict(OURS))
    fleet = Fleet(session, cluster_uid="uid")
    members = (("c", "gone-uid"),)
    answer = await fleet.launch(record, Batch(fleet.stamp(record, members), members))
    assert isinstance(answer.error, NotFound)


async def test_nested_virtualization_is_asked_of_the_instances(session: Ec2Session, ec2: Any) -> None:
    """m5 has none, so that the account refuses just what a class's catalogue leaves out."""
    answer, record = await launched(
        session, msgspec.structs.replace(CLASS, cpu_options=CpuOptions("enabled")), 1, zones="a"
    )
    template = ec2.describe_launch_template_versions(
        LaunchTemplateName=record.choices[0].template, Versions=["$Latest"]
    )
    data = template["LaunchTemplateVersions"][0]["LaunchTemplateData"]
    assert data["CpuOptions"] == {"NestedVirtualization": "enabled"}
    assert not answer.made
    assert answer.error is not None
    assert answer.error.code == "UnsupportedOperation"

"""Node classes that select nothing or the same thing twice, and accounts that refuse or fail to answer one call: a
condition says so, everything else is found all the same, and nothing is launched on a guess.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from nodeyard.adapters.ec2.node_class import STALE_S, SUBNETS_S, Resolver
from nodeyard.adapters.ec2.session import Ec2Session
from nodeyard.api.node import Condition
from nodeyard.api.nodeclass import NodeClass, SelectorTerm
from nodeyard.api.placement import PlacementGroupSelector
from nodeyard.local.account.server import AccountServer
from nodeyard.provisioning.launches import missing_in
from tests.support.account import AwsClients, DialBoard, account, dials, session
from tests.support.clock import FakeClock
from tests.support.launching import CLASS

__all__ = ["account", "dials", "session"]

NOTHING = (SelectorTerm(tags={"no": "such"}),)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def resolver(session: Ec2Session, clock: FakeClock) -> Resolver:
    return Resolver(session, clock, cluster="nodeyard", cluster_uid="uid", kubernetes_version="1.36")


def conditions(found: NodeClass) -> dict[str, Condition]:
    return {condition.type: condition for condition in found.conditions}


def only_this_is_wrong(found: NodeClass, kind: str) -> Condition:
    """The condition `kind`, where it and `Ready` are the only ones that are not true."""
    by_type = conditions(found)
    assert {c.type for c in by_type.values() if c.status != "True"} == {kind, "Ready"}
    assert by_type[kind].message in by_type["Ready"].message
    assert missing_in(found) is not None, "nothing may be launched"
    return by_type[kind]


@pytest.mark.parametrize(
    ("fields", "kind", "reason", "named"),
    [
        ({"subnet_terms": NOTHING}, "SubnetsReady", "SubnetsNotFound", "spec.subnetSelectorTerms"),
        ({"security_group_terms": NOTHING}, "SecurityGroupsReady", "SecurityGroupsNotFound", "spec.securityGroupSelectorTerms"),
        ({"ami_terms": NOTHING}, "AMIsReady", "AMIsNotFound", "spec.amiSelectorTerms"),
        ({"ami_terms": (SelectorTerm(ssm_parameter="/no/such"),)}, "AMIsReady", "AMIsNotFound", "spec.amiSelectorTerms"),
        ({"role": ""}, "InstanceProfileReady", "InstanceProfileNotFound", "spec.role"),
        ({"placement_group_selector": PlacementGroupSelector(name="gone")}, "PlacementGroupReady", "PlacementGroupNotFound", "gone"),
    ],
)  # fmt: skip
async def test_a_part_that_selects_nothing_is_named_and_the_others_are_found(
    resolver: Resolver, fields: dict[str, Any], kind: str, reason: str, named: str
) -> None:
    found = await resolver.resolve(msgspec.structs.replace(CLASS, **fields))
    condition = only_this_is_wrong(found, kind)
    assert (condition.status, condition.reason) == ("False", reason)
    assert named in condition.message


async def test_what_several_terms_select_is_there_once(resolver: Resolver, account: AccountServer) -> None:
    plain = await resolver.resolve(CLASS)
    (subnet, *_), (group, *_) = plain.subnets, plain.security_groups
    again = msgspec.structs.replace(
        CLASS,
        subnet_terms=(*CLASS.subnet_terms, SelectorTerm(id=subnet.id), SelectorTerm(tags={"Name": "*"})),
        security_group_terms=(*CLASS.security_group_terms, SelectorTerm(id=group.id)),
        ami_terms=(*CLASS.ami_terms, *CLASS.ami_terms),
    )
    found = await resolver.resolve(again)
    assert len({s.id for s in found.subnets}) == len(found.subnets) >= len(plain.subnets)
    assert found.security_groups == plain.security_groups
    assert found.images == plain.images
    assert missing_in(found) is None


@pytest.mark.parametrize(
    ("action", "kind"),
    [
        ("DescribeSubnets", "SubnetsReady"),
        ("DescribeSecurityGroups", "SecurityGroupsReady"),
        ("DescribeImages", "AMIsReady"),
        ("GetParameter", "AMIsReady"),
        ("GetInstanceProfile", "InstanceProfileReady"),
        ("DescribePlacementGroups", "PlacementGroupReady"),
    ],
)
async def test_a_call_without_permission_is_named_and_the_others_are_made(
    resolver: Resolver, account: AccountServer, dials: DialBoard, action: str, kind: str
) -> None:
    asked = CLASS
    if action == "DescribeImages":
        asked = msgspec.structs.replace(CLASS, ami_terms=(SelectorTerm(name="amazon-eks-*"),))
    if action == "DescribePlacementGroups":
        ec2 = AwsClients(account.url).ec2
        ec2.create_placement_group(GroupName="denied", Strategy="cluster")
        group = PlacementGroupSelector(name="denied")
        asked = msgspec.structs.replace(CLASS, placement_group_selector=group)
    dials.post(
        "faults", kind="fail", action=action, code="AccessDenied", message="You may not.", status=403, times=9
    )
    condition = only_this_is_wrong(await resolver.resolve(asked), kind)
    assert (condition.status, condition.reason) == ("False", "Unauthorized")
    assert action in condition.message
    assert "You may not." in condition.message
    dials.delete("faults")
    assert missing_in(await resolver.resolve(asked)) is None, "a permission that is given counts at once"


async def test_what_was_found_counts_a_while_longer_when_aws_can_not_be_asked(
    resolver: Resolver, clock: FakeClock, dials: DialBoard
) -> None:
    before = await resolver.resolve(CLASS)
    dials.post("faults", kind="throttle", service="ec2", action="DescribeSubnets")
    await clock.advance(SUBNETS_S + 1.0)
    found = await resolver.resolve(CLASS)
    assert found.subnets == before.subnets
    assert missing_in(found) is None
    await clock.advance(STALE_S)
    lost = only_this_is_wrong(await resolver.resolve(CLASS), "SubnetsReady")
    assert (lost.status, lost.reason) == ("Unknown", "Throttled")


async def test_a_permission_that_is_taken_away_counts_at_once(
    resolver: Resolver, clock: FakeClock, dials: DialBoard
) -> None:
    await resolver.resolve(CLASS)
    dials.post("faults", kind="fail", action="DescribeSubnets", code="UnauthorizedOperation", status=403)
    await clock.advance(SUBNETS_S + 1.0)
    only_this_is_wrong(await resolver.resolve(CLASS), "SubnetsReady")

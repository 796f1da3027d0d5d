"""The providers that there are, each as the services see it: EC2 on a simulated account, KWOK on a real API server.

A provider is what implements the ports of allocator, reallocator and pricing that speak of a cloud. `Provider` makes
each part anew for every replica and cluster that a test plays, and has the dials that a contract needs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from nodeyard.adapters.ec2.instances import Instances
from nodeyard.adapters.ec2.launch import Fleet as Ec2Fleet
from nodeyard.adapters.ec2.launch_templates import LaunchTemplates
from nodeyard.adapters.ec2.node_class import Resolver
from nodeyard.adapters.ec2.session import Ec2Session
from nodeyard.adapters.kwok.fleet import KwokFleet, KwokTemplates
from nodeyard.adapters.kwok.instances import KwokInstances
from nodeyard.adapters.kwok.market import KwokClasses, KwokMarket
from nodeyard.adapters.kwok.objects import Objects
from nodeyard.api import labels as keys
from nodeyard.api.nodeclass import NodeClass, SelectorTerm
from nodeyard.provisioning.batches import Answer, Batch
from nodeyard.provisioning.claims import LaunchRecord
from services.allocator.ports import ClassResolver, Fleet, Templates
from services.pricing.main import Aws
from services.pricing.ports import Cloud
from services.reallocator.ports import Machines
from tests.support.account import DialBoard
from tests.support.catalogue import table_of
from tests.support.clock import FakeClock

FOUND_BY = (SelectorTerm(tags={"karpenter.sh/discovery": "nodeyard"}),)
CLASS = NodeClass(
    "default", uid="class-uid", generation=3, subnet_terms=FOUND_BY, security_group_terms=FOUND_BY,
    ami_terms=(SelectorTerm(alias="al2023@latest"),), role="KarpenterNodeRole-nodeyard",
)  # fmt: skip


class Provider(Protocol):
    """One cloud. `cluster_uid` is the cluster that a part works for; two parts of one cluster are two replicas'."""

    def fleet(self, cluster_uid: str = "uid") -> Fleet: ...
    def templates(self, cluster_uid: str = "uid") -> Templates: ...
    def classes(self) -> ClassResolver: ...
    def machines(self, cluster_uid: str = "uid") -> Machines: ...
    def market(self) -> Cloud: ...
    def leave(self, instance_type: str, zone: str, left: int) -> None:
        """From now on so many more of the type can be had in the zone."""
        ...


class Ec2:
    """EC2 behind a session, with the dials of its simulated account."""

    def __init__(self, session: Ec2Session, dials: DialBoard) -> None:
        self._session = session
        self._dials = dials

    def fleet(self, cluster_uid: str = "uid") -> Fleet:
        return Ec2Fleet(self._session, cluster_uid=cluster_uid)

    def templates(self, cluster_uid: str = "uid") -> Templates:
        return LaunchTemplates(self._session, cluster="nodeyard", tags={keys.CLUSTER_UID_TAG: cluster_uid})

    def classes(self) -> ClassResolver:
        return Resolver(
            self._session, FakeClock(), cluster="nodeyard", cluster_uid="uid", kubernetes_version="1.36"
        )

    def machines(self, cluster_uid: str = "uid") -> Machines:
        return Instances(self._session, cluster_uid=cluster_uid)

    def market(self) -> Cloud:
        return Aws(self._session)

    def leave(self, instance_type: str, zone: str, left: int) -> None:
        self._dials.post("capacity", instance_type=instance_type, zone=zone, capacity_type="*", left=left)


class Kwok:
    """KWOK nodes of an API server, of three zones and five real types."""

    def __init__(self, objects: Objects, unique: Callable[[str], str]) -> None:
        """`unique` turns a cluster's UID into one that only this test uses."""
        self._objects = objects
        self._unique = unique
        self._table = table_of()
        self._room: dict[tuple[str, str], int] = {}

    def fleet(self, cluster_uid: str = "uid") -> Fleet:
        return KwokFleet(self._objects, self._table, cluster_uid=self._unique(cluster_uid), room=self._room)

    def templates(self, cluster_uid: str = "uid") -> Templates:
        return KwokTemplates(self._objects, cluster_uid=self._unique(cluster_uid))

    def classes(self) -> ClassResolver:
        return KwokClasses(self._table)

    def machines(self, cluster_uid: str = "uid") -> Machines:
        return KwokInstances(self._objects, cluster_uid=self._unique(cluster_uid))

    def market(self) -> Cloud:
        usd = {described.name: round(described.vcpus * 0.05, 4) for described in self._table.types}
        return KwokMarket(self._table, usd)

    def leave(self, instance_type: str, zone: str, left: int) -> None:
        self._room[instance_type, zone] = left


def other_class(key: str) -> NodeClass:
    """Another class that finds the same."""
    return msgspec.structs.replace(CLASS, key=key, uid=key)


def batch(fleet: Fleet, record: LaunchRecord, *names: str) -> Batch:
    members = tuple((name, f"{name}-uid") for name in names)
    return Batch(fleet.stamp(record, members), members)


async def launched(fleet: Fleet, record: LaunchRecord, *names: str) -> Answer:
    return await fleet.launch(record, batch(fleet, record, *names))

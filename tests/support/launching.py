"""The allocator's launching side over a real boto3 session: classes, templates, batches, EC2 adapter as in production.

The API server is the honest in-memory one and the catalogue a small one, so that only EC2 is under test.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

from nodeyard.adapters.ec2.launch import Fleet
from nodeyard.adapters.ec2.launch_templates import LaunchTemplates
from nodeyard.adapters.ec2.node_class import Resolver
from nodeyard.adapters.ec2.placement import Partitions
from nodeyard.adapters.ec2.session import Ec2Session
from nodeyard.api import labels as keys
from nodeyard.api.node import LAUNCHED, NodeClaim, NodeClassRef
from nodeyard.api.nodeclass import NodeClass, SelectorTerm
from nodeyard.api.selectors import Requirement
from nodeyard.cloudprovider.boot import Boot
from nodeyard.cloudprovider.model import Catalogue
from nodeyard.provisioning.addresses import Addresses
from nodeyard.provisioning.lifecycle import Deadlines
from nodeyard.runtime.clock import SystemClock
from nodeyard.runtime.metrics import new_registry
from nodeyard.state.cluster import Change, Kind
from services.allocator.batches import Batches
from services.allocator.classes import Classes
from services.allocator.follower import Follower
from services.allocator.launcher import Launcher
from services.allocator.leases import NodeLeases
from services.allocator.metrics import AllocatorMetrics
from services.allocator.naming import Namer
from services.allocator.ports import Leases
from services.allocator.registrar import Registrar
from services.allocator.reporting import Reporter
from tests.support.account import REGION
from tests.support.allocator import Leader, LeaseTable, Quiet, one_node_planner
from tests.support.allocator_cloud import Cloud
from tests.support.allocator_cluster import Api, Stream

FOUND_BY = (SelectorTerm(tags={"karpenter.sh/discovery": "nodeyard"}),)
CLASS = NodeClass(
    "default", uid="class-uid", generation=1, subnet_terms=FOUND_BY, security_group_terms=FOUND_BY,
    ami_terms=(SelectorTerm(alias="al2023@latest"),), role="KarpenterNodeRole-nodeyard",
)  # fmt: skip
OURS: Final = {keys.CLUSTER_UID_TAG: "uid", "kubernetes.io/cluster/nodeyard": "owned"}
"""What marks everything of the bench's cluster."""
LONGEST_S: Final = 240.0


class Offers(Cloud):
    """A catalogue that is resolved once, as pricing's stream does it; nothing is launched by it."""

    def __init__(self, clock: SystemClock) -> None:
        super().__init__(clock)  # type: ignore[arg-type]
        self._resolved: dict[object, Catalogue] = {}

    def catalogue_for(self, node_class: NodeClass) -> Catalogue:
        if node_class.subnets not in self._resolved:
            self._resolved[node_class.subnets] = super().catalogue_for(node_class)
        return self._resolved[node_class.subnets]


class LaunchBench:
    """One allocator's launching side over a simulated account. `beside` another it shares that one's API server;
    `leases` keep the two from doing the same work twice.
    """

    def __init__(
        self,
        session: Ec2Session,
        *,
        consistency_lag_s: float = 60.0,
        leases: Leases | None = None,
        beside: LaunchBench | None = None,
        node_class: NodeClass = CLASS,
    ) -> None:
        self.clock = clock = SystemClock()
        self.addresses = Addresses()
        self.stream, quiet, leader = Stream(), Quiet(), Leader()
        self.api: Api = beside.api if beside is not None else Api(clock)  # type: ignore[arg-type]
        self.api.streams.append(self.stream)
        self.stream.show(Change(Kind.NODE_CLASS, "default", node_class))
        self.offers = offers = Offers(clock)
        tags = dict(OURS)
        fleet = Fleet(session, cluster_uid="uid")
        holder = "bench" if beside is None else "bench beside"
        node_leases = NodeLeases(leases or LeaseTable(), holder, 5.0, clock)
        report = Reporter(quiet, quiet, clock, "bench")
        measures = AllocatorMetrics(new_registry(process=False))
        templates = LaunchTemplates(session, cluster="nodeyard", tags=tags)
        self.classes = Classes(
            cluster=self.stream, offers=offers, templates=templates, statuses=quiet, clock=clock,
            resolver=Resolver(session, clock, cluster="nodeyard", cluster_uid="uid", kubernetes_version="1.36", addresses=self.addresses),
            boot=Boot(cluster="nodeyard"), report=report, stopped=lambda: None,
        )  # fmt: skip
        self.namer = Namer(fleet, self.stream, clock, lambda: None)
        launcher = Launcher(
            cluster=self.stream, offers=offers, claims=self.api, region=REGION, namer=self.namer,
            batches=Batches(
                fleet=fleet, claims=self.api, cluster=self.stream, leases=node_leases, clock=clock,
                consistency_lag_s=consistency_lag_s,
            ),
            templates=templates, classes=self.classes, epochs=leader, leader=leader, report=report,
            measures=measures, clock=clock, tags=tags, addresses=self.addresses,
        )  # fmt: skip
        registrar = Registrar(
            cluster=self.stream, claims=self.api, nodes=self.api, pods=self.api, nominated=quiet, report=report,
            partitions=Partitions(session),
            measures=measures, clock=clock, mode="nominate", planner=one_node_planner,
        )  # fmt: skip
        self.follower = Follower(
            cluster=self.stream, launcher=launcher, registrar=registrar, leases=node_leases, report=report,
            clock=clock, deadlines=Deadlines(), stopped=lambda: None,
        )  # fmt: skip

    async def launched(self, count: int, sets: int, first: int = 0) -> tuple[float, float]:
        """Seconds until every claim is launched or gone, and until every instance is tagged as its claim's."""
        for number in range(first, first + count):
            await self.api.create(_claim(number, number % sets))
        return await self.followed()

    async def followed(self) -> tuple[float, float]:
        """The same for the claims that are there."""
        await self.classes.refresh()
        started = time.monotonic()
        naming = asyncio.create_task(self.namer.run())
        while not all(c.is_true(LAUNCHED) for c in self.api.claims.values()):
            assert time.monotonic() - started < LONGEST_S, "not launched in time"
            self.follower.look()
            await asyncio.sleep(0.05)
        launched_s = time.monotonic() - started
        await self.follower.idle()
        while self.namer.pending:
            assert time.monotonic() - started < LONGEST_S, "not tagged in time"
            await asyncio.sleep(0.05)
        naming.cancel()
        return launched_s, time.monotonic() - started


def _claim(number: int, group: int) -> NodeClaim:
    return NodeClaim(
        f"c{number:03}", node_class=NodeClassRef("default"), labels={keys.NODEPOOL: f"pool-{group}"},
        requirements=(Requirement(keys.CAPACITY_TYPE, "In", ("on-demand",)), Requirement(keys.ARCH, "In", ("amd64",))),
    )  # fmt: skip

"""500 NodeClaims launched on the simulated account, whose limits are those that AWS publishes.

The launcher with its batches, classes, templates and EC2 adapter as in production; the API server is the honest
in-memory one, so that the figure is about EC2. Asserted: exactly one instance per claim, and no call beyond a limit.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import pytest

from nodeyard.adapters.ec2.budget import CallBudget
from nodeyard.adapters.ec2.launch import Fleet
from nodeyard.adapters.ec2.launch_templates import LaunchTemplates
from nodeyard.adapters.ec2.node_class import Resolver
from nodeyard.adapters.ec2.session import Ec2Session
from nodeyard.adapters.ec2.user_data import Boot
from nodeyard.api import labels as keys
from nodeyard.api.node import LAUNCHED, NodeClaim, NodeClassRef
from nodeyard.api.nodeclass import NodeClass, SelectorTerm
from nodeyard.api.selectors import Requirement
from nodeyard.cloudprovider.model import Catalogue
from nodeyard.local.account.server import AccountServer
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
from services.allocator.registrar import Registrar
from services.allocator.reporting import Reporter
from tests.support.account import REGION, AwsClients, DialBoard, account_server
from tests.support.allocator import Api, Cloud, Leader, LeaseTable, Quiet, Stream, one_node_planner

__all__ = ["account_server"]

pytestmark = pytest.mark.benchmark
FOUND_BY = (SelectorTerm(tags={"karpenter.sh/discovery": "nodeyard"}),)
CLASS = NodeClass(
    "default", uid="class-uid", generation=1, subnet_terms=FOUND_BY, security_group_terms=FOUND_BY,
    ami_terms=(SelectorTerm(alias="al2023@latest"),), role="KarpenterNodeRole-nodeyard",
)  # fmt: skip
LIMITS = {
    "CreateFleet": (50, 5.0), "CreateLaunchTemplate": (50, 5.0), "CreateTags": (100, 10.0),
    "TerminateInstances": (100, 5.0), "Describe*": (100, 20.0),
}  # fmt: skip
LONGEST_S = 240.0


class Offers(Cloud):
    """A catalogue that is resolved once, as pricing's stream does it; nothing is launched by it."""

    def __init__(self, clock: SystemClock) -> None:
        super().__init__(clock)  # type: ignore[arg-type]
        self._resolved: dict[object, Catalogue] = {}

    def catalogue_for(self, node_class: NodeClass) -> Catalogue:
        if node_class.subnets not in self._resolved:
            self._resolved[node_class.subnets] = super().catalogue_for(node_class)
        return self._resolved[node_class.subnets]


class Bench:
    """One allocator's launching side over a simulated account."""

    def __init__(self, session: Ec2Session) -> None:
        self.clock = clock = SystemClock()
        self.api, self.stream, quiet, leader = Api(clock), Stream(), Quiet(), Leader()  # type: ignore[arg-type]
        self.api.streams.append(self.stream)
        self.stream.show(Change(Kind.NODE_CLASS, "default", CLASS))
        offers, tags = Offers(clock), {keys.CLUSTER_UID_TAG: "uid"}
        fleet = Fleet(session, cluster_uid="uid")
        leases = NodeLeases(LeaseTable(), "bench", 5.0, clock)
        report = Reporter(quiet, quiet, clock, "bench")
        measures = AllocatorMetrics(new_registry(process=False))
        templates = LaunchTemplates(session, cluster="nodeyard", tags=tags)
        self.classes = Classes(
            cluster=self.stream, offers=offers, templates=templates, statuses=quiet, clock=clock,
            resolver=Resolver(session, clock, cluster="nodeyard", cluster_uid="uid", kubernetes_version="1.36"),
            boot=Boot(cluster="nodeyard"), report=report,
        )  # fmt: skip
        self.namer = Namer(fleet, self.stream, clock)
        launcher = Launcher(
            cluster=self.stream, offers=offers, claims=self.api, region=REGION, namer=self.namer,
            batches=Batches(fleet=fleet, claims=self.api, cluster=self.stream, leases=leases, clock=clock),
            templates=templates, classes=self.classes, epochs=leader, leader=leader, report=report,
            measures=measures, clock=clock, tags=tags,
        )  # fmt: skip
        registrar = Registrar(
            cluster=self.stream, claims=self.api, nodes=self.api, pods=self.api, nominated=quiet, report=report,
            measures=measures, clock=clock, mode="nominate", planner=one_node_planner,
        )  # fmt: skip
        self.follower = Follower(
            cluster=self.stream, launcher=launcher, registrar=registrar, leases=leases, report=report,
            clock=clock, deadlines=Deadlines(), stopped=lambda: None,
        )  # fmt: skip

    async def launched(self, count: int, sets: int) -> tuple[float, float]:
        """Seconds until every claim is launched, and until every instance is tagged as its claim's."""
        await self.classes.refresh()
        for number in range(count):
            await self.api.create(_claim(number, number % sets))
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


@pytest.mark.parametrize(
    ("count", "sets", "every_nth"),
    [(1, 1, None), (500, 1, None), (500, 40, None), (500, 40, 3), (120, 120, None)],
)
async def test_launching(
    count: int,
    sets: int,
    every_nth: int | None,
    account_server: AccountServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in {
        "AWS_ENDPOINT_URL": account_server.url, "AWS_REGION": REGION, "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    dials = DialBoard(account_server.url)
    for action, (burst, rate) in LIMITS.items():
        dials.post("faults", kind="throttle", service="ec2", action=action, burst=burst, rate_per_second=rate)
    if every_nth is not None:
        dials.post("faults", kind="throttle", service="ec2", action="CreateFleet", every_nth=every_nth)
    session = Ec2Session(threads=16, budget=CallBudget())
    bench = Bench(session)
    launched_s, tagged_s = await bench.launched(count, sets)
    session.close()
    calls = Counter(
        call["action"] for call in dials.get("calls", limit=100_000)["calls"] if call["error"] is None
    )
    throttled = Counter(
        c["action"]
        for c in dials.get("calls", limit=100_000)["calls"]
        if c["error"] == "RequestLimitExceeded"
    )
    instances = AwsClients(account_server.url).instances(instance_state_name="*")
    owned = {c.provider_id.rpartition("/")[2]: c.uid for c in bench.api.claims.values()}
    assert len(instances) == len(owned) == count
    for shown in instances:
        tags = {t["Key"]: t["Value"] for t in shown["Tags"]}
        assert tags[keys.NODECLAIM_UID_TAG] == owned[shown["InstanceId"]]
    if every_nth is None:
        assert not throttled, "a limit was exceeded"
    with capsys.disabled():
        print(
            f"\n{count:4} claims, {sets:3} sets, every {every_nth or '-':>2}th throttled: launched in {launched_s:5.1f} s,"
            f" tagged in {tagged_s:5.1f} s; CreateFleet {calls['CreateFleet']:3} + {throttled['CreateFleet']:2} throttled,"
            f" CreateLaunchTemplate {calls['CreateLaunchTemplate']:3}, CreateTags {calls['CreateTags']:3}"
        )

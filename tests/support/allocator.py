"""A small honest world for the allocator: a cluster with resourceVersions, a cloud with client tokens, leases.

Its API server and streams are `allocator_cluster`'s, its EC2 `allocator_cloud`'s.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from nodeyard.api import labels as keys
from nodeyard.api.decision import Decision
from nodeyard.api.node import Condition, Node, NodeClassRef
from nodeyard.api.nodeclass import NodeClass
from nodeyard.api.pod import PodKey, PodRecord, PodShape
from nodeyard.api.pool import Pool
from nodeyard.api.quantity import fits, total
from nodeyard.api.selectors import Requirement, Taint
from nodeyard.cloudprovider.boot import Boot
from nodeyard.cloudprovider.model import Catalogue
from nodeyard.provisioning.addresses import Addresses
from nodeyard.provisioning.landing import Planner
from nodeyard.provisioning.lifecycle import Deadlines
from nodeyard.provisioning.model import (
    Cost,
    OfferingRef,
    Options,
    Plan,
    PlannedNode,
    Problem,
    Reason,
    Unschedulable,
)
from nodeyard.runtime.batcher import Batcher
from nodeyard.runtime.leadership import StoreUnavailableError
from nodeyard.runtime.metrics import new_registry
from nodeyard.state.cluster import Change, Kind
from services.allocator.batches import Batches
from services.allocator.classes import Classes
from services.allocator.controller import Controller
from services.allocator.follower import Follower
from services.allocator.launcher import Launcher
from services.allocator.leases import NodeLeases
from services.allocator.metrics import AllocatorMetrics
from services.allocator.naming import Namer
from services.allocator.registrar import Registrar
from services.allocator.reporting import Reporter
from tests.support.allocator_cloud import Account, Cloud
from tests.support.allocator_cluster import Api, Stream
from tests.support.clock import FakeClock, settle


class Quiet:
    """Statuses that are taken, nominations and journal entries that are kept, events that are counted."""

    def __init__(self) -> None:
        self.decisions: list[Decision] = []
        self.events: list[tuple[str, str, str]] = []
        self.nominated: list[str] = []
        self.nominated_for_s = 0.0
        self.away = False

    async def write_pool(self, key: str, resources: Any, conditions: Any) -> bool:
        return True

    async def write_class(self, found: NodeClass) -> bool:
        return True

    async def hold_class(self, node_class: NodeClass) -> bool:
        return True

    async def release_class(self, node_class: NodeClass) -> bool:
        return True

    async def record(self, decisions: Sequence[Decision]) -> None:
        self.decisions += decisions

    def publish(self, *, kind: str, name: str, reason: str, **_: str) -> None:
        self.events.append((kind, name, reason))

    async def nominate(self, nodes: Sequence[str], ttl_s: float) -> None:
        if self.away:
            raise StoreUnavailableError("Redis is away")
        self.nominated += nodes
        self.nominated_for_s = ttl_s


class LeaseTable:
    """Leases of all replicas."""

    def __init__(self) -> None:
        self.holders: dict[str, str] = {}
        self.away = False

    async def acquire(self, name: str, holder: str, ttl_s: float, floor: int = 0) -> int | None:
        if self.away:
            raise StoreUnavailableError("Redis is away")
        return 1 if self.holders.setdefault(name, holder) == holder else None

    async def renew(self, name: str, holder: str, epoch: int, ttl_s: float) -> bool:
        return self.holders.get(name) == holder

    async def release(self, name: str, holder: str, epoch: int) -> None:
        self.holders.pop(name, None)


class Leader:
    """The planning lease, turned by the test."""

    def __init__(self) -> None:
        self.epoch: int | None = 1
        self.began_at = 0.0
        self.newest = 1

    async def wait_held(self) -> int:
        assert self.epoch is not None, "the test would wait for ever"
        return self.epoch

    async def began(self, name: str) -> tuple[int, float]:
        return self.newest, self.began_at


def one_node_planner(problem: Problem, options: Options, clock: Callable[[], float]) -> Plan:
    """Everything that fits into the pool's cheapest type goes there, type by type; existing nodes first."""
    pool = next(iter(problem.snapshot.pools.values()))
    catalogue = problem.catalogue_of(pool.node_class.key) or Catalogue(())
    offers = sorted(
        (o.price, t.name, o.zone, o.capacity_type)
        for t in catalogue.types for o in t.offerings if o.available and o.capacity_type == keys.ON_DEMAND
    )  # fmt: skip
    shapes = {key: problem.snapshot.shape(problem.snapshot.pods[key]) for key in problem.pods}
    refused = [key for key, shape in shapes.items() if shape.node_selector]
    waiting = [key for key in problem.pods if key not in refused]
    existing: dict[str, list[PodKey]] = {}
    if not problem.allow_new_nodes:
        for name, node in problem.snapshot.nodes.items():
            for key in list(waiting):
                requests = total(
                    [shapes[k].requests for k in existing.get(name, ())] + [shapes[key].requests]
                )
                if name not in problem.closed_nodes and not node.taints and fits(requests, node.allocatable):
                    existing.setdefault(name, []).append(key)
                    waiting.remove(key)
        return Plan(existing=_placements(existing))
    nodes: list[PlannedNode] = []
    for price, name, zone, capacity_type in offers:
        room = catalogue.by_name[name].allocatable
        mine: list[PodKey] = []
        for key in list(waiting):
            if fits(total([shapes[k].requests for k in (*mine, key)]), room):
                mine.append(key)
                waiting.remove(key)
        if mine:
            others = tuple(OfferingRef(n, z, c, p) for p, n, z, c in offers if n == name and z != zone)
            nodes.append(_planned(pool, name, zone, capacity_type, price, mine, others, shapes))
    left = [Unschedulable(key, Reason.REQUIREMENTS, "no node like that") for key in (*refused, *waiting)]
    return Plan(
        nodes=tuple(nodes), unschedulable=tuple(left), cost=Cost(sum(n.price_per_hour for n in nodes))
    )


def _placements(existing: dict[str, list[PodKey]]) -> Any:
    from nodeyard.provisioning.model import Placement

    return tuple(Placement(name, tuple(pods)) for name, pods in existing.items())


def _planned(
    pool: Pool,
    name: str,
    zone: str,
    capacity_type: str,
    price: float,
    pods: list[PodKey],
    others: Any,
    shapes: Any,
) -> PlannedNode:
    return PlannedNode(
        name="n", pool=pool.key, instance_type=name, zone=zone, capacity_type=capacity_type, price_per_hour=price,
        pods=tuple(pods), alternatives=others, requests=total(shapes[k].requests for k in pods),
        requirements=(Requirement(keys.INSTANCE_TYPE, "In", (name,)),),
    )  # fmt: skip


class Replica:
    """One allocator in the world."""

    def __init__(
        self, world: World, name: str = "a", mode: str = "nominate", window_s: float = 0.0,
        planner: Planner = one_node_planner,
    ) -> None:  # fmt: skip
        """`window_s`: how long launches are gathered; 0 as long as nobody waits for time."""
        self.stream = Stream()
        self.stream.store.apply(_all_of(world.api, world.fixed))
        world.api.streams.append(self.stream)
        self.leader = world.leader
        report = Reporter(world.quiet, world.quiet, world.clock, name)
        measures = self.measures = AllocatorMetrics(new_registry(process=False))
        self.classes = Classes(
            cluster=self.stream, offers=world.cloud, resolver=world.account, templates=world.account,
            statuses=world.quiet, clock=world.clock, boot=Boot(cluster="nodeyard"), report=report,
            stopped=world.why_stopped,
        )  # fmt: skip
        self.addresses = Addresses()
        self.leases = NodeLeases(world.leases, name, 5.0, world.clock)
        self.batches = Batches(
            fleet=world.cloud, claims=world.api, cluster=self.stream, leases=self.leases, clock=world.clock,
            idle_s=window_s,
        )  # fmt: skip
        self.namer = Namer(world.cloud, self.stream, world.clock, world.why_stopped)
        self.launcher = Launcher(
            cluster=self.stream, offers=world.cloud, claims=world.api, region=world.cloud.region,
            batches=self.batches, namer=self.namer, templates=world.account,
            classes=self.classes, epochs=world.leader, leader=world.leader, report=report, measures=measures,
            clock=world.clock, tags={keys.CLUSTER_UID_TAG: "cluster"}, addresses=self.addresses,
        )  # fmt: skip
        self.registrar = Registrar(
            cluster=self.stream, claims=world.api, nodes=world.api, pods=world.api, nominated=world.quiet,
            partitions=world.cloud,
            report=report, measures=measures, clock=world.clock, mode=mode, planner=one_node_planner,
        )  # fmt: skip
        self.follower = Follower(
            cluster=self.stream, launcher=self.launcher, registrar=self.registrar,
            leases=self.leases, report=report, clock=world.clock,
            deadlines=Deadlines(), stopped=world.why_stopped,
        )  # fmt: skip
        self.batcher = Batcher(1.0, 10.0, world.clock)
        self.controller = Controller(
            cluster=self.stream, offers=world.cloud, classes=self.classes, claims=world.api, launcher=self.launcher,
            follower=self.follower, leader=world.leader, nominated=world.quiet, report=report, measures=measures,
            clock=world.clock, batcher=self.batcher, planner=planner, options=Options(),
            stopped=world.why_stopped, new_plan_id=lambda: f"plan{next(world.plans)}",
        )  # fmt: skip

    async def round(self) -> None:
        """One planning round, and every step that follows from it."""
        await self.classes.refresh()
        await self.controller.round(self.leader.epoch or 0)
        await self.follow()

    async def follow(self) -> None:
        """Everything that is due now."""
        self.follower.look()
        await settle()
        await self.follower.idle()


class World:
    """Cluster, cloud and replicas around one clock; a pool `default` to begin with."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.api = Api(self.clock)
        self.cloud = Cloud(self.clock)
        self.account = Account()
        self.quiet = Quiet()
        self.leases = LeaseTable()
        self.leader = Leader()
        self.plans = itertools.count(1)
        self.stopped: str | None = None
        """Why no replica may do anything."""
        self.pool = Pool(
            "default", uid="pool", node_class=NodeClassRef("default"),
            taints=(Taint("team", "NoSchedule", "a"),), startup_taints=(Taint("cni", "NoExecute"),),
            labels={"team": "a"}, annotations={"note": "x"}, hash="h",
        )  # fmt: skip
        self.fixed = [
            Change(Kind.POOL, "default", self.pool),
            Change(Kind.NODE_CLASS, "default", NodeClass("default", uid="class", generation=1)),
        ]

    def why_stopped(self) -> str | None:
        return self.stopped

    def replica(self, name: str = "a", mode: str = "nominate", window_s: float = 0.0) -> Replica:
        return Replica(self, name, mode, window_s)

    def pending_pods(self, count: int, prefix: str = "p", **shape: Any) -> list[PodKey]:
        """Pods that the kube-scheduler refused just now: 500m CPU and 1 GiB each."""
        requests = {"cpu": 500, "memory": 2**30, "pods": 1, **shape.pop("requests", {})}
        kind = PodShape(f"shape-{prefix}", "default", requests=requests, **shape)
        if Change(Kind.SHAPE, kind.id, kind) not in self.fixed:
            self.fixed.append(Change(Kind.SHAPE, kind.id, kind))
            for stream in self.api.streams:
                stream.show(self.fixed[-1])
        for number in range(count):
            name = f"{prefix}{number}"
            pod = PodRecord(
                "default", name, f"uid-{name}", kind.id, unschedulable=True, owner_kind="ReplicaSet"
            )
            self.api.put(Kind.POD, pod.key, pod)
        return [f"default/{prefix}{number}" for number in range(count)]

    def join(
        self, claim: str, *, ready: bool = True, taints: Sequence[Taint] | None = None, name: str = ""
    ) -> Node:
        """The claim's instance registers its node."""
        made = self.api.claims[claim]
        boot = (Taint(keys.TAINT_UNREGISTERED, keys.NO_EXECUTE), *made.taints, *made.startup_taints)
        node = Node(
            name or f"node-{claim}", uid=f"node-uid-{claim}{name}", provider_id=made.provider_id,
            taints=tuple(boot if taints is None else taints), allocatable=dict(made.allocatable),
            capacity=dict(made.capacity), conditions=(Condition("Ready", "True" if ready else "False"),),
        )  # fmt: skip
        return self.api.put(Kind.NODE, node.name, node)  # type: ignore[no-any-return]

    def change_node(self, name: str, **fields: Any) -> Node:
        return self.api.put(Kind.NODE, name, msgspec.structs.replace(self.api.nodes[name], **fields))  # type: ignore[no-any-return]


def _all_of(api: Api, fixed: Sequence[Change]) -> list[Change]:
    return [
        *fixed,
        *(Change(Kind.NODE_CLAIM, key, value) for key, value in api.claims.items()),
        *(Change(Kind.NODE, key, value) for key, value in api.nodes.items()),
        *(Change(Kind.POD, key, value) for key, value in api.pods.items()),
    ]

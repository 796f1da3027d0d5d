"""A small honest world for the allocator: a cluster with resourceVersions, a cloud with client tokens, leases.

The API keeps optimistic concurrency, finalizers and UIDs; the stream shows what the API has, unless it is held back;
the cloud makes one instance per client token and can refuse, fail, or do the work and lose the answer.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import msgspec

from nodeyard.adapters.kubernetes.errors import AlreadyExists
from nodeyard.api import labels as keys
from nodeyard.api.decision import Decision
from nodeyard.api.node import Condition, Node, NodeClaim, NodeClassRef
from nodeyard.api.nodeclass import Image, NodeClass, SecurityGroup, Subnet
from nodeyard.api.pod import PodKey, PodRecord, PodShape
from nodeyard.api.pool import Pool
from nodeyard.api.quantity import fits, total
from nodeyard.api.selectors import Requirement, Taint
from nodeyard.cloudprovider.boot import Boot
from nodeyard.cloudprovider.errors import CloudError
from nodeyard.cloudprovider.market import RESERVATIONS
from nodeyard.cloudprovider.model import Catalogue
from nodeyard.cloudprovider.refusals import Refusal, RefusalMemory
from nodeyard.cloudprovider.reservations import CapacityReservation, selected
from nodeyard.cloudprovider.resolve import resolve
from nodeyard.provisioning.addresses import Addresses
from nodeyard.provisioning.batches import Answer, Batch, Found, merge_key
from nodeyard.provisioning.claims import LaunchRecord, ReservationRef
from nodeyard.provisioning.launches import Launched
from nodeyard.provisioning.lifecycle import Deadlines, registration, with_condition, without_taint
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
from nodeyard.state.cluster import Change, ClusterStore, Kind, Snapshot
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
from tests.support.catalogue import ZONES, small_market
from tests.support.clock import FakeClock, settle


class Stream:
    """The watcher's stream of one replica. `paused`: what the API does is not shown (own writes are)."""

    def __init__(self) -> None:
        self.store = ClusterStore()
        self.synced = True
        self.lag_s = 0.0
        self.paused = False
        self._missed: list[Change] = []
        self._revision = 0

    def show(self, *changes: Change) -> None:
        if self.paused:
            self._missed += changes
            return
        self._revision += 1
        self.store.apply(changes, revision=self._revision)

    def resume(self) -> None:
        self.paused = False
        missed, self._missed = self._missed, []
        self.show(*missed)

    def snapshot(self) -> Snapshot:
        return self.store.snapshot()

    def overlay(self, change: Change) -> None:
        self.store.apply((change,))

    async def wait_changed(self, after_revision: int, timeout_s: float) -> int:
        return self._revision


class Api:
    """Claims, nodes and pods as the API server keeps them; implements Claims, Nodes and Pods."""

    def __init__(self, clock: FakeClock) -> None:
        self.takes_back = 0
        """Nominations that the kube-scheduler takes back at once."""
        self.streams: list[Stream] = []
        self.claims: dict[str, NodeClaim] = {}
        self.nodes: dict[str, Node] = {}
        self.pods: dict[PodKey, PodRecord] = {}
        self.writes: list[str] = []
        self.fail: dict[str, Exception] = {}
        """What the next write of a kind ("create", "status", ...) raises instead."""
        self._clock = clock
        self._versions = itertools.count(1)

    def put(self, kind: Kind, key: str, value: Any) -> Any:
        """Stores an object as changed now, and shows it."""
        if value is not None and hasattr(value, "resource_version"):
            value = msgspec.structs.replace(value, resource_version=str(next(self._versions)))
        kept: dict[str, Any] | None = {
            Kind.NODE_CLAIM: self.claims, Kind.NODE: self.nodes, Kind.POD: self.pods,
        }.get(kind)  # type: ignore[assignment]  # fmt: skip
        if kept is not None:
            kept.pop(key, None) if value is None else kept.__setitem__(key, value)
        for stream in self.streams:
            stream.show(Change(kind, key, value, getattr(value, "resource_version", "")))
        return value

    def put_away(self, claim: str) -> None:
        """Somebody removed the claim's finalizer by hand, too."""
        self.put(Kind.NODE_CLAIM, claim, None)

    def _may(self, what: str) -> None:
        if error := self.fail.pop(what, None):
            raise error
        self.writes.append(what)

    # Claims
    async def create(self, claim: NodeClaim, owner: Pool | None = None) -> NodeClaim:
        self._may("create")
        if claim.name in self.claims:
            raise AlreadyExists(409, "AlreadyExists", claim.name)
        made = msgspec.structs.replace(
            claim, uid=f"uid-{claim.name}", created_at=float(int(self._clock.now()))
        )
        return self.put(Kind.NODE_CLAIM, claim.name, made)  # type: ignore[no-any-return]

    async def get(self, name: str) -> NodeClaim | None:
        return self.claims.get(name)

    async def list(self) -> list[NodeClaim]:
        return list(self.claims.values())

    async def _change(
        self, claim: NodeClaim, what: str, change: Callable[[NodeClaim], NodeClaim]
    ) -> NodeClaim | None:
        now = self.claims.get(claim.name)
        if now is None or (claim.uid and claim.uid != now.uid):
            return None
        changed = change(now)
        if changed == now:
            return now
        self._may(what)
        if changed.deleting and not changed.finalizers:
            self.put(Kind.NODE_CLAIM, claim.name, None)
            return None
        return self.put(Kind.NODE_CLAIM, claim.name, changed)  # type: ignore[no-any-return]

    async def patch_status(
        self, claim: NodeClaim, change: Callable[[NodeClaim], NodeClaim]
    ) -> NodeClaim | None:
        return await self._change(claim, "status", change)

    async def set_conditions(
        self, claim: NodeClaim, conditions: Sequence[Condition], now: float
    ) -> NodeClaim | None:
        def change(claim: NodeClaim) -> NodeClaim:
            for condition in conditions:
                claim = msgspec.structs.replace(claim, conditions=with_condition(claim, condition, now))
            return claim

        return await self._change(claim, "status", change)

    async def annotate(
        self,
        claim: NodeClaim,
        annotations: Mapping[str, str | None] = {},
        labels: Mapping[str, str | None] = {},
        *,
        unless: str = "",
        replacing: str = "",
    ) -> NodeClaim | None:
        def change(now: NodeClaim) -> NodeClaim:
            if unless and now.annotations.get(unless, replacing) != replacing:
                return now
            return msgspec.structs.replace(
                now, annotations=_merged(now.annotations, annotations), labels=_merged(now.labels, labels)
            )

        return await self._change(claim, "annotate", change)

    async def add_finalizer(self, claim: NodeClaim) -> NodeClaim | None:
        finalizers = (*claim.finalizers, keys.TERMINATION_FINALIZER)
        return await self._change(
            claim, "add-finalizer", lambda now: msgspec.structs.replace(now, finalizers=finalizers)
        )

    async def remove_finalizer(self, claim: NodeClaim) -> NodeClaim | None:
        return await self._change(
            claim, "remove-finalizer", lambda now: msgspec.structs.replace(now, finalizers=())
        )

    async def delete(self, name: str, uid: str = "") -> bool:
        now = self.claims.get(name)
        if now is None or (uid and uid != now.uid):
            return False
        self._may("delete")
        if not now.finalizers:
            self.put(Kind.NODE_CLAIM, name, None)
        elif not now.deleting:
            self.put(Kind.NODE_CLAIM, name, msgspec.structs.replace(now, deleted_at=self._clock.now()))
        return True

    # Nodes
    async def register(self, node: Node, claim: NodeClaim, *, hold_until: str = "") -> Node | None:
        now = self.nodes.get(node.name)
        if now is None:
            return None
        self._may("register")
        wanted = registration(now, claim, hold_until=hold_until)
        return self.put(  # type: ignore[no-any-return]
            Kind.NODE,
            node.name,
            msgspec.structs.replace(
                now,
                labels=wanted.labels,
                annotations=wanted.annotations,
                taints=wanted.taints,
                finalizers=wanted.finalizers,
            ),
        )

    async def initialized(self, node: Node) -> Node | None:
        now = self.nodes[node.name]
        self._may("initialize")
        return self.put(  # type: ignore[no-any-return]
            Kind.NODE,
            node.name,
            msgspec.structs.replace(now, labels={**now.labels, keys.INITIALIZED: "true"}),
        )

    async def lift_hold(self, node: Node) -> Node | None:
        now = self.nodes[node.name]
        self._may("lift")
        return self.put(  # type: ignore[no-any-return]
            Kind.NODE,
            node.name,
            msgspec.structs.replace(now, taints=without_taint(now.taints, keys.BIND_HOLD)),
        )

    # Pods
    async def nominate(self, pods: Sequence[PodRecord], node: str) -> dict[PodKey, str]:
        self._may("nominate")
        if self.takes_back:
            self.takes_back -= 1
            return {}
        for pod in pods:
            self.put(Kind.POD, pod.key, msgspec.structs.replace(self.pods[pod.key], nominated_node=node))
        return {}

    async def bind(self, pods: Sequence[PodRecord], node: str) -> dict[PodKey, str]:
        self._may("bind")
        for pod in pods:
            self.put(
                Kind.POD, pod.key, msgspec.structs.replace(self.pods[pod.key], node=node, unschedulable=False)
            )
        return {}


class Cloud:
    """EC2 and pricing. `full`: (type, zone) that can't be had; `left`: how many more instances of a type can.
    `failures`: what the next calls raise; one with `may_have_taken_effect` is raised after the instances were made.
    New instances are described `lag_s` after they were made.
    """

    region = "eu-west-1"
    ready = True

    def __init__(self, clock: FakeClock) -> None:
        self.instances: dict[str, Launched] = {}
        """By id."""
        self.claims: dict[str, str] = {}
        """Instance id -> UID of the claim it is tagged for."""
        self.calls: list[tuple[tuple[str, ...], LaunchRecord]] = []
        """Each with the names of the batch's claims."""
        self.full: set[tuple[str, str]] = set()
        self.left: dict[str, int] = {}
        self.partitions: dict[str, int] = {}
        """Instance id -> partition of its placement group, as far as EC2 shows it."""
        self.failures: list[Exception] = []
        self.answer_errors: list[CloudError] = []
        self.lag_s = 0.0
        self.refused: list[Refusal] = []
        self.reserved: tuple[CapacityReservation, ...] = ()
        """As last counted at `counted_at`; `places` are what there really is."""
        self.places: dict[str, int] = {}
        self.counted_at = 0.0
        self._memory = RefusalMemory()
        self._clock = clock
        self._answers: dict[str, tuple[LaunchRecord, Batch, Answer]] = {}
        self._made_at: dict[str, float] = {}
        self._numbers = itertools.count(1)

    def stamp(self, record: LaunchRecord, members: tuple[tuple[str, str], ...]) -> str:
        return hashlib.blake2b(repr((merge_key(record), members)).encode(), digest_size=8).hexdigest()

    async def launch(self, record: LaunchRecord, batch: Batch) -> Answer:
        self.calls.append((tuple(name for name, _ in batch.members), record))
        await asyncio.sleep(0)
        error = self.failures.pop(0) if self.failures else None
        if error is not None and not getattr(error, "may_have_taken_effect", False):
            raise error
        known = self._answers.get(batch.id)
        if known is None:
            known = self._answers[batch.id] = (record, batch, self._make(record, batch))
        assert (merge_key(known[0]), known[1]) == (merge_key(record), batch), "one token, two requests"
        if error is not None:
            raise error
        return known[2]

    def _make(self, record: LaunchRecord, batch: Batch) -> Answer:
        if self.answer_errors:
            return Answer(error=self.answer_errors.pop(0))
        rows = [row for choice in record.choices for row in choice.overrides]
        made: list[Launched] = []
        for row in rows:
            room = 0 if (row[0], row[1]) in self.full else self.left.get(row[0], 10_000)
            into = record.reservations.get(f"{row[0]}/{row[1]}")
            if into is not None:
                room = self.places.get(into.id, 0)
            count = min(room, len(batch.members) - len(made))
            if into is not None:
                self.places[into.id] = room - count
                if count < len(batch.members):
                    full = (
                        Refusal(*row[:2], keys.RESERVED, "ReservationCapacityExceeded", reservation=into.id),
                    )
                    return Answer(tuple(made), full, "the reservation is full")
            if row[0] in self.left:
                self.left[row[0]] -= count
            for _ in range(count):
                one = Launched(f"i-{next(self._numbers):017x}", row[0], row[1], record.capacity_type, "ami-1")
                made.append(one)
                self.instances[one.instance_id] = one
                self._made_at[one.instance_id] = self._clock.monotonic()
                if len(batch.members) == 1:
                    self.claims[one.instance_id] = batch.members[0][1]
        short = len(made) < len(batch.members)
        refusals = tuple(
            Refusal(r[0], r[1], record.capacity_type, "InsufficientInstanceCapacity") for r in rows if short
        )
        return Answer(tuple(made), refusals, "no capacity" if short else "")

    def _shown(self) -> set[str]:
        now = self._clock.monotonic()
        return {i for i, at in self._made_at.items() if now >= at + self.lag_s}

    async def find(self, batch: Batch) -> list[Found]:
        _, _, answer = self._answers.get(batch.id, (None, None, Answer()))
        shown = self._shown()
        return [
            Found(made, self.claims.get(made.instance_id, ""), made.instance_id in self.instances)
            for made in answer.made
            if made.instance_id in shown
        ]

    async def partition_of(self, instance_id: str) -> int | None:
        return self.partitions.get(instance_id)

    async def unnamed(self) -> dict[str, str]:
        shown = self._shown()
        return {
            made.instance_id: batch.id
            for _, batch, answer in self._answers.values()
            for made in answer.made
            if made.instance_id in shown and made.instance_id not in self.claims
        }

    async def name(self, instance_id: str, claim: str, uid: str, *, named: bool) -> None:
        self.claims[instance_id] = uid

    @property
    def revision(self) -> str:
        return str(len(self.refused))

    def catalogue_for(self, node_class: NodeClass) -> Catalogue:
        market = small_market()
        if self.reserved:
            counted = {RESERVATIONS: self.counted_at}
            market = market.with_rows({}, (), {**market.asked_at, **counted}, reservations=self.reserved)
        return resolve(market, node_class, now=0.0, shut=self._memory.shut())

    def reservations_for(self, node_class: NodeClass) -> tuple[CapacityReservation, ...]:
        return selected(node_class, self.reserved)

    async def wait_changed(self, after_revision: str, timeout_s: float) -> str:
        return self.revision

    async def report_refusals(self, refusals: Sequence[Refusal]) -> bool:
        self.refused += refusals
        for refusal in refusals:
            self._memory.remember([refusal], self._clock.now() + refusal.ttl_s)
        return True


class Account:
    """Templates and what node classes resolve to."""

    def __init__(self) -> None:
        self.templates: dict[str, Boot] = {}
        self.forgotten: list[str] = []

    async def ensure(
        self, node_class: NodeClass, image: Image, boot: Boot, into: ReservationRef | None = None
    ) -> str:
        name = f"t-{image.id}-{hash((tuple(sorted(boot.labels.items())), boot.taints, into)) & 0xFFFF:x}"
        self.templates[name] = boot
        return name

    def forget(self, names: Any) -> None:
        self.forgotten += list(names) if not isinstance(names, str) else [names]

    async def delete_of(self, node_class_key: str) -> int:
        return 0

    async def prune(self, keep: AbstractSet[str], classes: AbstractSet[str], now: float) -> int:
        gone = set(self.templates) - keep
        for name in gone:
            del self.templates[name]
        return len(gone)

    async def delete_profile(self, node_class: NodeClass) -> None:
        return None

    async def resolve(self, node_class: NodeClass) -> NodeClass:
        return msgspec.structs.replace(
            node_class,
            subnets=tuple(Subnet(f"subnet-{z.name}", z.name, z.id) for z in ZONES),
            security_groups=(SecurityGroup("sg-1"),),
            images=(Image("ami-1", "", (Requirement(keys.ARCH, "In", ("amd64",)),)),),
            resolved_profile="nodes",
        )


class Quiet:
    """Statuses that are taken, nominations and journal entries that are kept, events that are counted."""

    def __init__(self) -> None:
        self.decisions: list[Decision] = []
        self.events: list[tuple[str, str, str]] = []
        self.nominated: list[str] = []
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

    def __init__(self, world: World, name: str = "a", mode: str = "nominate", window_s: float = 0.0) -> None:
        """`window_s`: how long launches are gathered; 0 as long as nobody waits for time."""
        self.stream = Stream()
        self.stream.store.apply(_all_of(world.api, world.fixed))
        world.api.streams.append(self.stream)
        self.leader = world.leader
        report = Reporter(world.quiet, world.quiet, world.clock, name)
        measures = AllocatorMetrics(new_registry(process=False))
        self.classes = Classes(
            cluster=self.stream, offers=world.cloud, resolver=world.account, templates=world.account,
            statuses=world.quiet, clock=world.clock, boot=Boot(cluster="nodeyard"), report=report,
        )  # fmt: skip
        self.addresses = Addresses()
        self.leases = NodeLeases(world.leases, name, 5.0, world.clock)
        self.batches = Batches(
            fleet=world.cloud, claims=world.api, cluster=self.stream, leases=self.leases, clock=world.clock,
            idle_s=window_s,
        )  # fmt: skip
        self.namer = Namer(world.cloud, self.stream, world.clock)
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
            deadlines=Deadlines(), stopped=lambda: None,
        )  # fmt: skip
        self.batcher = Batcher(1.0, 10.0, world.clock)
        self.controller = Controller(
            cluster=self.stream, offers=world.cloud, classes=self.classes, claims=world.api, launcher=self.launcher,
            follower=self.follower, leader=world.leader, nominated=world.quiet, report=report, measures=measures,
            clock=world.clock, batcher=self.batcher, planner=one_node_planner, options=Options(),
            stopped=lambda: None, new_plan_id=lambda: f"plan{next(world.plans)}",
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
        self.pool = Pool(
            "default", uid="pool", node_class=NodeClassRef("default"),
            taints=(Taint("team", "NoSchedule", "a"),), startup_taints=(Taint("cni", "NoExecute"),),
            labels={"team": "a"}, annotations={"note": "x"}, hash="h",
        )  # fmt: skip
        self.fixed = [
            Change(Kind.POOL, "default", self.pool),
            Change(Kind.NODE_CLASS, "default", NodeClass("default", uid="class", generation=1)),
        ]

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


def _merged(have: dict[str, str], changes: Mapping[str, str | None]) -> dict[str, str]:
    merged = {**have, **changes}
    return {key: value for key, value in merged.items() if value is not None}


def _all_of(api: Api, fixed: Sequence[Change]) -> list[Change]:
    return [
        *fixed,
        *(Change(Kind.NODE_CLAIM, key, value) for key, value in api.claims.items()),
        *(Change(Kind.NODE, key, value) for key, value in api.nodes.items()),
        *(Change(Kind.POD, key, value) for key, value in api.pods.items()),
    ]

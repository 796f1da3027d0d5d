"""The simulated cluster and cloud: pods that wait, run and end, machines that take a while, a bill.

It owns what is true (the store that snapshots come from, the kube-scheduler, who runs where) and how truth changes;
what to launch and what to take away, `allocating` and `reallocating` decide. Every pod of the trace is in exactly one
state at any time. An evicted pod comes back at once under another name, as from its controller.
"""

import enum
import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from nodeyard.api import labels as keys
from nodeyard.api.node import (
    INITIALIZED,
    LAUNCHED,
    READY,
    REGISTERED,
    Condition,
    Node,
    NodeClaim,
)
from nodeyard.api.pod import PodKey, PodRecord
from nodeyard.api.pool import Pool
from nodeyard.api.selectors import Value
from nodeyard.cloudprovider.model import Catalogue
from nodeyard.disruption.commands import DISRUPTED_TAINT, MARK
from nodeyard.disruption.model import Command
from nodeyard.provisioning.claims import claim_names, claim_of, planned_pods_of
from nodeyard.provisioning.model import PlannedNode
from nodeyard.replay.bill import Bill
from nodeyard.replay.kube_scheduler import KubeScheduler
from nodeyard.replay.trace import Trace, TracePod
from nodeyard.state.cluster import Change, ClusterStore, Kind, Snapshot

EPOCH: Final = 1_700_000_000.0
"""When a trace's second 0 is, for objects that carry times: zero would read as unknown."""


class Timing(Value, frozen=True):
    """How long things take in the world, in seconds."""

    machine_s: float = 60.0
    """From the launch of an instance to its node's Initialized."""
    drain_s: float = 30.0
    """From the first eviction on a node to the end of its instance."""
    notice_s: float = 120.0
    """Between a reclaim's notice and the end of the instance."""


USUAL: Final = Timing()


class State(enum.StrEnum):
    """Where a pod of the trace is."""

    COMING = "Coming"
    PENDING = "Pending"
    RUNNING = "Running"
    DONE = "Done"


class Run:
    """One pod of the trace on its way: `key` is its present name, `turn` counts its names, `since` its wait."""

    __slots__ = ("key", "node", "pod", "since_s", "state", "turn")

    def __init__(self, pod: TracePod, now_s: float) -> None:
        self.pod, self.key, self.turn = pod, pod.key, 0
        self.state, self.node, self.since_s = State.PENDING, "", now_s


class Machine(msgspec.Struct):
    """An instance and its node; the node has the claim's name."""

    claim: str
    instance_type: str
    zone: str
    capacity_type: str
    ready: bool = False
    leaving: bool = False


Schedule = Callable[[float, Callable[[], None]], None]
"""Calls back at a moment of the trace."""


class World:
    """One cluster in one replay. Time is set by whoever drives it (`now_s`)."""

    def __init__(
        self, trace: Trace, objects: Sequence[Change], timing: Timing, *, packed: bool, schedule: Schedule
    ) -> None:
        self.now_s = 0.0
        self.timing = timing
        self.bill = Bill()
        self.store = ClusterStore()
        self.store.epoch = "replay"
        shapes = [Change(Kind.SHAPE, id_, shape) for id_, shape in trace.shapes.items()]
        self.store.apply([*objects, *shapes], revision=1)
        self.catalogue = Catalogue(())
        self.machines: dict[str, Machine] = {}
        self.runs: dict[PodKey, Run] = {}
        self.waiting: dict[PodKey, None] = {}
        """Pending pods, in the order in which they came."""
        self.last_pod_event: dict[str, float] = {}
        self.emptied: set[str] = set()
        """Ready nodes that have lost their last pod and not been looked at since."""
        self.waits_s: list[float] = []
        self.done = 0
        self.counts: Counter[str] = Counter()
        self.launched: list[tuple[str, str, str]] = []
        """(name, instance type, zone) of every machine there ever was."""
        self.on_ready: list[Callable[[str], None]] = []
        self.on_gone: list[Callable[[str], None]] = []
        self._scheduler = KubeScheduler(trace.shapes, packed=packed)
        self._schedule = schedule
        self._launches = 0
        self._on: dict[str, dict[PodKey, None]] = {}
        self._daemon_sets = [c.value for c in objects if c.kind is Kind.DAEMON_SET and c.value is not None]

    @property
    def wall(self) -> float:
        """Now, in seconds since the epoch."""
        return EPOCH + self.now_s

    def snapshot(self) -> Snapshot:
        """The cluster now."""
        return self.store.snapshot()

    def put(self, kind: Kind, key: str, value: object | None) -> None:
        self.store.apply((Change(kind, key, value),), revision=self.store.revision + 1)

    # --- pods ---------------------------------------------------------------------------------------------------------
    def arrive(self, pod: TracePod) -> None:
        """A pod of the trace is created, and bound where there is room."""
        run = Run(pod, self.now_s)
        self._show(run)

    def _show(self, run: Run) -> None:
        self.runs[run.key] = run
        node = self._scheduler.place(run.pod.shape)
        if node is not None:
            self._bind(run, node)
            return
        self.waiting[run.key] = None
        self.put(Kind.POD, run.key, self._record(run))
        if run.pod.until_s is not None:
            self._ends_at(run, run.pod.until_s)

    def _record(self, run: Run) -> PodRecord:
        pod, bound = run.pod, bool(run.node)
        name = run.key.partition("/")[2]
        return PodRecord(
            pod.namespace, name, run.key, pod.shape, node=run.node, phase="Running" if bound else "Pending",
            unschedulable=not bound, unschedulable_since=0.0 if bound else self.wall,
            scheduled_at=self.wall if bound else 0.0, created_at=EPOCH + run.since_s,
            started_at=self.wall if bound else 0.0, ready=bound, owner_kind=pod.owner_kind,
            owner_name=pod.owner_name, do_not_disrupt=pod.do_not_disrupt,
        )  # fmt: skip

    def _bind(self, run: Run, node: str) -> None:
        self.waiting.pop(run.key, None)
        run.state, run.node = State.RUNNING, node
        self.waits_s.append(self.now_s - run.since_s)
        self.last_pod_event[node] = self.wall
        self._on[node][run.key] = None
        self.emptied.discard(node)
        self.put(Kind.POD, run.key, self._record(run))
        pod = run.pod
        self._ends_at(run, self.now_s + pod.work_s if pod.work_s is not None else pod.until_s or self.now_s)

    def _ends_at(self, run: Run, at_s: float) -> None:
        key, state = run.key, run.state
        self._schedule(at_s, lambda: self._end(run, key, state))

    def _end(self, run: Run, key: PodKey, state: State) -> None:
        if run.key != key or run.state is not state:
            return
        node = run.node
        self._leave(run)
        run.state = State.DONE
        self.done += 1
        if node:
            self._scheduler.give_back(run.pod.shape, node)
            self._fill(node)

    def _leave(self, run: Run) -> None:
        """The pod's present name is gone."""
        self.waiting.pop(run.key, None)
        del self.runs[run.key]
        self.put(Kind.POD, run.key, None)
        if run.node:
            self.last_pod_event[run.node] = self.wall
            machine = self.machines.get(run.node)
            here = self._on[run.node]
            del here[run.key]
            if machine and machine.ready and not here:
                self.emptied.add(run.node)

    def _fill(self, node: str) -> None:
        """Waiting pods that fit on the node now land there, in the order in which they came."""
        failed: set[str] = set()
        for key in list(self.waiting):
            run = self.runs[key]
            if run.pod.shape in failed:
                continue
            if self._scheduler.place_on(run.pod.shape, node):
                self._bind(run, node)
            else:
                failed.add(run.pod.shape)

    def _evict_all(self, node: str, cause: str) -> None:
        """Every pod leaves the node; what is still wanted comes back under another name."""
        for key in sorted(self._on[node]):
            run = self.runs[key]
            self._leave(run)
            self.counts[cause] += 1
            again = Run(run.pod, self.now_s)
            again.turn = run.turn + 1
            again.key = f"{run.pod.key}-r{again.turn}"
            run.state = State.DONE
            self._show(again)

    def states(self) -> Counter[State]:
        """How many pods of the trace that have come are in each state."""
        found = Counter(run.state for run in self.runs.values())
        found[State.DONE] = self.done
        return found

    # --- nodes ----------------------------------------------------------------------------------------------------------
    def launch(self, nodes: Sequence[PlannedNode], *, replacing: Command | None = None) -> list[str]:
        """Claims for planned nodes, launched at their first choice. Their pods are planned for them, unless they replace
        nodes of a command.
        """
        annotations = {}
        if replacing is not None:
            annotations = {MARK: replacing.id, keys.REPLACES: json.dumps(replacing.nodes)}
        self._launches += 1
        plan_id = f"p{self._launches}"
        names = claim_names(plan_id, nodes)
        for name, node in zip(names, nodes, strict=True):
            pool = self.store.get(Kind.POOL, node.pool)
            assert isinstance(pool, Pool)
            found = self.catalogue.by_name[node.instance_type]
            claim = claim_of(
                node, pool, name=name, plan_id=plan_id, group="replay", epoch=None,
                annotations=annotations, pods=None if replacing is None else (),
            )  # fmt: skip
            own = {k: values[0] for k, values in found.requirements.items() if len(values) == 1}
            where = {
                keys.INSTANCE_TYPE: found.name,
                keys.ZONE: node.zone,
                keys.CAPACITY_TYPE: node.capacity_type,
            }
            claim = msgspec.structs.replace(
                claim, uid=name, labels={**own, **claim.labels, **where}, created_at=self.wall,
                provider_id=f"replay:///{name}", node_name=name, capacity=found.capacity,
                allocatable=found.allocatable, conditions=(self._true(LAUNCHED),),
            )  # fmt: skip
            self.put(Kind.NODE_CLAIM, name, claim)
            self.machines[name] = Machine(name, found.name, node.zone, node.capacity_type)
            self.bill.start(name, node.capacity_type, self.now_s, self.price(self.machines[name]))
            self.counts["launches"] += 1
            self.launched.append((name, found.name, node.zone))
            self._schedule(self.now_s + self.timing.machine_s, lambda name=name: self._ready(name))  # type: ignore[misc]
        return names

    def price(self, machine: Machine) -> float:
        """USD per hour of a machine now."""
        offer = self.catalogue.offering(machine.instance_type, machine.zone, machine.capacity_type)
        return offer.price if offer is not None else 0.0

    def _claim(self, name: str) -> NodeClaim:
        found = self.store.get(Kind.NODE_CLAIM, name)
        assert isinstance(found, NodeClaim)
        return found

    def _node(self, name: str) -> Node | None:
        return self.store.get(Kind.NODE, name)

    def _true(self, kind: str) -> Condition:
        return Condition(kind, "True", kind, "", self.wall)

    def _ready(self, name: str) -> None:
        machine = self.machines.get(name)
        if machine is None or machine.leaving:
            return
        claim = self._claim(name)
        conditions = tuple(self._true(k) for k in (LAUNCHED, REGISTERED, INITIALIZED, READY))
        self.put(Kind.NODE_CLAIM, name, msgspec.structs.replace(claim, conditions=conditions))
        labels = {**claim.labels, keys.REGISTERED: "true", keys.INITIALIZED: "true", keys.HOSTNAME: name}
        node = Node(
            name, uid=name, labels=labels, annotations=claim.annotations, finalizers=claim.finalizers,
            taints=claim.taints, provider_id=claim.provider_id, capacity=claim.capacity,
            allocatable=claim.allocatable, conditions=(self._true(READY),), created_at=self.wall,
        )  # fmt: skip
        self.put(Kind.NODE, name, node)
        machine.ready = True
        self._on[name] = {}
        self._scheduler.add(
            msgspec.structs.replace(node, labels=claim.labels, allocatable=self._for_pods(claim))
        )
        for key in planned_pods_of(claim):
            if key in self.waiting and self._scheduler.place_on(self.runs[key].pod.shape, name):
                self._bind(self.runs[key], name)
        self._fill(name)
        if not self._on[name]:
            self.emptied.add(name)
        for tell in self.on_ready:
            tell(name)

    def forget_promises(self, name: str) -> None:
        """The claim's planned pods have landed or never will: nobody has to read them again."""
        claim = self.store.get(Kind.NODE_CLAIM, name)
        if isinstance(claim, NodeClaim) and keys.PLANNED_PODS in claim.annotations:
            left = {k: v for k, v in claim.annotations.items() if k != keys.PLANNED_PODS}
            self.put(Kind.NODE_CLAIM, name, msgspec.structs.replace(claim, annotations=left))

    def _for_pods(self, claim: NodeClaim) -> dict[str, int]:
        """What daemons leave of the node."""
        left = dict(claim.allocatable)
        for daemon in self._daemon_sets:
            for resource, amount in daemon.shape.requests.items():
                left[resource] = left.get(resource, 0) - amount
        return left

    def taint(self, name: str, mark: str) -> None:
        """A command takes this node away: no new pods."""
        node = self._node(name)
        assert node is not None
        self._scheduler.close(name)
        changed = msgspec.structs.replace(
            node, taints=(*node.taints, DISRUPTED_TAINT), annotations={**node.annotations, MARK: mark}
        )
        self.put(Kind.NODE, name, changed)

    def untaint(self, name: str) -> None:
        """The command is off."""
        node = self._node(name)
        if node is None or self.machines[name].leaving:
            return
        left = {k: v for k, v in node.annotations.items() if k != MARK}
        taints = tuple(t for t in node.taints if t != DISRUPTED_TAINT)
        self.put(Kind.NODE, name, msgspec.structs.replace(node, taints=taints, annotations=left))
        self._scheduler.reopen(name)
        self._fill(name)

    def remove(self, name: str, cause: str, *, after_s: float | None = None) -> None:
        """Deletes a claim: its pods leave now, the instance ends after the drain (or `after_s`)."""
        machine = self.machines.get(name)
        if machine is None or machine.leaving:
            return
        machine.leaving = True
        claim, node = self._claim(name), self._node(name)
        self.put(Kind.NODE_CLAIM, name, msgspec.structs.replace(claim, deleted_at=self.wall))
        self.emptied.discard(name)
        if node is not None:
            self.put(Kind.NODE, name, msgspec.structs.replace(node, deleted_at=self.wall))
            self._scheduler.close(name)
            self._evict_all(name, cause)
            self.emptied.discard(name)
        seconds = self.timing.drain_s if after_s is None else after_s
        self._schedule(self.now_s + seconds, lambda: self._gone(name))
        for tell in self.on_gone:
            tell(name)

    def _gone(self, name: str) -> None:
        machine = self.machines.pop(name)
        self.bill.stop(name, self.now_s)
        if machine.ready:
            self._scheduler.remove(name)
            del self._on[name]
            self.put(Kind.NODE, name, None)
        self.put(Kind.NODE_CLAIM, name, None)
        self.last_pod_event.pop(name, None)

    # --- the market -----------------------------------------------------------------------------------------------------
    def reprice(self, catalogue: Catalogue) -> None:
        """Prices are these from now on."""
        self.catalogue = catalogue
        for name, machine in self.machines.items():
            self.bill.reprice(name, self.now_s, self.price(machine))

    def reclaim(self, instance_type: str, zone: str) -> None:
        """The cloud takes back the spot nodes of this type in this zone."""
        for name, machine in sorted(self.machines.items()):
            if (machine.instance_type, machine.zone, machine.capacity_type) == (
                instance_type,
                zone,
                keys.SPOT,
            ):
                if not machine.leaving:
                    self.counts["reclaimed"] += 1
                self.remove(name, "interruptions", after_s=self.timing.notice_s)

"""A small world for tests of disruption: objects by short calls, a plain planner, and an API server with a cloud.

`World` keeps objects as the API server would (resourceVersions, deletionTimestamps that wait for finalizers, UIDs),
evicts by its budgets, lets pods end after their grace period and instances after a while; its dials break things.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from nodeyard.adapters.kubernetes.errors import Unavailable
from nodeyard.api import labels as keys
from nodeyard.api.cluster import PodDisruptionBudget
from nodeyard.api.node import INITIALIZED, LAUNCHED, REGISTERED, Condition, Node, NodeClaim, NodeClassRef
from nodeyard.api.nodeclass import NodeClass
from nodeyard.api.pod import PodKey, PodRecord, PodShape
from nodeyard.api.pool import Budget, Disruption, Pool
from nodeyard.api.quantity import Resources, fits, total
from nodeyard.api.reading import render_time
from nodeyard.api.selectors import LabelSelector, Requirement, Toleration
from nodeyard.cloudprovider.errors import Unreachable
from nodeyard.cloudprovider.model import Catalogue, InstanceType, Offering
from nodeyard.disruption.collection import Instance, instance_id
from nodeyard.disruption.commands import DISRUPTED_TAINT, MARK
from nodeyard.disruption.draining import Answer, Verdict
from nodeyard.disruption.model import Options, View
from nodeyard.provisioning.lifecycle import HOLD, with_condition
from nodeyard.provisioning.model import (
    OfferingRef,
    Placement,
    Plan,
    PlannedNode,
    Problem,
    Reason,
    Unschedulable,
)
from nodeyard.state.cluster import Change, ClusterStore, Kind, Snapshot

NOW = 1_700_000_000.0
ZONE = "us-west-2a"
TYPES: Mapping[str, tuple[int, float]] = {
    "m5.large": (2000, 0.10),
    "m5.xlarge": (4000, 0.20),
    "m5.2xlarge": (8000, 0.40),
    "m5.4xlarge": (16000, 0.80),
}
"""Name -> (millicores, USD per hour on demand); spot costs a third."""


def catalogue(types: Mapping[str, tuple[int, float]] = TYPES, *, spot: float = 1 / 3) -> Catalogue:
    made = []
    for name, (cpu, price) in types.items():
        room: Resources = {"cpu": cpu, "memory": cpu * 4 * 2**20, "pods": 110}
        offers = (Offering(ZONE, keys.ON_DEMAND, price), Offering(ZONE, keys.SPOT, price * spot))
        made.append(InstanceType(name, {keys.INSTANCE_TYPE: (name,)}, room, room, offers))
    return Catalogue(made, "1")


def shape(id_: str, cpu: int = 500, **fields: Any) -> PodShape:
    return PodShape(id=id_, namespace="default", requests={"cpu": cpu, "pods": 1}, **fields)


class Builder:
    """Collects changes; `snapshot` gives what they make."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now
        self.store = ClusterStore()
        self.store.epoch = "w1"
        self.put(Kind.NODE_CLASS, "default", NodeClass("default"))
        self.put(Kind.SHAPE, "web", shape("web", labels={"app": "web"}))

    def put(self, kind: Kind, key: str, value: Any) -> Any:
        self.store.apply(
            (Change(kind, key, value, getattr(value, "resource_version", "")),),
            revision=self.store.revision + 1,
        )
        return value

    def pool(
        self, key: str = "default", *, budgets: Sequence[Budget] = (Budget("100%"),), after: float | None = 0.0,
        policy: str = "WhenEmptyOrUnderutilized", **fields: Any,
    ) -> Pool:  # fmt: skip
        pool = Pool(
            key,
            uid=f"uid-{key}",
            node_class=NodeClassRef("default"),
            disruption=Disruption(policy, after, tuple(budgets)),
            **fields,
        )
        return self.put(Kind.POOL, key, pool)  # type: ignore[no-any-return]

    def shape(self, id_: str, cpu: int = 500, **fields: Any) -> PodShape:
        return self.put(Kind.SHAPE, id_, shape(id_, cpu, **fields))  # type: ignore[no-any-return]

    def node(
        self, name: str, type_: str = "m5.xlarge", *, pool: str = "default", capacity_type: str = keys.ON_DEMAND,
        initialized: bool = True, ready: bool = True, age: float = 3600.0, claim: Mapping[str, Any] = {},
        **fields: Any,
    ) -> tuple[Node, NodeClaim]:  # fmt: skip
        """A node and its claim `<name>-c`."""
        cpu = TYPES[type_][0]
        room: Resources = {"cpu": cpu, "memory": cpu * 4 * 2**20, "pods": 110}
        kind, _, short = pool.rpartition("/")
        labels = {
            keys.INSTANCE_TYPE: type_,
            keys.ZONE: ZONE,
            keys.CAPACITY_TYPE: capacity_type,
            (keys.PROVISIONER if kind else keys.NODEPOOL): short,
            keys.REGISTERED: "true",
        } | ({keys.INITIALIZED: "true"} if initialized else {})
        since = self.now - age
        conditions = tuple(
            Condition(c, "True" if initialized or c != INITIALIZED else "Unknown", c, "", since)
            for c in (LAUNCHED, REGISTERED, INITIALIZED)
        )
        provider = f"aws:///{ZONE}/i-{name}"
        self.put(
            Kind.NODE_CLAIM,
            f"{name}-c",
            msgspec.structs.replace(
                NodeClaim(
                    f"{name}-c", uid=f"uid-{name}-c", resource_version="1", labels=labels, provider_id=provider,
                    finalizers=(keys.TERMINATION_FINALIZER,), node_class=NodeClassRef("default"),
                    conditions=conditions, created_at=since, node_name=name,
                ),
                **dict(claim),
            ),
        )  # fmt: skip
        values: dict[str, Any] = {"labels": labels, **fields}
        self.put(
            Kind.NODE,
            name,
            Node(
                name, uid=f"uid-{name}", resource_version="1", provider_id=provider, capacity=room,
                allocatable=room, created_at=since, finalizers=(keys.TERMINATION_FINALIZER,),
                conditions=(Condition("Ready", "True" if ready else "False"),), **values,
            ),
        )  # fmt: skip
        return self.store.get(Kind.NODE, name), self.store.get(Kind.NODE_CLAIM, f"{name}-c")  # type: ignore[return-value]

    def pod(self, name: str, node: str = "", *, shape: str = "web", **fields: Any) -> PodRecord:
        values: dict[str, Any] = {
            "phase": "Running" if node else "Pending",
            "unschedulable": not node,
            "ready": bool(node),
            "owner_kind": "ReplicaSet",
            "owner_name": "rs",
            "scheduled_at": self.now - 3000 if node else 0.0,
            "started_at": self.now - 3000 if node else 0.0,
        } | fields
        pod = PodRecord("default", name, f"uid-{name}", shape, node=node, **values)
        return self.put(Kind.POD, pod.key, pod)  # type: ignore[no-any-return]

    def pdb(self, name: str, allowed: int, labels: Mapping[str, str] = {"app": "web"}, **fields: Any) -> None:
        pdb = PodDisruptionBudget(
            "default", name, LabelSelector(dict(labels)), disruptions_allowed=allowed, **fields
        )
        self.put(Kind.PDB, pdb.key, pdb)

    @property
    def snapshot(self) -> Snapshot:
        return self.store.snapshot()

    def view(self, **fields: Any) -> View:
        values: dict[str, Any] = {
            "catalogues": {"default": catalogue()},
            "now": self.now,
            "options": Options(),
        } | fields
        return View(snapshot=self.snapshot, **values)


def first_fit(problem: Problem) -> Plan:
    """A plain honest planner: resources only, one cheapest type per pool for whatever is left."""
    s = problem.snapshot
    moving = set(problem.pods)
    free: dict[str, Resources] = {}
    for name, node in s.nodes.items():
        shut = name in problem.without_nodes or name in problem.closed_nodes or DISRUPTED_TAINT in node.taints
        if shut or node.deleted_at or (not problem.uninitialized_targets and not node.initialized):
            continue
        used = total(s.shape(p).requests for p in s.pods_of_node(name) if p.key not in moving)
        free[name] = {r: n - used.get(r, 0) for r, n in node.allocatable.items()}
    placed: dict[str, list[str]] = {}
    left: list[str] = []
    for key in sorted(problem.pods, key=lambda k: -s.shape(s.pods[k]).requests["cpu"]):
        want = s.shape(s.pods[key]).requests
        target = next((n for n in sorted(free) if fits(want, free[n])), None)
        if target is None:
            left.append(key)
            continue
        free[target] = {r: n - want.get(r, 0) for r, n in free[target].items()}
        placed.setdefault(target, []).append(key)
    new, refused = _buy(problem, left)
    existing = tuple(Placement(n, tuple(p)) for n, p in sorted(placed.items()))
    return Plan(nodes=new, existing=existing, unschedulable=refused)


def _buy(problem: Problem, left: list[str]) -> tuple[tuple[PlannedNode, ...], tuple[Unschedulable, ...]]:
    s, found = problem.snapshot, problem.catalogue_of("default")
    if not left or found is None:
        return (), ()
    if not problem.allow_new_nodes:
        return (), tuple(Unschedulable(p, Reason.RESOURCES, "no room") for p in left)
    want = total(s.shape(s.pods[p]).requests for p in left)
    refs = sorted(
        (
            OfferingRef(t.name, o.zone, o.capacity_type, o.price)
            for t in found.types
            if fits(want, t.allocatable)
            for o in t.offerings
            if o.available
        ),
        key=lambda r: (r.price_per_hour, r.instance_type),
    )
    if not refs:
        return (), tuple(Unschedulable(p, Reason.RESOURCES, "too large for every type") for p in left)
    requirements = (
        Requirement(keys.INSTANCE_TYPE, "In", tuple(dict.fromkeys(r.instance_type for r in refs))),
        Requirement(keys.ZONE, "In", (ZONE,)),
        Requirement(keys.CAPACITY_TYPE, "In", tuple(dict.fromkeys(r.capacity_type for r in refs))),
    )
    first = refs[0]
    node = PlannedNode(
        "new-0", "default", first.instance_type, first.zone, first.capacity_type, first.price_per_hour,
        tuple(left), requirements=requirements, alternatives=tuple(refs[1:]), node_charge_per_hour=0.01,
    )  # fmt: skip
    return (node,), ()


class World:
    """The API server and the cloud of one small cluster. Everything that services ask for by ports is here."""

    cluster_uid = "cluster-1"

    def __init__(self, clock: Any) -> None:
        self.clock = clock
        self.build = Builder(clock.now())
        self.instances: dict[str, Instance] = {}
        self.stopping: dict[str, float] = {}
        self.attachments: dict[str, frozenset[str]] = {}
        self.budget: dict[str, int] = {}
        """App label -> evictions that its budget still allows; absent: no budget."""
        self.log: list[str] = []
        self.api_down = False
        self.cloud_down = False
        self.stop_s = 3.0
        self.bind_s = 0.0
        self._version = 100

    # --- the watcher's stream ---------------------------------------------------------------------------------------
    synced = True
    lag_s = 0.0

    def snapshot(self) -> Snapshot:
        return self.build.snapshot

    def overlay(self, change: Change) -> None:
        return None

    async def wait_changed(self, after_revision: int, timeout_s: float) -> int:
        await self.clock.sleep(timeout_s)
        return self.build.store.revision

    # --- what a person does -----------------------------------------------------------------------------------------
    def node(self, name: str, type_: str = "m5.xlarge", **fields: Any) -> tuple[Node, NodeClaim]:
        made = self.build.node(name, type_, **fields)
        self.instances[f"i-{name}"] = Instance(
            f"i-{name}",
            "running",
            self.clock.now() - 3600,
            ZONE,
            self.cluster_uid,
            f"{name}-c",
            f"uid-{name}-c",
        )
        return made

    def delete_claim(self, name: str) -> None:
        claim = self.claim(name)
        if claim is not None and not claim.deleting:
            self._put_claim(msgspec.structs.replace(claim, deleted_at=float(int(self.clock.now()))))

    def delete_node(self, name: str) -> None:
        node = self.snapshot().nodes.get(name)
        if node is None or node.deleted_at:
            return
        if node.finalizers:
            self._put_node(msgspec.structs.replace(node, deleted_at=float(int(self.clock.now()))))
        else:
            self.build.put(Kind.NODE, name, None)

    def claim(self, name: str) -> NodeClaim | None:
        return self.snapshot().claims.get(name)

    def tick(self) -> None:
        """Lets what time does happen: pods end, instances stop."""
        now = self.clock.now()
        for pod in list(self.snapshot().pods.values()):
            if pod.terminating and now >= pod.deleted_at:
                self.build.put(Kind.POD, pod.key, None)
        for id_, at in list(self.stopping.items()):
            if now >= at:
                del self.stopping[id_]
                self._set_state(id_, "terminated")

    # --- ports ------------------------------------------------------------------------------------------------------
    async def create(self, claim: NodeClaim, owner: Pool | None = None) -> NodeClaim:
        self._check("create-claim")
        made = msgspec.structs.replace(
            claim, uid=f"uid-{claim.name}", created_at=self.clock.now(), deleted_at=0.0
        )
        return self._put_claim(made)

    async def get(self, name: str) -> NodeClaim | None:
        self._check("get-claim")
        return self.claim(name)

    async def patch_status(
        self, claim: NodeClaim, change: Callable[[NodeClaim], NodeClaim]
    ) -> NodeClaim | None:
        self._check("patch-status")
        now = self.claim(claim.name)
        return None if now is None or now.uid != claim.uid else self._put_claim(change(now))

    async def set_conditions(
        self, claim: NodeClaim, conditions: Sequence[Condition], now: float
    ) -> NodeClaim | None:
        def change(current: NodeClaim) -> NodeClaim:
            for condition in conditions:
                current = msgspec.structs.replace(current, conditions=with_condition(current, condition, now))
            return current

        self.log += [f"condition {c.type}={c.status}" for c in conditions]
        return await self.patch_status(claim, change)

    async def drop_conditions(self, claim: NodeClaim, kinds: Sequence[str]) -> NodeClaim | None:
        return await self.patch_status(
            claim,
            lambda c: msgspec.structs.replace(
                c, conditions=tuple(x for x in c.conditions if x.type not in kinds)
            ),
        )

    async def annotate(
        self,
        claim: NodeClaim,
        annotations: Mapping[str, str | None] = {},
        labels: Mapping[str, str | None] = {},
    ) -> NodeClaim | None:
        self._check("annotate")
        now = self.claim(claim.name)
        if now is None:
            return None
        merged = {k: v for k, v in {**now.annotations, **annotations}.items() if v is not None}
        labelled = {k: v for k, v in {**now.labels, **labels}.items() if v is not None}
        return self._put_claim(msgspec.structs.replace(now, annotations=merged, labels=labelled))

    async def remove_finalizer(self, claim: NodeClaim) -> NodeClaim | None:
        self._check(f"remove-claim {claim.name}")
        self.build.put(Kind.NODE_CLAIM, claim.name, None)
        return None

    async def delete(self, subject: Any, uid: str = "") -> Any:
        """Of a claim by name and UID, of a Node by value."""
        self._check(f"delete {subject if isinstance(subject, str) else subject.name}")
        if isinstance(subject, Node):
            self.delete_node(subject.name)
            return None
        claim = self.claim(subject)
        if claim is None or (uid and claim.uid != uid):
            return False
        self.delete_claim(subject)
        return True

    async def disrupt(self, node: Node, mark: str) -> Node | None:
        annotations = {**node.annotations, MARK: mark}
        taints = node.taints if DISRUPTED_TAINT in node.taints else (*node.taints, DISRUPTED_TAINT)
        return self._write_node(node, "disrupt", taints=taints, annotations=annotations)

    async def restore(self, node: Node) -> Node | None:
        annotations = {k: v for k, v in node.annotations.items() if k != MARK}
        taints = tuple(t for t in node.taints if t.key != keys.TAINT_DISRUPTED)
        return self._write_node(node, "restore", taints=taints, annotations=annotations)

    async def prepare_drain(self, node: Node) -> Node | None:
        taints = node.taints if DISRUPTED_TAINT in node.taints else (*node.taints, DISRUPTED_TAINT)
        labels = {**node.labels, keys.EXCLUDE_BALANCERS: "karpenter"}
        return self._write_node(node, "mark", taints=taints, labels=labels)

    async def relabel(self, node: Node, labels: Mapping[str, str | None]) -> Node | None:
        merged = {k: v for k, v in {**node.labels, **labels}.items() if v is not None}
        return self._write_node(node, "relabel", labels=merged)

    async def stamp(self, node: Node, empty_since: str | None) -> Node | None:
        annotations = {k: v for k, v in node.annotations.items() if k != keys.EMPTINESS_TIMESTAMP}
        if empty_since:
            annotations[keys.EMPTINESS_TIMESTAMP] = empty_since
        return self._write_node(node, "stamp", annotations=annotations)

    async def hold(self, node: Node, until: float) -> Node | None:
        annotations = {**node.annotations, keys.BIND_HOLD_DEADLINE: render_time(until) or ""}
        return self._write_node(node, "hold", taints=(*node.taints, HOLD), annotations=annotations)

    async def lift(self, node: Node) -> Node | None:
        annotations = {k: v for k, v in node.annotations.items() if k != keys.BIND_HOLD_DEADLINE}
        taints = tuple(t for t in node.taints if t.key != keys.BIND_HOLD)
        return self._write_node(node, "lift", taints=taints, annotations=annotations)

    async def bind(self, pods: Iterable[PodRecord], node: str) -> dict[PodKey, str]:
        self._check(f"bind {node}")
        if self.bind_s:
            self.clock.skip(self.bind_s)
        for pod in pods:
            bound = msgspec.structs.replace(pod, node=node, unschedulable=False, phase="Running", ready=True)
            self.build.put(Kind.POD, pod.key, bound)
        return {}

    async def drop_finalizer(self, node: Node) -> bool:
        self._check(f"drop-node-finalizer {node.name}")
        self.build.put(Kind.NODE, node.name, None)
        for pod in self.snapshot().pods_of_node(node.name):
            self.build.put(Kind.POD, pod.key, None)
        return True

    async def attached(self) -> Mapping[str, frozenset[str]]:
        self._check("attachments")
        return dict(self.attachments)

    async def describe(self, ids: Iterable[str]) -> dict[str, Instance]:
        self._check_cloud()
        return {id_: self.instances[id_] for id_ in ids if id_ in self.instances}

    async def list_ours(self) -> list[Instance]:
        self._check_cloud()
        return [i for i in self.instances.values() if i.state != "terminated"]

    async def terminate(self, ids: Iterable[str]) -> None:
        self._check_cloud()
        for id_ in ids:
            self.log.append(f"terminate {id_}")
            found = self.instances.get(id_)
            if found is not None and found.alive:
                self._set_state(id_, "shutting-down")
                self.stopping[id_] = self.clock.now() + self.stop_s

    # --- inside -----------------------------------------------------------------------------------------------------
    def _set_state(self, id_: str, state: str) -> None:
        self.instances[id_] = msgspec.structs.replace(self.instances[id_], state=state)
        for node in list(self.snapshot().nodes.values()):
            if instance_id(node.provider_id) == id_ and state == "terminated":
                self._put_node(msgspec.structs.replace(node, conditions=(Condition("Ready", "Unknown"),)))

    def _write_node(self, node: Node, what: str, **fields: Any) -> Node | None:
        self._check(f"{what} {node.name}")
        now = self.snapshot().nodes.get(node.name)
        if now is None or now.resource_version != node.resource_version:
            return None
        return self._put_node(msgspec.structs.replace(now, **fields))

    def _put_node(self, node: Node) -> Node:
        self._version += 1
        node = msgspec.structs.replace(node, resource_version=str(self._version))
        return self.build.put(Kind.NODE, node.name, node)  # type: ignore[no-any-return]

    def _put_claim(self, claim: NodeClaim) -> NodeClaim:
        self._version += 1
        claim = msgspec.structs.replace(claim, resource_version=str(self._version))
        return self.build.put(Kind.NODE_CLAIM, claim.name, claim)  # type: ignore[no-any-return]

    def _check(self, what: str) -> None:
        if self.api_down:
            raise Unavailable(0, "Unreachable", "the API server is away")
        self.log.append(what)

    def _check_cloud(self) -> None:
        if self.cloud_down:
            raise Unreachable("the cloud is away")


class Evicting:
    """The pods' side of a World."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def evict(self, pod: PodRecord) -> Answer:
        return self._end(pod, pod.grace_period_s, budgeted=True)

    async def delete(self, pod: PodRecord, grace_s: int) -> Answer:
        self.world.log.append(f"delete-pod {pod.name} {grace_s}")
        return self._end(pod, grace_s, budgeted=False)

    def _end(self, pod: PodRecord, grace_s: float, *, budgeted: bool) -> Answer:
        world = self.world
        if world.api_down:
            return Answer(Verdict.FAILED, 0, "the API server is away")
        now = world.snapshot().pods.get(pod.key)
        if now is None or now.uid != pod.uid:
            return Answer(Verdict.GONE, 404)
        app = world.snapshot().shape(now).labels.get("app", "")
        if budgeted and app in world.budget:
            if world.budget[app] < 1:
                return Answer(Verdict.BLOCKED, 429, "the disruption budget needs 1 more healthy pod")
            world.budget[app] -= 1
        if budgeted:
            world.log.append(f"evict {pod.name}")
        until = world.clock.now() + grace_s
        if not now.terminating or until < now.deleted_at:
            world.build.put(Kind.POD, now.key, msgspec.structs.replace(now, deleted_at=until))
        return Answer(Verdict.ACCEPTED, 201)


TOLERATES_ALL = (Toleration(operator="Exists"),)

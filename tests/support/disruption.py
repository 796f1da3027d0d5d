"""Clusters for tests of disruption: objects by short calls, and a plain planner.

Neighbour: `disruption_world`, an API server and a cloud that such a cluster lives in.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from nodeyard.api import labels as keys
from nodeyard.api.autoscaling import ContainerTarget, VerticalPodAutoscaler
from nodeyard.api.cluster import PodDisruptionBudget
from nodeyard.api.node import INITIALIZED, LAUNCHED, REGISTERED, Condition, Node, NodeClaim, NodeClassRef
from nodeyard.api.nodeclass import NodeClass
from nodeyard.api.pod import ContainerShape, PodRecord, PodShape
from nodeyard.api.pool import Budget, Disruption, Pool
from nodeyard.api.quantity import Resources, fits, total
from nodeyard.api.selectors import LabelSelector, Requirement, Toleration
from nodeyard.cloudprovider.model import Catalogue, InstanceType, Offering
from nodeyard.disruption.commands import DISRUPTED_TAINT
from nodeyard.disruption.methods import decide
from nodeyard.disruption.model import Options, Outcome, Rule, View
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
TOLERATES_ALL = (Toleration(operator="Exists"),)


def catalogue(types: Mapping[str, tuple[int, float]] = TYPES, *, spot: float = 1 / 3) -> Catalogue:
    made = []
    for name, (cpu, price) in types.items():
        room: Resources = {"cpu": cpu, "memory": cpu * 4 * 2**20, "pods": 110}
        offers = (Offering(ZONE, keys.ON_DEMAND, price), Offering(ZONE, keys.SPOT, price * spot))
        made.append(InstanceType(name, {keys.INSTANCE_TYPE: (name,)}, room, room, offers))
    return Catalogue(made, "1")


def shape(id_: str, cpu: int = 500, **fields: Any) -> PodShape:
    """A shape of one container, `main`."""
    main = ContainerShape("main", {"cpu": cpu})
    requests = {"cpu": cpu, "pods": 1}
    return PodShape(id=id_, namespace="default", requests=requests, containers=(main,), **fields)


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

    def vpa(self, target: str, cpu: int | None, kind: str = "ReplicaSet", container: str = "main") -> None:
        """An autoscaler that gives the container of the target's pods so many millicores; None: it is gone."""
        targets = {container: ContainerTarget({"cpu": cpu})} if cpu is not None else {}
        made = VerticalPodAutoscaler("default", f"vpa-{target}", kind, target, targets=targets)
        self.put(Kind.VPA, made.key, made if cpu is not None else None)

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
        lost = node.initialized and not node.ready and node.conditions
        if shut or lost or node.deleted_at or (not problem.uninitialized_targets and not node.initialized):
            continue
        used = total(s.shape(p).requests for p in s.pods_of_node(name) if p.key not in moving)
        free[name] = {r: n - used.get(r, 0) for r, n in node.allocatable.items()}
    placed: dict[str, list[str]] = {}
    left: list[str] = []
    wanted = {key: s.shapes[s.successor(s.pods[key])].requests for key in problem.pods}
    for key in sorted(problem.pods, key=lambda k: -wanted[k]["cpu"]):
        want = wanted[key]
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
    want = total(s.shapes[s.successor(s.pods[p])].requests for p in left)
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


def clock() -> float:
    """A clock that stands still."""
    return 0.0


def passed(build: Builder, **fields: Any) -> Outcome:
    """What one pass comes to."""
    return decide(build.view(**fields), first_fit, clock)


def rules(outcome: Outcome) -> dict[str, Rule | None]:
    """Node -> the first rule that stopped it, None where nothing did."""
    return {p.node: p.blocks[0].rule if p.blocks else None for p in outcome.proposals}


def two_half_empty(build: Builder) -> None:
    """Two nodes whose pods fit on either."""
    build.pool()
    for name in ("a", "b"):
        build.node(name)
        build.pod(f"{name}-pod", name)

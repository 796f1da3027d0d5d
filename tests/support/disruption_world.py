"""The API server and the cloud of one small cluster, for tests of what the reallocator does to it.

`World` keeps objects as the API server would (resourceVersions, deletionTimestamps that wait for finalizers, UIDs),
evicts by its budgets, lets pods end after their grace period and instances after a while; its dials break things.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from nodeyard.adapters.kubernetes.errors import Unavailable
from nodeyard.api import labels as keys
from nodeyard.api.node import Condition, Node, NodeClaim
from nodeyard.api.pod import PodKey, PodRecord
from nodeyard.api.pool import Pool
from nodeyard.api.reading import render_time
from nodeyard.cloudprovider.errors import Unreachable
from nodeyard.disruption.collection import Instance, instance_id
from nodeyard.disruption.commands import DISRUPTED_TAINT, MARK
from nodeyard.disruption.draining import Answer, Verdict
from nodeyard.provisioning.lifecycle import HOLD, with_condition
from nodeyard.state.cluster import Change, Kind, Snapshot
from tests.support.disruption import ZONE, Builder


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

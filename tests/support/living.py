"""A cluster that lives by itself on a virtual clock: waits cost nothing, processor time counts.

`Living` plays what stands around the reallocator: ReplicaSets that make every evicted pod anew, an allocator that
launches claims, a kube-scheduler that fills open nodes, a bill. Used to time the live loop on a machine that is busy with
other things.
"""

import asyncio
import heapq
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import msgspec

from nodeyard.api import labels as keys
from nodeyard.api.node import INITIALIZED, LAUNCHED, REGISTERED, Condition, Node, NodeClaim
from nodeyard.api.pod import PodKey, PodRecord
from nodeyard.api.quantity import fits, total
from nodeyard.disruption.collection import Instance, instance_id
from nodeyard.disruption.commands import disrupted
from nodeyard.provisioning.claims import offerings_of
from nodeyard.provisioning.keeping import keeping_of
from nodeyard.provisioning.lifecycle import HOLD, with_condition
from nodeyard.provisioning.model import OfferingRef
from nodeyard.state.cluster import Kind, Snapshot
from tests.support.disruption_world import World

_CALL_S = 0.02
"""What one write to the API server takes."""


class VirtualClock:
    """Jumps over waits; what the processor does passes as it is."""

    def __init__(self, began: float = 1_800_000_000.0) -> None:
        self._began = began
        self._jumped = 0.0
        self._since = time.process_time()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = 0

    @property
    def processor_s(self) -> float:
        return time.process_time() - self._since

    def exempt(self, work: Callable[[], None]) -> None:
        """Does work that costs no time here: the world's own."""
        began = time.process_time()
        work()
        self._since += time.process_time() - began

    def monotonic(self) -> float:
        return self._jumped + self.processor_s

    def now(self) -> float:
        return self._began + self.monotonic()

    async def sleep(self, seconds: float) -> None:
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._count += 1
        heapq.heappush(self._sleepers, (self.monotonic() + max(0.0, seconds), self._count, woken))
        await woken

    async def pass_until(self, over: Callable[[], bool]) -> None:
        """Lets everybody run until `over`; what is given to threads is done at once, for a jump must not outrun it."""
        asyncio.get_running_loop().set_default_executor(_AtOnce())
        while not over():
            for _ in range(20):
                await asyncio.sleep(0)
            at, _, woken = heapq.heappop(self._sleepers)
            self._jumped += max(0.0, at - self.monotonic())
            if not woken.done():
                woken.set_result(None)


class _AtOnce(ThreadPoolExecutor):
    """Does the work where it is asked for; what it raises ends the measurement."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(fn(*args, **kwargs))
        return done


class Living(World):
    """Beside World's own: prices by instance, and what was seen of pods and of the bill."""

    def __init__(
        self, clock: VirtualClock, make_node: Callable[[OfferingRef, str], Node], launch_s: float
    ) -> None:
        super().__init__(clock)
        self.stop_s = 2.0
        self._make_node = make_node
        self._launch_s = launch_s
        self._price: dict[str, float] = {}
        self._launched: dict[str, tuple[float, OfferingRef]] = {}
        self._since: dict[str, float] = {}
        self._made_anew: set[str] = set()
        self.longest_wait_s = 0.0
        self.dearest = 0.0
        self.changed_at = 0.0
        self._rate = -1.0

    @property
    def evictions(self) -> int:
        return len(self._made_anew)

    @property
    def rate(self) -> float:
        """USD per hour of all instances that were not told to end."""
        return sum(self._price[i] for i, found in self.instances.items() if found.state == "running")

    def settle(self, snapshot: Snapshot, prices: Callable[[Node], float]) -> None:
        """Begins with this cluster, an hour old."""
        long_ago = self.clock.now() - 3600.0
        for kind, things in (
            (Kind.SHAPE, snapshot.shapes), (Kind.NODE_CLASS, snapshot.node_classes), (Kind.POOL, snapshot.pools),
        ):  # fmt: skip
            for key, thing in things.items():
                self.build.put(kind, key, thing)
        for node in snapshot.nodes.values():
            claim = snapshot.claim_of(node)
            assert claim is not None
            finalizers = (keys.TERMINATION_FINALIZER,)
            self._put_node(msgspec.structs.replace(node, finalizers=finalizers, created_at=long_ago))
            uid = f"uid-{claim.name}"
            self._put_claim(
                msgspec.structs.replace(claim, uid=uid, finalizers=finalizers, created_at=long_ago)
            )
            self._run(instance_id(node.provider_id), node.labels[keys.ZONE], claim.name, uid, prices(node))
        for pod in snapshot.pods.values():
            ran = {"scheduled_at": long_ago, "started_at": long_ago, "phase": "Running", "ready": True}
            new = msgspec.structs.replace(pod, uid=f"uid-{pod.name}", grace_period_s=1, **ran)
            self.build.put(Kind.POD, pod.key, new)

    def _run(self, id_: str, zone: str, claim: str, uid: str, price: float) -> None:
        self.instances[id_] = Instance(id_, "running", self.clock.now(), zone, self.cluster_uid, claim, uid)
        self._price[id_] = price

    # --- what goes on by itself -------------------------------------------------------------------------------------
    async def live(self) -> None:
        """Moves the world along every tenth of a second, until cancelled."""
        while True:
            self.clock.exempt(self._move)
            await self.clock.sleep(0.1)

    def _move(self) -> None:
        self._make_anew()
        for claim in list(self.snapshot().claims.values()):
            if not claim.provider_id and not claim.deleting:
                self._bring_up(claim)
        self.tick()
        self._schedule()
        self._watch()

    def _make_anew(self) -> None:
        for pod in list(self.snapshot().pods.values()):
            if pod.terminating and pod.uid not in self._made_anew:
                self._made_anew.add(pod.uid)
                name = f"{pod.name.partition('.')[0]}.{len(self._made_anew)}"
                anew: dict[str, Any] = {"node": "", "deleted_at": 0.0, "phase": "Pending", "ready": False}
                new = msgspec.structs.replace(pod, name=name, uid=f"uid-{name}", unschedulable=True, **anew)
                self.build.put(Kind.POD, new.key, new)

    def _bring_up(self, claim: NodeClaim) -> None:
        now = self.clock.now()
        if claim.name not in self._launched:
            offering = offerings_of(claim)[0]
            self._launched[claim.name] = (now, offering)
            price = offering.price_per_hour
            self._run(f"i-{claim.name}", offering.zone, claim.name, claim.uid, price)
        since, offering = self._launched[claim.name]
        if now - since < self._launch_s:
            return
        provider = f"aws:///{offering.zone}/i-{claim.name}"
        node = msgspec.structs.replace(
            self._make_node(offering, claim.name),
            uid=f"uid-{claim.name}-node", provider_id=provider, created_at=now,
            finalizers=(keys.TERMINATION_FINALIZER,), taints=(HOLD,) if keeping_of(claim, now) else (),
        )  # fmt: skip
        for kind in (LAUNCHED, REGISTERED, INITIALIZED):
            conditions = with_condition(claim, Condition(kind, "True", kind), now)
            claim = msgspec.structs.replace(claim, conditions=conditions)
        labels = {**claim.labels, **node.labels}
        self._put_node(node)
        self._put_claim(
            msgspec.structs.replace(claim, provider_id=provider, node_name=node.name, labels=labels)
        )

    def _waiting(self) -> list[PodRecord]:
        return [p for p in self.snapshot().pods.values() if not (p.node or p.terminating or p.daemon)]

    def _schedule(self) -> None:
        """Each waiting pod to the first open node that has room."""
        for pod in self._waiting():
            snapshot = self.snapshot()
            for node in snapshot.nodes.values():
                if node.taints or node.deleted_at or disrupted(node) or not node.ready:
                    continue
                held = [snapshot.shape(p).requests for p in snapshot.pods_of_node(node.name)]
                if fits(total([*held, snapshot.shape(pod).requests]), node.allocatable):
                    there = {"node": node.name, "phase": "Running", "ready": True, "unschedulable": False}
                    self.build.put(Kind.POD, pod.key, msgspec.structs.replace(pod, **there))
                    break

    def _watch(self) -> None:
        moment = self.clock.monotonic()
        self._since = {p.uid: self._since.get(p.uid, moment) for p in self._waiting()}
        self.longest_wait_s = max([self.longest_wait_s, *(moment - s for s in self._since.values())])
        self.dearest = max(self.dearest, self.rate)
        if abs(self.rate - self._rate) > 1e-9:
            self._rate, self.changed_at = self.rate, moment

    # --- ports that take time ---------------------------------------------------------------------------------------
    async def wait_changed(self, after_revision: int, timeout_s: float) -> int:
        until = self.clock.monotonic() + timeout_s
        while self.build.store.revision <= after_revision and self.clock.monotonic() < until:
            await self.clock.sleep(0.05)
        return self.build.store.revision

    async def create(self, claim: NodeClaim, owner: Any = None) -> NodeClaim:
        await self.clock.sleep(_CALL_S)
        return await super().create(claim, owner)

    async def annotate(self, *args: Any, **more: Any) -> NodeClaim | None:
        await self.clock.sleep(_CALL_S)
        return await super().annotate(*args, **more)

    async def disrupt(self, node: Node, mark: str) -> Node | None:
        await self.clock.sleep(_CALL_S)
        return await super().disrupt(node, mark)

    async def bind(self, pods: Iterable[PodRecord], node: str) -> dict[PodKey, str]:
        chosen = list(pods)
        await self.clock.sleep(_CALL_S * len(chosen))
        return await super().bind(chosen, node)

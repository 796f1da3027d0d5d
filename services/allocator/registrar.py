"""From a node that joined to one that is Initialized, and its pods onto it on the way.

A node of a partition placement group waits until EC2 says which partition it is in. Registers under the claim's lease:
planned pods are nominated before the write that lets the kube-scheduler in, or (mode `bind`) the node is held back by a
taint of ours until its pods are bound or the hold's deadline has passed; any replica lifts a hold. Refuses to choose
between two nodes with one provider id. What landed elsewhere is planned again by the controller.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

import msgspec

from nodeyard.api import labels as keys
from nodeyard.api.node import INITIALIZED, REGISTERED, Condition, Node, NodeClaim
from nodeyard.api.placement import PARTITION
from nodeyard.api.pod import PodKey, PodRecord
from nodeyard.api.reading import render_time
from nodeyard.provisioning.keeping import keeping_of
from nodeyard.provisioning.landing import Planner, accepted, landing, waiting_pods, with_room
from nodeyard.provisioning.lifecycle import HOLD_S, not_initialized, starting_taint, with_condition
from nodeyard.provisioning.pending import landed_too_late
from nodeyard.runtime.clock import Clock
from nodeyard.runtime.leadership import StoreUnavailableError
from nodeyard.state.cluster import Change, Kind, Snapshot
from services.allocator.metrics import AllocatorMetrics
from services.allocator.opening import Openings, room_to_spare
from services.allocator.ports import Claims, Cluster, Nodes, Nominated, Partitions, Pods
from services.allocator.reporting import Reporter, log

_LOOK_S: Final = 0.02
_SIGHT_S: Final = 0.4
_MOST_SIGHT_S: Final = 2.0
"""The kube-scheduler watches pods and nodes apart, and takes a nomination back whenever it tries the pod in vain, as it
does when any node joins. So a node opens once our own watch, which shows things no sooner than the kube-scheduler's,
shows all its pods nominated or bound; what is missing after `_SIGHT_S` is nominated again, up to `_MOST_SIGHT_S`."""
NOMINATION_S: Final = 20.0
"""How long the reallocator leaves alone a node that pods were planned onto."""


class Registrar:
    """Registers, settles and initializes nodes. Callers hold the claim's lease. Raises KubernetesError, CloudError."""

    def __init__(
        self,
        *,
        cluster: Cluster,
        claims: Claims,
        nodes: Nodes,
        pods: Pods,
        partitions: Partitions,
        nominated: Nominated,
        report: Reporter,
        measures: AllocatorMetrics,
        clock: Clock,
        mode: str,
        planner: Planner,
        nomination_s: float = NOMINATION_S,
    ) -> None:
        self._nomination_s = nomination_s
        self._cluster = cluster
        self._claims = claims
        self._nodes = nodes
        self._pods = pods
        self._partitions = partitions
        self._nominated = nominated
        self._report = report
        self._measures = measures
        self._clock = clock
        self._mode = mode
        self._planner = planner
        self._openings = Openings(clock)

    # --- registration -------------------------------------------------------------------------------------------------
    async def register(self, claim: NodeClaim, node: Node) -> None:
        """Makes the node the claim's and lets its pods in."""
        snapshot = self._cluster.snapshot()
        twins = sorted(n.name for n in snapshot.nodes.values() if n.provider_id == claim.provider_id)
        if len(twins) > 1:
            message = f"{len(twins)} nodes have provider id {claim.provider_id}: {', '.join(twins[:5])}"
            await self._condition(claim, Condition(REGISTERED, "False", "MultipleNodesFound", message))
            return
        in_partition = await self._in_partition(snapshot, claim)
        if in_partition is None:
            return
        claim = in_partition
        pods = landing(snapshot, claim, self._mode)
        hold_until = self._hold_until(claim, bool(pods.bind))
        unregistered = any(t.key == keys.TAINT_UNREGISTERED for t in node.taints)

        async def open_() -> Node | None:
            await self._nominate(self._unsent(pods.nominate), node.name)
            newest = self._cluster.snapshot().nodes.get(node.name, node)
            return await self._nodes.register(newest, claim, hold_until=hold_until)

        room = room_to_spare(node.allocatable, claim.requests)
        written = await self._openings.together(self._send(pods.nominate, node.name), open_, room)
        if written is None:
            return
        self._shown(written)
        registered = await self._registered(claim, written)
        await self._tell_registered(claim, written, unregistered, len(pods.nominate), len(pods.bind))
        if registered is not None and not_initialized(written, registered) is None:
            await self.initialize(registered, written)

    async def _in_partition(self, snapshot: Snapshot, claim: NodeClaim) -> NodeClaim | None:
        """The claim labelled with the partition that EC2 chose, so that no pod comes before the label; None while EC2
        does not say which.
        """
        node_class = snapshot.node_classes.get(claim.node_class.key)
        group = node_class.placement_group if node_class is not None else None
        if group is None or group.strategy != PARTITION or keys.PLACEMENT_PARTITION in claim.labels:
            return claim
        if claim.labels.get(keys.PLACEMENT_GROUP) != group.id:
            return claim
        partition = await self._partitions.partition_of(claim.provider_id.rpartition("/")[2])
        if partition is None:
            log.info("node waits for its placement group's partition to be known", claim=claim.name)
            return None
        return await self._claims.annotate(claim, labels={keys.PLACEMENT_PARTITION: str(partition)})

    def _hold_until(self, claim: NodeClaim, binds: bool) -> str:
        """When the node's hold is to end (RFC 3339); empty for none."""
        keeping = keeping_of(claim, self._clock.now())
        if keeping is not None:
            return render_time(keeping.until) or ""
        return render_time(self._clock.now() + HOLD_S) or "" if binds else ""

    async def _registered(self, claim: NodeClaim, node: Node) -> NodeClaim | None:
        def change(now: NodeClaim) -> NodeClaim:
            named = msgspec.structs.replace(now, node_name=node.name)
            done = with_condition(named, Condition(REGISTERED, "True", REGISTERED), self._clock.now())
            return msgspec.structs.replace(named, conditions=done)

        written = await self._claims.patch_status(claim, change)
        if written is not None:
            self._cluster.overlay(Change(Kind.NODE_CLAIM, written.name, written, written.resource_version))
        return written

    async def _tell_registered(
        self, claim: NodeClaim, node: Node, unregistered: bool, nominated: int, held: int
    ) -> None:
        self._measures.registered.labels(claim.pool).inc()
        self._measures.nodes_created.labels(claim.pool).inc()
        if claim.created_at:
            took_s = self._clock.now() - claim.created_at
            self._measures.claim_to_registered.labels(claim.pool).observe(max(0.0, took_s))
        log.info("registered a node", claim=claim.name, node=node.name, nominated=nominated, held_for=held)
        if not unregistered:
            message = f"node joined without the taint {keys.TAINT_UNREGISTERED}:NoExecute; pods may have run too early"
            self._report.claim(claim, "UnregisteredTaintMissing", message, warning=True)
            log.warning("node joined without the unregistered taint", claim=claim.name, node=node.name)
        facts: dict[str, str | int | float | bool] = {
            "claim": claim.name, "pool": claim.pool, "nominatedPods": nominated, "heldForPods": held,
        }  # fmt: skip
        await self._report.decided("registered", f"node/{node.name}", "Registered", "", facts)
        try:
            await self._nominated.nominate([node.name], self._nomination_s)
        except StoreUnavailableError:
            log.debug("node is not nominated while Redis is away", node=node.name)

    async def _nominated_surely(self, pods: Sequence[PodRecord], node: str, within_s: float) -> None:
        """Waits until the watch shows the pods nominated, and nominates again those that are not for long."""
        deadline = self._clock.monotonic() + within_s
        while self._unsent(pods) and self._clock.monotonic() < deadline:
            await self._until(lambda: not self._unsent(pods), _SIGHT_S)
            await self._nominate(self._unsent(pods), node)

    async def _send(self, pods: Sequence[PodRecord], node: str) -> None:
        await self._nominate(pods, node)
        await self._nominated_surely(pods, node, _MOST_SIGHT_S)

    async def _until(self, done: Callable[[], bool], within_s: float) -> None:
        deadline = self._clock.monotonic() + within_s
        while not done() and self._clock.monotonic() < deadline:
            await self._clock.sleep(_LOOK_S)

    def _unsent(self, pods: Sequence[PodRecord]) -> list[PodRecord]:
        """Those of the pods, as they are now, that the watch shows neither bound nor nominated."""
        now = self._cluster.snapshot().pods
        found = (now.get(pod.key) for pod in pods)
        return [pod for pod in found if pod is not None and pod.provisionable and not pod.nominated_node]

    async def _nominate(self, pods: Sequence[PodRecord], node: str) -> None:
        if not pods:
            return
        failed = await self._pods.nominate(pods, node)
        self._measures.placed.labels("nominate").inc(len(pods) - len(failed))
        if failed:
            first = next(iter(failed.items()))
            log.warning(
                "pods could not be nominated", node=node, count=len(failed), pod=first[0], error=first[1]
            )

    def forgotten(self, claim: NodeClaim, node: Node) -> list[PodRecord]:
        """Pods planned for an open node that still wait, whose nomination the kube-scheduler took back and whose places
        are free.
        """
        if node.deleted_at > 0 or landed_too_late(claim, self._clock.now()):
            return []
        snapshot = self._cluster.snapshot()
        unsent = self._unsent(waiting_pods(snapshot, claim))
        return with_room(snapshot, claim, node, unsent) if unsent else []

    async def remind(self, claim: NodeClaim, node: Node) -> None:
        """Nominates again what was forgotten, so that the pods' places are not given to others meanwhile."""
        await self._nominate(self.forgotten(claim, node), node.name)

    # --- holding ------------------------------------------------------------------------------------------------------
    async def settle(self, claim: NodeClaim, node: Node) -> None:
        """Binds the pods of a held node once it can take them, and lifts the hold then or at its deadline."""
        snapshot = self._cluster.snapshot()
        waiting = waiting_pods(snapshot, claim)
        if self.hold_expired(node):
            await self._nominate(waiting, node.name)
            await self._lift(node, "deadline")
            return
        bind = list(landing(snapshot, claim, "bind").bind)

        async def send() -> None:
            failed = await self._bind(snapshot, node, bind) if bind else {}
            await self._nominate([pod for pod in bind if pod.key in failed], node.name)

        room = room_to_spare(node.allocatable, claim.requests)
        await self._openings.together(send(), lambda: self._lift(node, "settled"), room)

    async def _bind(self, snapshot: Snapshot, node: Node, pods: Sequence[PodRecord]) -> dict[PodKey, str]:
        """Binds the pods that the planner accepts on the node as it is; returns why where the API server refused."""
        fitting = frozenset(
            await asyncio.to_thread(
                accepted, snapshot, node, pods,
                now=self._clock.now(), planner=self._planner, clock=self._clock.monotonic,
            )
        )  # fmt: skip
        chosen = [pod for pod in pods if pod.key in fitting]
        failed = await self._pods.bind(chosen, node.name) if chosen else {}
        sent = [pod for pod in chosen if pod.key not in failed]
        await self._until(lambda: not self._unsent(sent), _MOST_SIGHT_S)
        bound, refused = len(chosen) - len(failed), len(pods) - len(chosen)
        self._measures.placed.labels("bind").inc(bound)
        log.info("bound pods", node=node.name, bound=bound, refused=refused, failed=len(failed))
        if failed:
            pod, error = next(iter(failed.items()))
            log.warning("pods could not be bound and are nominated", node=node.name, pod=pod, error=error)
        facts: dict[str, str | int | float | bool] = {
            "pods": bound,
            "refused": refused,
            "failed": len(failed),
        }
        await self._report.decided("bound", f"node/{node.name}", "Bound", "", facts)
        return failed

    def ready_to_settle(self, claim: NodeClaim, node: Node) -> bool:
        """Whether a held node can take its pods, or has been held long enough. While it keeps places for pods that come
        back, whoever keeps them ends the hold.
        """
        if keeping_of(claim, self._clock.now()) is not None:
            return False
        return self.hold_expired(node) or (node.ready and starting_taint(node, claim) is None)

    def hold_expired(self, node: Node) -> bool:
        """Whether the deadline of the node's hold has passed; one that can't be read has."""
        try:
            until = datetime.fromisoformat(node.annotations.get(keys.BIND_HOLD_DEADLINE, ""))
        except ValueError:
            return True
        return self._clock.now() >= until.timestamp()

    async def _lift(self, node: Node, why: str) -> None:
        written = await self._nodes.lift_hold(self._cluster.snapshot().nodes.get(node.name, node))
        if written is not None:
            self._shown(written)
            log.info("lifted the hold of a node", node=node.name, why=why)

    # --- initialization -----------------------------------------------------------------------------------------------
    async def initialize(self, claim: NodeClaim, node: Node) -> None:
        """Marks node and claim initialized; callers checked `not_initialized`."""
        written = await self._nodes.initialized(node)
        if written is None:
            return
        self._shown(written)
        if await self._condition(claim, Condition(INITIALIZED, "True", INITIALIZED)) is None:
            return
        self._measures.initialized.labels(claim.pool).inc()
        if claim.created_at:
            took_s = self._clock.now() - claim.created_at
            self._measures.claim_to_initialized.labels(claim.pool).observe(max(0.0, took_s))
        log.info("initialized a node", claim=claim.name, node=node.name)
        facts: dict[str, str | int | float | bool] = {"claim": claim.name, "pool": claim.pool}
        await self._report.decided("initialized", f"node/{node.name}", "Initialized", "", facts)

    async def say_waiting(self, claim: NodeClaim, reason: str, message: str) -> None:
        """Notes on the claim what its node is waiting for."""
        await self._condition(claim, Condition(INITIALIZED, "Unknown", reason, message))

    async def _condition(self, claim: NodeClaim, condition: Condition) -> NodeClaim | None:
        written = await self._claims.set_conditions(claim, [condition], self._clock.now())
        if written is not None:
            self._cluster.overlay(Change(Kind.NODE_CLAIM, written.name, written, written.resource_version))
        return written

    def _shown(self, node: Node) -> None:
        self._cluster.overlay(Change(Kind.NODE, node.name, node, node.resource_version))

"""Takes down every node that is deleted, from its taint to its last finalizer.

Reconciles all of them in sweeps, each node by steps that the pure room names; conditions on the claim say how far it
is, so any replica goes on. A lease per node keeps two replicas from doing the same work; while Redis is away both may,
which is harmless: evictions carry UIDs, node writes resourceVersions, and ending an instance twice ends it once.
Kill points: reallocator.before-/after- mark-node, evict, delete-pod, terminate, drop-node-finalizer, and those of
NodeClaims.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

import msgspec

from nodeyard.adapters.kubernetes.errors import KubernetesError
from nodeyard.api import labels as keys
from nodeyard.api.node import Condition, Node, NodeClaim
from nodeyard.cloudprovider.errors import CloudError
from nodeyard.disruption.budgets import INSTANCE_TERMINATING
from nodeyard.disruption.collection import instance_id
from nodeyard.disruption.termination import (
    POLL_S,
    Do,
    Facts,
    InstanceState,
    Step,
    next_step,
    render_time,
)
from nodeyard.runtime.backoff import Backoff
from nodeyard.runtime.clock import Clock
from nodeyard.runtime.lifecycle import kill_point
from nodeyard.runtime.logging import get_logger
from nodeyard.state.cluster import Change, Kind, Snapshot
from services.reallocator.chronicle import Chronicle
from services.reallocator.drains import Drains
from services.reallocator.leases import HeldLeases
from services.reallocator.machines import InstanceBook
from services.reallocator.metrics import ReallocatorMetrics
from services.reallocator.ports import Claims, Cluster, Nodes
from services.reallocator.surges import Surges

_AT_ONCE: Final = 16
_STEPS: Final = 24
_IDLE_S: Final = 5.0
_SOONEST_S: Final = 0.1
_ATTACHMENTS_S: Final = 1.0

log = get_logger("services.reallocator.termination")


class Subject(msgspec.Struct, frozen=True):
    """A claim on its way out with its node, or a node on its way out that has no claim."""

    claim: NodeClaim | None
    node: Node | None

    @property
    def name(self) -> str:
        return self.claim.name if self.claim is not None else self.node.name if self.node is not None else ""

    @property
    def identity(self) -> str:
        return self.claim.uid if self.claim is not None else self.node.uid if self.node is not None else ""


def subjects(snapshot: Snapshot) -> Iterator[Subject]:
    """Everything that is on its way out and ours to finish."""
    for claim in snapshot.claims.values():
        if claim.deleting and keys.TERMINATION_FINALIZER in claim.finalizers:
            yield Subject(claim, snapshot.node_of(claim))
    for node in snapshot.nodes.values():
        if node.deleted_at and keys.TERMINATION_FINALIZER in node.finalizers:
            owner = snapshot.claim_of(node)
            if owner is None or not owner.deleting:
                yield Subject(owner, node)


class Termination:
    """Run `run` in every replica."""

    def __init__(
        self,
        *,
        cluster: Cluster,
        claims: Claims,
        nodes: Nodes,
        drains: Drains,
        surges: Surges,
        book: InstanceBook,
        leases: HeldLeases,
        chronicle: Chronicle,
        clock: Clock,
        measures: ReallocatorMetrics,
        permitted: Callable[[], bool],
    ) -> None:
        self._cluster = cluster
        self._claims = claims
        self._nodes = nodes
        self._drains = drains
        self._surges = surges
        self._book = book
        self._leases = leases
        self._chronicle = chronicle
        self._clock = clock
        self._measures = measures
        self._permitted = permitted
        self._failures: dict[str, tuple[Backoff, float]] = {}
        self._attached: tuple[float, dict[str, frozenset[str]]] | None = None
        self._listing = asyncio.Lock()
        self._room = asyncio.Semaphore(_AT_ONCE)
        self._doing: dict[Do, Callable[[Facts, Step], Awaitable[Facts | float]]] = {
            Do.DESCRIBE_INSTANCE: self._describe,
            Do.SET_DEADLINE: self._set_deadline,
            Do.DELETE_NODE: self._delete_node,
            Do.MARK_NODE: self._mark_node,
            Do.DRAIN: self._drain,
            Do.LIST_ATTACHMENTS: self._list_attachments,
            Do.SET_CONDITIONS: self._set_conditions,
            Do.TERMINATE_INSTANCE: self._terminate,
            Do.DROP_NODE_FINALIZER: self._drop_node_finalizer,
            Do.DROP_CLAIM_FINALIZER: self._drop_claim_finalizer,
        }

    async def run(self) -> None:
        """Sweeps whenever something changed and whenever a step is due, until cancelled."""
        while True:
            revision = self._cluster.snapshot().revision
            wait_s = await self.sweep()
            await self._clock.sleep(_SOONEST_S)
            await self._cluster.wait_changed(revision, wait_s)

    async def sweep(self) -> float:
        """Every node one stretch further; seconds until the next step is due."""
        if not self._cluster.synced or not self._permitted():
            return 1.0
        snapshot = self._cluster.snapshot()
        going = list(subjects(snapshot))
        self._measures.terminating.set(len(going))
        self._forget(going)
        if not going:
            await self._leases.keep(())
            return _IDLE_S
        mine = await self._leases.keep(subject.name for subject in going)
        waits = await asyncio.gather(*(self._guarded(snapshot, s) for s in going if s.name in mine))
        return min([*waits, _IDLE_S if len(mine) == len(going) else 1.0])

    async def _guarded(self, snapshot: Snapshot, subject: Subject) -> float:
        """One node's stretch; what fails is tried again later and keeps no other waiting."""
        now = self._clock.monotonic()
        backoff, not_before = self._failures.get(subject.identity, (Backoff(0.5, 10.0), 0.0))
        if now < not_before:
            return not_before - now
        try:
            async with self._room:
                wait_s = await self._stretch(snapshot, subject)
        except (KubernetesError, CloudError) as error:
            wait_s = backoff.next_s()
            self._failures[subject.identity] = (backoff, self._clock.monotonic() + wait_s)
            log.warning(
                "termination step failed and is tried again",
                subject=subject.name, error=str(error), wait_s=round(wait_s, 2),
            )  # fmt: skip
            return wait_s
        self._failures.pop(subject.identity, None)
        return wait_s

    async def _stretch(self, snapshot: Snapshot, subject: Subject) -> float:
        claim, node = subject.claim, subject.node
        if claim is not None and not claim.deleting:
            await self._claims.delete(claim.name, claim.uid)
            return POLL_S
        if claim is not None:
            claim = await self._surges.settle(snapshot, claim)
            if claim is None:
                return POLL_S
        facts = Facts(snapshot, claim, node, self._clock.now())
        for _ in range(_STEPS):
            step = next_step(facts)
            doing = self._doing.get(step.do)
            if doing is None:
                if step.do is Do.LEAVE:
                    log.debug("termination is not ours", subject=subject.name, why=step.why)
                return step.wait_s or _IDLE_S
            after = await doing(facts, step)
            if isinstance(after, float):
                return after
            facts = after
        return POLL_S

    # --- steps: each gives the facts as they now are, or seconds to wait for the stream to bring them -----------------
    async def _describe(self, facts: Facts, step: Step) -> Facts | float:
        id_ = instance_id(facts.provider_id)
        state = InstanceState.GONE
        if id_:
            state = await self._book.state(id_, ours_only=facts.claim is None)
        return msgspec.structs.replace(facts, instance=state)

    async def _set_deadline(self, facts: Facts, step: Step) -> Facts | float:
        assert facts.claim is not None
        assert step.deadline is not None
        annotation = {keys.TERMINATION_TIMESTAMP: render_time(step.deadline)}
        return self._with_claim(facts, await self._claims.annotate(facts.claim, annotation))

    async def _delete_node(self, facts: Facts, step: Step) -> Facts | float:
        assert facts.node is not None
        await self._nodes.delete(facts.node)
        return POLL_S

    async def _mark_node(self, facts: Facts, step: Step) -> Facts | float:
        assert facts.node is not None
        kill_point("reallocator.before-mark-node")
        node = await self._nodes.prepare_drain(facts.node)
        kill_point("reallocator.after-mark-node")
        if node is None:
            return POLL_S
        self._cluster.overlay(Change(Kind.NODE, node.name, node, node.resource_version))
        return msgspec.structs.replace(facts, node=node)

    async def _drain(self, facts: Facts, step: Step) -> Facts | float:
        assert facts.node is not None
        assert step.drain is not None
        if step.conditions and facts.claim is not None:
            self._with_claim(
                facts, await self._claims.set_conditions(facts.claim, step.conditions, self._clock.now())
            )
        due = await self._surges.hold(facts.snapshot, facts.claim, step.drain)
        return await self._drains.act(facts.snapshot, facts.node, due)

    async def _list_attachments(self, facts: Facts, step: Step) -> Facts | float:
        assert facts.node is not None
        async with self._listing:
            now = self._clock.monotonic()
            if self._attached is None or now - self._attached[0] > _ATTACHMENTS_S:
                self._attached = (now, dict(await self._nodes.attached()))
            attached = self._attached[1].get(facts.node.name, frozenset())
        return msgspec.structs.replace(facts, attached=attached)

    async def _set_conditions(self, facts: Facts, step: Step) -> Facts | float:
        assert facts.claim is not None
        now = self._clock.now()
        after = self._with_claim(facts, await self._claims.set_conditions(facts.claim, step.conditions, now))
        if any(c.type == "Drained" and c.status == "True" for c in step.conditions):
            self._measures.nodes_drained.labels(facts.claim.pool).inc()
        return after

    async def _terminate(self, facts: Facts, step: Step) -> Facts | float:
        id_ = instance_id(facts.provider_id)
        kill_point("reallocator.before-terminate")
        await self._book.terminate(id_)
        kill_point("reallocator.after-terminate")
        name = facts.claim.name if facts.claim is not None else ""
        await self._chronicle.decided(
            "terminated", f"nodeclaim/{name}", "InstanceTerminating", "the instance was told to end", instance=id_
        )  # fmt: skip
        facts = msgspec.structs.replace(facts, instance=InstanceState.STOPPING)
        if facts.claim is None:
            return facts
        condition = Condition(INSTANCE_TERMINATING, "True", INSTANCE_TERMINATING)
        claim = await self._claims.set_conditions(facts.claim, (condition,), self._clock.now())
        return self._with_claim(facts, claim)

    async def _drop_node_finalizer(self, facts: Facts, step: Step) -> Facts | float:
        assert facts.node is not None
        kill_point("reallocator.before-drop-node-finalizer")
        if await self._nodes.drop_finalizer(facts.node):
            self._measures.node_ended(facts.node, self._clock.now())
        kill_point("reallocator.after-drop-node-finalizer")
        return POLL_S

    async def _drop_claim_finalizer(self, facts: Facts, step: Step) -> Facts | float:
        claim = facts.claim
        assert claim is not None
        if await self._surges.settle(facts.snapshot, claim, all_=True) is None:
            return POLL_S
        await self._claims.remove_finalizer(claim)
        took_s = max(0.0, self._clock.now() - claim.deleted_at)
        self._measures.claim_ended(claim, self._clock.now())
        await self._chronicle.decided(
            "terminated", f"nodeclaim/{claim.name}", "Gone", "the node is gone for good", took_s=round(took_s, 1)
        )  # fmt: skip
        return POLL_S

    def _with_claim(self, facts: Facts, claim: NodeClaim | None) -> Facts | float:
        if claim is None:
            return POLL_S
        self._cluster.overlay(Change(Kind.NODE_CLAIM, claim.name, claim, claim.resource_version))
        return msgspec.structs.replace(facts, claim=claim)

    def _forget(self, going: list[Subject]) -> None:
        known = {subject.identity for subject in going}
        self._failures = {key: value for key, value in self._failures.items() if key in known}

"""Carries a course out: closes its nodes, names its commands when they are due, and brings pods to their kept places.

What nodes are to hold is written on their claims with a time limit that is renewed while the course lasts, so places
outlive the replica and mean nothing soon after it is gone; only which commands are still to come is known here alone, and
a replica that takes over begins none of them. Everything is opened again at the end, and at once where a pod does not get
to its place, a step comes to nothing, or anybody else's pod looks for a place that no held node has (`guests`). Runs in
the holder of the lease `disruption`.
Kill points: those of NodeClaims, reallocator.before-/after- hold-node, lift-hold, bind-pods.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import msgspec

from nodeyard.adapters.kubernetes.errors import KubernetesError
from nodeyard.api import labels as keys
from nodeyard.api.node import INITIALIZED, NodeClaim
from nodeyard.api.pod import PodRecord
from nodeyard.disruption.budgets import INSTANCE_TERMINATING
from nodeyard.disruption.commands import disrupted, running
from nodeyard.disruption.course import still_holds
from nodeyard.disruption.model import Command, Course, View
from nodeyard.provisioning.keeping import Keeping, Kept, encoded, homes, keeping_of
from nodeyard.provisioning.landing import Planner, accepted
from nodeyard.runtime.clock import Clock
from nodeyard.runtime.logging import get_logger
from nodeyard.state.cluster import Change, Kind, Snapshot
from services.reallocator.chronicle import Chronicle
from services.reallocator.execution import KEEP_S, Execution, LostLead
from services.reallocator.guests import Guests
from services.reallocator.holds import Holds
from services.reallocator.ports import Claims, Cluster, Lead, Nodes, Placing

_RENEW_S: Final = 30.0
_STEP_S: Final = 600.0
"""The longest one command may take before everything is opened again."""
_STRAY_S: Final = 6.0
"""The longest a pod may look for its kept place."""

log = get_logger("services.reallocator.courses")


class Courses:
    """At most one course at a time. `pods`: None where no pod may be bound; then none begins, and what is left of one is
    opened when its time is up.
    """

    def __init__(
        self,
        *,
        cluster: Cluster,
        claims: Claims,
        nodes: Nodes,
        pods: Placing | None,
        lead: Lead,
        execution: Execution,
        chronicle: Chronicle,
        planner: Planner,
        clock: Clock,
    ) -> None:
        self._cluster = cluster
        self._claims = claims
        self._pods = pods
        self._lead = lead
        self._execution = execution
        self._chronicle = chronicle
        self._planner = planner
        self._clock = clock
        self._holds = Holds(cluster, nodes, clock)
        self._guests = Guests(self._holds, planner, clock)
        self.arrived = True
        """Whether the last course came to its end."""
        self._left: Course | None = None
        self._epoch: int | None = None
        """Of the lease, as of the last turn of the course."""
        self._closing = False
        """Whether the nodes of a course are being closed this moment."""
        self._current: Command | None = None
        self._current_since = 0.0
        self._kept: dict[str, tuple[Kept, ...]] = {}
        """Claim -> what its node is to hold, of the course that is on."""
        self._looking: dict[str, float] = {}
        """Pod's UID -> since when it looks for its kept place."""

    @property
    def possible(self) -> bool:
        """Whether a course could be carried out at all."""
        return self._pods is not None

    @property
    def on(self) -> bool:
        """Whether a course is under way."""
        return self._left is not None

    @property
    def nodes(self) -> frozenset[str]:
        """Nodes that the rest of the course is about."""
        return self._left.nodes if self._left is not None else frozenset()

    # --- beginning and end --------------------------------------------------------------------------------------------
    async def begin(self, course: Course) -> bool:
        """Keeps the places on nodes that stay and closes those that go; False, and all is open again, where that fails."""
        self._left, self._current, self._looking, self._closing = course, None, {}, True
        self._guests.forget()
        self._epoch = self._lead.epoch
        try:
            await self._close(course)
        except (KubernetesError, LostLead) as error:
            await self.give_up(str(error))
            return False
        finally:
            self._closing = False
        await self._chronicle.decided(
            "disrupting", f"course/{course.id}", "Course",
            f"{len(course.leaving)} nodes in {len(course.commands)} commands",
            nodes=len(course.leaving), replacements=sum(len(c.replacements) for c in course.commands),
            pods=sum(len(c.pods) for command in course.commands for c in command.candidates),
            saves_per_hour=round(course.saves_per_hour, 6),
        )  # fmt: skip
        return True

    async def _close(self, course: Course) -> None:
        snapshot = self._cluster.snapshot()
        self._kept = {_claim(snapshot, name).name: kept for name, kept in course.kept.items()}
        await self._keep()
        for command in course.commands:
            if not await self._execution.close(command):
                raise LostLead(f"a node of command {command.id} has moved on")

    async def give_up(self, why: str) -> None:
        """Opens everything that no command under way is about."""
        course, self._left, self._current, self.arrived = self._left, None, None, False
        log.warning("course given up", reason=why)
        if course is None:
            return
        await self._chronicle.decided(
            "blocked", f"course/{course.id}", "Changed", f"the rest of it is left: {why}"
        )  # fmt: skip
        try:
            await self._execution.open(course.commands)
            await self._open()
        except (KubernetesError, LostLead) as error:
            log.warning("nodes can't be opened now", error=str(error))

    # --- turns ----------------------------------------------------------------------------------------------------------
    async def due(self, look: Callable[[frozenset[str]], Awaitable[View]]) -> tuple[Command, View] | None:
        """The command to begin now with the view it holds in, if any. `look`: the view as if these nodes were in no
        command. Raises KubernetesError, LostLead, StoreUnavailableError.
        """
        snapshot = self._cluster.snapshot()
        if self._closing:
            return None
        if self._left is None:
            await self._clear(snapshot)
            return None
        self._check_lead()
        if stopped := self._stopped(snapshot):
            await self.give_up(stopped)
            return None
        if not await self._guests.attend(snapshot):
            await self.give_up("other pods look for a place")
            return None
        await self._renew(snapshot)
        if self._guests.inside or not self._behind(snapshot):
            return None
        if not self._left.commands:
            self._left, self.arrived = None, True
            await self._open()
            return None
        view = await look(self.nodes)
        if (block := still_holds(self._left, view)) is not None:
            await self.give_up(block.message)
            return None
        return self._left.commands[0], view

    def begun(self, command: Command) -> None:
        """The command that was due is under way."""
        assert self._left is not None
        self._current, self._current_since = command, self._clock.now()
        self._left = msgspec.structs.replace(self._left, commands=self._left.commands[1:])
        made = self._execution.made_by(command)
        self._kept |= dict(zip(made, command.keeps, strict=True))

    def _behind(self, snapshot: Snapshot) -> bool:
        """Whether the last command's nodes cost nothing any more and its pods have their places."""
        if self._current is None:
            return True
        for candidate in self._current.candidates:
            claim = snapshot.claims.get(candidate.claim)
            if (
                claim is not None
                and claim.uid == candidate.claim_uid
                and not claim.is_true(INSTANCE_TERMINATING)
            ):
                return False
        return not homes(snapshot, self._clock.now()).of

    def _stopped(self, snapshot: Snapshot) -> str:
        """Why the course is not to go on; empty where it is."""
        now = self._clock.now()
        if not self._still_leads():
            return "the lease was lost on the way"
        if any(now - since > _STRAY_S for since in self._looking.values()):
            return "a pod does not get to the place kept for it"
        if self._current is None:
            return ""
        if now - self._current_since > _STEP_S:
            return "a command takes too long"
        for candidate in self._current.candidates:
            node, claim = snapshot.nodes.get(candidate.node), snapshot.claims.get(candidate.claim)
            if node is not None and claim is not None and not claim.deleting and not disrupted(node):
                return f"command {self._current.id} was undone"
        return ""

    def _still_leads(self) -> bool:
        """Whether nobody else led since the last turn: each grant counts one up, so one more is our own again."""
        epoch, before = self._lead.epoch, self._epoch
        self._epoch = epoch
        return epoch is not None and before is not None and epoch - before <= 1

    # --- keeping --------------------------------------------------------------------------------------------------------
    async def _keep(self) -> None:
        """Says on the claims what their nodes are to hold, and closes nodes that are up."""
        await asyncio.gather(*(self._keep_on(name, kept) for name, kept in self._kept.items()))

    async def _keep_on(self, name: str, kept: tuple[Kept, ...]) -> None:
        self._check_lead()
        claim = self._cluster.snapshot().claims.get(name)
        if claim is None:
            return
        until = self._clock.now() + KEEP_S
        self._show(await self._claims.annotate(claim, {keys.KEPT_PLACES: encoded(Keeping(until, kept))}))
        if name not in self._guests.inside:
            await self._holds.hold(claim, until)

    async def _renew(self, snapshot: Snapshot) -> None:
        """Keeps the places of the course for longer, where their time runs short."""
        soon = self._clock.now() + KEEP_S - _RENEW_S
        known = [c for name in self._kept if (c := snapshot.claims.get(name)) is not None]
        if any(keeping_of(claim, soon) is None for claim in known):
            await self._keep()

    async def _clear(self, snapshot: Snapshot) -> None:
        """Opens what a course left closed that nobody goes on with, once its last command is over."""
        if not any(keys.KEPT_PLACES in claim.annotations for claim in snapshot.claims.values()):
            return
        if not running(snapshot) and not homes(snapshot, self._clock.now()).of:
            await self._open()

    async def _open(self) -> None:
        """Forgets all places kept, and lets everybody in."""
        self._kept, self._looking = {}, {}
        self._guests.forget()
        snapshot = self._cluster.snapshot()
        kept = [c for c in snapshot.claims.values() if keys.KEPT_PLACES in c.annotations]
        await asyncio.gather(*(self._open_one(claim) for claim in kept))

    async def _open_one(self, claim: NodeClaim) -> None:
        self._check_lead()
        await self._holds.lift(claim)
        self._show(await self._claims.annotate(claim, {keys.KEPT_PLACES: None}))

    # --- landing --------------------------------------------------------------------------------------------------------
    async def land(self) -> None:
        """Binds every pod whose kept place is ready to it, once the planner has nothing against it."""
        if self._pods is None:
            return
        snapshot = self._cluster.snapshot()
        now = self._clock.now()
        found = homes(snapshot, now).of
        by_claim: defaultdict[str, list[PodRecord]] = defaultdict(list)
        for key, claim in found.items():
            by_claim[claim].append(snapshot.pods[key])
        binder = self._pods
        landed = await asyncio.gather(
            *(self._bring(binder, snapshot, n, pods) for n, pods in by_claim.items())
        )
        left = {snapshot.pods[key].uid for key in found} - set().union(*landed)
        now = self._clock.now()  # bringing many takes a while on a busy machine, which is nobody's fault
        self._looking = {uid: self._looking.get(uid, now) for uid in left}

    async def _bring(
        self, binder: Placing, snapshot: Snapshot, name: str, pods: Iterable[PodRecord]
    ) -> set[str]:
        """UIDs of those that are at their places now."""
        claim = snapshot.claims[name]
        node = snapshot.node_of(claim)
        if node is None or not node.ready or not claim.is_true(INITIALIZED):
            return set()
        waiting = list(pods)
        fitting = frozenset(
            await asyncio.to_thread(
                accepted, snapshot, node, waiting,
                now=self._clock.now(), planner=self._planner, clock=self._clock.monotonic,
            )
        )  # fmt: skip
        chosen = [pod for pod in waiting if pod.key in fitting]
        self._check_lead()
        failed = await binder.bind(chosen, node.name) if chosen else {}
        bound = [pod for pod in chosen if pod.key not in failed]
        for pod in bound:
            there = msgspec.structs.replace(pod, node=node.name, unschedulable=False)
            self._cluster.overlay(Change(Kind.POD, pod.key, there))
        log.info(
            "brought pods to their places",
            node=node.name, bound=len(bound), refused=len(waiting) - len(chosen), failed=len(failed),
        )  # fmt: skip
        return {pod.uid for pod in bound}

    # --- small things ---------------------------------------------------------------------------------------------------
    def _check_lead(self) -> None:
        if self._lead.epoch is None:
            raise LostLead("the lease is not surely held")

    def _show(self, claim: NodeClaim | None) -> None:
        if claim is not None:
            self._cluster.overlay(Change(Kind.NODE_CLAIM, claim.name, claim, claim.resource_version))


def _claim(snapshot: Snapshot, node: str) -> NodeClaim:
    found = snapshot.nodes.get(node)
    claim = snapshot.claim_of(found) if found is not None else None
    if claim is None:
        raise LostLead(f"node {node} is gone")
    return claim

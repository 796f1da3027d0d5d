"""The pass: look at the whole cluster, decide, wait, look again, act. One command or one course at a time begins here.

Runs in the holder of the lease `disruption`. A pass that found nothing is not repeated until the cluster, a price that
touches a node or the end of a window changes something, five minutes at the latest. Beside it run commands' turns, expiry, and the
small marks that timing needs (last pod event, emptiness). Neighbours: `nodeyard.disruption` (decides), `execution`
(acts), `surveying` (what proposals say).
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from nodeyard.adapters.kubernetes.errors import KubernetesError
from nodeyard.api.node import NodeClaim
from nodeyard.api.pool import PoolKey
from nodeyard.api.reading import render_time
from nodeyard.cloudprovider.model import Catalogue
from nodeyard.disruption.burdens import Burdens
from nodeyard.disruption.course import still_holds
from nodeyard.disruption.evictability import unreadable_protection
from nodeyard.disruption.expiry import expired
from nodeyard.disruption.idleness import stamps
from nodeyard.disruption.methods import decide
from nodeyard.disruption.model import (
    Block,
    Command,
    Course,
    Options,
    Outcome,
    Planner,
    Proposal,
    Reason,
    Rule,
    View,
)
from nodeyard.disruption.pod_events import PodEvents
from nodeyard.disruption.repricing import repriced
from nodeyard.disruption.validation import still_open, validate
from nodeyard.disruption.vicinity import Answers
from nodeyard.runtime.clock import Clock
from nodeyard.runtime.leadership import StoreUnavailableError
from nodeyard.runtime.logging import get_logger
from nodeyard.state.cluster import Change, Kind, Snapshot
from services.reallocator.chronicle import Chronicle, Fact
from services.reallocator.claim_marks import ClaimMarks
from services.reallocator.courses import Courses
from services.reallocator.execution import NOMINATION_S, Execution, LostLead
from services.reallocator.metrics import ReallocatorMetrics
from services.reallocator.moves import MoveMemory
from services.reallocator.patience import Patience, Terms
from services.reallocator.ports import Claims, Cluster, Lead, Nodes, Nominating, Prices
from services.reallocator.surveying import Proposals, drain_facts

LONGEST_QUIET_S: Final = 300.0
EVENTS_EVERY_S: Final = 10.0
_SOONEST_S: Final = 1.0
_REST: Final = 3.0
"""After a pass, this many times as long for the loops that are in a hurry."""
_TURN_S: Final = 2.0
_COURSE_TURN_S: Final = 0.1

log = get_logger("services.reallocator.controller")


class Disruption:
    """The pass and what runs beside it; each `run_*` is a loop of its own."""

    def __init__(
        self,
        *,
        cluster: Cluster,
        prices: Prices,
        claims: Claims,
        nodes: Nodes,
        nominations: Nominating,
        moves: MoveMemory,
        lead: Lead,
        execution: Execution,
        courses: Courses,
        chronicle: Chronicle,
        planner: Planner,
        options: Options,
        clock: Clock,
        measures: ReallocatorMetrics,
        permitted: Callable[[], bool],
        poll_s: float,
        validation_wait_s: float,
    ) -> None:
        self._cluster = cluster
        self._prices = prices
        self._claims = claims
        self._nodes = nodes
        self._nominations = nominations
        self._moves = moves
        self._lead = lead
        self._execution = execution
        self._courses = courses
        self._chronicle = chronicle
        self._planner = planner
        self._options = options
        self._clock = clock
        self._measures = measures
        self._permitted = permitted
        self._poll_s = poll_s
        self._validation_wait_s = validation_wait_s
        self._events = PodEvents()
        self._burdens, self._answers = Burdens(), Answers()
        self._deciding = asyncio.Lock()
        """What is remembered stands one look at a time."""
        self._quiet: tuple[tuple[str, int], float] | None = None
        self._priced: tuple[str, Mapping[str, Catalogue]] = ("", {})
        """The prices that the last look was made at."""
        self._overdue: frozenset[PoolKey] = frozenset()
        self._patience = Patience(courses=courses.possible)
        self._marks = ClaimMarks(cluster, claims, chronicle, clock)
        self.proposals = Proposals(chronicle)

    @property
    def may_decide(self) -> bool:
        """Whether the state is whole, prices are there and nobody forbids it."""
        return self._cluster.synced and self._prices.ready and self._permitted()

    # --- the pass ---------------------------------------------------------------------------------------------------
    async def run_passes(self) -> None:
        """Passes whenever something changed, and every `poll_s`, until cancelled."""
        while True:
            if self._lead.epoch is None:
                self._measures.observe_distance(None)
            await self._lead.wait_held()
            revision, prices = self._cluster.snapshot().revision, self._prices.revision
            began = self._clock.monotonic()
            if self.may_decide:
                try:
                    await self.once()
                except StoreUnavailableError as error:
                    log.warning("nothing is disrupted while Redis is away", error=str(error))
            took_s = self._clock.monotonic() - began
            await self._clock.sleep(max(_SOONEST_S, min(_REST * took_s, self._poll_s)))
            await self._wait_for_news(revision, prices)

    async def _wait_for_news(self, revision: int, prices: str) -> None:
        """Until the cluster or a price is another, `poll_s` at most."""
        waiting = [
            asyncio.ensure_future(self._cluster.wait_changed(revision, self._poll_s)),
            asyncio.ensure_future(self._prices.wait_changed(prices, self._poll_s)),
        ]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waiting:
                each.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def once(self) -> Outcome | None:
        """One pass; None where the last one still holds, or a course is under way, beside which nothing else may move."""
        if self._courses.on:
            return None
        snapshot = self._cluster.snapshot()
        stamp = (snapshot.epoch, snapshot.revision)
        if (
            self._quiet is not None
            and self._quiet[0] == stamp
            and self._clock.now() < self._quiet[1]
            and not await self._touched_by_prices(snapshot)
        ):
            return None
        outcome = await self.look(snapshot)
        await self._publish(outcome)
        now = self._clock.now()
        until = min(outcome.recheck_at or now + LONGEST_QUIET_S, now + LONGEST_QUIET_S)
        self._quiet = (stamp, until) if outcome.quiet else None
        if outcome.command is not None:
            await self._carry_out(outcome.command)
        if outcome.course is not None:
            await self._set_out(outcome.course)
        return outcome

    async def _touched_by_prices(self, snapshot: Snapshot) -> bool:
        """Whether prices moved since the last look, and some pool's nodes may be worth something else for it."""
        revision, seen = self._priced
        if self._prices.revision == revision:
            return False
        pools = await asyncio.to_thread(repriced, snapshot, seen, self._catalogues(snapshot))
        if pools:
            log.info("prices have moved and nodes are looked at again", pools=sorted(pools))
            self._measures.price_looks.inc()
        return bool(pools)

    async def look(self, snapshot: Snapshot) -> Outcome:
        """What a pass would find now; changes nothing. Raises StoreUnavailableError."""
        revision = self._prices.revision
        view = await self._view(snapshot)
        self._priced = (revision, view.catalogues)
        terms, began = self._terms(), self._clock.monotonic()
        methods = self._patience.methods(view, terms)
        async with self._deciding:
            outcome = await asyncio.to_thread(
                decide, view, self._planner, self._clock.monotonic,
                burdens=self._burdens, answers=self._answers, methods=methods,
            )  # fmt: skip
        took_s = self._clock.monotonic() - began
        if (why := outcome.no_course) is not None:
            log.debug("no course was found", rule=why.rule.value, reason=why.message, **why.facts)
            if why.rule is not Rule.SEVERAL_NODES:
                self._patience.fruitless(view.now, terms, took_s)
        self._measures.evaluation.observe(took_s)
        self._overdue = outcome.overdue
        if not outcome.complete:
            self._measures.timeouts.inc()
        return self._patience.awake(outcome, methods, view.now)

    def _terms(self) -> Terms:
        pools = self._cluster.snapshot().pools.values()
        return self._prices.revision, tuple(sorted((p.key, p.generation, p.deleting) for p in pools))

    async def _publish(self, outcome: Outcome) -> None:
        await self.proposals.take(outcome, self._cluster.snapshot())
        self._measures.observe_proposals(self.proposals.all)
        self._measures.observe_pass(outcome)
        for pool, by_reason in outcome.allowed.items():
            for reason, count in by_reason.items():
                self._measures.allowed.labels(pool, reason.value).set(count)

    async def _view(self, snapshot: Snapshot, aside: frozenset[str] = frozenset()) -> View:
        """What is to be judged. `aside`: nodes that count as in no command, though they are."""
        self._events.observe(snapshot, self._clock.now())
        return View(
            snapshot=snapshot,
            catalogues=self._catalogues(snapshot),
            now=self._clock.now(),
            nominated=await self._nominations.nominated(),
            in_command=(self._execution.busy(snapshot) | self._courses.nodes) - aside,
            quiet_since=dict(self._events.last),
            options=self._options,
            moves=await self._moves.recall(),
            overdue=self._overdue,
        )

    def _catalogues(self, snapshot: Snapshot) -> Mapping[str, Catalogue]:
        return {key: self._prices.catalogue_for(each) for key, each in snapshot.node_classes.items()}

    async def _carry_out(self, command: Command) -> None:
        """Waits, looks twice more, and begins the command if it still holds."""
        await self._clock.sleep(self._validation_wait_s)
        if not self.may_decide or self._lead.epoch is None:
            return
        view = await self._view(self._cluster.snapshot())
        again = await asyncio.to_thread(validate, command, view, self._planner, self._clock.monotonic)
        if isinstance(again, Command):
            stopped = still_open(again, await self._view(self._cluster.snapshot()))
            again = stopped or again
        if isinstance(again, Block):
            self._measures.did_not_hold(command)
            await self._chronicle.decided(
                "blocked", f"command/{command.id}", again.rule.value, f"no longer holds: {again.message}"
            )  # fmt: skip
            return
        await self._begin(again, view)

    async def _begin(self, again: Command, view: View) -> bool:
        """Says what is done and begins it; False where it was undone at once."""
        self._measures.decided(again)
        facts: dict[str, Fact] = {
            "nodes": len(again.nodes), "replacements": len(again.replacements),
            "pods": sum(len(c.pods) for c in again.candidates), "saves_per_hour": round(again.saves_per_hour, 6),
        }  # fmt: skip
        await self._chronicle.decided(
            "disrupting", f"command/{again.id}", again.reason.value,
            f"{again.action.value.lower()} {', '.join(again.nodes)}",
            quiet=False, **(facts | drain_facts(view.snapshot, again, self._clock.now())),
        )  # fmt: skip
        if homes := self.proposals.homes_of_singletons(again):
            await self._nominations.nominate(homes, NOMINATION_S)
        begun = await self._execution.begin(again)
        if begun:
            self._quiet = None
        return begun

    # --- courses ----------------------------------------------------------------------------------------------------
    async def _set_out(self, course: Course) -> None:
        """Waits, looks once more, and closes the course's nodes; its commands begin in turns of their own."""
        await self._clock.sleep(self._validation_wait_s)
        if not self.may_decide or self._lead.epoch is None:
            return
        view = await self._view(self._cluster.snapshot())
        block = await asyncio.to_thread(still_holds, course, view)
        if block is not None:
            await self._chronicle.decided(
                "blocked", f"course/{course.id}", block.rule.value, f"no longer holds: {block.message}"
            )  # fmt: skip
            return
        if not await self._courses.begin(course):
            self._patience.given_up(self._clock.now(), self._terms())

    async def run_courses(self) -> None:
        """Pods to the places kept for them, and the commands of a course one after the other, until cancelled."""
        while True:
            await self._lead.wait_held()
            revision = self._cluster.snapshot().revision
            if self._cluster.synced and self._permitted():
                try:
                    await self.turn_course()
                except (LostLead, KubernetesError, StoreUnavailableError) as error:
                    log.warning("a course can't go on now", error=str(error))
                    await self._clock.sleep(_SOONEST_S)
            await self._clock.sleep(_COURSE_TURN_S)
            await self._cluster.wait_changed(revision, _SOONEST_S)

    async def turn_course(self) -> None:
        """One turn of it. Raises LostLead, KubernetesError, StoreUnavailableError."""
        await self._courses.land()
        was_on = self._courses.on
        due = await self._courses.due(lambda nodes: self._view(self._cluster.snapshot(), nodes))
        if was_on and not self._courses.on:
            if self._courses.arrived:
                self._patience.arrived()
            else:
                self._patience.given_up(self._clock.now(), self._terms())
        if due is None:
            return
        command, view = due
        if await self._begin(command, view):
            self._courses.begun(command)
        else:
            await self._courses.give_up(f"command {command.id} could not be begun")

    # --- beside it --------------------------------------------------------------------------------------------------
    async def run_turns(self) -> None:
        """Commands under way, and expiry, until cancelled."""
        while True:
            await self._lead.wait_held()
            revision = self._cluster.snapshot().revision
            if self._cluster.synced and self._permitted():
                try:
                    await self._execution.advance()
                    await self._expire()
                except (LostLead, KubernetesError) as error:
                    log.warning("commands can't be advanced now", error=str(error))
            await self._clock.sleep(0.2)
            await self._cluster.wait_changed(revision, _TURN_S)

    async def _expire(self) -> None:
        due = expired(self._cluster.snapshot(), self._clock.now())
        for claim in due:
            self._chronicle.on_claim(claim, "Expired", "reached the age that its pool allows")
        await self._execution.delete_claims(due, Reason.EXPIRED)

    async def run_marks(self) -> None:
        """Writes last pod events, emptiness timestamps, drift and the like every ten seconds, until cancelled."""
        while True:
            await self._lead.wait_held()
            if self._cluster.synced and self._permitted():
                try:
                    await self.write_marks()
                except KubernetesError as error:
                    log.warning("marks can't be written now", error=str(error))
            await self._clock.sleep(EVENTS_EVERY_S)

    async def write_marks(self) -> None:
        """One round of them."""
        snapshot = self._cluster.snapshot()
        self._events.observe(snapshot, self._clock.now())
        self._name_unreadable(snapshot)
        if self._prices.ready:
            await self._marks.write_drift(snapshot, self._catalogues(snapshot))
        await self._marks.write_consolidatable(self._cluster.snapshot(), self._events.last)
        for stamp in stamps(snapshot):
            since = render_time(self._clock.now()) if stamp.empty else None
            node = await self._nodes.stamp(snapshot.nodes[stamp.node], since)
            if node is not None:
                self._cluster.overlay(Change(Kind.NODE, node.name, node, node.resource_version))
        for name, at in list(self._events.last.items()):
            node_value = snapshot.nodes.get(name)
            claim = snapshot.claim_of(node_value) if node_value is not None else None
            if claim is not None and not claim.deleting and at - claim.last_pod_event_at >= EVENTS_EVERY_S:
                await self._touch(claim, at)

    def _name_unreadable(self, snapshot: Snapshot) -> None:
        """An event on each pod whose do-not-disrupt does nothing because it can't be read."""
        for pod in snapshot.pods.values():
            if pod.do_not_disrupt and pod.node and unreadable_protection(pod):
                message = f"karpenter.sh/do-not-disrupt is {pod.do_not_disrupt!r}, neither true nor a duration: ignored"
                self._chronicle.on_pod(pod, "InvalidDoNotDisrupt", message, warning=True)

    async def _touch(self, claim: NodeClaim, at: float) -> None:
        def change(now: NodeClaim) -> NodeClaim:
            return msgspec.structs.replace(now, last_pod_event_at=max(float(int(at)), now.last_pod_event_at))

        written = await self._claims.patch_status(claim, change)
        if written is not None:
            self._cluster.overlay(Change(Kind.NODE_CLAIM, written.name, written, written.resource_version))

    # --- for whoever asks -------------------------------------------------------------------------------------------
    async def view_now(self) -> View:
        """What a pass would read now. Raises StoreUnavailableError."""
        return await self._view(self._cluster.snapshot())

    async def list_proposals(self) -> tuple[Proposal, ...]:
        """The proposals of the last pass here, or of a look made now where another replica does the passes."""
        if (
            self._lead.epoch is None
            and self.may_decide
            and self.proposals.older_than(self._clock.now(), self._poll_s)
        ):
            outcome = await self.look(self._cluster.snapshot())
            self.proposals.show(outcome, self._cluster.snapshot())
        return self.proposals.all

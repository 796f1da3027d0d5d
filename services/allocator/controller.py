"""The planning loop: pods that wait are batched, planned at once, and their claims created and launched together.

One replica plans at a time, under the epoch of the lease `planning/<group>`; the others keep their batches ready. A
new planner first reads all claims from the API server, so that it sees everything the last one wrote. Refuses to plan
without a current snapshot and a catalogue, and drops a plan whose epoch ended while it was made. An open batch that
has gone quiet is planned ahead (`drafting`). Pods that no plan can place are told why and come up again every ten
seconds, or when pools, classes or prices changed.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from nodeyard.adapters.ec2.user_data import UserDataError
from nodeyard.adapters.kubernetes.errors import KubernetesError
from nodeyard.api import labels as keys
from nodeyard.api.node import NodeClaim
from nodeyard.api.pod import PodKey
from nodeyard.cloudprovider.errors import CloudError
from nodeyard.cloudprovider.model import Catalogue
from nodeyard.provisioning.claims import (
    LaunchRecord,
    claim_names,
    claim_of,
    planned_pods_of,
    record_annotations,
)
from nodeyard.provisioning.landing import Planner
from nodeyard.provisioning.model import Options, Placement, Plan, PlannedNode, Problem, Reason
from nodeyard.provisioning.pending import Pending, next_landing, pending
from nodeyard.provisioning.zones import effective_zones, zones_of
from nodeyard.runtime.batcher import Batcher
from nodeyard.runtime.clock import Clock
from nodeyard.runtime.leadership import StoreUnavailableError
from nodeyard.runtime.lifecycle import kill_point
from nodeyard.state.cluster import Change, Kind, Snapshot
from services.allocator.classes import Classes
from services.allocator.drafting import Drafts, Inputs
from services.allocator.follower import Follower
from services.allocator.launcher import Launcher
from services.allocator.metrics import AllocatorMetrics
from services.allocator.ports import Claims, Cluster, Leader, Nominated, Offers
from services.allocator.registrar import NOMINATION_S
from services.allocator.reporting import Reporter, log
from services.allocator.telling import Telling

GROUP: Final = "all"
LEASE: Final = f"planning/{GROUP}"
REQUEUE_S: Final = 10.0
"""A pod that still waits is planned again after this long."""
RETRY_S: Final = 2.0
MOST_PLAN_S: Final = 60.0
QUIET_S: Final = 0.35
"""Without a new pod for this long an open batch is planned ahead."""
_LOOK_EVERY_S: Final = 0.01
_LOOK_SHARE: Final = 5.0
"""Between two looks at what waits passes at least this many times what a look took, so that a cluster in commotion
leaves the processor to those who work on it."""
_MOST_LOOK_S: Final = 0.1
_SAY_UNSYNCED_S: Final = 30.0
_UNSUPPORTED: Final = frozenset({Reason.UNSUPPORTED, Reason.INVALID, Reason.VOLUME_INVALID})


class Controller:
    """Plans for pending pods. `watch`, `draft` and `run` are its loops."""

    def __init__(
        self,
        *,
        cluster: Cluster,
        offers: Offers,
        classes: Classes,
        claims: Claims,
        launcher: Launcher,
        follower: Follower,
        leader: Leader,
        nominated: Nominated,
        report: Reporter,
        measures: AllocatorMetrics,
        clock: Clock,
        batcher: Batcher,
        planner: Planner,
        options: Options,
        stopped: Callable[[], str | None],
        new_plan_id: Callable[[], str],
        nomination_s: float = NOMINATION_S,
    ) -> None:
        self._nomination_s = nomination_s
        self._cluster = cluster
        self._offers = offers
        self._classes = classes
        self._claims = claims
        self._launcher = launcher
        self._follower = follower
        self._leader = leader
        self._nominated = nominated
        self._report = report
        self._measures = measures
        self._clock = clock
        self._batcher = batcher
        self._planner = planner
        self._options = options
        self._stopped = stopped
        self._new_plan_id = new_plan_id
        self._considered: dict[str, tuple[float, object]] = {}
        self._telling = Telling(report)
        self._planned_epoch = 0
        self._batch_ended_at = 0.0
        self._drafts = Drafts()
        self._carrying_out = False
        self._quiet_from = 0.0
        self._filling = asyncio.Event()
        launcher.on_call(self._measure_call)

    # --- what waits ---------------------------------------------------------------------------------------------------
    async def watch(self) -> None:
        """Puts pods into the batch as they begin to wait, and again when it is time to look at them anew."""
        revision = -1
        while True:
            revision = await self._cluster.wait_changed(revision, self._next_look_s())
            began = self._clock.monotonic()
            if self._cluster.synced:
                self.offer(pending(self._cluster.snapshot(), self._clock.now()))
            took_s = self._clock.monotonic() - began
            await self._clock.sleep(min(_MOST_LOOK_S, max(_LOOK_EVERY_S, _LOOK_SHARE * took_s)))

    def _next_look_s(self) -> float:
        if not self._cluster.synced:
            return 0.2
        landing = next_landing(self._cluster.snapshot(), self._clock.now())
        return 1.0 if landing is None else min(1.0, landing + 0.01)

    def offer(self, need: Pending) -> None:
        """Adds what was not looked at lately, or lately under other circumstances."""
        now, world = self._clock.monotonic(), self._world()
        waiting = {*need.pods, *(f"moving/{key}" for key in need.moving)}
        self._considered = {key: at for key, at in self._considered.items() if key in waiting}
        due = [
            key
            for key in waiting
            if (at := self._considered.get(key)) is None or at[0] <= now or at[1] != world
        ]
        before = self._batcher.pending
        self._batcher.add(due)
        if self._batcher.pending != before:
            self._quiet_from = now + QUIET_S
            self._filling.set()

    def _world(self) -> object:
        """What else a plan depends on, roughly: when it changes, refused pods are looked at again."""
        snapshot = self._cluster.snapshot()
        return (
            self._offers.revision,
            tuple(sorted((p.key, p.generation, p.deleting) for p in snapshot.pools.values())),
            tuple(sorted(self._classes.ready())),
        )

    def _consider(self, need: Pending, again_s: float) -> None:
        """Not to be offered again before `again_s` from now, all else being equal."""
        until = (self._clock.monotonic() + again_s, self._world())
        for key in (*need.pods, *(f"moving/{key}" for key in need.moving)):
            self._considered[key] = until

    # --- rounds -------------------------------------------------------------------------------------------------------
    async def run(self) -> None:
        """Plans batch after batch for ever."""
        while True:
            await self._batcher.next()
            self._batch_ended_at = self._clock.monotonic()
            epoch = await self._ready_to_plan()
            try:
                await self.round(epoch)
            except KubernetesError as error:
                log.warning("planning round failed", error=str(error))
                await self._clock.sleep(RETRY_S)

    async def draft(self) -> None:
        """Begins to plan an open batch when no pod has come for a while, for ever."""
        while True:
            await self._filling.wait()
            while (left := self._quiet_from - self._clock.monotonic()) > 0:
                await self._clock.sleep(left)
            self._filling.clear()
            await self._drafts.settled()  # for fewer pods; those that came since deserve one of their own
            idle = self._batcher.pending and not self._carrying_out
            if idle and self._leader.epoch is not None and self._unready() is None:
                inputs = self._inputs(self._cluster.snapshot(), self._clock.now())
                if inputs.need.all:
                    self._drafts.begin(inputs, self._make_plan)

    async def _ready_to_plan(self) -> int:
        """Waits until we are the planner and see a current cluster and a catalogue; returns the epoch."""
        started = said = self._clock.monotonic()
        while True:
            epoch = await self._leader.wait_held()
            reason = self._unready()
            if reason is None:
                return epoch
            now = self._clock.monotonic()
            if now - started > _SAY_UNSYNCED_S and now - said > REQUEUE_S:
                said = now
                log.warning("planning waits", reason=reason, waited_s=round(now - started))
            await self._clock.sleep(0.1)

    def _unready(self) -> str | None:
        if reason := self._stopped():
            return reason
        if not self._cluster.synced:
            return "the snapshot is not current"
        if not self._offers.ready:
            return "there is no catalogue yet"
        return None if self._classes.settled else "node classes are being looked up in the account"

    async def round(self, epoch: int) -> None:
        """One plan and what comes of it. Raises KubernetesError."""
        if epoch != self._planned_epoch:
            await self._see_all_claims()
            self._planned_epoch = epoch
        inputs = self._inputs(self._cluster.snapshot(), self._clock.now())
        snapshot, need = inputs.snapshot, inputs.need
        self._measures.queue.set(len(need.all))
        zones = zones_of(snapshot, inputs.catalogues.values())
        self._measures.pending_by_zone(effective_zones(snapshot, need.all, zones))
        if not need.all:
            return
        plan = await self._drafts.take(inputs) or await self._make_plan(inputs)
        kill_point("allocator.after-plan")
        if self._leader.epoch != epoch:
            log.warning("plan dropped because its epoch ended", epoch=epoch, pods=len(need.all))
            return
        self._consider(need, REQUEUE_S)
        self._carrying_out = True
        try:
            await self._carry_out(plan, snapshot, epoch)
        finally:
            self._carrying_out = False

    async def _see_all_claims(self) -> None:
        """Lays over the stream what the planner before us may have written last."""
        for claim in await self._claims.list():
            self._show(claim)

    def _inputs(self, snapshot: Snapshot, now: float) -> Inputs:
        return Inputs(snapshot, pending(snapshot, now), self.catalogues(snapshot))

    async def _make_plan(self, inputs: Inputs) -> Plan:
        need = inputs.need
        problem = Problem(
            snapshot=inputs.snapshot,
            pods=need.all,
            catalogues=inputs.catalogues,
            now=self._clock.now(),
            without_nodes=need.leaving,
        )
        large = 1.0 + len(need.all) / 1000.0
        search_s, deadline_s = self._options.search_s, self._options.deadline_s * large
        options = msgspec.structs.replace(
            self._options,
            deadline_s=min(MOST_PLAN_S, deadline_s),
            search_s=None if search_s is None else search_s * large,
        )
        started = self._clock.monotonic()
        plan = await asyncio.to_thread(self._planner, problem, options, self._clock.monotonic)
        took_s = self._clock.monotonic() - started
        self._measures.scheduling.observe(took_s)
        self._measures.unschedulable.set(len(plan.unschedulable))
        self._measures.ignored.set(sum(u.reason in _UNSUPPORTED for u in plan.unschedulable))
        if plan.cost.gap is not None:
            self._measures.plan_gap.set(plan.cost.gap)
        log.info(
            "planned a batch",
            pods=len(need.pods), moving=len(need.moving), nodes=len(plan.nodes),
            onto_existing=sum(len(p.pods) for p in plan.existing), refused=len(plan.unschedulable),
            price_per_hour=round(plan.cost.price_per_hour, 4), took_ms=round(took_s * 1000, 1), complete=plan.complete,
        )  # fmt: skip
        return plan

    def catalogues(self, snapshot: Snapshot) -> dict[str, Catalogue]:
        """By node class key, for the classes that can be launched."""
        wanted = {pool.node_class.key for pool in snapshot.pools.values()}
        ready = self._classes.ready()
        return {key: self._offers.catalogue_for(found) for key, found in ready.items() if key in wanted}

    # --- carrying out -------------------------------------------------------------------------------------------------
    async def _carry_out(self, plan: Plan, snapshot: Snapshot, epoch: int) -> None:
        plan_id = self._new_plan_id()
        names = claim_names(plan_id, plan.nodes)
        pairs = list(zip(names, plan.nodes, strict=True))
        self._launcher.expect(names)
        created = await asyncio.gather(
            *(self._create(node, snapshot, name, plan_id, epoch) for name, node in pairs)
        )
        failed = [node for (_, node), claim in zip(pairs, created, strict=True) if claim is None]
        for node in failed:
            for key in node.pods:
                self._considered[key] = (self._clock.monotonic() + RETRY_S, self._world())
        for waits in plan.unschedulable:
            if waits.reason is Reason.RESERVATION:
                for key in (waits.pod, f"moving/{waits.pod}"):
                    self._considered[key] = (self._clock.monotonic() + RETRY_S, self._world())
        await self._onto_existing(plan.existing, snapshot)
        made = [(node, claim) for (_, node), claim in zip(pairs, created, strict=True) if claim]
        await self._telling.tell(plan, snapshot, plan_id, made)

    async def _create(
        self, node: PlannedNode, snapshot: Snapshot, name: str, plan_id: str, epoch: int
    ) -> NodeClaim | None:
        """The claim for a planned node, created and on its way; None where it could not be created."""
        pool = snapshot.pools[node.pool]
        claim = claim_of(node, pool, name=name, plan_id=plan_id, group=GROUP, epoch=epoch)
        try:
            claim = await self._with_record(claim)
            if self._leader.epoch != epoch:
                self._launcher.expect_no_more(name)
                return None
            made = await self._claims.create(claim, pool)
        except (KubernetesError, CloudError, UserDataError) as error:
            log.warning("claim could not be created", claim=name, pool=pool.key, error=str(error))
            self._report.pool(pool, "NodeClaimNotCreated", str(error), warning=True)
            self._launcher.expect_no_more(name)
            return None
        self._show(made)
        self._measures.created.labels(pool.key, "provisioned").inc()
        self._follower.launch_now(made)
        return made

    async def _with_record(self, claim: NodeClaim) -> NodeClaim:
        """The claim with its launch decided already, which saves a write; without where it can't be decided yet."""
        prepared = await self._launcher.prepare(claim)
        if not isinstance(prepared, LaunchRecord):
            return claim
        annotations = {**claim.annotations, **record_annotations(prepared)}
        return msgspec.structs.replace(claim, annotations=annotations)

    def _show(self, claim: NodeClaim) -> None:
        self._cluster.overlay(Change(Kind.NODE_CLAIM, claim.name, claim, claim.resource_version))

    async def _onto_existing(self, placements: Sequence[Placement], snapshot: Snapshot) -> None:
        """Pods that go to nodes there are: promised to claims still starting, and the nodes left alone for a while."""
        nodes = [p.node for p in placements if p.node in snapshot.nodes]
        if nodes:
            try:
                await self._nominated.nominate(nodes, self._nomination_s)
            except StoreUnavailableError as error:
                log.warning("nodes are not nominated", nodes=len(nodes), error=str(error))
        starting = [
            (claim, p.pods) for p in placements if (claim := _starting_claim(snapshot, p.node)) is not None
        ]
        results = await asyncio.gather(
            *(self._promise(claim, pods) for claim, pods in starting), return_exceptions=True
        )
        for result in results:
            if isinstance(result, KubernetesError):
                log.warning("pods could not be promised to a claim", error=str(result))
            elif isinstance(result, BaseException):
                raise result

    async def _promise(self, claim: NodeClaim, pods: Sequence[PodKey]) -> None:
        planned = list(dict.fromkeys((*planned_pods_of(claim), *pods)))
        text = msgspec.json.encode(planned).decode()
        written = await self._claims.annotate(claim, {keys.PLANNED_PODS: text})
        if written is not None:
            self._show(written)

    def _measure_call(self, claim: NodeClaim) -> None:
        """How long after its batch ended a claim of this round is launched."""
        if keys.PLAN_ID in claim.annotations and self._batch_ended_at:
            since = self._clock.monotonic() - self._batch_ended_at
            if since < REQUEUE_S:
                self._measures.batch_to_launch.observe(since)


def _starting_claim(snapshot: Snapshot, place: str) -> NodeClaim | None:
    """The claim behind a place whose node is not initialized yet; None for a node the kube-scheduler can use now."""
    if place.startswith("nodeclaim/"):
        return snapshot.claims.get(place.removeprefix("nodeclaim/"))
    node = snapshot.nodes.get(place)
    return None if node is None or node.initialized else snapshot.claim_of(node)

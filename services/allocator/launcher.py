"""From a claim to an instance: the launch record, CreateFleet, and what its answer means for the claim.

Refuses to launch what is fenced (an older planner's claim written after a newer planner began) and what its node
class can't make. A refusal of capacity ends the claim at once, so that its pods are planned again without those
offerings; any other error leaves it with a condition and is tried again later, with the same client token where the
outcome is unknown. Before a claim is ended, what may have been launched for it is looked up, so that nothing leaks.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec

from nodeyard.adapters.ec2.user_data import UserDataError
from nodeyard.api import labels as keys
from nodeyard.api.node import LAUNCHED, Condition, NodeClaim
from nodeyard.cloudprovider.errors import CloudError, NotFound
from nodeyard.cloudprovider.model import Catalogue
from nodeyard.cloudprovider.refusals import Refusal
from nodeyard.provisioning.addresses import Addresses
from nodeyard.provisioning.batches import LAUNCH_BATCH, batch_of
from nodeyard.provisioning.claims import (
    DISRUPTION_GROUP,
    LAUNCH_RECORD,
    LaunchRecord,
    TemplateChoice,
    fence_lease,
    fenced,
    launch_record_of,
    planner_of,
    record_annotations,
)
from nodeyard.provisioning.launch_labels import placement_labels, resolved_labels
from nodeyard.provisioning.launches import (
    Launched,
    NothingToLaunch,
    NotReady,
    Refused,
    as_recorded,
    choose,
    group_of,
    little_choice,
    placed,
    with_efa,
)
from nodeyard.provisioning.lifecycle import with_condition
from nodeyard.provisioning.reserved_launches import by_reservation
from nodeyard.provisioning.unplanned import ORDER
from nodeyard.runtime.clock import Clock
from nodeyard.state.cluster import Change, Kind
from services.allocator.batches import Batches, Nothing
from services.allocator.classes import Classes
from services.allocator.metrics import AllocatorMetrics
from services.allocator.naming import Namer
from services.allocator.ports import Claims, Cluster, Epochs, Leader, Offers, Templates
from services.allocator.reporting import Reporter, log

_ATTEMPTS: Final = 3
"""Launch records made anew within one step: after a lost template or a mismatched token."""


class Launcher:
    """Launches, gives up and finalizes claims. Callers hold the claim's lease. Raises KubernetesError, CloudError,
    StoreUnavailableError; the claim then carries a condition and is tried again.
    """

    def __init__(
        self,
        *,
        cluster: Cluster,
        offers: Offers,
        claims: Claims,
        region: str,
        batches: Batches,
        namer: Namer,
        templates: Templates,
        classes: Classes,
        epochs: Epochs,
        leader: Leader,
        report: Reporter,
        measures: AllocatorMetrics,
        clock: Clock,
        tags: dict[str, str],
        addresses: Addresses,
    ) -> None:
        self._cluster = cluster
        self._offers = offers
        self._claims = claims
        self._region = region
        self._batches = batches
        self._namer = namer
        self._templates = templates
        self._classes = classes
        self._epochs = epochs
        self._leader = leader
        self._report = report
        self._measures = measures
        self._clock = clock
        self._tags = tags
        self._addresses = addresses
        batches.on_refusals(self._tell_refusals)

    def on_call(self, tell: Callable[[NodeClaim], None]) -> None:
        """`tell` is called for each claim right before its CreateFleet."""
        self._batches.on_call(tell)

    # --- deciding -----------------------------------------------------------------------------------------------------
    def expect(self, names: Iterable[str]) -> None:
        """Claims about to be created together: their launches wait for one another, and for nobody else."""
        self._batches.expect(names)

    def expect_no_more(self, name: str) -> None:
        """An expected claim will not come."""
        self._batches.expect_no_more(name)

    async def prepare(self, claim: NodeClaim, attempt: int = 0) -> LaunchRecord | NotReady | NothingToLaunch:
        """The launch record for a claim, created already or not. Raises CloudError, UserDataError."""
        found = self._classes.find(claim.node_class.key)
        if isinstance(found, NotReady):
            return found
        catalogue = self._offers.catalogue_for(found)
        pool = self._cluster.snapshot().pools.get(claim.pool)
        order = pool.capacity_type_order if pool is not None else ORDER
        chosen = choose(claim, found, catalogue, order=order, best_subnet=self._best_subnet)
        if isinstance(chosen, NotReady | NothingToLaunch):
            return chosen
        if advice := little_choice(claim, chosen, order):
            log.warning("launch has little choice", claim=claim.name, pool=claim.pool, advice=advice)
        self._addresses.hold(claim.name, chosen.addresses, self._clock.monotonic())
        choices = []
        found = placed(claim, found)
        boot = self._classes.boot(claim, found, chosen.capacity_type)
        for image, overrides in chosen.groups:
            for made_by, rows in with_efa(claim, found, catalogue, overrides):
                for into, places in by_reservation(rows, chosen.reservations):
                    template = await self._templates.ensure(made_by, image, boot, into)
                    choices.append(TemplateChoice(template, image.id, places))
        tags = {**found.tags, **self._tags, keys.NODEPOOL_TAG: claim.pool}
        return LaunchRecord(
            chosen.capacity_type, tuple(choices), tags, attempt, chosen.prices,
            class_hash=found.hash, security_groups=tuple(sorted(g.id for g in found.security_groups)),
            context=found.context, reservations=chosen.reservations, prioritized=chosen.prioritized,
            placement_group=group_of(found),
        )  # fmt: skip

    def _best_subnet(self, among: Sequence[str]) -> str | None:
        return self._addresses.best(among, self._clock.monotonic())

    async def is_fenced(self, claim: NodeClaim) -> bool:
        """Whether a newer planner had begun when the claim was written. Raises StoreUnavailableError."""
        planner = planner_of(claim)
        if planner is None:
            return False
        group, written_in = planner
        if group != DISRUPTION_GROUP and written_in == self._leader.epoch:
            return False
        epoch, began_at = await self._epochs.began(fence_lease(group))
        return fenced(claim, epoch, began_at)

    # --- launching ----------------------------------------------------------------------------------------------------
    async def launch(self, claim: NodeClaim) -> None:
        """One try at launching the claim, which exists and has no instance yet."""
        if await self.is_fenced(claim):
            await self.end(claim, "Fenced", "a newer planner had begun when this claim was written")
            return
        if keys.TERMINATION_FINALIZER not in claim.finalizers:
            with_finalizer = await self._claims.add_finalizer(claim)
            if with_finalizer is None:
                return
            claim = self._shown(with_finalizer)
        try:
            await self._launch(claim)
        except (CloudError, UserDataError) as error:
            await self._unknown(claim, type(error).__name__, str(error))
            raise

    async def _launch(self, claim: NodeClaim) -> None:
        for _ in range(_ATTEMPTS):
            recorded = await self._recorded(claim)
            if recorded is None:
                return
            claim, record = recorded
            outcome = await self._batches.launch(claim, record)
            claim = self._cluster.snapshot().claims.get(claim.name, claim)
            if not isinstance(outcome, Nothing):
                await self._answered(claim, record, outcome)
                return
            if isinstance(outcome.cause, NotFound):
                self._templates.forget([choice.template for choice in record.choices])
                self._classes.forget(claim.node_class.key)
            elif outcome.cause is not None:
                raise outcome.cause
        await self._unknown(claim, "LaunchFailed", "launch templates or tokens were refused repeatedly")

    async def _recorded(self, claim: NodeClaim) -> tuple[NodeClaim, LaunchRecord] | None:
        """The claim and the launch record that stands on it: the one there, or, first or after an attempt that made
        nothing, a new one; the first writer's wins. None where the claim has been dealt with instead.
        """
        old = launch_record_of(claim)
        if old is not None and (old.attempt == 0 or batch_of(claim) is not None):
            return claim, old
        prepared = await self.prepare(claim, old.attempt if old is not None else 0)
        if isinstance(prepared, NotReady):
            if prepared.reason == Classes.RESOLVING:
                await self._unknown(claim, prepared.reason, prepared.message)
            else:
                await self.end(claim, "NodeClassNotReady", prepared.message)
            return None
        if isinstance(prepared, NothingToLaunch):
            await self._offers.report_refusals(prepared.refusals)
            await self.end(claim, "InsufficientCapacity", prepared.message)
            return None
        annotations = record_annotations(prepared)
        unless = LAUNCH_BATCH if old is not None else LAUNCH_RECORD
        written = await self._claims.annotate(claim, annotations, unless=unless)
        if written is None:
            return None
        record = launch_record_of(written)
        return None if record is None else (self._shown(written), record)

    async def _answered(self, claim: NodeClaim, record: LaunchRecord, answer: Launched | Refused) -> None:
        if isinstance(answer, Launched):
            await self._launched(claim, answer, record)
        else:
            self._report.claim(claim, "InsufficientCapacityError", answer.message, warning=True)
            await self.end(claim, "InsufficientCapacity", answer.message, looked_up=True)

    async def _tell_refusals(self, refusals: tuple[Refusal, ...]) -> None:
        for refusal in refusals:
            self._measures.insufficient.labels(refusal.capacity_type, refusal.zone).inc()
            if refusal.subnet:
                self._addresses.full(refusal.subnet, self._clock.monotonic())
        if not await self._offers.report_refusals(refusals):
            log.warning("refusals are remembered here only", count=len(refusals))

    async def _launched(self, claim: NodeClaim, made: Launched, record: LaunchRecord | None) -> None:
        """Writes what was launched: labels first, so that whoever sees the provider id sees them too."""
        made = as_recorded(made, record)
        self._addresses.settle(claim.name, made.subnet_id, self._clock.monotonic())
        found = self._classes.find(claim.node_class.key)
        catalogue = Catalogue(()) if isinstance(found, NotReady) else self._offers.catalogue_for(found)
        kind = catalogue.by_name.get(made.instance_type)
        labels = resolved_labels(made, kind, self._region)
        if not isinstance(found, NotReady):
            labels |= placement_labels(placed(claim, found).placement)
        missing: dict[str, str | None] = {k: v for k, v in labels.items() if k not in claim.labels}
        labelled = await self._claims.annotate(claim, labels=missing)
        if labelled is None:
            log.warning("claim vanished after its launch", claim=claim.name, instance=made.instance_id)
            return

        def change(now: NodeClaim) -> NodeClaim:
            filled = msgspec.structs.replace(
                now,
                provider_id=made.provider_id,
                image_id=made.image_id,
                capacity=kind.capacity if kind is not None else now.capacity,
                allocatable=kind.allocatable if kind is not None else now.allocatable,
            )
            condition = Condition(LAUNCHED, "True", LAUNCHED)
            return msgspec.structs.replace(
                filled, conditions=with_condition(filled, condition, self._clock.now())
            )

        written = await self._claims.patch_status(labelled, change)
        if written is None:
            log.warning("claim vanished after its launch", claim=claim.name, instance=made.instance_id)
            return
        self._shown(written)
        self._namer.add(written, made.instance_id, record)
        await self._tell_launched(written, made, record)

    async def _tell_launched(self, claim: NodeClaim, made: Launched, record: LaunchRecord | None) -> None:
        price = record.prices.get(f"{made.instance_type}/{made.zone}", 0.0) if record is not None else 0.0
        self._measures.launched.labels(claim.pool, made.capacity_type, made.instance_type).inc()
        facts: dict[str, str | int | float | bool] = {
            "instance": made.instance_id, "instanceType": made.instance_type, "zone": made.zone,
            "capacityType": made.capacity_type, "pricePerHour": price, "pool": claim.pool,
        }  # fmt: skip
        log.info("launched an instance", claim=claim.name, **facts)
        text = f"{made.capacity_type} {made.instance_type} in {made.zone}"
        await self._report.decided("launched", f"nodeclaim/{claim.name}", "Launched", text, facts)

    async def _unknown(self, claim: NodeClaim, reason: str, message: str) -> None:
        condition = Condition(LAUNCHED, "Unknown", reason, message)
        written = await self._claims.set_conditions(claim, [condition], self._clock.now())
        if written is not None:
            self._shown(written)

    # --- ending -------------------------------------------------------------------------------------------------------
    async def give_up(self, claim: NodeClaim) -> None:
        """The launch took too long: what may have been made is adopted, else the claim ends."""
        launched = claim.condition(LAUNCHED)
        said = (
            f"{launched.reason}: {launched.message}"
            if launched is not None and launched.message
            else "no answer"
        )
        if not await self._adopted(claim):
            await self.end(claim, "LaunchTimeout", f"not launched in time; last: {said}", looked_up=True)

    async def _adopted(self, claim: NodeClaim) -> bool:
        """Whether an instance was found for the claim; it is then written as launched. Raises CloudError while EC2
        may still be about to show one.
        """
        made = await self._batches.look_up(claim)
        if made is None:
            return False
        log.warning(
            "found the instance of a launch without answer", claim=claim.name, instance=made.instance_id
        )
        await self._launched(claim, made, launch_record_of(claim))
        return True

    async def end(self, claim: NodeClaim, reason: str, message: str, *, looked_up: bool = False) -> None:
        """Deletes a claim that has no instance. `looked_up`: it is certain that it has none."""
        if not looked_up and await self._adopted(claim):
            return
        log.info(
            "claim ends without a node", claim=claim.name, pool=claim.pool, reason=reason, message=message
        )
        self._measures.given_up.labels(claim.pool, reason).inc()
        await self._report.decided(
            "refused", f"nodeclaim/{claim.name}", reason, message, {"pool": claim.pool}
        )
        if await self._claims.delete(claim.name, claim.uid):
            self._shown(msgspec.structs.replace(claim, deleted_at=self._clock.now()))
        await self._let_go(claim)

    async def unregistered(self, claim: NodeClaim) -> None:
        """Its node never joined: the claim is deleted, and the reallocator ends the instance."""
        message = "no node with its provider id joined in time"
        log.warning("node never joined", claim=claim.name, pool=claim.pool, provider_id=claim.provider_id)
        self._measures.given_up.labels(claim.pool, "RegistrationTimeout").inc()
        self._report.claim(claim, "RegistrationTimeout", message, warning=True)
        await self._report.decided(
            "refused", f"nodeclaim/{claim.name}", "RegistrationTimeout", message, {"pool": claim.pool}
        )
        if await self._claims.delete(claim.name, claim.uid):
            self._shown(msgspec.structs.replace(claim, deleted_at=self._clock.now()))

    async def finalize(self, claim: NodeClaim) -> None:
        """Lets a deleted claim go that was never launched; one with an instance after all becomes launched, and the
        reallocator ends both.
        """
        if not await self._adopted(claim):
            await self._let_go(claim)

    async def _let_go(self, claim: NodeClaim) -> None:
        self._addresses.settle(claim.name, "", self._clock.monotonic())
        await self._claims.remove_finalizer(claim)
        self._cluster.overlay(Change(Kind.NODE_CLAIM, claim.name, None))

    def _shown(self, claim: NodeClaim) -> NodeClaim:
        self._cluster.overlay(Change(Kind.NODE_CLAIM, claim.name, claim, claim.resource_version))
        return claim

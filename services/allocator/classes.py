"""Node classes kept resolved, their status written, their launch templates and catalogues made ahead of need.

Every replica resolves for itself, so that each can launch; the status is written by whoever sees that it differs.
Refuses to launch by a class that is not ready, with the reason; looks at none, and writes nothing about any, while
`stopped` gives a reason. Neighbours: `adapters/ec2/node_class` (what the
account has), `launcher` (who asks).
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from nodeyard.adapters.ec2.user_data import UserDataError, kubelet_labels
from nodeyard.adapters.kubernetes.errors import KubernetesError
from nodeyard.adapters.kubernetes.pool_status import CLASS_FINALIZER
from nodeyard.api import labels as keys
from nodeyard.api.node import Condition, NodeClaim
from nodeyard.api.nodeclass import Image, NodeClass
from nodeyard.api.pool import Pool
from nodeyard.cloudprovider.boot import Boot
from nodeyard.cloudprovider.errors import CloudError
from nodeyard.cloudprovider.reservations import found_of
from nodeyard.provisioning.claims import claim_of, launch_record_of, requirements_allow
from nodeyard.provisioning.launch_labels import boot_labels
from nodeyard.provisioning.launches import NotReady, missing_in, placed
from nodeyard.provisioning.lifecycle import UNREGISTERED
from nodeyard.provisioning.model import PlannedNode
from nodeyard.runtime.clock import Clock
from nodeyard.state.cluster import Snapshot
from services.allocator.ports import ClassResolver, Cluster, Offers, Statuses, Templates
from services.allocator.reporting import Reporter, log

RESERVATIONS_READY: Final = "CapacityReservationsReady"
_PERIOD_S: Final = 10.0
_PRUNE_S: Final = 600.0
_SAY_WAITING_S: Final = 600.0


class Classes:
    """The node classes as this replica can launch them. `run` keeps them current."""

    RESOLVING: Final = "Resolving"

    def __init__(
        self,
        *,
        cluster: Cluster,
        offers: Offers,
        resolver: ClassResolver,
        templates: Templates,
        statuses: Statuses,
        clock: Clock,
        boot: Boot,
        report: Reporter,
        stopped: Callable[[], str | None],
    ) -> None:
        """`boot`: what all nodes of the cluster share; labels, taints and kubelet settings are filled in per launch.
        `stopped`: why nothing may be done now, None normally.
        """
        self._cluster = cluster
        self._offers = offers
        self._resolver = resolver
        self._templates = templates
        self._statuses = statuses
        self._clock = clock
        self._boot = boot
        self._report = report
        self._stopped = stopped
        self._ahead: dict[str, set[str]] = {}
        self._prune_at = clock.monotonic() + _PRUNE_S
        self._said: dict[str, float] = {}
        self._found: dict[str, NodeClass] = {}
        self._wanted: dict[str, NodeClass] = {}
        self._wake = asyncio.Event()

    # --- asked by others ----------------------------------------------------------------------------------------------
    def find(self, key: str) -> NodeClass | NotReady:
        """The class, resolved; or why it can't be launched by now."""
        found = self._found.get(key)
        if found is None:
            if key in self._cluster.snapshot().node_classes:
                return NotReady(self.RESOLVING, f"node class {key} is being looked up in the account")
            return NotReady("NodeClassNotFound", f"node class {key} does not exist")
        return missing_in(found) or found

    def ready(self) -> dict[str, NodeClass]:
        """The classes that can be launched by now, by key."""
        return {key: found for key, found in self._found.items() if missing_in(found) is None}

    @property
    def settled(self) -> bool:
        """Whether every class was looked up, so that pods are not refused only because we have just started."""
        return self._cluster.snapshot().node_classes.keys() <= self._found.keys()

    def boot(self, claim: NodeClaim, node_class: NodeClass, capacity_type: str) -> Boot:
        """What the claim's instance is told at boot."""
        return msgspec.structs.replace(
            self._boot,
            labels=kubelet_labels(boot_labels(claim, capacity_type)),
            taints=(*claim.taints, *claim.startup_taints, UNREGISTERED),
            kubelet=node_class.kubelet,
            instance_store_raid0=node_class.instance_store_policy == "RAID0",
        )

    def forget(self, key: str) -> None:
        """Something that the class named turned out to be gone: look again at once."""
        self._resolver.forget(key)
        self._wake.set()

    # --- kept current -------------------------------------------------------------------------------------------------
    async def run(self) -> None:
        """Resolves for ever: at once when a class changes, and every ten seconds as far as memories ran out."""
        watching = asyncio.create_task(self._watch(), name="classes-watch")
        try:
            while True:
                self._wake.clear()  # before looking, so that what changes meanwhile is looked at again
                if self._cluster.synced and self._stopped() is None:
                    await self.refresh()
                try:
                    async with asyncio.timeout(_PERIOD_S if self._cluster.synced else 0.2):
                        await self._wake.wait()
                except TimeoutError:
                    continue
        finally:
            watching.cancel()

    async def _watch(self) -> None:
        """Wakes the loop when a class's spec, a pool or the catalogue changed, or when it may look again."""
        seen: object = None
        revision = -1
        while True:
            revision = await self._cluster.wait_changed(revision, 1.0)
            if self._cluster.synced and (now := self._inputs()) != seen:
                seen = now
                self._wake.set()
            await self._clock.sleep(0.05)

    def _inputs(self) -> object:
        snapshot = self._cluster.snapshot()
        return (
            {key: (c.uid, c.generation, c.deleting) for key, c in snapshot.node_classes.items()},
            {key: (p.uid, p.generation, p.deleting) for key, p in snapshot.pools.items()},
            self._offers.revision,
            self._stopped() is None,
        )

    async def refresh(self) -> None:
        """One pass over all classes."""
        snapshot = self._cluster.snapshot()
        for key in set(self._found) - set(snapshot.node_classes):
            del self._found[key]
            self._ahead.pop(key, None)
        for key, wanted in snapshot.node_classes.items():
            try:
                await self._refresh_one(key, wanted, snapshot)
            except (CloudError, KubernetesError, UserDataError) as error:
                log.warning("node class can't be kept current", node_class=key, error=str(error))
        if self._clock.monotonic() >= self._prune_at:
            self._prune_at = self._clock.monotonic() + _PRUNE_S
            await self._prune(snapshot)

    async def _prune(self, snapshot: Snapshot) -> None:
        """Removes launch templates that neither a pool nor an unlaunched claim needs."""
        records = [launch_record_of(claim) for claim in snapshot.claims.values() if not claim.provider_id]
        keep = {choice.template for record in records if record is not None for choice in record.choices}
        try:
            gone = await self._templates.prune(
                keep.union(*self._ahead.values()), self._ahead.keys(), self._clock.now()
            )
        except CloudError as error:
            log.warning("unused launch templates could not be removed", error=str(error))
        else:
            if gone:
                log.info("removed unused launch templates", count=gone)

    async def _refresh_one(self, key: str, wanted: NodeClass, snapshot: Snapshot) -> None:
        if wanted.deleting:
            self._found[key] = wanted
            await self._release(wanted, snapshot)
            return
        before = self._wanted.get(key)
        changed = before is None or (before.uid, before.generation) != (wanted.uid, wanted.generation)
        if changed and before is not None:
            self._resolver.forget(key)
        if changed and wanted.capacity_reservation_terms:
            await self._offers.count_reservations()  # what it selects may be younger than the last count
        self._wanted[key] = wanted
        found = await self._resolver.resolve(wanted)
        reserved = self._offers.reservations_for(found)
        if reserved is not None:
            found = msgspec.structs.replace(found, capacity_reservations=found_of(reserved))
        found = self._with_reservations_condition(wanted, found, known=reserved is not None)
        self._found[key] = found
        if wanted.key == key and "/" not in key and CLASS_FINALIZER not in wanted.finalizers:
            await self._statuses.hold_class(wanted)
        if missing_in(found) is None:
            await asyncio.to_thread(self._offers.catalogue_for, found)
            await self._templates_ahead(found, snapshot)
        if _status_of(found) != _status_of(wanted):
            await self._statuses.write_class(found)

    def _with_reservations_condition(self, wanted: NodeClass, found: NodeClass, *, known: bool) -> NodeClass:
        """The class that selects reservations with the condition that says whether there are any. `Ready` does not wait for
        it: what is not reserved can be bought all the same.
        """
        if not found.capacity_reservation_terms:
            return found
        status, reason, message = "True", RESERVATIONS_READY, ""
        if not known:
            status, reason, message = "Unknown", "CapacityReservationsNotCounted", "they are not counted yet"
        elif not found.capacity_reservations:
            status, reason = "False", "CapacityReservationsNotFound"
            message = "no capacity reservation matches spec.capacityReservationSelectorTerms"
        before = next((c for c in wanted.conditions if c.type == RESERVATIONS_READY), None)
        since = before.since if before is not None and before.status == status else self._clock.now()
        condition = Condition(
            RESERVATIONS_READY, status, reason, message, since, observed_generation=found.generation
        )
        others = (c for c in found.conditions if c.type != RESERVATIONS_READY)
        return msgspec.structs.replace(
            found, conditions=tuple(sorted((*others, condition), key=lambda c: c.type))
        )

    async def _templates_ahead(self, found: NodeClass, snapshot: Snapshot) -> None:
        """The templates that the class's pools will most likely need."""
        ahead = set()
        for pool in snapshot.pools.values():
            if pool.node_class.key == found.key and not pool.deleting and not pool.problems:
                claim = _sample(pool)
                for capacity_type in _capacity_types(pool):
                    for image in found.images:
                        if _serves(image, pool):
                            boot = self.boot(claim, found, capacity_type)
                            ahead.add(await self._templates.ensure(placed(claim, found), image, boot))
        self._ahead[found.key] = ahead

    async def _release(self, node_class: NodeClass, snapshot: Snapshot) -> None:
        """A deleted class goes once no claim needs it any more, and its templates with it."""
        if CLASS_FINALIZER not in node_class.finalizers:
            return
        users = sorted(c.name for c in snapshot.claims.values() if c.node_class.key == node_class.key)
        if users:
            if self._clock.monotonic() >= self._said.get(node_class.key, 0.0):
                self._said[node_class.key] = self._clock.monotonic() + _SAY_WAITING_S
                message = f"waits for {len(users)} NodeClaims, {users[0]} among them, to go"
                self._report.node_class(node_class, "WaitingOnNodeClaimTermination", message, warning=True)
                log.info("node class waits for its claims", node_class=node_class.key, claims=len(users))
            return
        await self._templates.delete_of(node_class.key)
        await self._resolver.delete_profile(node_class)
        await self._statuses.release_class(node_class)


def _sample(pool: Pool) -> NodeClaim:
    """A claim like those that the pool's plans bring, as far as launch templates go."""
    node = PlannedNode(
        name="", pool=pool.key, instance_type="", zone="", capacity_type="", price_per_hour=0.0, pods=()
    )
    return claim_of(node, pool, name="", plan_id="", group="", epoch=None)


def _capacity_types(pool: Pool) -> Iterable[str]:
    allowed = [r for r in pool.requirements if r.key == keys.CAPACITY_TYPE]
    return [c for c in (keys.SPOT, keys.ON_DEMAND) if requirements_allow(allowed, {keys.CAPACITY_TYPE: (c,)})]


def _serves(image: Image, pool: Pool) -> bool:
    """Whether the pool allows the image's architecture."""
    arches = [value for r in image.requirements if r.key == keys.ARCH for value in r.values]
    allowed = [r for r in pool.requirements if r.key == keys.ARCH]
    return not arches or requirements_allow(allowed, {keys.ARCH: arches})


def _status_of(node_class: NodeClass) -> object:
    return (
        frozenset(node_class.subnets),
        frozenset(node_class.security_groups),
        node_class.images,
        node_class.capacity_reservations,
        node_class.resolved_profile,
        node_class.placement_group,
        tuple(sorted((c.type, c.status, c.reason, c.message) for c in node_class.conditions)),
    )

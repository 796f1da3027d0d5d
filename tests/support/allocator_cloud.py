"""A cloud for the allocator's tests: one instance per client token; it can refuse, fail, or do the work and lose the answer."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import msgspec

from nodeyard.api import labels as keys
from nodeyard.api.nodeclass import Image, NodeClass, SecurityGroup, Subnet
from nodeyard.api.selectors import Requirement
from nodeyard.cloudprovider.boot import Boot
from nodeyard.cloudprovider.errors import CloudError
from nodeyard.cloudprovider.market import RESERVATIONS
from nodeyard.cloudprovider.model import Catalogue
from nodeyard.cloudprovider.refusals import Refusal, RefusalMemory
from nodeyard.cloudprovider.reservations import CapacityReservation, selected
from nodeyard.cloudprovider.resolve import resolve
from nodeyard.provisioning.batches import Answer, Batch, Found, merge_key
from nodeyard.provisioning.claims import LaunchRecord, ReservationRef
from nodeyard.provisioning.launches import Launched
from tests.support.catalogue import ZONES, small_market
from tests.support.clock import FakeClock


class Cloud:
    """EC2 and pricing. `full`: (type, zone) that can't be had; `left`: how many more instances of a type can.
    `failures`: what the next calls raise; one with `may_have_taken_effect` is raised after the instances were made.
    New instances are described `lag_s` after they were made.
    """

    region = "eu-west-1"
    ready = True

    def __init__(self, clock: FakeClock) -> None:
        self.instances: dict[str, Launched] = {}
        """By id."""
        self.claims: dict[str, str] = {}
        """Instance id -> UID of the claim it is tagged for."""
        self.calls: list[tuple[tuple[str, ...], LaunchRecord]] = []
        """Each with the names of the batch's claims."""
        self.full: set[tuple[str, str]] = set()
        self.left: dict[str, int] = {}
        self.partitions: dict[str, int] = {}
        """Instance id -> partition of its placement group, as far as EC2 shows it."""
        self.failures: list[Exception] = []
        self.answer_errors: list[CloudError] = []
        self.lag_s = 0.0
        self.refused: list[Refusal] = []
        self.reserved: tuple[CapacityReservation, ...] | None = ()
        """None: never counted. As last counted at `counted_at`; `places` are what there really is."""
        self.uncounted: tuple[CapacityReservation, ...] | None = None
        """What the next count finds, where it is another."""
        self.places: dict[str, int] = {}
        self.market = small_market()
        """What is for sale, reservations aside."""
        self.counted_at = 0.0
        self._same: dict[tuple[str, str], Catalogue] = {}
        """The same content is the same object, as with the real feed."""
        self._memory = RefusalMemory()
        self._clock = clock
        self._answers: dict[str, tuple[LaunchRecord, Batch, Answer]] = {}
        self._made_at: dict[str, float] = {}
        self._numbers = itertools.count(1)

    def stamp(self, record: LaunchRecord, members: tuple[tuple[str, str], ...]) -> str:
        return hashlib.blake2b(repr((merge_key(record), members)).encode(), digest_size=8).hexdigest()

    async def launch(self, record: LaunchRecord, batch: Batch) -> Answer:
        self.calls.append((tuple(name for name, _ in batch.members), record))
        await asyncio.sleep(0)
        error = self.failures.pop(0) if self.failures else None
        if error is not None and not getattr(error, "may_have_taken_effect", False):
            raise error
        known = self._answers.get(batch.id)
        if known is None:
            known = self._answers[batch.id] = (record, batch, self._make(record, batch))
        assert (merge_key(known[0]), known[1]) == (merge_key(record), batch), "one token, two requests"
        if error is not None:
            raise error
        return known[2]

    def _make(self, record: LaunchRecord, batch: Batch) -> Answer:
        if self.answer_errors:
            return Answer(error=self.answer_errors.pop(0))
        rows = [row for choice in record.choices for row in choice.overrides]
        made: list[Launched] = []
        for row in rows:
            room = 0 if (row[0], row[1]) in self.full else self.left.get(row[0], 10_000)
            into = record.reservations.get(f"{row[0]}/{row[1]}")
            if into is not None:
                room = self.places.get(into.id, 0)
            count = min(room, len(batch.members) - len(made))
            if into is not None:
                self.places[into.id] = room - count
                if count < len(batch.members):
                    full = (
                        Refusal(*row[:2], keys.RESERVED, "ReservationCapacityExceeded", reservation=into.id),
                    )
                    return Answer(tuple(made), full, "the reservation is full")
            if row[0] in self.left:
                self.left[row[0]] -= count
            for _ in range(count):
                one = Launched(f"i-{next(self._numbers):017x}", row[0], row[1], record.capacity_type, "ami-1")
                made.append(one)
                self.instances[one.instance_id] = one
                self._made_at[one.instance_id] = self._clock.monotonic()
                if len(batch.members) == 1:
                    self.claims[one.instance_id] = batch.members[0][1]
        short = len(made) < len(batch.members)
        refusals = tuple(
            Refusal(r[0], r[1], record.capacity_type, "InsufficientInstanceCapacity") for r in rows if short
        )
        return Answer(tuple(made), refusals, "no capacity" if short else "")

    def _shown(self) -> set[str]:
        now = self._clock.monotonic()
        return {i for i, at in self._made_at.items() if now >= at + self.lag_s}

    async def find(self, batch: Batch) -> list[Found]:
        _, _, answer = self._answers.get(batch.id, (None, None, Answer()))
        shown = self._shown()
        return [
            Found(made, self.claims.get(made.instance_id, ""), made.instance_id in self.instances)
            for made in answer.made
            if made.instance_id in shown
        ]

    async def partition_of(self, instance_id: str) -> int | None:
        return self.partitions.get(instance_id)

    async def unnamed(self) -> dict[str, str]:
        shown = self._shown()
        return {
            made.instance_id: batch.id
            for _, batch, answer in self._answers.values()
            for made in answer.made
            if made.instance_id in shown and made.instance_id not in self.claims
        }

    async def name(self, instance_id: str, claim: str, uid: str, *, named: bool) -> None:
        self.claims[instance_id] = uid

    @property
    def revision(self) -> str:
        return str(len(self.refused))

    def catalogue_for(self, node_class: NodeClass) -> Catalogue:
        market = self.market
        if self.reserved:
            counted = {RESERVATIONS: self.counted_at}
            market = market.with_rows({}, (), {**market.asked_at, **counted}, reservations=self.reserved)
        made = resolve(market, node_class, now=0.0, shut=self._memory.shut())
        return self._same.setdefault((node_class.key, made.revision), made)

    def reservations_for(self, node_class: NodeClass) -> tuple[CapacityReservation, ...] | None:
        return None if self.reserved is None else selected(node_class, self.reserved)

    async def count_reservations(self) -> bool:
        if self.uncounted is not None:
            self.reserved, self.uncounted = self.uncounted, None
            self.counted_at = self._clock.now()
        return True

    async def wait_changed(self, after_revision: str, timeout_s: float) -> str:
        return self.revision

    async def report_refusals(self, refusals: Sequence[Refusal]) -> bool:
        self.refused += refusals
        for refusal in refusals:
            self._memory.remember([refusal], self._clock.now() + refusal.ttl_s)
        return True


class Account:
    """Templates and what node classes resolve to."""

    def __init__(self) -> None:
        self.templates: dict[str, Boot] = {}
        self.forgotten: list[str] = []

    async def ensure(
        self, node_class: NodeClass, image: Image, boot: Boot, into: ReservationRef | None = None
    ) -> str:
        name = f"t-{image.id}-{hash((tuple(sorted(boot.labels.items())), boot.taints, into)) & 0xFFFF:x}"
        self.templates[name] = boot
        return name

    def forget(self, names: Any) -> None:
        self.forgotten += list(names) if not isinstance(names, str) else [names]

    async def delete_of(self, node_class_key: str) -> int:
        return 0

    async def prune(self, keep: AbstractSet[str], classes: AbstractSet[str], now: float) -> int:
        gone = set(self.templates) - keep
        for name in gone:
            del self.templates[name]
        return len(gone)

    async def delete_profile(self, node_class: NodeClass) -> None:
        return None

    async def resolve(self, node_class: NodeClass) -> NodeClass:
        return msgspec.structs.replace(
            node_class,
            subnets=tuple(Subnet(f"subnet-{z.name}", z.name, z.id) for z in ZONES),
            security_groups=(SecurityGroup("sg-1"),),
            images=(Image("ami-1", "", (Requirement(keys.ARCH, "In", ("amd64",)),)),),
            resolved_profile="nodes",
        )

"""Who may decide: a lease with a growing epoch, held by one process at a time.

The lease lives in a `LeaseStore` (Redis), its epochs also in an `EpochStore` (a Kubernetes Lease), which is written
before the lease counts as held, so that a store that lost its memory cannot turn epochs back. `epoch` is what callers
ask right before they act: it is None from the moment that this process's own clock says that the last renewal is too
old, whether or not anybody could be asked since.

Two holders at once are kept out even when the store forgets everything: a holder trusts a renewal for only 60 % of
the lease's time, and whoever gets a lease from a store that does not remember the last epoch (or is another server
than the one that gave it) first waits longer than that, unless the last epoch was its own.
"""

import asyncio
from typing import Final, Protocol

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge

from nodeyard.runtime.clock import Clock
from nodeyard.runtime.logging import get_logger

log = get_logger("nodeyard.runtime.leadership")

TRUST: Final = 0.6
"""Share of the lease's time for which a renewal is trusted, counted from before it was asked for."""
SETTLE: Final = 0.68
"""Share of the lease's time that a forgetful store's new holder waits: TRUST and a margin for clocks' rates."""
RETRY: Final = 0.1
"""Share of the lease's time between attempts while there is no lease or the store is away."""
_RENEW: Final = 1 / 3


class StoreUnavailableError(Exception):
    """A lease or epoch store can't be reached or gave no usable answer."""


class Grant(msgspec.Struct, frozen=True):
    """A lease just given. `settled` is False where the store does not know what it gave out before."""

    epoch: int
    settled: bool


class LeaseStore(Protocol):
    """Expiring leases. Every method raises StoreUnavailableError."""

    async def grant(self, name: str, holder: str, ttl_s: float, floor: int) -> Grant | None:
        """The lease, with an epoch above `floor` and above all before; None while another holds it."""
        ...

    async def renew(self, name: str, holder: str, epoch: int, ttl_s: float) -> bool:
        """Whether the lease was still this holder's and now lasts `ttl_s` seconds more."""
        ...

    async def release(self, name: str, holder: str, epoch: int) -> None:
        """Gives the lease back if it is still this holder's."""
        ...


class EpochStore(Protocol):
    """Where the last epoch survives the lease store. Every method raises StoreUnavailableError."""

    async def read(self, name: str) -> int:
        """The last epoch that anybody began; 0 for none."""
        ...

    async def advance(self, name: str, epoch: int, *, holder: str = "") -> bool:
        """Writes a larger epoch; False when it is not larger or somebody else wrote meanwhile."""
        ...


class LeadershipMetrics:
    """`nodeyard_leader`: 1 while this process holds the lease."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.leader = Gauge(
            "nodeyard_leader", "1 while the lease is held here.", ["lease"], registry=registry
        )
        self.epoch = Gauge("nodeyard_leader_epoch", "The last epoch held here.", ["lease"], registry=registry)
        self.failures = Counter(
            "nodeyard_leader_store_failures_total", "Times a lease or epoch store failed us.", ["lease"],
            registry=registry,
        )  # fmt: skip


class Leadership:
    """Competes for one lease for as long as `run` runs. `holder` must be unique to this process."""

    def __init__(
        self,
        store: LeaseStore,
        epochs: EpochStore,
        name: str,
        holder: str,
        ttl_s: float,
        clock: Clock,
        measures: LeadershipMetrics | None = None,
    ) -> None:
        self.name = name
        self.holder = holder
        self.problem: str | None = "not asked yet"
        """Why the lease can't even be competed for, for readiness; None while the stores answer."""
        self._store = store
        self._epochs = epochs
        self._ttl_s = ttl_s
        self._clock = clock
        self._measures = measures
        self._epoch = 0
        self._own_last = 0
        self._floor: int | None = None
        self._held_from = 0.0
        self._trusted_until = -1.0
        self._granted = False
        self._held = asyncio.Event()

    @property
    def epoch(self) -> int | None:
        """The epoch held here and surely now; else None. Ask right before each write."""
        now = self._clock.monotonic()
        return self._epoch if self._granted and self._held_from <= now < self._trusted_until else None

    async def wait_held(self) -> int:
        """Waits until the lease is held here; returns its epoch."""
        while (epoch := self.epoch) is None:
            self._held.clear()
            await self._held.wait()
        return epoch

    async def run(self) -> None:
        """Competes for the lease, keeps it, and gives it back when cancelled."""
        try:
            while True:
                await self._clock.sleep(await self.step())
        finally:
            await self.resign()

    async def step(self) -> float:
        """One attempt to get or keep the lease; returns how many seconds later the next is due."""
        try:
            wait_s = await (self._keep() if self._granted else self._get())
            if self.problem is not None:
                log.info("lease can be competed for", lease=self.name)
            self.problem = None
        except StoreUnavailableError as error:
            if self.problem is None:
                log.warning("lease store is away", lease=self.name, error=str(error))
            self.problem = f"lease {self.name}: {error}"
            if self._measures is not None:
                self._measures.failures.labels(self.name).inc()
            wait_s = self._ttl_s * RETRY
        self._tell()
        return self._until_change(wait_s)

    def _until_change(self, wait_s: float) -> float:
        """No longer than until an unsettled grant becomes held, so that those who wait are told at once."""
        left = self._held_from - self._clock.monotonic()
        return min(wait_s, left) if self._granted and left > 0 else wait_s

    async def _keep(self) -> float:
        asked_at = self._clock.monotonic()
        if await self._store.renew(self.name, self.holder, self._epoch, self._ttl_s):
            self._trusted_until = asked_at + self._ttl_s * TRUST
            return self._renewal_due(asked_at)
        self._drop("another holds it or the store forgot it")
        return 0.0

    async def _get(self) -> float:
        """Asks with the last floor known; one that is out of date shows when the epoch can't be advanced."""
        if self._floor is None:
            self._floor = await self._epochs.read(self.name)
        asked_at = self._clock.monotonic()
        grant = await self._store.grant(self.name, self.holder, self._ttl_s, self._floor)
        if grant is None:
            return self._ttl_s * RETRY
        granted_at = self._clock.monotonic()
        if not await self._advance(grant):
            return self._ttl_s * RETRY
        self._held_from = self._holds_from(grant, granted_at)
        self._epoch = self._own_last = self._floor = grant.epoch
        self._trusted_until = asked_at + self._ttl_s * TRUST
        self._granted = True
        log.info("lease granted", lease=self.name, epoch=grant.epoch, settled=grant.settled)
        return self._renewal_due(asked_at)

    def _holds_from(self, grant: Grant, granted_at: float) -> float:
        """When nobody else can trust an older lease any more. Where the last epoch was ours, nobody came between."""
        if grant.settled:
            return granted_at
        if grant.epoch == self._own_last + 1:
            return max(granted_at, self._held_from)
        return granted_at + self._ttl_s * SETTLE

    async def _advance(self, grant: Grant) -> bool:
        """Whether the grant's epoch could be written where it outlives the store; if not, the lease goes back."""
        try:
            if await self._epochs.advance(self.name, grant.epoch, holder=self.holder):
                return True
        except StoreUnavailableError:
            await self._hand_back(grant)
            raise
        log.info("epoch was overtaken", lease=self.name, epoch=grant.epoch)
        self._floor = None
        await self._hand_back(grant)
        return False

    async def _hand_back(self, grant: Grant) -> None:
        """Releases a lease that never counted as held. An unsettled one must expire instead: the next one to get
        it would take it for settled."""
        if grant.settled:
            await self._store.release(self.name, self.holder, grant.epoch)

    def _renewal_due(self, asked_at: float) -> float:
        return max(0.0, asked_at + self._ttl_s * _RENEW - self._clock.monotonic())

    def _tell(self) -> None:
        epoch = self.epoch
        if epoch is not None:
            self._held.set()
        if self._measures is not None:
            self._measures.leader.labels(self.name).set(epoch is not None)
            self._measures.epoch.labels(self.name).set(self._own_last)

    def _drop(self, why: str) -> None:
        log.warning("lease lost", lease=self.name, epoch=self._epoch, why=why)
        self._granted = False
        self._trusted_until = -1.0

    async def resign(self) -> None:
        """Gives the lease back, so that the next need not wait. An unsettled one is left to expire instead."""
        settled = self._clock.monotonic() >= self._held_from
        was_granted, self._granted, self._trusted_until = self._granted, False, -1.0
        if not was_granted or not settled:
            return
        try:
            await self._store.release(self.name, self.holder, self._epoch)
            log.info("lease released", lease=self.name, epoch=self._epoch)
        except StoreUnavailableError as error:
            log.info("lease left to expire", lease=self.name, error=str(error))

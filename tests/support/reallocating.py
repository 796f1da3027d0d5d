"""The reallocator's parts wired to a `World`, for tests that move time by hand."""

import asyncio
from collections.abc import Sequence
from typing import Any

from nodeyard.api.decision import Decision
from nodeyard.api.nodeclass import NodeClass
from nodeyard.cloudprovider.model import Catalogue
from nodeyard.disruption.model import Move, Options, Planner
from nodeyard.provisioning.planner import plan
from nodeyard.runtime.leadership import StoreUnavailableError
from nodeyard.runtime.metrics import new_registry
from services.reallocator.chronicle import Chronicle
from services.reallocator.collection import Collector
from services.reallocator.controller import Disruption
from services.reallocator.courses import Courses
from services.reallocator.drains import Drains
from services.reallocator.execution import Execution
from services.reallocator.leases import HeldLeases
from services.reallocator.machines import InstanceBook
from services.reallocator.metrics import ReallocatorMetrics
from services.reallocator.moves import MoveMemory
from services.reallocator.ports import Workloads
from services.reallocator.surges import Surges
from services.reallocator.termination import Termination
from tests.support.clock import FakeClock
from tests.support.disruption import catalogue, first_fit
from tests.support.disruption_world import Evicting, World


class Lead:
    def __init__(self) -> None:
        self.epoch: int | None = 1

    async def wait_held(self) -> int:
        return self.epoch or 0


class Leases:
    """Who holds which node, by name; `away` is Redis being gone."""

    def __init__(self) -> None:
        self.holders: dict[str, str] = {}
        self.away = False

    def _check(self) -> None:
        if self.away:
            raise StoreUnavailableError("Redis is away")

    async def acquire(self, name: str, holder: str, ttl_s: float, floor: int = 0) -> int | None:
        self._check()
        return 1 if self.holders.setdefault(name, holder) == holder else None

    async def renew(self, name: str, holder: str, epoch: int, ttl_s: float) -> bool:
        self._check()
        return self.holders.get(name) == holder

    async def release(self, name: str, holder: str, epoch: int) -> None:
        self._check()
        if self.holders.get(name) == holder:
            del self.holders[name]


class Nominations:
    def __init__(self) -> None:
        self.nodes: set[str] = set()
        self.away = False

    async def nominate(self, nodes: Any, ttl_s: float) -> None:
        if self.away:
            raise StoreUnavailableError("Redis is away")
        self.nodes |= set(nodes)

    async def nominated(self) -> frozenset[str]:
        if self.away:
            raise StoreUnavailableError("Redis is away")
        return frozenset(self.nodes)


class Moves:
    """Moves of late, on a shelf that may be away."""

    def __init__(self) -> None:
        self.kept: dict[str, Move] = {}
        self.away = False

    async def record(self, moves: Sequence[Move]) -> None:
        if self.away:
            raise StoreUnavailableError("Redis is away")
        self.kept |= {move.id: move for move in moves}

    async def recent(self, now: float) -> tuple[Move, ...]:
        if self.away:
            raise StoreUnavailableError("Redis is away")
        return tuple(self.kept.values())


class Prices:
    ready = True

    def __init__(self) -> None:
        self.catalogue = catalogue()
        self.revision = "1"
        self._moved = asyncio.Event()

    def move(self, to: Catalogue) -> None:
        """Other prices from now on."""
        self.catalogue, self.revision = to, str(int(self.revision) + 1)
        self._moved.set()

    async def wait_changed(self, after_revision: str, timeout_s: float) -> str:
        """Time is the cluster's, which is waited for beside it."""
        while self.revision == after_revision:
            self._moved.clear()
            await self._moved.wait()
        return self.revision

    def catalogue_for(self, node_class: NodeClass) -> Catalogue:
        return self.catalogue


class Notes:
    """Journal and events."""

    def __init__(self) -> None:
        self.decisions: list[Decision] = []
        self.events: list[tuple[str, str, str]] = []

    async def record(self, decisions: Sequence[Decision]) -> None:
        self.decisions += decisions

    def publish(self, *, kind: str, name: str, reason: str, **_: Any) -> None:
        self.events.append((kind, name, reason))

    def kinds(self) -> list[str]:
        return [f"{d.kind} {d.subject} {d.reason}" for d in self.decisions]


class Replica:
    """One reallocator over a world; several may share one."""

    def __init__(
        self,
        world: World,
        clock: FakeClock,
        *,
        name: str = "r0",
        leases: Leases | None = None,
        binds: bool = True,
        planner: Planner = first_fit,
        options: Options | None = None,
        scales: Workloads | None = None,
    ) -> None:
        self.world = world
        self.clock = clock
        self.notes = Notes()
        self.lead = Lead()
        self.leases = leases or Leases()
        self.nominations = Nominations()
        self.moves = Moves()
        self.memory = MoveMemory(self.moves, clock)
        self.prices = Prices()
        self.approved = ""
        self.registry = new_registry(process=False)
        self.measures = ReallocatorMetrics(self.registry)
        self.chronicle = Chronicle(self.notes, self.notes, replica=name, now=clock.now)
        self.pods = Evicting(world)
        self.termination = Termination(
            cluster=world,
            claims=world,
            nodes=world,
            drains=Drains(self.pods, self.chronicle, clock, self.measures),
            surges=Surges(
                workloads=scales, claims=world, cluster=world, chronicle=self.chronicle, clock=clock
            ),
            book=InstanceBook(world, clock),
            leases=HeldLeases(self.leases, holder=name, ttl_s=5.0, clock=clock),
            chronicle=self.chronicle,
            clock=clock,
            measures=self.measures,
            permitted=lambda: True,
        )
        self.execution = Execution(
            cluster=world,
            claims=world,
            nodes=world,
            nominations=self.nominations,
            moves=self.memory,
            lead=self.lead,
            chronicle=self.chronicle,
            clock=clock,
            measures=self.measures,
        )
        self.collector = Collector(
            cluster=world,
            machines=world,
            claims=world,
            nodes=world,
            lead=self.lead,
            chronicle=self.chronicle,
            clock=clock,
            measures=self.measures,
            approved=self._approved,
            permitted=lambda: True,
            interval_s=120.0,
            fast=20,
        )
        self.courses = Courses(
            cluster=world,
            claims=world,
            nodes=world,
            pods=world if binds else None,
            lead=self.lead,
            execution=self.execution,
            chronicle=self.chronicle,
            planner=plan,
            clock=clock,
        )
        self.disruption = self._disruption(planner, options or Options())

    async def _approved(self) -> str:
        return self.approved

    def _disruption(self, planner: Planner, options: Options) -> Disruption:
        return Disruption(
            cluster=self.world,
            prices=self.prices,
            claims=self.world,
            nodes=self.world,
            nominations=self.nominations,
            moves=self.memory,
            lead=self.lead,
            execution=self.execution,
            courses=self.courses,
            chronicle=self.chronicle,
            planner=planner,
            options=options,
            clock=self.clock,
            measures=self.measures,
            permitted=lambda: True,
            poll_s=10.0,
            validation_wait_s=15.0,
        )

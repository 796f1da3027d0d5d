"""Looks at every claim there is and starts the step that is due, whoever wrote the claim and whoever began.

Level-triggered: only the snapshot and the clock count, so a replica that restarts or takes over simply goes on. One
step at a time per claim and process, under the claim's lease between processes; a step that failed waits from 1 s to
1 min, one that left the claim as it was is not repeated for a second. Refuses to act while `stopped` gives a reason.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from nodeyard.adapters.ec2.user_data import UserDataError
from nodeyard.adapters.kubernetes.errors import KubernetesError
from nodeyard.api.node import INITIALIZED, REGISTERED, Node, NodeClaim
from nodeyard.cloudprovider.errors import CloudError
from nodeyard.provisioning.lifecycle import Deadlines, Step, held, next_step, not_initialized
from nodeyard.runtime.backoff import Backoff
from nodeyard.runtime.clock import Clock
from nodeyard.runtime.leadership import StoreUnavailableError
from nodeyard.state.cluster import Snapshot
from services.allocator.launcher import Launcher
from services.allocator.leases import NodeLeases
from services.allocator.ports import Cluster
from services.allocator.registrar import Registrar
from services.allocator.reporting import Reporter, log

_AT_ONCE: Final = 64
_LAUNCHES_AT_ONCE: Final = 1000
"""They wait for one another, to be put together."""
_PAUSE_S: Final = 0.01
_PAUSE_SHARE: Final = 4.0
"""Between two looks passes at least this many times what a look took, at most `_MOST_PAUSE_S`."""
_MOST_PAUSE_S: Final = 0.1
_AGAIN_S: Final = 1.0
_REMIND_AGAIN_S: Final = 0.2
"""A pod whose nomination was taken back may lose its place to the next that the kube-scheduler tries."""
_SAY_WAITING_S: Final = 5.0
SETTLE: Final = "settle"
REMIND: Final = "remind"
SAY_WAITING: Final = "say-waiting"


class Follower:
    """Runs the steps of all claims. `stopped`: why nothing may be done now, None normally."""

    def __init__(
        self,
        *,
        cluster: Cluster,
        launcher: Launcher,
        registrar: Registrar,
        leases: NodeLeases,
        report: Reporter,
        clock: Clock,
        deadlines: Deadlines,
        stopped: Callable[[], str | None],
    ) -> None:
        self._cluster = cluster
        self._launcher = launcher
        self._registrar = registrar
        self._leases = leases
        self._report = report
        self._clock = clock
        self._deadlines = deadlines
        self._stopped = stopped
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._backoff: dict[str, Backoff] = {}
        self._not_before: dict[tuple[str, str], float] = {}
        self._room = asyncio.Semaphore(_AT_ONCE)
        self._launch_room = asyncio.Semaphore(_LAUNCHES_AT_ONCE)
        self._steps: Mapping[str, Callable[[NodeClaim, Node | None], Awaitable[None]]] = {
            Step.LAUNCH: self._launch,
            Step.GIVE_UP_LAUNCH: self._give_up_launch,
            Step.FINALIZE: self._finalize,
            Step.REGISTER: self._register,
            Step.GIVE_UP_REGISTRATION: self._give_up_registration,
            Step.INITIALIZE: self._initialize,
            SETTLE: self._settle,
            REMIND: self._remind,
            SAY_WAITING: self._say_waiting,
        }

    async def run(self) -> None:
        """Follows all claims for ever."""
        revision = -1
        try:
            while True:
                revision = await self._cluster.wait_changed(revision, 0.25)
                began = self._clock.monotonic()
                if self._cluster.synced and self._stopped() is None:
                    self.look()
                took_s = self._clock.monotonic() - began
                await self._clock.sleep(min(_MOST_PAUSE_S, max(_PAUSE_S, _PAUSE_SHARE * took_s)))
        finally:
            for task in list(self._busy.values()):
                task.cancel()
            await asyncio.gather(*self._busy.values(), return_exceptions=True)

    def look(self) -> None:
        """Starts every step that is due now."""
        snapshot, now = self._cluster.snapshot(), self._clock.now()
        for claim in snapshot.claims.values():
            step = self._due(snapshot, claim, now)
            if step != Step.WAIT:
                self._start(claim, step)
        for name in [name for name in self._backoff if name not in snapshot.claims]:
            del self._backoff[name]
        if len(self._not_before) > 4 * len(snapshot.claims) + 100:
            moment = self._clock.monotonic()
            self._not_before = {key: at for key, at in self._not_before.items() if at > moment}

    def launch_now(self, claim: NodeClaim) -> None:
        """Starts launching a claim that was just created, before the stream shows it."""
        self._start(claim, Step.LAUNCH)

    async def idle(self) -> None:
        """Returns once no step is running (for tests and the end)."""
        while self._busy:
            await asyncio.wait(list(self._busy.values()))

    def _due(self, snapshot: Snapshot, claim: NodeClaim, now: float) -> str:
        node = snapshot.node_of(claim)
        if claim.is_true(REGISTERED) and not claim.deleting and not (node and held(node)):
            if node is not None and self._registrar.forgotten(claim, node):
                return REMIND
            if claim.is_true(INITIALIZED):
                return Step.WAIT
        step: str = next_step(claim, node, now, self._deadlines)
        if node is None or claim.deleting:
            return step
        if held(node) and self._registrar.ready_to_settle(claim, node):
            return SETTLE
        if step == Step.INITIALIZE and (waiting := not_initialized(node, claim)) is not None:
            return self._waiting(claim, waiting, now)
        return step

    def _waiting(self, claim: NodeClaim, waiting: tuple[str, str], now: float) -> str:
        """What a node waits for is noted on the claim where it takes long enough for somebody to look."""
        said, registered = claim.condition(INITIALIZED), claim.condition(REGISTERED)
        if registered is None or now - registered.since < _SAY_WAITING_S:
            return Step.WAIT
        return Step.WAIT if said is not None and said.reason == waiting[0] else SAY_WAITING

    def _start(self, claim: NodeClaim, step: str) -> None:
        name = claim.name
        if name in self._busy or self._not_before.get((name, step), 0.0) > self._clock.monotonic():
            return
        task = asyncio.create_task(self._guarded(claim, step), name=f"{step} {name}")
        self._busy[name] = task
        task.add_done_callback(lambda _: self._busy.pop(name, None))

    async def _guarded(self, claim: NodeClaim, step: str) -> None:
        key = (claim.name, step)
        try:
            async with self._launch_room if step == Step.LAUNCH else self._room:
                await self._do(claim, step)
        except (KubernetesError, CloudError, UserDataError, StoreUnavailableError) as error:
            backoff = self._backoff.setdefault(claim.name, Backoff(1.0, 60.0))
            wait_s = backoff.next_s()
            self._not_before[key] = self._clock.monotonic() + wait_s
            log.warning(
                "step of a claim failed",
                claim=claim.name, step=step, error=f"{type(error).__name__}: {error}", wait_s=round(wait_s, 2),
            )  # fmt: skip
        else:
            self._backoff.pop(claim.name, None)
            self._not_before[key] = self._clock.monotonic() + (
                _REMIND_AGAIN_S if step == REMIND else _AGAIN_S
            )

    async def _do(self, claim: NodeClaim, step: str) -> None:
        async with self._leases.held(claim.name) as mine:
            if not mine:
                return
            snapshot = self._cluster.snapshot()
            claim = snapshot.claims.get(claim.name, claim)
            if self._due(snapshot, claim, self._clock.now()) == step:
                await self._steps[step](claim, snapshot.node_of(claim))

    # --- steps --------------------------------------------------------------------------------------------------------
    async def _launch(self, claim: NodeClaim, node: Node | None) -> None:
        await self._launcher.launch(claim)

    async def _give_up_launch(self, claim: NodeClaim, node: Node | None) -> None:
        await self._launcher.give_up(claim)

    async def _finalize(self, claim: NodeClaim, node: Node | None) -> None:
        await self._launcher.finalize(claim)

    async def _register(self, claim: NodeClaim, node: Node | None) -> None:
        if node is not None:
            await self._registrar.register(claim, node)

    async def _initialize(self, claim: NodeClaim, node: Node | None) -> None:
        if node is not None:
            await self._registrar.initialize(claim, node)

    async def _settle(self, claim: NodeClaim, node: Node | None) -> None:
        if node is not None:
            await self._registrar.settle(claim, node)

    async def _remind(self, claim: NodeClaim, node: Node | None) -> None:
        if node is not None:
            await self._registrar.remind(claim, node)

    async def _say_waiting(self, claim: NodeClaim, node: Node | None) -> None:
        if node is not None and (waiting := not_initialized(node, claim)) is not None:
            await self._registrar.say_waiting(claim, *waiting)

    async def _give_up_registration(self, claim: NodeClaim, node: Node | None) -> None:
        await self._launcher.unregistered(claim)

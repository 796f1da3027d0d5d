"""Instances asked about and ended many at a time, and not asked about again too soon.

Owns the merging of calls (0.1 s, as many as came) and a short memory of answers; every node that is taken down asks
here for its own instance only. Neighbour: `termination`.
Source: Karpenter documentation, "Settings" (batching of DescribeInstances and TerminateInstances).
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Generic, NamedTuple, TypeVar

from nodeyard.cloudprovider.errors import CloudError
from nodeyard.disruption.collection import Instance
from nodeyard.disruption.termination import InstanceState
from nodeyard.runtime.clock import Clock
from services.reallocator.ports import Machines

T = TypeVar("T")
_WINDOW_S: Final = 0.1
_MEMORY_S: Final = {InstanceState.UP: 1.0, InstanceState.GONE: 60.0}
_STOPPING_S: Final = (0.5, 5.0)
"""One that shuts down is asked about after this long at the soonest and at the latest, in between after half as long as
it has been shutting down so far: most take half a minute, but some no time at all.
"""
_REMEMBERED: Final = 5_000


class Merged(Generic[T]):
    """Calls with one key each, done together. A CloudError of the joint call is everybody's."""

    def __init__(self, work: Callable[[list[str]], Awaitable[Mapping[str, T]]], clock: Clock) -> None:
        self._work = work
        self._clock = clock
        self._waiting: dict[str, asyncio.Future[T | None]] = {}
        self._running: set[asyncio.Task[None]] = set()

    async def ask(self, key: str) -> T | None:
        """The answer for `key`, None where the joint answer has none."""
        future = self._waiting.get(key)
        if future is None:
            if not self._waiting:
                task = asyncio.create_task(self._flush())
                self._running.add(task)
                task.add_done_callback(self._running.discard)
            future = self._waiting[key] = asyncio.get_running_loop().create_future()
        return await asyncio.shield(future)

    async def _flush(self) -> None:
        await self._clock.sleep(_WINDOW_S)
        waiting, self._waiting = self._waiting, {}
        try:
            answers = await self._work(sorted(waiting))
        except CloudError as error:
            for future in waiting.values():
                if not future.done():
                    future.set_exception(error)
                    future.exception()
            return
        for key, future in waiting.items():
            if not future.done():
                future.set_result(answers.get(key))


class _Known(NamedTuple):
    """An answer, when it came, and since when it has been the same."""

    state: InstanceState
    at: float
    since: float

    def fresh_for_s(self) -> float:
        if self.state is not InstanceState.STOPPING:
            return _MEMORY_S[self.state]
        soonest_s, latest_s = _STOPPING_S
        return min(max((self.at - self.since) / 2, soonest_s), latest_s)


class InstanceBook:
    """What became of instances, and their end. Every method raises CloudError."""

    def __init__(self, machines: Machines, clock: Clock) -> None:
        self._machines = machines
        self._clock = clock
        self._describe: Merged[Instance] = Merged(machines.describe, clock)
        self._terminate: Merged[bool] = Merged(self._end, clock)
        self._known: dict[str, _Known] = {}

    async def state(self, instance_id: str, *, ours_only: bool) -> InstanceState:
        """Its state now or a moment ago. `ours_only`: one without this cluster's tag is FOREIGN."""
        now = self._clock.monotonic()
        known = self._known.get(instance_id)
        if known is not None and now - known.at < known.fresh_for_s() and not ours_only:
            return known.state
        found = await self._describe.ask(instance_id)
        if found is not None and ours_only and found.cluster_uid != self._machines.cluster_uid:
            return InstanceState.FOREIGN
        return self._remember(instance_id, state_of(found))

    async def terminate(self, instance_id: str) -> None:
        """Ends the instance; one that is gone already is no error."""
        await self._terminate.ask(instance_id)
        self._remember(instance_id, InstanceState.STOPPING)

    async def _end(self, ids: list[str]) -> Mapping[str, bool]:
        await self._machines.terminate(ids)
        return dict.fromkeys(ids, True)

    def _remember(self, instance_id: str, state: InstanceState) -> InstanceState:
        known, now = self._known.pop(instance_id, None), self._clock.monotonic()
        since = known.since if known is not None and known.state is state else now
        self._known[instance_id] = _Known(state, now, since)
        while len(self._known) > _REMEMBERED:
            self._known.pop(next(iter(self._known)))
        return state


def state_of(instance: Instance | None) -> InstanceState:
    """EC2's state as termination needs it."""
    if instance is None or instance.state == "terminated":
        return InstanceState.GONE
    return InstanceState.STOPPING if instance.state == "shutting-down" else InstanceState.UP

"""Nodes that become ready at the same time open together, the fullest first.

An open node draws every pod that is pending and not yet nominated or bound elsewhere, and makes the kube-scheduler try
all pods again. A pod that it tries while its own node is still closed goes wherever there is room. So nobody opens while
another is still being prepared, openings follow one another closely, and those with the least room to spare go first:
what is open then has no room for pods of what is not.
"""

import asyncio
import heapq
from collections.abc import Awaitable, Callable, Mapping
from itertools import count
from typing import Final, TypeVar

from nodeyard.runtime.clock import Clock, within

T = TypeVar("T")
_TOGETHER_S: Final = 3.0
"""Longest that a node whose pods are placed waits for others that are being prepared."""
_AFTERWARDS_S: Final = 0.4
"""Longest that what follows an opening waits for the others that are just being opened."""
_AT_ONCE: Final = 16


class Openings:
    """Who is being prepared, and whose turn it is to open."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._preparing = 0
        self._prepared = asyncio.Event()
        self._coming = 0
        self._turns: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._running = 0
        self._all_open = asyncio.Event()

    async def together(self, prepare: Awaitable[object], write: Callable[[], Awaitable[T]], room: float) -> T:
        """What `write` returns, begun once `prepare` is done, no other node is being prepared, and the turn of a node
        with so much `room` to spare (a share) has come; returns once the others that were waiting are open too.
        """
        turn: asyncio.Future[asyncio.Task[T]] = asyncio.get_running_loop().create_future()

        def begin() -> None:
            turn.set_result(asyncio.ensure_future(self._counted(write())))

        entry = (room, next(self._order), begin)
        self._coming += 1
        try:
            await self._prepared_with_others(prepare)
            heapq.heappush(self._turns, entry)
            self._all_open.clear()
        finally:
            self._coming -= 1
            self._next()
        await within(self._clock, turn, _AFTERWARDS_S)
        if entry in self._turns:
            self._turns.remove(entry)
            heapq.heapify(self._turns)
            self._running += 1
            begin()
        result = await turn.result()
        await within(self._clock, self._all_open.wait(), _AFTERWARDS_S)
        return result

    async def _counted(self, writing: Awaitable[T]) -> T:
        try:
            return await writing
        finally:
            self._running -= 1
            self._next()

    async def _prepared_with_others(self, prepare: Awaitable[object]) -> None:
        self._preparing += 1
        self._prepared.clear()
        try:
            await prepare
        finally:
            self._preparing -= 1
            if not self._preparing:
                self._prepared.set()
        await within(self._clock, self._prepared.wait(), _TOGETHER_S)

    def _next(self) -> None:
        """Gives turns, once all that were prepared together have asked for theirs."""
        while self._turns and not self._coming and self._running < _AT_ONCE:
            self._running += 1
            heapq.heappop(self._turns)[2]()
        if not self._running:
            self._all_open.set()


def room_to_spare(allocatable: Mapping[str, int], planned: Mapping[str, int]) -> float:
    """The share of a node that its planned pods leave, of the resource that runs out first (0 to 1)."""
    shares = [1 - planned.get(name, 0) / amount for name, amount in allocatable.items() if amount > 0]
    return max(0.0, min(shares, default=0.0))

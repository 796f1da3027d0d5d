"""A clock that stands still until a test moves it."""

import asyncio
import heapq


class FakeClock:
    """Time moves by `advance` only; whoever sleeps until then is woken in order."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self._now = now
        self._passed = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = 0

    def now(self) -> float:
        return self._now + self._passed

    def monotonic(self) -> float:
        return self._passed

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._count += 1
        heapq.heappush(self._sleepers, (self._passed + seconds, self._count, woken))
        await woken

    @property
    def sleeping(self) -> bool:
        """Whether anybody waits for time to move."""
        return bool(self._sleepers)

    def skip(self, seconds: float) -> None:
        """Moves time without waking anybody, as when the process was stopped."""
        self._passed += seconds

    async def advance(self, seconds: float) -> None:
        """Moves time, waking every sleeper at its moment and letting it run."""
        end = self._passed + seconds
        await settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            at, _, woken = heapq.heappop(self._sleepers)
            self._passed = max(self._passed, at)
            if not woken.done():
                woken.set_result(None)
            await settle()
        self._passed = max(self._passed, end)
        await settle()


async def settle() -> None:
    """Lets every task that can run go as far as it can without time or I/O."""
    for _ in range(20):
        await asyncio.sleep(0)

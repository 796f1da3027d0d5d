"""Time as a port, so that whatever waits can be tested without waiting.

Loops take a `Clock`; `SystemClock` is the real one. Pure rooms take plain numbers or `Callable[[], float]` instead.
"""

import asyncio
import time
from collections.abc import Awaitable
from typing import Protocol


class Clock(Protocol):
    """Wall time, a monotonic time, and a sleep that agrees with them."""

    def now(self) -> float:
        """Seconds since the epoch (UTC)."""
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never goes back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Returns after `seconds`; zero or less only lets others run."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))


async def within(clock: Clock, what: Awaitable[object], seconds: float) -> None:
    """Waits for `what` for `seconds` at most. A future is left alone when time is up, a coroutine is cancelled."""
    waits = [asyncio.ensure_future(what), asyncio.ensure_future(clock.sleep(seconds))]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            if wait is not what:
                wait.cancel()

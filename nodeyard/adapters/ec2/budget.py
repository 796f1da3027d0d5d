"""How often EC2 may be called: AWS's published buckets kept on our side, and how much repeating is worth.

Each action has a bucket of its own, as at AWS; a call takes a token or waits its turn. Where AWS throttles all the same
(others use the account too), that action's rate falls by a third and climbs back with every call that succeeds.
Repeats are paid from one purse that successes refill, so that a cloud in trouble is not stormed.
Source: "Request throttling for the Amazon EC2 API" (Amazon EC2 Developer Guide), default limits per account and region.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import msgspec


class Limit(msgspec.Struct, frozen=True):
    """Calls at once, and calls per second after that."""

    burst: float
    per_second: float


MUTATING: Final = Limit(50, 5)
NON_MUTATING: Final = Limit(100, 20)
PUBLISHED: Final[Mapping[str, Limit]] = {
    "CreateTags": Limit(100, 10),
    "DeleteTags": Limit(100, 10),
    "TerminateInstances": Limit(100, 5),
    "RunInstances": Limit(5, 2),
    "CreateLaunchTemplateVersion": Limit(100, 5),
}
"""Actions with buckets of their own size; the others are MUTATING or, where they only read, NON_MUTATING."""
_READING: Final = ("Describe", "Get", "List", "Search")
_MARGIN: Final = 0.95
"""Calls take unequal times to get there, so what leaves at the published rate may arrive faster."""
_SLOWEST: Final = 0.2
_REPEATS: Final = 100.0


class CallBudget:
    """The buckets of one account as this process may use them. `share` of each limit is ours (0 to 1]."""

    def __init__(
        self,
        *,
        share: float = 1.0,
        limits: Mapping[str, Limit] = PUBLISHED,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._share = share
        self._limits = limits
        self._monotonic = monotonic
        self._sleep = sleep
        self._tokens: dict[str, tuple[float, float]] = {}
        self._pace: dict[str, float] = {}
        self._repeats = _REPEATS

    def limit(self, action: str) -> Limit:
        """What this process keeps to for an action of EC2's ("CreateFleet")."""
        reading = action.startswith(_READING)
        found = self._limits.get(action) or (NON_MUTATING if reading else MUTATING)
        part = self._share * _MARGIN
        return Limit(max(1.0, found.burst * part), found.per_second * part)

    async def take(self, action: str) -> None:
        """Waits until the action may be called; first come, first served."""
        limit, now = self.limit(action), self._monotonic()
        rate = limit.per_second * self._pace.get(action, 1.0)
        tokens, at = self._tokens.get(action, (limit.burst, now))
        tokens = min(limit.burst, tokens + (now - at) * rate) - 1.0
        self._tokens[action] = (tokens, now)
        if tokens < 0:
            await self._sleep(-tokens / rate)

    def succeeded(self, action: str) -> None:
        """A call went through: the action's pace and the purse recover."""
        if action in self._pace:
            self._pace[action] += 0.1
            if self._pace[action] >= 1.0:
                del self._pace[action]
        self._repeats = min(_REPEATS, self._repeats + 0.5)

    def throttled(self, action: str) -> None:
        """AWS refused a call for coming too soon: the action slows down, and its bucket counts as empty."""
        self._pace[action] = max(_SLOWEST, self._pace.get(action, 1.0) * 2 / 3)
        tokens, at = self._tokens.get(action, (0.0, self._monotonic()))
        self._tokens[action] = (min(0.0, tokens), at)

    def may_repeat(self) -> bool:
        """Whether the purse has another repeat; it is taken."""
        if self._repeats < 1.0:
            return False
        self._repeats -= 1.0
        return True

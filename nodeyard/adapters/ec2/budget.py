"""How often EC2 may be called: AWS's published buckets kept on our side, and how much repeating is worth.

Each action has a bucket of its own, as at AWS; a call takes a token or waits its turn. The buckets of calls that change
something are kept where all replicas share them, if such a place is given; while that place is away, each replica keeps
to a share of its own, which starts empty, and says so. Reading calls have buckets of this process. Where AWS throttles
all the same (others use the account too), that action's rate falls by a third and climbs back with every call that
succeeds. Repeats are paid from one purse that successes refill, so that a cloud in trouble is not stormed.
Source: "Request throttling for the Amazon EC2 API" (Amazon EC2 Developer Guide), default limits per account and region.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol

import msgspec

from nodeyard.runtime.leadership import StoreUnavailableError
from nodeyard.runtime.logging import get_logger

log = get_logger("nodeyard.adapters.ec2.budget")


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
_UNEQUAL_S: Final = 1.0
"""Calls take unequal times to get there, so what leaves as the bucket allows may arrive faster: with a burst smaller by
what comes back in this time, it still fits AWS's bucket where no call takes longer than another by more than this.
"""
_SLOWEST: Final = 0.2
_REPEATS: Final = 100.0
_EPSILON: Final = 1e-6
"""So that a token for which the wait was worked out is there after it, whatever the rounding."""
_ASK_AGAIN_S: Final = 2.0
"""While the shared buckets are away, how often they are asked for."""


class SharedBuckets(Protocol):
    """Token buckets that all replicas take from. Every method raises StoreUnavailableError."""

    async def take(self, action: str, burst: float, per_second: float) -> tuple[float, float]:
        """(0, pace) with a token of the action's bucket taken, or (seconds to wait before asking again, pace); the pace
        is the share of `per_second` at which the bucket fills since AWS throttled.
        """
        ...

    async def succeeded(self, action: str) -> None:
        """A call went through: the bucket's pace recovers by a tenth."""
        ...

    async def throttled(self, action: str) -> None:
        """AWS refused a call for coming too soon: the bucket is empty, and fills by a third more slowly."""
        ...


class CallBudget:
    """The buckets of one account as this process may use them.

    `share` of each limit is ours alone (0 to 1]. With `shared` buckets, all replicas together keep to `account_share`
    of each limit for calls that change something, and `share` holds for the others, and while Redis is away.
    """

    def __init__(
        self,
        *,
        share: float = 1.0,
        shared: SharedBuckets | None = None,
        account_share: float = 1.0,
        limits: Mapping[str, Limit] = PUBLISHED,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._share = share
        self._shared = shared
        self._account_share = account_share
        self._limits = limits
        self._monotonic = monotonic
        self._sleep = sleep
        self._tokens: dict[str, tuple[float, float]] = {}
        self._pace: dict[str, float] = {}
        self._shared_pace: dict[str, float] = {}
        self._queues: dict[str, asyncio.Lock] = {}
        self._alone_since: float | None = None
        self._asked_at = 0.0
        self._repeats = _REPEATS

    @property
    def alone(self) -> bool:
        """Whether this process keeps to its own share because the shared buckets are away, or there are none."""
        return self._shared is None or self._alone_since is not None

    def limit(self, action: str, share: float | None = None) -> Limit:
        """What this process keeps to by itself for an action of EC2's ("CreateFleet"); of another `share`, if given."""
        found = self._limits.get(action) or (NON_MUTATING if _reads(action) else MUTATING)
        part = self._share if share is None else share
        rate = found.per_second * part
        return Limit(max(1.0, found.burst * part - rate * _UNEQUAL_S), rate)

    async def take(self, action: str) -> None:
        """Waits until the action may be called; first come, first served within this process."""
        async with self._queues.setdefault(action, asyncio.Lock()):
            if self._shared is not None and _changes(action):
                while (wait_s := await self._asked(self._shared, action)) is not None:
                    if wait_s <= 0:
                        return
                    await self._sleep(wait_s)
            while (wait_s := self._take_own(action)) > 0:
                await self._sleep(wait_s)

    async def succeeded(self, action: str) -> None:
        """A call went through: the action's pace and the purse recover."""
        if action in self._pace:
            self._pace[action] += 0.1
            if self._pace[action] >= 1.0:
                del self._pace[action]
        self._repeats = min(_REPEATS, self._repeats + 0.5)
        if self._shared is not None and not self.alone and self._shared_pace.get(action, 1.0) < 1.0:
            await self._told(self._shared.succeeded(action))

    async def throttled(self, action: str) -> None:
        """AWS refused a call for coming too soon: the action slows down, and its bucket counts as empty."""
        self._pace[action] = max(_SLOWEST, self._pace.get(action, 1.0) * 2 / 3)
        tokens, at = self._tokens.get(action, (0.0, self._monotonic()))
        self._tokens[action] = (min(0.0, tokens), at)
        if self._shared is not None and not self.alone and _changes(action):
            await self._told(self._shared.throttled(action))

    def may_repeat(self) -> bool:
        """Whether the purse has another repeat; it is taken."""
        if self._repeats < 1.0:
            return False
        self._repeats -= 1.0
        return True

    def _take_own(self, action: str) -> float:
        """0 with a token of this process's bucket taken, or seconds until there is one. Nobody has a token in advance, so
        that a process that stood still for a while lets no more calls go at once than the bucket holds.
        """
        limit, now = self.limit(action), self._monotonic()
        rate = limit.per_second * self._pace.get(action, 1.0)
        fresh = (limit.burst, now)
        if self._alone_since is not None and _changes(action):
            fresh = (0.0, self._alone_since)  # the others may just have spent what there was
        tokens, at = self._tokens.get(action, fresh)
        tokens = min(limit.burst, tokens + (now - at) * rate)
        short = 1.0 - tokens
        if short > _EPSILON:
            self._tokens[action] = (tokens, now)
            return short / rate
        self._tokens[action] = (tokens - 1.0, now)
        return 0.0

    async def _asked(self, shared: SharedBuckets, action: str) -> float | None:
        """The shared bucket's answer in seconds to wait, 0 with a token; None while there is none to be had."""
        now = self._monotonic()
        if self._alone_since is not None and now - self._asked_at < _ASK_AGAIN_S:
            return None
        self._asked_at = now
        limit = self.limit(action, self._account_share)
        try:
            wait_s, self._shared_pace[action] = await shared.take(action, limit.burst, limit.per_second)
        except StoreUnavailableError as error:
            self._fall_back(error)
            return None
        if self._alone_since is not None:
            self._alone_since = None
            log.info("calls to EC2 are shared among the replicas again")
        return wait_s

    async def _told(self, telling: Awaitable[None]) -> None:
        try:
            await telling
        except StoreUnavailableError as error:
            self._fall_back(error)

    def _fall_back(self, error: StoreUnavailableError) -> None:
        if self._alone_since is None:
            self._alone_since = self._asked_at = self._monotonic()
            self._tokens = {action: kept for action, kept in self._tokens.items() if not _changes(action)}
            log.warning(
                "shared call budget is away; this replica keeps to its own share",
                share=self._share,
                error=str(error),
            )


def _reads(action: str) -> bool:
    return action.startswith(_READING)


def _changes(action: str) -> bool:
    """Whether it is a call to EC2 that changes something; other services' actions carry their name before a colon."""
    return not _reads(action) and ":" not in action

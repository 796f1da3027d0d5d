"""How many nodes of a pool may be disrupted at once, for a reason, at a moment.

The least of the budgets that hold now for the reason; a share is rounded up; a window is [hit, hit + duration) by the
clock of its time zone. Where a pool names windows that allow disruption, outside of them nothing is allowed. A budget
that can't be read allows nothing, so that a typing error never opens the gate; neither does a window that can't be
read. A pool without budgets is unlimited. Source: Karpenter documentation, "NodePool Disruption Budgets".
"""

import math
from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache

from croniter import croniter

from nodeyard.api.pool import Budget, Pool, PoolKey
from nodeyard.api.pool_disruption import moment, zone
from nodeyard.disruption.model import Block, Candidate, Reason, Rule
from nodeyard.state.cluster import Snapshot

INSTANCE_TERMINATING = "InstanceTerminating"
_CRON_FIELDS = 5
_REASONS = frozenset(Reason)


def active(budget: Budget, now: float) -> bool:
    """Whether the budget holds at `now` (seconds since the epoch). Raises ValueError where its cron line, its time zone
    or its start or end can't be read.
    """
    start, end = moment(budget.start), moment(budget.end)
    scheduled = _scheduled(budget, now)
    return scheduled and (start is None or now >= start) and (end is None or now < end)


def _scheduled(budget: Budget, now: float) -> bool:
    if not budget.schedule and budget.duration_s is None:
        return True
    if not budget.schedule or budget.duration_s is None:
        raise ValueError("schedule and duration belong together")
    return next_hit(budget.schedule, budget.time_zone, now - budget.duration_s) <= now


@lru_cache(maxsize=1024)
def next_hit(schedule: str, time_zone: str, after: float) -> float:
    """The first moment of the cron line strictly after `after`, both in seconds since the epoch. A time that the clock
    skips comes right after the gap, one that it shows twice comes twice. Raises ValueError.
    """
    if not schedule.startswith("@") and len(schedule.split()) != _CRON_FIELDS:
        raise ValueError(f"{schedule!r} is not a cron line of five fields")
    hit = croniter(schedule, datetime.fromtimestamp(after, zone(time_zone))).get_next(datetime)
    assert isinstance(hit, datetime)
    return hit.timestamp()


def allows(budget: Budget, nodes: int) -> int:
    """How many of `nodes` nodes the budget's `nodes` field allows. Raises ValueError."""
    text = budget.nodes.strip()
    if text.endswith("%"):
        share = float(text[:-1])
        if not 0 <= share <= 100:
            raise ValueError(f"{budget.nodes!r} is not a share between 0% and 100%")
        return math.ceil(nodes * share / 100.0 - 1e-9)
    count = int(text)
    if count < 0:
        raise ValueError(f"{budget.nodes!r} is below zero")
    return count


def limit(pool: Pool, reason: Reason, nodes: int, now: float) -> int | None:
    """The most nodes of the pool, which has `nodes`, that may be disrupted at once; None: no limit."""
    return limited(pool, reason, nodes, now)[0]


def limited(pool: Pool, reason: Reason, nodes: int, now: float) -> tuple[int | None, str]:
    """The same, and which budget or window it is."""
    if not _allowed_now(pool, reason, now):
        return 0, "no window that allows disruption is open"
    least: int | None = None
    by = ""
    for budget in pool.disruption.budgets:
        unknown = [each for each in budget.reasons if each not in _REASONS]
        if budget.reasons and reason not in budget.reasons and not unknown:
            continue
        try:
            if unknown:
                raise ValueError(f"{unknown[0]!r} is no reason")
            if not active(budget, now):
                continue
            allowed, why = allows(budget, nodes), f"budget {described(budget)}"
        except (ValueError, OverflowError) as error:
            allowed, why = 0, f"budget {described(budget)} can't be read: {error}"
        if least is None or allowed < least:
            least, by = allowed, why
    return least, by


def _allowed_now(pool: Pool, reason: Reason, now: float) -> bool:
    windows = [w for w in pool.disruption.allow_windows if not w.reasons or reason in w.reasons]
    for window in windows:
        try:
            if active(window, now):
                return True
        except (ValueError, OverflowError):
            continue
    return not windows


def next_change(pool: Pool, now: float) -> float | None:
    """The next moment at which a budget or window of the pool may begin or cease to hold; None: never again."""
    moments: list[float] = []
    for budget in (*pool.disruption.budgets, *pool.disruption.allow_windows):
        try:
            moments += [at for at in (moment(budget.start), moment(budget.end)) if at is not None]
            if budget.schedule and budget.duration_s is not None:
                begun = next_hit(budget.schedule, budget.time_zone, now - budget.duration_s)
                moments += [
                    begun + budget.duration_s,
                    next_hit(budget.schedule, budget.time_zone, now),
                ]
        except (ValueError, OverflowError):
            continue
    return min((at for at in moments if at > now), default=None)


def described(budget: Budget) -> str:
    """The budget in a few words, as the pool has it."""
    parts = [repr(budget.nodes)]
    if budget.schedule:
        parts.append(f"at {budget.schedule!r} {budget.time_zone or 'UTC'}")
    parts += [f"{word} {text}" for word, text in (("from", budget.start), ("until", budget.end)) if text]
    return " ".join(parts)


class Room:
    """What is left of every pool's budgets in this pass; taking from it is how a method spends."""

    def __init__(self, snapshot: Snapshot, in_command: frozenset[str], now: float) -> None:
        self._snapshot = snapshot
        self._now = now
        self.nodes: Counter[PoolKey] = Counter()
        """Initialized nodes whose instance is not on its way out: what shares are taken of."""
        self.busy: Counter[PoolKey] = Counter()
        """Of those, the ones that are not ready, deleting or in a command."""
        self._taken: Counter[tuple[PoolKey, Reason]] = Counter()
        for node in snapshot.nodes.values():
            claim = snapshot.claim_of(node)
            if claim is None or not claim.pool or not node.initialized:
                continue
            if claim.is_true(INSTANCE_TERMINATING):
                continue
            self.nodes[claim.pool] += 1
            if not node.ready or node.deleted_at or claim.deleting or node.name in in_command:
                self.busy[claim.pool] += 1

    def left(self, pool: PoolKey, reason: Reason) -> int | None:
        """How many more may be disrupted; None: no limit. A pool that is gone has none left."""
        found = self._snapshot.pools.get(pool)
        if found is None:
            return 0
        most = limit(found, reason, self.nodes[pool], self._now)
        if most is None:
            return None
        return max(0, most - self.busy[pool] - self._taken[pool, reason])

    def take(self, pool: PoolKey, reason: Reason) -> bool:
        """Spends one; False where none is left."""
        left = self.left(pool, reason)
        if left == 0:
            return False
        self._taken[pool, reason] += 1
        return True

    def block(self, candidate: Candidate, reason: Reason) -> Block:
        """What keeps the node, once `take` has refused it."""
        pool = self._snapshot.pools.get(candidate.pool)
        nodes, busy = self.nodes[candidate.pool], self.busy[candidate.pool]
        most, by = limited(pool, reason, nodes, self._now) if pool is not None else (0, "the pool is gone")
        taken = self._taken[candidate.pool, reason]
        message = f"the budgets of pool {candidate.pool} allow no more nodes now: {by}"
        facts: dict[str, str | int | float | bool] = {
            "reason": reason.value, "allowed": most or 0, "nodes": nodes, "disrupted": busy, "taken": taken,
        }  # fmt: skip
        if pool is not None and (change := next_change(pool, self._now)) is not None:
            facts["nextChange"] = change
        return Block(Rule.BUDGET, message, facts)

    def within(self, candidates: Iterable[Candidate], reason: Reason) -> tuple[Candidate, ...]:
        """The first of `candidates` that the budgets allow together; spends for them."""
        return tuple(c for c in candidates if self.take(c.pool, reason))

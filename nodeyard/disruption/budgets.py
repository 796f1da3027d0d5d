"""How many nodes of a pool may be disrupted at once, for a reason, at a moment.

The least of the budgets that hold now for the reason; a share is rounded up; a window is (hit, hit + duration),
closed at its start and open at its end. A budget that can't be read allows nothing, so that a typing error never
opens the gate. A pool without budgets is unlimited. Source: Karpenter documentation, "NodePool Disruption Budgets".
"""

import math
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from croniter import croniter

from nodeyard.api.pool import Budget, Pool, PoolKey
from nodeyard.disruption.model import Candidate, Reason
from nodeyard.state.cluster import Snapshot

INSTANCE_TERMINATING = "InstanceTerminating"
_CRON_FIELDS = 5


def active(budget: Budget, now: float) -> bool:
    """Whether the budget holds at `now` (seconds since the epoch). Raises ValueError for a line that is not cron."""
    if not budget.schedule and budget.duration_s is None:
        return True
    if not budget.schedule or budget.duration_s is None:
        raise ValueError("schedule and duration belong together")
    moment = datetime.fromtimestamp(now, UTC)
    return next_hit(budget.schedule, moment - timedelta(seconds=budget.duration_s)) <= moment


@lru_cache(maxsize=1024)
def next_hit(schedule: str, after: datetime) -> datetime:
    """The first moment of the cron line strictly after `after`. Raises ValueError."""
    if not schedule.startswith("@") and len(schedule.split()) != _CRON_FIELDS:
        raise ValueError(f"{schedule!r} is not a cron line of five fields")
    hit = croniter(schedule, after).get_next(datetime)
    assert isinstance(hit, datetime)
    return hit


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
    least: int | None = None
    for budget in pool.disruption.budgets:
        if budget.reasons and reason not in budget.reasons:
            continue
        try:
            if not active(budget, now):
                continue
            allowed = allows(budget, nodes)
        except (ValueError, OverflowError):
            allowed = 0
        least = allowed if least is None else min(least, allowed)
    return least


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

    def within(self, candidates: Iterable[Candidate], reason: Reason) -> tuple[Candidate, ...]:
        """The first of `candidates` that the budgets allow together; spends for them."""
        return tuple(c for c in candidates if self.take(c.pool, reason))

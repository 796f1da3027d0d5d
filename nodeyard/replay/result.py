"""What a replay came to, as values: totals for the table, hours for the plot.

Money is USD. `waits` are times from a pod's arrival (or eviction) to its binding. Nothing in it depends on how long
the replay took, so that equal inputs give equal results.
"""

import numpy as np

from nodeyard.api.selectors import Value
from nodeyard.replay.policy import Policy


class Hour(Value, frozen=True):
    """One hour of a replay. `nodes`, `pods`, `pending`: at its end."""

    rent: float = 0.0
    charge: float = 0.0
    bound: float = 0.0
    nodes: int = 0
    pods: int = 0
    pending: int = 0
    moves: int = 0
    evictions: int = 0
    interruptions: int = 0

    @property
    def cost(self) -> float:
        return self.rent + self.charge


class Waits(Value, frozen=True):
    """How long pods waited, in seconds."""

    pods: int = 0
    waited: int = 0
    """Those that did not find a place at once."""
    mean_s: float = 0.0
    p50_s: float = 0.0
    p95_s: float = 0.0
    p99_s: float = 0.0
    most_s: float = 0.0


class Result(Value, frozen=True):
    """`rent` + `charge` is the cost; `bound` the hour-by-hour bound on it. `removed`: nodes that moves took away."""

    policy: Policy
    length_s: float
    rent: float
    charge: float
    bound: float
    node_hours: float
    spot_node_hours: float
    launches: int
    moves: int
    removed: int
    evictions: int
    interruptions: int
    reclaimed: int
    waits: Waits
    done: int
    running: int
    pending: int
    plans: int
    passes: int
    hours: tuple[Hour, ...] = ()
    unplaced: dict[str, str] = {}
    """Pods that were still without a place at the end, and why."""

    @property
    def cost(self) -> float:
        return self.rent + self.charge

    @property
    def over_bound(self) -> float:
        """By what share the cost is above the bound."""
        return self.cost / self.bound - 1.0 if self.bound > 0 else 0.0


def waits_of(seconds: list[float]) -> Waits:
    """The waits in figures."""
    if not seconds:
        return Waits()
    found = np.array(seconds)
    p50, p95, p99 = (float(q) for q in np.percentile(found, (50, 95, 99)))
    return Waits(len(found), int((found > 0).sum()), float(found.mean()), p50, p95, p99, float(found.max()))

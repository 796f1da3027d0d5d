"""Limits while a plan is made, of pools and of capacity reservations: what is left, and which columns it pays for.

What existing nodes and claims have counts; every node the plan makes is taken off at once, `nodes` like any other
resource. A reservation takes as many nodes as have a place in it, whichever pools they are of. A pool whose limit is not inclusive may start one more node as long as usage is below it.
"""

import numpy as np

from nodeyard.provisioning.columns import Columns
from nodeyard.provisioning.hosts import Hosts
from nodeyard.provisioning.labelled import Bools, Floats, Ints


class Limits:
    """One row per (pool, resource) that is limited, and per ("", reservation). `left` in the resource's unit, or in
    instances; `use`: [column, limit].
    """

    def __init__(self, columns: Columns, hosts: Hosts) -> None:
        self.columns = columns
        self.names: list[tuple[str, str]] = []
        left: list[float] = []
        use: list[Floats] = []
        inclusive: list[bool] = []
        pools = {v.pool.key: v.pool for v in columns.variants}
        for pool in pools.values():
            for resource, limit in sorted(pool.limits.items()):
                used = sum(
                    (1 if resource == "nodes" else h.capacity.get(resource, 0))
                    for h in hosts.hosts
                    if h.pool == pool.key
                )
                mine = np.array([v.pool.key == pool.key for v in columns.variants])[columns.variant]
                if resource == "nodes":
                    amount = np.ones(columns.count)
                elif resource in columns.resources:
                    amount = columns.capacity[:, columns.resources.index(resource)]
                else:
                    continue
                self.names.append((pool.key, resource))
                left.append(float(limit - used))
                use.append(np.where(mine, amount, 0.0))
                inclusive.append(pool.limits_inclusive)
        for code, reservation in enumerate(columns.reservation_ids):
            if reservation is not None:
                self.names.append(("", reservation))
                left.append(float(columns.free_in.get(reservation, 0)))
                use.append((columns.reservation == code).astype(np.float64))
                inclusive.append(True)
        self.left: Floats = np.array(left)
        self.use: Floats = np.array(use).T if use else np.zeros((columns.count, 0))
        self.inclusive: Bools = np.array(inclusive, np.bool_)

    def free_in(self, reservation: str) -> float:
        """Nodes that the reservation still takes."""
        return float(self.left[self.names.index(("", reservation))])

    @property
    def any(self) -> bool:
        return bool(len(self.left))

    def affordable(self) -> Bools:
        """Columns of which one more node may be made."""
        if not self.any:
            return np.ones(self.columns.count, np.bool_)
        within = self.use <= self.left + 1e-6
        started = (self.left > 0) & ~self.inclusive
        out: Bools = (within | (self.use == 0) | started[None, :]).all(axis=1)
        return out

    def spend(self, column: int) -> None:
        if self.any:
            self.left = self.left - self.use[column]

    def give_back(self, column: int) -> None:
        if self.any:
            self.left = self.left + self.use[column]

    def spend_all(self, columns: Ints) -> None:
        if self.any and len(columns):
            self.left = self.left - self.use[columns].sum(axis=0)

    def copy(self) -> "Limits":
        out = object.__new__(Limits)
        out.columns, out.names, out.use, out.inclusive = self.columns, self.names, self.use, self.inclusive
        out.left = self.left.copy()
        return out

"""The account's books: every instance it rented out, what it has cost so far, and every API call it answered.

Owns the facts that moto does not keep (since when an instance is billed, whether others may see it yet, under which
token it was asked for) and the money. Time comes in as an argument. Neighbours: `account` writes, the dials' board and
the machines read.
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

_CALLS_KEPT = 50_000


@dataclass
class Rented:
    """One instance: pool, times (epoch seconds) and what it has cost up to `billed_to`. `ec2` is moto's object."""

    instance_id: str
    instance_type: str
    zone: str
    capacity_type: str
    ec2: Any
    launched_at: float
    visible_at: float
    reservation_id: str = ""
    placement: dict[str, Any] = field(default_factory=lambda: {"GroupName": "", "Tenancy": "default"})
    """Group, partition and tenancy as DescribeInstances has them."""
    client_token: str | None = None
    capacity_reservation: str = ""
    """Id of the capacity reservation that it sits in."""
    running_at: float | None = None
    ended_at: float | None = None
    cost_usd: float = 0.0
    billed_to: float = 0.0

    @property
    def state(self) -> str:
        """EC2's word for it: pending, running, shutting-down, terminated, stopping, stopped."""
        return str(self.ec2.state)

    @property
    def billed(self) -> bool:
        """Whether it costs money now."""
        return self.ended_at is None and self.running_at is not None

    def tags(self) -> dict[str, str]:
        """Its tags as they are now."""
        return dict(self.ec2.ec2_backend.tags.get(self.instance_id, {}))


class Ledger:
    """Instances and their cost. `price` gives USD per hour for (type, zone, capacity type) at a time."""

    def __init__(self, price: Callable[[str, str, str, float], float]) -> None:
        self._price = price
        self._lock = threading.RLock()
        self._rented: dict[str, Rented] = {}
        self._forgotten_usd = 0.0

    def add(self, entry: Rented) -> None:
        """Enter a launched instance."""
        with self._lock:
            self._rented[entry.instance_id] = entry

    def get(self, instance_id: str) -> Rented | None:
        """The entry, or None for an instance that was never launched here."""
        return self._rented.get(instance_id)

    def all(self) -> list[Rented]:
        """Every entry, in the order of launch."""
        with self._lock:
            return list(self._rented.values())

    def start_billing(self, entry: Rented, now: float) -> None:
        """From `now` on the instance runs and costs money."""
        with self._lock:
            entry.running_at = entry.billed_to = now

    def stop_billing(self, entry: Rented, now: float) -> None:
        """From `now` on it costs nothing more."""
        with self._lock:
            self._bill(entry, now)
            entry.ended_at = now

    def forget(self, entries: Iterable[Rented]) -> None:
        """Drop ended instances from the list; what they cost stays in the total."""
        with self._lock:
            for entry in entries:
                if self._rented.pop(entry.instance_id, None) is not None:
                    self._forgotten_usd += entry.cost_usd

    def accrue(self, now: float) -> None:
        """Bill every running instance up to `now` at the price of the moment."""
        with self._lock:
            for entry in self._rented.values():
                self._bill(entry, now)

    def statement(self, now: float) -> dict[str, Any]:
        """Money so far and per hour now, in total and per instance; USD, times in epoch seconds."""
        with self._lock:
            self.accrue(now)
            lines = [self._line(entry, now) for entry in self._rented.values()]
        return {
            "at": now,
            "total_usd": round(self._forgotten_usd + sum(line["cost_usd"] for line in lines), 6),
            "rate_usd_per_hour": round(sum(line["rate_usd_per_hour"] for line in lines), 6),
            "running": sum(1 for line in lines if line["ended_at"] is None),
            "launched": len(lines),
            "instances": lines,
        }

    def _bill(self, entry: Rented, now: float) -> None:
        if not entry.billed or now <= entry.billed_to:
            return
        rate = self._price(entry.instance_type, entry.zone, entry.capacity_type, entry.billed_to)
        entry.cost_usd += rate * (now - entry.billed_to) / 3600
        entry.billed_to = now

    def _line(self, entry: Rented, now: float) -> dict[str, Any]:
        rate = self._price(entry.instance_type, entry.zone, entry.capacity_type, now) if entry.billed else 0.0
        return {
            "instance_id": entry.instance_id,
            "instance_type": entry.instance_type,
            "zone": entry.zone,
            "capacity_type": entry.capacity_type,
            "state": entry.state,
            "launched_at": entry.launched_at,
            "running_at": entry.running_at,
            "ended_at": entry.ended_at,
            "cost_usd": round(entry.cost_usd, 8),
            "rate_usd_per_hour": round(rate, 6),
        }


@dataclass(frozen=True)
class Call:
    """One answered API call. `at` is its arrival (epoch seconds), `seconds` how long the answer took."""

    number: int
    at: float
    seconds: float
    service: str
    action: str
    status: int
    error: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)


class CallLog:
    """The last calls, and how many there were of each action."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self.clear()

    def clear(self) -> None:
        """Forget all calls; numbering goes on."""
        with self._lock:
            self._calls: deque[Call] = deque(maxlen=_CALLS_KEPT)
            self._counts: Counter[str] = Counter()
            self._errors: Counter[str] = Counter()

    def add(self, **facts: Any) -> None:
        """Enter a call (fields of Call without the number)."""
        with self._lock:
            call = Call(number=next(self._numbers), **facts)
            self._calls.append(call)
            self._counts[call.action] += 1
            if call.error:
                self._errors[f"{call.action}:{call.error}"] += 1

    def shown(self, action: str | None = None, after: int = 0, limit: int = 1000) -> dict[str, Any]:
        """Counts of everything, and the newest `limit` calls of `action` (None: of all) numbered above `after`."""
        with self._lock:
            calls = [c for c in self._calls if c.number > after and action in (None, c.action)]
            return {
                "counts": dict(self._counts),
                "errors": dict(self._errors),
                "calls": [vars(call) for call in calls[-limit:]],
            }

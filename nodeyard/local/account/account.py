"""The account itself: moto's models, our books, prices and dials, and what happens to an instance over its life.

Owns every state change of an instance (pending → running → shutting-down → terminated), tells the queue and whoever
listens, and keeps the answers given under a ClientToken. All of it happens under `lock`: moto's models are not
thread-safe. Neighbours: `ec2` and `fleet` (the API) call `enter` and `terminate`; `machines` listens.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import structlog
from moto.backends import get_backend
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.ec2.models.instances import StateReason

from nodeyard.local.account import events
from nodeyard.local.account.agenda import Agenda
from nodeyard.local.account.book import CallLog, Ledger, Rented
from nodeyard.local.account.catalogue import description
from nodeyard.local.account.dials import Dials
from nodeyard.local.account.mailbox import Mailbox
from nodeyard.local.account.placement import PlacementGroups
from nodeyard.local.account.prices import SpotMarket, on_demand_usd_per_hour
from nodeyard.local.account.reserved import ReservationDesk
from nodeyard.local.account.seed import Backends, sow

log = structlog.get_logger(__name__)

_PENDING, _RUNNING, _SHUTTING_DOWN = ("pending", 0), ("running", 16), ("shutting-down", 32)
_REMEMBER_ENDED_SECONDS = 3600.0
_BILLING_SECONDS = 5.0
_TAKEN_BACK = {
    "spot": "Server.SpotInstanceTermination",
    "reservation": "Server.CapacityReservationInterruption",
}
"""Notices that an instance is taken away after, and the reason that it shows then."""


class UnknownInstanceError(LookupError):
    """No instance of that id was launched here."""


class Account:
    """One simulated account in one region, for one cluster."""

    def __init__(
        self, *, region: str, cluster: str, seed: int = 7, clock: Callable[[], float] = time.time
    ) -> None:
        self.region, self.cluster, self.clock = region, cluster, clock
        self.account_id = DEFAULT_ACCOUNT_ID
        self.lock = threading.RLock()
        self.dials = Dials()
        self.groups = PlacementGroups()
        self.calls = CallLog()
        self.agenda = Agenda()
        self.spot = SpotMarket(self.on_demand_price, seed, clock())
        self.last_history: tuple[str, list[dict[str, Any]]] | None = None
        """The last answer to DescribeSpotPriceHistory, before it is cut into pages."""
        self.ledger = Ledger(self._price)
        self.reserved = ReservationDesk(
            self.ledger, clock, self._later, self.terminate, account_id=self.account_id, region=region
        )
        self.answers: dict[tuple[str, ...], tuple[str, Any]] = {}
        self.listeners: list[Callable[[], None]] = []
        self._on_demand: dict[tuple[str, str], float] = {}
        self.backends = self._empty_backends()
        with self.lock:
            sow(self.backends, cluster)
            self._mailbox = Mailbox(self.backends.sqs, cluster)
            _find_images_by_id(self.backends.ec2)
        self.agenda.later(_BILLING_SECONDS, self._keep_books)

    def close(self) -> None:
        """Stop the account's clock and forget everything in it."""
        self.agenda.close()
        with self.lock:
            for name in ("ec2", "iam", "ssm", "sqs"):
                get_backend(name)[self.account_id].reset()

    def _empty_backends(self) -> Backends:
        """Fresh models of every service; anything an earlier account in this process left behind is dropped."""
        # The account brings its own images; moto's 500 cost two seconds and a millisecond of each launch.
        os.environ["MOTO_EC2_LOAD_DEFAULT_AMIS"] = "false"
        found = {}
        for name in ("ec2", "iam", "ssm", "sqs"):
            every = get_backend(name)[self.account_id]
            every.reset()
            found[name] = every["aws" if name == "iam" else self.region]
        return Backends(account_id=self.account_id, region=self.region, **found)

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        def locked() -> None:
            with self.lock:
                act()

        self.agenda.later(seconds, locked)

    # -- prices

    def on_demand_price(self, instance_type: str, region: str = "") -> float:
        """USD per hour, in this region by default. Raises KeyError for a type that does not exist."""
        key = (instance_type, region or self.region)
        price = self._on_demand.get(key)
        if price is None:
            found = description(instance_type)
            if found is None:
                raise KeyError(instance_type)
            price = self._on_demand[key] = on_demand_usd_per_hour(found, key[1])
        return price

    def _price(self, instance_type: str, zone: str, capacity_type: str, at: float) -> float:
        if capacity_type == "spot":
            return self.spot.price(instance_type, zone, at)
        return self.on_demand_price(instance_type)

    # -- the life of an instance

    def enter(self, instance: Any, *, spot: bool, reservation_id: str, client_token: str | None) -> Rented:
        """Take a fresh moto instance into the books and start its life. Hold `lock`."""
        now = self.clock()
        instance.lifecycle = "spot" if spot else None
        instance.client_token = client_token
        entry = Rented(
            instance_id=instance.id,
            instance_type=instance.instance_type,
            zone=str(instance.placement.zone),
            capacity_type="spot" if spot else "on-demand",
            ec2=instance,
            launched_at=now,
            visible_at=now + self.dials.consistency.lag_seconds,
            reservation_id=reservation_id,
            client_token=client_token,
        )
        _become(instance, _PENDING)
        self.ledger.add(entry)
        dials = self.dials.machines_for(entry.instance_id, entry.instance_type)
        self.agenda.later(dials.pending_seconds, lambda: self._run(entry))
        return entry

    def _run(self, entry: Rented) -> None:
        with self.lock:
            if entry.state != "pending":
                return
            _become(entry.ec2, _RUNNING)
            self.ledger.start_billing(entry, self.clock())
        self._tell(entry)

    def terminate(self, instance_id: str, reason: str = "Client.UserInitiatedShutdown") -> tuple[str, str]:
        """Begin to end an instance; (previous, current) state. Raises UnknownInstanceError. Ending twice is no error."""
        with self.lock:
            entry = self.ledger.get(instance_id)
            if entry is None:
                raise UnknownInstanceError(instance_id)
            previous = entry.state
            if previous in ("shutting-down", "terminated"):
                return previous, previous
            _become(entry.ec2, _SHUTTING_DOWN)
            entry.ec2.state_reason = StateReason(f"{reason}: {instance_id} ends", reason)
            self.ledger.stop_billing(entry, self.clock())
        self._tell(entry)
        dials = self.dials.machines_for(entry.instance_id, entry.instance_type)
        self.agenda.later(dials.shutdown_seconds, lambda: self._end(entry))
        return previous, "shutting-down"

    def _end(self, entry: Rented) -> None:
        with self.lock:
            if entry.state == "terminated":
                return
            kept = entry.ec2.state_reason
            entry.ec2.terminate()
            entry.ec2.state_reason = kept
        self._tell(entry)

    def interrupt(self, instance_id: str, kind: str, delay_seconds: float) -> None:
        """Send a notice about an instance and, for "spot" and "reservation", take it away `delay_seconds` later.

        Raises UnknownInstanceError; ValueError for a kind that is none of `events.KINDS`.
        """
        if kind not in events.KINDS:
            raise ValueError(f"kind: {kind!r} is none of {', '.join(events.KINDS)}")
        entry = self.ledger.get(instance_id)
        if entry is None:
            raise UnknownInstanceError(instance_id)
        self.notify(kind, entry, ends_at=self.clock() + delay_seconds)
        if (reason := _TAKEN_BACK.get(kind)) is not None:
            self.agenda.later(delay_seconds, lambda: self._take_back(instance_id, reason))

    def _take_back(self, instance_id: str, reason: str) -> None:
        self.terminate(instance_id, reason)

    def notify(self, kind: str, entry: Rented, ends_at: float = 0.0) -> None:
        """Put one EventBridge message about an instance into the cluster's queue."""
        body = events.message(
            kind,
            event_id=str(uuid.uuid4()),
            account_id=self.account_id,
            region=self.region,
            at=self.clock(),
            instance_id=entry.instance_id,
            state=entry.state,
            ends_at=ends_at,
        )
        self._mailbox.post(body, self.clock())

    def _tell(self, entry: Rented) -> None:
        self.notify("state-change", entry)
        for listener in list(self.listeners):
            listener()

    def _keep_books(self) -> None:
        """Bill, and forget what ended an hour ago (as EC2 does), so that addresses and memory come back."""
        now = self.clock()
        self.ledger.accrue(now)
        with self.lock:
            old = [e for e in self.ledger.all() if e.ended_at and now - e.ended_at > _REMEMBER_ENDED_SECONDS]
            for entry in old:
                self.backends.ec2.reservations.pop(entry.reservation_id, None)
            self.ledger.forget(old)
        self.agenda.later(_BILLING_SECONDS, self._keep_books)


def _find_images_by_id(ec2: Any) -> None:
    """Let moto's Instance find its image without filtering all images (1 ms of each launch)."""
    describe = ec2.describe_images

    def quick(*args: Any, **kwargs: Any) -> list[Any]:
        wanted = kwargs.get("filters")
        if not args and len(kwargs) == 1 and isinstance(wanted, dict) and set(wanted) == {"image-id"}:
            found = wanted["image-id"]
            if isinstance(found, str):
                return [ec2.amis[found]] if found in ec2.amis else []
        images: list[Any] = describe(*args, **kwargs)
        return images

    ec2.describe_images = quick


def _become(instance: Any, state: tuple[str, int]) -> None:
    instance._state.name, instance._state.code = state

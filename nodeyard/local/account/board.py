"""The dials' board: health and dials over HTTP, JSON in and out. Times in seconds, money in USD.

    GET    /healthz                     pid, region, cluster, url of the queue, machines
    GET    /dials                       everything; DELETE puts everything back to its default
    GET    /dials/machines              PUT {register_seconds, ready_seconds, devices_seconds, pending_seconds,
                                        memory_missing_fraction, pod_start_seconds, pod_exit_seconds, shutdown_seconds}
    PUT    /dials/machines/PATTERN      the same for the machines whose type or instance id matches; DELETE
    POST   /dials/capacity              {instance_type, zone, capacity_type: patterns, left: 0}; DELETE [/ID]
    POST   /dials/faults                {kind: throttle|slow|fail, service, action: patterns, every_nth,
                                        rate_per_second, burst, seconds, code, message, status, after_effect, times};
                                        DELETE [/ID]
    POST   /dials/interrupt             {instance_id, kind: spot|reservation|rebalance|scheduled-change|state-change,
                                        delay_seconds: 120}
    POST   /dials/reservations          {instance_type, zone, count, kind: default|capacity-block, match: open|targeted,
                                        interruptible, ends_in_seconds, owner_id, tags, placement_group};
                                        PUT /ID {count, ends_in_seconds}; DELETE /ID cancels
    PUT    /dials/consistency           {lag_seconds}
    PUT    /dials/zonal-shift           {zone_ids: of the zones that traffic is shifted away from}
    PUT    /dials/spot                  {seed, speed}
    POST   /dials/spot/prices           {instance_type, zone: patterns, price_usd_per_hour}; DELETE
    GET    /dials/calls?action=&after=&limit=   API calls: counts, errors, the newest calls; DELETE forgets them
    GET    /dials/cost                  money so far, per hour now, and per instance
    GET    /dials/nodes                 what became of each machine

A request that cannot be understood is answered 400 with {"error": what and where}; an unknown path 404.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import parse_qs, unquote

import msgspec
from moto.ec2.exceptions import EC2ClientError

from nodeyard.local.account.account import Account, UnknownInstanceError
from nodeyard.local.account.dials import (
    BadDialError,
    CapacityRule,
    Consistency,
    Fault,
    Seconds,
    decoded,
)
from nodeyard.local.account.reserved import ReservationTurn, ReservationWish

Reply = tuple[int, Any]


class Interruption(msgspec.Struct, forbid_unknown_fields=True):
    """Body of POST /dials/interrupt."""

    instance_id: str
    kind: str = "spot"
    delay_seconds: Seconds = 120.0


class Shift(msgspec.Struct, forbid_unknown_fields=True):
    """Body of PUT /dials/zonal-shift."""

    zone_ids: tuple[str, ...] = ()


class SpotTurn(msgspec.Struct, forbid_unknown_fields=True):
    """Body of PUT /dials/spot."""

    seed: int | None = None
    speed: Annotated[float, msgspec.Meta(ge=0, le=100_000)] | None = None


class SpotPrice(msgspec.Struct, forbid_unknown_fields=True):
    """Body of POST /dials/spot/prices."""

    price_usd_per_hour: Annotated[float, msgspec.Meta(gt=0)]
    instance_type: str = "*"
    zone: str = "*"


class Board:
    """Answers /healthz and /dials. `machines` tells what became of each machine."""

    def __init__(self, account: Account, machines: Callable[[], list[dict[str, Any]]]) -> None:
        self._account = account
        self._machines = machines
        self._routes: dict[str, Callable[[str, str | None, dict[str, str], Any], Reply]] = {
            "": self._all,
            "machines": self._machine_dials,
            "capacity": self._capacity,
            "faults": self._faults,
            "interrupt": self._interrupt,
            "reservations": self._reservations,
            "consistency": self._consistency,
            "zonal-shift": self._zonal_shift,
            "spot": self._spot,
            "calls": self._calls,
            "cost": self._cost,
            "nodes": self._nodes,
        }

    def answer(self, method: str, path: str, query: str, body: bytes) -> tuple[int, bytes]:
        """(status, JSON document) for one request."""
        status, document = self._reply(method, path, query, body)
        return status, json.dumps(document).encode()

    def _reply(self, method: str, path: str, query: str, body: bytes) -> Reply:
        if path == "/healthz":
            return 200, self._health()
        parts = [unquote(part) for part in path.strip("/").split("/")]
        topic, rest = (parts[1] if len(parts) > 1 else ""), ("/".join(parts[2:]) or None)
        route = self._routes.get(topic)
        if route is None:
            return 404, {
                "error": f"no dial {topic!r}; there are {', '.join(name for name in self._routes if name)}"
            }
        try:
            given = json.loads(body) if body.strip() else {}
            return route(method, rest, {k: v[-1] for k, v in parse_qs(query).items()}, given)
        except UnknownInstanceError as error:
            return 404, {"error": f"no instance {error}"}
        except (BadDialError, ValueError, TypeError) as error:
            return 400, {"error": f"{method} {path}: {error}"}

    def _health(self) -> dict[str, Any]:
        account = self._account
        return {
            "pid": os.getpid(),
            "region": account.region,
            "cluster": account.cluster,
            "account_id": account.account_id,
            "queue": account.cluster,
            "instances": len(account.ledger.all()),
            "machines": len(self._machines()),
        }

    def _all(self, method: str, _rest: str | None, _query: dict[str, str], _given: Any) -> Reply:
        if method == "DELETE":
            self._account.dials.reset()
            self._account.spot.clear_prices()
            self._account.spot.turn(self._account.clock(), speed=1.0)
        elif method != "GET":
            return _not_allowed(method)
        return 200, {**self._account.dials.shown(), "spot": self._account.spot.shown()}

    def _machine_dials(self, method: str, rest: str | None, _query: dict[str, str], given: Any) -> Reply:
        dials = self._account.dials
        if method in ("PUT", "POST", "PATCH"):
            dials.turn_machines(_object(given), rest)
        elif method == "DELETE" and rest:
            if not dials.forget_machine_rule(rest):
                return 404, {"error": f"no rule for machines {rest!r}"}
        elif method != "GET":
            return _not_allowed(method)
        shown = dials.shown()
        return 200, {"machines": shown["machines"], "machine_rules": shown["machine_rules"]}

    def _capacity(self, method: str, rest: str | None, _query: dict[str, str], given: Any) -> Reply:
        dials = self._account.dials
        if method == "POST":
            return 201, msgspec.to_builtins(dials.add_capacity_rule(decoded(given, CapacityRule)))
        if method == "DELETE":
            return _dropped(dials.drop_capacity_rules(rest), rest)
        return (200, dials.shown()["capacity"]) if method == "GET" else _not_allowed(method)

    def _faults(self, method: str, rest: str | None, _query: dict[str, str], given: Any) -> Reply:
        dials = self._account.dials
        if method == "POST":
            return 201, msgspec.to_builtins(dials.add_fault(decoded(given, Fault)))
        if method == "DELETE":
            return _dropped(dials.drop_faults(rest), rest)
        return (200, dials.shown()["faults"]) if method == "GET" else _not_allowed(method)

    def _interrupt(self, method: str, _rest: str | None, _query: dict[str, str], given: Any) -> Reply:
        if method != "POST":
            return _not_allowed(method)
        wish: Interruption = decoded(given, Interruption)
        self._account.interrupt(wish.instance_id, wish.kind, wish.delay_seconds)
        return 202, msgspec.to_builtins(wish)

    def _reservations(self, method: str, rest: str | None, _query: dict[str, str], given: Any) -> Reply:
        desk = self._account.reserved
        with self._account.lock:
            try:
                if method == "POST":
                    return 201, _reservation(desk.shown(desk.make(decoded(given, ReservationWish))))
                if method == "PUT" and rest:
                    return 200, _reservation(desk.shown(desk.turn(rest, decoded(given, ReservationTurn))))
                if method == "DELETE" and rest:
                    desk.cancel(rest)
                elif method != "GET":
                    return _not_allowed(method)
            except EC2ClientError as error:
                raise BadDialError(str(error.message)) from error
            return 200, [_reservation(desk.shown(one)) for one in desk.all()]

    def _consistency(self, method: str, _rest: str | None, _query: dict[str, str], given: Any) -> Reply:
        if method in ("PUT", "POST"):
            self._account.dials.consistency = decoded(given, Consistency)
        elif method != "GET":
            return _not_allowed(method)
        return 200, msgspec.to_builtins(self._account.dials.consistency)

    def _zonal_shift(self, method: str, _rest: str | None, _query: dict[str, str], given: Any) -> Reply:
        if method == "PUT":
            self._account.dials.shifted = decoded(given, Shift).zone_ids
        elif method != "GET":
            return _not_allowed(method)
        return 200, {"zone_ids": list(self._account.dials.shifted)}

    def _spot(self, method: str, rest: str | None, _query: dict[str, str], given: Any) -> Reply:
        spot, now = self._account.spot, self._account.clock()
        if rest == "prices" and method == "POST":
            price: SpotPrice = decoded(given, SpotPrice)
            spot.set_price(price.instance_type, price.zone, price.price_usd_per_hour, now)
        elif rest == "prices" and method == "DELETE":
            spot.clear_prices()
        elif rest is None and method in ("PUT", "POST"):
            turn: SpotTurn = decoded(given, SpotTurn)
            spot.turn(now, turn.seed, turn.speed)
        elif method != "GET":
            return _not_allowed(method)
        return 200, spot.shown()

    def _calls(self, method: str, _rest: str | None, query: dict[str, str], _given: Any) -> Reply:
        if method == "DELETE":
            self._account.calls.clear()
        elif method != "GET":
            return _not_allowed(method)
        after, limit = int(query.get("after", 0)), int(query.get("limit", 1000))
        return 200, self._account.calls.shown(query.get("action"), after, limit)

    def _cost(self, method: str, _rest: str | None, _query: dict[str, str], _given: Any) -> Reply:
        return (
            (200, self._account.ledger.statement(self._account.clock()))
            if method == "GET"
            else _not_allowed(method)
        )

    def _nodes(self, method: str, _rest: str | None, _query: dict[str, str], _given: Any) -> Reply:
        return (200, self._machines()) if method == "GET" else _not_allowed(method)


def _reservation(shown: dict[str, Any]) -> dict[str, Any]:
    """A reservation as JSON can carry it."""
    return {key: value.isoformat() if isinstance(value, datetime) else value for key, value in shown.items()}


def _object(given: Any) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise BadDialError(f"expected an object, got {type(given).__name__}")
    return given


def _dropped(count: int, wanted: str | None) -> Reply:
    if wanted is not None and count == 0:
        return 404, {"error": f"nothing has the id {wanted!r}"}
    return 200, {"removed": count}


def _not_allowed(method: str) -> Reply:
    return 405, {"error": f"{method} does not turn this dial"}

"""The dials: everything about this world that a person or a test may turn, as checked values.

Owns the settings of the machines, the capacity that is missing, the faults of the API and the consistency lag;
refuses a value that makes no sense with a sentence naming the field. Thread-safe: the HTTP board writes, the API
front, the launcher and the machines read. Neighbours: `board` (HTTP), `faults` (what a call meets), `fleet`.
"""

from __future__ import annotations

import fnmatch
import threading
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import msgspec

Seconds = Annotated[float, msgspec.Meta(ge=0, le=86_400 * 365)]
Fraction = Annotated[float, msgspec.Meta(ge=0, lt=1)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Taken = tuple[str, str, str, int]
"""Instance type, zone, capacity type, how many."""


class BadDialError(ValueError):
    """A dial was asked for a value it cannot take; the message names the field and the reason."""


class MachineDials(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the machines behave, from CreateFleet's answer to the end. All times in seconds.

    `pending_seconds` EC2's pending state; `register_seconds` from running to the Node object (null: it never
    joins); `ready_seconds` from the Node object to Ready; `devices_seconds` from the Node object to its devices
    (GPUs …) in allocatable; `memory_missing_fraction` of the nominal memory that firmware and kernel keep;
    `pod_start_seconds` from admission to Running; `pod_exit_seconds` from a pod's deletion to its end, at most its
    grace period; `shutdown_seconds` from shutting-down to terminated.
    """

    pending_seconds: Seconds = 0.0
    register_seconds: Seconds | None = 0.5
    ready_seconds: Seconds = 0.0
    devices_seconds: Seconds = 0.0
    memory_missing_fraction: Fraction = 0.065
    pod_start_seconds: Seconds = 0.0
    pod_exit_seconds: Seconds = 0.1
    shutdown_seconds: Seconds = 0.2


class CapacityRule(msgspec.Struct, forbid_unknown_fields=True):
    """Pools whose patterns match have only `left` instances left to launch (0: out of capacity)."""

    instance_type: str = "*"
    zone: str = "*"
    capacity_type: str = "*"
    left: Count = 0
    id: str = ""

    def matches(self, instance_type: str, zone: str, capacity_type: str) -> bool:
        """Whether the rule speaks of this pool; patterns are shell-style."""
        return (
            fnmatch.fnmatchcase(instance_type, self.instance_type)
            and fnmatch.fnmatchcase(zone, self.zone)
            and fnmatch.fnmatchcase(capacity_type, self.capacity_type)
        )


class Fault(msgspec.Struct, forbid_unknown_fields=True):
    """Something a matching API call meets.

    `kind` "throttle": RequestLimitExceeded for every call, or each `every_nth`, or above `rate_per_second` after a
    `burst` (one second's calls if not given).
    "slow": the call waits `seconds` before it takes effect. "fail": the call is answered with `code` and `status`
    and has no effect, or, with `after_effect`, takes effect and then the connection is cut without an answer.
    `times` is how many calls it still meets (null: until it is removed; 1 is the default of "fail").
    """

    kind: Literal["throttle", "slow", "fail"]
    service: str = "*"
    action: str = "*"
    every_nth: Positive | None = None
    rate_per_second: Annotated[float, msgspec.Meta(gt=0)] | None = None
    burst: Positive | None = None
    seconds: Seconds = 0.0
    code: str = "InternalError"
    message: str = "An internal error has occurred"
    status: Annotated[int, msgspec.Meta(ge=400, le=599)] = 500
    after_effect: bool = False
    times: Positive | None = None
    id: str = ""

    def matches(self, service: str, action: str) -> bool:
        """Whether the fault is meant for this action; patterns are shell-style."""
        return fnmatch.fnmatchcase(service, self.service) and fnmatch.fnmatchcase(action, self.action)


class Consistency(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """EC2's eventual consistency: a new instance is invisible to DescribeInstances for `lag_seconds`."""

    lag_seconds: Seconds = 0.0


def changed(value: Any, patch: dict[str, Any]) -> Any:
    """A copy of the struct `value` with the fields of `patch`; raises BadDialError for what does not fit."""
    return decoded({**msgspec.to_builtins(value), **patch}, type(value))


def decoded(raw: Any, kind: Any) -> Any:
    """`raw` (decoded JSON) as `kind`; raises BadDialError naming the field that does not fit."""
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        raise BadDialError(str(error)) from error


class Dials:
    """All dials of one account, behind one lock."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._next_id = 0
        self.reset()

    def reset(self) -> None:
        """Every dial back to its default."""
        with self._lock:
            self._machines = MachineDials()
            self._machine_rules: dict[str, dict[str, Any]] = {}
            self._capacity: dict[str, CapacityRule] = {}
            self._faults: dict[str, Fault] = {}
            self.consistency = Consistency()
            self.shifted: tuple[str, ...] = ()

    def shown(self) -> dict[str, Any]:
        """All of them, as JSON can carry them."""
        with self._lock:
            return {
                "machines": msgspec.to_builtins(self._machines),
                "machine_rules": dict(self._machine_rules),
                "capacity": [msgspec.to_builtins(rule) for rule in self._capacity.values()],
                "faults": [msgspec.to_builtins(fault) for fault in self._faults.values()],
                "consistency": msgspec.to_builtins(self.consistency),
                "zonal_shift": list(self.shifted),
            }

    # -- machines

    def machines_for(self, instance_id: str, instance_type: str) -> MachineDials:
        """The dials of one machine: the general ones, changed by each rule whose pattern names it."""
        with self._lock:
            dials = self._machines
            for pattern, patch in self._machine_rules.items():
                if fnmatch.fnmatchcase(instance_type, pattern) or fnmatch.fnmatchcase(instance_id, pattern):
                    dials = changed(dials, patch)
            return dials

    def turn_machines(self, patch: dict[str, Any], pattern: str | None = None) -> None:
        """Change the dials of all machines, or of those whose type or instance id matches `pattern`."""
        with self._lock:
            checked = changed(self._machines, patch)
            if pattern is None:
                self._machines = checked
            else:
                self._machine_rules[pattern] = {**self._machine_rules.get(pattern, {}), **patch}

    def forget_machine_rule(self, pattern: str) -> bool:
        """Drop the rule; False when there is none."""
        with self._lock:
            return self._machine_rules.pop(pattern, None) is not None

    # -- capacity

    def add_capacity_rule(self, rule: CapacityRule) -> CapacityRule:
        """Put a rule in force; the answer carries its id."""
        with self._lock:
            rule.id = self._new_id("capacity")
            self._capacity[rule.id] = rule
            return rule

    def drop_capacity_rules(self, rule_id: str | None = None) -> int:
        """Remove one rule, or all; how many went."""
        with self._lock:
            return _drop(self._capacity, rule_id)

    def room(
        self, instance_type: str, zone: str, capacity_type: str, promised: Iterable[Taken] = ()
    ) -> int | None:
        """How many instances the pool can still give, less what is `promised` from pools of the same rules; None when
        there is no limit.
        """
        with self._lock:
            left = [
                rule.left - sum(count for *other, count in promised if rule.matches(*other))
                for rule in self._capacity.values()
                if rule.matches(instance_type, zone, capacity_type)
            ]
            return max(0, min(left)) if left else None

    def take(self, instance_type: str, zone: str, capacity_type: str, count: int) -> None:
        """Count `count` launched instances against every rule that limits their pool."""
        with self._lock:
            for rule in self._capacity.values():
                if rule.matches(instance_type, zone, capacity_type):
                    rule.left = max(0, rule.left - count)

    # -- faults

    def add_fault(self, fault: Fault) -> Fault:
        """Put a fault in force; the answer carries its id. A "fail" without `times` meets one call."""
        with self._lock:
            fault.id = self._new_id("fault")
            if fault.kind == "fail" and fault.times is None:
                fault.times = 1
            self._faults[fault.id] = fault
            return fault

    def drop_faults(self, fault_id: str | None = None) -> int:
        """Remove one fault, or all; how many went."""
        with self._lock:
            return _drop(self._faults, fault_id)

    def faults_for(self, service: str, action: str) -> list[Fault]:
        """The faults in force for an action, in the order they were set."""
        with self._lock:
            return [fault for fault in self._faults.values() if fault.matches(service, action)]

    def spend(self, fault: Fault) -> bool:
        """Use up one of the fault's `times`; False when another call was faster and none is left."""
        with self._lock:
            if fault.id not in self._faults:
                return False
            if fault.times is not None:
                fault.times -= 1
                if fault.times == 0:
                    del self._faults[fault.id]
            return True

    def _new_id(self, kind: str) -> str:
        self._next_id += 1
        return f"{kind}-{self._next_id}"


def _drop(entries: dict[str, Any], entry_id: str | None) -> int:
    if entry_id is None:
        count = len(entries)
        entries.clear()
        return count
    return 0 if entries.pop(entry_id, None) is None else 1

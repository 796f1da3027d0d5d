"""What an API call meets before and after it takes effect: throttling, slowness, failures, a cut connection.

A call asks once, `meet`, and gets a verdict; waiting is the caller's business (no lock is held meanwhile). Buckets
and counters per fault live here. Source of the throttling error: the EC2 API reference, "Request throttling".
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from nodeyard.local.account.dials import Dials, Fault


@dataclass(frozen=True)
class Refusal:
    """An API error to answer with, instead of doing anything."""

    code: str
    message: str
    status: int


@dataclass(frozen=True)
class Verdict:
    """What awaits a call: seconds to wait first, an error instead of an effect, a cut connection after it."""

    wait_seconds: float = 0.0
    refusal: Refusal | None = None
    cut_after: bool = False


class Faults:
    """Decides, call by call, which of the dialled faults it meets."""

    def __init__(self, dials: Dials) -> None:
        self._dials = dials
        self._lock = threading.Lock()
        self._seen: dict[str, int] = {}
        self._buckets: dict[str, tuple[float, float]] = {}

    def meet(self, service: str, action: str, now: float) -> Verdict:
        """The verdict for one call at `now` (seconds, any steady clock)."""
        wait, refusal, cut = 0.0, None, False
        for fault in self._dials.faults_for(service, action):
            if refusal or cut:
                break
            if fault.kind == "throttle" and not self._throttled(fault, now):
                continue
            if not self._dials.spend(fault):
                continue
            if fault.kind == "slow":
                wait += fault.seconds
            elif fault.kind == "throttle":
                refusal = throttling(service)
            elif fault.after_effect:
                cut = True
            else:
                refusal = Refusal(fault.code, fault.message, fault.status)
        return Verdict(wait, refusal, cut)

    def _throttled(self, fault: Fault, now: float) -> bool:
        with self._lock:
            if fault.every_nth is not None:
                seen = self._seen[fault.id] = self._seen.get(fault.id, 0) + 1
                return seen % fault.every_nth == 0
            if fault.rate_per_second is not None:
                return not self._spend_token(fault, fault.rate_per_second, now)
            return True

    def _spend_token(self, fault: Fault, rate: float, now: float) -> bool:
        """A token bucket that holds the burst, else one second of calls (at least one)."""
        size = max(1.0, fault.burst or rate)
        tokens, at = self._buckets.get(fault.id, (size, now))
        tokens = min(size, tokens + (now - at) * rate)
        enough = tokens >= 1.0
        self._buckets[fault.id] = (tokens - 1.0 if enough else tokens, now)
        return enough


def throttling(service: str) -> Refusal:
    """The throttling error as the service words it."""
    if service == "ec2":
        return Refusal("RequestLimitExceeded", "Request limit exceeded.", 503)
    return Refusal("ThrottlingException", "Rate exceeded", 400)

"""A NodePool's `spec.disruption`, and the annotations that refine it, as a Disruption.

The spec's own fields are Karpenter's; `timeZone`, `start`, `end` and `allowWindows` are ours, as are the annotations
(docs/disruption.md). Whatever can't be read keeps its default and becomes a problem that names it; budgets keep their
text, so that what can't be read allows nothing. Source: Karpenter documentation, "NodePools", "Disruption".
"""

from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Final, TypeVar
from zoneinfo import ZoneInfo

import msgspec

from nodeyard.api import labels as keys
from nodeyard.api import objects, validation
from nodeyard.api.pool import (
    BALANCED,
    WHEN_EMPTY,
    WHEN_UNDERUTILIZED,
    Budget,
    Disruption,
    Renewal,
    Steadiness,
)

POLICIES: Final = (WHEN_EMPTY, WHEN_UNDERUTILIZED, BALANCED)
REASONS: Final = frozenset({"Underutilized", "Empty", "Drifted", "Expired"})
MAX_BUDGETS: Final = 50
ANY_PAYBACK_S: Final = 1e9
"""What "Never" becomes: finite, so that it travels as JSON."""
_MOST_JITTER: Final = 0.5
T = TypeVar("T")


def disruption_of(raw: objects.RawDisruption, annotations: Mapping[str, str]) -> tuple[Disruption, list[str]]:
    """The pool's disruption, and what of it can't be read. `annotations` are the NodePool's own."""
    at = "spec.disruption"
    after_s, problems = validation.read_duration(
        raw.consolidate_after, f"{at}.consolidateAfter", default_s=0.0
    )
    if raw.consolidation_policy not in POLICIES:
        problems.append(
            f"{at}.consolidationPolicy: {raw.consolidation_policy!r} is none of {', '.join(POLICIES)}"
        )
    reader = _Annotations(annotations, problems)
    found = Disruption(
        raw.consolidation_policy,
        after_s,
        allow_windows=_budgets(raw.allow_windows, f"{at}.allowWindows", problems),
        steadiness=_steadiness(reader),
        renewal=_renewal(reader),
    )
    for index, window in enumerate(found.allow_windows):
        if not (window.schedule or window.start or window.end):
            problems.append(f"{at}.allowWindows[{index}]: needs a schedule, a start or an end")
    if raw.budgets is not None:
        budgets = _budgets(raw.budgets, f"{at}.budgets", problems)
        found = msgspec.structs.replace(found, budgets=budgets)
    return found, problems


def _budgets(raw: tuple[objects.RawBudget, ...], at: str, problems: list[str]) -> tuple[Budget, ...]:
    if len(raw) > MAX_BUDGETS:
        problems.append(f"{at}: {len(raw)} are more than {MAX_BUDGETS}")
    return tuple(_budget(one, f"{at}[{index}]", problems) for index, one in enumerate(raw))


def _budget(raw: objects.RawBudget, at: str, problems: list[str]) -> Budget:
    nodes = str(raw.nodes)
    duration_s, bad_duration = validation.read_duration(raw.duration, f"{at}.duration", default_s=None)
    problems.extend(bad_duration)
    if problem := validation.nodes_problem(nodes):
        problems.append(f"{at}.nodes: {problem}")
    if bool(raw.schedule) != (raw.duration is not None):
        problems.append(f"{at}: schedule and duration belong together")
    if raw.schedule and (problem := validation.cron_problem(raw.schedule)):
        problems.append(f"{at}.schedule: {problem}")
    if raw.duration == "Never":
        problems.append(f"{at}.duration: can't be Never")
    problems.extend(
        f"{at}.reasons: {reason!r} is none of {', '.join(sorted(REASONS))}"
        for reason in raw.reasons
        if reason not in REASONS
    )
    for field, text in (("start", raw.start), ("end", raw.end)):
        try:
            moment(text)
        except ValueError:
            problems.append(f"{at}.{field}: {text!r} is not a time like 2026-12-24T18:00:00Z")
    try:
        zone(raw.time_zone)
    except ValueError as error:
        problems.append(f"{at}.timeZone: {error}")
    return Budget(
        nodes, raw.schedule or "", duration_s, raw.reasons, raw.time_zone, raw.start, raw.end
    )  # fmt: skip


def moment(text: str) -> float | None:
    """Seconds since the epoch of an RFC 3339 time with its offset, None for an empty text. Raises ValueError."""
    if not text:
        return None
    read = datetime.fromisoformat(text)
    if read.tzinfo is None:
        raise ValueError(f"{text!r} has no offset")
    return read.timestamp()


@lru_cache(maxsize=256)
def zone(name: str) -> ZoneInfo:
    """The time zone of that name, UTC for an empty one. Raises ValueError for one that is not known."""
    try:
        return ZoneInfo(name or "UTC")
    except (ValueError, OSError, KeyError) as error:
        raise ValueError(f"{name!r} is not a time zone like Europe/Berlin") from error


class _Annotations:
    """Reads annotations; what can't be read is a problem and has its default."""

    def __init__(self, annotations: Mapping[str, str], problems: list[str]) -> None:
        self._annotations = annotations
        self._problems = problems

    def amount(self, key: str, default: float) -> float:
        """USD, not negative."""
        text = self._annotations.get(key)
        if text is None:
            return default
        try:
            amount = float(text)
        except ValueError:
            amount = -1.0
        return amount if 0.0 <= amount < 1e6 else self._bad(key, text, "an amount in USD", default)

    def share(self, key: str, most: float) -> float:
        """A share as "5%" or "0.05", at most `most`; 0 where absent."""
        text = self._annotations.get(key)
        if text is None:
            return 0.0
        try:
            share = float(text[:-1]) / 100 if text.endswith("%") else float(text)
        except ValueError:
            share = -1.0
        return share if 0.0 <= share <= most else self._bad(key, text, f"a share up to {most:.0%}", 0.0)

    def duration(self, key: str, never_s: float | None) -> float | None:
        """Seconds, `never_s` for "Never"; None where absent."""
        text = self._annotations.get(key)
        if text == "Never":
            return never_s
        seconds, problems = validation.read_duration(text, f"metadata.annotations[{key}]", default_s=None)
        self._problems.extend(problems)
        return seconds

    def choice(self, key: str, first: str, second: str) -> bool:
        """Whether the second word is there; the first where absent."""
        text = self._annotations.get(key, first)
        return (
            text == second if text in (first, second) else self._bad(key, text, f"{first} or {second}", False)
        )

    def _bad(self, key: str, text: str, wanted: str, default: T) -> T:
        self._problems.append(f"metadata.annotations[{key}]: {text!r} is not {wanted}")
        return default


def _steadiness(read: _Annotations) -> Steadiness:
    return Steadiness(
        read.amount(keys.MIN_SAVING, 0.0),
        read.share(keys.MIN_SAVING_SHARE, 1.0),
        read.duration(keys.MAX_PAYBACK, ANY_PAYBACK_S),
        read.duration(keys.NO_RETURN, 0.0),
    )


def _renewal(read: _Annotations) -> Renewal:
    return Renewal(
        waves=not read.choice(keys.DRIFT_WAVES, "On", "Off"),
        wave_pause_s=read.duration(keys.DRIFT_WAVE_PAUSE, 0.0) or 0.0,
        graceful_expiry=read.choice(keys.EXPIRY, "Forceful", "Graceful"),
        expiry_jitter=read.share(keys.EXPIRY_JITTER, _MOST_JITTER),
        expiry_cap_s=read.duration(keys.EXPIRY_CAP, None),
    )

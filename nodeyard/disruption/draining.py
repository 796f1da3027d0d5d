"""Which pods of a node that goes away are evicted or deleted now, and what the others wait for.

Four tiers, one after the other: pods that aren't critical, their daemons, critical pods, critical daemons. Pods that
would come straight back (they tolerate the taint), that belong to the node itself, or that have hung in termination
for over a minute are not waited for. With a deadline, each pod is deleted early enough to use its grace period, in
whatever tier and whatever protects it. Sources: Karpenter documentation, "Termination Controller" and
"TerminationGracePeriod"; Kubernetes documentation, "Safely Drain a Node".
"""

import enum
import math
from collections.abc import Iterable, Mapping
from typing import Final

from nodeyard.api.pod import PodKey, PodRecord, PodShape, ShapeId
from nodeyard.api.selectors import Value
from nodeyard.disruption.evictability import evicted, protected

_CRITICAL_PRIORITY: Final = 2_000_000_000
"""system-cluster-critical; nothing users define may be as high."""
_STUCK_S: Final = 60.0


class Wait(enum.StrEnum):
    TERMINATING = "Terminating"
    PROTECTED = "PodDoNotDisrupt"
    EARLIER_TIER = "EarlierTier"
    SUCCESSOR = "Successor"
    """Another replica of it is being started."""


class Waiting(Value, frozen=True):
    pod: PodKey
    why: Wait


class Deletion(Value, frozen=True):
    """A pod to delete outright, with this grace period."""

    pod: PodKey
    grace_s: int


class Drain(Value, frozen=True):
    """What to do now. `left` counts all pods the drain is not done without."""

    evict: tuple[PodKey, ...] = ()
    delete: tuple[Deletion, ...] = ()
    waiting: tuple[Waiting, ...] = ()
    left: int = 0


class Verdict(enum.StrEnum):
    """What the API server said to an eviction or a deletion."""

    ACCEPTED = "Accepted"
    GONE = "Gone"
    """No such pod, or another of the same name."""
    BLOCKED = "Blocked"
    """A budget allows none now, or several cover the pod."""
    FAILED = "Failed"


class Answer(Value, frozen=True):
    """`code` is the HTTP status, 0 where there was no answer."""

    verdict: Verdict
    code: int = 200
    message: str = ""


def drain(
    pods: Iterable[PodRecord],
    shapes: Mapping[ShapeId, PodShape],
    now: float,
    *,
    deadline: float | None = None,
    all_or_none: bool = False,
) -> Drain:
    """The next step of draining a node. `all_or_none`: one protected pod keeps all pods where they are (v1alpha5)."""
    left = [pod for pod in pods if drainable(pod, shapes[pod.shape], now)]
    delete = tuple(d for pod in left if (d := _overdue(pod, now, deadline)) is not None)
    deleted = {d.pod for d in delete}
    rest = sorted((p for p in left if p.key not in deleted), key=lambda p: (tier(p, shapes[p.shape]), p.key))
    halted = all_or_none and any(protected(pod, now) for pod in rest)
    first = min((tier(p, shapes[p.shape]) for p in left), default=0)
    evict: list[PodKey] = []
    waiting: list[Waiting] = []
    for pod in rest:
        if pod.terminating:
            waiting.append(Waiting(pod.key, Wait.TERMINATING))
        elif protected(pod, now) or halted:
            waiting.append(Waiting(pod.key, Wait.PROTECTED))
        elif tier(pod, shapes[pod.shape]) > first:
            waiting.append(Waiting(pod.key, Wait.EARLIER_TIER))
        else:
            evict.append(pod.key)
    return Drain(tuple(evict), delete, tuple(waiting), len(left))


def drainable(pod: PodRecord, shape: PodShape, now: float) -> bool:
    """Whether the drain has to see the pod off."""
    return evicted(pod, shape) and not (pod.terminating and now - pod.deleted_at > _STUCK_S)


def tier(pod: PodRecord, shape: PodShape) -> int:
    """0 to 3: the order in which pods leave."""
    return 2 * (shape.priority >= _CRITICAL_PRIORITY) + pod.daemon


def _overdue(pod: PodRecord, now: float, deadline: float | None) -> Deletion | None:
    """The deletion that gets the pod away by the deadline, once its grace period no longer fits before it."""
    if deadline is None:
        return None
    grace = max(1, math.floor(deadline - now))
    if pod.terminating:
        return Deletion(pod.key, grace) if pod.deleted_at > max(deadline, now) + 1.0 else None
    return Deletion(pod.key, grace) if now >= deadline - pod.grace_period_s else None

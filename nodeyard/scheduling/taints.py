"""Taints and tolerations, and the taints that a starting node carries for a while only.

Source: kubernetes.io "Taints and Tolerations"; Karpenter documentation, "Scheduling", for the ephemeral ones.
"""

from collections.abc import Iterable

from nodeyard.api import labels as keys
from nodeyard.api.selectors import Taint, Toleration

HARD = frozenset({keys.NO_SCHEDULE, keys.NO_EXECUTE})
SOFT = frozenset({keys.PREFER_NO_SCHEDULE})
_EPHEMERAL = frozenset(
    {
        (keys.TAINT_NOT_READY, keys.NO_SCHEDULE),
        (keys.TAINT_NOT_READY, keys.NO_EXECUTE),
        (keys.TAINT_UNREACHABLE, keys.NO_SCHEDULE),
        (keys.TAINT_CLOUD_UNINITIALIZED, keys.NO_SCHEDULE),
        (keys.TAINT_CLOUD_UNINITIALIZED, keys.NO_EXECUTE),
        (keys.TAINT_UNREGISTERED, keys.NO_SCHEDULE),
        (keys.TAINT_UNREGISTERED, keys.NO_EXECUTE),
    }
)


def tolerates_one(toleration: Toleration, taint: Taint) -> bool:
    """Whether one toleration covers one taint. An empty key needs Exists, an empty effect covers every effect."""
    if toleration.effect and toleration.effect != taint.effect:
        return False
    if toleration.key and toleration.key != taint.key:
        return False
    if toleration.operator == "Exists":
        return True
    return bool(toleration.key) and toleration.value == taint.value


def untolerated(
    tolerations: Iterable[Toleration], taints: Iterable[Taint], effects: frozenset[str] = HARD
) -> Taint | None:
    """The first taint with one of the effects that nothing tolerates, else None."""
    held = tuple(tolerations)
    for taint in taints:
        if taint.effect in effects and not any(tolerates_one(t, taint) for t in held):
            return taint
    return None


def tolerates(
    tolerations: Iterable[Toleration], taints: Iterable[Taint], effects: frozenset[str] = HARD
) -> bool:
    """Whether a pod may be scheduled onto a node with these taints, as far as they have one of the effects."""
    return untolerated(tolerations, taints, effects) is None


def ephemeral(taint: Taint) -> bool:
    """A taint that a node loses by itself while it starts."""
    return (taint.key, taint.effect) in _EPHEMERAL or taint.key.startswith(keys.READINESS_DOMAIN)


def lasting_taints(
    taints: Iterable[Taint], startup: Iterable[Taint], *, initialized: bool
) -> tuple[Taint, ...]:
    """The taints that count for planning: on a node still starting, ephemeral and startup taints do not."""
    if initialized:
        return tuple(taints)
    temporary = {(t.key, t.effect) for t in startup}
    return tuple(t for t in taints if not ephemeral(t) and (t.key, t.effect) not in temporary)

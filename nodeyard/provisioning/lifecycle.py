"""A NodeClaim's way from written to Initialized: which step is due, and what each writes.

Owns the table of states and reasons (`next_step`), what a node gets at registration, and when it counts as
initialized. Refuses to act on what it cannot identify: two nodes with one provider id are left alone. Pure; the
allocator carries the steps out, the reallocator takes over from the deletion of a launched claim.
Source: Karpenter documentation, "NodeClaims" and "NodePools" (taints, startup taints).
"""

import enum
from collections.abc import Sequence
from typing import Final

import msgspec

from nodeyard.api import labels as keys
from nodeyard.api.node import INITIALIZED, LAUNCHED, READY, REGISTERED, Condition, Node, NodeClaim
from nodeyard.api.quantity import CPU, EPHEMERAL_STORAGE, MEMORY, PODS
from nodeyard.api.selectors import Taint

UNREGISTERED: Final = Taint(keys.TAINT_UNREGISTERED, keys.NO_EXECUTE)
HOLD: Final = Taint(keys.BIND_HOLD, keys.NO_SCHEDULE)
HOLD_S: Final = 10.0
"""Longest time that the bind-hold taint keeps the kube-scheduler off a node."""
MESSAGE_LIMIT: Final = 300
_EPHEMERAL: Final = frozenset(
    {
        (keys.TAINT_NOT_READY, keys.NO_SCHEDULE),
        (keys.TAINT_NOT_READY, keys.NO_EXECUTE),
        (keys.TAINT_UNREACHABLE, keys.NO_SCHEDULE),
        (keys.TAINT_CLOUD_UNINITIALIZED, keys.NO_SCHEDULE),
        (keys.TAINT_UNREGISTERED, keys.NO_EXECUTE),
    }
)
_PLAIN: Final = frozenset({CPU, MEMORY, PODS, EPHEMERAL_STORAGE})


class Step(enum.StrEnum):
    """What is due for a claim. WAIT: nothing before the cluster or the clock moves."""

    WAIT = "wait"
    FINALIZE = "finalize"
    LAUNCH = "launch"
    GIVE_UP_LAUNCH = "give-up-launch"
    REGISTER = "register"
    GIVE_UP_REGISTRATION = "give-up-registration"
    INITIALIZE = "initialize"


class Deadlines(msgspec.Struct, frozen=True):
    """Seconds: from creation to Launched, and from launched to Registered."""

    launch_s: float = 300.0
    registration_s: float = 900.0


def next_step(claim: NodeClaim, node: Node | None, now: float, deadlines: Deadlines) -> Step:
    """The step that is due for `claim`, whose node (by provider id) is `node`."""
    if claim.deleting:
        return (
            Step.WAIT
            if claim.provider_id or keys.TERMINATION_FINALIZER not in claim.finalizers
            else Step.FINALIZE
        )
    if not claim.provider_id:
        return Step.GIVE_UP_LAUNCH if now - claim.created_at > deadlines.launch_s else Step.LAUNCH
    if not claim.is_true(REGISTERED):
        if node is not None:
            return Step.REGISTER
        return Step.GIVE_UP_REGISTRATION if now - launched_at(claim) > deadlines.registration_s else Step.WAIT
    if not claim.is_true(INITIALIZED) and node is not None:
        return Step.INITIALIZE
    return Step.WAIT


def launched_at(claim: NodeClaim) -> float:
    """When the wait for its node began: seconds since the epoch."""
    for kind in (REGISTERED, LAUNCHED):
        condition = claim.condition(kind)
        if condition is not None and condition.since:
            return condition.since
    return claim.created_at


class Registration(msgspec.Struct, frozen=True):
    """What a node is to look like once registered. `unregistered_missing`: it joined without our taint."""

    labels: dict[str, str]
    annotations: dict[str, str]
    taints: tuple[Taint, ...]
    finalizers: tuple[str, ...]
    unregistered_missing: bool


def registration(node: Node, claim: NodeClaim, *, hold_until: str = "") -> Registration:
    """The claim's labels, annotations and taints put on its node, the unregistered taint gone.

    `hold_until` (RFC 3339) adds the bind-hold taint in the same write, so that no scheduler gets in between.
    """
    annotations = {**node.annotations, **{k: v for k, v in claim.annotations.items() if not ours(k)}}
    if hold_until:
        annotations[keys.BIND_HOLD_DEADLINE] = hold_until
    taints = [t for t in node.taints if t.key != keys.TAINT_UNREGISTERED]
    if (
        claim.annotations.get(keys.DO_NOT_SYNC_TAINTS) != "true"
        and node.labels.get(keys.DO_NOT_SYNC_TAINTS) != "true"
    ):
        taints = _merged(taints, (*claim.taints, *claim.startup_taints))
    if hold_until:
        taints = _merged(taints, (HOLD,))
    finalizers = node.finalizers
    if keys.TERMINATION_FINALIZER not in finalizers:
        finalizers = (*finalizers, keys.TERMINATION_FINALIZER)
    return Registration(
        labels={**node.labels, **claim.labels, keys.REGISTERED: "true"},
        annotations=annotations,
        taints=tuple(taints),
        finalizers=finalizers,
        unregistered_missing=all(t.key != keys.TAINT_UNREGISTERED for t in node.taints),
    )


def ours(annotation: str) -> bool:
    """Whether an annotation speaks of the claim only and is not for the node."""
    return annotation.startswith(("nodeyard.dev/", "kubectl.kubernetes.io/"))


def _merged(have: Sequence[Taint], wanted: Sequence[Taint]) -> list[Taint]:
    """`have` and whatever of `wanted` it lacks; a taint is known by key and effect."""
    known = {(t.key, t.effect) for t in have}
    out = list(have)
    for taint in wanted:
        if (taint.key, taint.effect) not in known:
            known.add((taint.key, taint.effect))
            out.append(taint)
    return out


def without_taint(taints: Sequence[Taint], key: str) -> tuple[Taint, ...]:
    """The taints but those of `key`."""
    return tuple(t for t in taints if t.key != key)


def ephemeral(taint: Taint) -> bool:
    """Whether the taint goes by itself while a node starts."""
    return (taint.key, taint.effect) in _EPHEMERAL or taint.key.startswith(keys.READINESS_DOMAIN)


def starting_taint(node: Node, claim: NodeClaim) -> Taint | None:
    """A taint that says the node is still starting: a startup taint of the claim's, or an ephemeral one."""
    startup = {(t.key, t.effect) for t in claim.startup_taints}
    return next((t for t in node.taints if (t.key, t.effect) in startup or ephemeral(t)), None)


def held(node: Node) -> bool:
    """Whether our taint keeps the kube-scheduler off the node."""
    return any(t.key == keys.BIND_HOLD for t in node.taints)


def not_initialized(node: Node, claim: NodeClaim) -> tuple[str, str] | None:
    """(reason, message) why the node is not initialized yet; None when it is.

    A node that is held for its first pods to be bound is not: until it is open, nobody may judge it by its being empty,
    nor by how long its pods take to land. One that keeps places for pods that come back is held beyond that.
    """
    if not node.ready:
        return "NodeNotReady", "the node is not Ready"
    if taint := starting_taint(node, claim):
        reason = "EphemeralTaintsExist" if ephemeral(taint) else "StartupTaintsExist"
        return reason, f"taint {taint.key}:{taint.effect} is still on the node"
    for resource, amount in sorted(claim.requests.items()):
        if amount > 0 and node.allocatable.get(resource, 0) <= 0:
            return "ResourceNotRegistered", f"the node does not offer {resource} yet"
    if held(node) and keys.KEPT_PLACES not in claim.annotations:
        return "HeldForPods", "the node is held until its pods are bound"
    return None


def needs_daemon(requests: dict[str, int], volume_claims: Sequence[str]) -> bool:
    """Whether a pod needs what only a daemon on the node brings: a device, or a CSI driver for its volumes."""
    return bool(volume_claims) or any(
        amount > 0 and name not in _PLAIN and not name.startswith("hugepages-")
        for name, amount in requests.items()
    )


def with_condition(claim: NodeClaim, condition: Condition, now: float) -> tuple[Condition, ...]:
    """The claim's conditions with this one in place: its time is `now` where the status changed, and Ready kept
    true to the other three.
    """
    rest = {c.type: c for c in claim.conditions}
    before = rest.get(condition.type)
    since = before.since if before is not None and before.status == condition.status and before.since else now
    rest[condition.type] = msgspec.structs.replace(
        condition, since=since, message=condition.message[:MESSAGE_LIMIT]
    )
    for kind in (LAUNCHED, REGISTERED, INITIALIZED):
        rest.setdefault(kind, Condition(kind, "Unknown", "AwaitingReconciliation", "", now))
    rest[READY] = _ready(rest, now)
    return tuple(rest[kind] for kind in sorted(rest))


def _ready(conditions: dict[str, Condition], now: float) -> Condition:
    waiting = [kind for kind in (LAUNCHED, REGISTERED, INITIALIZED) if conditions[kind].status != "True"]
    failed = [kind for kind in waiting if conditions[kind].status == "False"]
    status = "True" if not waiting else "False" if failed else "Unknown"
    reason = READY if not waiting else "UnhealthyDependents" if failed else "ReconcilingDependents"
    before = conditions.get(READY)
    since = before.since if before is not None and before.status == status and before.since else now
    return Condition(READY, status, reason, ", ".join(f"{kind} is not true" for kind in waiting), since)

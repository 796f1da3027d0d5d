"""The way of a node out of the cluster, one step at a time.

`next_step` looks at what is (claim, node, pods, volumes, instance) and names the one thing to do next; conditions on
the claim remember what is behind us, so any replica goes on where another stopped. The order: deadline, node deletion,
taint, drain, volumes, instance, node's finalizer, claim's finalizer. An instance that is gone while its node is not
ready skips the drain. Source: Karpenter documentation, "Termination Controller".
"""

import enum
from datetime import UTC, datetime
from typing import Final

import msgspec

from nodeyard.api import labels as keys
from nodeyard.api.node import LAUNCHED, Condition, Node, NodeClaim
from nodeyard.api.pod import PodRecord
from nodeyard.api.selectors import Value
from nodeyard.disruption.budgets import INSTANCE_TERMINATING
from nodeyard.disruption.commands import disrupted
from nodeyard.disruption.draining import Drain, drain, drainable
from nodeyard.state.cluster import Snapshot

DRAINED: Final = "Drained"
VOLUMES_DETACHED: Final = "VolumesDetached"
MIN_DRAIN_S: Final = 5.0
"""A drain lasts at least this long, so that load balancers and late bindings are seen."""
POLL_S: Final = 1.0


class InstanceState(enum.StrEnum):
    UNKNOWN = "Unknown"
    """Not asked yet."""
    UP = "Up"
    """Pending, running, stopping or stopped."""
    STOPPING = "ShuttingDown"
    GONE = "Gone"
    """Terminated, or the cloud does not know it."""
    FOREIGN = "Foreign"
    """Not tagged as this cluster's; only asked of nodes without a claim."""


class Do(enum.StrEnum):
    """What to do next."""

    LEAVE = "Leave"
    DESCRIBE_INSTANCE = "DescribeInstance"
    SET_DEADLINE = "SetDeadline"
    DELETE_NODE = "DeleteNode"
    MARK_NODE = "MarkNode"
    DRAIN = "Drain"
    LIST_ATTACHMENTS = "ListAttachments"
    SET_CONDITIONS = "SetConditions"
    TERMINATE_INSTANCE = "TerminateInstance"
    DROP_NODE_FINALIZER = "DropNodeFinalizer"
    DROP_CLAIM_FINALIZER = "DropClaimFinalizer"
    WAIT = "Wait"
    DONE = "Done"


class Facts(msgspec.Struct, frozen=True):
    """One node on its way out. `claim` or `node` may be missing. `attached`: names of the PersistentVolumes still
    attached to it, None while not asked. `now` in seconds since the epoch.
    """

    snapshot: Snapshot
    claim: NodeClaim | None
    node: Node | None
    now: float
    instance: InstanceState = InstanceState.UNKNOWN
    attached: frozenset[str] | None = None

    @property
    def pods(self) -> list[PodRecord]:
        return self.snapshot.pods_of_node(self.node.name) if self.node is not None else []

    @property
    def provider_id(self) -> str:
        if self.claim is not None and self.claim.provider_id:
            return self.claim.provider_id
        return self.node.provider_id if self.node is not None else ""


class Step(Value, frozen=True):
    """`wait_s`: look again after this long at the latest, also when nothing changed."""

    do: Do
    why: str = ""
    wait_s: float = 0.0
    deadline: float | None = None
    drain: Drain | None = None
    conditions: tuple[Condition, ...] = ()


def next_step(facts: Facts) -> Step:
    """The one thing to do now."""
    claim, node = facts.claim, facts.node
    if claim is not None and not claim.provider_id and not claim.is_true(LAUNCHED):
        return Step(Do.LEAVE, "it was never launched; its launcher finalizes it")
    if claim is None and node is None:
        return Step(Do.DONE)
    if (node is None or not node.ready) and facts.provider_id:
        if facts.instance is InstanceState.UNKNOWN:
            return Step(Do.DESCRIBE_INSTANCE)
        if facts.instance is InstanceState.GONE:
            return _finish(facts)
    return _tighten(facts) or _take_down_node(facts) or _take_down_instance(facts)


def deadline_of(claim: NodeClaim | None) -> float | None:
    """When everything on the node ends, whatever protects it; None: never."""
    text = claim.annotations.get(keys.TERMINATION_TIMESTAMP, "") if claim is not None else ""
    try:
        return datetime.fromisoformat(text).timestamp() if text else None
    except ValueError:
        return None


def render_time(at: float) -> str:
    """RFC 3339 in UTC, whole seconds."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _tighten(facts: Facts) -> Step | None:
    """A deadline is only ever moved closer."""
    claim = facts.claim
    if claim is None or claim.termination_grace_period_s is None:
        return None
    wanted = float(int((claim.deleted_at or facts.now) + claim.termination_grace_period_s))
    known = deadline_of(claim)
    if known is not None and known <= wanted:
        return None
    return Step(Do.SET_DEADLINE, deadline=wanted)


def _take_down_node(facts: Facts) -> Step | None:
    """Empties the node; None once it is behind us or there is nothing to empty."""
    node, claim = facts.node, facts.claim
    if node is None:
        return None
    if not node.deleted_at and keys.TERMINATION_FINALIZER in node.finalizers:
        return Step(Do.DELETE_NODE)
    if not node.registered and keys.TERMINATION_FINALIZER not in node.finalizers:
        return None
    if not disrupted(node) or node.labels.get(keys.EXCLUDE_BALANCERS) != "karpenter":
        return Step(Do.MARK_NODE)
    if claim is not None and claim.is_true(INSTANCE_TERMINATING):
        return None
    return _empty(facts) or _detach(facts)


def _empty(facts: Facts) -> Step | None:
    claim, node = facts.claim, facts.node
    assert node is not None
    if claim is not None and claim.is_true(DRAINED):
        return None
    pool = (claim.pool if claim is not None else "") or node.pool
    todo = drain(
        facts.pods,
        facts.snapshot.shapes,
        facts.now,
        deadline=deadline_of(claim),
        all_or_none=pool.startswith("provisioner/"),
    )
    if todo.left:
        conditions = _changed(claim, Condition(DRAINED, "Unknown", "Draining", f"{todo.left} pods left"))
        return Step(Do.DRAIN, f"{todo.left} pods left", POLL_S, drain=todo, conditions=conditions)
    began = max(node.deleted_at, claim.deleted_at if claim is not None else 0.0)
    if facts.now - began < MIN_DRAIN_S:
        return Step(Do.WAIT, "a drain lasts at least five seconds", MIN_DRAIN_S - (facts.now - began))
    if claim is not None:
        return Step(Do.SET_CONDITIONS, conditions=(Condition(DRAINED, "True", DRAINED),))
    return None


def _detach(facts: Facts) -> Step | None:
    claim = facts.claim
    if claim is not None and claim.condition(VOLUMES_DETACHED) is not None:
        known = claim.condition(VOLUMES_DETACHED)
        if known is not None and known.status != "Unknown":
            return None
    deadline = deadline_of(claim)
    if deadline is not None and facts.now >= deadline:
        late = Condition(VOLUMES_DETACHED, "False", "TerminationGracePeriodElapsed")
        return Step(Do.SET_CONDITIONS, conditions=(late,)) if claim is not None else None
    if facts.attached is None:
        return Step(Do.LIST_ATTACHMENTS)
    left = facts.attached - _volumes_that_stay(facts)
    if left:
        conditions = _changed(
            claim, Condition(VOLUMES_DETACHED, "Unknown", "AwaitingVolumeDetachment", f"{len(left)} volumes attached")
        )  # fmt: skip
        if conditions:
            return Step(Do.SET_CONDITIONS, conditions=conditions)
        return Step(Do.WAIT, "volumes are still attached", POLL_S)
    if claim is not None:
        return Step(Do.SET_CONDITIONS, conditions=(Condition(VOLUMES_DETACHED, "True", VOLUMES_DETACHED),))
    return None


def _volumes_that_stay(facts: Facts) -> frozenset[str]:
    """PersistentVolumes of pods that the drain leaves on the node; their attachments end with it."""
    snapshot = facts.snapshot
    names = set()
    for pod in facts.pods:
        shape = snapshot.shapes[pod.shape]
        if drainable(pod, shape, facts.now):
            continue
        for claim_name in shape.volume_claims:
            pvc = snapshot.pvcs.get(f"{pod.namespace}/{claim_name}")
            if pvc is not None and pvc.volume_name:
                names.add(pvc.volume_name)
    return frozenset(names)


def _take_down_instance(facts: Facts) -> Step:
    claim = facts.claim
    if not facts.provider_id:
        return _finish(facts)
    match facts.instance:
        case InstanceState.UNKNOWN:
            return Step(Do.DESCRIBE_INSTANCE)
        case InstanceState.GONE:
            return _finish(facts)
        case InstanceState.FOREIGN:
            return Step(Do.LEAVE, "its instance is not tagged as this cluster's")
        case InstanceState.UP:
            return Step(Do.TERMINATE_INSTANCE)
        case InstanceState.STOPPING:
            if claim is not None and not claim.is_true(INSTANCE_TERMINATING):
                condition = Condition(INSTANCE_TERMINATING, "True", INSTANCE_TERMINATING)
                return Step(Do.SET_CONDITIONS, conditions=(condition,))
            return Step(Do.WAIT, "the instance is shutting down", POLL_S)


def _finish(facts: Facts) -> Step:
    node, claim = facts.node, facts.claim
    if node is not None:
        if not node.deleted_at:
            return Step(Do.DELETE_NODE)
        if keys.TERMINATION_FINALIZER in node.finalizers:
            return Step(Do.DROP_NODE_FINALIZER)
        return Step(Do.WAIT, "the node object has finalizers of others", POLL_S)
    if claim is not None and keys.TERMINATION_FINALIZER in claim.finalizers:
        return Step(Do.DROP_CLAIM_FINALIZER)
    return Step(Do.DONE)


def _changed(claim: NodeClaim | None, condition: Condition) -> tuple[Condition, ...]:
    """The condition if it says something new (its message aside)."""
    if claim is None:
        return ()
    old = claim.condition(condition.type)
    same = old is not None and (old.status, old.reason) == (condition.status, condition.reason)
    return () if same else (condition,)

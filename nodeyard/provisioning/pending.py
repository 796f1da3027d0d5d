"""Which pods need a place now: the pending ones nobody has promised a place to, and those of nodes going away.

Owns the meaning of "pending": refused by the kube-scheduler, not waiting for preemption, and not already promised to
a claim on its way. Pods of nodes that are being deleted count before they are evicted, so that their places come up
while the drain runs. Neighbours: the allocator's loop (when to look), `planner` (where they go).
Source: Karpenter documentation, "Scheduling" and "Disruption"; Kubernetes API reference, policy/v1.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from nodeyard.api import labels as keys
from nodeyard.api.cluster import PodDisruptionBudget
from nodeyard.api.duration import parse_duration
from nodeyard.api.node import INITIALIZED, Node, NodeClaim
from nodeyard.api.pod import PodKey, PodRecord, PodShape
from nodeyard.api.quantity import fits, total
from nodeyard.api.selectors import LabelSelector
from nodeyard.provisioning.claims import planned_pods_of, was_planned
from nodeyard.provisioning.keeping import Kind as KindOfPod
from nodeyard.provisioning.keeping import homes, kind_of
from nodeyard.state.cluster import Snapshot

LANDING_S: Final = 30.0
"""How long a promised pod may stay unbound after its node's initialization before it is planned again."""


class Pending(msgspec.Struct, frozen=True):
    """`pods`: pending ones to plan. `moving`: bound pods of `leaving` nodes, to plan as if unbound.
    `promised`: pending pods that a claim on its way was planned for, or whose place is kept -> that claim. Bound pods
    that will come back to a kept place are not moving.
    """

    pods: tuple[PodKey, ...] = ()
    moving: tuple[PodKey, ...] = ()
    leaving: frozenset[str] = frozenset()
    promised: Mapping[PodKey, str] = {}

    @property
    def all(self) -> tuple[PodKey, ...]:
        return (*self.pods, *self.moving)


def pending(snapshot: Snapshot, now: float) -> Pending:
    """What needs a place in this snapshot. `now`: seconds since the epoch."""
    promised = promises(snapshot, now)
    coming_back = homes(snapshot, now)
    promised |= coming_back.of
    pods, kept = [], {}
    for key, pod in snapshot.pods.items():
        if not pod.unschedulable or pod.node or not pod.provisionable or preempting(snapshot, pod):
            continue
        if keeps_off(snapshot.shape(pod)):
            continue
        if claim := promised.get(key):
            kept[key] = claim
        else:
            pods.append(key)
    leaving = frozenset(name for name, node in snapshot.nodes.items() if node_leaving(snapshot, node))
    moving = [key for node in sorted(leaving) for key in movable(snapshot, node, now)]
    return Pending(tuple(sorted(pods)), _without_a_place(snapshot, moving, coming_back.left), leaving, kept)


def _without_a_place(
    snapshot: Snapshot, moving: Iterable[PodKey], places: Counter[KindOfPod]
) -> tuple[PodKey, ...]:
    """Those of the moving pods that no place is kept for."""
    left, out = Counter(places), []
    for key in moving:
        kind = kind_of(snapshot.pods[key])
        if left[kind] > 0:
            left[kind] -= 1
        else:
            out.append(key)
    return tuple(out)


def keeps_off(shape: PodShape) -> bool:
    """Whether the pod must not land on nodes of any pool: then it is none of ours, and no word is lost about it."""
    if shape.node_affinity is None or shape.node_affinity.required is None:
        return False
    terms = shape.node_affinity.required.node_selector_terms
    return bool(terms) and all(
        any(e.key == keys.NODEPOOL and e.operator == "DoesNotExist" for e in t.match_expressions)
        for t in terms
    )


def promises(snapshot: Snapshot, now: float) -> dict[PodKey, str]:
    """Pod -> the live claim that it was planned for and may still land on.

    Once the claim's node is initialized, a pod counts on it only while there is room for it: one whose place others
    took is planned again at once.
    """
    out: dict[PodKey, str] = {}
    for name, claim in snapshot.claims.items():
        if keys.PLANNED_PODS not in claim.annotations or claim.deleting or landed_too_late(claim, now):
            continue
        if claim.is_true(INITIALIZED) and (node := snapshot.node_of(claim)) is not None:
            out.update(dict.fromkeys(awaited(snapshot, claim, node, now), name))
        else:
            out.update(dict.fromkeys(planned_pods_of(claim), name))
    return out


def awaited(snapshot: Snapshot, claim: NodeClaim, node: Node, now: float) -> tuple[PodKey, ...]:
    """Pods planned for the claim that may still land on its node, as far as there is room for them."""
    if keys.PLANNED_PODS not in claim.annotations or landed_too_late(claim, now):
        return ()
    return _still_fitting(snapshot, node, planned_pods_of(claim))


def _still_fitting(snapshot: Snapshot, node: Node, planned: Iterable[PodKey]) -> tuple[PodKey, ...]:
    """Those of the planned pods, still unbound, that the node has room for beside what is bound to it."""
    unbound = [key for key in planned if (pod := snapshot.pods.get(key)) is not None and not pod.node]
    if not unbound:
        return ()
    taken = total(snapshot.shape(pod).requests for pod in snapshot.pods_of_node(node.name))
    room = {name: amount - taken.get(name, 0) for name, amount in node.allocatable.items()}
    fitting = []
    for key in unbound:
        requests = snapshot.shape(snapshot.pods[key]).requests
        if fits(requests, room):
            fitting.append(key)
            room = {name: amount - requests.get(name, 0) for name, amount in room.items()}
    return tuple(fitting)


def landed_too_late(claim: NodeClaim, now: float) -> bool:
    """Whether pods planned for the claim that are still unbound must not count on it any more."""
    initialized = claim.condition(INITIALIZED)
    return initialized is not None and initialized.status == "True" and now - initialized.since > LANDING_S


def preempting(snapshot: Snapshot, pod: PodRecord) -> bool:
    """Whether somebody else nominated a node for it, that is, the kube-scheduler makes room there by preemption.

    A nomination is ours where a claim was planned for the pod and its node is the nominated one, and of no meaning
    where that node is gone or going.
    """
    if not pod.nominated_node:
        return False
    node = snapshot.nodes.get(pod.nominated_node)
    if node is None or node_leaving(snapshot, node):
        return False
    claim = snapshot.claim_of(node)
    return claim is None or not was_planned(claim, pod.key)


def node_leaving(snapshot: Snapshot, node: Node) -> bool:
    """Whether the node is being deleted, by its own deletion or its claim's. A taint alone is only an intention."""
    if node.deleted_at > 0:
        return True
    claim = snapshot.claim_of(node)
    return claim is not None and claim.deleting


def next_landing(snapshot: Snapshot, now: float) -> float | None:
    """Seconds until the next promise to a still unbound pod runs out; None if none will."""
    waits = []
    for claim in snapshot.claims.values():
        initialized = claim.condition(INITIALIZED)
        if (
            claim.deleting
            or initialized is None
            or initialized.status != "True"
            or landed_too_late(claim, now)
        ):
            continue
        if any(
            (pod := snapshot.pods.get(key)) is not None and pod.provisionable
            for key in planned_pods_of(claim)
        ):
            waits.append(initialized.since + LANDING_S - now)
    return max(0.0, min(waits)) if waits else None


def movable(snapshot: Snapshot, node: str, now: float) -> list[PodKey]:
    """The pods of a leaving node that will need another place and may leave it now."""
    budgets = [b for b in snapshot.pdbs.values() if fully_blocking(b)]
    return [
        pod.key
        for pod in snapshot.pods_of_node(node)
        if comes_back(pod) and not protected(pod, now) and not _blocked(snapshot.shape(pod), budgets)
    ]


def comes_back(pod: PodRecord) -> bool:
    """Whether a copy of the pod will have to be placed elsewhere. A terminating pod's successor exists already,
    except for a StatefulSet, which waits for the name to be free.
    """
    if pod.daemon or pod.finished or not pod.owner_kind:
        return False
    return not pod.terminating or pod.owner_kind == "StatefulSet"


def protected(pod: PodRecord, now: float) -> bool:
    """Whether do-not-disrupt holds now: "true" for ever, a duration counted from the pod's start."""
    if not pod.do_not_disrupt:
        return False
    if pod.do_not_disrupt == "true":
        return True
    seconds = _duration(pod.do_not_disrupt)
    return seconds is not None and (pod.started_at == 0.0 or now - pod.started_at < seconds)


def _duration(text: str) -> float | None:
    try:
        return parse_duration(text)
    except ValueError:
        return None


def fully_blocking(budget: PodDisruptionBudget) -> bool:
    """Whether the budget never lets a pod go: nothing may be unavailable, or everything must be available."""
    return budget.max_unavailable in ("0", "0%") or budget.min_available == "100%"


def _blocked(shape: PodShape, budgets: Iterable[PodDisruptionBudget]) -> bool:
    return any(b.namespace == shape.namespace and selects(b.selector, shape.labels) for b in budgets)


def selects(selector: LabelSelector | None, labels: Mapping[str, str]) -> bool:
    """Whether a label selector (None: nothing; empty: everything) matches."""
    if selector is None:
        return False
    if any(labels.get(key) != value for key, value in selector.match_labels.items()):
        return False
    return all(_expression(r.operator, r.values, labels.get(r.key)) for r in selector.match_expressions)


def _expression(operator: str, values: tuple[str, ...], have: str | None) -> bool:
    if operator == "In":
        return have is not None and have in values
    if operator == "NotIn":
        return have is None or have not in values
    return (have is not None) == (operator == "Exists")

"""How planned pods get onto their node: which are nominated, which may be bound, and what the planner says now.

Binding skips the kube-scheduler, so only pods that nothing else must act on first are ever bound, and only after the
planner's own filters accept each on the node as it really is. Everything else is nominated. Pure.
Source: Kubernetes documentation, "Pod Scheduling Readiness", "Dynamic Resource Allocation", "Storage Classes".
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec

from nodeyard.api import labels as keys
from nodeyard.api.node import Node, NodeClaim
from nodeyard.api.pod import PodKey, PodRecord, PodShape
from nodeyard.api.quantity import fits, total
from nodeyard.provisioning.claims import planned_pods_of
from nodeyard.provisioning.lifecycle import needs_daemon, without_taint
from nodeyard.provisioning.model import Options, Plan, Problem
from nodeyard.state.cluster import Snapshot

NOMINATE: Final = "nominate"
BIND: Final = "bind"
DEFAULT_SCHEDULER: Final = "default-scheduler"
Planner = Callable[[Problem, Options, Callable[[], float]], Plan]


class Landing(msgspec.Struct, frozen=True):
    """Pods still unbound that were planned for a node: `bind` only where the node can be held for them."""

    nominate: tuple[PodRecord, ...] = ()
    bind: tuple[PodRecord, ...] = ()


def landing(snapshot: Snapshot, claim: NodeClaim, mode: str) -> Landing:
    """How the claim's pods land. One pod that needs what a daemon brings keeps the whole node from being held, since
    that daemon's pods could be held off too.
    """
    waiting = waiting_pods(snapshot, claim)
    if mode != BIND or any(_needs_daemon(snapshot.shape(pod)) for pod in waiting):
        return Landing(nominate=tuple(waiting))
    bind = tuple(pod for pod in waiting if bindable(snapshot, pod))
    bound = {pod.key for pod in bind}
    return Landing(tuple(pod for pod in waiting if pod.key not in bound), bind)


def waiting_pods(snapshot: Snapshot, claim: NodeClaim) -> list[PodRecord]:
    """The pods planned for the claim that still wait for a place."""
    found = (snapshot.pods.get(key) for key in planned_pods_of(claim))
    return [pod for pod in found if pod is not None and pod.provisionable]


def with_room(snapshot: Snapshot, claim: NodeClaim, node: Node, pods: Sequence[PodRecord]) -> list[PodRecord]:
    """Those of the waiting pods whose places are still free beside what is bound to the node or nominated for it. A
    nomination for a place that is taken would keep out others whose places are there.
    """
    asked = {pod.key for pod in pods}
    others = [pod for pod in waiting_pods(snapshot, claim) if pod.key not in asked]
    held = [pod for pod in others if pod.nominated_node == node.name]
    used = total(snapshot.shape(pod).requests for pod in [*snapshot.pods_of_node(node.name), *held])
    room: list[PodRecord] = []
    for pod in pods:
        more = total([used, snapshot.shape(pod).requests])
        if fits(more, node.allocatable):
            used = more
            room.append(pod)
    return room


def bindable(snapshot: Snapshot, pod: PodRecord) -> bool:
    """Whether nobody but the kube-scheduler's placement stands between the pod and its node."""
    shape = snapshot.shape(pod)
    if shape.scheduler_name not in ("", DEFAULT_SCHEDULER) or shape.gang:
        return False
    if shape.resource_claims or shape.scheduling_gates:
        return False
    volumes = [snapshot.pvcs.get(f"{pod.namespace}/{name}") for name in shape.volume_claims]
    return all(v is not None and v.phase == "Bound" and v.bind_completed for v in volumes)


def _needs_daemon(shape: PodShape) -> bool:
    return needs_daemon(shape.requests, shape.volume_claims)


def accepted(
    snapshot: Snapshot,
    node: Node,
    pods: Sequence[PodRecord],
    *,
    now: float,
    planner: Planner,
    clock: Callable[[], float],
) -> tuple[PodKey, ...]:
    """Those of the pods that the planner would put on `node` as it now is, our hold aside."""
    bare = msgspec.structs.replace(node, taints=without_taint(node.taints, keys.BIND_HOLD))
    seen = msgspec.structs.replace(snapshot, nodes={**snapshot.nodes, node.name: bare})
    problem = Problem(
        snapshot=seen,
        pods=tuple(pod.key for pod in pods),
        catalogues={},
        now=now,
        closed_nodes=frozenset(name for name in snapshot.nodes if name != node.name),
        without_claims=frozenset(_unjoined(snapshot.claims.values(), snapshot)),
        allow_new_nodes=False,
    )
    plan = planner(problem, Options(bound=False, deadline_s=2.0), clock)
    return tuple(key for placement in plan.existing if placement.node == node.name for key in placement.pods)


def _unjoined(claims: Iterable[NodeClaim], snapshot: Snapshot) -> Iterable[str]:
    return (claim.name for claim in claims if snapshot.node_of(claim) is None)

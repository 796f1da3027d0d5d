"""The nodes as people want to see them: what each is, costs, holds and is doing. Pure."""

from collections.abc import Callable, Iterator

from nodeyard.api import labels as keys
from nodeyard.api.node import INITIALIZED, LAUNCHED, REGISTERED, Node, NodeClaim
from nodeyard.api.quantity import Resources, render_all, total
from nodeyard.api.selectors import Value
from nodeyard.state.cluster import Snapshot

PriceOf = Callable[[str, str, str, str], float | None]
"""(pool, instance type, zone, capacity type) -> USD per hour, None where unknown."""


class NodeView(Value, frozen=True):
    """One node or one claim that has no node yet. `phase`: Launching, Launched, Registered, Ready, Terminating, or
    NotReady; `price_per_hour` is today's price of its offering, None where unknown.
    """

    name: str
    node_claim: str
    pool: str
    phase: str
    instance_type: str = ""
    zone: str = ""
    capacity_type: str = ""
    price_per_hour: float | None = None
    pods: int = 0
    requested: dict[str, str] = {}
    allocatable: dict[str, str] = {}
    created_at: float = 0.0
    provider_id: str = ""


def views(snapshot: Snapshot, price_of: PriceOf) -> list[NodeView]:
    """All nodes of our pools and all claims without a node, by name."""
    return sorted(_views(snapshot, price_of), key=lambda view: (view.name, view.node_claim))


def _views(snapshot: Snapshot, price_of: PriceOf) -> Iterator[NodeView]:
    for node in snapshot.nodes.values():
        if node.pool:
            yield _view(snapshot, node, snapshot.claim_of(node), price_of)
    for claim in snapshot.claims.values():
        if snapshot.node_of(claim) is None:
            yield _view(snapshot, None, claim, price_of)


def _view(snapshot: Snapshot, node: Node | None, claim: NodeClaim | None, price_of: PriceOf) -> NodeView:
    labels = {**(claim.labels if claim else {}), **(node.labels if node else {})}
    pool = node.pool if node else claim.pool if claim else ""
    kind, zone, capacity = (labels.get(k, "") for k in (keys.INSTANCE_TYPE, keys.ZONE, keys.CAPACITY_TYPE))
    pods = snapshot.pods_of_node(node.name) if node else []
    allocatable: Resources = node.allocatable if node else claim.allocatable if claim else {}
    return NodeView(
        name=node.name if node else "",
        node_claim=claim.name if claim else "",
        pool=pool,
        phase=_phase(node, claim),
        instance_type=kind,
        zone=zone,
        capacity_type=capacity,
        price_per_hour=price_of(pool, kind, zone, capacity) if kind else None,
        pods=len(pods),
        requested=render_all(total(snapshot.shape(pod).requests for pod in pods)),
        allocatable=render_all(allocatable),
        created_at=(claim or node).created_at if (claim or node) else 0.0,  # type: ignore[union-attr]
        provider_id=claim.provider_id if claim else node.provider_id if node else "",
    )


def _phase(node: Node | None, claim: NodeClaim | None) -> str:
    if (claim and claim.deleting) or (node and node.deleted_at):
        return "Terminating"
    if node and not node.ready and (claim is None or claim.is_true(INITIALIZED)):
        return "NotReady"
    if claim is None:
        return "Ready"
    for condition, phase in ((INITIALIZED, "Ready"), (REGISTERED, "Registered"), (LAUNCHED, "Launched")):
        if claim.is_true(condition):
            return phase
    return "Launching"

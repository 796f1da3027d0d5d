"""What becomes of nodes in capacity reservations: on-demand once their place is gone, drained before their block ends.

A reservation of the default type that ends, or is taken from the account, leaves its instances running at the
on-demand price; the claim and the node then say so, and drift and consolidation judge them as what they are. A block
takes its instances along, so its claims go while there is time for a drain. Pure. Neighbours: the reallocator's
`reserved` (which writes), `cloudprovider.reservations` (when a block is expiring).
Source: Karpenter documentation, "NodeClasses", on capacity reservations.
"""

from collections.abc import Mapping
from typing import Final

from nodeyard.api import labels as keys
from nodeyard.api.node import Node, NodeClaim
from nodeyard.cloudprovider.reservations import EXPIRING
from nodeyard.disruption.collection import Instance, instance_id
from nodeyard.state.cluster import Snapshot

OUTSIDE: Final[Mapping[str, str | None]] = {
    keys.CAPACITY_TYPE: keys.ON_DEMAND,
    keys.RESERVATION_ID: None,
    keys.RESERVATION_TYPE: None,
    keys.RESERVATION_INTERRUPTIBLE: None,
}
"""The labels of what is in no reservation any more; None: there is none."""


def in_reservations(snapshot: Snapshot) -> tuple[NodeClaim, ...]:
    """Launched claims that say they are in a reservation, by name."""
    return tuple(
        claim
        for _, claim in sorted(snapshot.claims.items())
        if claim.labels.get(keys.CAPACITY_TYPE) == keys.RESERVED and instance_id(claim.provider_id)
    )


def fallen_out(snapshot: Snapshot, instances: Mapping[str, Instance]) -> tuple[NodeClaim, ...]:
    """Claims whose instance lives on outside any reservation. What EC2 does not show says nothing."""
    out = []
    for claim in in_reservations(snapshot):
        found = instances.get(instance_id(claim.provider_id))
        if found is not None and found.alive and not found.reservation:
            out.append(claim)
    return tuple(out)


def mislabelled(snapshot: Snapshot) -> tuple[Node, ...]:
    """Nodes that still say reserved though their claim does not any more."""
    out = []
    for _, node in sorted(snapshot.nodes.items()):
        claim = snapshot.claim_of(node)
        said = (claim.labels if claim is not None else {}).get(keys.CAPACITY_TYPE)
        if said == keys.ON_DEMAND and node.labels.get(keys.CAPACITY_TYPE) == keys.RESERVED:
            out.append(node)
    return tuple(out)


def expiring(snapshot: Snapshot) -> tuple[NodeClaim, ...]:
    """Claims in blocks that are about to end, those on their way out already left aside."""
    ending = {
        one.id
        for node_class in snapshot.node_classes.values()
        for one in node_class.capacity_reservations
        if one.reservation_type == keys.CAPACITY_BLOCK and one.state == EXPIRING
    }
    return tuple(
        claim
        for _, claim in sorted(snapshot.claims.items())
        if claim.labels.get(keys.RESERVATION_ID) in ending and not claim.deleting
    )

"""Nodes that have reached their age. Expiry is forceful: no budget, no replacement first, no wait.

The age is the claim's own, copied from its pool when it was made, so a pool's change concerns new nodes only.
A Provisioner's ttlSecondsUntilExpired arrives here as the same field. Source: Karpenter documentation, "Expiration".
"""

from nodeyard.api.node import NodeClaim
from nodeyard.state.cluster import Snapshot


def expired(snapshot: Snapshot, now: float) -> tuple[NodeClaim, ...]:
    """Claims past their age, oldest first."""
    due = [
        claim
        for claim in snapshot.claims.values()
        if claim.expire_after_s is not None
        and claim.created_at
        and not claim.deleting
        and now >= claim.created_at + claim.expire_after_s
    ]
    return tuple(sorted(due, key=lambda claim: (claim.created_at, claim.name)))

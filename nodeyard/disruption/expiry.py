"""Nodes that have reached their age: deleted at once, or made anew like drifted ones where their pool wants that.

The age is the claim's own, copied from its pool when it was made, so a pool's change of it concerns new nodes only;
how it is acted upon is the pool's as it is now. Jitter moves every node's age by a part of it that is always the same
for the node, so that nodes made together do not go together. Forceful, as Karpenter is, means no budget, no
replacement first, no wait. A Provisioner's ttlSecondsUntilExpired arrives here as the same field, always forceful.
Source: Karpenter documentation, "Expiration".
"""

import hashlib

from nodeyard.api.node import NodeClaim
from nodeyard.api.pool import Renewal
from nodeyard.state.cluster import Snapshot

_UNIT = 2.0**64


def expired(snapshot: Snapshot, now: float) -> tuple[NodeClaim, ...]:
    """Claims to delete at once because they are past their age, and past their pool's patience where it has any,
    oldest first.
    """
    due = []
    for claim in snapshot.claims.values():
        at = _due_at(snapshot, claim)
        if at is None or now < at:
            continue
        renewal = _renewal(snapshot, claim)
        cap_s = renewal.expiry_cap_s
        if not renewal.graceful_expiry or (cap_s is not None and now >= at + cap_s):
            due.append(claim)
    return tuple(sorted(due, key=lambda claim: (claim.created_at, claim.name)))


def expiring(snapshot: Snapshot, now: float) -> dict[str, float]:
    """Claims that are past their age and wait for a place in their pool's budgets: since when, by claim name."""
    forced = {claim.name for claim in expired(snapshot, now)}
    return {
        claim.name: at
        for claim in snapshot.claims.values()
        if (at := _due_at(snapshot, claim)) is not None and now >= at and claim.name not in forced
    }


def _due_at(snapshot: Snapshot, claim: NodeClaim) -> float | None:
    if claim.expire_after_s is None or not claim.created_at or claim.deleting:
        return None
    jitter = _renewal(snapshot, claim).expiry_jitter
    return claim.created_at + claim.expire_after_s * (1.0 + jitter * own_part(claim))


def own_part(claim: NodeClaim) -> float:
    """The claim's own number between -1 and 1, the same wherever it is asked for."""
    digest = hashlib.blake2b((claim.uid or claim.name).encode(), digest_size=8).digest()
    return 2.0 * int.from_bytes(digest, "big") / _UNIT - 1.0


def _renewal(snapshot: Snapshot, claim: NodeClaim) -> Renewal:
    pool = snapshot.pools.get(claim.pool)
    return pool.disruption.renewal if pool is not None else Renewal()

"""What idle nodes carry: the emptiness timestamp of a Provisioner's, the condition Consolidatable of a NodePool's.

The timestamp is written when a ready node is found without pods (daemons, mirror pods and finished ones aside), taken
off when one lands; ttlSecondsAfterEmpty counts from it. The condition holds once consolidateAfter has passed since the
last pod came or went. Sources: Karpenter v0.5 documentation, "Deprovisioning"; Karpenter documentation, "Disruption".
"""

from collections.abc import Mapping
from typing import Final

from nodeyard.api import labels as keys
from nodeyard.api.node import INITIALIZED, NodeClaim
from nodeyard.api.selectors import Value
from nodeyard.disruption.commands import disrupted
from nodeyard.state.cluster import Snapshot

CONSOLIDATABLE: Final = "Consolidatable"


class Stamp(Value, frozen=True):
    """A node whose timestamp is to be written (`empty`) or taken off."""

    node: str
    empty: bool


def stamps(snapshot: Snapshot) -> tuple[Stamp, ...]:
    """The timestamps to change, by node name."""
    found = []
    for name in sorted(snapshot.nodes):
        node = snapshot.nodes[name]
        pool = snapshot.pools.get(node.pool)
        if pool is None or not pool.key.startswith("provisioner/") or node.deleted_at or disrupted(node):
            continue
        stamped = keys.EMPTINESS_TIMESTAMP in node.annotations
        timed = pool.disruption.consolidate_after_s is not None
        empty = timed and not any(not pod.daemon for pod in snapshot.pods_of_node(name))
        if empty and not stamped and node.ready and node.initialized:
            found.append(Stamp(name, True))
        elif stamped and not empty:
            found.append(Stamp(name, False))
    return tuple(found)


def consolidatable_changes(
    snapshot: Snapshot, quiet_since: Mapping[str, float], now: float
) -> dict[str, bool]:
    """By claim name, whether the condition is to be set or taken off. `quiet_since`: node name -> last pod event."""
    changes = {}
    for name in sorted(snapshot.claims):
        claim = snapshot.claims[name]
        if claim.deleting:
            continue
        holds = _consolidatable(snapshot, claim, quiet_since, now)
        if holds != claim.is_true(CONSOLIDATABLE) or (not holds and claim.condition(CONSOLIDATABLE)):
            changes[name] = holds
    return changes


def _consolidatable(
    snapshot: Snapshot, claim: NodeClaim, quiet_since: Mapping[str, float], now: float
) -> bool:
    pool, node = snapshot.pools.get(claim.pool), snapshot.node_of(claim)
    initialized = claim.condition(INITIALIZED)
    if pool is None or node is None or initialized is None or initialized.status != "True":
        return False
    window = pool.disruption.consolidate_after_s
    if window is None or pool.replicas is not None or pool.key.startswith("provisioner/"):
        return False
    last = max(quiet_since.get(node.name, 0.0), claim.last_pod_event_at, initialized.since)
    return now >= last + window

"""The emptiness timestamp that a Provisioner's empty nodes carry, which ttlSecondsAfterEmpty counts from.

Written when a ready node is found without pods (daemons, mirror pods and finished ones aside), taken off when one
lands. Source: Karpenter v0.5 documentation, "Deprovisioning", "ttlSecondsAfterEmpty".
"""

from nodeyard.api import labels as keys
from nodeyard.api.selectors import Value
from nodeyard.disruption.commands import disrupted
from nodeyard.state.cluster import Snapshot


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

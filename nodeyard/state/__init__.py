"""The cluster as one immutable snapshot, and the changes that lead from one to the next.

`Snapshot` is what every decision reads. `ClusterStore` holds the newest one and applies changes in order; taking a
snapshot costs a few shallow copies, so a decision never sees the cluster move under it. Pure: no I/O, no clock.
"""

from nodeyard.state.cluster import Change, ClusterStore, Kind, Snapshot

__all__ = ["Change", "ClusterStore", "Kind", "Snapshot"]

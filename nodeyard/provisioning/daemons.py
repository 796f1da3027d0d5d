"""What the daemons of a node will use: each DaemonSet as its newest pod really is, with the template's affinity.

Admission may have changed a daemon's pods (requests set by an autoscaler or a limit range), so one that runs says more
than the template. Where they may run is the template's word, since the controller ties each pod to its node. Daemons
that ask for devices by resource claims are left out: none of them runs where claims are not supported.
Neighbours: `columns` and `hosts` take what they use off the room. Source: Karpenter documentation, "Scheduling".
"""

import msgspec

from nodeyard.api.cluster import DaemonSet
from nodeyard.api.pod import PodRecord
from nodeyard.state.cluster import Snapshot

KIND = "DaemonSet"


def daemons_of(snapshot: Snapshot) -> tuple[DaemonSet, ...]:
    """The DaemonSets whose pods nodes will get, each with the shape to reckon with."""
    counted = [d for d in snapshot.daemon_sets.values() if not d.shape.resource_claims]
    newest = _newest_pods(snapshot) if counted else {}
    return tuple(_as_it_runs(d, newest.get(d.key), snapshot) for d in counted)


def runs(daemon: DaemonSet, pod: PodRecord) -> bool:
    """Whether the pod is one of the DaemonSet's."""
    if pod.owner_kind != KIND or pod.namespace != daemon.namespace:
        return False
    return pod.owner_uid == daemon.uid if daemon.uid and pod.owner_uid else pod.owner_name == daemon.name


def _newest_pods(snapshot: Snapshot) -> dict[str, PodRecord]:
    """By key of the DaemonSet."""
    newest: dict[str, PodRecord] = {}
    for pod in snapshot.pods.values():
        if pod.owner_kind != KIND or pod.finished or pod.terminating:
            continue
        key = f"{pod.namespace}/{pod.owner_name}"
        known = newest.get(key)
        if known is None or (pod.created_at, pod.name) > (known.created_at, known.name):
            newest[key] = pod
    return newest


def _as_it_runs(daemon: DaemonSet, pod: PodRecord | None, snapshot: Snapshot) -> DaemonSet:
    if pod is None or not runs(daemon, pod):
        return daemon
    shape = msgspec.structs.replace(snapshot.shape(pod), node_affinity=daemon.shape.node_affinity)
    return msgspec.structs.replace(daemon, shape=shape)

"""Pods that are their workload's only one, moved without a gap: another replica first, then the eviction.

A pod asks for it (annotation `nodeyard.dev/surge` in its template: "true", or how long to wait at most). Its Deployment is
scaled from one replica to two, the pod is evicted once the other one is ready on another node, and the Deployment is
scaled back. What was begun stands on the claim of the node that goes, so that any replica ends it. StatefulSets can't:
their pods have names of their own; nor can pods with volume claims, which another node may not be able to attach.
Neighbours: `draining` (what leaves when), `services.reallocator.surges` (carries it out).
Source: Kubernetes documentation, "Deployments", "Disruptions"; API reference, autoscaling/v1 `Scale`.
"""

import math
from collections.abc import Iterable
from typing import Final

import msgspec

from nodeyard.api import labels as keys
from nodeyard.api.duration import parse_duration
from nodeyard.api.node import NodeClaim
from nodeyard.api.pod import PodKey, PodRecord, PodShape
from nodeyard.api.selectors import Value
from nodeyard.state.cluster import Snapshot

ONE: Final = 1
TWO: Final = 2


class Surge(Value, frozen=True):
    """One begun. `deployment` is "namespace/name"; `since` in seconds since the epoch."""

    pod: PodKey
    uid: str
    deployment: str
    since: float


class Scale(Value, frozen=True):
    """How many replicas a Deployment ("namespace/name") is to have, as read at `resource_version`."""

    deployment: str
    replicas: int
    resource_version: str


def surges_of(claim: NodeClaim) -> tuple[Surge, ...]:
    """Those begun for pods of the claim's node and not yet ended; none where the annotation can't be read."""
    text = claim.annotations.get(keys.SURGES)
    if not text:
        return ()
    try:
        return msgspec.json.decode(text, type=tuple[Surge, ...])
    except msgspec.DecodeError:
        return ()


def encoded(surges: Iterable[Surge]) -> str | None:
    """The annotation's value; None where there is nothing to say."""
    listed = list(surges)
    return msgspec.json.encode(listed).decode() if listed else None


def deployment_of(pod: PodRecord, shape: PodShape) -> str:
    """ "namespace/name" of the Deployment to scale for the pod, empty where the pod doesn't ask or none can be."""
    if patience_s(pod) is None or pod.owner_kind != "ReplicaSet" or shape.volume_claims:
        return ""
    name, dash, revision = pod.owner_name.rpartition("-")
    made_by_one = dash and name and shape.labels.get(keys.POD_TEMPLATE_HASH) == revision
    return f"{pod.namespace}/{name}" if made_by_one else ""


def patience_s(pod: PodRecord) -> float | None:
    """How long the pod's eviction may wait for another, in seconds; None where the pod doesn't ask for it."""
    text = pod.surge.strip()
    if text in ("", "false"):
        return None
    if text == "true":
        return math.inf
    try:
        return parse_duration(text)
    except ValueError:
        return None


def served(snapshot: Snapshot, pod: PodRecord) -> bool:
    """Whether another pod of the same owner is ready on another node."""
    return any(
        other.ready and other.node and other.node != pod.node and not other.terminating and not other.finished
        for other in snapshot.pods.values()
        if other.owner_uid == pod.owner_uid and other.namespace == pod.namespace and other.uid != pod.uid
    )


def over(snapshot: Snapshot, surge: Surge) -> bool:
    """Whether the pod it was for is gone or on its way."""
    pod = snapshot.pods.get(surge.pod)
    return pod is None or pod.uid != surge.uid or pod.terminating or pod.finished

"""What pods on nodes would come back as, where a VerticalPodAutoscaler has a say: followed from state to state.

Owns which autoscaler a pod is under: the one whose target is the pod's topmost controller, the oldest of several. A
ReplicaSet is its Deployment's (or Rollout's) where its name is that one's name and the hash of its pods, a Job its
CronJob's where its name ends with a number. Pods that wait for a node have been admitted, so they stay as they are.
Neighbour: `api.autoscaling`, which says what the autoscaler makes of a shape.
"""

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Final

from nodeyard.api.autoscaling import VerticalPodAutoscaler, successor_of
from nodeyard.api.pod import PodKey, PodRecord, PodShape, ShapeId

_HASHES: Final = ("pod-template-hash", "rollouts-pod-template-hash")
_SETS_OF: Final = ("Deployment", "Rollout")
Target = tuple[str, str, str]
"""(namespace, kind, name) of a controller."""
_Made = dict[tuple[ShapeId, str], tuple[PodShape, VerticalPodAutoscaler, PodShape]]
"""By shape and autoscaler, which they were and what the one makes of the other."""


class Successors:
    """Keeps the shapes that it made for as long as they are asked for, so that they stay the very same objects."""

    def __init__(self) -> None:
        self._made: _Made = {}
        self._last: Mapping[PodKey, ShapeId] = {}

    def follow(
        self,
        autoscalers: Mapping[str, VerticalPodAutoscaler],
        pods: Mapping[PodKey, PodRecord],
        shapes: MutableMapping[ShapeId, PodShape],
    ) -> Mapping[PodKey, ShapeId]:
        """Pod -> the shape that its successor counts with, where it would not come back as it is. Adds these to `shapes`."""
        by_target = _by_target(autoscalers)
        before, self._made = self._made, {}
        alike: dict[tuple[ShapeId, str, str], ShapeId] = {}
        found: dict[PodKey, ShapeId] = {}
        for key, pod in pods.items() if by_target else ():
            if not pod.node:
                continue
            kind = pod.shape, pod.owner_kind, pod.owner_name
            made = alike.get(kind)
            if made is None:
                made = alike[kind] = self._made_of(before, by_target, pod, shapes[pod.shape])
            if made != pod.shape and not pod.finished:
                found[key] = made
        for _, _, shape in self._made.values():
            shapes.setdefault(shape.id, shape)
        if found != self._last:
            self._last = found
        return self._last

    def _made_of(
        self,
        before: _Made,
        by_target: Mapping[Target, VerticalPodAutoscaler],
        pod: PodRecord,
        shape: PodShape,
    ) -> ShapeId:
        """What all pods of a shape and an owner come back as."""
        autoscaler = next((a for t in _targets(pod, shape) if (a := by_target.get(t))), None)
        if autoscaler is None:
            return shape.id
        at = shape.id, autoscaler.key
        known = self._made.get(at) or before.get(at)
        if known is None or known[0] is not shape or known[1] is not autoscaler:
            known = shape, autoscaler, successor_of(shape, autoscaler)
        self._made[at] = known
        return known[2].id


def _by_target(autoscalers: Mapping[str, VerticalPodAutoscaler]) -> dict[Target, VerticalPodAutoscaler]:
    found: dict[Target, VerticalPodAutoscaler] = {}
    for one in sorted(autoscalers.values(), key=lambda a: (a.created_at, a.name)):
        found.setdefault((one.namespace, one.target_kind, one.target_name), one)
    return found


def _targets(pod: PodRecord, shape: PodShape) -> Iterator[Target]:
    """The controllers that a pod could be under, its own owner first."""
    yield pod.namespace, pod.owner_kind, pod.owner_name
    if pod.owner_kind == "ReplicaSet" and (name := _set_of(pod.owner_name, shape.labels)):
        for kind in _SETS_OF:
            yield pod.namespace, kind, name
    elif pod.owner_kind == "Job":
        name, _, number = pod.owner_name.rpartition("-")
        if name and number.isdecimal():
            yield pod.namespace, "CronJob", name


def _set_of(replica_set: str, labels: Mapping[str, str]) -> str:
    """The name of what made a ReplicaSet, from the hash in its pods' labels; for want of one, all but the last part."""
    hashes = [labels[key] for key in _HASHES if key in labels]
    if not hashes:
        return replica_set.rpartition("-")[0]
    return next((replica_set.removesuffix(f"-{h}") for h in hashes if replica_set.endswith(f"-{h}")), "")

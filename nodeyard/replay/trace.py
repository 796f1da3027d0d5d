"""A trace: which pods come, what they ask for, and how long each has to run.

Times are seconds since the trace began. A pod either does `work_s` of work, from the start again when it is evicted
(a Job's), or is wanted `until_s` whatever happens to it (a service's replica). Everything else about it is its shape.
"""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from nodeyard.api.pod import PodKey, PodShape, ShapeId
from nodeyard.api.selectors import Value

JOB: Final = "Job"
REPLICA_SET: Final = "ReplicaSet"


class TraceError(ValueError):
    """A trace that makes no sense; the message says where and what."""


class TracePod(Value, frozen=True):
    """One pod of a trace. Exactly one of `work_s` and `until_s` is given."""

    namespace: str
    name: str
    arrives_s: float
    shape: ShapeId
    work_s: float | None = None
    until_s: float | None = None
    owner_kind: str = REPLICA_SET
    owner_name: str = ""
    do_not_disrupt: str = ""

    @property
    def key(self) -> PodKey:
        return f"{self.namespace}/{self.name}"

    @property
    def ends_s(self) -> float:
        """When it would end had it started on arrival."""
        return self.arrives_s + self.work_s if self.work_s is not None else self.until_s or self.arrives_s


class Trace(msgspec.Struct, frozen=True):
    """Pods by arrival, their shapes, and how long the trace is."""

    pods: tuple[TracePod, ...]
    shapes: Mapping[ShapeId, PodShape]
    length_s: float


def trace_of(pods: Iterable[TracePod], shapes: Mapping[ShapeId, PodShape], length_s: float) -> Trace:
    """The trace of these pods, in any order. Raises TraceError."""
    ordered = tuple(sorted(pods, key=lambda p: (p.arrives_s, p.namespace, p.name)))
    seen: set[PodKey] = set()
    for pod in ordered:
        if problem := _problem(pod, shapes, seen):
            raise TraceError(f"pod {pod.key}: {problem}")
        seen.add(pod.key)
    if not 0 < length_s < float("inf"):
        raise TraceError(f"a trace of {length_s:g} seconds can't be replayed")
    return Trace(ordered, shapes, length_s)


def _problem(pod: TracePod, shapes: Mapping[ShapeId, PodShape], seen: set[PodKey]) -> str:
    if pod.key in seen:
        return "stands in the trace twice"
    if pod.shape not in shapes:
        return f"its shape {pod.shape} is not in the trace"
    if not 0 <= pod.arrives_s < float("inf"):
        return f"arrives at {pod.arrives_s:g} s, which is not a time of the trace"
    if (pod.work_s is None) == (pod.until_s is None):
        return "has either work to do or an end, not both or neither"
    if pod.work_s is not None and not 0 < pod.work_s < float("inf"):
        return f"works for {pod.work_s:g} s"
    if pod.until_s is not None and not pod.until_s > pod.arrives_s:
        return f"ends at {pod.until_s:g} s, not after it arrives at {pod.arrives_s:g} s"
    return ""

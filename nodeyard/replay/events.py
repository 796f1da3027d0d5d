"""A trace from what Kubernetes tells of pods: a list of them, or a watch's events (`{"type", "object"}`).

A pod arrives at its creationTimestamp. It ends when its containers had finished (a Job's: that was its work), else
when it was deleted, else it is wanted to the end. Daemons' and mirror pods are left out: nodes bring them along. The
last that was told of a pod counts. Source: Kubernetes documentation, "Pod Lifecycle".
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

import msgspec

from nodeyard.api.pod import PodRecord, PodShape
from nodeyard.api.reading import ConversionError
from nodeyard.api.shape import Shapes
from nodeyard.replay.trace import JOB, REPLICA_SET, Trace, TraceError, TracePod, trace_of
from nodeyard.state.cluster import Kind
from nodeyard.state.intake import changes_of

Json = Mapping[str, Any]
_AFTER_S: Final = 3600.0
"""How long the trace goes on after the last thing that happened in it."""


class _Life(msgspec.Struct, frozen=True):
    """A pod as last told, and when it ended (seconds since the epoch; None: not yet)."""

    record: PodRecord
    ended_at: float | None


def pods_from_events(events: Iterable[Json]) -> Trace:
    """The trace of these pods; other objects are passed over. Raises TraceError."""
    shapes, kept = Shapes(), dict[str, PodShape]()
    lives = [life for raw in _last_told(events) if (life := _life(raw, shapes, kept)) is not None]
    if not lives:
        raise TraceError("no pod with a creationTimestamp in the events")
    first = min(life.record.created_at for life in lives)
    last = max(max(life.record.created_at, life.ended_at or 0.0) for life in lives) + _AFTER_S
    pods: list[TracePod] = []
    names: set[str] = set()
    for life in lives:
        pod = _pod_of(life, first, last)
        if pod.key in names:  # a StatefulSet's name comes again
            pod = msgspec.structs.replace(pod, name=f"{pod.name}-{life.record.uid or len(names)}")
        names.add(pod.key)
        pods.append(pod)
    return trace_of(pods, kept, last - first)


def _last_told(events: Iterable[Json]) -> Iterable[Json]:
    told: dict[str, Json] = {}
    for event in events:
        found = event.get("object") if "object" in event else event
        if not isinstance(found, Mapping) or found.get("kind") != "Pod":
            continue
        meta = found.get("metadata")
        meta = meta if isinstance(meta, Mapping) else {}
        told[str(meta.get("uid") or f"{meta.get('namespace')}/{meta.get('name')}")] = found
    return told.values()


def _life(raw: Json, shapes: Shapes, kept: dict[str, PodShape]) -> _Life | None:
    meta = raw.get("metadata") or {}
    name = f"pod {meta.get('namespace') or 'default'}/{meta.get('name')}"
    try:
        changes = changes_of("Pod", dict(raw), shapes)
        ended_at = _ended_at(raw)
    except (ConversionError, ValueError) as error:
        raise TraceError(f"{name}: {error}") from error
    record = next((c.value for c in changes if c.kind is Kind.POD), None)
    if not isinstance(record, PodRecord) or record.daemon or not record.created_at:
        return None
    kept.update({c.key: c.value for c in changes if c.kind is Kind.SHAPE and c.value is not None})
    return _Life(record, ended_at)


def _ended_at(raw: Json) -> float | None:
    """When the last container finished, or when the pod's deletion was due, whichever was first."""
    meta, status = raw.get("metadata") or {}, raw.get("status") or {}
    found = [datetime.fromisoformat(meta["deletionTimestamp"])] if meta.get("deletionTimestamp") else []
    states = [(s.get("state") or {}).get("terminated") or {} for s in status.get("containerStatuses") or []]
    if states and all(s.get("finishedAt") for s in states):
        found.append(max(datetime.fromisoformat(s["finishedAt"]) for s in states))
    return min(found).timestamp() if found else None


def _pod_of(life: _Life, first: float, last: float) -> TracePod:
    record = life.record
    arrives_s = record.created_at - first
    work_s = until_s = None
    if record.owner_kind == JOB and life.ended_at is not None:
        work_s = max(1.0, life.ended_at - (record.started_at or record.created_at))
    else:
        until_s = max(arrives_s + 1.0, (last if life.ended_at is None else life.ended_at) - first)
    return TracePod(
        record.namespace, record.name, arrives_s, record.shape, work_s, until_s,
        record.owner_kind or REPLICA_SET, record.owner_name, record.do_not_disrupt,
    )  # fmt: skip

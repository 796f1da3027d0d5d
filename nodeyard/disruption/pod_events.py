"""When the last pod came to a node or left it, which consolidateAfter counts from.

Watches snapshots go by: a pod bound, finished, begun to terminate or gone is an event of its node; daemons don't
count. What it can't have seen (before it began to watch) it takes from the pods' own times; the claim's
status.lastPodEventTime remembers the rest across restarts. Source: Karpenter documentation, "consolidateAfter".
"""

from collections.abc import Mapping

from nodeyard.api.pod import PodKey, PodRecord
from nodeyard.state.cluster import Snapshot


class PodEvents:
    """Last event per node name. Owned by one task."""

    def __init__(self) -> None:
        self._pods: Mapping[PodKey, PodRecord] = {}
        self._last: dict[str, float] = {}
        self._watching = False

    @property
    def last(self) -> Mapping[str, float]:
        """Node name -> seconds since the epoch of its last pod event."""
        return self._last

    def observe(self, snapshot: Snapshot, now: float) -> None:
        """Take in the next snapshot."""
        before = self._pods
        for key, pod in snapshot.pods.items():
            old = before.get(key)
            if old is pod or pod.daemon:
                continue
            for node, at in self._events(old, pod, now):
                self._note(node, at)
        for key, old in before.items():
            if key not in snapshot.pods and old.node and not old.daemon:
                self._note(old.node, now)
        self._pods = snapshot.pods
        self._watching = True
        for node in [name for name in self._last if name not in snapshot.nodes]:
            del self._last[node]

    def _events(self, old: PodRecord | None, pod: PodRecord, now: float) -> list[tuple[str, float]]:
        events = []
        if old is not None and old.node and old.uid != pod.uid:
            events.append((old.node, now))
            old = None
        if not pod.node:
            return events
        if old is None or old.node != pod.node:
            unseen = now if self._watching else 0.0
            events.append((pod.node, min(now, pod.scheduled_at or unseen)))
        if pod.terminating and not (old is not None and old.terminating):
            events.append((pod.node, min(now, max(0.0, pod.deleted_at - pod.grace_period_s))))
        if pod.finished and old is not None and not old.finished:
            events.append((pod.node, now))
        return events

    def _note(self, node: str, at: float) -> None:
        if at > self._last.get(node, 0.0):
            self._last[node] = at

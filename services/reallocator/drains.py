"""Carries out a drain step: evictions with patience, deletions at the deadline, and a word about what is in the way.

Each pod that the eviction API refuses is asked again after 100 ms at first and 10 s at last; a deletion does not wait for
that. Neighbours: the pure `draining` (who leaves now), `termination` (when).
Source: Karpenter documentation, "Termination Controller"; Kubernetes documentation, "API-initiated Eviction".
"""

import asyncio
from typing import Final

from nodeyard.api.node import Node
from nodeyard.api.pod import PodRecord
from nodeyard.disruption.draining import Answer, Drain, Verdict, Wait
from nodeyard.disruption.termination import POLL_S
from nodeyard.runtime.backoff import Backoff
from nodeyard.runtime.clock import Clock
from nodeyard.runtime.lifecycle import kill_point
from nodeyard.state.cluster import Snapshot
from services.reallocator.chronicle import Chronicle
from services.reallocator.metrics import ReallocatorMetrics
from services.reallocator.ports import Pods

_AT_ONCE: Final = 10
_FIRST_S: Final = 0.1
_MOST_S: Final = 10.0
_SETTLE_S: Final = 5.0
"""An accepted eviction or deletion shows on the stream well before this; only then is it asked again."""
_FORGET_S: Final = 600.0
_EVICT: Final = "evict"
_DELETE: Final = "delete"


class Drains:
    """The evictions of all nodes that are being drained here."""

    def __init__(self, pods: Pods, chronicle: Chronicle, clock: Clock, measures: ReallocatorMetrics) -> None:
        self._pods = pods
        self._chronicle = chronicle
        self._clock = clock
        self._measures = measures
        self._room = asyncio.Semaphore(_AT_ONCE)
        self._next: dict[tuple[str, str], tuple[Backoff, float]] = {}
        """By pod UID and what is asked for: when next."""

    async def act(self, snapshot: Snapshot, node: Node, drain: Drain) -> float:
        """Does what is due; seconds until more is."""
        now = self._clock.monotonic()
        evict = [snapshot.pods[key] for key in drain.evict]
        delete = [(snapshot.pods[d.pod], d.grace_s) for d in drain.delete]
        await asyncio.gather(
            *(self._evict(node, pod) for pod in evict if self._due(pod, _EVICT, now)),
            *(self._delete(node, pod, grace_s) for pod, grace_s in delete if self._due(pod, _DELETE, now)),
        )
        protected = [w.pod for w in drain.waiting if w.why is Wait.PROTECTED]
        if protected:
            message = f"pods that must not be disrupted hold up the drain: {', '.join(protected[:5])}"
            self._chronicle.on_node(node, "FailedDraining", message, warning=True)
        self._forget(now)
        later = [self._next[pod.uid, _EVICT][1] - now for pod in evict if (pod.uid, _EVICT) in self._next]
        return max(0.05, min([POLL_S, *(wait for wait in later if wait > 0)]))

    def _due(self, pod: PodRecord, what: str, now: float) -> bool:
        known = self._next.get((pod.uid, what))
        return known is None or now >= known[1]

    async def _evict(self, node: Node, pod: PodRecord) -> None:
        async with self._room:
            kill_point("reallocator.before-evict")
            answer = await self._pods.evict(pod)
            kill_point("reallocator.after-evict")
        self._measures.evictions.labels(str(answer.code)).inc()
        if answer.verdict is Verdict.ACCEPTED:
            self._chronicle.on_pod(pod, "Evicted", f"evicted from node {node.name}, which is being removed")
        self._remember(node, pod, _EVICT, answer)

    async def _delete(self, node: Node, pod: PodRecord, grace_s: int) -> None:
        async with self._room:
            kill_point("reallocator.before-delete-pod")
            answer = await self._pods.delete(pod, grace_s)
            kill_point("reallocator.after-delete-pod")
        if answer.verdict is Verdict.ACCEPTED:
            message = f"deleted with {grace_s} s of grace: the time of node {node.name} is up"
            self._chronicle.on_pod(pod, "TerminationGracePeriodExpiring", message, warning=True)
        self._remember(node, pod, _DELETE, answer)

    def _remember(self, node: Node, pod: PodRecord, what: str, answer: Answer) -> None:
        now = self._clock.monotonic()
        if answer.verdict in (Verdict.ACCEPTED, Verdict.GONE):
            self._next[pod.uid, what] = (Backoff(_FIRST_S, _MOST_S), now + _SETTLE_S)
            return
        backoff, _ = self._next.get((pod.uid, what), (Backoff(_FIRST_S, _MOST_S), 0.0))
        self._next[pod.uid, what] = (backoff, now + backoff.next_s())
        message = f"can't {what} pod {pod.key} yet: {answer.message}"
        self._chronicle.on_node(node, "FailedDraining", message, warning=True)

    def _forget(self, now: float) -> None:
        self._next = {key: known for key, known in self._next.items() if now - known[1] < _FORGET_S}

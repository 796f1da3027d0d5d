"""What the pods of a node come to for disruption, remembered from pass to pass for as long as they stay the same.

Looking at every pod of every node anew is most of a pass that finds nothing changed. `Burdens` keeps the sums; a node's
are taken again only where one of its pods is another record than before. What time or a PodDisruptionBudget decides is
not in them: such nodes are told apart (`plain` False) and looked at pod by pod. Neighbours: `candidates`, `outlook`.
"""

from collections import Counter
from collections.abc import Mapping
from operator import is_
from typing import Final

import msgspec

from nodeyard.api.pod import PodKey, PodRecord
from nodeyard.disruption.draining import drainable, tier
from nodeyard.disruption.evictability import eviction_cost, must_move
from nodeyard.state.cluster import Snapshot

Owner = tuple[str, str, str]
_NOTHING: Final[frozenset[PodKey]] = frozenset()


class Burden(msgspec.Struct, frozen=True):
    """`pods`: those that have to move, and what evicting them costs. `samples`: one of each shape. `drain_s`: the sum over
    tiers of their longest grace period. `owners`: their workloads. `replicas`: how many pods of each workload stay up.
    `plain`: no pod asks for protection or is on its way out.
    """

    pods: tuple[PodKey, ...]
    eviction_cost: float
    samples: tuple[PodRecord, ...]
    drain_s: float
    owners: frozenset[Owner]
    replicas: Mapping[Owner, int]
    plain: bool


class Burdens:
    """The burdens of one cluster's nodes. Not thread-safe."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[frozenset[PodKey], tuple[PodRecord, ...], Burden]] = {}

    def of(self, snapshot: Snapshot, node: str) -> Burden:
        """The burden of a node's pods, as the snapshot has them."""
        keys = snapshot.pods_on.get(node, _NOTHING)
        now = tuple(map(snapshot.pods.__getitem__, keys))
        known = self._known.get(node)
        if known is not None and known[0] is keys and all(map(is_, known[1], now)):
            return known[2]
        burden = _burden(snapshot, node)
        self._known[node] = keys, now, burden
        return burden

    def replicas(self, snapshot: Snapshot) -> Counter[Owner]:
        """How many pods each workload has, those on their way out not counted."""
        found = Counter(
            owner_of(pod)
            for pod in snapshot.pods.values()
            if not (pod.node or pod.finished or pod.terminating)
        )
        for node in snapshot.pods_on:
            found.update(self.of(snapshot, node).replicas)
        return found

    @property
    def nodes(self) -> frozenset[str]:
        """Nodes that something is known of."""
        return frozenset(self._known)

    def forget_gone(self, snapshot: Snapshot) -> None:
        """Drops what is known of nodes that are no more."""
        if len(self._known) > len(snapshot.nodes):
            self._known = {n: known for n, known in self._known.items() if n in snapshot.nodes}


def owner_of(pod: PodRecord) -> Owner:
    """The workload of a pod."""
    return pod.namespace, pod.owner_kind, pod.owner_name


def _burden(snapshot: Snapshot, node: str) -> Burden:
    pods = snapshot.pods_of_node(node)
    moving = [pod for pod in pods if must_move(pod)]
    longest: dict[int, float] = {}
    for pod in pods:
        shape = snapshot.shape(pod)
        if drainable(pod, shape, 0.0):
            level = tier(pod, shape)
            longest[level] = max(longest.get(level, 0.0), max(0.0, pod.grace_period_s))
    return Burden(
        pods=tuple(pod.key for pod in moving),
        eviction_cost=sum(max(0.0, eviction_cost(pod, snapshot.shape(pod))) for pod in moving),
        samples=tuple({pod.shape: pod for pod in pods}.values()),
        drain_s=sum(longest.values()),
        owners=frozenset(owner_of(pod) for pod in moving if pod.owner_name),
        replicas=Counter(owner_of(pod) for pod in pods if not (pod.finished or pod.terminating)),
        plain=not any(pod.do_not_disrupt or pod.terminating or pod.finished for pod in pods),
    )

"""What the pods of a node come to for disruption, remembered from pass to pass for as long as they stay the same.

Looking at every pod of every node anew is most of a pass that finds nothing changed. `Burdens` keeps the sums; a node's
are taken again only where one of its pods is another record than before. What time or a PodDisruptionBudget decides is
not in them: such nodes are told apart (`plain` False, `guarded`) and looked at pod by pod. What is found out about a node
as a whole is kept here too. Neighbours: `candidates`, `outlook`, `renewal`, which ask.
"""

from collections import Counter
from collections.abc import Mapping
from operator import is_
from typing import Final

import msgspec

from nodeyard.api.pod import PodKey, PodRecord
from nodeyard.api.pool import Pool
from nodeyard.disruption.draining import drainable, tier
from nodeyard.disruption.drift import Drift
from nodeyard.disruption.evictability import PodGuard, eviction_cost, must_move
from nodeyard.disruption.model import Candidate
from nodeyard.disruption.remembering import Remembered, without_status
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
        self.candidates: Remembered[Candidate] = Remembered()
        self.drifts: Remembered[Drift | None] = Remembered()
        self._known: dict[str, tuple[frozenset[PodKey], tuple[PodRecord, ...], Burden]] = {}
        self._at: Snapshot | None = None
        self._looked: dict[str, Burden] = {}
        """What `_at`, the snapshot asked about last, comes to."""
        self._counted: dict[str, Burden] = {}
        self._replicas: Counter[Owner] = Counter()
        """Of the nodes' burdens in `_counted`."""
        self._selecting: tuple[object, ...] = ()
        self._guard = PodGuard(Snapshot(), 0.0)
        self._guarded: Remembered[bool] = Remembered()
        self._pools: dict[str, Pool] = {}

    def of(self, snapshot: Snapshot, node: str) -> Burden:
        """The burden of a node's pods, as the snapshot has them."""
        if snapshot is not self._at:
            self._turn_to(snapshot)
        found = self._looked.get(node)
        if found is None:
            found = self._looked[node] = self._compared(snapshot, node)
        return found

    def guarded(self, snapshot: Snapshot, node: str) -> bool:
        """Whether a PodDisruptionBudget selects a pod of the node."""
        burden = self.of(snapshot, node)
        return self._guarded.of(
            node, (burden, self._selecting), (), lambda: any(map(self._guard.pdbs_of, burden.samples))
        )

    def pool(self, snapshot: Snapshot, key: str) -> Pool | None:
        """The pool without its status: the same object for as long as nobody writes it anew."""
        if snapshot is not self._at:
            self._turn_to(snapshot)
        return self._pools.get(key)

    def replicas(self, snapshot: Snapshot) -> Counter[Owner]:
        """How many pods each workload has, those on their way out not counted."""
        for node in snapshot.pods_on:
            burden = self.of(snapshot, node)
            if (before := self._counted.get(node)) is not burden:
                self._count(before, burden)
                self._counted[node] = burden
        if len(self._counted) > len(snapshot.pods_on):
            for node in [n for n in self._counted if n not in snapshot.pods_on]:
                self._count(self._counted.pop(node), None)
        found = self._replicas.copy()
        found.update(
            owner_of(pod)
            for pod in snapshot.pods.values()
            if not (pod.node or pod.finished or pod.terminating)
        )
        return found

    @property
    def nodes(self) -> frozenset[str]:
        """Nodes that something is known of."""
        return frozenset(self._known)

    def forget_gone(self, snapshot: Snapshot) -> None:
        """Drops what is known of nodes that are no more."""
        if len(self._known) > len(snapshot.nodes):
            self._known = {n: known for n, known in self._known.items() if n in snapshot.nodes}
        self.candidates.keep_only(snapshot.nodes)
        self._guarded.keep_only(snapshot.nodes)
        self.drifts.keep_only(snapshot.claims)

    def _turn_to(self, snapshot: Snapshot) -> None:
        """Another snapshot: nothing is taken for the same unseen."""
        self._at, self._looked = snapshot, {}
        selecting = tuple((p.key, p.selector) for p in snapshot.pdbs.values())
        if selecting != self._selecting:
            self._selecting = selecting
        self._guard = PodGuard(snapshot, 0.0)
        pools = {key: without_status(pool) for key, pool in snapshot.pools.items()}
        for key, pool in pools.items():
            if pool == (before := self._pools.get(key)):
                pools[key] = before
        self._pools = pools

    def _compared(self, snapshot: Snapshot, node: str) -> Burden:
        keys = snapshot.pods_on.get(node, _NOTHING)
        now = tuple(map(snapshot.pods.__getitem__, keys))
        known = self._known.get(node)
        if known is not None and known[0] is keys and all(map(is_, known[1], now)):
            return known[2]
        burden = _burden(snapshot, node)
        self._known[node] = keys, now, burden
        return burden

    def _count(self, before: Burden | None, now: Burden | None) -> None:
        """Keeps `_replicas` when a node's burden changes."""
        if now is not None:
            self._replicas.update(now.replicas)
        if before is not None:
            self._replicas.subtract(before.replicas)
            for owner in before.replicas:
                if not self._replicas[owner]:
                    del self._replicas[owner]


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

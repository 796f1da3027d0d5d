"""What the reallocator needs of others, as small as it needs it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from nodeyard.api.decision import Decision
from nodeyard.api.node import Condition, Node, NodeClaim
from nodeyard.api.nodeclass import NodeClass
from nodeyard.api.pod import PodKey, PodRecord
from nodeyard.api.pool import Pool
from nodeyard.cloudprovider.model import Catalogue
from nodeyard.cloudprovider.refusals import Refusal
from nodeyard.disruption.collection import Instance
from nodeyard.disruption.draining import Answer
from nodeyard.disruption.interruption import Message
from nodeyard.disruption.model import Move
from nodeyard.disruption.surging import Scale
from nodeyard.state.cluster import Change, Snapshot


class Cluster(Protocol):
    """The watcher's stream."""

    @property
    def synced(self) -> bool: ...
    @property
    def lag_s(self) -> float: ...
    def snapshot(self) -> Snapshot: ...
    async def wait_changed(self, after_revision: int, timeout_s: float) -> int: ...
    def overlay(self, change: Change) -> None: ...


class Prices(Protocol):
    """Pricing's stream."""

    @property
    def ready(self) -> bool: ...
    @property
    def revision(self) -> str: ...
    async def wait_changed(self, after_revision: str, timeout_s: float) -> str: ...
    def catalogue_for(self, node_class: NodeClass) -> Catalogue: ...


class Lead(Protocol):
    """The lease `disruption`."""

    @property
    def epoch(self) -> int | None: ...
    async def wait_held(self) -> int: ...


class NodeLeases(Protocol):
    """Leases of single nodes; every method raises StoreUnavailable."""

    async def acquire(self, name: str, holder: str, ttl_s: float, floor: int = 0) -> int | None: ...
    async def renew(self, name: str, holder: str, epoch: int, ttl_s: float) -> bool: ...
    async def release(self, name: str, holder: str, epoch: int) -> None: ...


class Nominating(Protocol):
    """Nodes that pods were just planned onto; every method raises StoreUnavailable."""

    async def nominate(self, nodes: Iterable[str], ttl_s: float) -> None: ...
    async def nominated(self) -> frozenset[str]: ...


class MoveStore(Protocol):
    """Moves of late; every method raises StoreUnavailableError."""

    async def record(self, moves: Sequence[Move]) -> None: ...
    async def recent(self, now: float) -> tuple[Move, ...]: ...


class Recording(Protocol):
    async def record(self, decisions: Sequence[Decision]) -> None: ...


class Events(Protocol):
    """Kubernetes events; returns at once and never raises."""

    def publish(
        self,
        *,
        kind: str,
        api_version: str,
        name: str,
        namespace: str = "",
        uid: str = "",
        type: str = "Normal",
        reason: str,
        message: str,
    ) -> None: ...


class Claims(Protocol):
    """Writes to NodeClaims; None or False where the claim is gone. Raises KubernetesError."""

    async def create(self, claim: NodeClaim, owner: Pool | None = None) -> NodeClaim: ...
    async def get(self, name: str) -> NodeClaim | None: ...
    async def patch_status(
        self, claim: NodeClaim, change: Callable[[NodeClaim], NodeClaim]
    ) -> NodeClaim | None: ...
    async def set_conditions(
        self, claim: NodeClaim, conditions: Sequence[Condition], now: float
    ) -> NodeClaim | None: ...
    async def drop_conditions(self, claim: NodeClaim, kinds: Sequence[str]) -> NodeClaim | None: ...
    async def annotate(
        self,
        claim: NodeClaim,
        annotations: Mapping[str, str | None] = {},
        labels: Mapping[str, str | None] = {},
    ) -> NodeClaim | None: ...
    async def remove_finalizer(self, claim: NodeClaim) -> NodeClaim | None: ...
    async def delete(self, name: str, uid: str = "") -> bool: ...


class Nodes(Protocol):
    """Writes to Nodes, each with the resourceVersion of the node given; False or None where it has moved on."""

    async def disrupt(self, node: Node, mark: str) -> Node | None: ...
    async def restore(self, node: Node) -> Node | None: ...
    async def prepare_drain(self, node: Node) -> Node | None: ...
    async def relabel(self, node: Node, labels: Mapping[str, str | None]) -> Node | None: ...
    async def stamp(self, node: Node, empty_since: str | None) -> Node | None: ...
    async def hold(self, node: Node, until: float) -> Node | None: ...
    async def lift(self, node: Node) -> Node | None: ...
    async def delete(self, node: Node) -> None: ...
    async def drop_finalizer(self, node: Node) -> bool: ...
    async def attached(self) -> Mapping[str, frozenset[str]]: ...


class Placing(Protocol):
    """Pods put onto nodes; what fails is reported by pod, never raised."""

    async def bind(self, pods: Iterable[PodRecord], node: str) -> Mapping[PodKey, str]: ...


class Pods(Protocol):
    async def evict(self, pod: PodRecord) -> Answer: ...
    async def delete(self, pod: PodRecord, grace_s: int) -> Answer: ...


class DeletionCosts(Protocol):
    """What ReplicaSets are told of pods that are about to leave; never raises."""

    async def lower(self, pods: Iterable[PodRecord]) -> None: ...
    async def restore(self, pods: Iterable[PodRecord]) -> None: ...


class Workloads(Protocol):
    """How many replicas a Deployment is to have; both raise KubernetesError, Conflict where it has changed since."""

    async def read(self, deployment: str) -> Scale | None: ...
    async def resize(self, scale: Scale, replicas: int) -> None: ...


class Notices(Protocol):
    """Where the cloud tells what it does with instances; every method raises CloudError."""

    async def receive(self) -> list[Message]: ...
    async def delete(self, handles: Sequence[str]) -> int: ...


class Refusals(Protocol):
    """Pricing, told what the cloud does not give any more; False where no replica could be told. Never raises."""

    async def report_refusals(self, refusals: Sequence[Refusal]) -> bool: ...


class Machines(Protocol):
    """The cloud's instances; every method raises CloudError."""

    @property
    def cluster_uid(self) -> str: ...
    async def list_ours(self) -> list[Instance]: ...
    async def describe(self, ids: Iterable[str]) -> dict[str, Instance]: ...
    async def terminate(self, ids: Iterable[str]) -> None: ...

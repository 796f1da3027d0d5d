"""What the allocator needs from the world, each as small as its use.

The real ones are named in `main` only; tests give honest in-memory ones.
"""

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Protocol

from nodeyard.api.decision import Decision
from nodeyard.api.node import Condition, Node, NodeClaim
from nodeyard.api.nodeclass import Image, NodeClass
from nodeyard.api.pod import PodKey, PodRecord
from nodeyard.api.pool import Pool
from nodeyard.cloudprovider.boot import Boot
from nodeyard.cloudprovider.model import Catalogue
from nodeyard.cloudprovider.refusals import Refusal
from nodeyard.cloudprovider.reservations import CapacityReservation
from nodeyard.provisioning.batches import Answer, Batch, Found
from nodeyard.provisioning.claims import LaunchRecord, ReservationRef
from nodeyard.state.cluster import Change, Snapshot


class Cluster(Protocol):
    """The watcher's stream, own writes laid over it."""

    @property
    def synced(self) -> bool: ...

    @property
    def lag_s(self) -> float: ...

    def snapshot(self) -> Snapshot: ...

    async def wait_changed(self, after_revision: int, timeout_s: float) -> int: ...

    def overlay(self, change: Change) -> None: ...


class Offers(Protocol):
    """Pricing's stream."""

    @property
    def ready(self) -> bool: ...

    @property
    def revision(self) -> str: ...

    def catalogue_for(self, node_class: NodeClass) -> Catalogue: ...

    def reservations_for(self, node_class: NodeClass) -> Sequence[CapacityReservation] | None: ...

    async def count_reservations(self) -> bool: ...

    async def wait_changed(self, after_revision: str, timeout_s: float) -> str: ...

    async def report_refusals(self, refusals: Sequence[Refusal]) -> bool: ...


class Claims(Protocol):
    """NodeClaims as they are written; None or False where one is gone. Raises KubernetesError."""

    async def create(self, claim: NodeClaim, owner: Pool | None = None) -> NodeClaim: ...

    async def get(self, name: str) -> NodeClaim | None: ...

    async def list(self) -> list[NodeClaim]: ...

    async def patch_status(
        self, claim: NodeClaim, change: Callable[[NodeClaim], NodeClaim]
    ) -> NodeClaim | None: ...

    async def set_conditions(
        self, claim: NodeClaim, conditions: Sequence[Condition], now: float
    ) -> NodeClaim | None: ...

    async def annotate(
        self,
        claim: NodeClaim,
        annotations: Mapping[str, str | None] = {},
        labels: Mapping[str, str | None] = {},
        *,
        unless: str = "",
        replacing: str = "",
    ) -> NodeClaim | None: ...

    async def add_finalizer(self, claim: NodeClaim) -> NodeClaim | None: ...

    async def remove_finalizer(self, claim: NodeClaim) -> NodeClaim | None: ...

    async def delete(self, name: str, uid: str = "") -> bool: ...


class Nodes(Protocol):
    """Nodes as they are registered; None where one is gone. Raises KubernetesError."""

    async def register(self, node: Node, claim: NodeClaim, *, hold_until: str = "") -> Node | None: ...

    async def initialized(self, node: Node) -> Node | None: ...

    async def lift_hold(self, node: Node) -> Node | None: ...


class Partitions(Protocol):
    """Where instances came to be. Raises CloudError."""

    async def partition_of(self, instance_id: str) -> int | None: ...


class Pods(Protocol):
    """Pods sent to nodes; answers why where it failed."""

    async def nominate(self, pods: Sequence[PodRecord], node: str) -> dict[PodKey, str]: ...

    async def bind(self, pods: Sequence[PodRecord], node: str) -> dict[PodKey, str]: ...


class Fleet(Protocol):
    """Launches. Raises CloudError."""

    @property
    def region(self) -> str: ...

    def stamp(self, record: LaunchRecord, members: tuple[tuple[str, str], ...]) -> str: ...

    async def launch(self, record: LaunchRecord, batch: Batch) -> Answer: ...

    async def find(self, batch: Batch) -> Sequence[Found]: ...

    async def unnamed(self) -> Mapping[str, str]: ...

    async def name(self, instance_id: str, claim: str, uid: str, *, named: bool) -> None: ...


class Templates(Protocol):
    """Launch templates. Raises CloudError, UserDataError."""

    async def ensure(
        self, node_class: NodeClass, image: Image, boot: Boot, into: ReservationRef | None = None
    ) -> str: ...

    def forget(self, names: list[str]) -> None: ...

    async def delete_of(self, node_class_key: str) -> int: ...

    async def prune(self, keep: AbstractSet[str], classes: AbstractSet[str], now: float) -> int: ...


class ClassResolver(Protocol):
    """What a node class names in the account."""

    async def resolve(self, node_class: NodeClass) -> NodeClass: ...

    def forget(self, key: str) -> None: ...

    async def delete_profile(self, node_class: NodeClass) -> None: ...


class Statuses(Protocol):
    """Statuses of pools and classes; False where the object is gone or changed. Raises KubernetesError."""

    async def write_pool(
        self, key: str, resources: Mapping[str, int], conditions: Sequence[Condition]
    ) -> bool: ...

    async def write_class(self, found: NodeClass) -> bool: ...

    async def hold_class(self, node_class: NodeClass) -> bool: ...

    async def release_class(self, node_class: NodeClass) -> bool: ...


class Leases(Protocol):
    """Leases of single nodes. Raises StoreUnavailableError."""

    async def acquire(self, name: str, holder: str, ttl_s: float, floor: int = 0) -> int | None: ...

    async def renew(self, name: str, holder: str, epoch: int, ttl_s: float) -> bool: ...

    async def release(self, name: str, holder: str, epoch: int) -> None: ...


class Leader(Protocol):
    """The planning lease as seen here."""

    @property
    def epoch(self) -> int | None: ...

    async def wait_held(self) -> int: ...


class Epochs(Protocol):
    """When the newest planning epoch began. Raises StoreUnavailableError."""

    async def began(self, name: str) -> tuple[int, float]:
        """(epoch, seconds since the epoch by the API server's clock); (0, 0.0) where none began."""
        ...


class Nominated(Protocol):
    """Nodes counted on. Raises StoreUnavailableError."""

    async def nominate(self, nodes: Sequence[str], ttl_s: float) -> None: ...


class Journal(Protocol):
    """Decisions written down; never raises."""

    async def record(self, decisions: Sequence[Decision]) -> None: ...


class Events(Protocol):
    """Events for people; returns at once, never raises."""

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

"""The other objects that placement and disruption depend on: daemons, budgets, volumes, namespaces.

Each carries only what is read. Sources: Kubernetes API reference, apps/v1, policy/v1, core/v1, storage/v1.
"""

from nodeyard.api.pod import PodShape
from nodeyard.api.selectors import LabelSelector, NodeSelector, NodeSelectorTerm, Value


class DaemonSet(Value, frozen=True):
    """`shape` is its pod template's."""

    namespace: str
    name: str
    uid: str
    shape: PodShape

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"


class PodDisruptionBudget(Value, frozen=True):
    namespace: str
    name: str
    selector: LabelSelector | None = None
    min_available: str = ""
    max_unavailable: str = ""
    disruptions_allowed: int = 0
    current_healthy: int = 0
    desired_healthy: int = 0
    unhealthy_pod_eviction_policy: str = "IfHealthyBudget"
    observed: bool = False
    """The disruption controller has seen its current generation."""

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"


class PersistentVolume(Value, frozen=True):
    name: str
    driver: str = ""
    node_affinity: NodeSelector | None = None
    local: bool = False
    """local or hostPath: its hostname affinity names a node that goes away with the pod's."""


class PersistentVolumeClaim(Value, frozen=True):
    namespace: str
    name: str
    volume_name: str = ""
    storage_class: str | None = None
    phase: str = "Pending"
    deleting: bool = False
    bind_completed: bool = False

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"


class StorageClass(Value, frozen=True):
    name: str
    provisioner: str = ""
    binding_mode: str = "Immediate"
    allowed_topologies: tuple[NodeSelectorTerm, ...] = ()
    default: bool = False


class CSINode(Value, frozen=True):
    """`limits`: driver -> volumes that can be attached, absent where unlimited."""

    name: str
    limits: dict[str, int] = {}


class Namespace(Value, frozen=True):
    name: str
    labels: dict[str, str] = {}


class PriorityClass(Value, frozen=True):
    name: str
    value: int = 0
    default: bool = False


class Selecting(Value, frozen=True):
    """A Service, ReplicaSet, ReplicationController or StatefulSet, for the selectors that cluster default spread uses."""

    kind: str
    namespace: str
    name: str
    selector: LabelSelector | None = None
    replicas: int = 0

    @property
    def key(self) -> str:
        return f"{self.kind}/{self.namespace}/{self.name}"

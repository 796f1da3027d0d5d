"""A Kubernetes node and its cloud-side twin, the NodeClaim, as values.

A claim is written by the planner, launched by the allocator, and stands beside its node for life. Times are seconds
since the epoch (UTC), 0.0 where unknown. Resources are integers as in `quantity`.
"""

from typing import Final

from nodeyard.api import labels as keys
from nodeyard.api.quantity import Resources
from nodeyard.api.selectors import Requirement, Taint, Value

LAUNCHED: Final = "Launched"
REGISTERED: Final = "Registered"
INITIALIZED: Final = "Initialized"
READY: Final = "Ready"


class Condition(Value, frozen=True):
    """A status condition. `since` is lastTransitionTime."""

    type: str
    status: str = "Unknown"
    reason: str = ""
    message: str = ""
    since: float = 0.0
    observed_generation: int = 0


class NodeClassRef(Value, frozen=True):
    """What a pool's nodes are made by. For a Provisioner with its own settings: group karpenter.sh, kind Provisioner, its
    own name.
    """

    name: str
    kind: str = "EC2NodeClass"
    group: str = keys.AWS_GROUP

    @property
    def key(self) -> str:
        """`<name>` of an EC2NodeClass, `provisioner/<name>` of a Provisioner that describes its own class,
        `awsnodetemplate/<name>` of an AWSNodeTemplate.
        """
        return (
            f"{self.kind.lower()}/{self.name}"
            if self.kind in ("Provisioner", "AWSNodeTemplate")
            else self.name
        )


class Node(Value, frozen=True):
    name: str
    uid: str = ""
    resource_version: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    finalizers: tuple[str, ...] = ()
    taints: tuple[Taint, ...] = ()
    unschedulable: bool = False
    provider_id: str = ""
    capacity: Resources = {}
    allocatable: Resources = {}
    conditions: tuple[Condition, ...] = ()
    created_at: float = 0.0
    deleted_at: float = 0.0

    @property
    def pool(self) -> str:
        """Key of the pool it belongs to, else empty (not ours)."""
        return pool_key(self.labels)

    @property
    def ready(self) -> bool:
        return condition_true(self.conditions, READY)

    @property
    def initialized(self) -> bool:
        return self.labels.get(keys.INITIALIZED) == "true"

    @property
    def registered(self) -> bool:
        return self.labels.get(keys.REGISTERED) == "true"


class NodeClaim(Value, frozen=True):
    name: str
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    finalizers: tuple[str, ...] = ()
    requirements: tuple[Requirement, ...] = ()
    requests: Resources = {}
    taints: tuple[Taint, ...] = ()
    startup_taints: tuple[Taint, ...] = ()
    node_class: NodeClassRef = NodeClassRef("")
    expire_after_s: float | None = None
    """None: never."""
    termination_grace_period_s: float | None = None
    provider_id: str = ""
    node_name: str = ""
    image_id: str = ""
    capacity: Resources = {}
    allocatable: Resources = {}
    conditions: tuple[Condition, ...] = ()
    last_pod_event_at: float = 0.0
    created_at: float = 0.0
    deleted_at: float = 0.0

    @property
    def pool(self) -> str:
        return pool_key(self.labels)

    def condition(self, kind: str) -> Condition | None:
        return next((c for c in self.conditions if c.type == kind), None)

    def is_true(self, kind: str) -> bool:
        return condition_true(self.conditions, kind)

    @property
    def deleting(self) -> bool:
        return self.deleted_at > 0.0


def condition_true(conditions: tuple[Condition, ...], kind: str) -> bool:
    for condition in conditions:  # noqa: SIM110 - asked of every node in every look, and a generator takes three times as long
        if condition.type == kind and condition.status == "True":
            return True
    return False


def pool_key(labels: dict[str, str]) -> str:
    """The key of the pool that labels name: `<nodepool>` or `provisioner/<name>`; empty if neither."""
    if name := labels.get(keys.NODEPOOL):
        return name
    if name := labels.get(keys.PROVISIONER):
        return f"provisioner/{name}"
    return ""


def pool_labels(pool: str) -> dict[str, str]:
    """The label that marks nodes and claims of the pool with this key."""
    kind, _, name = pool.rpartition("/")
    return {keys.PROVISIONER: name} if kind == "provisioner" else {keys.NODEPOOL: name}

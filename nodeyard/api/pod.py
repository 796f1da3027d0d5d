"""Pods, split in two: the shape (all that scheduling depends on) and the record (identity and progress).

Thousands of pods share one shape; the planner works on shapes, the lifecycle on records. `convert.shape_of` makes
a shape from a Kubernetes pod, and its id is a digest of the content, equal in every process.
"""

from typing import Final

from nodeyard.api.quantity import Resources
from nodeyard.api.selectors import (
    HostPort,
    NodeAffinity,
    PodAffinity,
    Toleration,
    TopologySpreadConstraint,
    Value,
)

PodKey = str
"""`namespace/name`."""
ShapeId = str
INIT: Final = "init"
SIDECAR: Final = "sidecar"


class ContainerShape(Value, frozen=True):
    """One container's part in a pod's requests. `stage`: INIT ends before the others run, SIDECAR starts before them
    and stays.
    """

    name: str
    requests: Resources = {}
    limits: Resources = {}
    stage: str = ""


class PodShape(Value, frozen=True):
    """All that scheduling a pod depends on. `requests` follows Kubernetes' rule for init containers, sidecars,
    pod-level resources and overhead, and counts `pods: 1`.
    """

    id: ShapeId
    namespace: str
    labels: dict[str, str] = {}
    requests: Resources = {}
    node_selector: dict[str, str] = {}
    node_affinity: NodeAffinity | None = None
    pod_affinity: PodAffinity | None = None
    pod_anti_affinity: PodAffinity | None = None
    tolerations: tuple[Toleration, ...] = ()
    topology_spread_constraints: tuple[TopologySpreadConstraint, ...] = ()
    host_ports: tuple[HostPort, ...] = ()
    volume_claims: tuple[str, ...] = ()
    """Names of PersistentVolumeClaims in the pod's namespace (generic ephemeral volumes by their claim's name)."""
    priority: int = 0
    scheduler_name: str = "default-scheduler"
    resource_claims: bool = False
    scheduling_gates: bool = False
    gang: str = ""
    """Name of the pod group that must be scheduled as a whole, else empty."""
    preemption_policy: str = ""
    containers: tuple[ContainerShape, ...] = ()
    """What `requests` are made of, in the order of their starts; empty where it can't change: of daemons, and where
    requests are the pod's own.
    """


class PodRecord(Value, frozen=True):
    """One pod's identity and progress. Times are seconds since the epoch (UTC), 0.0 where unknown."""

    namespace: str
    name: str
    uid: str
    shape: ShapeId
    resource_version: str = ""
    node: str = ""
    phase: str = "Pending"
    unschedulable: bool = False
    """PodScheduled is False with reason Unschedulable."""
    unschedulable_since: float = 0.0
    scheduled_at: float = 0.0
    nominated_node: str = ""
    created_at: float = 0.0
    started_at: float = 0.0
    deleted_at: float = 0.0
    """deletionTimestamp: when the grace period ends; 0.0 while not being deleted."""
    grace_period_s: float = 30.0
    ready: bool = False
    owner_kind: str = ""
    owner_name: str = ""
    owner_uid: str = ""
    do_not_disrupt: str = ""
    """Value of karpenter.sh/do-not-disrupt ("true" or a duration); the older do-not-evict reads as "true"."""
    deletion_cost: int = 0
    surge: str = ""
    """Value of nodeyard.dev/surge: "true", or how long its eviction waits at most for another replica."""

    @property
    def key(self) -> PodKey:
        return f"{self.namespace}/{self.name}"

    @property
    def finished(self) -> bool:
        """Succeeded or Failed: holds no resources any more."""
        return self.phase in ("Succeeded", "Failed")

    @property
    def terminating(self) -> bool:
        return self.deleted_at > 0.0

    @property
    def daemon(self) -> bool:
        """Owned by a DaemonSet or by the node itself (a mirror pod): goes with its node, is never moved."""
        return self.owner_kind in ("DaemonSet", "Node")

    @property
    def provisionable(self) -> bool:
        """The kube-scheduler found no place and nothing else is coming for it.

        Source: Karpenter documentation, "Scheduling"; a nominated node means that preemption is under way, unless
        the nomination is ours, which the caller knows.
        """
        return (
            self.unschedulable
            and not self.node
            and not self.finished
            and not self.terminating
            and not self.daemon
        )

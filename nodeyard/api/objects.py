"""Kubernetes objects as the API server writes them: only the fields that are read, nothing else is decoded.

They live for the moment between the wire and `convert`, which turns them into values; nothing keeps them. Unknown
fields are skipped, absent ones have the API's defaults. Source: Kubernetes API reference; Karpenter documentation
for NodePool, NodeClaim and EC2NodeClass.
"""

from datetime import datetime
from typing import Any

import msgspec

from nodeyard.api.cpu_options import CpuOptions
from nodeyard.api.networking import ConnectionTracking, NetworkInterface
from nodeyard.api.nodeclass import (
    BlockDeviceMapping,
    FoundReservation,
    MetadataOptions,
    ReservationTerm,
    SelectorTerm,
)
from nodeyard.api.placement import PlacementGroup, PlacementGroupSelector
from nodeyard.api.selectors import (
    Affinity,
    LabelSelector,
    NodeSelector,
    Requirement,
    Taint,
    Toleration,
    TopologySpreadConstraint,
)

Quantities = dict[str, str | int | float]


class Raw(msgspec.Struct, rename="camel", omit_defaults=True, gc=False):
    """Base of all raw slices. Mutable, so that what is unique to a pod can be blanked before it is compared."""


class Present(Raw):
    """An object of which only matters that it is there."""


class OwnerReference(Raw):
    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool = False


class Meta(Raw):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    finalizers: tuple[str, ...] = ()


class PodMeta(Meta):
    owner_references: tuple[OwnerReference, ...] = ()


class Identity(Raw):
    """What can be said of any object, however broken the rest."""

    kind: str = ""
    api_version: str = ""
    metadata: Meta = msgspec.field(default_factory=Meta)


class RawCondition(Raw):
    type: str = ""
    status: str = "Unknown"
    reason: str | None = None
    message: str | None = None
    last_transition_time: datetime | None = None
    observed_generation: int | None = None


# --- pods -----------------------------------------------------------------------------------------------------------
class ResourceRequirements(Raw):
    requests: Quantities = {}
    limits: Quantities = {}


class ContainerPort(Raw):
    host_port: int = 0
    container_port: int = 0
    protocol: str = "TCP"
    host_ip: str = msgspec.field(default="", name="hostIP")


class Container(Raw):
    name: str = ""
    resources: ResourceRequirements | None = None
    ports: tuple[ContainerPort, ...] = ()
    restart_policy: str = ""


class ClaimVolume(Raw):
    claim_name: str = ""


class Volume(Raw):
    name: str = ""
    persistent_volume_claim: ClaimVolume | None = None
    ephemeral: Present | None = None


class SchedulingGroup(Raw):
    pod_group_name: str | None = None


class WorkloadRef(Raw):
    """As Kubernetes 1.35 had it, before schedulingGroup."""

    name: str = ""
    pod_group: str = ""
    pod_group_replica_key: str = ""


class Named(Raw):
    name: str = ""


class PodSpec(Raw):
    """`node_name` and `termination_grace_period_seconds` are a pod's own; the rest is its shape."""

    containers: tuple[Container, ...] = ()
    init_containers: tuple[Container, ...] = ()
    resources: ResourceRequirements | None = None
    overhead: Quantities = {}
    node_name: str = ""
    node_selector: dict[str, str] = {}
    affinity: Affinity | None = None
    tolerations: tuple[Toleration, ...] = ()
    topology_spread_constraints: tuple[TopologySpreadConstraint, ...] = ()
    volumes: tuple[Volume, ...] = ()
    priority: int | None = None
    scheduler_name: str = "default-scheduler"
    preemption_policy: str = ""
    host_network: bool = False
    resource_claims: tuple[Named, ...] = ()
    scheduling_gates: tuple[Named, ...] = ()
    scheduling_group: SchedulingGroup | None = None
    workload_ref: WorkloadRef | None = None
    termination_grace_period_seconds: int | None = None


class ContainerStatus(Raw):
    name: str = ""
    allocated_resources: Quantities = {}
    resources: ResourceRequirements | None = None


class PodStatus(Raw):
    phase: str = "Pending"
    conditions: tuple[RawCondition, ...] = ()
    nominated_node_name: str = ""
    start_time: datetime | None = None
    container_statuses: tuple[ContainerStatus, ...] = ()
    init_container_statuses: tuple[ContainerStatus, ...] = ()


class Pod(Raw):
    metadata: PodMeta
    spec: PodSpec = msgspec.field(default_factory=PodSpec)
    status: PodStatus = msgspec.field(default_factory=PodStatus)


class PodTemplate(Raw):
    metadata: Meta = msgspec.field(default_factory=Meta)
    spec: PodSpec = msgspec.field(default_factory=PodSpec)


class DaemonSetSpec(Raw):
    template: PodTemplate = msgspec.field(default_factory=PodTemplate)


class DaemonSet(Raw):
    metadata: Meta
    spec: DaemonSetSpec = msgspec.field(default_factory=DaemonSetSpec)


# --- nodes and claims -----------------------------------------------------------------------------------------------
class NodeSpec(Raw):
    taints: tuple[Taint, ...] = ()
    unschedulable: bool = False
    provider_id: str = msgspec.field(default="", name="providerID")


class NodeStatus(Raw):
    capacity: Quantities = {}
    allocatable: Quantities = {}
    conditions: tuple[RawCondition, ...] = ()


class Node(Raw):
    metadata: Meta
    spec: NodeSpec = msgspec.field(default_factory=NodeSpec)
    status: NodeStatus = msgspec.field(default_factory=NodeStatus)


class NodeClassReference(Raw):
    name: str = ""
    kind: str = "EC2NodeClass"
    group: str = "karpenter.k8s.aws"


class NodeClaimSpec(Raw):
    requirements: tuple[Requirement, ...] = ()
    resources: ResourceRequirements | None = None
    taints: tuple[Taint, ...] = ()
    startup_taints: tuple[Taint, ...] = ()
    node_class_ref: NodeClassReference = msgspec.field(default_factory=NodeClassReference)
    expire_after: str | None = None
    termination_grace_period: str | None = None


class NodeClaimStatus(Raw):
    provider_id: str = msgspec.field(default="", name="providerID")
    node_name: str = ""
    image_id: str = msgspec.field(default="", name="imageID")
    capacity: Quantities = {}
    allocatable: Quantities = {}
    conditions: tuple[RawCondition, ...] = ()
    last_pod_event_time: datetime | None = None


class NodeClaim(Raw):
    metadata: Meta
    spec: NodeClaimSpec = msgspec.field(default_factory=NodeClaimSpec)
    status: NodeClaimStatus = msgspec.field(default_factory=NodeClaimStatus)


# --- pools and classes ----------------------------------------------------------------------------------------------
class TemplateMeta(Raw):
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class NodeClaimTemplate(Raw):
    metadata: TemplateMeta = msgspec.field(default_factory=TemplateMeta)
    spec: NodeClaimSpec = msgspec.field(default_factory=NodeClaimSpec)


class RawBudget(Raw):
    nodes: str | int = "10%"
    schedule: str | None = None
    duration: str | None = None
    reasons: tuple[str, ...] = ()
    time_zone: str = ""
    start: str = ""
    end: str = ""


class RawDisruption(Raw):
    consolidation_policy: str = "WhenEmptyOrUnderutilized"
    consolidate_after: str | None = None
    budgets: tuple[RawBudget, ...] | None = None
    allow_windows: tuple[RawBudget, ...] = ()


class NodePoolSpec(Raw):
    template: NodeClaimTemplate = msgspec.field(default_factory=NodeClaimTemplate)
    disruption: RawDisruption = msgspec.field(default_factory=RawDisruption)
    limits: Quantities = {}
    weight: int | None = None
    replicas: int | None = None


class PoolStatus(Raw):
    resources: Quantities = {}
    conditions: tuple[RawCondition, ...] = ()


class NodePool(Raw):
    metadata: Meta
    spec: NodePoolSpec = msgspec.field(default_factory=NodePoolSpec)
    status: PoolStatus = msgspec.field(default_factory=PoolStatus)


class EC2NodeClassSpec(Raw):
    ami_family: str | None = None
    subnet_selector_terms: tuple[SelectorTerm, ...] = ()
    security_group_selector_terms: tuple[SelectorTerm, ...] = ()
    ami_selector_terms: tuple[SelectorTerm, ...] = ()
    capacity_reservation_selector_terms: tuple[ReservationTerm, ...] = ()
    role: str = ""
    instance_profile: str = ""
    user_data: str = ""
    tags: dict[str, str] = {}
    kubelet: dict[str, Any] = {}
    block_device_mappings: tuple[BlockDeviceMapping, ...] = ()
    instance_store_policy: str = ""
    metadata_options: MetadataOptions = MetadataOptions()
    associate_public_ip: bool | None = msgspec.field(default=None, name="associatePublicIPAddress")
    ip_prefix_count: int | None = None
    network_interfaces: tuple[NetworkInterface, ...] = ()
    connection_tracking: ConnectionTracking | None = None
    detailed_monitoring: bool = False
    cpu_options: CpuOptions | None = None
    placement_group_selector: PlacementGroupSelector | None = None
    context: str = ""


class RawSubnet(Raw):
    id: str = ""
    zone: str = ""
    zone_id: str = msgspec.field(default="", name="zoneID")


class RawSecurityGroup(Raw):
    id: str = ""
    name: str = ""


class RawImage(Raw):
    id: str = ""
    name: str = ""
    requirements: tuple[Requirement, ...] = ()


class EC2NodeClassStatus(Raw):
    subnets: tuple[RawSubnet, ...] = ()
    security_groups: tuple[RawSecurityGroup, ...] = ()
    amis: tuple[RawImage, ...] = ()
    capacity_reservations: tuple[FoundReservation, ...] = ()
    instance_profile: str = ""
    placement_group: PlacementGroup | None = None
    conditions: tuple[RawCondition, ...] = ()


class EC2NodeClass(Raw):
    metadata: Meta
    spec: EC2NodeClassSpec = msgspec.field(default_factory=EC2NodeClassSpec)
    status: EC2NodeClassStatus = msgspec.field(default_factory=EC2NodeClassStatus)


# --- budgets, volumes and the rest ----------------------------------------------------------------------------------
class PDBSpec(Raw):
    selector: LabelSelector | None = None
    min_available: str | int | None = None
    max_unavailable: str | int | None = None
    unhealthy_pod_eviction_policy: str | None = None


class PDBStatus(Raw):
    disruptions_allowed: int = 0
    current_healthy: int = 0
    desired_healthy: int = 0
    observed_generation: int = 0


class PDB(Raw):
    metadata: Meta
    spec: PDBSpec = msgspec.field(default_factory=PDBSpec)
    status: PDBStatus = msgspec.field(default_factory=PDBStatus)


class CSISource(Raw):
    driver: str = ""


class VolumeNodeAffinity(Raw):
    required: NodeSelector | None = None


class PVSpec(Raw):
    csi: CSISource | None = None
    aws_elastic_block_store: Present | None = None
    local: Present | None = None
    host_path: Present | None = None
    node_affinity: VolumeNodeAffinity | None = None


class PV(Raw):
    metadata: Meta
    spec: PVSpec = msgspec.field(default_factory=PVSpec)


class PVCSpec(Raw):
    volume_name: str = ""
    storage_class_name: str | None = None


class PVCStatus(Raw):
    phase: str = "Pending"


class PVC(Raw):
    metadata: Meta
    spec: PVCSpec = msgspec.field(default_factory=PVCSpec)
    status: PVCStatus = msgspec.field(default_factory=PVCStatus)


class TopologyExpression(Raw):
    key: str = ""
    values: tuple[str, ...] = ()


class TopologyTerm(Raw):
    match_label_expressions: tuple[TopologyExpression, ...] = ()


class StorageClass(Raw):
    metadata: Meta
    provisioner: str = ""
    volume_binding_mode: str = "Immediate"
    allowed_topologies: tuple[TopologyTerm, ...] = ()


class DriverLimit(Raw):
    count: int | None = None


class Driver(Raw):
    name: str = ""
    allocatable: DriverLimit | None = None


class CSINodeSpec(Raw):
    drivers: tuple[Driver, ...] | None = None


class CSINode(Raw):
    metadata: Meta
    spec: CSINodeSpec = msgspec.field(default_factory=CSINodeSpec)


class Namespace(Raw):
    metadata: Meta


class PriorityClass(Raw):
    metadata: Meta
    value: int = 0
    global_default: bool = False


class MapSelectorSpec(Raw):
    """Services and ReplicationControllers select by a plain map."""

    selector: dict[str, str] = {}
    replicas: int | None = None


class MapSelecting(Raw):
    metadata: Meta
    spec: MapSelectorSpec = msgspec.field(default_factory=MapSelectorSpec)


class SelectorSpec(Raw):
    """ReplicaSets and StatefulSets select by a label selector."""

    selector: LabelSelector | None = None
    replicas: int | None = None


class Selecting(Raw):
    metadata: Meta
    spec: SelectorSpec = msgspec.field(default_factory=SelectorSpec)

"""How nodes are made on EC2: the EC2NodeClass (karpenter.k8s.aws/v1) as a value.

A Provisioner's `provider` block becomes one too, keyed `provisioner/<name>`. The status is what the allocator found
in the account: subnets, security groups, images, profile. Source: Karpenter documentation, "NodeClasses".
"""

from typing import Any

import msgspec

from nodeyard.api.cpu_options import CpuOptions
from nodeyard.api.networking import ConnectionTracking, NetworkInterface
from nodeyard.api.node import Condition
from nodeyard.api.placement import Placement, PlacementGroup, PlacementGroupSelector
from nodeyard.api.selectors import Requirement, Value


class SelectorTerm(Value, frozen=True):
    """Tags are ANDed, `*` is a wildcard; id, name, alias and ssmParameter stand alone. Terms are ORed."""

    tags: dict[str, str] = {}
    id: str = ""
    name: str = ""
    owner: str = ""
    alias: str = ""
    ssm_parameter: str = ""


class ReservationTerm(Value, frozen=True):
    """Fields are ANDed, terms ORed; `*` in a tag's value is a wildcard; an id stands alone."""

    tags: dict[str, str] = {}
    id: str = ""
    owner_id: str = msgspec.field(default="", name="ownerID")
    instance_match_criteria: str = ""


class FoundReservation(Value, frozen=True):
    """A capacity reservation that the class's terms select. `end_time` is RFC 3339, empty where it has no end."""

    id: str
    instance_type: str = ""
    zone: str = msgspec.field(default="", name="availabilityZone")
    reservation_type: str = ""
    instance_match_criteria: str = ""
    owner_id: str = msgspec.field(default="", name="ownerID")
    state: str = ""
    interruptible: bool = False
    end_time: str = ""


class BlockDevice(Value, frozen=True):
    volume_size: str = ""
    volume_type: str = ""
    iops: int | None = None
    throughput: int | None = None
    encrypted: bool | None = None
    delete_on_termination: bool | None = None
    kms_key_id: str = msgspec.field(default="", name="kmsKeyID")
    snapshot_id: str = msgspec.field(default="", name="snapshotID")
    volume_initialization_rate: int | None = None


class BlockDeviceMapping(Value, frozen=True):
    device_name: str = ""
    root_volume: bool = False
    ebs: BlockDevice | None = None


class MetadataOptions(Value, frozen=True):
    http_endpoint: str = msgspec.field(default="enabled", name="httpEndpoint")
    http_protocol_ipv6: str = msgspec.field(default="disabled", name="httpProtocolIPv6")
    http_put_response_hop_limit: int = msgspec.field(default=1, name="httpPutResponseHopLimit")
    http_tokens: str = msgspec.field(default="required", name="httpTokens")


class Kubelet(Value, frozen=True):
    """What scheduling and user data know by name; `other` has the remaining fields as they were written."""

    max_pods: int | None = None
    pods_per_core: int | None = None
    kube_reserved: dict[str, str] = {}
    system_reserved: dict[str, str] = {}
    eviction_hard: dict[str, str] = {}
    eviction_soft: dict[str, str] = {}
    eviction_soft_grace_period: dict[str, str] = {}
    eviction_max_pod_grace_period: int | None = None
    image_gc_high_threshold_percent: int | None = msgspec.field(
        default=None, name="imageGCHighThresholdPercent"
    )
    image_gc_low_threshold_percent: int | None = msgspec.field(
        default=None, name="imageGCLowThresholdPercent"
    )
    cluster_dns: tuple[str, ...] = msgspec.field(default=(), name="clusterDNS")
    cpu_cfs_quota: bool | None = msgspec.field(default=None, name="cpuCFSQuota")
    other: dict[str, Any] = {}


class Subnet(Value, frozen=True):
    id: str
    zone: str
    zone_id: str = msgspec.field(default="", name="zoneID")


class SecurityGroup(Value, frozen=True):
    id: str
    name: str = ""


class Image(Value, frozen=True):
    id: str
    name: str = ""
    requirements: tuple[Requirement, ...] = ()


class NodeClass(Value, frozen=True):
    key: str
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    deleting: bool = False
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    finalizers: tuple[str, ...] = ()
    ami_family: str = "AL2023"
    subnet_terms: tuple[SelectorTerm, ...] = ()
    security_group_terms: tuple[SelectorTerm, ...] = ()
    ami_terms: tuple[SelectorTerm, ...] = ()
    capacity_reservation_terms: tuple[ReservationTerm, ...] = ()
    role: str = ""
    instance_profile: str = ""
    launch_template: str = ""
    """v1alpha5 only: a launch template of the user's that replaces the generated one."""
    user_data: str = ""
    tags: dict[str, str] = {}
    kubelet: Kubelet = Kubelet()
    block_device_mappings: tuple[BlockDeviceMapping, ...] = ()
    instance_store_policy: str = ""
    metadata_options: MetadataOptions = MetadataOptions()
    associate_public_ip: bool | None = None
    ip_prefix_count: int | None = None
    network_interfaces: tuple[NetworkInterface, ...] = ()
    connection_tracking: ConnectionTracking | None = None
    detailed_monitoring: bool = False
    cpu_options: CpuOptions | None = None
    placement_group_selector: PlacementGroupSelector | None = None
    context: str = ""
    """EC2's own word for a reserved context id, passed on with each launch."""
    hash: str = ""
    # found in the account; written to status by the allocator
    subnets: tuple[Subnet, ...] = ()
    security_groups: tuple[SecurityGroup, ...] = ()
    images: tuple[Image, ...] = ()
    capacity_reservations: tuple[FoundReservation, ...] = ()
    resolved_profile: str = ""
    placement_group: PlacementGroup | None = None
    placement: Placement = Placement()
    """Of one launch; set by whoever prepares it, never found in a class."""
    conditions: tuple[Condition, ...] = ()
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    """What is understood in today's terms, or left out, of an AWSNodeTemplate; a Provisioner has its own."""

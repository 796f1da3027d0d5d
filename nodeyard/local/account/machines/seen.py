"""The slices of Pods and Nodes that a machine reads, as values decoded straight from the API server's JSON.

Only the fields that admission, running and ending a pod depend on; `conditions` stay as they are, to be handed back.
Neighbours: `kube` decodes, `admission` and `pods` read.
"""

from __future__ import annotations

from typing import Any

import msgspec


class Metadata(msgspec.Struct, rename="camel"):
    """Of any object."""

    name: str
    uid: str = ""
    namespace: str = ""
    resource_version: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    deletion_timestamp: str | None = None
    deletion_grace_period_seconds: int | None = None


class Requests(msgspec.Struct):
    """`resources` of a container or a pod."""

    requests: dict[str, str | int | float] = {}


class Port(msgspec.Struct, rename="camel"):
    """A container's port; `host_port` 0 means none."""

    host_port: int = 0
    protocol: str = "TCP"
    host_ip: str = msgspec.field(default="", name="hostIP")


class Container(msgspec.Struct, rename="camel"):
    """Of a pod; `restart_policy` Always makes an init container a sidecar."""

    name: str
    image: str = ""
    resources: Requests = msgspec.field(default_factory=Requests)
    ports: list[Port] = []
    restart_policy: str | None = None


class Expression(msgspec.Struct):
    """Of a node selector term."""

    key: str
    operator: str
    values: list[str] = []


class Term(msgspec.Struct, rename="camel"):
    """Of a node selector: ANDed expressions over labels and fields."""

    match_expressions: list[Expression] = []
    match_fields: list[Expression] = []


class Selector(msgspec.Struct, rename="camel"):
    """ORed terms."""

    node_selector_terms: list[Term] = []


class NodeAffinity(msgspec.Struct):
    """Only what is required; what is preferred is the scheduler's business."""

    required: Selector | None = msgspec.field(
        default=None, name="requiredDuringSchedulingIgnoredDuringExecution"
    )


class Affinity(msgspec.Struct, rename="camel"):
    """Only towards nodes."""

    node_affinity: NodeAffinity | None = None


class Toleration(msgspec.Struct):
    """Of a pod."""

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""


class PodSpec(msgspec.Struct, rename="camel"):
    """What is to run and where it may."""

    node_name: str = ""
    containers: list[Container] = []
    init_containers: list[Container] = []
    overhead: dict[str, str | int | float] = {}
    resources: Requests = msgspec.field(default_factory=Requests)
    node_selector: dict[str, str] = {}
    affinity: Affinity | None = None
    tolerations: list[Toleration] = []
    host_network: bool = False
    readiness_gates: list[dict[str, str]] = []


class PodStatus(msgspec.Struct, rename="camel"):
    """How it is."""

    phase: str = "Pending"
    conditions: list[dict[str, Any]] = []


class Pod(msgspec.Struct):
    """A pod."""

    metadata: Metadata
    spec: PodSpec
    status: PodStatus = msgspec.field(default_factory=PodStatus)

    @property
    def ended(self) -> bool:
        """Whether it uses nothing any more."""
        return self.status.phase in ("Failed", "Succeeded")


class NodeTaint(msgspec.Struct):
    """Of a node."""

    key: str
    effect: str
    value: str = ""


class NodeSpec(msgspec.Struct, rename="camel"):
    """Identity and taints."""

    provider_id: str = msgspec.field(default="", name="providerID")
    taints: list[NodeTaint] = []


class NodeStatus(msgspec.Struct):
    """Conditions, as they are."""

    conditions: list[dict[str, Any]] = []


class Node(msgspec.Struct):
    """A node."""

    metadata: Metadata
    spec: NodeSpec = msgspec.field(default_factory=NodeSpec)
    status: NodeStatus = msgspec.field(default_factory=NodeStatus)

    def ready(self) -> str:
        """The Ready condition: True, False, Unknown, or empty when there is none."""
        return next((str(c.get("status")) for c in self.status.conditions if c.get("type") == "Ready"), "")

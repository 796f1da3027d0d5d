"""Label, annotation, taint and finalizer keys, and the few values they take.

Sources: kubernetes.io "Well-Known Labels, Annotations and Taints"; karpenter.sh documentation for the
`karpenter.sh` and `karpenter.k8s.aws` keys, which users' manifests already carry. Keys under `nodeyard.dev`
are ours and are documented in docs/architecture.md.
"""

from typing import Final

# --- Kubernetes -----------------------------------------------------------------------------------------------------
ARCH: Final = "kubernetes.io/arch"
OS: Final = "kubernetes.io/os"
HOSTNAME: Final = "kubernetes.io/hostname"
INSTANCE_TYPE: Final = "node.kubernetes.io/instance-type"
ZONE: Final = "topology.kubernetes.io/zone"
REGION: Final = "topology.kubernetes.io/region"
WINDOWS_BUILD: Final = "node.kubernetes.io/windows-build"
EXCLUDE_BALANCERS: Final = "node.kubernetes.io/exclude-from-external-load-balancers"
NAMESPACE_NAME: Final = "kubernetes.io/metadata.name"
POD_DELETION_COST: Final = "controller.kubernetes.io/pod-deletion-cost"
POD_TEMPLATE_HASH: Final = "pod-template-hash"
TAINT_NOT_READY: Final = "node.kubernetes.io/not-ready"
TAINT_UNREACHABLE: Final = "node.kubernetes.io/unreachable"
TAINT_UNSCHEDULABLE: Final = "node.kubernetes.io/unschedulable"
TAINT_CLOUD_UNINITIALIZED: Final = "node.cloudprovider.kubernetes.io/uninitialized"
READINESS_DOMAIN: Final = "readiness.k8s.io/"

# --- karpenter.sh ---------------------------------------------------------------------------------------------------
NODEPOOL: Final = "karpenter.sh/nodepool"
PROVISIONER: Final = "karpenter.sh/provisioner-name"
CAPACITY_TYPE: Final = "karpenter.sh/capacity-type"
REGISTERED: Final = "karpenter.sh/registered"
INITIALIZED: Final = "karpenter.sh/initialized"
DO_NOT_DISRUPT: Final = "karpenter.sh/do-not-disrupt"
DO_NOT_EVICT: Final = "karpenter.sh/do-not-evict"
DO_NOT_SYNC_TAINTS: Final = "karpenter.sh/do-not-sync-taints"
TERMINATION_TIMESTAMP: Final = "karpenter.sh/nodeclaim-termination-timestamp"
NODEPOOL_HASH: Final = "karpenter.sh/nodepool-hash"
NODEPOOL_HASH_VERSION: Final = "karpenter.sh/nodepool-hash-version"
MIN_VALUES_RELAXED: Final = "karpenter.sh/nodeclaim-min-values-relaxed"
EMPTINESS_TIMESTAMP: Final = "karpenter.sh/emptiness-timestamp"
TAINT_UNREGISTERED: Final = "karpenter.sh/unregistered"
TAINT_DISRUPTED: Final = "karpenter.sh/disrupted"
TERMINATION_FINALIZER: Final = "karpenter.sh/termination"

# --- karpenter.k8s.aws ----------------------------------------------------------------------------------------------
AWS_GROUP: Final = "karpenter.k8s.aws"
INSTANCE_CATEGORY: Final = "karpenter.k8s.aws/instance-category"
INSTANCE_FAMILY: Final = "karpenter.k8s.aws/instance-family"
INSTANCE_GENERATION: Final = "karpenter.k8s.aws/instance-generation"
INSTANCE_SIZE: Final = "karpenter.k8s.aws/instance-size"
INSTANCE_CPU: Final = "karpenter.k8s.aws/instance-cpu"
INSTANCE_CPU_MANUFACTURER: Final = "karpenter.k8s.aws/instance-cpu-manufacturer"
INSTANCE_MEMORY: Final = "karpenter.k8s.aws/instance-memory"
NODECLASS_LABEL: Final = "karpenter.k8s.aws/ec2nodeclass"
NODECLASS_HASH: Final = "karpenter.k8s.aws/ec2nodeclass-hash"
NODECLASS_HASH_VERSION: Final = "karpenter.k8s.aws/ec2nodeclass-hash-version"
RESERVATION_ID: Final = "karpenter.k8s.aws/capacity-reservation-id"
RESERVATION_TYPE: Final = "karpenter.k8s.aws/capacity-reservation-type"
RESERVATION_INTERRUPTIBLE: Final = "karpenter.k8s.aws/capacity-reservation-interruptible"
PLACEMENT_GROUP: Final = "karpenter.k8s.aws/placement-group-id"
PLACEMENT_PARTITION: Final = "karpenter.k8s.aws/placement-group-partition"
TENANCY: Final = "karpenter.k8s.aws/instance-tenancy"
ZONE_ID: Final = "topology.k8s.aws/zone-id"

# --- nodeyard.dev: what we write on NodeClaims, Nodes and read on NodePools -----------------------------------------
PLANNED_PODS: Final = "nodeyard.dev/planned-pods"
"""On a NodeClaim: JSON list of "namespace/name" of the pods it was planned for."""
PLANNER_GROUP: Final = "nodeyard.dev/planner-group"
PLANNER_EPOCH: Final = "nodeyard.dev/planner-epoch"
PLAN_ID: Final = "nodeyard.dev/plan-id"
LAUNCH_OFFERINGS: Final = "nodeyard.dev/offerings"
"""On a NodeClaim: JSON list of the offerings it may be launched at, cheapest first: [type, zone, capacityType, usd],
and the id of the capacity reservation where it is in one."""
SURGE: Final = "nodeyard.dev/surge"
"""On a Pod that is its Deployment's only one: "true", or a duration; another is started before it is evicted."""
SURGES: Final = "nodeyard.dev/surges"
"""On a NodeClaim: JSON list of the Deployments that have a replica more while the claim's node goes."""
NODE_CHARGE: Final = "nodeyard.dev/node-charge-per-hour"
"""On a NodePool: USD per node-hour added to the rent in the planner's objective."""
MIN_SAVING: Final = "nodeyard.dev/min-saving-per-hour"
"""On a NodePool: USD per hour that a move made for money must save at least."""
MIN_SAVING_SHARE: Final = "nodeyard.dev/min-saving-share"
"""On a NodePool: the same as a share ("5%") of what the nodes that go cost."""
MAX_PAYBACK: Final = "nodeyard.dev/max-payback"
"""On a NodePool: longest time in which a move's saving makes up for its disruption; "Never": any."""
NO_RETURN: Final = "nodeyard.dev/no-return-for"
"""On a NodePool: how long an instance type that was left is not gone back to."""
DRIFT_WAVES: Final = "nodeyard.dev/drift-waves"
"""On a NodePool: "On" (1, 2, 4... replacements, each wave after the one before is healthy) or "Off"."""
DRIFT_WAVE_PAUSE: Final = "nodeyard.dev/drift-wave-pause"
"""On a NodePool: how long a replacement must have been healthy before the next wave."""
EXPIRY: Final = "nodeyard.dev/expiry"
"""On a NodePool: "Forceful" (at once) or "Graceful" (within budgets, replacements first)."""
EXPIRY_JITTER: Final = "nodeyard.dev/expiry-jitter"
"""On a NodePool: share of their age ("10%") by which nodes expire earlier or later, each by its own part of it."""
EXPIRY_CAP: Final = "nodeyard.dev/expiry-cap"
"""On a NodePool: how long past its age a gracefully expiring node is deleted at once."""
BIND_HOLD: Final = "nodeyard.dev/bind-hold"
"""Taint (NoSchedule) that keeps the kube-scheduler off a node while its planned pods are bound by us."""
BIND_HOLD_DEADLINE: Final = "nodeyard.dev/bind-hold-until"
KEPT_PLACES: Final = "nodeyard.dev/kept-places"
"""On a NodeClaim: JSON of the pods, by owner and shape, that its node is to hold, and until when nobody else may come."""
REPLACES: Final = "nodeyard.dev/replaces"
"""On a NodeClaim: JSON list of node names that it stands in for; the reallocator wrote it."""
DISRUPTION_REASON: Final = "nodeyard.dev/disruption-reason"
CLUSTER_UID_TAG: Final = "nodeyard.dev/cluster-uid"
"""EC2 tag: UID of the kube-system namespace, the owner of an instance."""
NODECLAIM_TAG: Final = "karpenter.sh/nodeclaim"
NODECLAIM_UID_TAG: Final = "nodeyard.dev/nodeclaim-uid"
NODEPOOL_TAG: Final = "karpenter.sh/nodepool"

# --- values ---------------------------------------------------------------------------------------------------------
SPOT: Final = "spot"
ON_DEMAND: Final = "on-demand"
RESERVED: Final = "reserved"
CAPACITY_BLOCK: Final = "capacity-block"
"""A reservation's type; the other is "default"."""
NO_SCHEDULE: Final = "NoSchedule"
PREFER_NO_SCHEDULE: Final = "PreferNoSchedule"
NO_EXECUTE: Final = "NoExecute"

ALIASES: Final = {
    "failure-domain.beta.kubernetes.io/zone": ZONE,
    "failure-domain.beta.kubernetes.io/region": REGION,
    "beta.kubernetes.io/arch": ARCH,
    "beta.kubernetes.io/os": OS,
    "beta.kubernetes.io/instance-type": INSTANCE_TYPE,
    "topology.ebs.csi.aws.com/zone": ZONE,
}
"""Other keys that mean the same, deprecated ones and the EBS driver's; requirements and selectors are normalised to the
right-hand side.
"""

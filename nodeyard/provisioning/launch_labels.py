"""Which labels a claim, its launch template and its node get by what is launched for it.

Source: Karpenter documentation, "NodePools" (labels); Kubernetes, "Well-Known Labels, Annotations and Taints".
"""

from typing import Final

from nodeyard.api import labels as keys
from nodeyard.api.node import NodeClaim
from nodeyard.api.placement import Placement
from nodeyard.cloudprovider.model import InstanceType
from nodeyard.provisioning.claims import RESOLVED_LATER
from nodeyard.provisioning.launches import SHARED, Launched
from nodeyard.provisioning.reserved_launches import reservation_labels


def placement_labels(placement: Placement) -> dict[str, str]:
    """What the node's labels say of it."""
    partition = {keys.PLACEMENT_PARTITION: str(placement.partition)} if placement.partition else {}
    return {keys.TENANCY: placement.tenancy or SHARED, **partition}


def resolved_labels(launched: Launched, instance_type: InstanceType | None, region: str) -> dict[str, str]:
    """The labels that are known once it is known what was launched."""
    out = {
        keys.INSTANCE_TYPE: launched.instance_type,
        keys.ZONE: launched.zone,
        keys.CAPACITY_TYPE: launched.capacity_type,
        keys.REGION: region,
        **reservation_labels(launched.reservation),
    }
    if instance_type is None:
        return out
    single = {k: v[0] for k, v in instance_type.requirements.items() if len(v) == 1}
    zone_id = next((o.zone_id for o in instance_type.offerings if o.zone == launched.zone and o.zone_id), "")
    return {**single, **({keys.ZONE_ID: zone_id} if zone_id else {}), **out}


_LABELS_OF_A_LAUNCH: Final = RESOLVED_LATER | {
    keys.RESERVATION_ID,
    keys.RESERVATION_TYPE,
    keys.RESERVATION_INTERRUPTIBLE,
}


def boot_labels(claim: NodeClaim, capacity_type: str) -> dict[str, str]:
    """The labels that the kubelet starts with: the claim's own, without those that depend on what is launched, so that
    one launch template serves all claims of a pool.
    """
    own = {
        key: value
        for key, value in claim.labels.items()
        if key not in _LABELS_OF_A_LAUNCH and not key.startswith(f"{keys.AWS_GROUP}/instance-")
    }
    return {**own, keys.CAPACITY_TYPE: capacity_type}

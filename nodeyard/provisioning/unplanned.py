"""What the catalogue can sell for a claim that brings no offerings: one that a user or another tool wrote.

Source: Karpenter documentation, "NodePools" (capacity type) and "Instance types".
"""

from collections.abc import Sequence
from typing import Final

from nodeyard.api import labels as keys
from nodeyard.api.node import NodeClaim
from nodeyard.api.quantity import fits
from nodeyard.cloudprovider.model import Catalogue, InstanceType, Offering
from nodeyard.provisioning.claims import requirements_allow
from nodeyard.provisioning.model import OfferingRef
from nodeyard.provisioning.reserved_launches import reservation_labels

MOST_TYPES: Final = 60
"""Instance types in one launch; Karpenter documentation, "Instance types"."""


_EXOTIC: Final = ("karpenter.k8s.aws/instance-gpu-count", "karpenter.k8s.aws/instance-accelerator-count")
ORDER: Final = (keys.RESERVED, keys.SPOT, keys.ON_DEMAND)


def offerings_for(
    claim: NodeClaim, catalogue: Catalogue, order: Sequence[str] = ORDER
) -> tuple[OfferingRef, ...]:
    """What the catalogue can sell for a claim that brings no offerings: cheapest first, one capacity type, exotic
    types only where nothing else serves. A claim that wants a variety (minValues) keeps everything of that type.
    """
    options = [
        (t, o) for t in catalogue.types if fits(claim.requests, t.allocatable) for o in _offerings(t, claim)
    ]
    for capacity_type in order:
        mine = [(t, o) for t, o in options if o.capacity_type == capacity_type]
        if mine:
            break
    else:
        return ()
    flexible = any(r.min_values for r in claim.requirements)
    plain = [] if flexible else [(t, o) for t, o in mine if not exotic(t)]
    rows = sorted(plain or mine, key=lambda row: (row[1].price, row[0].name, row[1].zone))
    if capacity_type == keys.SPOT and not flexible:
        rows = _not_dearer(rows, [o.price for t, o in options if o.capacity_type == keys.ON_DEMAND])
    names = list(dict.fromkeys(t.name for t, _ in rows))[:MOST_TYPES]
    kept = frozenset(names)
    return tuple(
        OfferingRef(t.name, o.zone, o.capacity_type, o.price, o.reserved.id if o.reserved else "")
        for t, o in rows
        if t.name in kept
    )


def _offerings(instance_type: InstanceType, claim: NodeClaim) -> list[Offering]:
    labels = {key: (value,) for key, value in claim.labels.items()} | instance_type.requirements
    fixed = [r for r in claim.requirements if r.key not in _OF_AN_OFFERING]
    if not requirements_allow(fixed, labels):
        return []
    loose = [r for r in claim.requirements if r.key in _OF_AN_OFFERING]
    return [
        o
        for o in instance_type.offerings
        if o.available
        and requirements_allow(
            loose,
            {
                keys.ZONE: (o.zone,),
                keys.CAPACITY_TYPE: (o.capacity_type,),
                **{k: (v,) for k, v in reservation_labels(o.reserved).items()},
            },
        )
    ]


_OF_AN_OFFERING: Final = frozenset(
    {
        keys.ZONE,
        keys.CAPACITY_TYPE,
        keys.RESERVATION_ID,
        keys.RESERVATION_TYPE,
        keys.RESERVATION_INTERRUPTIBLE,
    }
)


def _not_dearer(
    rows: list[tuple[InstanceType, Offering]], on_demand: list[float]
) -> list[tuple[InstanceType, Offering]]:
    """Spot offerings dearer than the cheapest on-demand one make no sense, unless there is nothing else."""
    if not on_demand:
        return rows
    limit = min(on_demand)
    return [row for row in rows if row[1].price <= limit] or rows


def exotic(instance_type: InstanceType) -> bool:
    """Whether the type is bare metal or has accelerators: not for those who did not ask for it."""
    if any(size.startswith("metal") for size in instance_type.requirements.get(keys.INSTANCE_SIZE, ())):
        return True
    return any(key in instance_type.requirements for key in _EXOTIC)

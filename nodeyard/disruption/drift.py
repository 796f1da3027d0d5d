"""Whether a node is still what its pool and its node class ask for.

`CHECKS` is the ordered list of reasons; each compares what a claim was made with (hashes, launch record, image,
labels) with what would be made today, and what is not known drifts nothing: a class that is not resolved, a hash of
another version, a pool that can't be understood. `drift_marks` says what to write on claims: the condition Drifted,
whose time is the order in which nodes are renewed, and hashes of another version stamped anew.
Source: Karpenter documentation, "Disruption", "Drift".
"""

import enum
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from nodeyard.api import labels as keys
from nodeyard.api.node import LAUNCHED, Node, NodeClaim
from nodeyard.api.nodeclass import NodeClass
from nodeyard.api.pool import Pool
from nodeyard.api.selectors import Value
from nodeyard.cloudprovider.model import Catalogue, InstanceType
from nodeyard.provisioning.claims import HASH_VERSION, LaunchRecord, launch_record_of
from nodeyard.provisioning.launches import image_for
from nodeyard.scheduling.requirements import RequirementError, canonical_key, states_of
from nodeyard.state.cluster import Snapshot

DRIFTED: Final = "Drifted"
"""The condition's type on a NodeClaim."""
_TYPE_AFTER_S: Final = 3600.0


class DriftReason(enum.StrEnum):
    """What differs; the condition's reason."""

    POOL = "NodePoolDrifted"
    REQUIREMENTS = "RequirementsDrifted"
    INSTANCE_TYPE = "InstanceTypeNotFound"
    NODE_CLASS = "NodeClassDrift"
    IMAGE = "AMIDrift"
    SECURITY_GROUPS = "SecurityGroupDrift"
    SUBNET = "SubnetDrift"
    RESERVATION = "CapacityReservationDrift"
    PLACEMENT_GROUP = "PlacementGroupDrift"


class Drift(Value, frozen=True):
    reason: DriftReason
    message: str


class DriftMark(Value, frozen=True):
    """What to write on a claim: the condition (`drift` None: take it off), or hashes to stamp anew."""

    claim: str
    drift: Drift | None = None
    restamp: dict[str, str] = {}


class Made(msgspec.Struct, frozen=True):
    """A claim beside what it would be made from today. `pool` and `node_class` are understood and resolved, or None."""

    claim: NodeClaim
    node: Node | None
    pool: Pool | None
    node_class: NodeClass | None
    instance_type: InstanceType | None
    record: LaunchRecord | None
    catalogue: Catalogue | None
    """What the claim's class can buy; None where nobody knows."""
    now: float


Check = Callable[[Made], Drift | None]


def drift_of(
    claim: NodeClaim, snapshot: Snapshot, catalogues: Mapping[str, Catalogue], now: float
) -> Drift | None:
    """The first reason why the claim's node should be made anew; None where it is as it should be."""
    if (
        claim.deleting
        or not claim.is_true(LAUNCHED)
        or not claim.pool
        or claim.pool.startswith("provisioner/")
    ):
        return None
    made = _made(claim, snapshot, catalogues, now)
    return next((drift for check in CHECKS if (drift := check(made)) is not None), None)


def drift_marks(snapshot: Snapshot, catalogues: Mapping[str, Catalogue], now: float) -> tuple[DriftMark, ...]:
    """What is to be written now, by claim name."""
    marks = []
    for name in sorted(snapshot.claims):
        claim = snapshot.claims[name]
        if claim.deleting:
            continue
        drift, said = drift_of(claim, snapshot, catalogues, now), claim.condition(DRIFTED)
        if drift is not None:
            told = said is not None and (said.status, said.reason, said.message) == (
                "True", drift.reason.value, drift.message,
            )  # fmt: skip
            if not told:
                marks.append(DriftMark(name, drift))
            continue
        if said is not None:
            marks.append(DriftMark(name))
        if stamps := _outdated_stamps(claim, snapshot):
            marks.append(DriftMark(name, restamp=stamps))
    return tuple(marks)


def drifted_since(claim: NodeClaim, now: float) -> float:
    """When its drift was first seen; `now` where it has not been written down yet."""
    said = claim.condition(DRIFTED)
    return said.since if said is not None and said.status == "True" and said.since else now


def _made(claim: NodeClaim, snapshot: Snapshot, catalogues: Mapping[str, Catalogue], now: float) -> Made:
    pool = snapshot.pools.get(claim.pool)
    if pool is not None and (pool.deleting or pool.problems):
        pool = None
    node_class = snapshot.node_classes.get(claim.node_class.key)
    if node_class is not None and (node_class.deleting or node_class.problems):
        node_class = None
    catalogue = catalogues.get(claim.node_class.key) or catalogues.get("")
    kind = catalogue.by_name.get(claim.labels.get(keys.INSTANCE_TYPE, "")) if catalogue else None
    node, record = snapshot.node_of(claim), launch_record_of(claim)
    return Made(claim, node, pool, node_class, kind, record, catalogue, now)


def _pool_drifted(made: Made) -> Drift | None:
    stamped = made.claim.annotations.get(keys.NODEPOOL_HASH, "")
    current = made.claim.annotations.get(keys.NODEPOOL_HASH_VERSION) == HASH_VERSION
    if made.pool is None or not made.pool.hash or not stamped or not current or stamped == made.pool.hash:
        return None
    return Drift(
        DriftReason.POOL, f"the template of pool {made.pool.key} has changed since the node was made"
    )


def _requirements_drifted(made: Made) -> Drift | None:
    if made.pool is None:
        return None
    labels = {**(made.node.labels if made.node is not None else {}), **made.claim.labels}
    for requirement in made.pool.requirements:
        key = canonical_key(requirement.key)
        try:
            allowed = states_of(requirement)
        except RequirementError:
            continue
        if not any(allowed.allows(value) for value in _values(made, labels, key)):
            has = f"has {labels[key]!r}" if key in labels else "has no such label"
            message = f"pool {made.pool.key} does not allow the node's {key} any more: it {has}"
            return Drift(DriftReason.REQUIREMENTS, message)
    return None


def _values(made: Made, labels: Mapping[str, str], key: str) -> tuple[str | None, ...]:
    """What the node may have there: its label, else what its instance type is known for."""
    known = made.instance_type.requirements.get(key) if made.instance_type is not None else None
    return (labels[key],) if key in labels else tuple(known or ()) or (None,)


def types_are_judged(claim: NodeClaim, now: float) -> bool:
    """Whether the claim was made an hour ago: what was just bought is not held against a catalogue that lags."""
    return bool(claim.created_at) and now - claim.created_at >= _TYPE_AFTER_S


def _type_gone(made: Made) -> Drift | None:
    claim, catalogue = made.claim, made.catalogue
    if not catalogue or not types_are_judged(claim, made.now):
        return None
    name, zone, capacity_type = (
        claim.labels.get(key, "") for key in (keys.INSTANCE_TYPE, keys.ZONE, keys.CAPACITY_TYPE)
    )
    sold = capacity_type == keys.RESERVED or catalogue.offering(name, zone, capacity_type) is not None
    if not name or (made.instance_type is not None and sold):
        return None  # a reservation that ends is told from the instance, which is on demand from then on
    what = name if made.instance_type is None else f"{name} in {zone} as {capacity_type}"
    return Drift(
        DriftReason.INSTANCE_TYPE, f"instance type {what} is not offered to the node's class any more"
    )


def _reservation_drifted(made: Made) -> Drift | None:
    """Only a reservation that still is there can be lost to the class; one that ended makes its nodes on-demand."""
    reservation = made.claim.labels.get(keys.RESERVATION_ID, "")
    if made.catalogue is None or reservation not in made.catalogue.unselected:
        return None
    message = f"the node's class does not select capacity reservation {reservation} any more"
    return Drift(DriftReason.RESERVATION, message)


def _placement_group_drifted(made: Made) -> Drift | None:
    """A group of the class's name may be another one by now: it was deleted and made anew."""
    group = made.node_class.placement_group if made.node_class is not None else None
    had = made.claim.labels.get(keys.PLACEMENT_GROUP, "")
    if group is None or not had or had == group.id:
        return None
    message = f"the node is in placement group {had}, its class's is {group.id} now"
    return Drift(DriftReason.PLACEMENT_GROUP, message)


def _class_drifted(made: Made) -> Drift | None:
    stamped = made.claim.annotations.get(keys.NODECLASS_HASH, "")
    current = made.claim.annotations.get(keys.NODECLASS_HASH_VERSION) == HASH_VERSION
    node_class = made.node_class
    if node_class is None or not node_class.hash or not stamped or not current or stamped == node_class.hash:
        return None
    return Drift(DriftReason.NODE_CLASS, f"node class {node_class.key} has changed since the node was made")


def _image_drifted(made: Made) -> Drift | None:
    node_class, image = made.node_class, made.claim.image_id
    if node_class is None or not node_class.images or not image:
        return None
    wanted = image_for(node_class.images, made.instance_type) if made.instance_type is not None else None
    good = {wanted.id} if wanted is not None else {i.id for i in node_class.images}
    if image in good:
        return None
    return Drift(
        DriftReason.IMAGE, f"image {image} is not {', '.join(sorted(good))} of node class {node_class.key}"
    )


def _security_groups_drifted(made: Made) -> Drift | None:
    node_class, record = made.node_class, made.record
    if node_class is None or record is None or not node_class.security_groups or not record.security_groups:
        return None
    now = tuple(sorted(g.id for g in node_class.security_groups))
    if now == record.security_groups:
        return None
    had = ", ".join(record.security_groups)
    return Drift(
        DriftReason.SECURITY_GROUPS, f"the node was made with {had}, its class now has {', '.join(now)}"
    )


def _subnet_drifted(made: Made) -> Drift | None:
    node_class, record = made.node_class, made.record
    if node_class is None or record is None or not node_class.subnets:
        return None
    labels = made.claim.labels
    place = (labels.get(keys.INSTANCE_TYPE, ""), labels.get(keys.ZONE, ""))
    used = {subnet for c in record.choices for type_, zone, subnet in c.overrides if (type_, zone) == place}
    if not used or used & {s.id for s in node_class.subnets}:
        return None
    message = f"subnet {', '.join(sorted(used))} is not one of node class {node_class.key} any more"
    return Drift(DriftReason.SUBNET, message)


CHECKS: Final[tuple[Check, ...]] = (
    _pool_drifted,
    _requirements_drifted,
    _type_gone,
    _class_drifted,
    _image_drifted,
    _security_groups_drifted,
    _subnet_drifted,
    _reservation_drifted,
    _placement_group_drifted,
)


def _outdated_stamps(claim: NodeClaim, snapshot: Snapshot) -> dict[str, str]:
    """Hashes of another version (or none), as they would be stamped today: what came before is not held against it."""
    if not claim.pool or claim.pool.startswith("provisioner/") or not claim.is_true(LAUNCHED):
        return {}
    pool, node_class = snapshot.pools.get(claim.pool), snapshot.node_classes.get(claim.node_class.key)
    stamps: dict[str, str] = {}
    for hash_key, version_key, current in (
        (keys.NODEPOOL_HASH, keys.NODEPOOL_HASH_VERSION, pool.hash if pool is not None else ""),
        (keys.NODECLASS_HASH, keys.NODECLASS_HASH_VERSION, node_class.hash if node_class is not None else ""),
    ):
        if current and claim.annotations.get(version_key) != HASH_VERSION:
            stamps |= {hash_key: current, version_key: HASH_VERSION}
    return stamps

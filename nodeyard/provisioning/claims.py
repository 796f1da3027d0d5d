"""The NodeClaim that stands for a planned node, and what is written on it for whoever launches and follows it.

A claim carries, in annotations, everything that another replica needs to take over: the pods it was planned for, the
offerings it may be launched at, the planner's group and epoch, and (from just before the launch) the launch record.
Readers here never raise on what a user wrote by hand: an annotation that can't be read counts as absent.
Source for labels, annotations and spec: Karpenter documentation, "NodeClaims".
"""

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, TypeVar

import msgspec

from nodeyard.api import labels as keys
from nodeyard.api.node import NodeClaim, pool_labels
from nodeyard.api.pod import PodKey
from nodeyard.api.pool import Pool
from nodeyard.api.selectors import Requirement, Value
from nodeyard.provisioning.model import OfferingRef, PlannedNode

HASH_VERSION: Final = "nodeyard-v2"
"""Of the pool's and the class's hashes; to be raised whenever the same object gets another digest, or every node would
drift at the next release. Not Karpenter's: a claim that it stamped is stamped anew before anything is compared.
"""
LAUNCH_RECORD: Final = "nodeyard.dev/launch"
"""On a NodeClaim, written before the first CreateFleet: JSON of LaunchRecord."""
DISRUPTION_GROUP: Final = "disruption"
"""The group of replacement claims: their epoch is the reallocator's lease's, not a planner's."""
_NAME_LIMIT: Final = 63
RESOLVED_LATER: Final = frozenset(
    {
        keys.INSTANCE_TYPE,
        keys.ZONE,
        keys.ZONE_ID,
        keys.REGION,
        keys.CAPACITY_TYPE,
        keys.ARCH,
        keys.OS,
        keys.HOSTNAME,
    }
)
"""Labels that depend on what is launched."""
T = TypeVar("T")


class TemplateChoice(Value, frozen=True):
    """One launch template and what may be made from it: `overrides` are (instance type, zone, subnet id), in order."""

    template: str
    image_id: str
    overrides: tuple[tuple[str, str, str], ...]


class _OfferingRow(msgspec.Struct, array_like=True, frozen=True):
    """A row of LAUNCH_OFFERINGS."""

    instance_type: str
    zone: str
    capacity_type: str
    price_per_hour: float
    reservation: str = ""


class ReservationRef(Value, frozen=True):
    """The capacity reservation that a launch is made into."""

    id: str
    kind: str = "default"
    interruptible: bool = False


class LaunchRecord(Value, frozen=True):
    """A launch decided: with its batch (`batches`) it gives the CreateFleet request byte for byte, in any replica.

    `prices` are USD per hour by `<type>/<zone>`, for the journal. A new attempt has a new client token. `class_hash`
    and `security_groups` say what the node class was at that moment, which drift is told from later.
    """

    capacity_type: str
    choices: tuple[TemplateChoice, ...]
    tags: dict[str, str]
    attempt: int = 0
    prices: dict[str, float] = {}
    class_hash: str = ""
    security_groups: tuple[str, ...] = ()
    context: str = ""
    placement_group: str = ""
    """Id of the group that the instances go into, with the partition where one is named (`pg-1/2`); what is refused there says nothing about launches elsewhere."""
    reservations: dict[str, ReservationRef] = {}
    """`<type>/<zone>` -> where it is launched into, for the capacity type `reserved`."""
    prioritized: bool = False
    """The prices are not the cloud's own, so that it is told in which order to try them."""

    @property
    def in_block(self) -> bool:
        """Whether it is a launch into a capacity block."""
        return any(one.kind == keys.CAPACITY_BLOCK for one in self.reservations.values())


def claim_of(
    node: PlannedNode,
    pool: Pool,
    *,
    name: str,
    plan_id: str,
    group: str,
    epoch: int | None,
    annotations: Mapping[str, str] = {},
    pods: Sequence[PodKey] | None = None,
) -> NodeClaim:
    """The claim for `node` of a plan, not yet created. `epoch` None: nobody's plan, never fenced.

    `pods` replaces the planned pods where the ones of the plan will come back under other names; () promises none.
    """
    return NodeClaim(
        name=name,
        labels=_labels(node, pool),
        annotations={
            **pool.annotations,
            **_annotations(node, pool, plan_id, group, epoch, node.pods if pods is None else pods),
            **annotations,
        },
        finalizers=(keys.TERMINATION_FINALIZER,),
        requirements=node.requirements,
        requests={resource: amount for resource, amount in node.requests.items() if amount > 0},
        taints=pool.taints,
        startup_taints=pool.startup_taints,
        node_class=pool.node_class,
        expire_after_s=pool.expire_after_s,
        termination_grace_period_s=pool.termination_grace_period_s,
    )


def _labels(node: PlannedNode, pool: Pool) -> dict[str, str]:
    """The pool's, its custom ones with a value stamped; what depends on the type chosen comes after the launch."""
    stamped = {
        k: v
        for k, v in node.labels.items()
        if k not in RESOLVED_LATER and not k.startswith(f"{keys.AWS_GROUP}/")
    }
    out = {**stamped, **pool.labels, **pool_labels(pool.key)}
    if pool.node_class.kind == "EC2NodeClass":
        out[keys.NODECLASS_LABEL] = pool.node_class.name
    return out


def _annotations(
    node: PlannedNode, pool: Pool, plan_id: str, group: str, epoch: int | None, pods: Sequence[PodKey]
) -> dict[str, str]:
    out = {keys.PLAN_ID: plan_id, keys.LAUNCH_OFFERINGS: encode_offerings(offerings_of_planned(node))}
    if pods:
        out[keys.PLANNED_PODS] = _text(list(pods))
    if pool.hash:
        out |= {keys.NODEPOOL_HASH: pool.hash, keys.NODEPOOL_HASH_VERSION: HASH_VERSION}
    if epoch is not None:
        out |= {keys.PLANNER_GROUP: group, keys.PLANNER_EPOCH: str(epoch)}
    if node.min_values_relaxed:
        out[keys.MIN_VALUES_RELAXED] = "true"
    return out


def offerings_of_planned(node: PlannedNode) -> tuple[OfferingRef, ...]:
    """The first choice and its alternatives, each once."""
    first = OfferingRef(
        node.instance_type, node.zone, node.capacity_type, node.price_per_hour, node.reservation
    )
    seen = {(first.instance_type, first.zone, first.capacity_type, first.reservation)}
    out = [first]
    for other in node.alternatives:
        identity = (other.instance_type, other.zone, other.capacity_type, other.reservation)
        if identity not in seen:
            seen.add(identity)
            out.append(other)
    return tuple(out)


def claim_names(plan_id: str, nodes: Iterable[PlannedNode]) -> list[str]:
    """A name per planned node, `<pool>-<5 characters>`, the same for the same plan wherever it is computed."""
    taken: set[str] = set()
    out = []
    for index, node in enumerate(nodes):
        name = _name(node.pool, plan_id, str(index))
        while name in taken:
            name = _name(node.pool, plan_id, f"{index}/{name}")
        taken.add(name)
        out.append(name)
    return out


def _name(pool: str, plan_id: str, salt: str) -> str:
    digest = hashlib.blake2b(f"{plan_id}/{pool}/{salt}".encode(), digest_size=5).digest()
    suffix = base64.b32encode(digest).decode().lower()[:5]
    prefix = pool.rpartition("/")[2][: _NAME_LIMIT - 6].rstrip("-.")
    return f"{prefix}-{suffix}"


def encode_offerings(offerings: Iterable[OfferingRef]) -> str:
    """As LAUNCH_OFFERINGS holds it: [type, zone, capacityType, usd] each, and the reservation's id where it is in one."""
    return _text(
        [
            [o.instance_type, o.zone, o.capacity_type, round(o.price_per_hour, 6)]
            + ([o.reservation] if o.reservation else [])
            for o in offerings
        ]
    )


def offerings_of(claim: NodeClaim) -> tuple[OfferingRef, ...]:
    """The offerings that the planner allowed, cheapest first; () where a user wrote the claim."""
    return _offering_list(claim.annotations.get(keys.LAUNCH_OFFERINGS, ""))


@lru_cache(maxsize=4096)
def _offering_list(text: str) -> tuple[OfferingRef, ...]:
    rows = _decoded(text, list[_OfferingRow])
    return tuple(OfferingRef(*msgspec.structs.astuple(row)) for row in rows or ())


def reservations_of(claim: NodeClaim) -> tuple[str, ...]:
    """Ids of the capacity reservations that the claim may be launched into."""
    named = {o.reservation for o in offerings_of(claim) if o.reservation}
    for requirement in claim.requirements:
        if requirement.key == keys.RESERVATION_ID and requirement.operator == "In":
            named.update(requirement.values)
    record = launch_record_of(claim) if not named else None
    if record is not None:
        named.update(one.id for one in record.reservations.values())
    return tuple(sorted(named))


def planned_pods_of(claim: NodeClaim) -> tuple[PodKey, ...]:
    """The pods that the claim was planned for, as "namespace/name"."""
    return _pod_list(claim.annotations.get(keys.PLANNED_PODS, ""))


def was_planned(claim: NodeClaim, pod: PodKey) -> bool:
    """Whether the claim was planned for this pod too."""
    return pod in _pod_set(claim.annotations.get(keys.PLANNED_PODS, ""))


@lru_cache(maxsize=4096)
def _pod_list(text: str) -> tuple[PodKey, ...]:
    """An annotation's list, read once: every look at the pending pods asks for all of them."""
    return tuple(_decoded(text, list[str]) or ())


@lru_cache(maxsize=4096)
def _pod_set(text: str) -> frozenset[PodKey]:
    return frozenset(_pod_list(text))


def replaced_by(claim: NodeClaim) -> tuple[str, ...]:
    """Names of the nodes that the claim stands in for, where the reallocator wrote it."""
    return tuple(read_annotation(claim, keys.REPLACES, list[str]) or ())


def planner_of(claim: NodeClaim) -> tuple[str, int] | None:
    """(group, epoch) of the plan it comes from; None for a user's claim."""
    group, epoch = (
        claim.annotations.get(keys.PLANNER_GROUP, ""),
        claim.annotations.get(keys.PLANNER_EPOCH, ""),
    )
    return (group, int(epoch)) if group and epoch.isdigit() else None


def fence_lease(group: str) -> str:
    """The lease whose epochs fence the claims of a group."""
    return group if group == DISRUPTION_GROUP else f"planning/{group}"


def encode_record(record: LaunchRecord) -> str:
    """As LAUNCH_RECORD holds it."""
    return _text(record)


def record_annotations(record: LaunchRecord) -> dict[str, str]:
    """What a claim carries once its launch is decided: the record, and the hash of the class that it is made by."""
    out = {LAUNCH_RECORD: encode_record(record)}
    if record.class_hash:
        out |= {keys.NODECLASS_HASH: record.class_hash, keys.NODECLASS_HASH_VERSION: HASH_VERSION}
    return out


def launch_record_of(claim: NodeClaim) -> LaunchRecord | None:
    """The launch that was decided for it, if any was."""
    return read_annotation(claim, LAUNCH_RECORD, LaunchRecord)


def fenced(claim: NodeClaim, epoch: int, began_at: float) -> bool:
    """Whether the claim is of an older epoch than `epoch` but was written after that one began.

    Both times are the API server's, whole seconds; within the same second the claim is let through, since the new
    planner sees it before it plans.
    """
    planner = planner_of(claim)
    return planner is not None and planner[1] < epoch and claim.created_at > began_at > 0


def requirements_allow(requirements: Iterable[Requirement], labels: Mapping[str, Sequence[str]]) -> bool:
    """Whether a node whose label `k` may take the values `labels[k]` can satisfy all the requirements."""
    return all(_allows(r, labels.get(r.key)) for r in requirements)


def _allows(requirement: Requirement, values: Sequence[str] | None) -> bool:
    operator, wanted = requirement.operator, requirement.values
    if not values:
        return operator in ("NotIn", "DoesNotExist")
    if operator == "In":
        return any(value in wanted for value in values)
    if operator == "NotIn":
        return any(value not in wanted for value in values)
    if operator in _COMPARE:
        return any(_compare(operator, value, wanted) for value in values)
    return operator == "Exists"


_COMPARE: Final = {
    "Gt": lambda a, b: a > b,
    "Lt": lambda a, b: a < b,
    "Gte": lambda a, b: a >= b,
    "Lte": lambda a, b: a <= b,
}


def _compare(operator: str, value: str, wanted: Sequence[str]) -> bool:
    try:
        return bool(wanted) and _COMPARE[operator](int(value), int(wanted[0]))
    except ValueError:
        return False


def read_annotation(claim: NodeClaim, annotation: str, kind: Any) -> Any | None:
    """An annotation's JSON as a `kind`; None where it is absent or broken."""
    return _decoded(claim.annotations.get(annotation, ""), kind)


def _decoded(text: str, kind: Any) -> Any | None:
    """An annotation's JSON; None where there is none or it is not of this kind."""
    if not text:
        return None
    try:
        return msgspec.json.decode(text.encode(), type=kind)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return None


def _text(value: object) -> str:
    return msgspec.json.encode(value).decode()

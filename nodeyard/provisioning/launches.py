"""What a claim may be launched as: capacity type, images and (type, zone, subnet) overrides, decided before the call.

A planned claim brings its offerings with it; one that a user or another tool wrote is matched against the catalogue
here, with Karpenter's launch filters. Refuses where the node class lacks something (`NotReady`) or nothing matches
(`NothingToLaunch`), as values. Pure; `adapters/ec2/launch` makes the call.
Source: Karpenter documentation, "NodePools" (capacity type) and "NodeClasses"; EC2 CreateFleet.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from msgspec import structs

from nodeyard.api import labels as keys
from nodeyard.api import networking
from nodeyard.api.networking import NetworkInterface
from nodeyard.api.node import Node, NodeClaim
from nodeyard.api.nodeclass import Image, NodeClass
from nodeyard.api.placement import Placement
from nodeyard.api.quantity import PODS, Resources, fits
from nodeyard.api.selectors import Value
from nodeyard.cloudprovider.capacity import EFA
from nodeyard.cloudprovider.market import FEED
from nodeyard.cloudprovider.model import Catalogue, InstanceType, Offering, Reserved
from nodeyard.cloudprovider.refusals import NO_ADDRESSES, Refusal
from nodeyard.cloudprovider.type_labels import group_requirements
from nodeyard.provisioning.claims import LaunchRecord, ReservationRef, offerings_of, requirements_allow
from nodeyard.provisioning.model import OfferingRef

MOST_TYPES: Final = 60
"""Instance types in one launch; Karpenter documentation, "Instance types"."""
FLEXIBLE_TYPES: Final = 5
"""Instance types that a claim which may be spot should allow at least; Karpenter documentation, "Troubleshooting"."""
SHARED: Final = "default"
DEDICATED: Final = "dedicated"
"""EC2's tenancies; hosts of one's own are not launched here."""
_EXOTIC: Final = ("karpenter.k8s.aws/instance-gpu-count", "karpenter.k8s.aws/instance-accelerator-count")
ORDER: Final = (keys.RESERVED, keys.SPOT, keys.ON_DEMAND)


class Choice(Value, frozen=True):
    """A launch chosen: per image, the (instance type, zone, subnet id) it may be made as, best first."""

    capacity_type: str
    groups: tuple[tuple[Image, tuple[tuple[str, str, str], ...]], ...]
    prices: dict[str, float]
    """`<type>/<zone>` -> USD per hour."""
    addresses: dict[str, int] = {}
    """Subnet id -> addresses that the launch will probably take there: the fewest pods of the types it may become."""
    reservations: dict[str, ReservationRef] = {}
    """`<type>/<zone>` -> where it is launched into, for the capacity type `reserved`."""
    prioritized: bool = False
    """The prices are not those that the cloud would go by: commitments or a price feed made them."""


class NotReady(Value, frozen=True):
    """The node class lacks something; `reason` is one word."""

    reason: str
    message: str


class NothingToLaunch(Value, frozen=True):
    """No offering is left that the claim allows; `refusals` where the cloud's own limits are to blame."""

    message: str
    refusals: tuple[Refusal, ...] = ()


class Launched(Value, frozen=True):
    """An instance that exists for a claim."""

    instance_id: str
    instance_type: str
    zone: str
    capacity_type: str
    image_id: str = ""
    subnet_id: str = ""
    cloud: str = "aws"
    """What its provider id begins with."""
    reservation: ReservationRef | None = None
    """The capacity reservation that it is in."""

    @property
    def provider_id(self) -> str:
        return f"{self.cloud}:///{self.zone}/{self.instance_id}"


class Refused(Value, frozen=True):
    """Nothing could be had for a claim: every offering asked for was refused, or gave less than was asked for."""

    refusals: tuple[Refusal, ...]
    message: str


PickSubnet = Callable[[Sequence[str]], str | None]


def first_of(subnets: Sequence[str]) -> str | None:
    """The subnet that the class lists first."""
    return next(iter(subnets), None)


def choose(
    claim: NodeClaim,
    node_class: NodeClass,
    catalogue: Catalogue,
    *,
    order: Sequence[str] = ORDER,
    best_subnet: PickSubnet = first_of,
) -> Choice | NotReady | NothingToLaunch:
    """The launch for `claim`. `order`: its pool's order of capacity types, for claims without planned offerings.
    `best_subnet`: picks one of a zone's subnets, or None where all of them are full.
    """
    if missing := missing_in(node_class):
        return missing
    offers = offerings_of(claim) or offerings_for(claim, catalogue, order)
    if not offers:
        return NothingToLaunch("no available offering satisfies the claim's requirements and requests")
    capacity_type = offers[0].capacity_type
    mine = [o for o in offers if o.capacity_type == capacity_type]
    if capacity_type != keys.RESERVED:
        spread = _spread(mine, capacity_type, node_class, catalogue, best_subnet)
        if isinstance(spread, Choice) and any(_priced_by_us(o, catalogue) for o in mine):
            return structs.replace(spread, prioritized=True)
        return spread
    chosen = one_reservation_each(mine, catalogue)
    if not chosen:
        named = ", ".join(sorted({o.reservation for o in mine}))
        return NothingToLaunch(f"capacity reservations {named} take no instance any more")
    spread = _spread([o for o, _ in chosen], capacity_type, node_class, catalogue, best_subnet)
    if not isinstance(spread, Choice):
        return spread
    into = {f"{o.instance_type}/{o.zone}": _reference(reserved) for o, reserved in chosen}
    return structs.replace(spread, reservations={place: into[place] for place in spread.prices})


def _priced_by_us(offer: OfferingRef, catalogue: Catalogue) -> bool:
    """Whether the price is another than the one that the cloud itself goes by."""
    found = catalogue.offering(offer.instance_type, offer.zone, offer.capacity_type)
    return found is not None and (
        found.source == FEED or (found.list_price is not None and found.list_price != found.price)
    )


def little_choice(claim: NodeClaim, chosen: Choice, order: Sequence[str] = ORDER) -> str:
    """Why a claim that might be spot, and becomes on-demand, should allow more instance types; empty where it need not.
    `order`: its pool's order of capacity types.
    """
    if keys.SPOT not in order or order.index(keys.ON_DEMAND) < order.index(keys.SPOT):
        return ""
    spot = [r for r in claim.requirements if r.key == keys.CAPACITY_TYPE]
    kinds = {kind for _, rows in chosen.groups for kind, _, _ in rows}
    if chosen.capacity_type != keys.ON_DEMAND or len(kinds) >= FLEXIBLE_TYPES:
        return ""
    if not requirements_allow(spot, {keys.CAPACITY_TYPE: (keys.SPOT,)}):
        return ""
    return f"it may be spot and falls back to on-demand with {len(kinds)} instance types; {FLEXIBLE_TYPES} are advised"


def one_reservation_each(
    offers: Iterable[OfferingRef], catalogue: Catalogue
) -> list[tuple[OfferingRef, Reserved]]:
    """What one CreateFleet may be asked for: reservations that take an instance, of one kind (that of the cheapest;
    on ties default before blocks before interruptible ones), a single block, and per type and zone the one with most
    places.
    """
    found = [
        (o, offering.reserved)
        for o in offers
        if (offering := catalogue.offering(o.instance_type, o.zone, keys.RESERVED, o.reservation)) is not None
        and offering.available
        and offering.reserved is not None
    ]
    if not found:
        return []
    found.sort(key=lambda row: (row[0].price_per_hour, _KINDS.index(_kind(row[1])), -row[1].left, row[1].id))
    kind, block = _kind(found[0][1]), found[0][1].id
    out: dict[tuple[str, str], tuple[OfferingRef, Reserved]] = {}
    for offer, reserved in found:
        if _kind(reserved) != kind or (kind == keys.CAPACITY_BLOCK and reserved.id != block):
            continue
        place = (offer.instance_type, offer.zone)
        if place not in out or reserved.left > out[place][1].left:
            out[place] = (offer, reserved)
    return list(out.values())


_KINDS: Final = ("default", keys.CAPACITY_BLOCK, "interruptible")


def _kind(reserved: Reserved) -> str:
    if reserved.kind == keys.CAPACITY_BLOCK:
        return keys.CAPACITY_BLOCK
    return "interruptible" if reserved.interruptible else "default"


def _reference(reserved: Reserved) -> ReservationRef:
    return ReservationRef(reserved.id, reserved.kind, reserved.interruptible)


def missing_in(node_class: NodeClass) -> NotReady | None:
    """What the class lacks for launching; None when it is complete."""
    if node_class.problems:
        return NotReady("ValidationFailed", "; ".join(node_class.problems))
    if node_class.deleting:
        return NotReady("NodeClassTerminating", f"node class {node_class.key} is being deleted")
    for found, reason, what in (
        (node_class.subnets, "SubnetsNotFound", "subnets"),
        (node_class.security_groups, "SecurityGroupsNotFound", "security groups"),
        (node_class.images, "AMIsNotFound", "images"),
        (node_class.resolved_profile, "InstanceProfileNotFound", "an instance profile"),
    ):
        if not found:
            return NotReady(reason, f"node class {node_class.key} has no {what}")
    if node_class.placement_group_selector is not None and node_class.placement_group is None:
        return NotReady("PlacementGroupNotFound", f"node class {node_class.key} has no placement group")
    return None


def placed(claim: NodeClaim, node_class: NodeClass) -> NodeClass:
    """The class with the placement that the claim asks for: one partition where only one will do, and hardware of
    its own only where shared hardware will not do.
    """
    partitions = [
        value for value in _partitions(node_class) if _takes(claim, keys.PLACEMENT_PARTITION, value)
    ]
    partition = int(partitions[0]) if len(partitions) == 1 else 0
    tenancy = "" if _takes(claim, keys.TENANCY, SHARED) else DEDICATED
    return structs.replace(node_class, placement=Placement(partition, tenancy))


def group_of(node_class: NodeClass) -> str:
    """What a placed class's instances go into, as refusals name it: the group, with the partition where one is named."""
    group, partition = node_class.placement_group, node_class.placement.partition
    if group is None:
        return ""
    return f"{group.id}/{partition}" if partition else group.id


def placement_labels(placement: Placement) -> dict[str, str]:
    """What the node's labels say of it."""
    partition = {keys.PLACEMENT_PARTITION: str(placement.partition)} if placement.partition else {}
    return {keys.TENANCY: placement.tenancy or SHARED, **partition}


def _partitions(node_class: NodeClass) -> tuple[str, ...]:
    return group_requirements(node_class.placement_group).get(keys.PLACEMENT_PARTITION, ())


def _takes(claim: NodeClaim, key: str, value: str) -> bool:
    return requirements_allow([r for r in claim.requirements if r.key == key], {key: (value,)})


def _spread(
    offers: Iterable[OfferingRef],
    capacity_type: str,
    node_class: NodeClass,
    catalogue: Catalogue,
    best_subnet: PickSubnet,
) -> Choice | NothingToLaunch:
    """The offers with the image that boots them and the best subnet of their zone."""
    groups: dict[str, tuple[Image, list[tuple[str, str, str]]]] = {}
    prices: dict[str, float] = {}
    addresses: dict[str, int] = {}
    full: list[str] = []
    unbootable = ""
    in_zone: dict[str, list[str]] = {}
    for place in node_class.subnets:
        in_zone.setdefault(place.zone, []).append(place.id)
    picked = {zone: best_subnet(ids) for zone, ids in in_zone.items()}
    for offer in offers:
        found = catalogue.by_name.get(offer.instance_type)
        image = image_for(node_class.images, found) if found is not None else None
        if found is None or image is None:
            unbootable = offer.instance_type
            continue
        subnet = picked.get(offer.zone)
        if subnet is None:
            full += in_zone.get(offer.zone, [])
            continue
        pods = found.capacity.get(PODS, 1)
        addresses[subnet] = min(pods, addresses.get(subnet, pods))
        groups.setdefault(image.id, (image, []))[1].append((offer.instance_type, offer.zone, subnet))
        prices[f"{offer.instance_type}/{offer.zone}"] = offer.price_per_hour
    if groups:
        rows_by_image = tuple((image, tuple(rows)) for image, rows in groups.values())
        return Choice(capacity_type, rows_by_image, prices, addresses)
    if full or not unbootable:
        refusals = tuple(Refusal(code=NO_ADDRESSES, subnet=subnet) for subnet in dict.fromkeys(full))
        return NothingToLaunch("no subnet with free addresses in the zones of its offerings", refusals)
    return NothingToLaunch(f"node class {node_class.key} has no image that boots {unbootable}")


def by_reservation(
    rows: Iterable[tuple[str, str, str]], reservations: Mapping[str, ReservationRef]
) -> list[tuple[ReservationRef | None, tuple[tuple[str, str, str], ...]]]:
    """The overrides by the reservation that they are launched into: each has launch templates of its own."""
    groups: dict[ReservationRef | None, list[tuple[str, str, str]]] = {}
    for row in rows:
        groups.setdefault(reservations.get(f"{row[0]}/{row[1]}"), []).append(row)
    return [(into, tuple(found)) for into, found in groups.items()]


def with_efa(
    claim: NodeClaim,
    node_class: NodeClass,
    catalogue: Catalogue,
    overrides: Iterable[tuple[str, str, str]],
) -> list[tuple[NodeClass, tuple[tuple[str, str, str], ...]]]:
    """The overrides by the class that they are launched with: for a claim that asks for EFA, one whose interfaces are
    as many EFA devices as the type has, unless the class says itself which interfaces it wants.
    """
    groups: dict[int, list[tuple[str, str, str]]] = {}
    asks = bool(claim.requests.get(EFA)) and not node_class.network_interfaces
    for row in overrides:
        found = catalogue.by_name.get(row[0])
        devices = found.capacity.get(EFA, 0) if asks and found is not None else 0
        groups.setdefault(devices, []).append(row)
    return [
        (
            structs.replace(node_class, network_interfaces=_efa_interfaces(devices))
            if devices
            else node_class,
            tuple(rows),
        )
        for devices, rows in groups.items()
    ]


def _efa_interfaces(devices: int) -> tuple[NetworkInterface, ...]:
    """One on each network card; only the first card's is the card's first interface."""
    return tuple(NetworkInterface(card, 1 if card else 0, networking.EFA) for card in range(devices))


def image_for(images: Iterable[Image], instance_type: InstanceType) -> Image | None:
    """The first image whose requirements the type meets."""
    return next((i for i in images if requirements_allow(i.requirements, instance_type.requirements)), None)


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


def reservation_labels(into: Reserved | ReservationRef | None) -> dict[str, str]:
    """The labels of a node in a capacity reservation."""
    if into is None:
        return {}
    return {
        keys.RESERVATION_ID: into.id,
        keys.RESERVATION_TYPE: into.kind,
        keys.RESERVATION_INTERRUPTIBLE: "true" if into.interruptible else "false",
    }


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


def room_of(node: Node | None, claim: NodeClaim) -> Resources:
    """What is left to be counted for a pool: the real capacity once there is a node."""
    return node.capacity if node is not None and node.capacity else claim.capacity


_LABELS_OF_A_LAUNCH: Final = frozenset(
    {
        keys.INSTANCE_TYPE,
        keys.ZONE,
        keys.ZONE_ID,
        keys.REGION,
        keys.CAPACITY_TYPE,
        keys.ARCH,
        keys.OS,
        keys.HOSTNAME,
        keys.RESERVATION_ID,
        keys.RESERVATION_TYPE,
        keys.RESERVATION_INTERRUPTIBLE,
    }
)


def as_recorded(made: Launched, record: LaunchRecord | None) -> Launched:
    """An instance as its launch was meant: what EC2 shows of it does not say that it was made into a reservation."""
    into = record.reservations.get(f"{made.instance_type}/{made.zone}") if record is not None else None
    if into is None or made.capacity_type == keys.SPOT:
        return made
    return structs.replace(made, capacity_type=keys.RESERVED, reservation=into)


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

"""What a claim may be launched as: capacity type, images and (type, zone, subnet) overrides, decided before the call.

A planned claim brings its offerings with it; for another, `provisioning.unplanned` asks the catalogue. Refuses where the node class lacks something (`NotReady`) or nothing matches
(`NothingToLaunch`), as values. Pure; `adapters/ec2/launch` makes the call.
Source: Karpenter documentation, "NodePools" (capacity type) and "NodeClasses"; EC2 CreateFleet.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from msgspec import structs

from nodeyard.api import labels as keys
from nodeyard.api import networking
from nodeyard.api.networking import NetworkInterface
from nodeyard.api.node import Node, NodeClaim
from nodeyard.api.nodeclass import Image, NodeClass
from nodeyard.api.placement import Placement
from nodeyard.api.quantity import PODS, Resources
from nodeyard.api.selectors import Value
from nodeyard.cloudprovider.capacity import EFA
from nodeyard.cloudprovider.market import FEED
from nodeyard.cloudprovider.model import Catalogue, InstanceType
from nodeyard.cloudprovider.refusals import NO_ADDRESSES, Refusal
from nodeyard.cloudprovider.type_labels import group_requirements
from nodeyard.provisioning.claims import LaunchRecord, ReservationRef, offerings_of, requirements_allow
from nodeyard.provisioning.model import OfferingRef
from nodeyard.provisioning.reserved_launches import one_reservation_each, reference
from nodeyard.provisioning.unplanned import ORDER, offerings_for

FLEXIBLE_TYPES: Final = 5
"""Instance types that a claim which may be spot should allow at least; Karpenter documentation, "Troubleshooting"."""
SHARED: Final = "default"
DEDICATED: Final = "dedicated"
"""EC2's tenancies; hosts of one's own are not launched here."""


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
    into = {f"{o.instance_type}/{o.zone}": reference(reserved) for o, reserved in chosen}
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


def room_of(node: Node | None, claim: NodeClaim) -> Resources:
    """What is left to be counted for a pool: the real capacity once there is a node."""
    return node.capacity if node is not None and node.capacity else claim.capacity


def as_recorded(made: Launched, record: LaunchRecord | None) -> Launched:
    """An instance as its launch was meant: what EC2 shows of it does not say that it was made into a reservation."""
    into = record.reservations.get(f"{made.instance_type}/{made.zone}") if record is not None else None
    if into is None or made.capacity_type == keys.SPOT:
        return made
    return structs.replace(made, capacity_type=keys.RESERVED, reservation=into)

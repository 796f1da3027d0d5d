"""One node class's view of the market: the catalogue that its pools plan with.

Capacity and allocatable follow the class's image family and kubelet settings, and the memory that real nodes of its
images turned out to have; offerings are those in the zones of its
subnets, minus what is refused; types that none of its images fits are left out. The part that prices do not touch is
kept per distinct settings, so that a price change costs a few milliseconds. A class that can't be understood has an
empty catalogue: nothing is bought on a guess. Source: Karpenter documentation, "NodeClasses".
"""

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Final, TypeVar

import msgspec

from nodeyard.api.labels import ARCH, RESERVED
from nodeyard.api.nodeclass import Image, NodeClass
from nodeyard.cloudprovider.capacity import allocatable_of, capacity_of, problems_of, reservations_of
from nodeyard.cloudprovider.eligibility import eligible
from nodeyard.cloudprovider.market import RESERVATIONS, Market, TypeTable, Zone
from nodeyard.cloudprovider.model import Catalogue, InstanceType, Offering, Reserved
from nodeyard.cloudprovider.refusals import InGroup, Shut, covers
from nodeyard.cloudprovider.reservations import CapacityReservation, reserved_price, selected
from nodeyard.cloudprovider.rows import Row
from nodeyard.cloudprovider.scarcity import Pool
from nodeyard.cloudprovider.type_labels import group_requirements, requirements_of

T = TypeVar("T")
_KEPT: Final = 32
"""Distinct class settings, and distinct catalogues, remembered."""


class Resolver:
    """Makes catalogues and remembers them by content. One per owner; not for several threads at once."""

    def __init__(self) -> None:
        self._bare: dict[bytes, dict[int, InstanceType]] = {}
        self._catalogues: dict[bytes, Catalogue] = {}

    def resolve(
        self, market: Market, node_class: NodeClass, *, now: float, shut: Shut | None = None
    ) -> Catalogue:
        """The class's catalogue. `shut`: refusals that the market does not know of yet. `now`: Unix seconds."""
        refused = shut or Shut()
        group = node_class.placement_group.id if node_class.placement_group is not None else ""
        in_groups = market.refused_in_groups | refused.in_groups
        in_group = [pool for of, pool in in_groups if of == group]
        in_parts = _in_partitions(group, in_groups)
        zones = _zones_of(node_class, market.exhausted_subnets | refused.exhausted_subnets)
        reserved = selected(node_class, market.reservations)
        seen = market.learned.memory_of(node_class)
        settings = _settings_key(market.table, node_class, seen)
        key = msgspec.json.encode(
            (
                market.revision,
                settings.hex(),
                sorted(zones),
                sorted(map(list, refused.keys)),
                group,
                [(r.id, market.asked_at.get(RESERVATIONS)) for r in reserved],
            )
        )
        if key not in self._catalogues:
            bare = self._bare_types(settings, market.table, node_class, seen)
            offers = _reserved(market, reserved, bare, zones, refused, in_group)
            types = _with_partitions(
                _with_offerings(market, bare, zones, refused, in_group, now, offers), in_parts
            )
            revision = blake2b(key, digest_size=8).hexdigest()
            unselected = {r.id for r in market.reservations} - {r.id for r in reserved}
            _keep(self._catalogues, key, Catalogue(types, revision, unselected))
        return self._catalogues[key]

    def _bare_types(
        self, key: bytes, table: TypeTable, node_class: NodeClass, seen: Mapping[str, int]
    ) -> dict[int, InstanceType]:
        if key not in self._bare:
            _keep(self._bare, key, _bare_types(table, node_class, seen))
        return self._bare[key]


def resolve(market: Market, node_class: NodeClass, *, now: float, shut: Shut | None = None) -> Catalogue:
    """The class's catalogue, made anew."""
    return Resolver().resolve(market, node_class, now=now, shut=shut)


def _bare_types(table: TypeTable, node_class: NodeClass, seen: Mapping[str, int]) -> dict[int, InstanceType]:
    """Type index -> type without offerings, for the types that the class can use. `seen`: type -> bytes of memory."""
    if problems_of(node_class):
        return {}
    settings = reservations_of(node_class, table.reserved_interfaces)
    architectures = _architectures(node_class.images)
    out: dict[int, InstanceType] = {}
    for index, described in enumerate(table.types):
        requirements = requirements_of(described, table.region, settings.family)
        requirements |= group_requirements(node_class.placement_group)
        if not all(requirements.values()) or not eligible(described, node_class):
            continue
        if architectures and described.arch not in architectures:
            continue
        capacity = capacity_of(described, settings, seen.get(described.name))
        allocatable = allocatable_of(described, settings, capacity)
        out[index] = InstanceType(described.name, requirements, capacity, allocatable)
    return out


def _with_offerings(
    market: Market,
    bare: dict[int, InstanceType],
    zones: set[str],
    shut: Shut,
    in_group: Sequence[Pool],
    now: float,
    offerings: dict[int, list[Offering]],
) -> Iterable[InstanceType]:
    """`offerings`: those there are already, by type index."""
    names = [zone.name in zones for zone in market.table.zones]
    for (type_index, zone_index, capacity_type), row in zip(market.table.rows, market.rows, strict=True):
        found = bare.get(type_index)
        if found is None or row.price <= 0 or not names[zone_index]:
            continue
        zone = market.table.zones[zone_index]
        available = row.available and not (shut and shut.offering(capacity_type, found.name, zone.name))
        if in_group and available:
            pool = (capacity_type, found.name, zone.name)
            available = not any(covers(wide, pool) for wide in in_group)
        offering = _offering(market, zone, capacity_type, row, available, now)
        offerings.setdefault(type_index, []).append(offering)
    for index, found in bare.items():
        yield InstanceType(
            found.name, found.requirements, found.capacity, found.allocatable, tuple(offerings.get(index, ()))
        )


def _in_partitions(group: str, in_groups: Iterable[InGroup]) -> list[tuple[str, Pool]]:
    """(partition, pool) for what is refused in single partitions of the group."""
    found = ((of.rpartition("/"), pool) for of, pool in in_groups if group)
    return sorted((partition, pool) for (of, _, partition), pool in found if of == group)


def _with_partitions(
    types: Iterable[InstanceType], refused: Sequence[tuple[str, Pool]]
) -> Iterable[InstanceType]:
    """The types with the partitions noted in which each of their offerings is refused."""
    for found in types:
        offerings = []
        for offering in found.offerings if refused else ():
            own = (offering.capacity_type, found.name, offering.zone)
            parts = tuple(dict.fromkeys(partition for partition, wide in refused if covers(wide, own)))
            offerings.append(msgspec.structs.replace(offering, refused_partitions=parts))
        yield msgspec.structs.replace(found, offerings=tuple(offerings)) if refused else found


def _reserved(
    market: Market,
    reserved: Iterable[CapacityReservation],
    bare: dict[int, InstanceType],
    zones: set[str],
    shut: Shut,
    in_group: Sequence[Pool],
) -> dict[int, list[Offering]]:
    """The offerings of the class's reservations, by type index. One that takes nothing now is there all the same, so
    that its nodes are told from those whose reservation is gone.
    """
    table, out = market.table, dict[int, list[Offering]]()
    zone_index = {zone.name: index for index, zone in enumerate(table.zones)}
    counted_at = market.asked_at.get(RESERVATIONS, 0.0)
    for one in reserved:
        type_index = table.type_index.get(one.instance_type, -1)
        if type_index not in bare or one.zone not in zones or one.zone not in zone_index:
            continue
        listed = market.listed(type_index, zone_index[one.zone])
        pool = (RESERVED, one.instance_type, one.zone)
        refused = one.id in shut.reservations or any(covers(wide, pool) for wide in in_group)
        out.setdefault(type_index, []).append(
            Offering(
                one.zone, RESERVED, reserved_price(listed), one.available > 0 and not refused,
                table.zones[zone_index[one.zone]].id, RESERVATIONS,
                reserved=Reserved(one.id, one.kind, one.interruptible, one.available, counted_at),
            )
        )  # fmt: skip
    return out


def _offering(
    market: Market, zone: Zone, capacity_type: str, row: Row, available: bool, now: float
) -> Offering:
    age = max(0.0, now - market.asked_at.get(row.source, row.priced_at))
    return Offering(
        zone.name, capacity_type, row.price, available, zone.id, row.source, age, row.risk,
        row.list_price or None, row.release or None,
    )  # fmt: skip


def _zones_of(node_class: NodeClass, exhausted_subnets: frozenset[str]) -> set[str]:
    """Zones with a subnet that has addresses left; a zone is out only when all its subnets are."""
    return {subnet.zone for subnet in node_class.subnets if subnet.id not in exhausted_subnets}


def _architectures(images: tuple[Image, ...]) -> set[str]:
    """What the class's images run on; empty: anything, or not known yet."""
    out: set[str] = set()
    for image in images:
        named = [r.values for r in image.requirements if r.key == ARCH and r.operator == "In"]
        if not named:
            return set()
        out.update(*named)
    return out


def _settings_key(table: TypeTable, node_class: NodeClass, seen: Mapping[str, int]) -> bytes:
    """Digest of everything that a catalogue without offerings depends on."""
    parts = (
        table.digest,
        node_class.ami_family,
        node_class.kubelet,
        node_class.block_device_mappings,
        node_class.instance_store_policy,
        node_class.network_interfaces,
        node_class.placement_group,
        node_class.cpu_options,
        sorted(_architectures(node_class.images)),
        sorted(seen.items()),
    )
    return blake2b(msgspec.json.encode(parts), digest_size=16).digest()


def _keep(cache: dict[bytes, T], key: bytes, value: T) -> None:
    cache[key] = value
    while len(cache) > _KEPT:
        del cache[next(iter(cache))]

"""What EC2 sells in a region: instance types, the zones that sell them, spot prices, and capacity reserved already.

Reads DescribeInstanceTypes, DescribeInstanceTypeOfferings, DescribeAvailabilityZones, DescribeSpotPriceHistory and
DescribeCapacityReservations, all pages, and gives them as our values. Owns the reading of EC2's shapes; refuses nothing: what EC2 leaves out counts
as absent. Source: EC2 API reference.
"""

import asyncio
import math
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from nodeyard.adapters.ec2.session import Ec2Session
from nodeyard.cloudprovider.description import Device, TypeDescription
from nodeyard.cloudprovider.market import SPOT_HISTORY, PriceSheet, TypeTable, Zone
from nodeyard.cloudprovider.reservations import CapacityReservation, ReservationSheet

_GIGABIT: Final = re.compile(r"(?P<upto>Up to )?(?:(?P<cards>\d+)x )?(?P<gigabit>[\d.]+) Gigabit$")
_DOCUMENTED_MBPS: Final = {
    "i7i.12xlarge": 28120,
    "i7ie.48xlarge": 100_000,
    "i7ie.metal-48xl": 100_000,
    "i8g.metal-48xl": 90_000,
    "i8ge.48xlarge": 180_000,
    "i8ge.metal-48xl": 180_000,
}
"""Where EC2's documentation ("Network specifications") and API disagree, the documentation's figure."""
_PRODUCTS: Final = ["Linux/UNIX", "Linux/UNIX (Amazon VPC)"]
_DEAREST_USD: Final = 10_000.0
"""Per hour; anything above is a mistake of the source."""


async def read_types(session: Ec2Session) -> TypeTable:
    """All instance types of the session's region, with the zones that offer each. Raises CloudError's subclasses."""
    zones, offered, described = await asyncio.gather(
        session.call("ec2", "describe_availability_zones"),
        session.pages("ec2", "describe_instance_type_offerings", LocationType="availability-zone"),
        session.each_page("ec2", "describe_instance_types", _described, PaginationConfig={"PageSize": 100}),
    )
    return await asyncio.to_thread(_table, session.region, zones, offered, described)


async def read_spot_prices(session: Ec2Session, now: float) -> PriceSheet:
    """The price in force of every Linux spot pool at `now` (Unix seconds). Raises CloudError's subclasses."""
    newest: dict[str, tuple[datetime, float]] = {}
    await session.each_page(
        "ec2",
        "describe_spot_price_history",
        lambda page: _note_newest(page, newest),
        StartTime=datetime.fromtimestamp(now, UTC),
        ProductDescriptions=_PRODUCTS,
        PaginationConfig={"PageSize": 1000},
    )
    return PriceSheet(SPOT_HISTORY, now, {key: price for key, (_, price) in newest.items()})


async def read_reservations(session: Ec2Session, now: float) -> ReservationSheet:
    """The active capacity reservations that the account owns or shares, of shared tenancy, as counted at `now` (Unix
    seconds). Raises CloudError's subclasses.
    """
    pages = await session.each_page(
        "ec2",
        "describe_capacity_reservations",
        _reservations,
        Filters=[{"Name": "state", "Values": ["active"]}, {"Name": "tenancy", "Values": ["default"]}],
        PaginationConfig={"PageSize": 1000},
    )
    return ReservationSheet(now, tuple(one for page in pages for one in page))


def _reservations(page: Mapping[str, Any]) -> list[CapacityReservation]:
    return [reservation_of(raw) for raw in page.get("CapacityReservations", ())]


def reservation_of(raw: Mapping[str, Any]) -> CapacityReservation:
    """One `CapacityReservation` of EC2's as a value."""
    ends = raw.get("EndDate")
    return CapacityReservation(
        id=str(raw["CapacityReservationId"]),
        instance_type=str(raw.get("InstanceType", "")),
        zone=str(raw.get("AvailabilityZone", "")),
        total=int(raw.get("TotalInstanceCount", 0)),
        available=int(raw.get("AvailableInstanceCount", 0)),
        kind=str(raw.get("ReservationType") or "default"),
        match=str(raw.get("InstanceMatchCriteria", "")),
        state=str(raw.get("State", "")),
        owner_id=str(raw.get("OwnerId", "")),
        platform=str(raw.get("InstancePlatform", "")),
        interruptible=bool(raw.get("Interruptible", False)),
        ends_at=ends.timestamp() if isinstance(ends, datetime) else None,
        tags={tag["Key"]: tag.get("Value", "") for tag in raw.get("Tags", ())},
        placement_group=str(raw.get("PlacementGroupArn") or "").rpartition("/")[2],
    )


def description_of(info: Mapping[str, Any], zones: Iterable[str] = ()) -> TypeDescription:
    """One `InstanceTypeInfo` as a value; `zones` are the names of those that sell it."""
    network: Mapping[str, Any] = info.get("NetworkInfo", {})
    processor: Mapping[str, Any] = info.get("ProcessorInfo", {})
    storage: Mapping[str, Any] = info.get("InstanceStorageInfo", {})
    cards = sorted(network.get("NetworkCards", ()), key=lambda c: c.get("NetworkCardIndex", 0))
    default = network.get("DefaultNetworkCardIndex", 0)
    card: Mapping[str, Any] = cards[default] if default < len(cards) else network
    return TypeDescription(
        name=str(info["InstanceType"]),
        architectures=tuple(processor.get("SupportedArchitectures", ())),
        vcpus=int(info.get("VCpuInfo", {}).get("DefaultVCpus", 0)),
        memory_mib=int(info.get("MemoryInfo", {}).get("SizeInMiB", 0)),
        usage_classes=tuple(sorted(info.get("SupportedUsageClasses", ()))),
        bare_metal=bool(info.get("BareMetal", False)),
        hypervisor=str(info.get("Hypervisor", "")),
        cpu_manufacturer=str(processor.get("Manufacturer", "")),
        clock_mhz=round(float(processor.get("SustainedClockSpeedInGhz", 0)) * 1000),
        interfaces=int(card.get("MaximumNetworkInterfaces", 0)),
        addresses_per_interface=int(network.get("Ipv4AddressesPerInterface", 0)),
        cards=tuple(int(c.get("MaximumNetworkInterfaces", 0)) for c in cards),
        default_card=int(default),
        efa_only_cards=tuple(i for i, c in enumerate(cards) if "efa-only" in c.get("InterfaceTypes", ())),
        network_mbps=_DOCUMENTED_MBPS.get(str(info["InstanceType"])) or _network_mbps(network),
        ebs_mbps=_ebs_mbps(info.get("EbsInfo", {})),
        efa_interfaces=int(network.get("EfaInfo", {}).get("MaximumEfaInterfaces", 0)),
        encryption_in_transit=bool(network.get("EncryptionInTransitSupported", False)),
        nitro_enclaves=info.get("NitroEnclavesSupport") == "supported",
        nvme=storage.get("NvmeSupport", "unsupported") != "unsupported",
        nvme_gb=int(storage.get("TotalSizeInGB", 0)),
        nested_virtualization="nested-virtualization" in processor.get("SupportedFeatures", ()),
        placement_strategies=tuple(info.get("PlacementGroupInfo", {}).get("SupportedStrategies", ())),
        gpus=tuple(_device(gpu) for gpu in info.get("GpuInfo", {}).get("Gpus", ())),
        inference=tuple(_device(d) for d in info.get("InferenceAcceleratorInfo", {}).get("Accelerators", ())),
        neuron=tuple(_device(d, "AWS") for d in info.get("NeuronInfo", {}).get("NeuronDevices", ())),
        zones=tuple(zones),
    )


def _described(page: Mapping[str, Any]) -> list[TypeDescription]:
    return [description_of(info) for info in page.get("InstanceTypes", ())]


def _table(
    region: str,
    zones: Mapping[str, Any],
    offered: Iterable[Mapping[str, Any]],
    described: Iterable[list[TypeDescription]],
) -> TypeTable:
    names = {
        str(zone["ZoneName"]): str(zone.get("ZoneId", ""))
        for zone in zones.get("AvailabilityZones", ())
        if zone.get("ZoneType", "availability-zone") == "availability-zone"
    }
    by_type: dict[str, set[str]] = {}
    for page in offered:
        for entry in page.get("InstanceTypeOfferings", ()):
            by_type.setdefault(str(entry["InstanceType"]), set()).add(str(entry["Location"]))
    types = [
        msgspec.structs.replace(found, zones=tuple(sorted(by_type.get(found.name, ()))))
        for page in described
        for found in page
    ]
    return TypeTable(region, [Zone(name, names[name]) for name in sorted(names)], types)


def _device(entry: Mapping[str, Any], manufacturer: str = "") -> Device:
    """Fractions of a GPU count as none (EC2's Count is 0): nobody who asks for one should get an eighth."""
    count = int(entry.get("Count", 0))
    return Device(
        name=str(entry.get("Name", "")),
        manufacturer=str(entry.get("Manufacturer", manufacturer)),
        count=count,
        memory_mib=int(entry.get("MemoryInfo", {}).get("SizeInMiB", 0)),
        cores=int(entry.get("CoreInfo", {}).get("Count", 0)) * count,
    )


def _network_mbps(network: Mapping[str, Any]) -> int | None:
    """Sustained bandwidth in Mbit/s: the cards' baselines, capped by what the instance has in all.

    None where EC2 only has words for it ("Moderate"). A figure without "up to" is sustained itself.
    """
    stated = _GIGABIT.match(str(network.get("NetworkPerformance", "")))
    if stated is None:
        return None
    limit = float(stated["gigabit"]) * int(stated["cards"] or 1)
    baseline = sum(float(card.get("BaselineBandwidthInGbps", 0)) for card in network.get("NetworkCards", ()))
    sustained = min(limit, baseline) if stated["upto"] and baseline else limit
    return round(sustained * 1000)


def _ebs_mbps(ebs: Mapping[str, Any]) -> int | None:
    if ebs.get("EbsOptimizedSupport") != "default" or "EbsOptimizedInfo" not in ebs:
        return None
    return int(ebs["EbsOptimizedInfo"].get("MaximumBandwidthInMbps", 0))


def _note_newest(page: Mapping[str, Any], newest: dict[str, tuple[datetime, float]]) -> None:
    """`<type>/<zone>` -> (when, USD per hour); the newest entry of each pool, absurd ones dropped."""
    for entry in page.get("SpotPriceHistory", ()):
        key = f"{entry['InstanceType']}/{entry['AvailabilityZone']}"
        price = _price(entry.get("SpotPrice", ""))
        if price is None or (key in newest and newest[key][0] >= entry["Timestamp"]):
            continue
        newest[key] = (entry["Timestamp"], price)


def _price(text: str) -> float | None:
    try:
        price = float(text)
    except ValueError:
        return None
    return price if math.isfinite(price) and 0 < price <= _DEAREST_USD else None

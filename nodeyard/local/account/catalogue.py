"""The instance types this account sells, as DescribeInstanceTypes and DescribeInstanceTypeOfferings tell them.

The descriptions are the real ones that moto carries; a region that it knows only the zones of (China, GovCloud, new
ones) sells what Frankfurt sells. Owns the quick answers (filtering, paging, XML kept per type);
moto alone takes 2–3 s for all of them. Neighbours: `ec2` (the API), `fleet` and `machines.capacity` (descriptions).
"""

from __future__ import annotations

import fnmatch
import json
from functools import lru_cache
from typing import Any

from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.availability_zones_and_regions import RegionsAndZonesBackend
from moto.ec2.models.instance_types import INSTANCE_TYPE_OFFERINGS, INSTANCE_TYPES, InstanceTypeBackend

from nodeyard.local.account import wire

_STAND_IN = "eu-central-1"
"""Whose offerings a region has that moto has none of."""


def description(instance_type: str) -> dict[str, Any] | None:
    """The type as in DescribeInstanceTypes, or None when there is no such type."""
    found: dict[str, Any] | None = INSTANCE_TYPES.get(instance_type)
    return found


def architectures(instance_type: str) -> list[str]:
    """EC2's names of the architectures the type can boot: x86_64, arm64, i386 …"""
    found = description(instance_type) or {}
    return list(found.get("ProcessorInfo", {}).get("SupportedArchitectures", []))


@lru_cache(maxsize=64)
def zones_offering(region: str) -> dict[str, frozenset[str]]:
    """Type → the zones of `region` that offer it."""
    zones: dict[str, set[str]] = {}
    for offering in _offering_rows("availability-zone", region):
        zones.setdefault(offering["InstanceType"], set()).add(offering["Location"])
    return {name: frozenset(found) for name, found in zones.items()}


def offered(instance_type: str, region: str, zone: str) -> bool:
    """Whether the zone offers the type."""
    return zone in zones_offering(region).get(instance_type, frozenset())


def describe_instance_types(params: dict[str, Any]) -> str:
    """The answer to DescribeInstanceTypes, paged when MaxResults says so. Raises EC2ClientError as EC2 would."""
    wanted = tuple(params.get("InstanceTypes", []))
    names = _matching_types(wanted, json.dumps(params.get("Filters", []), sort_keys=True))
    page, token = paged(names, params, least=5, most=100, default=len(names) or 1)
    items = "".join(_type_xml(name) for name in page)
    return wire.enveloped(
        "DescribeInstanceTypes", f"<instanceTypeSet>{items}</instanceTypeSet>{_token_xml(token)}"
    )


@lru_cache(maxsize=256)
def _matching_types(wanted: tuple[str, ...], filters: str) -> list[str]:
    by_name = {entry["Name"]: entry.get("Values", []) for entry in json.loads(filters)}
    found = InstanceTypeBackend().describe_instance_types(list(wanted), by_name)
    return [entry["InstanceType"] for entry in found]


@lru_cache(maxsize=4096)
def _type_xml(instance_type: str) -> str:
    return wire.item_writer("DescribeInstanceTypes", "InstanceTypes")(INSTANCE_TYPES[instance_type])


def describe_offerings(params: dict[str, Any], region: str) -> str:
    """The answer to DescribeInstanceTypeOfferings. Raises EC2ClientError for a filter EC2 does not know."""
    kind = params.get("LocationType", "region")
    rows = _matching_offerings(kind, region, json.dumps(params.get("Filters", []), sort_keys=True))
    page, token = paged(rows, params, least=5, most=1000, default=len(rows) or 1)
    action = "DescribeInstanceTypeOfferings"
    return wire.enveloped(
        action, f"<instanceTypeOfferingSet>{''.join(page)}</instanceTypeOfferingSet>{_token_xml(token)}"
    )


@lru_cache(maxsize=64)
def _matching_offerings(kind: str, region: str, filters: str) -> list[str]:
    rows = _offering_rows(kind, region)
    for entry in json.loads(filters):
        fields = {"instance-type": "InstanceType", "location": "Location"}
        if entry["Name"] not in fields:
            raise EC2ClientError("InvalidFilter", f"The filter '{entry['Name']}' is invalid")
        rows = [row for row in rows if any_match(row[fields[entry["Name"]]], entry.get("Values", []))]
    write = wire.item_writer("DescribeInstanceTypeOfferings", "InstanceTypeOfferings")
    return [write(row) for row in rows]


@lru_cache(maxsize=64)
def _offering_rows(kind: str, region: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = INSTANCE_TYPE_OFFERINGS.get(kind, {}).get(region, [])
    zones = [zone.name for zone in RegionsAndZonesBackend.zones.get(region, ())]
    if found or not zones:
        return found
    places = {_STAND_IN: region}
    places |= dict(zip((f"{_STAND_IN}{letter}" for letter in "abc"), zones, strict=False))
    rows = INSTANCE_TYPE_OFFERINGS.get(kind, {}).get(_STAND_IN, [])
    return [{**row, "Location": places[row["Location"]]} for row in rows if row["Location"] in places]


def any_match(value: str, patterns: list[str]) -> bool:
    """EC2's filter rule: equal to one of the values, `*` and `?` being wildcards."""
    return any(value == p or fnmatch.fnmatchcase(value, p) for p in patterns)


def paged(
    rows: list[Any], params: dict[str, Any], *, least: int, most: int, default: int
) -> tuple[list[Any], str | None]:
    """One page of `rows` and the token of the next; EC2 pages only where MaxResults is given."""
    size = params.get("MaxResults")
    if size is not None and not least <= size <= most:
        raise EC2ClientError(
            "InvalidParameterValue", f"Value ( {size} ) for parameter maxResults is invalid."
        )
    token = params.get("NextToken") or "0"
    start = int(token) if str(token).isdigit() else -1
    if start < 0 or start > len(rows):
        raise EC2ClientError("InvalidNextToken", "The token is invalid.")
    end = start + (size or default)
    return rows[start:end], (str(end) if end < len(rows) else None)


def _token_xml(token: str | None) -> str:
    return f"<nextToken>{token}</nextToken>" if token else ""

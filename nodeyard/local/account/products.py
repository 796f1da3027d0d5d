"""The Pricing service (`AWSPriceListService`): GetProducts for EC2, paged, in the price list's own shape.

moto has no such service. Every type comes with the rows a careless reader stumbles over (Windows, dedicated tenancy,
unused reservations), so that a client which forgets a filter gets a wrong price here as it would at AWS. Prices come
from `prices`. Source: "Using the AWS Price List Query API", AWS Billing user guide.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import lru_cache
from hashlib import blake2b
from typing import Any

from nodeyard.local.account.catalogue import zones_offering
from nodeyard.local.account.prices import on_demand_usd_per_hour

_PAGE = 100
_DEDICATED_FACTOR = 1.06
_WINDOWS_USD_PER_VCPU_HOUR = 0.046


class PricingError(Exception):
    """An error answer of the service: `code` and a message."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


def answer(
    action: str, body: dict[str, Any], describe: Callable[[str], dict[str, Any] | None]
) -> dict[str, Any]:
    """The JSON answer to one action. Raises PricingError for what the service would refuse."""
    if action == "DescribeServices":
        attributes = [
            "instanceType",
            "regionCode",
            "operatingSystem",
            "tenancy",
            "capacitystatus",
            "preInstalledSw",
        ]
        return {
            "Services": [{"ServiceCode": "AmazonEC2", "AttributeNames": attributes}],
            "FormatVersion": "aws_v1",
        }
    if action != "GetProducts":
        raise PricingError("UnknownOperationException", f"The operation {action} is not known here.")
    if body.get("ServiceCode") != "AmazonEC2":
        raise PricingError("NotFoundException", f"No price list for the service {body.get('ServiceCode')!r}.")
    filters = {str(f["Field"]): str(f["Value"]) for f in body.get("Filters", [])}
    if any(f.get("Type", "TERM_MATCH") != "TERM_MATCH" for f in body.get("Filters", [])):
        raise PricingError("InvalidParameterException", "Only filters of the type TERM_MATCH are supported.")
    size = int(body.get("MaxResults", _PAGE))
    if not 1 <= size <= _PAGE:
        raise PricingError("InvalidParameterException", f"MaxResults must be 1 to {_PAGE}, not {size}.")
    start = str(body.get("NextToken") or "0")
    if not start.isdigit():
        raise PricingError("InvalidNextTokenException", "The token is invalid.")
    region = filters.pop("regionCode", "us-east-1")
    rows = _matching(region, describe, tuple(sorted(filters.items())))
    page = rows[int(start) : int(start) + size]
    result: dict[str, Any] = {"FormatVersion": "aws_v1", "PriceList": page}
    if int(start) + size < len(rows):
        result["NextToken"] = str(int(start) + size)
    return result


@lru_cache(maxsize=16)
def _matching(
    region: str, describe: Callable[[str], dict[str, Any] | None], filters: tuple[tuple[str, str], ...]
) -> list[str]:
    """The entries of the region's price list that all filters let through."""
    return [
        text
        for attributes, text in _products(region, describe)
        if all(attributes.get(field, "").lower() == value.lower() for field, value in filters)
    ]


@lru_cache(maxsize=8)
def _products(
    region: str, describe: Callable[[str], dict[str, Any] | None]
) -> tuple[tuple[dict[str, str], str], ...]:
    """(attributes, price list entry) of every row of the region's price list."""
    rows: list[tuple[dict[str, str], str]] = []
    for instance_type in sorted(zones_offering(region)):
        found = describe(instance_type)
        if found is not None:
            rows.extend(_rows(instance_type, found, region))
    return tuple(rows)


def _rows(instance_type: str, found: dict[str, Any], region: str) -> Iterator[tuple[dict[str, str], str]]:
    price = on_demand_usd_per_hour(found, region)
    windows = price + found["VCpuInfo"]["DefaultVCpus"] * _WINDOWS_USD_PER_VCPU_HOUR
    for system, tenancy, status, usd in (
        ("Linux", "Shared", "Used", price),
        ("Linux", "Shared", "UnusedCapacityReservation", price),
        ("Linux", "Shared", "AllocatedCapacityReservation", 0.0),
        ("Linux", "Dedicated", "Used", price * _DEDICATED_FACTOR),
        ("Windows", "Shared", "Used", windows),
    ):
        attributes = _attributes(instance_type, found, region, system, tenancy, status)
        sku = blake2b(json.dumps(attributes, sort_keys=True).encode(), digest_size=8).hexdigest().upper()
        yield attributes, _entry(sku, attributes, usd)


def _attributes(
    instance_type: str, found: dict[str, Any], region: str, system: str, tenancy: str, status: str
) -> dict[str, str]:
    metal = " (bare metal)" if found.get("BareMetal") else ""
    return {
        "servicecode": "AmazonEC2",
        "servicename": "Amazon Elastic Compute Cloud",
        "productFamily": f"Compute Instance{metal}",
        "instanceType": instance_type,
        "instanceFamily": instance_type.split(".")[0],
        "regionCode": region,
        "locationType": "AWS Region",
        "operatingSystem": system,
        "tenancy": tenancy,
        "capacitystatus": status,
        "preInstalledSw": "NA",
        "licenseModel": "No License required",
        "marketoption": "OnDemand",
        "vcpu": str(found["VCpuInfo"]["DefaultVCpus"]),
        "memory": f"{found['MemoryInfo']['SizeInMiB'] / 1024:g} GiB",
        "currentGeneration": "Yes" if found.get("CurrentGeneration") else "No",
        "operation": "RunInstances" if system == "Linux" else "RunInstances:0002",
    }


def _entry(sku: str, attributes: dict[str, str], usd: float) -> str:
    product = {k: v for k, v in attributes.items() if k != "productFamily"}
    term, rate = f"{sku}.JRTCKXETXF", f"{sku}.JRTCKXETXF.6YS6EN2CT7"
    currency = "CNY" if attributes["regionCode"].startswith("cn-") else "USD"
    dimension = {
        "rateCode": rate,
        "unit": "Hrs",
        "beginRange": "0",
        "endRange": "Inf",
        "description": f"${usd:.10f} per On Demand {attributes['operatingSystem']} {attributes['instanceType']}",
        "appliesTo": [],
        "pricePerUnit": {currency: f"{usd:.10f}"},
    }
    on_demand = {
        "sku": sku,
        "offerTermCode": "JRTCKXETXF",
        "effectiveDate": "2026-01-01T00:00:00Z",
        "priceDimensions": {rate: dimension},
        "termAttributes": {},
    }
    return json.dumps(
        {
            "product": {"sku": sku, "productFamily": attributes["productFamily"], "attributes": product},
            "serviceCode": "AmazonEC2",
            "terms": {"OnDemand": {term: on_demand}},
            "version": "20260101000000",
            "publicationDate": "2026-01-01T00:00:00Z",
        }
    )

"""On-demand prices from the AWS Price List: GetProducts, all pages.

Asks for Linux on shared tenancy, and for bare metal on dedicated tenancy too, which some regions list only so (shared
wins). Rows without a price per hour in the region's currency, and absurd ones, are dropped: their offering then has
no price and is not bought. Source: AWS Billing user guide, "Using the AWS Price List Query API".
"""

import asyncio
import math
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol, TypeVar

import msgspec

from nodeyard.cloudprovider.estimates import currency_of
from nodeyard.cloudprovider.market import PRICING_API, PriceSheet

T = TypeVar("T")
_DEAREST_PER_HOUR: Final = 10_000.0
_COMMON: Final = {
    "operatingSystem": "Linux",
    "preInstalledSw": "NA",
    "capacitystatus": "Used",
    "marketoption": "OnDemand",
}
_QUERIES: Final = (
    {"tenancy": "Dedicated", "productFamily": "Compute Instance (bare metal)"},
    {"tenancy": "Shared"},
)
"""Later ones win."""


class Pages(Protocol):
    """What is needed of the way to AWS."""

    @property
    def region(self) -> str: ...

    async def each_page(
        self, service: str, operation: str, take: Callable[[dict[str, Any]], T], **params: Any
    ) -> list[T]: ...


class _Product(msgspec.Struct):
    attributes: dict[str, str] = {}


class _Dimension(msgspec.Struct, rename="camel"):
    unit: str = ""
    price_per_unit: dict[str, str] = {}


class _Term(msgspec.Struct, rename="camel"):
    price_dimensions: dict[str, _Dimension] = {}


class _Entry(msgspec.Struct):
    product: _Product
    terms: dict[str, dict[str, _Term]] = {}


_DECODER: Final = msgspec.json.Decoder(_Entry)


async def read_on_demand_prices(aws: Pages, now: float) -> PriceSheet:
    """Price per hour of every type of the region. `now`: Unix seconds. Raises CloudError's subclasses."""
    answers = await asyncio.gather(*(_ask(aws, query, currency_of(aws.region)) for query in _QUERIES))
    return PriceSheet(PRICING_API, now, {name: usd for found in answers for name, usd in found.items()})


async def _ask(aws: Pages, query: Mapping[str, str], currency: str) -> dict[str, float]:
    fields = {"regionCode": aws.region, **_COMMON, **query}
    filters = [{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in fields.items()]
    found = await aws.each_page(
        "pricing",
        "get_products",
        lambda page: _prices(page, currency),
        ServiceCode="AmazonEC2",
        Filters=filters,
        FormatVersion="aws_v1",
        PaginationConfig={"PageSize": 100},
    )
    return {name: price for prices in found for name, price in prices.items()}


def _prices(page: Mapping[str, Any], currency: str) -> dict[str, float]:
    out: dict[str, float] = {}
    for text in page.get("PriceList", ()):
        out.update(_price_of(text, currency))
    return out


def _price_of(text: str | bytes, currency: str) -> dict[str, float]:
    try:
        entry = _DECODER.decode(text)
    except msgspec.MsgspecError:
        return {}
    name = entry.product.attributes.get("instanceType", "")
    for term in entry.terms.get("OnDemand", {}).values():
        for dimension in term.price_dimensions.values():
            price = _number(dimension.price_per_unit.get(currency, ""))
            if name and dimension.unit == "Hrs" and price is not None:
                return {name: price}
    return {}


def _number(text: str) -> float | None:
    try:
        price = float(text)
    except ValueError:
        return None
    return price if math.isfinite(price) and 0 < price <= _DEAREST_PER_HOUR else None

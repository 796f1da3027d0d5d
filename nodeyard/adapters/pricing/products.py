"""On-demand prices from the AWS Price List: GetProducts, all pages.

Asks for Linux on shared tenancy, and for bare metal on dedicated tenancy too, which some regions list only so (shared
wins). Rows without a price per hour in the region's currency, and absurd ones, are dropped: their offering then has
no price and is not bought. Source: AWS Billing user guide, "Using the AWS Price List Query API".
"""

import asyncio
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec

from nodeyard.cloudprovider.estimates import currency_of
from nodeyard.cloudprovider.market import PRICING_API, PriceSheet

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

    async def pages(self, service: str, operation: str, **params: Any) -> list[dict[str, Any]]: ...


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
    answers = await asyncio.gather(*(_ask(aws, query) for query in _QUERIES))
    prices = await asyncio.to_thread(_prices, answers, currency_of(aws.region))
    return PriceSheet(PRICING_API, now, prices)


async def _ask(aws: Pages, query: Mapping[str, str]) -> list[dict[str, Any]]:
    fields = {"regionCode": aws.region, **_COMMON, **query}
    filters = [{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in fields.items()]
    return await aws.pages(
        "pricing",
        "get_products",
        ServiceCode="AmazonEC2",
        Filters=filters,
        FormatVersion="aws_v1",
        PaginationConfig={"PageSize": 100},
    )


def _prices(answers: Sequence[Iterable[Mapping[str, Any]]], currency: str) -> dict[str, float]:
    out: dict[str, float] = {}
    for pages in answers:
        for page in pages:
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

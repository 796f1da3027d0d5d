"""Reading the AWS price list: which rows count."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import pytest

from nodeyard.adapters.pricing.products import read_on_demand_prices


def row(name: str, price: str, *, unit: str = "Hrs", currency: str = "USD") -> str:
    dimension = {"unit": unit, "pricePerUnit": {currency: price}, "description": "per hour"}
    return json.dumps(
        {
            "product": {"attributes": {"instanceType": name, "tenancy": "Shared"}, "sku": "S"},
            "terms": {
                "OnDemand": {"S.T": {"priceDimensions": {"S.T.R": dimension}, "sku": "S"}},
                "Reserved": {},
            },
        }
    )


T = TypeVar("T")


class PriceList:
    """Answers by tenancy, page by page, and remembers what it was asked."""

    def __init__(self, region: str, **pages: list[list[str]]) -> None:
        self.region = region
        self.asked: list[dict[str, str]] = []
        self._pages = pages

    async def each_page(
        self, service: str, operation: str, take: Callable[[dict[str, Any]], T], **params: Any
    ) -> list[T]:
        assert (service, operation, params["ServiceCode"]) == ("pricing", "get_products", "AmazonEC2")
        fields = {f["Field"]: f["Value"] for f in params["Filters"]}
        self.asked.append(fields)
        return [take({"PriceList": page}) for page in self._pages.get(fields["tenancy"], [])]


async def prices(region: str = "eu-west-1", **pages: list[list[str]]) -> dict[str, float]:
    return (await read_on_demand_prices(PriceList(region, **pages), 0.0)).usd


async def test_all_pages_count() -> None:
    assert await prices(Shared=[[row("a.large", "0.10")], [row("b.large", "0.20")]]) == {
        "a.large": 0.1,
        "b.large": 0.2,
    }


async def test_only_plain_linux_of_the_region_is_asked_for() -> None:
    price_list = PriceList("eu-north-1")
    await read_on_demand_prices(price_list, 0.0)
    assert {f["tenancy"] for f in price_list.asked} == {"Shared", "Dedicated"}
    for fields in price_list.asked:
        assert fields["regionCode"] == "eu-north-1"
        assert fields["operatingSystem"] == "Linux"
        assert fields["capacitystatus"] == "Used"
        assert fields["preInstalledSw"] == "NA"


async def test_shared_tenancy_wins_over_dedicated_bare_metal() -> None:
    dedicated, shared = row("m5.metal", "4.9"), row("m5.metal", "4.6")
    assert await prices(Dedicated=[[dedicated]], Shared=[[shared]]) == {"m5.metal": 4.6}
    assert await prices(Dedicated=[[dedicated]]) == {"m5.metal": 4.9}


@pytest.mark.parametrize(
    "bad",
    [
        row("a.large", "0.0000000000"), row("a.large", "-1"), row("a.large", "nan"), row("a.large", "1e9"),
        row("a.large", "free"), row("a.large", "1", unit="Quantity"), row("a.large", "1", currency="CNY"),
        row("", "1"), "{}", "not json",
    ],
)  # fmt: skip
async def test_a_row_that_is_no_price_is_dropped_and_the_rest_counts(bad: str) -> None:
    assert await prices(Shared=[[bad, row("b.large", "0.2")]]) == {"b.large": 0.2}


async def test_china_pays_in_its_own_currency() -> None:
    assert await prices("cn-north-1", Shared=[[row("a.large", "0.7", currency="CNY")]]) == {"a.large": 0.7}

"""The HTTP API of pricing."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from prometheus_client import CollectorRegistry

from nodeyard.cloudprovider.refusals import Refusal
from nodeyard.cloudprovider.reservations import CapacityReservation, ReservationSheet
from services.pricing.app import build_app
from services.pricing.board import PriceBoard
from services.pricing.metrics import PricingMetrics
from tests.support.catalogue import on_demand_sheet, spot_sheet, table_of


@pytest.fixture
def board() -> PriceBoard:
    return PriceBoard(PricingMetrics(CollectorRegistry()))


@pytest.fixture
async def http(board: PriceBoard) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=build_app(board, lambda: 100.0))
    async with httpx.AsyncClient(transport=transport, base_url="http://pricing") as client:
        yield client


async def fill(board: PriceBoard) -> None:
    table = table_of()
    board.scarcity.refuse([Refusal("m5.large", "eu-west-1a", "spot", "InsufficientInstanceCapacity")], 0.0)
    await board.learn_types(table, 10.0, 100.0)
    await board.learn_prices("on-demand", on_demand_sheet(table, 40.0), 100.0)
    await board.learn_prices("spot", spot_sheet(table, 90.0), 100.0)
    await board.learn_reservations(ReservationSheet(95.0), 100.0)


async def test_before_anything_is_known_the_reason_is_told(http: httpx.AsyncClient) -> None:
    answer = await http.get("/v1/offerings")
    assert answer.status_code == 503
    assert answer.json()["detail"] == "no instance types known yet"


async def test_offerings_are_cheapest_first(http: httpx.AsyncClient, board: PriceBoard) -> None:
    await fill(board)
    answer = (await http.get("/v1/offerings")).json()
    prices = [o["priceUsdPerHour"] for o in answer["offerings"]]
    assert answer["total"] == 30
    assert prices == sorted(prices)
    assert answer["offerings"][0] == {
        "instanceType": "m5.large", "zone": "eu-west-1a", "zoneId": "euw1-az1", "capacityType": "spot",
        "priceUsdPerHour": 0.04, "available": False, "priceSource": "spot-history", "priceAgeSeconds": 10.0,
        "riskUsdPerHour": 0.0, "listPriceUsdPerHour": 0.04, "releaseUsdPerHour": 0.04,
        "arch": "amd64", "vcpus": 2, "memoryMiB": 8192, "reservationId": "", "reservationCapacity": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("query", "total"),
    [
        ("type=m5.large", 6),
        ("family=m5", 12),
        ("zone=euw1-az1", 10),
        ("zone=eu-west-1a&capacity_type=spot", 5),
        ("arch=arm64", 12),
        ("available=false", 1),
        ("min_vcpus=4", 18),
        ("min_memory_mib=16384", 18),
        ("max_price=0.05", 6),
        ("source=pricing-api", 15),
        ("type=m5.large&available=true&capacity_type=spot", 2),
    ],
)
async def test_filters_narrow(http: httpx.AsyncClient, board: PriceBoard, query: str, total: int) -> None:
    await fill(board)
    assert (await http.get(f"/v1/offerings?{query}")).json()["total"] == total


async def test_capacity_reservations_are_offerings_of_their_own(
    http: httpx.AsyncClient, board: PriceBoard
) -> None:
    await fill(board)
    reserved = (
        CapacityReservation("cr-1", "m5.large", "eu-west-1a", 3, 2),
        CapacityReservation("cr-2", "m5.large", "eu-west-1b", 1, 0),
        CapacityReservation("cr-3", "x9.large", "eu-west-1b", 1, 1),
    )
    await board.learn_reservations(ReservationSheet(95.0, reserved), 100.0)
    page = (await http.get("/v1/offerings?capacity_type=reserved")).json()
    shown = {o["reservationId"]: o for o in page["offerings"]}
    assert set(shown) == {"cr-1", "cr-2"}, "a type that nobody sells here is no offering"
    assert (shown["cr-1"]["available"], shown["cr-1"]["reservationCapacity"]) == (True, 2)
    assert (shown["cr-2"]["available"], shown["cr-2"]["reservationCapacity"]) == (False, 0)
    assert shown["cr-1"]["listPriceUsdPerHour"] == 0.1
    assert shown["cr-1"]["priceUsdPerHour"] == pytest.approx(0.1 / 10_000_000)
    assert (shown["cr-1"]["priceSource"], shown["cr-1"]["priceAgeSeconds"]) == ("capacity-reservations", 5.0)
    cheapest = (await http.get("/v1/offerings?type=m5.large&available=true&limit=1")).json()["offerings"]
    assert [o["reservationId"] for o in cheapest] == ["cr-1"]


async def test_pages_cover_everything_once(http: httpx.AsyncClient, board: PriceBoard) -> None:
    await fill(board)
    seen = []
    for offset in range(0, 30, 7):
        page = (await http.get(f"/v1/offerings?sort=-type&limit=7&offset={offset}")).json()["offerings"]
        seen += [(o["instanceType"], o["zone"], o["capacityType"]) for o in page]
    assert seen == sorted(seen, reverse=True)
    assert len(set(seen)) == 30


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1001", "offset=-1", "sort=colour", "capacity_type=free", "max_price=0"]
)
async def test_a_query_that_makes_no_sense_is_refused(
    http: httpx.AsyncClient, board: PriceBoard, query: str
) -> None:
    await fill(board)
    answer = await http.get(f"/v1/offerings?{query}")
    assert answer.status_code == 422
    assert query.split("=")[0] in answer.text


async def test_the_catalogue_s_freshness_is_shown(http: httpx.AsyncClient, board: PriceBoard) -> None:
    await fill(board)
    await board.failed("spot", "AWS is away", 100.0)
    answer = (await http.get("/v1/catalogue")).json()
    assert answer["bySource"] == {"pricing-api": 15, "last-known": 15}
    assert answer["parts"]["spot"] == {"ageSeconds": 10.0, "problem": "AWS is away"}
    assert answer["parts"]["on-demand"] == {"ageSeconds": 60.0, "problem": ""}


async def test_refusals_are_shown_with_their_end(http: httpx.AsyncClient, board: PriceBoard) -> None:
    await fill(board)
    (refusal,) = (await http.get("/v1/refusals")).json()
    assert (refusal["instanceType"], refusal["outForSeconds"]) == ("m5.large", 80.0)
    assert (refusal["strikes"], refusal["odds"], refusal["forgottenInSeconds"]) == (1, 1.0, 3680.0)

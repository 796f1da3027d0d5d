"""The catalogue over real gRPC: a feed that follows, resumes, goes elsewhere, and takes refusals both ways."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import grpc.aio
import msgspec
import pytest
from prometheus_client import CollectorRegistry

from nodeyard.api.nodeclass import Image, ReservationTerm
from nodeyard.cloudprovider.learned import LearnedMemory, settings_of
from nodeyard.cloudprovider.market import TypeTable
from nodeyard.cloudprovider.refusals import Refusal
from nodeyard.cloudprovider.reservations import CapacityReservation, ReservationSheet
from nodeyard.rpc.catalog import CatalogFeed
from nodeyard.rpc.v1.catalog_pb2_grpc import add_PricingServicer_to_server
from nodeyard.runtime import grpc_server
from nodeyard.runtime.clock import SystemClock
from services.pricing.board import PriceBoard
from services.pricing.controller import PricingController
from services.pricing.metrics import PricingMetrics
from services.pricing.servicer import PricingServicer
from tests.support.catalogue import node_class, on_demand_sheet, spot_sheet, table_of
from tests.support.pricing_fakes import FakeCloud, FakeMemory

REFUSED = Refusal("m5.large", "eu-west-1a", "spot", "InsufficientInstanceCapacity")


class Served:
    """A pricing replica behind a port."""

    def __init__(self, memory: FakeMemory, name: str) -> None:
        clock = SystemClock()
        metrics = PricingMetrics(CollectorRegistry())
        self.board = PriceBoard(metrics)
        self.cloud = FakeCloud()
        self.controller = PricingController(
            self.cloud, memory, self.board, clock,
            replica=name, intervals={"types": 1e6, "on-demand": 1e6, "spot": 1e6}, metrics=metrics,
        )  # fmt: skip
        self._servicer = PricingServicer(self.board, self.controller, metrics)
        self._server: grpc.aio.Server | None = None
        self._listening: asyncio.Task[None] | None = None
        self.address = "127.0.0.1:0"

    async def fill(self, table: TypeTable | None = None) -> None:
        now = time.time()
        table = table or table_of()
        await self.board.learn_types(table, now, now)
        await self.board.learn_prices("on-demand", on_demand_sheet(table, now), now)
        await self.board.learn_prices("spot", spot_sheet(table, now), now)
        await self.board.learn_reservations(ReservationSheet(now), now)

    async def start(self) -> None:
        self._server, port = await grpc_server.serve(
            lambda server: add_PricingServicer_to_server(self._servicer, server), self.address
        )
        self.address = f"127.0.0.1:{port}"
        self._listening = asyncio.create_task(self.controller.listen())

    async def stop(self) -> None:
        if self._listening is not None:
            self._listening.cancel()
        if self._server is not None:
            await self._server.stop(0)
            self._server = None


@pytest.fixture
async def pair() -> AsyncIterator[tuple[Served, Served]]:
    memory = FakeMemory(SystemClock())
    made = Served(memory, "one"), Served(memory, "two")
    for replica in made:
        await replica.fill()
        await replica.start()
    yield made
    for replica in made:
        await replica.stop()


@pytest.fixture
async def feed(pair: tuple[Served, Served]) -> AsyncIterator[CatalogFeed]:
    made = CatalogFeed([replica.address for replica in pair], "test")
    running = asyncio.create_task(made.run())
    await made.wait_changed("", 60.0)
    yield made
    running.cancel()


def available(feed: CatalogFeed) -> bool:
    offering = feed.catalogue_for(node_class()).offering("m5.large", "eu-west-1a", "spot")
    assert offering is not None
    return offering.available


async def test_a_feed_begins_with_everything(feed: CatalogFeed, pair: tuple[Served, Served]) -> None:
    assert feed.ready
    assert pair[0].board.market is not None
    assert feed.revision == pair[0].board.market.revision
    assert len(feed.catalogue_for(node_class())) == 5


async def test_a_new_price_arrives_at_once(feed: CatalogFeed, pair: tuple[Served, Served]) -> None:
    before = feed.revision
    await pair[0].board.learn_prices("spot", spot_sheet(table_of(), time.time(), 0.77), time.time())
    assert await feed.wait_changed(before, 60.0) != before
    offering = feed.catalogue_for(node_class()).offering("c7g.xlarge", "eu-west-1b", "spot")
    assert offering is not None
    assert offering.price == 0.77


async def test_reservations_arrive_with_the_catalogue_and_when_their_counts_change(
    feed: CatalogFeed, pair: tuple[Served, Served]
) -> None:
    of = node_class(capacity_reservation_terms=(ReservationTerm(tags={"team": "*"}),))
    one = CapacityReservation("cr-1", "m5.large", "eu-west-1a", 3, 2, tags={"team": "a"})
    other = CapacityReservation("cr-2", "m5.large", "eu-west-1a", 1, 1)
    for left in (2, 1, 0):
        before, now = feed.revision, time.time()
        counted = (msgspec.structs.replace(one, available=left), other)
        await pair[0].board.learn_reservations(ReservationSheet(now, counted), now)
        await feed.wait_changed(before, 60.0)
        assert [(r.id, r.available) for r in feed.reservations_for(of) or ()] == [("cr-1", left)]
    assert feed.reservations_for(node_class()) == ()
    before = feed.revision
    await pair[0].board.learn_prices("spot", spot_sheet(table_of(), now, 0.77), now)
    await feed.wait_changed(before, 60.0)
    assert len(feed.reservations_for(of) or ()) == 1, "other news leave them as they are"
    late = CatalogFeed([pair[0].address], "late")
    running = asyncio.create_task(late.run())
    await late.wait_changed("", 60.0)
    assert late.reservations_for(of) == feed.reservations_for(of)
    running.cancel()


async def test_reservations_are_counted_when_that_is_asked_for_and_are_here_when_it_is_done(
    feed: CatalogFeed, pair: tuple[Served, Served]
) -> None:
    of = node_class(capacity_reservation_terms=(ReservationTerm(tags={"team": "*"}),))
    pair[0].cloud.reserved = (
        CapacityReservation("cr-1", "m5.large", "eu-west-1a", 3, 2, tags={"team": "a"}),
    )
    assert feed.reservations_for(of) == ()
    assert await feed.count_reservations()
    assert [r.id for r in feed.reservations_for(of) or ()] == ["cr-1"]
    for replica in pair:
        await replica.stop()
    assert not await feed.count_reservations()


async def test_new_types_arrive_whole(feed: CatalogFeed, pair: tuple[Served, Served]) -> None:
    before = feed.revision
    await pair[0].board.learn_types(table_of("m5.large", "m6i.large"), time.time(), time.time())
    await feed.wait_changed(before, 60.0)
    assert {t.name for t in feed.catalogue_for(node_class()).types} == {"m5.large", "m6i.large"}


async def test_waiting_ends_with_its_time(feed: CatalogFeed) -> None:
    assert await feed.wait_changed(feed.revision, 0.05) == feed.revision


async def test_a_refusal_counts_here_at_once_and_at_the_other_replica_soon(
    feed: CatalogFeed, pair: tuple[Served, Served]
) -> None:
    other = CatalogFeed([pair[1].address], "other")
    running = asyncio.create_task(other.run())
    before = await other.wait_changed("", 60.0)
    assert await feed.report_refusals([REFUSED])
    assert not available(feed)
    await other.wait_changed(before, 60.0)
    assert not available(other)
    running.cancel()


async def test_a_refusal_that_nobody_hears_counts_here_all_the_same(
    feed: CatalogFeed, pair: tuple[Served, Served]
) -> None:
    for replica in pair:
        await replica.stop()
    assert not await feed.report_refusals([REFUSED])
    assert feed.ready
    assert not available(feed)


async def test_what_a_node_has_shown_reaches_every_subscriber(
    feed: CatalogFeed, pair: tuple[Served, Served]
) -> None:
    of = msgspec.structs.replace(node_class(), images=(Image("ami-1"),))
    other = CatalogFeed([pair[1].address], "other")
    running = asyncio.create_task(other.run())
    before = await other.wait_changed("", 60.0)
    assert await feed.report_capacity([LearnedMemory("m5.large", "ami-1", settings_of(of), 6 << 30)])
    await other.wait_changed(before, 60.0)
    assert other.catalogue_for(of).by_name["m5.large"].capacity["memory"] == 6 << 30
    assert other.catalogue_for(node_class()).by_name["m5.large"].capacity["memory"] > 6 << 30
    running.cancel()


async def test_a_refusal_of_everything_is_refused(feed: CatalogFeed) -> None:
    assert not await feed.report_refusals([Refusal(code="Nonsense")])


async def test_when_a_replica_goes_the_feed_goes_to_the_other(
    feed: CatalogFeed, pair: tuple[Served, Served]
) -> None:
    before = feed.revision
    await pair[0].stop()
    assert available(feed)
    await pair[1].board.learn_prices("spot", spot_sheet(table_of(), time.time(), 0.55), time.time())
    assert await feed.wait_changed(before, 60.0) != before


async def test_a_replica_with_nothing_to_serve_is_passed_over(pair: tuple[Served, Served]) -> None:
    empty = Served(FakeMemory(SystemClock()), "empty")
    await empty.start()
    feed = CatalogFeed([empty.address, pair[1].address], "test")
    running = asyncio.create_task(feed.run())
    assert await feed.wait_changed("", 60.0)
    running.cancel()
    await empty.stop()


async def test_why_there_is_no_stream_is_told() -> None:
    feed = CatalogFeed(["127.0.0.1:9"], "test")
    running = asyncio.create_task(feed.run())
    for _ in range(6000):
        if "127.0.0.1:9" in feed.problem:
            break
        await asyncio.sleep(0.01)
    assert "UNAVAILABLE" in feed.problem
    assert not feed.ready
    assert len(feed.catalogue_for(node_class())) == 0
    running.cancel()

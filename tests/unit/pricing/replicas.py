"""Pricing processes without their wires, on one clock, with one cloud and one memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from prometheus_client import CollectorRegistry

from nodeyard.adapters.pricing.disk import CatalogueDirectory
from nodeyard.cloudprovider.market import Market
from services.pricing.board import PriceBoard
from services.pricing.controller import PricingController
from services.pricing.metrics import PricingMetrics
from tests.support.clock import FakeClock, settle
from tests.support.pricing_fakes import FakeAccount, FakeCloud, FakeFeed, FakeMemory, FakeShifts

MINUTE_S, SPOT_S, HOURS_S = 60.0, 300.0, 12 * 3600.0


class Replica:
    """One pricing process without its wires."""

    def __init__(
        self,
        name: str,
        cloud: FakeCloud,
        memory: FakeMemory,
        clock: FakeClock,
        feed: FakeFeed | None = None,
        disk: CatalogueDirectory | None = None,
        paid: FakeAccount | None = None,
        shifts: FakeShifts | None = None,
    ) -> None:
        metrics = PricingMetrics(CollectorRegistry())
        self.board = PriceBoard(metrics, trusted_s={"on-demand": 2 * HOURS_S, "spot": 2 * SPOT_S})
        self.controller = PricingController(
            cloud,
            memory,
            self.board,
            clock,
            replica=name,
            intervals={"types": HOURS_S, "on-demand": HOURS_S, "spot": SPOT_S, "reservations": MINUTE_S},
            metrics=metrics,
            backup=feed,
            disk=disk,
            paid=paid,
            shifts=shifts,
            chance=lambda: 0.5,
        )
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        await self.controller.restore()
        c = self.controller
        for loop in (
            c.keep_types,
            c.keep_on_demand,
            c.keep_spot,
            c.keep_reservations,
            c.listen,
            c.sweep,
            c.keep_feed,
            c.keep_commitments,
            c.keep_shifts,
        ):
            self._tasks.append(asyncio.create_task(loop()))
        await settle()

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def market(self) -> Market:
        assert self.board.market is not None, self.board.unready()
        return self.board.market

    def available(self, kind: str = "spot", name: str = "m5.large", zone: str = "eu-west-1a") -> bool:
        table = self.market.table
        for (type_index, zone_index, capacity_type), row in zip(table.rows, self.market.rows, strict=True):
            if (table.types[type_index].name, table.zones[zone_index].name, capacity_type) == (
                name,
                zone,
                kind,
            ):
                return row.available
        raise AssertionError("no such offering")


class World:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.cloud = FakeCloud()
        self.memory = FakeMemory(self.clock)
        self.replicas: list[Replica] = []

    async def replica(
        self,
        name: str = "one",
        feed: FakeFeed | None = None,
        disk: CatalogueDirectory | None = None,
        paid: FakeAccount | None = None,
        shifts: FakeShifts | None = None,
    ) -> Replica:
        made = Replica(name, self.cloud, self.memory, self.clock, feed, disk, paid, shifts)
        self.replicas.append(made)
        await made.start()
        return made


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    for replica in made.replicas:
        await replica.stop()

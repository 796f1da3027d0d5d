"""Composition root of pricing: AWS on one side, Redis on the other, gRPC and HTTP over one board."""

import asyncio
from pathlib import Path

from nodeyard.adapters.ec2.describe import read_reservations, read_spot_prices, read_types
from nodeyard.adapters.ec2.session import Ec2Session
from nodeyard.adapters.ec2.usage import read_usage
from nodeyard.adapters.ec2.zonal_shift import read_shifted_zones
from nodeyard.adapters.pricing.account_commitments import read_account_commitments
from nodeyard.adapters.pricing.disk import CatalogueDirectory
from nodeyard.adapters.pricing.feed import fetch, problem_of
from nodeyard.adapters.pricing.products import read_on_demand_prices
from nodeyard.adapters.redis.catalogue import CatalogueStore
from nodeyard.adapters.redis.connection import connect, key_prefix
from nodeyard.cloudprovider.commitments import Commitments, Usage, read_commitments
from nodeyard.cloudprovider.errors import InvalidRequest
from nodeyard.cloudprovider.feed import Feed, read_feed
from nodeyard.cloudprovider.market import PriceSheet, TypeTable
from nodeyard.cloudprovider.reservations import ReservationSheet
from nodeyard.cloudprovider.scarcity import ScarcityMemory
from nodeyard.rpc.v1.catalog_pb2_grpc import add_PricingServicer_to_server
from nodeyard.runtime.lifecycle import Runtime, Service, StartError, run_service
from services.pricing.app import build_app
from services.pricing.board import PriceBoard
from services.pricing.controller import PricingController
from services.pricing.metrics import PricingMetrics
from services.pricing.ports import Part
from services.pricing.servicer import PricingServicer
from services.pricing.settings import ACCOUNT, Settings

_TRUSTED_S = 600.0
"""AWS's last answer goes before the feed for this long at least."""


class PriceFeed:
    """The feed at one address, for one region."""

    def __init__(self, address: str, session: Ec2Session) -> None:
        self._address = address
        self._session = session

    async def read(self, now: float) -> Feed:
        raw, modified_at = await fetch(self._address, self._session)
        return await asyncio.to_thread(read_feed, raw, self._session.region, modified_at or now)


class Committed:
    """Commitments from one address, or the account's own; and what runs in the account."""

    def __init__(self, address: str, session: Ec2Session) -> None:
        self._address = address
        self._session = session

    async def commitments(self) -> Commitments:
        if self._address == ACCOUNT:
            return await read_account_commitments(self._session)
        raw, _ = await fetch(self._address, self._session)
        return read_commitments(raw)

    async def usage(self) -> Usage:
        return await read_usage(self._session)


class ZonalShifts:
    """The shifts of one resource."""

    def __init__(self, resource: str, session: Ec2Session) -> None:
        self._resource = resource
        self._session = session

    async def shifted_zones(self) -> frozenset[str]:
        return await read_shifted_zones(self._session, self._resource)


class Aws:
    """The four sources over one session."""

    def __init__(self, session: Ec2Session) -> None:
        self._session = session

    async def types(self) -> TypeTable:
        return await read_types(self._session)

    async def on_demand(self, now: float) -> PriceSheet:
        return await read_on_demand_prices(self._session, now)

    async def spot(self, now: float) -> PriceSheet:
        return await read_spot_prices(self._session, now)

    async def reservations(self, now: float) -> ReservationSheet:
        return await read_reservations(self._session, now)


async def build(settings: Settings, runtime: Runtime) -> Service:
    """Asks Redis for what it remembers; AWS is asked by the loops."""
    metrics = PricingMetrics(runtime.registry)
    session = Ec2Session(
        threads=settings.aws_threads, region=settings.region or None, observe=metrics.observe_call
    )
    runtime.closing.callback(session.close)
    try:
        region = session.region
        redis = connect(settings.redis_url)
    except (InvalidRequest, ValueError) as error:
        raise StartError(str(error)) from error
    runtime.closing.push_async_callback(redis.aclose)
    for variable, address in (
        ("NODEYARD_PRICE_FEED", settings.price_feed),
        ("NODEYARD_COMMITMENTS", settings.commitments),
    ):
        if address and (problem := problem_of(address)):
            raise StartError(f"{variable}: {address}: {problem}")
    intervals: dict[Part, float] = {
        "types": settings.instance_type_interval,
        "on-demand": settings.on_demand_price_interval,
        "spot": settings.spot_price_interval,
        "reservations": settings.reservation_interval,
    }
    trusted_s = {part: max(_TRUSTED_S, 2 * interval) for part, interval in intervals.items()}
    if settings.reserved_interfaces < 0:
        raise StartError(f"NODEYARD_RESERVED_INTERFACES: {settings.reserved_interfaces} is less than none")
    scarcity = ScarcityMemory(settings.refusal_ttl)
    board = PriceBoard(metrics, scarcity, trusted_s, settings.reserved_interfaces)
    directory = settings.catalogue_directory
    controller = PricingController(
        Aws(session),
        CatalogueStore(redis, key_prefix(settings.cluster_name), region),
        board,
        runtime.clock,
        replica=settings.replica,
        intervals=intervals,
        metrics=metrics,
        backup=PriceFeed(settings.price_feed, session) if settings.price_feed else None,
        disk=CatalogueDirectory(Path(directory), region) if directory else None,
        paid=Committed(settings.commitments, session) if settings.commitments else None,
        shifts=ZonalShifts(settings.zonal_shift, session) if settings.zonal_shift else None,
        usage_interval_s=settings.usage_interval,
        feed_interval_s=settings.price_feed_interval,
    )
    await controller.restore()
    servicer = PricingServicer(board, controller, metrics)
    return Service(
        loops={
            "types": controller.keep_types,
            "on-demand": controller.keep_on_demand,
            "spot": controller.keep_spot,
            "reservations": controller.keep_reservations,
            "feed": controller.keep_feed,
            "commitments": controller.keep_commitments,
            "zonal shift": controller.keep_shifts,
            "listen": controller.listen,
            "sweep": controller.sweep,
        },
        ready=board.unready,
        register=lambda server: add_PricingServicer_to_server(servicer, server),
        app=build_app(board, runtime.clock.now),
    )


if __name__ == "__main__":
    run_service("pricing", Settings, build)

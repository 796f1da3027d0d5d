"""Composition root of pricing: AWS on one side, Redis on the other, gRPC and HTTP over one board."""

from nodeyard.adapters.ec2.describe import read_spot_prices, read_types
from nodeyard.adapters.ec2.session import Ec2Session
from nodeyard.adapters.pricing.products import read_on_demand_prices
from nodeyard.adapters.redis.catalogue import CatalogueStore
from nodeyard.adapters.redis.connection import connect, key_prefix
from nodeyard.cloudprovider.errors import InvalidRequest
from nodeyard.cloudprovider.market import PriceSheet, TypeTable
from nodeyard.cloudprovider.scarcity import ScarcityMemory
from nodeyard.rpc.v1.catalog_pb2_grpc import add_PricingServicer_to_server
from nodeyard.runtime.lifecycle import Runtime, Service, StartError, run_service
from services.pricing.app import build_app
from services.pricing.board import PriceBoard
from services.pricing.controller import PricingController
from services.pricing.metrics import PricingMetrics
from services.pricing.servicer import PricingServicer
from services.pricing.settings import Settings


class Aws:
    """The three sources over one session."""

    def __init__(self, session: Ec2Session) -> None:
        self._session = session

    async def types(self) -> TypeTable:
        return await read_types(self._session)

    async def on_demand(self, now: float) -> PriceSheet:
        return await read_on_demand_prices(self._session, now)

    async def spot(self, now: float) -> PriceSheet:
        return await read_spot_prices(self._session, now)


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
    board = PriceBoard(metrics, ScarcityMemory(settings.refusal_ttl))
    controller = PricingController(
        Aws(session),
        CatalogueStore(redis, key_prefix(settings.cluster_name), region),
        board,
        runtime.clock,
        replica=settings.replica,
        intervals={
            "types": settings.instance_type_interval,
            "on-demand": settings.on_demand_price_interval,
            "spot": settings.spot_price_interval,
        },
        metrics=metrics,
    )
    await controller.restore()
    servicer = PricingServicer(board, controller, metrics)
    return Service(
        loops={
            "types": controller.keep_types,
            "on-demand": controller.keep_on_demand,
            "spot": controller.keep_spot,
            "listen": controller.listen,
            "sweep": controller.sweep,
        },
        ready=board.unready,
        register=lambda server: add_PricingServicer_to_server(servicer, server),
        app=build_app(board, runtime.clock.now),
    )


if __name__ == "__main__":
    run_service("pricing", Settings, build)

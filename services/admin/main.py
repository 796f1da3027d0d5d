"""Composition root of admin: feeds, channels and the journal under one HTTP application."""

from nodeyard.adapters.redis.connection import connect, key_prefix
from nodeyard.adapters.redis.journal import Journal
from nodeyard.rpc.calls import Replicas
from nodeyard.rpc.catalog import CatalogFeed
from nodeyard.rpc.cluster import ClusterFeed
from nodeyard.rpc.v1 import disruption_pb2_grpc, planning_pb2_grpc
from nodeyard.runtime.lifecycle import Runtime, Service, run_service
from services.admin.app import build_app
from services.admin.settings import Settings


async def build(settings: Settings, runtime: Runtime) -> Service:
    """Connects nothing yet: feeds connect in their loops, channels on the first call."""
    cluster = ClusterFeed(settings.watcher, f"admin/{settings.replica}")
    prices = CatalogFeed(settings.pricing, f"admin/{settings.replica}")
    allocator = Replicas("allocator", settings.allocator, planning_pb2_grpc.AllocatorStub)
    reallocator = Replicas("reallocator", settings.reallocator, disruption_pb2_grpc.ReallocatorStub)
    redis = connect(settings.redis_url)
    journal = Journal(redis, key_prefix(settings.cluster_name))
    for closing in (allocator.close, reallocator.close, redis.aclose):
        runtime.closing.push_async_callback(closing)
    app = build_app(
        cluster=cluster, prices=prices, allocator=allocator, reallocator=reallocator, journal=journal
    )

    def unready() -> str | None:
        return None if cluster.synced else "the cluster's state has not arrived from the watcher yet"

    return Service(loops={"cluster": cluster.run, "prices": prices.run}, ready=unready, app=app)


if __name__ == "__main__":
    run_service("admin", Settings, build)

"""Composition root of the watcher: settings, the API server's client, the controller, the stream."""

from uuid import uuid4

import grpc.aio

from nodeyard.adapters.kubernetes.client import KubernetesClient
from nodeyard.adapters.kubernetes.paths import COLLECTIONS
from nodeyard.adapters.kubernetes.reflector import Reflector
from nodeyard.rpc.v1 import cluster_pb2_grpc
from nodeyard.runtime.lifecycle import Runtime, Service, run_service
from nodeyard.state.intake import converters
from services.watcher.controller import Controller
from services.watcher.metrics import WatcherMetrics
from services.watcher.ports import Inflow
from services.watcher.servicer import ClusterServicer
from services.watcher.settings import WatcherSettings


async def build(settings: WatcherSettings, runtime: Runtime) -> Service:
    """Wires the service. Makes no request yet."""
    client = await KubernetesClient.connect(settings.kubeconfig or None, agent="nodeyard-watcher")
    runtime.closing.push_async_callback(client.close)
    measures = WatcherMetrics(runtime.registry)

    def follow(kind: str, inflow: Inflow) -> Reflector:
        return Reflector(client, COLLECTIONS[kind], inflow, runtime.clock)

    kinds = converters(settings.cluster_name)
    controller = Controller(follow, client, uuid4().hex[:12], measures, runtime.clock, kinds)
    servicer = ClusterServicer(controller, measures, runtime.clock)

    def register(server: grpc.aio.Server) -> None:
        cluster_pb2_grpc.add_ClusterServicer_to_server(servicer, server)

    return Service(loops=controller.loops, ready=controller.not_serving_because, register=register)


def main() -> None:
    """Runs the watcher until it is told to stop."""
    run_service("watcher", WatcherSettings, build)


if __name__ == "__main__":
    main()

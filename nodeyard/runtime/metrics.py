"""Prometheus metrics: one registry per process, made at start and handed down.

Services define their metrics in their `metrics.py` against the registry they are given; nothing registers itself at
import, so that tests can have as many services as they like in one process.
"""

from collections.abc import Sequence
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
SECONDS: Final[Sequence[float]] = (
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 120.0, 300.0, 900.0,
)  # fmt: skip
"""Buckets for durations, from a millisecond to a quarter of an hour."""


def new_registry(*, process: bool = True) -> CollectorRegistry:
    """A registry, by default with the process's own memory, CPU, files and collector figures in it."""
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    if process:
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
    return registry


def render(registry: CollectorRegistry) -> bytes:
    """The registry in Prometheus' text format."""
    return generate_latest(registry)


class RuntimeMetrics:
    """What the runtime itself measures in every service."""

    def __init__(self, registry: CollectorRegistry, *, service: str, version: str) -> None:
        build = Info("nodeyard_build", "What is running.", registry=registry)
        build.info({"service": service, "version": version})
        self.loop_failures = Counter(
            "nodeyard_loop_failures_total",
            "Times a loop failed and was started again.",
            ["loop"],
            registry=registry,
        )
        self.loops_running = Gauge(
            "nodeyard_loops_running", "1 while a loop runs, 0 while it waits to be started again.", ["loop"],
            registry=registry,
        )  # fmt: skip
        self.event_loop_lag = Histogram(
            "nodeyard_event_loop_lag_seconds", "How late the event loop came back to a timer.", buckets=SECONDS,
            registry=registry,
        )  # fmt: skip
        self.ready = Gauge("nodeyard_ready", "1 while the service is ready to work.", registry=registry)

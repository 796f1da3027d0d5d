"""What pricing measures."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from nodeyard.runtime.metrics import SECONDS


class PricingMetrics:
    """`source` is pricing-api, spot-history, feed, last-known, estimate or none; `part` types, on-demand or spot."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.offerings = Gauge(
            "nodeyard_offerings", "Offerings by the source of their price.", ["source"], registry=registry
        )
        self.unavailable = Gauge(
            "nodeyard_offerings_unavailable",
            "Offerings with a price that can't be had now.",
            registry=registry,
        )
        self.refusals = Gauge("nodeyard_refusals", "Refusals of the cloud in force.", registry=registry)
        self.asked_at = Gauge(
            "nodeyard_catalogue_asked_timestamp_seconds",
            "When a part was last learned.",
            ["part"],
            registry=registry,
        )
        self.feed_asked_at = Gauge(
            "nodeyard_price_feed_timestamp_seconds",
            "The moment that the prices of the feed are of; 0 without a feed.",
            registry=registry,
        )
        self.feed_problems = Gauge(
            "nodeyard_price_feed_problems",
            "What is wrong with the feed as last read, figures left out included.",
            registry=registry,
        )
        self.refreshes = Counter(
            "nodeyard_catalogue_refreshes_total",
            "Refreshes by outcome: asked, adopted from another replica, or the error's class.",
            ["part", "outcome"],
            registry=registry,
        )
        self.refresh_seconds = Histogram(
            "nodeyard_catalogue_refresh_seconds", "Asking AWS for one part.", ["part"], buckets=SECONDS,
            registry=registry,
        )  # fmt: skip
        self.subscribers = Gauge("nodeyard_catalogue_subscribers", "Open streams.", registry=registry)
        self.aws_calls = Counter(
            "nodeyard_aws_calls_total", "Calls to AWS by outcome.", ["service", "operation", "outcome"],
            registry=registry,
        )  # fmt: skip
        self.aws_seconds = Histogram(
            "nodeyard_aws_call_seconds", "Calls to AWS, retries included.", ["service", "operation"], buckets=SECONDS,
            registry=registry,
        )  # fmt: skip

    def observe_call(self, service: str, operation: str, outcome: str, seconds: float) -> None:
        """For the session's observer."""
        self.aws_calls.labels(service, operation, outcome).inc()
        self.aws_seconds.labels(service, operation).observe(seconds)

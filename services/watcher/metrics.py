"""What the watcher measures."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from nodeyard.runtime.metrics import SECONDS


class WatcherMetrics:
    """The watcher's metrics, in one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.objects = Gauge(
            "nodeyard_watcher_objects", "Objects known, by kind.", ["kind"], registry=registry
        )
        self.events = Counter(
            "nodeyard_watcher_events_total",
            "Objects received in listings and watches.",
            ["resource"],
            registry=registry,
        )
        self.changes = Counter(
            "nodeyard_watcher_changes_total", "Changes passed on.", ["resource"], registry=registry
        )
        self.undecodable = Counter(
            "nodeyard_watcher_undecodable_total", "Objects that could not be read.", ["resource"], registry=registry
        )  # fmt: skip
        self.listings = Counter(
            "nodeyard_watcher_listings_total", "Complete listings.", ["resource"], registry=registry
        )
        self.convert = Histogram(
            "nodeyard_watcher_convert_seconds",
            "Time to convert one page or batch of events.",
            buckets=SECONDS,
            registry=registry,
        )
        self.subscribers = Gauge("nodeyard_watcher_subscribers", "Open streams.", registry=registry)
        self.snapshots = Counter("nodeyard_watcher_snapshots_total", "Snapshots sent.", registry=registry)
        self.current = Gauge(
            "nodeyard_watcher_current", "1 while everything essential is followed.", registry=registry
        )
        self.sync_s = Gauge(
            "nodeyard_watcher_sync_seconds", "From the start until everything was listed.", registry=registry
        )

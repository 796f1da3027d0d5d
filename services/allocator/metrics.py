"""What the allocator measures, under Karpenter's names where Karpenter has one.

Source: Karpenter documentation, "Metrics".
"""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from nodeyard.runtime.metrics import SECONDS


class AllocatorMetrics:
    """All metrics of one allocator."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=registry)

        def seconds(name: str, text: str, *labels: str) -> Histogram:
            return Histogram(name, text, labels, buckets=SECONDS, registry=registry)

        self.scheduling = seconds(
            "karpenter_scheduler_scheduling_duration_seconds", "Time to solve one batch."
        )
        self.queue = gauge("karpenter_scheduler_queue_depth", "Pods in the batch being solved.")
        self.unschedulable = gauge(
            "karpenter_scheduler_unschedulable_pods_count", "Pods refused by the last plan."
        )
        self.ignored = gauge(
            "karpenter_scheduler_ignored_pods_count", "Pods refused as unsupported or invalid."
        )
        self.zones = gauge(
            "karpenter_scheduler_pending_pods_by_effective_zone_count",
            "Pods in the batch being solved by the zone that their rules and volumes leave them; flexible: several, none: "
            "no zone there is.",
            "zone",
        )
        self.created = counter("karpenter_nodeclaims_created_total", "Claims created.", "nodepool", "reason")
        self.launched = counter(
            "karpenter_nodeclaims_launched_total",
            "Claims launched.",
            "nodepool",
            "capacity_type",
            "instance_type",
        )
        self.registered = counter("karpenter_nodeclaims_registered_total", "Claims registered.", "nodepool")
        self.initialized = counter(
            "karpenter_nodeclaims_initialized_total", "Claims initialized.", "nodepool"
        )
        self.given_up = counter(
            "karpenter_nodeclaims_terminated_total", "Claims deleted because they could not become nodes.",
            "nodepool", "reason",
        )  # fmt: skip
        self.nodes_created = counter("karpenter_nodes_created_total", "Nodes registered.", "nodepool")
        self.cloud_errors = counter(
            "karpenter_cloudprovider_errors_total", "Calls the cloud refused.", "method", "error"
        )
        self.insufficient = counter(
            "nodeyard_insufficient_capacity_total", "Offerings refused.", "capacity_type", "zone"
        )
        self.usage = gauge(
            "karpenter_nodepools_usage", "What a pool's nodes have.", "nodepool", "resource_type"
        )
        self.limit = gauge("karpenter_nodepools_limit", "What they may have.", "nodepool", "resource_type")
        self.placed = counter("nodeyard_pods_placed_total", "Pods nominated or bound by us.", "mode")
        self.plan_gap = gauge("nodeyard_plan_gap_ratio", "Last plan's cost above its lower bound.")
        self.batch_to_launch = seconds(
            "nodeyard_batch_to_launch_seconds", "From the end of a batch window to each CreateFleet call."
        )
        self.claim_to_registered = seconds(
            "nodeyard_claim_to_registered_seconds",
            "From a claim's creation to its node's registration.",
            "nodepool",
        )
        self.claim_to_initialized = seconds(
            "nodeyard_claim_to_initialized_seconds",
            "From a claim's creation to its node's initialization.",
            "nodepool",
        )

    def pending_by_zone(self, pods: Mapping[str, int]) -> None:
        """How many pods wait for each zone; zones that nobody waits for any more are not shown."""
        self.zones.clear()
        for zone, many in pods.items():
            self.zones.labels(zone).set(many)

    def api_call(self, service: str, operation: str, outcome: str, took_s: float) -> None:
        """For `Ec2Session(observe=…)`."""
        if outcome != "ok":
            self.cloud_errors.labels(f"{service}:{operation}", outcome).inc()

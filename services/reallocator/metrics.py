"""What the reallocator measures, under Karpenter's names where Karpenter has one.

Source: Karpenter documentation, "Metrics".
"""

from collections import Counter as Tally
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from nodeyard.disruption.model import Proposal, Reason, Rule
from nodeyard.runtime.metrics import SECONDS


class ReallocatorMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=registry)

        def histogram(name: str, text: str, *labels: str) -> Histogram:
            return Histogram(name, text, labels, buckets=SECONDS, registry=registry)

        self.decisions = counter(
            "karpenter_voluntary_disruption_decisions_total", "Commands decided on.", "decision", "reason"
        )
        self.eligible = gauge(
            "karpenter_voluntary_disruption_eligible_nodes", "Nodes that nothing stops, by reason.", "reason"
        )
        self.evaluation = histogram(
            "karpenter_voluntary_disruption_decision_evaluation_duration_seconds", "Time for one pass."
        )
        self.timeouts = counter(
            "karpenter_voluntary_disruption_consolidation_timeouts_total", "Passes that ran out of time."
        )
        self.queue_failures = counter(
            "karpenter_voluntary_disruption_queue_failures_total", "Commands that were undone.", "decision"
        )
        self.allowed = gauge(
            "karpenter_nodepools_allowed_disruptions",
            "Nodes that may be disrupted now.",
            "nodepool",
            "reason",
        )
        self.disrupted = counter(
            "karpenter_nodeclaims_disrupted_total",
            "NodeClaims disrupted.",
            "reason",
            "nodepool",
            "capacity_type",
        )
        self.claims_terminated = counter(
            "karpenter_nodeclaims_terminated_total", "NodeClaims gone.", "nodepool", "capacity_type"
        )
        self.nodes_terminated = counter("karpenter_nodes_terminated_total", "Nodes gone.", "nodepool")
        self.nodes_drained = counter("karpenter_nodes_drained_total", "Nodes drained.", "nodepool")
        self.termination = histogram(
            "karpenter_nodes_termination_duration_seconds", "From a claim's deletion to its end.", "nodepool"
        )
        self.evictions = counter(
            "karpenter_nodes_eviction_requests_total", "Eviction calls by the API server's answer.", "code"
        )
        self.blocked = gauge(
            "nodeyard_disruption_blocked_nodes", "Nodes kept, by the first rule that keeps them.", "rule"
        )
        self.savings = gauge(
            "nodeyard_disruption_proposed_savings_usd_per_hour", "Savings of all open proposals."
        )
        self.in_flight = gauge("nodeyard_disruption_commands", "Commands under way.", "reason")
        self.terminating = gauge("nodeyard_nodes_terminating", "Nodes on their way out.")
        self.collected = counter("nodeyard_garbage_collected_total", "Garbage collected.", "kind")
        self.held = gauge("nodeyard_garbage_collection_held", "Garbage that waits for a person.")

    def observe_proposals(self, proposals: Iterable[Proposal]) -> None:
        """Set the gauges that a pass's proposals give."""
        proposals = tuple(proposals)
        stopped = Tally(p.blocks[0].rule for p in proposals if p.blocks)
        for rule in Rule:
            self.blocked.labels(rule.value).set(stopped.get(rule, 0))
        open_ = [p for p in proposals if not p.blocks and p.reason is not None]
        for reason in Reason:
            self.eligible.labels(reason.value).set(sum(p.reason is reason for p in open_))
        self.savings.set(sum(p.saves_per_hour for p in open_))

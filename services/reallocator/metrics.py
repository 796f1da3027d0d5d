"""What the reallocator measures, under Karpenter's names and labels where Karpenter has one (it writes reasons small there).

Source: Karpenter documentation, "Metrics".
"""

from collections.abc import Iterable
from math import nan
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from nodeyard.api import labels as keys
from nodeyard.api.node import Node, NodeClaim
from nodeyard.disruption.budgets import INSTANCE_TERMINATING
from nodeyard.disruption.methods import course
from nodeyard.disruption.model import Action, Command, Distance, Outcome, Proposal, Reason, Rule
from nodeyard.runtime.metrics import SECONDS

_AGES_S: Final = (60, 600, 1800, 3600, 4 * 3600, 12 * 3600, 86400, 3 * 86400, 7 * 86400, 30 * 86400)


def kind_of(reason: Reason, nodes: int) -> str:
    """What Karpenter calls the consolidation type; empty for what is no consolidation."""
    if reason is Reason.UNDERUTILIZED:
        return "multi" if nodes > 1 else "single"
    return "empty" if reason is Reason.EMPTY else ""


class ReallocatorMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=registry)

        def histogram(name: str, text: str, *labels: str) -> Histogram:
            return Histogram(name, text, labels, buckets=SECONDS, registry=registry)

        self.decisions = counter(
            "karpenter_voluntary_disruption_decisions_total",
            "Commands decided on.",
            "decision",
            "reason",
            "consolidation_type",
        )
        self.failed_validations = counter(
            "karpenter_voluntary_disruption_failed_validations_total",
            "Nodes of commands that no longer held after the wait.",
            "consolidation_type",
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
            "karpenter_voluntary_disruption_queue_failures_total",
            "Commands that were undone.",
            "decision",
            "reason",
            "consolidation_type",
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
            "karpenter_nodes_termination_duration_seconds", "From a node's deletion to its end.", "nodepool"
        )
        self.claim_termination = histogram(
            "karpenter_nodeclaims_termination_duration_seconds",
            "From a claim's deletion to its end.",
            "nodepool",
        )
        self.instance_termination = histogram(
            "karpenter_nodeclaims_instance_termination_duration_seconds",
            "From when an instance was told to end to when it had.",
            "nodepool",
        )
        self.lifetime = Histogram(
            "karpenter_nodes_lifetime_duration_seconds",
            "Age of nodes at their end.",
            ("nodepool",),
            buckets=_AGES_S,
            registry=registry,
        )
        self.evictions = counter(
            "karpenter_nodes_eviction_requests_total", "Eviction calls by the API server's answer.", "code"
        )
        self.messages_received = counter(
            "karpenter_interruption_received_messages_total",
            "Messages about instances, by what they say; no_op and malformed ones too.",
            "message_type",
        )
        self.messages_deleted = counter(
            "karpenter_interruption_deleted_messages_total", "Messages about instances that are done with."
        )
        self.message_wait = histogram(
            "karpenter_interruption_message_queue_duration_seconds",
            "From a message's arrival in the queue to its handling.",
        )
        self.blocked = gauge(
            "nodeyard_disruption_blocked_nodes",
            "Nodes kept in the last pass, by method and the first rule that kept them.",
            "method",
            "rule",
        )
        self.rent = gauge(
            "karpenter_nodepools_cost_total", "USD per hour that a pool's nodes cost in rent.", "nodepool"
        )
        self.cost = gauge(
            "nodeyard_running_cost_usd_per_hour", "Rent and node charges of a pool's nodes.", "nodepool"
        )
        self.searched = gauge(
            "nodeyard_cluster_cost_usd_per_hour",
            "Rent and node charges of all nodes when cheaper ones were last searched for.",
        )
        self.least = gauge(
            "nodeyard_cluster_least_cost_usd_per_hour",
            "The least that any nodes for the same pods could cost, as of that search.",
        )
        self.gap = gauge(
            "nodeyard_cluster_cost_gap_ratio",
            "By how much of the least the cluster cost more, as of that search.",
        )
        self.savings = gauge(
            "nodeyard_disruption_proposed_savings_usd_per_hour", "Savings of all open proposals."
        )
        self.refused = gauge(
            "nodeyard_disruption_refused_savings_usd_per_hour",
            "Savings that are known and not made, by the first rule that forbids them.",
            "rule",
        )
        self.made = counter(
            "nodeyard_disruption_savings_usd_per_hour_total", "Savings made by commands.", "reason"
        )
        self.spent = counter(
            "nodeyard_disruption_extra_cost_usd_per_hour_total",
            "What commands made dearer: drift and expiry may.",
            "reason",
        )
        self.price_looks = counter(
            "nodeyard_disruption_price_looks_total",
            "Passes made because prices moved, with the cluster at rest.",
        )
        self.in_flight = gauge("nodeyard_disruption_commands", "Commands under way.", "reason")
        self.terminating = gauge("nodeyard_nodes_terminating", "Nodes on their way out.")
        self.collected = counter("nodeyard_garbage_collected_total", "Garbage collected.", "kind")
        self.held = gauge("nodeyard_garbage_collection_held", "Garbage that waits for a person.")

        self.observe_distance(None)

    def observe_proposals(self, proposals: Iterable[Proposal]) -> None:
        """Set the gauges that a pass's proposals give."""
        proposals = tuple(proposals)
        refused = dict.fromkeys(Rule, 0.0)
        for p in proposals:
            if p.blocks and p.saves_per_hour > 0:
                refused[p.blocks[0].rule] += p.saves_per_hour
        for rule, usd_per_hour in refused.items():
            self.refused.labels(rule.value).set(usd_per_hour)
        open_ = [p for p in proposals if not p.blocks and p.reason is not None]
        for reason in Reason:
            self.eligible.labels(reason.value.lower()).set(sum(p.reason is reason for p in open_))
        self.savings.set(sum(p.saves_per_hour for p in open_))

    def observe_pass(self, outcome: Outcome) -> None:
        """Set what one pass tells: what kept nodes, and what runs costs."""
        for method in outcome.judged:
            stopped = outcome.stopped(method)
            for rule in Rule:
                self.blocked.labels(method, rule.value).set(stopped.get(rule, 0))
        self.cost.clear()
        self.rent.clear()
        for pool, cost in outcome.cost.items():
            self.cost.labels(pool).set(cost)
            self.rent.labels(pool).set(outcome.rent[pool])
        if outcome.distance is not None or course.__name__ in outcome.judged:
            self.observe_distance(outcome.distance)

    def observe_distance(self, distance: Distance | None) -> None:
        """How far the cluster stands from the cheapest; None: nobody knows, which is no number."""
        self.searched.set(nan if distance is None else distance.cost_per_hour)
        self.least.set(nan if distance is None else distance.least_per_hour)
        self.gap.set(nan if distance is None else distance.gap)

    def decided(self, command: Command) -> None:
        """A command is about to begin."""
        kind = kind_of(command.reason, len(command.nodes))
        self.decisions.labels(command.action.value.lower(), command.reason.value.lower(), kind).inc()

    def undone(self, action: Action, reason: Reason, nodes: int) -> None:
        """A command that had begun was undone."""
        kind = kind_of(reason, nodes)
        self.queue_failures.labels(action.value.lower(), reason.value.lower(), kind).inc()

    def did_not_hold(self, command: Command) -> None:
        """A command was decided on and no longer held after the wait."""
        self.failed_validations.labels(kind_of(command.reason, len(command.nodes))).inc(len(command.nodes))

    def node_ended(self, node: Node, now: float) -> None:
        """A node's last finalizer is off."""
        self.nodes_terminated.labels(node.pool).inc()
        self.termination.labels(node.pool).observe(max(0.0, now - node.deleted_at))
        self.lifetime.labels(node.pool).observe(max(0.0, now - node.created_at))

    def claim_ended(self, claim: NodeClaim, now: float) -> None:
        """A claim's last finalizer is off."""
        self.claims_terminated.labels(claim.pool, claim.labels.get(keys.CAPACITY_TYPE, "")).inc()
        self.claim_termination.labels(claim.pool).observe(max(0.0, now - claim.deleted_at))
        told = claim.condition(INSTANCE_TERMINATING)
        if told is not None and told.status == "True":
            self.instance_termination.labels(claim.pool).observe(max(0.0, now - told.since))

    def saved(self, reason: Reason, usd_per_hour: float) -> None:
        """A command has come to its end and changed what the cluster costs by this much."""
        (self.made if usd_per_hour >= 0 else self.spent).labels(reason.value).inc(abs(usd_per_hour))

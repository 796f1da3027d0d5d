"""Says what was decided: to the journal, to the log and as Kubernetes events, in one call each.

Owns the wording of the facts (who, when, which replica); never fails. Neighbours: everything here that decides.
"""

from collections.abc import Callable
from typing import Final

from nodeyard.api.decision import Decision
from nodeyard.api.node import Node, NodeClaim
from nodeyard.api.pod import PodRecord
from nodeyard.api.pool import Pool
from nodeyard.disruption.model import Distance
from nodeyard.runtime.logging import get_logger
from services.reallocator.ports import Events, Recording

SERVICE: Final = "reallocator"
Fact = str | int | float | bool

log = get_logger("services.reallocator")


class Chronicle:
    """`now`: seconds since the epoch."""

    def __init__(self, journal: Recording, events: Events, *, replica: str, now: Callable[[], float]) -> None:
        self._journal = journal
        self._events = events
        self._replica = replica
        self._now = now

    async def decided(
        self, kind: str, subject: str, reason: str, message: str, /, *, quiet: bool = False, **facts: Fact
    ) -> None:
        """Writes a decision down; `quiet` keeps it out of the log."""
        decision = Decision(self._now(), SERVICE, self._replica, kind, subject, reason, message, facts)
        await self._journal.record([decision])
        if not quiet:
            log.info("decision", kind=kind, subject=subject, reason=reason, message=message, facts=facts)

    async def measured(self, distance: Distance) -> None:
        """Writes down how far the cluster stands from the cheapest it could be, as far as is proved."""
        message = "what all nodes cost, and the least that any nodes for the same pods could"
        await self.decided(
            "measured", "cluster/all", "Searched", message,
            quiet=True, cost_per_hour=round(distance.cost_per_hour, 6),
            least_per_hour=round(distance.least_per_hour, 6), gap=round(distance.gap, 6),
        )  # fmt: skip

    def on_node(self, node: Node, reason: str, message: str, *, warning: bool = False) -> None:
        """An event on a Node (Kubernetes puts node events under the node's name as uid)."""
        self._events.publish(
            kind="Node",
            api_version="v1",
            name=node.name,
            uid=node.uid or node.name,
            type="Warning" if warning else "Normal",
            reason=reason,
            message=message,
        )

    def on_claim(self, claim: NodeClaim, reason: str, message: str, *, warning: bool = False) -> None:
        """An event on a NodeClaim."""
        self._events.publish(
            kind="NodeClaim",
            api_version="karpenter.sh/v1",
            name=claim.name,
            uid=claim.uid,
            type="Warning" if warning else "Normal",
            reason=reason,
            message=message,
        )

    def on_pool(self, pool: Pool, reason: str, message: str, *, warning: bool = False) -> None:
        """An event on a NodePool or Provisioner."""
        old, _, name = pool.key.rpartition("/")
        self._events.publish(
            kind="Provisioner" if old else "NodePool",
            api_version="karpenter.sh/v1alpha5" if old else "karpenter.sh/v1",
            name=name,
            uid=pool.uid,
            type="Warning" if warning else "Normal",
            reason=reason,
            message=message,
        )

    def on_pod(self, pod: PodRecord, reason: str, message: str, *, warning: bool = False) -> None:
        """An event on a Pod."""
        self._events.publish(
            kind="Pod",
            api_version="v1",
            name=pod.name,
            namespace=pod.namespace,
            uid=pod.uid,
            type="Warning" if warning else "Normal",
            reason=reason,
            message=message,
        )

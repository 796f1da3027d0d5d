"""How the allocator tells people: the decision journal, Kubernetes events, and log lines, from one call each.

Owns the wording's shape (a constant sentence, facts beside it) and which object an event is about. Never raises and
never waits, so that nothing depends on being told about.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from nodeyard.api.decision import Decision
from nodeyard.api.node import NodeClaim
from nodeyard.api.nodeclass import NodeClass
from nodeyard.api.pod import PodRecord
from nodeyard.api.pool import Pool
from nodeyard.runtime.clock import Clock
from nodeyard.runtime.logging import get_logger
from services.allocator.ports import Events, Journal

log = get_logger("services.allocator")

Fact = str | int | float | bool
_SERVICE: Final = "allocator"


class Reporter:
    """Tells what one replica decided."""

    def __init__(self, journal: Journal, events: Events, clock: Clock, replica: str) -> None:
        self._journal = journal
        self._events = events
        self._clock = clock
        self._replica = replica

    async def decided(
        self, kind: str, subject: str, reason: str, message: str = "", facts: Mapping[str, Fact] | None = None
    ) -> None:
        """One decision into the journal."""
        await self._journal.record([self.decision(kind, subject, reason, message, facts)])

    async def decided_all(self, decisions: Iterable[Decision]) -> None:
        """Several at once."""
        await self._journal.record(list(decisions))

    def decision(
        self, kind: str, subject: str, reason: str, message: str = "", facts: Mapping[str, Fact] | None = None
    ) -> Decision:
        """A decision of now."""
        return Decision(
            self._clock.now(), _SERVICE, self._replica, kind, subject, reason, message, dict(facts or {})
        )

    def pod(self, pod: PodRecord, reason: str, message: str, *, warning: bool = False) -> None:
        """An event on a pod."""
        self._events.publish(
            kind="Pod", api_version="v1", name=pod.name, namespace=pod.namespace, uid=pod.uid,
            type="Warning" if warning else "Normal", reason=reason, message=message,
        )  # fmt: skip

    def claim(self, claim: NodeClaim, reason: str, message: str, *, warning: bool = False) -> None:
        """An event on a claim."""
        self._events.publish(
            kind="NodeClaim", api_version="karpenter.sh/v1", name=claim.name, uid=claim.uid,
            type="Warning" if warning else "Normal", reason=reason, message=message,
        )  # fmt: skip

    def node_class(self, node_class: NodeClass, reason: str, message: str, *, warning: bool = False) -> None:
        """An event on an EC2NodeClass or AWSNodeTemplate."""
        older, _, name = node_class.key.rpartition("/")
        self._events.publish(
            kind="AWSNodeTemplate" if older else "EC2NodeClass",
            api_version="karpenter.k8s.aws/v1alpha1" if older else "karpenter.k8s.aws/v1",
            name=name, uid=node_class.uid,
            type="Warning" if warning else "Normal", reason=reason, message=message,
        )  # fmt: skip

    def pool(self, pool: Pool, reason: str, message: str, *, warning: bool = False) -> None:
        """An event on a NodePool or Provisioner."""
        kind, _, name = pool.key.rpartition("/")
        provisioner = kind == "provisioner"
        self._events.publish(
            kind="Provisioner" if provisioner else "NodePool",
            api_version="karpenter.sh/v1alpha5" if provisioner else "karpenter.sh/v1",
            name=name, uid=pool.uid,
            type="Warning" if warning else "Normal", reason=reason, message=message,
        )  # fmt: skip

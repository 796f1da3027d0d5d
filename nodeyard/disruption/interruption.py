"""What the cloud says about its instances, and what follows for the nodes that run on them.

A `Notice` is one message, whatever queue it came by. A spot instance that is about to be taken, one that the cloud
will retire, and one that stops or ends behind our back: their claims are deleted, so that the drain begins and pods
are planned elsewhere while it runs. A rebalance recommendation is only passed on. An instance that spot takes ends
two minutes after the notice whatever is on it, so its claim gets a deadline a little before: pods that nothing else
would let go are told to end, in place of being cut off. The same holds where a capacity reservation takes its instances
back, at the time that its notice names. Neighbours: `termination` (how a node leaves), the
reallocator's `interruptions` (who acts). Source: Karpenter documentation, "Interruption"; Amazon EC2 user guide, "Spot
Instance interruption notices".
"""

import enum
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from nodeyard.api.node import NodeClaim
from nodeyard.api.selectors import Value
from nodeyard.disruption.collection import instance_id
from nodeyard.disruption.termination import deadline_of

SPOT_WARNING_S: Final = 120.0
"""From the notice to the end of a spot instance."""
_MARGIN_S: Final = 5.0
"""Pods are to be gone this long before, so that the last ones end by themselves."""


class NoticeKind(enum.StrEnum):
    """What a notice says, as Karpenter's metrics spell it."""

    SPOT = "spot_interrupted"
    RESERVATION = "capacity_reservation_interrupted"
    REBALANCE = "rebalance_recommendation"
    SCHEDULED_CHANGE = "scheduled_change"
    STOPPED = "instance_stopped"
    TERMINATED = "instance_terminated"
    NO_OP = "no_op"
    """Nothing that concerns a node: an instance that starts, say."""
    MALFORMED = "malformed"


class Notice(Value, frozen=True):
    """`at`: when the cloud said it, in seconds since the epoch. `problem`: why it can't be read (MALFORMED). `ends_at`: when
    the instances end, 0 where the notice does not say.
    """

    kind: NoticeKind
    instances: tuple[str, ...] = ()
    at: float = 0.0
    problem: str = ""
    ends_at: float = 0.0


class Message(Value, frozen=True):
    """A notice as it lies in the queue. `handle` deletes it; `id` stays the same when it is delivered again.

    `sent_at`: seconds since the epoch, 0 where the queue does not tell.
    """

    id: str
    handle: str
    notice: Notice
    sent_at: float = 0.0


class Meaning(Value, frozen=True):
    """`event`: reason of the event on node and claim. `ends`: the claim is deleted. `warning_s`: seconds from the notice to
    the instance's end where it names no time itself, None where it does not end by this.
    """

    event: str
    words: str
    ends: bool = True
    warning_s: float | None = None


MEANINGS: Final[Mapping[NoticeKind, Meaning]] = {
    NoticeKind.SPOT: Meaning(
        "SpotInterrupted", "the cloud takes its spot instance back in two minutes", True, SPOT_WARNING_S
    ),
    NoticeKind.RESERVATION: Meaning(
        "CapacityReservationInstanceInterrupted",
        "its capacity reservation takes its instance back",
        True,
        SPOT_WARNING_S,
    ),
    NoticeKind.REBALANCE: Meaning(
        "SpotRebalanceRecommendation", "its spot instance is at an elevated risk of interruption", False
    ),
    NoticeKind.SCHEDULED_CHANGE: Meaning("InstanceUnhealthy", "the cloud has scheduled a change of its instance"),
    NoticeKind.STOPPED: Meaning("InstanceStopping", "its instance is stopping"),
    NoticeKind.TERMINATED: Meaning("InstanceTerminating", "its instance is terminating"),
}  # fmt: skip


def claims_of(notice: Notice, claims: Iterable[NodeClaim]) -> Iterator[NodeClaim]:
    """The claims whose instances a notice is about; one on its way out only if the notice brings its end closer."""
    meaning = MEANINGS.get(notice.kind)
    wanted = frozenset(notice.instances)
    for claim in claims if meaning is not None and wanted else ():
        if instance_id(claim.provider_id) in wanted and not (
            claim.deleting and deadline_for(notice, claim) is None
        ):
            yield claim


def deadline_for(notice: Notice, claim: NodeClaim) -> float | None:
    """When everything on the node has to be gone because of the notice; None where it asks for no earlier time than the
    claim has.
    """
    meaning = MEANINGS.get(notice.kind)
    if meaning is None or meaning.warning_s is None:
        return None
    ends_at = notice.ends_at if notice.ends_at > notice.at else notice.at + meaning.warning_s
    wanted = float(int(ends_at - _MARGIN_S))
    known = deadline_of(claim)
    return None if known is not None and known <= wanted else wanted

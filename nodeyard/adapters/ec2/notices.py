"""The bodies of EventBridge's messages about instances, read into notices.

Whatever can't be read is a notice that says why, never an exception: whoever can write to the queue could else stop
the loop. Only what is looked at is decoded; unknown events are no news. Neighbour: `interruption_queue`, which fetches them.
Source: Amazon EventBridge, "Amazon EC2 events"; AWS Health, "Amazon EventBridge events"; Amazon EC2 user guide, "Spot
Instance interruption notices", "EC2 instance rebalance recommendations", "Monitor Capacity Blocks using EventBridge".
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final

import msgspec

from nodeyard.disruption.interruption import Notice, NoticeKind

_SPOT: Final = "EC2 Spot Instance Interruption Warning"
_RESERVATION: Final = "EC2 Capacity Reservation Instance Interruption Warning"
_REBALANCE: Final = "EC2 Instance Rebalance Recommendation"
_STATE: Final = "EC2 Instance State-change Notification"
_HEALTH: Final = "AWS Health Event"
_STATES: Final[Mapping[str, NoticeKind]] = {
    "stopping": NoticeKind.STOPPED,
    "stopped": NoticeKind.STOPPED,
    "shutting-down": NoticeKind.TERMINATED,
    "terminated": NoticeKind.TERMINATED,
}


class _Entity(msgspec.Struct, rename="camel"):
    entity_value: str = ""


class _Detail(msgspec.Struct):
    instance_id: str = msgspec.field(default="", name="instance-id")
    state: str = ""
    ends_at: str = msgspec.field(default="", name="instance-termination-time")
    service: str = ""
    category: str = msgspec.field(default="", name="eventTypeCategory")
    entities: list[_Entity] = msgspec.field(default_factory=list, name="affectedEntities")


class _Event(msgspec.Struct):
    source: str
    type: str = msgspec.field(name="detail-type")
    time: str = ""
    detail: msgspec.Raw = msgspec.Raw(b"{}")


class _Unreadable(ValueError):
    """Why a body is none of the events it says it is."""


def notice_of(body: str, sent_at: float) -> Notice:
    """The notice in a message's body. `sent_at` stands in where the event carries no time."""
    try:
        event = msgspec.json.decode(body.encode(), type=_Event)
        reader = _READERS.get((event.source, event.type))
        if reader is None:
            return Notice(NoticeKind.NO_OP)
        detail = msgspec.json.decode(event.detail, type=_Detail)
        kind, instances = reader(detail)
        return Notice(kind, instances, _time(event.time) or sent_at, ends_at=_time(detail.ends_at))
    except (msgspec.DecodeError, UnicodeError, ValueError) as error:
        return Notice(NoticeKind.MALFORMED, at=sent_at, problem=str(error))


def _about(kind: NoticeKind) -> Callable[[_Detail], tuple[NoticeKind, tuple[str, ...]]]:
    return lambda detail: (kind, (_checked(detail.instance_id),))


def _state(detail: _Detail) -> tuple[NoticeKind, tuple[str, ...]]:
    kind = _STATES.get(detail.state, NoticeKind.NO_OP)
    return kind, (_checked(detail.instance_id),)


def _health(detail: _Detail) -> tuple[NoticeKind, tuple[str, ...]]:
    if (detail.service, detail.category) != ("EC2", "scheduledChange"):
        return NoticeKind.NO_OP, ()
    values = (entity.entity_value for entity in detail.entities)
    return NoticeKind.SCHEDULED_CHANGE, tuple(value for value in values if value.startswith("i-"))


_READERS: Final = {
    ("aws.ec2", _SPOT): _about(NoticeKind.SPOT),
    ("aws.ec2", _RESERVATION): _about(NoticeKind.RESERVATION),
    ("aws.ec2", _REBALANCE): _about(NoticeKind.REBALANCE),
    ("aws.ec2", _STATE): _state,
    ("aws.health", _HEALTH): _health,
}


def _checked(instance: str) -> str:
    if not instance.startswith("i-"):
        raise _Unreadable(f"detail.instance-id: {instance!r} is no instance id")
    return instance


def _time(text: str) -> float:
    if not text:
        return 0.0
    at = datetime.fromisoformat(text)
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()

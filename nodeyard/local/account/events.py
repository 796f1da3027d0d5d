"""What EC2 tells a cluster about its instances, as EventBridge delivers it into an SQS queue.

Builds the JSON of the messages that an autoscaler listens to, in the documented shape ("Amazon EC2 events",
EventBridge; "Spot Instance interruption notices", "Rebalance recommendations", "Monitor Capacity
Blocks using EventBridge", EC2 user guide; AWS Health events).
Sending is the account's business. Pure but for the identifiers, which come in.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

KINDS = ("spot", "reservation", "rebalance", "scheduled-change", "state-change")


def message(
    kind: str, *, event_id: str, account_id: str, region: str, at: float, instance_id: str, state: str,
    ends_at: float = 0.0,
) -> str:  # fmt: skip
    """The body of one message. `kind` is one of KINDS; `state` matters for "state-change" only, `ends_at` (seconds since the
    epoch) for "reservation".
    """
    arn = f"arn:aws:ec2:{region}:{account_id}:instance/{instance_id}"
    source, title, resources, detail = _parts(kind, arn, instance_id, state, ends_at)
    body: dict[str, Any] = {
        "version": "0",
        "id": event_id,
        "detail-type": title,
        "source": source,
        "account": account_id,
        "time": _time(at),
        "region": region,
        "resources": resources,
        "detail": detail,
    }
    return json.dumps(body)


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _parts(
    kind: str, arn: str, instance_id: str, state: str, ends_at: float
) -> tuple[str, str, list[str], dict[str, Any]]:
    if kind == "spot":
        detail = {"instance-id": instance_id, "instance-action": "terminate"}
        return "aws.ec2", "EC2 Spot Instance Interruption Warning", [arn], detail
    if kind == "reservation":
        detail = {
            "instance-id": instance_id,
            "instance-action": "terminate",
            "instance-termination-time": _time(ends_at),
        }
        return "aws.ec2", "EC2 Capacity Reservation Instance Interruption Warning", [arn], detail
    if kind == "rebalance":
        return "aws.ec2", "EC2 Instance Rebalance Recommendation", [arn], {"instance-id": instance_id}
    if kind == "state-change":
        detail = {"instance-id": instance_id, "state": state}
        return "aws.ec2", "EC2 Instance State-change Notification", [arn], detail
    health = {
        "service": "EC2",
        "eventTypeCode": "AWS_EC2_INSTANCE_RETIREMENT_SCHEDULED",
        "eventTypeCategory": "scheduledChange",
        "affectedEntities": [{"entityValue": instance_id}],
    }
    return "aws.health", "AWS Health Event", [instance_id], health

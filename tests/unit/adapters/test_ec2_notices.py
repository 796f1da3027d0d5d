"""Bodies of EventBridge messages as notices: every kind that matters, and none that can stop us."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeyard.adapters.ec2.notices import notice_of
from nodeyard.disruption.interruption import NoticeKind
from nodeyard.local.account import events

SAID_AT = 1_700_000_000.0
SENT_AT = 1_700_000_002.5


def body(kind: str, state: str = "", ends_at: float = 0.0) -> str:
    return events.message(
        kind, event_id="e-1", account_id="123456789012", region="eu-west-1", at=SAID_AT, instance_id="i-1",
        state=state, ends_at=ends_at,
    )  # fmt: skip


def health(**detail: Any) -> str:
    return json.dumps({"source": "aws.health", "detail-type": "AWS Health Event", "detail": detail})


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (body("spot"), NoticeKind.SPOT),
        (body("reservation"), NoticeKind.RESERVATION),
        (body("rebalance"), NoticeKind.REBALANCE),
        (body("scheduled-change"), NoticeKind.SCHEDULED_CHANGE),
        (body("state-change", "stopping"), NoticeKind.STOPPED),
        (body("state-change", "stopped"), NoticeKind.STOPPED),
        (body("state-change", "shutting-down"), NoticeKind.TERMINATED),
        (body("state-change", "terminated"), NoticeKind.TERMINATED),
    ],
)
def test_a_notice_names_its_instance_and_when_it_was_said(text: str, kind: NoticeKind) -> None:
    notice = notice_of(text, SENT_AT)
    assert (notice.kind, notice.instances, notice.at) == (kind, ("i-1",), SAID_AT)


def test_a_reservation_s_notice_says_when_its_instance_ends() -> None:
    assert notice_of(body("reservation", ends_at=SAID_AT + 600), SENT_AT).ends_at == SAID_AT + 600
    assert notice_of(body("spot"), SENT_AT).ends_at == 0.0


@pytest.mark.parametrize(
    "text",
    [
        body("state-change", "pending"),
        body("state-change", "running"),
        json.dumps({"source": "aws.ec2", "detail-type": "EBS Volume Notification", "detail": {"result": 1}}),
        health(service="EC2", eventTypeCategory="accountNotification", affectedEntities=[]),
        health(service="RDS", eventTypeCategory="scheduledChange", affectedEntities=[{"entityValue": "i-1"}]),
    ],
)
def test_what_concerns_no_node_is_no_news(text: str) -> None:
    assert notice_of(text, SENT_AT).kind is NoticeKind.NO_OP


def test_a_scheduled_change_names_all_its_instances_and_only_these() -> None:
    entities = [{"entityValue": "i-1"}, {"entityValue": "vol-1"}, {"entityValue": "i-2"}]
    notice = notice_of(
        health(service="EC2", eventTypeCategory="scheduledChange", affectedEntities=entities), SENT_AT
    )
    assert notice.instances == ("i-1", "i-2")
    assert notice.at == SENT_AT, "without a time of its own, when it was sent"


def without_instance() -> str:
    event = json.loads(body("spot"))
    del event["detail"]["instance-id"]
    return json.dumps(event)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "truncated"),
        ("not json", "JSON is malformed"),
        ("[]", "Expected `object`"),
        ('{"source": "aws.ec2"}', "detail-type"),
        ('{"source": "aws.ec2", "detail-type": 7}', "detail-type"),
        (without_instance(), "no instance id"),
        (body("spot").replace("2023-11-14T", "yesterday "), "yesterday"),
        (body("spot").replace('{"instance-id": "i-1", "instance-action": "terminate"}', '"i-1"'), "Expected `object`"),
    ],
)  # fmt: skip
def test_a_body_that_cannot_be_read_says_why(text: str, says: str) -> None:
    notice = notice_of(text, SENT_AT)
    assert notice.kind is NoticeKind.MALFORMED
    assert says in notice.problem


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
fields = st.fixed_dictionaries(
    {"source": st.sampled_from(["aws.ec2", "aws.health"]) | values},
    optional={
        "detail-type": st.sampled_from(
            ["EC2 Spot Instance Interruption Warning", "EC2 Instance State-change Notification", "AWS Health Event"]
        ),
        "detail": st.fixed_dictionaries(
            {}, optional={"instance-id": values, "state": values, "service": st.just("EC2"),
                          "eventTypeCategory": st.just("scheduledChange"), "affectedEntities": values}
        ) | values,
        "time": st.text() | values,
    },
)  # fmt: skip


@given(st.text() | fields.map(json.dumps) | values.map(json.dumps))
def test_no_body_raises_or_names_what_is_no_instance(text: str) -> None:
    notice = notice_of(text, SENT_AT)
    assert all(instance.startswith("i-") for instance in notice.instances)
    assert (notice.kind is NoticeKind.MALFORMED) == bool(notice.problem)

"""EC2's notices through a real SQS client: each kind arrives, is deleted once, and comes again if it is not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nodeyard.adapters.ec2.interruption_queue import AT_ONCE, InterruptionQueue
from nodeyard.adapters.ec2.session import Ec2Session
from nodeyard.cloudprovider.errors import CloudError, NotFound
from nodeyard.disruption.interruption import Message, NoticeKind
from nodeyard.local.account.server import AccountServer
from tests.support.account import AwsClients, DialBoard, account, dials, reach

__all__ = ["account", "dials"]

NAME = "nodeyard"


@pytest.fixture
def aws(account: AccountServer) -> AwsClients:
    return AwsClients(account.url)


@pytest.fixture
def session(account: AccountServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ec2Session]:
    reach(account, monkeypatch)
    session = Ec2Session(threads=2, attempts=1)
    yield session
    session.close()


@pytest.fixture
async def queue(session: Ec2Session, aws: AwsClients) -> InterruptionQueue:
    """Empty, with what instances of other tests did."""
    sqs, url = aws.of("sqs"), url_of(aws)
    while found := sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=0).get(
        "Messages"
    ):
        entries = [{"Id": str(i), "ReceiptHandle": m["ReceiptHandle"]} for i, m in enumerate(found)]
        sqs.delete_message_batch(QueueUrl=url, Entries=entries)
    return InterruptionQueue(session, NAME)


def url_of(aws: AwsClients) -> str:
    return str(aws.of("sqs").get_queue_url(QueueName=NAME)["QueueUrl"])


def launched(aws: AwsClients) -> str:
    """An instance; its own start is told too."""
    image = aws.ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    answer = aws.ec2.run_instances(ImageId=image, InstanceType="m5.large", MinCount=1, MaxCount=1)
    return str(answer["Instances"][0]["InstanceId"])


async def drained(queue: InterruptionQueue) -> list[Message]:
    """Everything in the queue, deleted as it is read."""
    found = await queue.receive()
    assert await queue.delete([m.handle for m in found]) == len(found)
    return found


def put(aws: AwsClients, body: str) -> None:
    aws.of("sqs").send_message(QueueUrl=url_of(aws), MessageBody=body)


@pytest.mark.parametrize(
    ("dial", "kind"),
    [
        ("spot", NoticeKind.SPOT),
        ("reservation", NoticeKind.RESERVATION),
        ("rebalance", NoticeKind.REBALANCE),
        ("scheduled-change", NoticeKind.SCHEDULED_CHANGE),
    ],
)
async def test_each_notice_arrives_with_its_instance_and_its_time(
    queue: InterruptionQueue, aws: AwsClients, dials: DialBoard, dial: str, kind: NoticeKind
) -> None:
    instance = launched(aws)
    await drained(queue)
    dials.post("interrupt", instance_id=instance, kind=dial, delay_seconds=600)
    (message,) = await drained(queue)
    assert (message.notice.kind, message.notice.instances) == (kind, (instance,))
    assert abs(message.sent_at - message.notice.at) < 2.0


async def test_an_instance_that_ends_tells_its_way_to_the_end(
    queue: InterruptionQueue, aws: AwsClients
) -> None:
    instance = launched(aws)
    await drained(queue)
    aws.ec2.terminate_instances(InstanceIds=[instance])
    kinds: list[NoticeKind] = []
    while len(kinds) < 2:
        found = await drained(queue)
        assert found, kinds
        kinds += [m.notice.kind for m in found if m.notice.instances == (instance,)]
    assert kinds == [NoticeKind.TERMINATED, NoticeKind.TERMINATED]


async def test_a_message_that_is_not_deleted_is_delivered_again_under_the_same_id(
    queue: InterruptionQueue, aws: AwsClients
) -> None:
    put(aws, "{}")
    (first,) = await queue.receive()
    visible = {"QueueUrl": url_of(aws), "ReceiptHandle": first.handle, "VisibilityTimeout": 0}
    aws.of("sqs").change_message_visibility(**visible)
    (second,) = await drained(queue)
    assert second.id == first.id


async def test_what_cannot_be_read_arrives_as_such_among_the_others(
    queue: InterruptionQueue, aws: AwsClients, dials: DialBoard
) -> None:
    instance = launched(aws)
    await drained(queue)
    put(aws, "no event at all")
    dials.post("interrupt", instance_id=instance, delay_seconds=600)
    kinds = {m.notice.kind for _ in range(2) for m in await drained(queue)}
    assert kinds == {NoticeKind.MALFORMED, NoticeKind.SPOT}


async def test_no_more_than_ten_come_at_once_and_all_are_deleted_in_one_call(
    queue: InterruptionQueue, aws: AwsClients, dials: DialBoard
) -> None:
    for _ in range(AT_ONCE + 2):
        put(aws, "{}")
    assert len(await drained(queue)) == AT_ONCE
    assert len(await drained(queue)) == 2
    calls = dials.get("calls", action="DeleteMessageBatch")["calls"]
    assert {call["status"] for call in calls} == {200}


async def test_a_queue_may_be_given_by_its_url(
    session: Ec2Session, aws: AwsClients, queue: InterruptionQueue
) -> None:
    put(aws, "{}")
    assert len(await drained(InterruptionQueue(session, url_of(aws)))) == 1


async def test_a_queue_that_does_not_exist_is_named_and_looked_for_again(
    session: Ec2Session, aws: AwsClients
) -> None:
    queue = InterruptionQueue(session, "later")
    with pytest.raises(NotFound, match="no queue 'later'"):
        await queue.receive()
    aws.of("sqs").create_queue(QueueName="later", Attributes={"ReceiveMessageWaitTimeSeconds": "0"})
    aws.of("sqs").send_message(
        QueueUrl=aws.of("sqs").get_queue_url(QueueName="later")["QueueUrl"], MessageBody="{}"
    )
    assert len(await queue.receive()) == 1


async def test_what_aws_refuses_is_our_error(
    queue: InterruptionQueue, aws: AwsClients, dials: DialBoard
) -> None:
    put(aws, "{}")
    dials.post("faults", kind="fail", service="sqs", action="ReceiveMessage", code="AccessDenied", status=403)
    with pytest.raises(CloudError, match="AccessDenied"):
        await queue.receive()
    assert len(await drained(queue)) == 1

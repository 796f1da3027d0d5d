"""The SQS queue that EventBridge puts EC2's notices into: fetched by long polls, deleted once they are handled.

A message that is not deleted comes back after its visibility timeout, to any replica. Neighbours: `notices` (what a
body says), the reallocator (what follows).
Source: Amazon SQS API reference, ReceiveMessage, DeleteMessageBatch; Karpenter documentation, "Interruption".
"""

from collections.abc import Sequence
from typing import Any, Final

from nodeyard.adapters.ec2.notices import notice_of
from nodeyard.adapters.ec2.session import Ec2Session
from nodeyard.cloudprovider.errors import NotFound
from nodeyard.disruption.interruption import Message
from nodeyard.runtime.logging import get_logger

AT_ONCE: Final = 10
"""SQS gives and deletes no more in one call."""
VISIBILITY_S: Final = 20
POLL_S: Final = 5
"""SQS would wait for 20 s; a process that ends waits for its last poll."""

log = get_logger("nodeyard.adapters.ec2.interruption_queue")


class InterruptionQueue:
    """`queue` is its name, or its URL. Every method raises CloudError."""

    def __init__(self, session: Ec2Session, queue: str) -> None:
        self._session = session
        self._queue = queue
        self._url = queue if "://" in queue else ""

    async def receive(self) -> list[Message]:
        """Up to ten messages; none after five seconds without any."""
        answer = await self._session.call(
            "sqs", "receive_message", QueueUrl=await self._address(), MaxNumberOfMessages=AT_ONCE,
            WaitTimeSeconds=POLL_S, VisibilityTimeout=VISIBILITY_S, MessageSystemAttributeNames=["SentTimestamp"],
        )  # fmt: skip
        return [_message(raw) for raw in answer.get("Messages", ())]

    async def delete(self, handles: Sequence[str]) -> int:
        """Deletes messages, ten at most; how many were. What stays is delivered again."""
        if not handles:
            return 0
        entries = [{"Id": str(i), "ReceiptHandle": handle} for i, handle in enumerate(handles)]
        answer = await self._session.call(
            "sqs", "delete_message_batch", QueueUrl=await self._address(), Entries=entries
        )
        for failed in answer.get("Failed", ()):
            log.warning(
                "interruption message can't be deleted and comes again",
                code=failed.get("Code", ""), message=failed.get("Message", ""),
            )  # fmt: skip
        return len(answer.get("Successful", ()))

    async def _address(self) -> str:
        if not self._url:
            try:
                answer = await self._session.call("sqs", "get_queue_url", QueueName=self._queue)
            except NotFound as error:
                raise NotFound(
                    f"there is no queue {self._queue!r} in {self._session.region}",
                    code=error.code, operation=error.operation,
                ) from error  # fmt: skip
            self._url = str(answer["QueueUrl"])
        return self._url


def _message(raw: dict[str, Any]) -> Message:
    sent = str(raw.get("Attributes", {}).get("SentTimestamp", ""))
    sent_at = int(sent) / 1000.0 if sent.isdigit() else 0.0
    return Message(raw["MessageId"], raw["ReceiptHandle"], notice_of(raw.get("Body", ""), sent_at), sent_at)

"""The queue that EC2's events about instances go to.

moto's SendMessage looks at every message already there (300 launches took 1.3 s), so messages are put into its queue
directly; readers use the SQS API as ever. What nobody fetched for five minutes is dropped, as the queue's retention
says, so that a stand without a reader does not grow.
"""

from __future__ import annotations

import uuid
from typing import Any

from moto.sqs.models import Message

RETENTION_SECONDS = 300
_LOOK_EVERY = 256


class Mailbox:
    """The writing end of one SQS queue of moto's."""

    def __init__(self, sqs: Any, name: str) -> None:
        sqs.create_queue(
            name, message_retention_period=RETENTION_SECONDS, receive_message_wait_time_seconds=0
        )
        self._queue = sqs.get_queue(name)
        self._posted = 0

    def post(self, body: str, now: float) -> None:
        """Put a message in; `now` in epoch seconds."""
        message = Message(str(uuid.uuid4()), body)
        message.mark_sent()
        self._queue.add_message(message)
        self._posted += 1
        if self._posted % _LOOK_EVERY == 0:
            self._drop_before((now - RETENTION_SECONDS) * 1000)

    def _drop_before(self, milliseconds: float) -> None:
        with self._queue._messages_lock:
            kept = [m for m in self._queue._messages if (m.sent_timestamp or 0) >= milliseconds]
            self._queue._messages[:] = kept

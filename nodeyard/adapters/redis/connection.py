"""How we connect to Redis, and the one error that its failures become.

Short timeouts, since everything asked of Redis has a lease's deadline behind it; one immediate retry, which covers a
connection that the server closed while it was idle.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import redis.exceptions
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from nodeyard.runtime.leadership import StoreUnavailableError
from nodeyard.runtime.settings import without_password

TIMEOUT_S = 1.0


class RedisUnavailableError(StoreUnavailableError):
    """Redis can't be reached or refused; the message says what it said."""


def connect(url: str) -> Redis:
    """A client with a pool of connections; nothing is sent yet, so an absent Redis is no error here.

    Raises ValueError for a URL that Redis clients don't understand (without its password in the message).
    """
    try:
        client: Redis = Redis.from_url(
            url,
            socket_connect_timeout=TIMEOUT_S,
            socket_timeout=TIMEOUT_S,
            socket_keepalive=True,
            retry=Retry(NoBackoff(), 1),
            client_name="nodeyard",
        )
    except ValueError as error:
        raise ValueError(f"{without_password(url)}: {error}") from None
    return client


def key_prefix(cluster_name: str) -> str:
    """What every key of this cluster starts with."""
    return f"nodeyard:{cluster_name}:"


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turns every failure of Redis inside it into RedisUnavailableError, the cause kept.

    A task that was cancelled inside it is cancelled afterwards, too: the Redis client sends through
    `asyncio.wait_for`, which before Python 3.12 loses a cancellation that comes just as sending ends, and a loop that
    lost its cancellation would go on for ever.
    """
    asked_before = _cancellations()
    try:
        yield
    except (redis.exceptions.RedisError, OSError, TimeoutError) as error:
        if _cancellations() > asked_before:
            raise asyncio.CancelledError from error
        raise RedisUnavailableError(f"{doing}: {error or type(error).__name__}") from error
    if _cancellations() > asked_before:
        raise asyncio.CancelledError


def _cancellations() -> int:
    """How often the current task was asked to end."""
    task = asyncio.current_task()
    return task.cancelling() if task is not None else 0

"""Unary calls to a service that runs as several replicas: the first address that answers serves.

Owns one channel per address, made on first use. A replica that is away costs one failed attempt; the order is kept,
so that callers stay with one replica while it is there.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import grpc
import grpc.aio

RETRY_ELSEWHERE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.FAILED_PRECONDITION)
"""The replica is away, or is not ready to answer: another may be."""
MAX_MESSAGE_BYTES = 256 * 1024 * 1024
CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
)


class ServiceError(Exception):
    """The service answered with an error, or nobody answered. `code` is gRPC's, `message` for people."""

    def __init__(self, service: str, code: grpc.StatusCode, message: str) -> None:
        super().__init__(f"{service}: {message}")
        self.service, self.code, self.message = service, code, message


class _Method(Protocol):
    def __call__(self, request: Any, *, timeout: float) -> Any: ...


class Replicas:
    """Calls methods of one service at the first of its addresses that answers."""

    def __init__(
        self, service: str, addresses: Sequence[str], stub: Callable[[grpc.aio.Channel], Any]
    ) -> None:
        self._service, self._addresses, self._stub = service, tuple(addresses), stub
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def call(self, method: str, request: Any, timeout_s: float) -> Any:
        """The answer. Raises ServiceError; DEADLINE_EXCEEDED is not tried elsewhere."""
        refusal = ServiceError(self._service, grpc.StatusCode.UNAVAILABLE, "no address is configured")
        for address in self._addresses:
            bound: _Method = getattr(self._stub(self._channel(address)), method)
            try:
                return await bound(request, timeout=timeout_s)
            except grpc.aio.AioRpcError as error:
                refusal = ServiceError(self._service, error.code(), f"{error.details()} ({address})")
                if error.code() not in RETRY_ELSEWHERE:
                    break
        raise refusal

    def _channel(self, address: str) -> grpc.aio.Channel:
        if address not in self._channels:
            self._channels[address] = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
        return self._channels[address]

    async def close(self) -> None:
        for channel in self._channels.values():
            await channel.close(None)

"""The gRPC server of a service: one place for its options.

Messages may be large (a snapshot part, a catalogue), connections are kept alive, and an old replica's port may be
reused at once. Servicers are registered by the service itself.
"""

from collections.abc import Callable
from typing import Final

import grpc.aio

from nodeyard.runtime.http import ListenError

MESSAGE_BYTES: Final = 64 * 2**20
OPTIONS: Final = (
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.so_reuseport", 0),
)
"""Fit for servers and channels alike."""


async def serve(register: Callable[[grpc.aio.Server], None], listen: str) -> tuple[grpc.aio.Server, int]:
    """Starts a server at `listen` ("host:port", port 0 for a free one); returns it and the port taken.

    Raises ListenError.
    """
    server = grpc.aio.server(options=OPTIONS)
    register(server)
    try:
        port = server.add_insecure_port(listen)
    except RuntimeError as error:
        raise ListenError(f"can't listen for gRPC at {listen}: {error}") from error
    if port == 0:
        raise ListenError(f"can't listen for gRPC at {listen}")
    await server.start()
    return server, port

"""Free ports on loopback.

A port is asked of the kernel and given back before the process that is to use it starts, so that somebody
else may take it in between: whoever starts a process checks that it is this process that answers there, and
tries again with other ports where it is not.
"""

from __future__ import annotations

import contextlib
import socket

LOOPBACK = "127.0.0.1"


def free_ports(count: int) -> list[int]:
    """`count` different TCP ports that nobody listens on at 127.0.0.1."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((LOOPBACK, 0))
        return [int(each.getsockname()[1]) for each in sockets]


def free_port() -> int:
    """One TCP port that nobody listens on at 127.0.0.1."""
    return free_ports(1)[0]

"""The HTTP side of every service: health, readiness and metrics, and the service's own app where it has one.

`/healthz` (also `/livez`) answers while the process's event loop turns; `/readyz` answers 503 with the one reason
why the service is not ready; `/metrics` is Prometheus text. Every other path goes to the app, if there is one.
It runs in the service's own event loop, so a loop that hangs is seen as unhealthy.
"""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any

import uvicorn
from prometheus_client import CollectorRegistry

from nodeyard.runtime import metrics
from nodeyard.runtime.settings import split_address

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
"""An ASGI application, e.g. a FastAPI one."""


class ListenError(Exception):
    """An address that can't be listened at; the message says which and why."""


class HttpServer:
    """A server that listens. `host` and `port` are the ones really taken."""

    def __init__(self, server: uvicorn.Server, serving: "asyncio.Task[None]", host: str, port: int) -> None:
        self._server = server
        self._serving = serving
        self.host = host
        self.port = port

    @property
    def address(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    async def stop(self) -> None:
        """Answers what is under way (up to 2 s) and stops."""
        self._server.should_exit = True
        await self._serving


async def serve(
    app: App | None,
    listen: str,
    *,
    ready: Callable[[], str | None],
    registry: CollectorRegistry | None = None,
) -> HttpServer:
    """Starts serving at `listen` ("host:port", port 0 for a free one) and returns once it listens.

    `ready` gives the reason for not being ready, None when ready. Raises ListenError.
    """
    bound = _bind(listen)
    config = uvicorn.Config(
        _Front(app, ready, registry),
        log_config=None,
        access_log=False,
        lifespan="auto" if app is not None else "off",
        timeout_graceful_shutdown=2,
        server_header=False,
        ws="none",
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[bound]), name="http")
    while not server.started:
        if serving.done():
            await serving
            raise ListenError(f"the HTTP server at {listen} ended while starting; its app's start-up failed")
        await asyncio.sleep(0.005)
    host, port = bound.getsockname()[:2]
    return HttpServer(server, serving, host, port)


class _Server(uvicorn.Server):
    """Uvicorn without its signal handlers: the lifecycle owns those."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Front:
    """Answers the runtime's own paths and hands everything else to the app."""

    def __init__(
        self, app: App | None, ready: Callable[[], str | None], registry: CollectorRegistry | None
    ) -> None:
        self._app = app
        self._ready = ready
        self._registry = registry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self._own(scope["path"]) if scope["type"] == "http" else None
        if answer is not None:
            await reply(send, *answer)
        elif self._app is not None:
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await reply(send, 404, b"not found\n")

    def _own(self, path: str) -> tuple[int, bytes, str] | tuple[int, bytes] | None:
        if path in ("/healthz", "/livez"):
            return 200, b"ok\n"
        if path == "/readyz":
            reason = self._ready()
            return (200, b"ok\n") if reason is None else (503, f"not ready: {reason}\n".encode())
        if path == "/metrics" and self._registry is not None:
            return 200, metrics.render(self._registry), metrics.CONTENT_TYPE
        return None


async def reply(
    send: Send, status: int, body: bytes, content_type: str = "text/plain; charset=utf-8"
) -> None:
    """Answers with a whole body."""
    headers = [(b"content-type", content_type.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _bind(listen: str) -> socket.socket:
    try:
        host, port = split_address(listen)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.listen(128)
        bound.setblocking(False)
    except (OSError, ValueError) as error:
        raise ListenError(f"can't listen for HTTP at {listen}: {error}") from error
    return bound

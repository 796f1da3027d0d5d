"""The machines' way to the API server: a pool of connections, JSON in and out, and a reflector.

Credentials come from a kubeconfig, read by the kubernetes client; requests go through aiohttp and msgspec, so that
800 pods' statuses are written in a second or two. A reflector lists in pages, watches with bookmarks, lists anew after
410 or a broken connection and backs off with jitter. Neighbour: `yard`.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import aiohttp
import msgspec
import structlog
from kubernetes.aio import client, config

log = structlog.get_logger(__name__)

T = TypeVar("T")
MERGE, STRATEGIC = "application/merge-patch+json", "application/strategic-merge-patch+json"
_PAGE = 500
_WATCH_SECONDS = 290
_LONGEST_PAUSE = 5.0
_CONNECTIONS = 32
_WRITES_AT_ONCE = 8
_RETRY_SECONDS = 0.5
#: What a lost or refused connection raises.
UNREACHABLE = (aiohttp.ClientError, OSError, asyncio.TimeoutError)


class _Meta(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    next_page: str = msgspec.field(default="", name="continue")


class _Page(msgspec.Struct, Generic[T]):
    items: list[T]
    metadata: _Meta = msgspec.field(default_factory=_Meta)


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Bookmark(msgspec.Struct):
    metadata: _Meta = msgspec.field(default_factory=_Meta)


class ExpiredError(Exception):
    """The version to watch from is too old, or the watch broke: list anew."""


class Kube:
    """A connection to one API server. Use within a running event loop; `close` it."""

    def __init__(self, session: aiohttp.ClientSession, host: str) -> None:
        self._session = session
        self._host = host.rstrip("/")

    @classmethod
    async def from_kubeconfig(cls, path: Path) -> Kube:
        """Connect as the kubeconfig says. Raises what the kubernetes client raises for a bad file."""
        found = client.Configuration()
        await config.load_kube_config(  # type: ignore[no-untyped-call]
            config_file=str(path), client_configuration=found, persist_config=False
        )
        context = ssl.create_default_context(cafile=found.ssl_ca_cert)
        if found.cert_file:
            context.load_cert_chain(found.cert_file, found.key_file)
        if not found.verify_ssl:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        token = await found.get_api_key_with_prefix("BearerToken", "authorization")
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=_CONNECTIONS + 4, ssl=context, keepalive_timeout=60),
            headers={"Authorization": token} if token else {},
            timeout=aiohttp.ClientTimeout(total=30, sock_connect=5),
        )
        return cls(session, str(found.host))

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def request(
        self, method: str, path: str, body: Any = None, content_type: str = "application/json"
    ) -> tuple[int, bytes]:
        """(status, body) of one request. Raises one of UNREACHABLE."""
        data = None if body is None else msgspec.json.encode(body)
        headers = {"Content-Type": content_type} if data is not None else None
        async with self._session.request(method, self._host + path, data=data, headers=headers) as response:
            return response.status, await response.read()

    async def get(self, path: str, kind: type[T]) -> T | None:
        """The object, or None when there is none. Raises one of UNREACHABLE, also for an error answer."""
        status, body = await self.request("GET", path)
        if status == 404:
            return None
        if status != 200:
            raise aiohttp.ClientError(f"GET {path}: {status} {body[:200]!r}")
        return msgspec.json.decode(body, type=kind)

    async def everything(self, path: str, kind: type[T], query: str = "") -> tuple[list[T], str]:
        """(all objects, the version to watch from), read in pages."""
        items: list[T] = []
        following = ""
        while True:
            more = f"&continue={following}" if following else ""
            page = await self.get(f"{path}?limit={_PAGE}{query}{more}", _Page[kind])  # type: ignore[valid-type]
            if page is None:
                raise aiohttp.ClientError(f"LIST {path}: there is no such resource")
            items.extend(page.items)
            following = page.metadata.next_page
            if not following:
                return items, page.metadata.resource_version

    async def follow(
        self,
        path: str,
        kind: type[T],
        query: str,
        on_list: Callable[[list[T]], None],
        on_event: Callable[[str, T], None],
    ) -> None:
        """Call `on_list` with everything, then `on_event` (ADDED, MODIFIED, DELETED) for each change; never returns."""
        pause = 0.1
        while True:
            try:
                items, version = await self.everything(path, kind, query)
                on_list(items)
                pause = 0.1
                while True:
                    version = await self._watch(path, kind, query, version, on_event)
            except ExpiredError:
                continue
            except UNREACHABLE as error:
                log.info("the machines cannot follow the cluster; trying again", path=path, error=str(error))
            except Exception:  # the loop guard: one odd object must not blind the machines
                log.exception("the machines lost the thread of the cluster; listing anew", path=path)
            await asyncio.sleep(pause * (0.5 + random.random()))
            pause = min(_LONGEST_PAUSE, pause * 2)

    async def _watch(
        self, path: str, kind: type[T], query: str, version: str, on_event: Callable[[str, T], None]
    ) -> str:
        """Watch until the server ends it; the version reached. Raises ExpiredError or one of UNREACHABLE."""
        url = f"{self._host}{path}?watch=1&allowWatchBookmarks=true&timeoutSeconds={_WATCH_SECONDS}{query}"
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=_WATCH_SECONDS + 30)
        async with self._session.get(f"{url}&resourceVersion={version}", timeout=timeout) as response:
            if response.status == 410:
                raise ExpiredError
            if response.status != 200:
                raise aiohttp.ClientError(f"WATCH {path}: {response.status}")
            rest = b""
            async for chunk in response.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    if line:
                        version = _take(line, kind, on_event) or version
        return version


class Patient:
    """Requests that are repeated until the API server answers with something that is not its own trouble."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self._writes = asyncio.Semaphore(_WRITES_AT_ONCE)

    async def write(
        self, method: str, path: str, body: Any, content_type: str = "application/json"
    ) -> tuple[int, bytes]:
        """(status, body) of one write."""

        async def once() -> tuple[int, bytes] | None:
            async with self._writes:
                status, answer = await self._kube.request(method, path, body, content_type)
            return None if status == 429 or status >= 500 else (status, answer)

        return await _until_answered(once)

    async def read(self, path: str, kind: type[T]) -> T | None:
        """The object, or None when there is none."""

        async def once() -> tuple[T | None]:
            return (await self._kube.get(path, kind),)

        return (await _until_answered(once))[0]

    async def everything(self, path: str, kind: type[T], query: str) -> list[T]:
        """All objects of a list."""

        async def once() -> list[T]:
            return (await self._kube.everything(path, kind, query))[0]

        return await _until_answered(once)


async def _until_answered(once: Callable[[], Awaitable[T | None]]) -> T:
    """What `once` gives, trying again while it gives None or cannot reach the API server."""
    while True:
        try:
            found = await once()
            if found is not None:
                return found
        except UNREACHABLE as error:
            log.debug("the API server cannot be reached; trying again", error=str(error))
        await asyncio.sleep(_RETRY_SECONDS)


_EVENTS = msgspec.json.Decoder(_Event)


def _take(line: bytes, kind: type[T], on_event: Callable[[str, T], None]) -> str:
    """Hand one watch event on; its version. Raises ExpiredError for an error event."""
    event = _EVENTS.decode(line)
    if event.type == "ERROR":
        raise ExpiredError
    version = msgspec.json.decode(event.object, type=_Bookmark).metadata.resource_version
    if event.type != "BOOKMARK":
        on_event(event.type, msgspec.json.decode(event.object, type=kind))
    return version

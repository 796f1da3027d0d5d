"""One connection pool to the API server: bytes in, bytes out, errors translated.

`kubernetes.aio` reads the kubeconfig or the pod's service account and sets up TLS; requests go through aiohttp
directly, because decoding into generated models is what makes that client slow. Callers decode what they need with
msgspec. Credentials are read again when the server says that they expired. Writes are never repeated here: whoever
asked knows whether that is safe.
"""

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import msgspec
from kubernetes.aio import config
from kubernetes.aio.client import Configuration
from kubernetes.aio.client.rest import RESTClientObject

from nodeyard.adapters.kubernetes.errors import (
    BadConfiguration,
    KubernetesError,
    Unauthorized,
    Unavailable,
    error_of,
)

MERGE_PATCH: Final = "application/merge-patch+json"
JSON_PATCH: Final = "application/json-patch+json"
APPLY_PATCH: Final = "application/apply-patch+yaml"
_TIMEOUT_S: Final = 30.0
_LIST_TIMEOUT_S: Final = 120.0
# The API server sends a bookmark about once a minute; a watch that is silent for longer is dead.
_SILENCE_S: Final = 100.0
_CONNECTIONS: Final = 100
_MOST_BYTES: Final = 64 * 2**20

Load = Callable[[], Awaitable[Configuration]]


class Page(msgspec.Struct):
    """One page of a list. `items` are undecoded."""

    class Meta(msgspec.Struct, rename="camel"):
        resource_version: str = ""
        continue_: str = msgspec.field(default="", name="continue")
        remaining_item_count: int | None = None

    items: list[msgspec.Raw] | None = None
    metadata: Meta = msgspec.field(default_factory=Meta)


class WatchEvent(msgspec.Struct):
    """One line of a watch. `type`: ADDED, MODIFIED, DELETED, BOOKMARK or ERROR; `object` undecoded."""

    type: str
    object: msgspec.Raw


# The package says it is typed, but its loaders are not.
_kube_config: Final[Any] = config
_page: Final = msgspec.json.Decoder(Page)
_event: Final = msgspec.json.Decoder(WatchEvent)
_encoder: Final = msgspec.json.Encoder()


class KubernetesClient:
    """Requests to one API server as one user. Make it with `connect`, in the loop that uses it; close it after."""

    def __init__(self, configuration: Configuration, load: Load, agent: str) -> None:
        self._load = load
        self._agent = agent
        self._reload = asyncio.Lock()
        self._use(configuration)

    @classmethod
    async def connect(cls, kubeconfig: str | None, *, agent: str = "nodeyard") -> "KubernetesClient":
        """A client for the cluster of `kubeconfig` (a path), or of the pod we run in where that is None or empty.

        `agent` is the name the server knows our writes by. Makes no request. Raises BadConfiguration.
        """
        load = _from_file(kubeconfig) if kubeconfig else _from_pod
        return cls(await load(), load, agent)

    def _use(self, configuration: Configuration) -> None:
        tls = RESTClientObject(configuration).ssl_context
        self._configuration = configuration
        self._base = str(configuration.host).rstrip("/")
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=_CONNECTIONS, ssl=tls, socket_factory=_lively_socket),
            # A proxy named in the environment is for the world outside, not for a server on this machine.
            trust_env=not _is_loopback(self._base),
            proxy=configuration.proxy or None,
            headers={"User-Agent": self._agent, "Accept": "application/json", "Accept-Encoding": "identity"},
            read_bufsize=2**20,
            auto_decompress=True,
        )

    @property
    def server(self) -> str:
        """The API server's URL."""
        return self._base

    async def close(self) -> None:
        """Closes the connections."""
        await self._session.close()

    # --- reading ----------------------------------------------------------------------------------------------------
    async def get(self, path: str, **query: str) -> bytes:
        """The object or list at `path`. Raises KubernetesError."""
        return await self.request("GET", path, query=query)

    async def answers(self) -> bool:
        """Whether the API server says anything at all; a refusal is an answer too."""
        try:
            await self.request("GET", "/version", timeout_s=5.0)
        except Unavailable:
            return False
        except KubernetesError:
            return True
        return True

    async def list_pages(self, path: str, limit: int = 1000) -> AsyncGenerator[Page, None]:
        """Pages of a consistent list, in order; `limit` 0 asks for everything at once. Raises KubernetesError; Gone
        when the list took so long that its continuation expired.
        """
        token = ""
        while True:
            query = {"limit": str(limit)} if limit else {}
            if token:
                query["continue"] = token
            body = await self.request("GET", path, query=query, timeout_s=_LIST_TIMEOUT_S)
            try:
                page = _page.decode(body)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise Unavailable(
                    0, "Garbage", f"the list can't be read: {error}", where=f"GET {path}"
                ) from error
            yield page
            token = page.metadata.continue_
            if not token:
                return

    async def watch(
        self, path: str, resource_version: str, timeout_s: float
    ) -> AsyncGenerator[list[WatchEvent], None]:
        """Events after `resource_version` in the order they happened, as many at a time as arrived together, with
        bookmarks; an empty batch as soon as the watch stands. Ends after `timeout_s` or when the server closes.
        Raises KubernetesError; Gone means list again.
        """
        query = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(max(1, int(timeout_s))),
        }
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=_SILENCE_S)
        where = f"WATCH {path}"
        try:
            async with await self._send("GET", path, query, None, {}, timeout) as response:
                if response.status >= 400:
                    after = response.headers.get("Retry-After", "")
                    raise error_of(response.status, await response.read(), where=where, retry_after=after)
                yield []
                async for lines in _lines(response.content, where):
                    yield [_read_event(line, where) for line in lines]
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _unreachable(error, where) from error

    # --- writing ----------------------------------------------------------------------------------------------------
    async def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content_type: str = "application/json",
        query: Mapping[str, str] = {},
        timeout_s: float = _TIMEOUT_S,
    ) -> bytes:
        """Sends one request; returns the answer's body. `body` is encoded as JSON. Raises KubernetesError."""
        where = f"{method} {path}"
        data = None if body is None else _encoder.encode(body)
        headers = {} if body is None else {"Content-Type": content_type}
        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=10.0)
        try:
            async with await self._send(method, path, query, data, headers, timeout) as response:
                answer = await response.read()
                if response.status >= 400:
                    after = response.headers.get("Retry-After", "")
                    raise error_of(response.status, answer, where=where, retry_after=after)
                return answer
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _unreachable(error, where) from error

    async def create(self, path: str, body: Any) -> bytes:
        """Creates an object in the collection (or subresource) at `path`. Raises AlreadyExists and others."""
        return await self.request("POST", path, body)

    async def replace(self, path: str, body: Any, *, subresource: str = "") -> bytes:
        """Writes the whole object; its metadata.resourceVersion is the precondition. Raises Conflict and others."""
        return await self.request("PUT", _sub(path, subresource), body)

    async def merge_patch(self, path: str, body: Any, *, subresource: str = "") -> bytes:
        """Merges `body` in; a metadata.resourceVersion or uid in it is a precondition. Raises Conflict and others."""
        return await self.request("PATCH", _sub(path, subresource), body, content_type=MERGE_PATCH)

    async def json_patch(self, path: str, ops: Any, *, subresource: str = "") -> bytes:
        """Applies RFC 6902 operations, all or none; a `test` that fails raises Invalid."""
        return await self.request("PATCH", _sub(path, subresource), ops, content_type=JSON_PATCH)

    async def apply(self, path: str, body: Any, *, field_manager: str, force: bool = True) -> bytes:
        """Server-side apply: makes the object so in the fields given, creating it if need be."""
        query = {"fieldManager": field_manager, "force": "true" if force else "false"}
        return await self.request("PATCH", path, body, content_type=APPLY_PATCH, query=query)

    async def delete(
        self, path: str, *, uid: str = "", resource_version: str = "", grace_s: int | None = None
    ) -> bytes:
        """Deletes, if the object still has that uid and resourceVersion where given. Raises Conflict, NotFound, ..."""
        options: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions"}
        preconditions = {
            name: value for name, value in (("uid", uid), ("resourceVersion", resource_version)) if value
        }
        if preconditions:
            options["preconditions"] = preconditions
        if grace_s is not None:
            options["gracePeriodSeconds"] = grace_s
        return await self.request("DELETE", path, options)

    # --- sending ----------------------------------------------------------------------------------------------------
    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        data: bytes | None,
        headers: Mapping[str, str],
        timeout: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        """One request, with fresh credentials once if the server no longer knows ours (it did nothing then)."""
        session = self._session
        response = await self._attempt(session, method, path, query, data, headers, timeout)
        if response.status != 401:
            return response
        response.release()
        await self._reconnect(session)
        return await self._attempt(self._session, method, path, query, data, headers, timeout)

    async def _attempt(
        self,
        session: aiohttp.ClientSession,
        method: str,
        path: str,
        query: Mapping[str, str],
        data: bytes | None,
        headers: Mapping[str, str],
        timeout: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        settings: Any = await self._configuration.auth_settings()
        auth = {
            one["key"]: one["value"] for one in settings.values() if one["in"] == "header" and one["value"]
        }
        return await session.request(
            method,
            self._base + path,
            params=dict(query),
            data=data,
            headers={**headers, **auth},
            timeout=timeout,
            server_hostname=self._configuration.tls_server_name,
        )

    async def _reconnect(self, stale: aiohttp.ClientSession) -> None:
        """Reads the credentials again; the old connections end with the requests that use them."""
        async with self._reload:
            if self._session is not stale:
                return
            try:
                configuration = await self._load()
            except BadConfiguration as error:
                raise Unauthorized(401, "Unauthorized", f"credentials are refused, and {error}") from error
            self._use(configuration)
            asyncio.get_running_loop().call_later(_LIST_TIMEOUT_S, _close_later, stale)


_closing: set["asyncio.Task[None]"] = set()


def _close_later(session: aiohttp.ClientSession) -> None:
    task = asyncio.get_running_loop().create_task(session.close())
    _closing.add(task)
    task.add_done_callback(_closing.discard)


def _sub(path: str, subresource: str) -> str:
    return f"{path}/{subresource}" if subresource else path


# --- configuration ----------------------------------------------------------------------------------------------------
async def _from_pod() -> Configuration:
    configuration = Configuration()
    try:
        _kube_config.load_incluster_config(client_configuration=configuration)
    except (config.ConfigException, OSError) as error:
        raise BadConfiguration(
            0, "BadConfiguration", f"no kubeconfig is given and we are not in a pod: {error}"
        ) from error
    return configuration


def _from_file(kubeconfig: str) -> Load:
    async def load() -> Configuration:
        configuration = Configuration()
        try:
            await _kube_config.load_kube_config(
                config_file=kubeconfig, client_configuration=configuration, persist_config=False
            )
        except Exception as error:  # the loader raises anything for a broken file, and all mean the same
            raise BadConfiguration(
                0, "BadConfiguration", f"kubeconfig {kubeconfig} can't be used: {error}"
            ) from error
        return configuration

    return load


# --- the wire -------------------------------------------------------------------------------------------------------
def _lively_socket(address: Any) -> socket.socket:
    """A socket that notices within about a minute that the other end's machine is gone."""
    family, kind, protocol = address[:3]
    made = socket.socket(family, kind, protocol)
    made.setblocking(False)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 20), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return made


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


async def _lines(content: aiohttp.StreamReader, where: str) -> AsyncIterator[list[bytes]]:
    """Complete lines, as many as have arrived."""
    rest = b""
    async for chunk in content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n") if b"\n" in chunk else (rest + chunk,)
        if len(rest) > _MOST_BYTES:
            raise Unavailable(0, "Garbage", "an event of the watch never ends", where=where)
        if lines:
            yield [line for line in lines if line.strip()]


def _read_event(line: bytes, where: str) -> WatchEvent:
    try:
        event = _event.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Unavailable(0, "Garbage", f"an event can't be read: {error}", where=where) from error
    if event.type == "ERROR":
        raise error_of(0, bytes(event.object), where=where)
    return event


def _unreachable(error: Exception, where: str) -> KubernetesError:
    what = str(error) or type(error).__name__
    return Unavailable(0, "Unreachable", f"the API server can't be reached: {what}", where=where)

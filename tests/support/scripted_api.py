"""A small API server of our own making: lists in pages, watches with bookmarks, and dials for what goes wrong.

For the contract between a client or reflector and the protocol; what Kubernetes means by its objects is tested on a
real API server.
"""

import asyncio
import json
from collections import Counter, defaultdict
from typing import Any

from aiohttp import web

Json = dict[str, Any]


def status_object(code: int, reason: str, message: str = "", **details: Any) -> Json:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "code": code,
        "reason": reason,
        "message": message or reason,
        "details": details,
    }


class ScriptedApi:
    """Collections by path. `put` and `delete` are the world's doing; the dials say what fails next."""

    def __init__(self) -> None:
        self.version = 100
        self.objects: dict[str, dict[str, Json]] = defaultdict(dict)
        self.requests: Counter[tuple[str, str]] = Counter()
        """(verb, path) -> how often asked; verbs LIST, PAGE (a continuation), WATCH and the HTTP methods."""
        self.bodies: list[tuple[str, str, Any]] = []
        self.headers: list[Any] = []
        self._history: dict[str, list[tuple[int, str, Json]]] = defaultdict(list)
        self._compacted = 0
        self._pages: dict[str, list[Json]] = {}
        self._failures: dict[tuple[str, str], list[web.Response]] = defaultdict(list)
        self._refused: dict[str, web.Response] = {}
        self._lines: dict[str, list[bytes]] = defaultdict(list)
        self._moved = asyncio.Event()
        self._dropped = 0
        self.url = ""

    # --- the world --------------------------------------------------------------------------------------------------
    def put(self, path: str, name: str, **body: Any) -> Json:
        """Creates or changes an object."""
        self.version += 1
        known = self.objects[path].get(name)
        metadata = {"name": name, **body.pop("metadata", {}), "resourceVersion": str(self.version)}
        made = {**body, "metadata": metadata}
        self.objects[path][name] = made
        self._record(path, "MODIFIED" if known else "ADDED", made)
        return made

    def delete(self, path: str, name: str) -> None:
        self.version += 1
        gone = self.objects[path].pop(name)
        gone = {**gone, "metadata": {**gone["metadata"], "resourceVersion": str(self.version)}}
        self._record(path, "DELETED", gone)

    def _record(self, path: str, happened: str, body: Json) -> None:
        self._history[path].append((self.version, happened, body))
        self._wake()

    def _wake(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    # --- the dials --------------------------------------------------------------------------------------------------
    def compact(self) -> None:
        """Forgets all history: new watches from older versions, and continuations, are answered with 410."""
        self.version += 1
        self.forget_before(self.version)

    def forget_before(self, version: int) -> None:
        self._compacted = version
        for history in self._history.values():
            history.clear()
        self._pages.clear()

    def fail(self, verb: str, path: str, status: int, reason: str, times: int = 1, **headers: str) -> None:
        """The next requests of that kind are answered so."""
        body = json.dumps(status_object(status, reason)).encode()
        self._failures[verb, path] += [
            web.Response(status=status, body=body, headers=headers) for _ in range(times)
        ]

    def garble(self, verb: str, path: str) -> None:
        """The next request of that kind is answered with something that is not JSON."""
        self._failures[verb, path].append(web.Response(status=200, body=b'{"items": [{]'))

    def refuse(self, path: str, status: int | None, reason: str = "") -> None:
        """Every list and watch of `path` is refused, until called with None."""
        if status is None:
            self._refused.pop(path, None)
        else:
            body = json.dumps(status_object(status, reason)).encode()
            self._refused[path] = web.Response(status=status, body=body)

    def drop_watches(self) -> None:
        """Cuts every open watch off in the middle."""
        self._dropped += 1
        self._wake()

    def say(self, path: str, line: bytes) -> None:
        """Sends a raw line to whoever watches `path`."""
        self._lines[path].append(line)
        self._wake()

    def bookmark(self, path: str) -> None:
        self.version += 1
        body = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(self.version)}}}
        self.say(path, json.dumps(body).encode())

    # --- serving ----------------------------------------------------------------------------------------------------
    async def __aenter__(self) -> "ScriptedApi":
        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        server: Any = site._server
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.drop_watches()
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path, query = request.path, request.query
        verb = request.method
        if verb == "GET" and query.get("watch"):
            verb = "WATCH"
        elif verb == "GET" and path in self.objects:
            verb = "PAGE" if query.get("continue") else "LIST"
        self.requests[verb, path] += 1
        self.headers.append(dict(request.headers))
        if verb not in ("GET", "LIST", "PAGE", "WATCH"):
            self.bodies.append((verb, request.path_qs, json.loads(await request.read() or b"null")))
        if self._failures[verb, path]:
            return self._failures[verb, path].pop(0)
        if path in self._refused:
            return _copy(self._refused[path])
        if verb == "WATCH":
            return await self._watch(request)
        if verb in ("LIST", "PAGE"):
            return self._list(path, query.get("continue", ""), int(query.get("limit", "0")))
        return web.json_response({"kind": "Echo", "path": request.path_qs})

    def _list(self, path: str, token: str, limit: int) -> web.Response:
        if token and token not in self._pages:
            return web.json_response(status_object(410, "Expired", "continue token is too old"), status=410)
        items = (
            self._pages.pop(token) if token else [self.objects[path][n] for n in sorted(self.objects[path])]
        )
        version = token.split(":")[0] if token else str(self.version)
        metadata: Json = {"resourceVersion": version}
        if limit and len(items) > limit:
            metadata["continue"] = f"{version}:{len(items) - limit}:{path}"
            self._pages[metadata["continue"]] = items[limit:]
            items = items[:limit]
        return web.json_response({"kind": "List", "metadata": metadata, "items": items})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        path, since = request.path, int(request.query["resourceVersion"])
        response = web.StreamResponse()
        await response.prepare(request)
        cut, said = self._dropped, len(self._lines[path])
        if since < self._compacted:
            body = {"type": "ERROR", "object": status_object(410, "Expired", "too old resource version")}
            await response.write(json.dumps(body).encode() + b"\n")
            return response
        while True:
            moved = self._moved
            for line in self._lines[path][said:]:
                await response.write(line + b"\n")
            said = len(self._lines[path])
            for version, happened, body in [one for one in self._history[path] if one[0] > since]:
                await response.write(json.dumps({"type": happened, "object": body}).encode() + b"\n")
                since = version
            if cut != self._dropped:
                if request.transport is not None:
                    request.transport.abort()
                return response
            await moved.wait()


def _copy(response: web.Response) -> web.Response:
    return web.Response(status=response.status, body=response.body)


def kubeconfig(url: str, token: str = "t0ken") -> Json:
    """A kubeconfig for a server at `url`."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "clusters": [{"name": "test", "cluster": {"server": url}}],
        "users": [{"name": "test", "user": {"token": token}}],
    }

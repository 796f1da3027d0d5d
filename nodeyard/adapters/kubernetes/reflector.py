"""One kind of object followed for ever: a list in pages, then a watch from there, over and over.

Owns the protocol with the API server (pages, bookmarks, resourceVersions too old, silence, refusals) and its pace;
what the objects mean is the sink's. A kind that is not served or not allowed is said once and asked for slowly.
Source: Kubernetes API concepts, "Efficient detection of changes", "Retrieving large results sets in chunks".
"""

import asyncio
import contextlib
import enum
import gc
import random
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from typing import Final, Protocol

import msgspec

from nodeyard.adapters.kubernetes.client import Page, WatchEvent
from nodeyard.adapters.kubernetes.errors import (
    Forbidden,
    Gone,
    KubernetesError,
    NotFound,
    TooManyRequests,
    Unavailable,
)
from nodeyard.runtime.backoff import Backoff
from nodeyard.runtime.clock import Clock
from nodeyard.runtime.logging import get_logger

PAGE: Final = 1000
_WATCH_S: Final = (300.0, 600.0)
_REFUSED_S: Final = 15.0
_SHORT_S: Final = 1.0

log = get_logger("nodeyard.adapters.kubernetes.reflector")


class Lister(Protocol):
    """What a reflector needs of the client."""

    def list_pages(self, path: str, limit: int = ...) -> AsyncGenerator[Page, None]: ...

    def watch(
        self, path: str, resource_version: str, timeout_s: float
    ) -> AsyncGenerator[list[WatchEvent], None]: ...


class Sink(Protocol):
    """Where the objects of one kind go. None of these may raise."""

    def begin(self) -> None:
        """A full listing starts."""

    def page(self, items: Sequence[msgspec.Raw]) -> None:
        """Some objects of the listing."""

    def end(self, resource_version: str) -> None:
        """The listing is complete, as of that version; what it did not show is gone."""

    def events(self, events: Sequence[WatchEvent]) -> None:
        """What happened since, in order; no bookmarks."""

    def missing(self) -> None:
        """The kind is not served."""


class State(enum.StrEnum):
    """Where a reflector is."""

    STARTING = "starting"
    LISTING = "listing"
    WATCHING = "watching"
    FAILING = "failing"
    REFUSED = "refused"


class _Versioned(msgspec.Struct):
    class Meta(msgspec.Struct, rename="camel"):
        resource_version: str = ""

    metadata: Meta = msgspec.field(default_factory=Meta)


_versioned: Final = msgspec.json.Decoder(_Versioned)


class Reflector:
    """Follows the collection at `path` into `sink`; `run` it in the loop that owns it."""

    def __init__(
        self,
        lister: Lister,
        path: str,
        sink: Sink,
        clock: Clock,
        *,
        page: int = PAGE,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.path = path
        self._lister = lister
        self._sink = sink
        self._clock = clock
        self._page = page
        self._chance = chance
        self._backoff = Backoff(0.2, 5.0, chance=chance)
        self._scope: asyncio.Timeout | None = None
        self._relist = False
        self._whole_list = False
        self.state = State.STARTING
        self.trouble = ""
        """The last failure in words, empty while all is well."""
        self.resource_version = ""
        """How far the sink is; empty before the first listing."""
        self.failing_since: float | None = None
        """Monotonic time of the first failure since all was well."""
        self.listings = 0
        """Complete listings so far."""

    @property
    def settled(self) -> bool:
        """All objects there were have reached the sink, or the server said that there are none to be had."""
        return self.listings > 0 or self.state is State.REFUSED

    @property
    def refused(self) -> bool:
        """The server does not serve the kind, or does not let us see it."""
        return self.state is State.REFUSED

    def relist(self) -> None:
        """Lists again at once."""
        self._relist = True
        if self._scope is not None:
            self._scope.reschedule(asyncio.get_running_loop().time())

    async def run(self) -> None:
        """Follows until cancelled."""
        while True:
            try:
                if self._relist or not self.resource_version:
                    await self._list()
                await self._watch()
            except Gone as error:
                self.resource_version = ""
                self._whole_list = self.state is State.LISTING  # its pages expired before it was through
                log.info("resource version too old", path=self.path, reason=error.message)
                await self._clock.sleep(self._backoff.next_s() if self._backoff.failures > 2 else 0.0)
            except (NotFound, Forbidden) as error:
                await self._refused(error)
            except KubernetesError as error:
                await self._failed(error)

    async def _list(self) -> None:
        if self.state is not State.REFUSED:  # which it stays until the server gives something
            self.state = State.LISTING
        self._relist = False
        self._sink.begin()
        version = ""
        pages = self._lister.list_pages(self.path, 0 if self._whole_list else self._page)
        async with contextlib.aclosing(pages):
            async for page in pages:
                self.state = State.LISTING
                version = page.metadata.resource_version
                with collector_off():
                    self._sink.page(page.items or [])
        self._sink.end(version)
        self.resource_version = version
        self._whole_list = False
        self.listings += 1

    async def _watch(self) -> None:
        """One watch, until the server ends it, it fails, or a listing is asked for."""
        shortest, longest = _WATCH_S
        started, heard = self._clock.monotonic(), False
        try:
            async with asyncio.timeout(None) as self._scope:
                if self._relist:
                    return
                timeout_s = shortest + (longest - shortest) * self._chance()
                batches = self._lister.watch(self.path, self.resource_version, timeout_s)
                async with contextlib.aclosing(batches):
                    async for batch in batches:
                        self._well()
                        heard = heard or bool(batch)
                        self._take(batch)
        except TimeoutError:
            if not self._relist:
                raise
        finally:
            self._scope = None
        if not heard and not self._relist and self._clock.monotonic() - started < _SHORT_S:
            raise Unavailable(0, "ShortWatch", "the watch ended at once", where=f"WATCH {self.path}")

    def _take(self, batch: Sequence[WatchEvent]) -> None:
        if not batch:
            return
        happened = [event for event in batch if event.type != "BOOKMARK"]
        if happened:
            with collector_off():
                self._sink.events(happened)
        try:
            version = _versioned.decode(batch[-1].object).metadata.resource_version
        except msgspec.DecodeError as error:
            raise Unavailable(
                0, "Garbage", f"an event can't be read: {error}", where=f"WATCH {self.path}"
            ) from error
        self.resource_version = version or self.resource_version

    def _well(self) -> None:
        if self.trouble:
            log.debug("resource is followed again", path=self.path, after=self.trouble)
        self.state = State.WATCHING
        self.trouble = ""
        self.failing_since = None
        self._backoff.reset()

    async def _refused(self, error: KubernetesError) -> None:
        """Not installed or not allowed. What was there is forgotten only if the server says that it is not served."""
        if self.state is not State.REFUSED:
            say = log.info if isinstance(error, NotFound) else log.warning
            say("resource can't be followed", path=self.path, reason=str(error), retry_s=_REFUSED_S)
        self.state = State.REFUSED
        self.trouble = error.message
        self._since()
        if isinstance(error, NotFound):
            self._sink.missing()
        self.resource_version = ""
        await self._clock.sleep(_REFUSED_S * (0.75 + 0.5 * self._chance()))

    async def _failed(self, error: KubernetesError) -> None:
        wait_s = self._backoff.next_s()
        if isinstance(error, TooManyRequests):
            wait_s = max(wait_s, error.retry_after_s)
        # A server that is away fails every kind over and over: whoever owns the reflectors says so once.
        known = isinstance(error, Unavailable) or self.trouble == error.message
        say = log.debug if known else log.warning
        say("resource can't be followed for now", path=self.path, reason=str(error), wait_s=round(wait_s, 2))
        self.state = State.FAILING
        self.trouble = error.message
        self._since()
        await self._clock.sleep(wait_s)

    def _since(self) -> None:
        if self.failing_since is None:
            self.failing_since = self._clock.monotonic()


@contextlib.contextmanager
def collector_off() -> Iterator[None]:
    """Keeps the cyclic garbage collector from walking thousands of objects that are just being made."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()

"""A reflector against a scripted API server: whatever goes wrong on the way, the sink ends up with what is there."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import msgspec
import pytest

from nodeyard.adapters.kubernetes.client import KubernetesClient, WatchEvent
from nodeyard.adapters.kubernetes.reflector import Reflector, State
from nodeyard.runtime.clock import SystemClock
from tests.support.scripted_api import ScriptedApi, kubeconfig

PATH = "/api/v1/things"


class Mirror:
    """A sink that keeps what it is told, and a diary."""

    def __init__(self) -> None:
        self.objects: dict[str, str] = {}
        self.diary: list[str] = []
        self.refused = lambda: False
        """Of the reflector that it is told by, whether the server does not serve the kind."""
        self._listing: dict[str, str] = {}

    def begin(self) -> None:
        self.diary.append("begin" if not self.refused() else "begin though refused")
        self._listing = {}

    def page(self, items: Sequence[msgspec.Raw]) -> None:
        self.diary.append(f"page of {len(items)}")
        for item in items:
            meta = json.loads(bytes(item))["metadata"]
            self._listing[meta["name"]] = meta["resourceVersion"]

    def end(self, resource_version: str) -> None:
        self.diary.append("end")
        self.objects = self._listing

    def events(self, events: Sequence[WatchEvent]) -> None:
        for event in events:
            assert event.type != "BOOKMARK"
            meta = json.loads(bytes(event.object))["metadata"]
            self.diary.append(event.type)
            if event.type == "DELETED":
                self.objects.pop(meta["name"], None)
            else:
                self.objects[meta["name"]] = meta["resourceVersion"]

    def missing(self) -> None:
        self.diary.append("missing")
        self.objects = {}


class QuickClock(SystemClock):
    """Waits of seconds take milliseconds; what was asked for is kept."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        await asyncio.sleep(min(seconds, 0.02))


class Following:
    """A reflector at work on the scripted server."""

    def __init__(self, api: ScriptedApi, client: KubernetesClient, page: int = 2) -> None:
        self.api, self.mirror, self.clock = api, Mirror(), QuickClock()
        self.reflector = Reflector(client, PATH, self.mirror, self.clock, page=page, chance=lambda: 0.5)
        self.mirror.refused = lambda: self.reflector.refused

    async def until(self, condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
        async with asyncio.timeout(timeout_s):
            while not condition():  # noqa: ASYNC110 - the condition is the other end of a socket
                await asyncio.sleep(0.002)

    async def until_same(self) -> None:
        """The sink holds what the server has, and a watch stands."""
        await self.until(
            lambda: self.reflector.state is State.WATCHING and self.mirror.objects == self.there()
        )

    def there(self) -> dict[str, str]:
        return {name: one["metadata"]["resourceVersion"] for name, one in self.api.objects[PATH].items()}


@contextlib.asynccontextmanager
async def following(
    tmp_path: Path, objects: int = 0, prepare: Callable[[ScriptedApi], None] = lambda _: None
) -> AsyncIterator[Following]:
    async with ScriptedApi() as api:
        api.objects[PATH] = {}
        for number in range(objects):
            api.put(PATH, f"t{number}")
        prepare(api)
        (tmp_path / "config").write_text(json.dumps(kubeconfig(api.url)))
        client = await KubernetesClient.connect(str(tmp_path / "config"))
        one = Following(api, client)
        task = asyncio.create_task(one.reflector.run())
        try:
            yield one
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await client.close()


async def test_a_list_comes_in_pages_and_changes_follow(tmp_path: Path) -> None:
    async with following(tmp_path, 5) as one:
        await one.until_same()
        assert one.mirror.diary == ["begin", "page of 2", "page of 2", "page of 1", "end"]
        one.api.put(PATH, "new")
        one.api.put(PATH, "t1", spec=1)
        one.api.delete(PATH, "t2")
        await one.until_same()
        assert one.mirror.diary[5:] == ["ADDED", "MODIFIED", "DELETED"]
        assert one.api.requests["LIST", PATH] == 1


async def test_an_empty_collection_is_settled_too(tmp_path: Path) -> None:
    async with following(tmp_path) as one:
        await one.until_same()
        assert one.reflector.settled


async def test_a_bookmark_saves_the_next_watch_from_being_too_old(tmp_path: Path) -> None:
    async with following(tmp_path, 1) as one:
        await one.until_same()
        before = one.reflector.resource_version
        one.api.bookmark(PATH)
        await one.until(lambda: one.reflector.resource_version != before)
        one.api.forget_before(int(one.reflector.resource_version))
        one.api.drop_watches()
        await one.until(lambda: one.api.requests["WATCH", PATH] == 2)
        one.api.put(PATH, "later")
        await one.until_same()
        assert one.api.requests["LIST", PATH] == 1


async def test_a_version_too_old_means_listing_again(tmp_path: Path) -> None:
    async with following(tmp_path, 3) as one:
        await one.until_same()
        one.api.delete(PATH, "t0")
        one.api.compact()
        one.api.drop_watches()
        await one.until(lambda: one.api.requests["LIST", PATH] == 2)
        await one.until_same()
        assert "t0" not in one.mirror.objects


async def test_a_watch_refused_as_too_old_before_it_stands_means_listing_again(tmp_path: Path) -> None:
    async with following(tmp_path, 1, lambda api: api.fail("WATCH", PATH, 410, "Expired")) as one:
        await one.until_same()
        assert one.api.requests["LIST", PATH] == 2


async def test_pages_that_expire_midway_are_asked_for_at_once(tmp_path: Path) -> None:
    async with following(tmp_path, 5, lambda api: api.fail("PAGE", PATH, 410, "Expired")) as one:
        await one.until_same()
        assert one.mirror.diary == ["begin", "page of 2", "begin", "page of 5", "end"]


async def test_a_cut_watch_goes_on_where_it_was(tmp_path: Path) -> None:
    async with following(tmp_path, 2) as one:
        await one.until_same()
        for number in range(5):
            one.api.drop_watches()
            one.api.put(PATH, f"n{number}")
            await one.until_same()
        assert one.api.requests["LIST", PATH] == 1


async def test_garbage_in_a_watch_is_survived(tmp_path: Path) -> None:
    async with following(tmp_path, 2) as one:
        await one.until_same()
        for line in (b"not json", b'{"type":"ADDED"}', b'{"type":7,"object":{}}', b"\xff\xfe"):
            watches = one.api.requests["WATCH", PATH]
            one.api.say(PATH, line)
            await one.until(lambda watches=watches: one.api.requests["WATCH", PATH] > watches)
        one.api.put(PATH, "after")
        await one.until_same()


async def test_an_unknown_error_event_is_not_fatal(tmp_path: Path) -> None:
    async with following(tmp_path, 1) as one:
        await one.until_same()
        one.api.say(PATH, b'{"type":"ERROR","object":{"kind":"Status","code":500,"reason":"InternalError"}}')
        await one.until(lambda: one.api.requests["WATCH", PATH] == 2)
        await one.until_same()


async def test_a_garbled_list_is_asked_for_again(tmp_path: Path) -> None:
    async with following(tmp_path, 3, lambda api: api.garble("LIST", PATH)) as one:
        await one.until_same()
        assert one.clock.waits


async def test_failures_back_off_and_are_forgotten_once_it_works(tmp_path: Path) -> None:
    async with following(
        tmp_path, 1, lambda api: api.fail("LIST", PATH, 500, "InternalError", times=6)
    ) as one:
        await one.until_same()
        assert one.clock.waits == sorted(one.clock.waits)
        assert one.clock.waits[-1] > 3.0
        assert one.reflector.trouble == ""
        assert one.reflector.failing_since is None


async def test_a_throttling_server_is_given_the_time_it_asks_for(tmp_path: Path) -> None:
    def throttle(api: ScriptedApi) -> None:
        api.fail("LIST", PATH, 429, "TooManyRequests", **{"Retry-After": "7"})

    async with following(tmp_path, 1, throttle) as one:
        await one.until_same()
        assert one.clock.waits[0] == 7.0


@pytest.mark.parametrize(("status", "reason"), [(404, "NotFound"), (403, "Forbidden")])
async def test_a_kind_that_is_refused_is_settled_and_comes_back(
    tmp_path: Path, status: int, reason: str
) -> None:
    async with following(tmp_path, 2, lambda api: api.refuse(PATH, status, reason)) as one:
        await one.until(lambda: one.reflector.state is State.REFUSED)
        assert one.reflector.settled
        assert one.reflector.listings == 0
        await one.until(lambda: one.clock.waits[-1:] != [] and one.clock.waits[-1] > 10.0)
        await one.until(lambda: one.mirror.diary.count("begin though refused") >= 2)
        one.api.refuse(PATH, None)
        await one.until_same()
        assert not one.reflector.refused


async def test_a_kind_that_is_no_longer_served_has_no_objects(tmp_path: Path) -> None:
    async with following(tmp_path, 2) as one:
        await one.until_same()
        one.api.refuse(PATH, 404, "NotFound")
        one.api.drop_watches()
        await one.until(lambda: one.mirror.objects == {})


async def test_a_kind_that_is_forbidden_for_a_while_keeps_its_objects(tmp_path: Path) -> None:
    async with following(tmp_path, 2) as one:
        await one.until_same()
        one.api.refuse(PATH, 403, "Forbidden")
        one.api.drop_watches()
        await one.until(lambda: one.reflector.state is State.REFUSED)
        assert len(one.mirror.objects) == 2


async def test_listing_again_can_be_asked_for_in_the_middle_of_a_watch(tmp_path: Path) -> None:
    async with following(tmp_path, 3) as one:
        await one.until_same()
        one.reflector.relist()
        await one.until(lambda: one.reflector.listings == 2)
        await one.until_same()
        assert one.clock.waits == []


async def test_a_watch_that_ends_at_once_is_not_asked_for_hotly(tmp_path: Path) -> None:
    async with following(
        tmp_path, 1, lambda api: [api.garble("WATCH", PATH) for _ in range(4)] and None
    ) as one:
        await one.until_same()
        assert len(one.clock.waits) >= 4

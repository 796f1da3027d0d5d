"""The watcher's stream end to end, but for the API server, which is scripted: controller, servicer, gRPC, feed."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import msgspec
import pytest
from prometheus_client import CollectorRegistry

from nodeyard.adapters.kubernetes import paths
from nodeyard.adapters.kubernetes.client import KubernetesClient
from nodeyard.adapters.kubernetes.reflector import Reflector
from nodeyard.rpc.cluster import CURRENT_S, OVERLAY_S, ClusterFeed
from nodeyard.rpc.cluster_log import ClusterLog
from nodeyard.rpc.v1 import cluster_pb2, cluster_pb2_grpc
from nodeyard.runtime import grpc_server
from nodeyard.runtime.clock import SystemClock
from nodeyard.state.cluster import Change, Kind
from nodeyard.state.intake import changes_of
from services.watcher.controller import Controller
from services.watcher.metrics import WatcherMetrics
from services.watcher.ports import Inflow
from services.watcher.servicer import ClusterServicer
from tests.support.pods import written_pod
from tests.support.scripted_api import ScriptedApi, kubeconfig


class Time:
    """Monotonic time that a test can move on."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return asyncio.get_running_loop().time() + self.ahead


class Watcher:
    """One replica on a port."""

    def __init__(self, client: KubernetesClient, epoch: str) -> None:
        self.measures = WatcherMetrics(CollectorRegistry())

        def follow(kind: str, inflow: Inflow) -> Reflector:
            return Reflector(client, paths.COLLECTIONS[kind], inflow, SystemClock())

        self.controller = Controller(follow, client, epoch, self.measures, SystemClock())
        self.port = 0
        self._server: grpc.aio.Server | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, port: int = 0) -> "Watcher":
        self._tasks = [asyncio.create_task(loop()) for loop in self.controller.loops.values()]  # type: ignore[arg-type]
        await self.serve(port)
        return self

    async def serve(self, port: int = 0) -> None:
        servicer = ClusterServicer(self.controller, self.measures, SystemClock())

        def register(server: grpc.aio.Server) -> None:
            cluster_pb2_grpc.add_ClusterServicer_to_server(servicer, server)

        self._server, self.port = await grpc_server.serve(register, f"127.0.0.1:{port}")

    async def hang_up(self) -> None:
        """Ends every stream; the replica itself goes on."""
        if self._server is not None:
            await self._server.stop(None)

    async def stop(self) -> None:
        await self.hang_up()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def snapshots(self) -> float:
        return float(self.measures.snapshots._value.get())


class Stage:
    """A scripted API server with every kind, and whatever is started on it."""

    def __init__(self, api: ScriptedApi, client: KubernetesClient) -> None:
        self.api, self.client, self.time = api, client, Time()
        self._stack = contextlib.AsyncExitStack()

    async def watcher(self, epoch: str = "one", port: int = 0) -> Watcher:
        watcher = await Watcher(self.client, epoch).start(port)
        self._stack.push_async_callback(watcher.stop)
        return watcher

    async def feed(self, *watchers: Watcher | str) -> ClusterFeed:
        addresses = [one if isinstance(one, str) else one.address for one in watchers]
        feed = ClusterFeed(addresses, "test", monotonic=self.time)
        task = asyncio.create_task(feed.run())

        async def end() -> None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        self._stack.push_async_callback(end)
        return feed

    def pod(self, number: int, **more: Any) -> None:
        body = written_pod(number, **more)
        self.api.put(paths.pods(), body["metadata"]["name"], **body)

    async def close(self) -> None:
        await self._stack.aclose()


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with ScriptedApi() as api:
        for path in paths.COLLECTIONS.values():
            api.objects[path] = {}
        (tmp_path / "config").write_text(json.dumps(kubeconfig(api.url)))
        client = await KubernetesClient.connect(str(tmp_path / "config"))
        stage = Stage(api, client)
        try:
            yield stage
        finally:
            await stage.close()
            await client.close()


async def until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - the condition is the other end of a stream
            await asyncio.sleep(0.002)


def node(name: str, **meta: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "uid": f"uid-{name}", **meta},
        "spec": {"providerID": f"aws:///z/{name}"},
    }


async def test_a_subscriber_gets_a_snapshot_and_then_every_change(stage: Stage) -> None:
    for number in range(30):
        stage.pod(number, workloads=3)
    feed = await stage.feed(await stage.watcher())
    await until(lambda: feed.synced)
    snapshot = feed.snapshot()
    assert len(snapshot.pods) == 30
    assert len(snapshot.shapes) == 3
    assert all(snapshot.shape(pod).requests["pods"] == 1 for pod in snapshot.pods.values())
    revision = snapshot.revision
    stage.api.put(paths.nodes(), "n1", **node("n1"))
    assert await feed.wait_changed(revision, 5.0) > revision
    await until(lambda: "n1" in feed.snapshot().nodes)
    stage.api.delete(paths.nodes(), "n1")
    await until(lambda: "n1" not in feed.snapshot().nodes)
    assert len(feed.snapshot().pods) == 30


async def test_wait_changed_gives_up_in_time(stage: Stage) -> None:
    feed = await stage.feed(await stage.watcher())
    await until(lambda: feed.synced)
    revision = feed.snapshot().revision
    assert await feed.wait_changed(revision, 0.01) == revision


async def test_a_broken_stream_resumes_without_a_snapshot(stage: Stage) -> None:
    stage.pod(1)
    watcher = await stage.watcher()
    feed = await stage.feed(watcher)
    await until(lambda: feed.synced)
    await watcher.hang_up()
    stage.pod(2)
    stage.pod(3)
    await watcher.serve(watcher.port)
    await until(lambda: len(feed.snapshot().pods) == 3)
    assert watcher.snapshots == 1


async def test_a_restarted_watcher_starts_a_new_epoch_with_a_snapshot(stage: Stage) -> None:
    stage.pod(1)
    stage.pod(2)
    first = await stage.watcher("one")
    feed = await stage.feed(first)
    await until(lambda: feed.synced)
    await first.stop()
    gone = written_pod(2)["metadata"]["name"]
    stage.api.delete(paths.pods(), gone)
    await stage.watcher("two", first.port)
    await until(lambda: feed.snapshot().epoch == "two")
    assert [key.partition("/")[2] for key in feed.snapshot().pods] == [written_pod(1)["metadata"]["name"]]


async def test_the_next_replica_serves_when_one_is_gone(stage: Stage) -> None:
    stage.pod(1)
    first, second = await stage.watcher("one"), await stage.watcher("two")
    feed = await stage.feed(first, second)
    await until(lambda: feed.synced)
    assert feed.address == first.address
    await first.stop()
    stage.pod(2)
    await until(lambda: feed.synced and len(feed.snapshot().pods) == 2)
    assert feed.address == second.address


async def test_a_subscriber_that_was_away_too_long_gets_a_snapshot(stage: Stage) -> None:
    watcher = await stage.watcher()
    watcher.controller.log._size = 20
    watcher.controller.log._ring = [None] * 20
    feed = await stage.feed(watcher)
    await until(lambda: feed.synced)
    await watcher.hang_up()
    for number in range(60):
        stage.pod(number)
    await until(lambda: watcher.controller.store.count(Kind.POD) == 60)
    await watcher.serve(watcher.port)
    await until(lambda: len(feed.snapshot().pods) == 60)
    assert watcher.snapshots == 2


async def test_a_slow_subscriber_holds_nobody_up_and_ends_up_with_everything(stage: Stage) -> None:
    watcher = await stage.watcher()
    watcher.controller.log._size = 200
    watcher.controller.log._ring = [None] * 200
    quick = await stage.feed(watcher)
    await until(lambda: quick.synced)
    async with grpc.aio.insecure_channel(watcher.address) as channel:
        call = cluster_pb2_grpc.ClusterStub(channel).Watch(cluster_pb2.WatchClusterRequest(subscriber="slow"))
        await call.read()
        for number in range(300):
            stage.pod(number, workloads=300)
        await until(lambda: len(quick.snapshot().pods) == 300)
        seen: set[str] = set()
        async with asyncio.timeout(60):
            while len(seen) < 300:
                message = await call.read()
                if message.phase == cluster_pb2.WatchClusterResponse.PHASE_SNAPSHOT:
                    seen.clear()
                seen |= {change.key for change in message.changes if change.kind == "pods"}
        call.cancel()


async def test_a_watcher_that_is_not_synced_refuses_and_says_what_it_waits_for(stage: Stage) -> None:
    stage.api.refuse(paths.nodeclaims(), 404, "NotFound")
    watcher = await stage.watcher()
    reason = ""
    async with asyncio.timeout(60):
        while "NodeClaim (NotFound)" not in reason:
            async with grpc.aio.insecure_channel(watcher.address) as channel:
                call = cluster_pb2_grpc.ClusterStub(channel).Watch(cluster_pb2.WatchClusterRequest())
                with pytest.raises(grpc.aio.AioRpcError) as refusal:
                    await call.read()
            assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE
            reason = refusal.value.details() or ""
            await asyncio.sleep(0.01)


async def test_kinds_that_are_not_installed_or_not_allowed_do_not_hold_up_the_rest(stage: Stage) -> None:
    stage.api.refuse(paths.provisioners(), 404, "NotFound")
    stage.api.refuse(paths.ec2nodeclasses(), 404, "NotFound")
    stage.api.refuse("/api/v1/persistentvolumes", 403, "Forbidden")
    stage.pod(1)
    feed = await stage.feed(await stage.watcher())
    await until(lambda: feed.synced)
    assert len(feed.snapshot().pods) == 1


async def test_an_api_server_that_goes_away_is_noticed_and_its_return_too(stage: Stage) -> None:
    watcher = await stage.watcher()
    feed = await stage.feed(watcher)
    await until(lambda: feed.synced)
    for path in paths.COLLECTIONS.values():
        stage.api.refuse(path, 503, "ServiceUnavailable")
    stage.api.drop_watches()
    await until(lambda: not feed.synced, timeout_s=CURRENT_S + 60)
    assert feed.not_synced_because is not None
    await until(lambda: watcher.controller.not_serving_because() is not None)
    for path in paths.COLLECTIONS.values():
        stage.api.refuse(path, None)
    await until(lambda: feed.synced)


async def test_objects_that_cannot_be_read_leave_the_rest_alone(stage: Stage) -> None:
    stage.pod(1)
    stage.api.put(paths.pods(), "odd", metadata={"namespace": "x", "labels": {"a": 7}}, spec={})
    stage.api.put(paths.nodepools(), "odd", spec={"weight": "heavy"})
    feed = await stage.feed(await stage.watcher())
    await until(lambda: feed.synced)
    assert len(feed.snapshot().pods) == 1
    assert "spec.weight" in feed.snapshot().pools["odd"].problems[0]
    stage.pod(2)
    await until(lambda: len(feed.snapshot().pods) == 2)


# --- own writes -----------------------------------------------------------------------------------------------------
def claim(name: str, version: str, **more: Any) -> Change:
    body = {"metadata": {"name": name, "uid": "u", "resourceVersion": version, **more}, "spec": {}}
    (change,) = changes_of("NodeClaim", json.dumps(body).encode())
    return change


async def test_an_own_write_is_shown_at_once_and_until_the_stream_has_it(stage: Stage) -> None:
    feed = await stage.feed(await stage.watcher())
    await until(lambda: feed.synced)
    made = stage.api.version + 1
    feed.overlay(claim("c1", str(made), labels={"own": "yes"}))
    assert feed.snapshot().claims["c1"].labels == {"own": "yes"}
    stage.api.put(paths.nodeclaims(), "c1", metadata={"labels": {"own": "yes"}}, spec={})
    stage.api.put(paths.nodeclaims(), "c1", metadata={"labels": {"theirs": "yes"}}, spec={})
    await until(lambda: feed.snapshot().claims["c1"].labels == {"theirs": "yes"})


async def test_an_older_state_in_the_stream_does_not_hide_an_own_write(stage: Stage) -> None:
    feed = await stage.feed(await stage.watcher())
    await until(lambda: feed.synced)
    later = str(stage.api.version + 2)
    feed.overlay(claim("c1", later, labels={"launched": "yes"}))
    stage.api.put(paths.nodeclaims(), "c1", metadata={"labels": {}}, spec={})
    stage.api.put(paths.nodes(), "marker", **node("marker"))
    stage.api.version -= 1  # what comes next is the write itself
    await until(lambda: "marker" in feed.snapshot().nodes)
    assert feed.snapshot().claims["c1"].labels == {"launched": "yes"}
    stage.api.put(paths.nodeclaims(), "c1", metadata={"labels": {"launched": "yes", "more": "x"}}, spec={})
    await until(lambda: "more" in feed.snapshot().claims["c1"].labels)


async def test_an_own_deletion_is_shown_at_once(stage: Stage) -> None:
    stage.api.put(paths.nodeclaims(), "c1", spec={})
    feed = await stage.feed(await stage.watcher())
    await until(lambda: feed.synced)
    feed.overlay(Change(Kind.NODE_CLAIM, "c1", None, str(stage.api.version + 1)))
    assert "c1" not in feed.snapshot().claims
    stage.api.delete(paths.nodeclaims(), "c1")
    stage.api.put(paths.nodeclaims(), "c1", spec={})
    await until(lambda: "c1" in feed.snapshot().claims)


async def test_an_own_write_that_is_gone_again_before_the_stream_saw_it_disappears(stage: Stage) -> None:
    feed = await stage.feed(await stage.watcher())
    await until(lambda: feed.synced)
    feed.overlay(claim("brief", str(stage.api.version + 1)))
    stage.api.version += 1
    stage.api.put(paths.nodeclaims(), "other", spec={})  # the watch of claims has passed the write
    await until(lambda: "brief" not in feed.snapshot().claims)
    assert "other" in feed.snapshot().claims


async def test_a_pod_that_was_bound_stays_so_whatever_the_scheduler_said_of_it_before(stage: Stage) -> None:
    stage.pod(1)
    feed = await stage.feed(await stage.watcher())
    await until(lambda: feed.synced)
    (pod,) = feed.snapshot().pods.values()
    feed.overlay(Change(Kind.POD, pod.key, msgspec.structs.replace(pod, node="n1", unschedulable=False)))
    stage.pod(1, version=2)  # refused by the kube-scheduler a moment before it was bound
    stage.pod(2)
    await until(lambda: len(feed.snapshot().pods) == 2)
    assert feed.snapshot().pods[pod.key].node == "n1"
    assert pod.key in feed.snapshot().pods_on["n1"]
    stage.pod(1, node="n1", version=3)
    await until(lambda: feed.snapshot().pods[pod.key].resource_version != pod.resource_version)
    assert feed.snapshot().pods[pod.key].node == "n1"
    stage.api.delete(paths.pods(), pod.name)
    await until(lambda: pod.key not in feed.snapshot().pods)


async def test_an_own_write_survives_a_new_snapshot_that_lacks_it(stage: Stage) -> None:
    first = await stage.watcher("one")
    feed = await stage.feed(first)
    await until(lambda: feed.synced)
    feed.overlay(claim("c1", str(stage.api.version + 5)))
    await first.stop()
    await stage.watcher("two", first.port)
    await until(lambda: feed.snapshot().epoch == "two" and feed.synced)
    assert "c1" in feed.snapshot().claims


async def test_an_own_write_that_never_shows_up_is_dropped(stage: Stage) -> None:
    feed = await stage.feed(await stage.watcher())
    await until(lambda: feed.synced)
    feed.overlay(claim("ghost", str(stage.api.version + 1000)))
    assert "ghost" in feed.snapshot().claims
    stage.time.ahead += OVERLAY_S + 1
    assert "ghost" not in feed.snapshot().claims


async def test_an_answer_that_comes_after_the_stream_is_not_laid_over_newer_news(stage: Stage) -> None:
    stage.api.put(paths.nodeclaims(), "c1", metadata={"labels": {"now": "yes"}}, spec={})
    feed = await stage.feed(await stage.watcher())
    await until(lambda: feed.synced)
    feed.overlay(claim("c1", str(stage.api.version - 1), labels={"then": "yes"}))
    assert feed.snapshot().claims["c1"].labels == {"now": "yes"}


async def test_a_replica_that_is_behind_is_waited_for(stage: Stage) -> None:
    stage.pod(1)
    watcher = await stage.watcher()
    feed = await stage.feed(watcher)
    await until(lambda: feed.synced)
    ahead = str(stage.api.version + 1)
    name = written_pod(1)["metadata"]["name"]
    key = next(iter(feed.snapshot().pods))
    seen = msgspec.structs.replace(feed.snapshot().pods[key], resource_version=ahead)
    feed._note_seen([Change(Kind.POD, key, seen, ahead)])  # another replica has shown this already
    feed._reached.clear()
    await watcher.hang_up()
    feed._store.epoch = "another"
    await watcher.serve(watcher.port)
    await until(lambda: feed._behind_since is not None)
    assert not feed.synced
    stage.api.put(paths.pods(), name, **written_pod(1))
    await until(lambda: feed.synced)


# --- the log ----------------------------------------------------------------------------------------------------------
def test_changes_are_merged_and_a_shape_stays_before_its_pods() -> None:
    from nodeyard.state.cluster import ClusterStore

    store = ClusterStore()
    log = ClusterLog(store, "e", remembered=100)
    (shape_a, pod_a) = changes_of("Pod", json.dumps(written_pod(0)).encode())
    (shape_b, pod_b) = changes_of("Pod", json.dumps(written_pod(1)).encode())
    moved = Change(Kind.POD, pod_a.key, msgspec.structs.replace(pod_a.value, shape=shape_b.key), "9")
    log.append([shape_a, pod_a, shape_b, pod_b, moved])
    (message,) = log.changes_after(0)
    keys = [(change.kind, change.key) for change in message.changes]
    assert keys == [
        ("shapes", shape_a.key),
        ("shapes", shape_b.key),
        ("pods", pod_b.key),
        ("pods", pod_a.key),
    ]
    assert message.revision == 5
    other = ClusterStore()
    from nodeyard.rpc.cluster_codec import decode_change

    other.apply(decode_change(change) for change in message.changes)
    assert other.snapshot().pods[pod_a.key].shape == shape_b.key


def test_only_the_last_of_several_messages_moves_a_subscriber_on() -> None:
    from nodeyard.state.cluster import ClusterStore

    log = ClusterLog(ClusterStore(), "e")
    changes = [Change(Kind.NAMESPACE, f"n{n}", None) for n in range(2500)]
    log.append(changes)
    messages = log.changes_after(0)
    assert [len(message.changes) for message in messages] == [1000, 1000, 500]
    assert [message.revision for message in messages] == [0, 0, 2500]


def test_what_is_remembered_is_bounded() -> None:
    from nodeyard.state.cluster import ClusterStore

    log = ClusterLog(ClusterStore(), "e", remembered=10)
    log.append([Change(Kind.NAMESPACE, f"n{n}", None) for n in range(25)])
    assert log.remembers("e", 25)
    assert log.remembers("e", 15)
    assert not log.remembers("e", 14)
    assert not log.remembers("e", 26)
    assert not log.remembers("another", 25)
    assert [change.key for change in log.changes_after(15)[0].changes] == [f"n{n}" for n in range(15, 25)]

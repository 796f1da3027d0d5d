"""The client against a scripted API server: what it sends, and how it takes what comes back."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from nodeyard.adapters.kubernetes.client import KubernetesClient
from nodeyard.adapters.kubernetes.errors import TooManyRequests, Unauthorized, Unavailable
from tests.support.scripted_api import ScriptedApi, kubeconfig

POD = "/api/v1/namespaces/n/pods/p"


@pytest.fixture
async def api() -> AsyncIterator[ScriptedApi]:
    async with ScriptedApi() as api:
        yield api


@pytest.fixture
async def client(api: ScriptedApi, tmp_path: Path) -> AsyncIterator[KubernetesClient]:
    (tmp_path / "config").write_text(json.dumps(kubeconfig(api.url)))
    client = await KubernetesClient.connect(str(tmp_path / "config"), agent="nodeyard-test")
    yield client
    await client.close()


async def test_it_says_who_it_is(api: ScriptedApi, client: KubernetesClient) -> None:
    await client.get(POD)
    assert api.headers[-1]["Authorization"] == "Bearer t0ken"
    assert api.headers[-1]["User-Agent"] == "nodeyard-test"


async def test_credentials_are_read_again_when_they_expired(
    api: ScriptedApi, client: KubernetesClient, tmp_path: Path
) -> None:
    api.fail("GET", POD, 401, "Unauthorized")
    (tmp_path / "config").write_text(json.dumps(kubeconfig(api.url, token="fresh")))
    await client.get(POD)
    assert api.headers[-1]["Authorization"] == "Bearer fresh"
    assert api.requests["GET", POD] == 2


async def test_credentials_that_stay_refused_are_an_error(api: ScriptedApi, client: KubernetesClient) -> None:
    api.fail("GET", POD, 401, "Unauthorized", times=2)
    with pytest.raises(Unauthorized):
        await client.get(POD)
    assert api.requests["GET", POD] == 2


async def test_a_kubeconfig_that_went_away_is_said(
    api: ScriptedApi, client: KubernetesClient, tmp_path: Path
) -> None:
    api.fail("GET", POD, 401, "Unauthorized")
    (tmp_path / "config").unlink()
    with pytest.raises(Unauthorized, match="can't be used"):
        await client.get(POD)


async def test_a_failed_write_is_not_repeated(api: ScriptedApi, client: KubernetesClient) -> None:
    api.fail("POST", "/api/v1/namespaces/n/pods", 503, "ServiceUnavailable")
    with pytest.raises(Unavailable):
        await client.create("/api/v1/namespaces/n/pods", {"kind": "Pod"})
    assert api.requests["POST", "/api/v1/namespaces/n/pods"] == 1


async def test_a_refused_eviction_says_how_long_to_wait(api: ScriptedApi, client: KubernetesClient) -> None:
    api.fail("POST", f"{POD}/eviction", 429, "TooManyRequests", **{"Retry-After": "10"})
    with pytest.raises(TooManyRequests) as refusal:
        await client.create(f"{POD}/eviction", {})
    assert refusal.value.retry_after_s == 10.0


async def test_deletions_carry_their_preconditions(api: ScriptedApi, client: KubernetesClient) -> None:
    await client.delete(POD, uid="u", resource_version="7", grace_s=0)
    await client.delete(POD)
    options = {"apiVersion": "v1", "kind": "DeleteOptions"}
    assert [body for _, _, body in api.bodies] == [
        {**options, "preconditions": {"uid": "u", "resourceVersion": "7"}, "gracePeriodSeconds": 0},
        options,
    ]


async def test_patches_name_their_kind_and_subresource(api: ScriptedApi, client: KubernetesClient) -> None:
    await client.merge_patch(POD, {"status": {}}, subresource="status")
    await client.json_patch(POD, [{"op": "remove", "path": "/spec"}])
    await client.apply(POD, {"kind": "Pod"}, field_manager="m")
    assert [
        (path, headers["Content-Type"]) for (_, path, _), headers in zip(api.bodies, api.headers, strict=True)
    ] == [
        (f"{POD}/status", "application/merge-patch+json"),
        (POD, "application/json-patch+json"),
        (f"{POD}?fieldManager=m&force=true", "application/apply-patch+yaml"),
    ]


async def test_a_refusal_counts_as_an_answer_and_silence_does_not(
    api: ScriptedApi, client: KubernetesClient, tmp_path: Path
) -> None:
    api.fail("GET", "/version", 403, "Forbidden")
    assert await client.answers()
    api.fail("GET", "/version", 503, "ServiceUnavailable")
    assert not await client.answers()
    (tmp_path / "away").write_text(json.dumps(kubeconfig("http://127.0.0.1:9")))
    away = await KubernetesClient.connect(str(tmp_path / "away"))
    assert not await away.answers()
    await away.close()


async def test_a_watch_gives_what_arrived_together_and_keeps_lines_whole(
    api: ScriptedApi, client: KubernetesClient
) -> None:
    path = "/api/v1/nodes"
    api.put(path, "big", spec={"filler": "x" * 300_000})
    api.put(path, "small")
    names: list[str] = []
    watch = client.watch(path, "100", 30)
    async with asyncio.timeout(60):
        assert await anext(watch) == []
        while len(names) < 2:
            names += [json.loads(bytes(event.object))["metadata"]["name"] for event in await anext(watch)]
    await watch.aclose()
    assert names == ["big", "small"]

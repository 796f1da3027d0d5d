"""Pricing as processes: real Redis, the simulated account, two replicas, kill -9, and a Redis that loses everything."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import pytest
import redis as redis_client

from nodeyard.cloudprovider.refusals import Refusal
from nodeyard.local.account.server import AccountServer
from nodeyard.rpc.catalog import CatalogFeed
from tests.support.account import REGION, DialBoard, account
from tests.support.catalogue import node_class
from tests.support.redis import TestRedis

__all__ = ["account"]

REFUSED = Refusal("m5.large", "eu-west-1a", "spot", "InsufficientInstanceCapacity")


class PricingProcess:
    """One replica as it runs in a cluster."""

    def __init__(self, directory: Path, name: str, environment: dict[str, str]) -> None:
        self._endpoints = directory / f"{name}.json"
        self._log = directory / f"{name}.log"
        self._environment = {
            **environment,
            "NODEYARD_REPLICA": name,
            "NODEYARD_ENDPOINTS_FILE": str(self._endpoints),
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._endpoints.unlink(missing_ok=True)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "services.pricing.main"], env=self._environment, stdout=log, stderr=log
            )

    def kill(self, number: int = signal.SIGKILL) -> int:
        assert self._process is not None
        self._process.send_signal(number)
        return self._process.wait(60)

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def grpc(self) -> str:
        return str(json.loads(self._endpoints.read_text())["grpc"])

    async def get(self, path: str) -> httpx.Response:
        address = json.loads(self._endpoints.read_text())["http"]
        async with httpx.AsyncClient(trust_env=False, timeout=30.0) as http:
            return await http.get(f"http://{address}{path}")

    async def ready(self) -> bool:
        if not self._endpoints.exists():
            return False
        try:
            return (await self.get("/readyz")).status_code == 200
        except httpx.TransportError:
            return False

    def logged(self) -> str:
        return self._log.read_text()


async def until(condition: Callable[[], object], within_s: float = 180.0) -> None:
    """Waits until `condition` (a function or coroutine function) is true."""
    deadline = time.monotonic() + within_s
    while True:
        result = condition()
        if asyncio.iscoroutine(result):
            result = await result
        if result:
            return
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.05)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[TestRedis]:
    with TestRedis(tmp_path) as server:
        yield server


@pytest.fixture
async def replicas(
    tmp_path: Path, account: AccountServer, redis: TestRedis
) -> AsyncIterator[tuple[PricingProcess, PricingProcess]]:
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(Path.cwd()),
        "AWS_ENDPOINT_URL": account.url,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_REGION": REGION,
        "NODEYARD_REDIS_URL": redis.url,
        "NODEYARD_SPOT_PRICE_INTERVAL": "2s",
    }
    made = PricingProcess(tmp_path, "one", environment), PricingProcess(tmp_path, "two", environment)
    made[0].start()
    await until(made[0].ready)
    made[1].start()
    await until(made[1].ready)
    yield made
    for replica in made:
        replica.stop()
    DialBoard(account.url).delete()


async def test_two_replicas_serve_the_same_survive_kills_and_forgetful_memory(
    replicas: tuple[PricingProcess, PricingProcess], account: AccountServer, redis: TestRedis
) -> None:
    one, two = replicas
    dials = DialBoard(account.url)
    dials.put("spot", speed=0.0)
    feed = CatalogFeed([one.grpc, two.grpc], "test")
    running = asyncio.create_task(feed.run())
    await feed.wait_changed("", 60.0)

    def refused(where: CatalogFeed = feed) -> bool:
        offering = where.catalogue_for(node_class()).offering("m5.large", "eu-west-1a", "spot")
        return offering is not None and not offering.available

    # the second replica took over what the first had learned
    assert '"part": "types", "entries"' not in two.logged()
    assert (await two.get("/v1/catalogue")).json()["types"] == 1395

    # a refusal told to one is known to the other, and outlives both
    assert await feed.report_refusals([REFUSED])
    await until(lambda: _refusals(two))
    one.kill()
    two.kill()
    dials.post("faults", kind="fail", action="*", code="ServiceUnavailable", status=503, times=100_000)
    one.start()
    await until(one.ready)
    (kept,) = (await one.get("/v1/refusals")).json()
    assert kept["instanceType"] == "m5.large"

    # warm, though AWS is away: everything is served, what got old is marked
    async def marked() -> bool:
        return bool((await one.get("/v1/catalogue")).json()["bySource"].get("last-known"))

    await until(marked)
    dials.delete("faults")

    # Redis comes back with nothing: one gives it what it knows, and two starts warm from that
    redis.stop()
    redis.start()
    await until(lambda: _kept(redis))
    two.start()
    await until(two.ready)
    assert (await two.get("/v1/catalogue")).json()["types"] == 1395
    again = CatalogFeed([one.grpc], "again")
    following = asyncio.create_task(again.run())
    await again.wait_changed("", 60.0)
    assert refused(again)
    assert one.kill(signal.SIGTERM) == 0
    for task in (running, following):
        task.cancel()


async def _refusals(process: PricingProcess) -> bool:
    return bool((await process.get("/v1/refusals")).json())


def _kept(server: TestRedis) -> bool:
    with redis_client.Redis(port=server.port) as client:
        kept = {part.decode() for part in client.hkeys("nodeyard:nodeyard:catalogue")}
        return kept >= {"types", "on-demand", "spot"}

"""The pricing service as a process: a cold refresh from the simulated account, its memory, a warm restart, a delta."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import psutil
import pytest

from nodeyard.cloudprovider.refusals import Refusal
from nodeyard.local.account.server import AccountServer
from nodeyard.rpc.catalog import CatalogFeed
from tests.integration.test_pricing_service import PricingProcess, until
from tests.support.redis import TestRedis

pytestmark = pytest.mark.benchmark
REGION = "us-west-2"
"""1,354 of the 1,395 types are sold there, in four zones."""


async def test_pricing_service(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with AccountServer(region=REGION) as account, TestRedis(tmp_path) as redis:
        environment = {
            "PATH": os.environ["PATH"], "PYTHONPATH": str(Path.cwd()), "AWS_REGION": REGION,
            "AWS_ENDPOINT_URL": account.url, "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing",
            "NODEYARD_REDIS_URL": redis.url,
        }  # fmt: skip
        warming = PricingProcess(tmp_path, "warming", environment)
        warming.start()
        await until(warming.ready, 120.0)
        warming.kill()
        redis.stop()
        redis.start()

        cold = PricingProcess(tmp_path, "cold", environment)
        began, others = time.perf_counter(), time.process_time()
        cold.start()
        await until(cold.ready, 120.0)
        figures = [("start and first refresh, cold", time.perf_counter() - began, "s", "6")]
        others = time.process_time() - others
        process = psutil.Process(cold.pid)
        spent = process.cpu_times()
        figures.append(("… processor time, imports included", spent.user + spent.system, "s", ""))
        figures.append(("… processor time of the account", others, "s", ""))
        for part in ("types", "on-demand", "spot"):
            figures.append((f"… asking for {part}", await _asked(cold, part), "s", ""))
        figures.append(("memory after it", process.memory_info().rss / 1e6, "MB", "150"))
        figures.append(("a refusal to a subscriber", await _delta(cold), "ms", "20"))
        cold.kill()

        warm = PricingProcess(tmp_path, "warm", environment)
        began = time.perf_counter()
        warm.start()
        await until(warm.ready, 120.0)
        figures.append(("start, warm", time.perf_counter() - began, "s", "1 + imports"))
        figures.append(("memory after it", psutil.Process(warm.pid).memory_info().rss / 1e6, "MB", "150"))
        warm.kill()
    with capsys.disabled():
        print()
        for what, figure, unit, limit in figures:
            print(f"  {what:36} {figure:8.2f} {unit:3} {'limit ' + limit if limit else ''}")


async def _asked(process: PricingProcess, part: str) -> float:
    wanted = f'nodeyard_catalogue_refresh_seconds_sum{{part="{part}"}} '
    for line in (await process.get("/metrics")).text.splitlines():
        if line.startswith(wanted):
            return float(line.removeprefix(wanted))
    return float("nan")


async def _delta(process: PricingProcess) -> float:
    """Milliseconds from a report to the news of it, best of several."""
    feed, other = CatalogFeed([process.grpc], "one"), CatalogFeed([process.grpc], "other")
    tasks = [asyncio.create_task(f.run()) for f in (feed, other)]
    await feed.wait_changed("", 10.0)
    await other.wait_changed("", 10.0)
    best = float("inf")
    for name in ("m5.large", "m5.xlarge", "m5.2xlarge", "m5.4xlarge"):
        before, began = other.revision, time.perf_counter()
        reporting = asyncio.create_task(feed.report_refusals([Refusal(name, f"{REGION}a", "spot", "x")]))
        await other.wait_changed(before, 5.0)
        best = min(best, time.perf_counter() - began)
        await reporting
    for task in tasks:
        task.cancel()
    return best * 1e3

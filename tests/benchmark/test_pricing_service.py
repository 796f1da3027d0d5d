"""The pricing service as a process: a cold refresh from the simulated account, its memory, a warm restart, deltas; and
the refresh by itself, with botocore's part of the processor time told apart from ours.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import pytest
from botocore.client import BaseClient

from nodeyard.adapters.ec2.describe import read_reservations, read_spot_prices, read_types
from nodeyard.adapters.ec2.session import Ec2Session
from nodeyard.adapters.pricing.products import read_on_demand_prices
from nodeyard.cloudprovider.market import market_of
from nodeyard.cloudprovider.refusals import Refusal, Shut
from nodeyard.cloudprovider.stored import packed_sheet, packed_types
from nodeyard.local.account.server import AccountServer
from nodeyard.rpc.catalog import CatalogFeed, message_of
from tests.integration.test_pricing_service import PricingProcess, until
from tests.support.redis import TestRedis

pytestmark = pytest.mark.benchmark
REPORTS = 60
REFRESHES = 3
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
        took, spent_ms = await _deltas(cold)
        figures.append(("a refusal to a subscriber, median", statistics.median(took), "ms", "20"))
        figures.append(("… 95 of 100 within", statistics.quantiles(took, n=20)[-1], "ms", "20"))
        figures.append(("… processor time of the service", spent_ms, "ms", ""))
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


def _serve(told: Connection) -> None:
    with AccountServer(region=REGION) as account:
        told.send(account.url)
        told.recv()


@pytest.fixture
def account_elsewhere() -> Iterator[str]:
    """The URL of an account in a process of its own, so that its processor time is not ours."""
    spawning = multiprocessing.get_context("spawn")
    ours, theirs = spawning.Pipe()
    process = spawning.Process(target=_serve, args=(theirs,))
    process.start()
    yield str(ours.recv())
    ours.send(None)
    process.join(20)


async def test_refresh(
    account_elsewhere: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(variable, "testing")
    monkeypatch.setenv("AWS_ENDPOINT_URL", account_elsewhere)
    in_botocore: list[float] = []
    plain = BaseClient._make_api_call

    def counted(client: Any, name: str, parameters: Any) -> Any:
        began = time.thread_time()
        try:
            return plain(client, name, parameters)
        finally:
            in_botocore.append(time.thread_time() - began)

    monkeypatch.setattr(BaseClient, "_make_api_call", counted)
    session = Ec2Session(threads=4, region=REGION)
    await _refresh(session)
    rows = []
    for _ in range(REFRESHES):
        in_botocore.clear()
        began, spent = time.perf_counter(), time.process_time()
        offerings = await _refresh(session)
        spent = time.process_time() - spent
        rows.append((time.perf_counter() - began, sum(in_botocore), spent - sum(in_botocore)))
    session.close()
    took, theirs, ours = (statistics.median(column) for column in zip(*rows, strict=True))
    with capsys.disabled():
        print(
            f"\n  refresh of {offerings} offerings, warm: {took:.2f} s (limit 6), processor time of botocore {theirs:.2f} s,"
            f" ours {ours:.2f} s (limit 1)"
        )
    assert ours < 1.0


async def _refresh(session: Ec2Session) -> int:
    """Everything from asking to what is stored and sent, as the service does it; how many offerings there are."""
    now = time.time()
    table, on_demand, spot, reserved = await asyncio.gather(
        read_types(session),
        read_on_demand_prices(session, now),
        read_spot_prices(session, now),
        read_reservations(session, now),
    )
    market = market_of(table, on_demand, spot, Shut(), now=now, reservations=reserved.reservations)
    assert message_of(market, None).revision
    assert all((packed_types(table, now), packed_sheet(REGION, on_demand), packed_sheet(REGION, spot)))
    return len(market.rows)


async def _asked(process: PricingProcess, part: str) -> float:
    wanted = f'nodeyard_catalogue_refresh_seconds_sum{{part="{part}"}} '
    for line in (await process.get("/metrics")).text.splitlines():
        if line.startswith(wanted):
            return float(line.removeprefix(wanted))
    return float("nan")


async def _deltas(process: PricingProcess) -> tuple[list[float], float]:
    """Milliseconds from reports to the news of them at another subscriber, each; the service's processor time per report."""
    feed, other = CatalogFeed([process.grpc], "one"), CatalogFeed([process.grpc], "other")
    tasks = [asyncio.create_task(f.run()) for f in (feed, other)]
    await feed.wait_changed("", 10.0)
    await other.wait_changed("", 10.0)
    market = other.market
    assert market is not None
    names = [t.name for t in market.table.types if f"{REGION}a" in t.zones and "spot" in t.usage_classes]
    watched, took = psutil.Process(process.pid), []
    spent = -sum(watched.cpu_times()[:2])
    for name in names[:REPORTS]:
        before, began = other.revision, time.perf_counter()
        reporting = asyncio.create_task(feed.report_refusals([Refusal(name, f"{REGION}a", "spot", "x")]))
        assert await other.wait_changed(before, 5.0) != before
        took.append((time.perf_counter() - began) * 1e3)
        await reporting
    spent += sum(watched.cpu_times()[:2])
    for task in tasks:
        task.cancel()
    return took, spent * 1e3 / REPORTS

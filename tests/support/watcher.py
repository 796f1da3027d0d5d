"""A watcher as a process of its own, and feeds that follow it."""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nodeyard.rpc.cluster import ClusterFeed


@dataclass
class RunningWatcher:
    """`address` of its gRPC side, `http` of its HTTP side, host:port."""

    pid: int
    address: str
    http: str
    log: Path


@contextlib.asynccontextmanager
async def watcher_process(
    config: Path, directory: Path, listen: str = "127.0.0.1:0"
) -> AsyncIterator[RunningWatcher]:
    """A watcher that listens; it need not be synced yet. Killed if need be."""
    endpoints = directory / f"watcher-{os.urandom(3).hex()}.json"
    env: dict[str, str] = {
        **os.environ,
        "NODEYARD_KUBECONFIG": str(config),
        "NODEYARD_ENDPOINTS_FILE": str(endpoints),
        "NODEYARD_GRPC_LISTEN": listen,
    }
    log = endpoints.with_suffix(".log")
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.watcher.main", env=env, stderr=out, stdout=out
        )
        try:
            await until(lambda: endpoints.exists() or process.returncode is not None)
            if process.returncode is not None:
                raise RuntimeError(f"the watcher ended: {log.read_text()}")
            facts: dict[str, Any] = json.loads(endpoints.read_text())
            yield RunningWatcher(process.pid, facts["grpc"], facts["http"], log)
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
            await process.wait()


@contextlib.asynccontextmanager
async def fed(*addresses: str, subscriber: str = "test") -> AsyncIterator[ClusterFeed]:
    """A feed at work."""
    feed = ClusterFeed(addresses, subscriber)
    task = asyncio.create_task(feed.run())
    try:
        yield feed
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], bool], timeout_s: float = 90.0) -> None:
    """Returns once the condition holds; TimeoutError when it does not in time."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - what is waited for is in another process
            await asyncio.sleep(0.005)

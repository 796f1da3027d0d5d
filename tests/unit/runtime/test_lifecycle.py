"""Loops that fail are started again; health, readiness and metrics are answered; a service starts and ends cleanly."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from nodeyard.runtime import http, metrics
from nodeyard.runtime.backoff import Backoff
from nodeyard.runtime.lifecycle import kill_point, supervise
from tests.support.clock import FakeClock


async def test_a_loop_that_fails_is_started_again_later_each_time() -> None:
    clock, starts = FakeClock(), []

    async def loop() -> None:
        starts.append(clock.monotonic())
        raise ValueError("no")

    running = asyncio.create_task(supervise("x", loop, clock, backoff=Backoff(1.0, 4.0, jitter=0.0)))
    await clock.advance(12.0)
    running.cancel()
    assert starts == [0.0, 1.0, 3.0, 7.0, 11.0]


async def test_a_loop_that_ran_long_is_started_again_soon() -> None:
    clock, starts = FakeClock(), []

    async def loop() -> None:
        starts.append(clock.monotonic())
        await clock.sleep(100.0)
        raise ValueError("no")

    running = asyncio.create_task(supervise("x", loop, clock, backoff=Backoff(1.0, 64.0, jitter=0.0)))
    await clock.advance(203.0)
    running.cancel()
    assert starts == [0.0, 101.0, 202.0]


async def test_a_loop_that_returns_is_done() -> None:
    async def loop() -> None:
        return

    await supervise("x", loop, FakeClock())


async def test_failures_are_counted_by_loop() -> None:
    registry = metrics.new_registry(process=False)
    measures = metrics.RuntimeMetrics(registry, service="s", version="1")
    clock = FakeClock()

    async def loop() -> None:
        raise ValueError("no")

    running = asyncio.create_task(supervise("mine", loop, clock, measures, Backoff(1.0, 1.0, jitter=0.0)))
    await clock.advance(1.5)
    running.cancel()
    assert b'nodeyard_loop_failures_total{loop="mine"} 2.0' in metrics.render(registry)


async def test_health_readiness_and_metrics_are_served_beside_the_app() -> None:
    reason: list[str | None] = ["not synced: 3 of 4 lists"]

    async def app(scope: http.Scope, receive: http.Receive, send: http.Send) -> None:
        if scope["type"] == "http":
            await http.reply(send, 200, b"from the app")

    registry = metrics.new_registry()
    server = await http.serve(app, "127.0.0.1:0", ready=lambda: reason[0], registry=registry)
    async with httpx.AsyncClient(base_url=f"http://{server.address}") as client:
        assert (await client.get("/healthz")).text == "ok\n"
        unready = await client.get("/readyz")
        assert (unready.status_code, unready.text) == (503, "not ready: not synced: 3 of 4 lists\n")
        reason[0] = None
        assert (await client.get("/readyz")).status_code == 200
        assert "process_resident_memory_bytes" in (await client.get("/metrics")).text
        assert (await client.get("/anything")).text == "from the app"
    await server.stop()


async def test_a_port_that_is_taken_is_named() -> None:
    server = await http.serve(None, "127.0.0.1:0", ready=lambda: None)
    with pytest.raises(http.ListenError, match=str(server.port)):
        await http.serve(None, server.address, ready=lambda: None)
    await server.stop()


SERVICE = """
import asyncio, sys
from nodeyard.runtime.lifecycle import Runtime, Service, run_service
from nodeyard.runtime.settings import ServiceSettings

tries = 0

async def build(settings: ServiceSettings, runtime: Runtime) -> Service:
    global tries
    tries += 1
    runtime.closing.callback(lambda: print("closed", tries, flush=True))
    if tries == 1:
        raise OSError("the API server is away")

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            print("loop ended", flush=True)

    return Service(loops={"forever": forever}, register=lambda server: None)

run_service("sample", ServiceSettings, build)
"""


def test_a_service_tries_again_says_where_it_listens_and_ends_cleanly_on_sigterm(tmp_path: Path) -> None:
    endpoints = tmp_path / "endpoints.json"
    child = subprocess.Popen(
        [sys.executable, "-c", SERVICE],
        env={"NODEYARD_ENDPOINTS_FILE": str(endpoints), "NODEYARD_REPLICA": "r1", "PATH": ""},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while not endpoints.exists() and time.monotonic() < deadline and child.poll() is None:
            time.sleep(0.02)
        facts = json.loads(endpoints.read_text())
        assert (facts["service"], facts["replica"], facts["pid"]) == ("sample", "r1", child.pid)
        assert httpx.get(f"http://{facts['http']}/readyz").status_code == 200
        assert facts["grpc"].startswith("127.0.0.1:")
        child.send_signal(signal.SIGTERM)
        out, err = child.communicate(timeout=60)
    finally:
        child.kill()
        child.wait()
    assert child.returncode == 0, err
    assert out.splitlines() == ["closed 1", "loop ended", "closed 2"]
    events = [json.loads(line)["event"] for line in err.splitlines()]
    assert "service can't start yet and tries again" in events
    assert events[-1] == "service ended"


def test_a_service_refuses_a_bad_variable_by_name() -> None:
    result = subprocess.run(
        [sys.executable, "-c", SERVICE],
        env={"NODEYARD_LOG_LEVEL": "loud", "PATH": ""},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert result.returncode == 2
    assert "NODEYARD_LOG_LEVEL" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(("wanted", "dies_at"), [("a.before", 1), ("a.before:3", 3), ("other", 0), ("", 0)])
def test_a_kill_point_kills_at_the_wanted_passing_only(wanted: str, dies_at: int) -> None:
    code = (
        "from nodeyard.runtime.lifecycle import kill_point\n"
        "for n in range(1, 5):\n    kill_point('a.before')\n    print(n, flush=True)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], env={"NODEYARD_KILL_POINT": wanted, "PATH": ""},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert result.returncode == (-signal.SIGKILL if dies_at else 0)
    assert len(result.stdout.split()) == (dies_at - 1 if dies_at else 4)


def test_a_kill_point_in_a_file_kills_one_process_from_the_moment_it_is_there(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom nodeyard.runtime.lifecycle import kill_point\n"
        "print('up', flush=True)\n"
        "for line in sys.stdin:\n    kill_point(line.strip())\n    print('alive', flush=True)\n"
    )
    point = tmp_path / "point"
    children = [
        subprocess.Popen(
            [sys.executable, "-c", code], env={"NODEYARD_KILL_POINT": f"@{point}", "PATH": ""},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip

    def after(child: subprocess.Popen[str], passed: str) -> str:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(f"{passed}\n")
        child.stdin.flush()
        return child.stdout.readline().strip()

    first, second = children
    try:
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == "up\n"
        assert after(first, "a.before") == "alive"
        point.write_text("a.before")
        assert after(first, "a.after") == "alive"
        assert after(first, "a.before") == ""
        assert first.wait(timeout=60) == -signal.SIGKILL
        assert after(second, "a.before") == "alive"
    finally:
        for child in children:
            child.kill()
            child.communicate()


def test_without_the_variable_a_kill_point_does_nothing() -> None:
    kill_point("a.before", {})


def test_delays_double_up_to_the_limit_and_are_shortened_by_chance() -> None:
    backoff = Backoff(1.0, 8.0, jitter=0.5, chance=lambda: 0.0)
    assert [backoff.next_s() for _ in range(5)] == [1.0, 2.0, 4.0, 8.0, 8.0]
    backoff.reset()
    shortened = Backoff(1.0, 8.0, jitter=0.5, chance=lambda: 1.0)
    assert (backoff.next_s(), shortened.next_s()) == (1.0, 0.5)

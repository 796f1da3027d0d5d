"""The life of a service's process: settings, servers, loops that are restarted when they fail, a graceful end.

A composition root calls `run_service(name, settings_class, build)`. `build` gets the settings and a `Runtime` and
gives a `Service` back; it may do I/O (connect somewhere) and is tried again, with backoff and a readable readiness
reason, while that fails. Loops are supervised: the guard here is the only broad except of a service.
The kill points are the fault suite's hook: see `kill_point`.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import grpc.aio
from prometheus_client import CollectorRegistry

from nodeyard import __version__
from nodeyard.runtime import grpc_server, http, logging, metrics, settings
from nodeyard.runtime.backoff import Backoff
from nodeyard.runtime.clock import Clock, SystemClock
from nodeyard.runtime.settings import ServiceSettings, SettingsError

Loop = Callable[[], Awaitable[None]]
_GRACE_S: Final = 8.0
"""For loops and clean-ups at the end; under Kubernetes' default grace period of 30 s, with room for drains."""

log = logging.get_logger("nodeyard.runtime.lifecycle")


class StartError(Exception):
    """The service can't start and trying again won't help; the message says why."""


@dataclass(frozen=True)
class Service:
    """What a composition root gives the lifecycle.

    `loops`: name -> coroutine function that runs until cancelled; one that fails is started again, one that returns
    is done. `ready`: the reason for not being ready, None when ready. `register`: adds gRPC servicers.
    `app`: an ASGI app beside health and metrics.
    """

    loops: Mapping[str, Loop] = field(default_factory=dict)
    ready: Callable[[], str | None] = lambda: None
    register: Callable[[grpc.aio.Server], None] | None = None
    app: http.App | None = None


@dataclass(frozen=True)
class Runtime:
    """What `build` may use. `closing` takes clean-ups, run last in first out after the loops have ended."""

    name: str
    replica: str
    clock: Clock
    registry: CollectorRegistry
    measures: metrics.RuntimeMetrics
    closing: AsyncExitStack


S = TypeVar("S", bound=ServiceSettings)


def run_service(
    name: str,
    settings_class: type[S],
    build: Callable[[S, Runtime], Awaitable[Service]],
    environ: Mapping[str, str] | None = None,
) -> None:
    """Runs the service until SIGTERM or SIGINT, then exits the process: 0, or 2 when it could not be started."""
    try:
        read = settings.load(settings_class, os.environ if environ is None else environ)
    except SettingsError as error:
        print(f"{name}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    logging.configure(log_format=read.log_format, level=read.log_level, service=name, replica=read.replica)
    log.info("service starts", version=__version__, pid=os.getpid(), settings=settings.shown(read))
    try:
        asyncio.run(_Life(name, read, build).run())
    except (StartError, http.ListenError) as error:
        log.error("service can't start", reason=str(error))
        raise SystemExit(2) from None
    log.info("service ended")


def kill_point(name: str, environ: Mapping[str, str] = os.environ) -> None:
    """Kills this process with SIGKILL where NODEYARD_KILL_POINT says so; otherwise does nothing.

    The variable is `<name>` (the first passing) or `<name>:<n>` (the n-th); or `@<path>` of a file that says it from
    the moment it is there, and of which the process that dies disposes first, so that of several only one dies. It
    exists for the fault suite, which checks that a service may die before and after each of its outside writes.
    """
    wanted = environ.get("NODEYARD_KILL_POINT")
    if not wanted:
        return
    file = Path(wanted[1:]) if wanted.startswith("@") else None
    try:
        point, _, count = (file.read_text() if file else wanted).partition(":")
        if point != name:
            return
        _passed[name] = _passed.get(name, 0) + 1
        if _passed[name] < int(count or "1"):
            return
        if file:
            file.unlink()
    except FileNotFoundError:  # nobody is to die now, or another does
        return
    os.kill(os.getpid(), signal.SIGKILL)


_passed: dict[str, int] = {}


async def supervise(
    name: str,
    loop: Loop,
    clock: Clock,
    measures: metrics.RuntimeMetrics | None = None,
    backoff: Backoff | None = None,
) -> None:
    """Runs `loop`, again whenever it fails, after 0.5 s at first and 30 s at last. Returns when the loop returns."""
    delay = backoff or Backoff(0.5, 30.0)
    while True:
        started = clock.monotonic()
        _running(measures, name, 1)
        try:
            await loop()
            return
        except asyncio.CancelledError:
            raise
        except Exception as error:  # the loop guard: one loop's bug must not take the service down
            if clock.monotonic() - started > 60.0:
                delay.reset()
            wait_s = delay.next_s()
            log.error(
                "loop failed and will be started again",
                loop=name, error=f"{type(error).__name__}: {error}", wait_s=round(wait_s, 2), failures=delay.failures,
                exc_info=error,
            )  # fmt: skip
            if measures is not None:
                measures.loop_failures.labels(name).inc()
        finally:
            _running(measures, name, 0)
        await clock.sleep(wait_s)


def _running(measures: metrics.RuntimeMetrics | None, name: str, value: int) -> None:
    if measures is not None:
        measures.loops_running.labels(name).set(value)


class _Life(Generic[S]):
    """One run of a service, from the first health answer to the last clean-up."""

    def __init__(
        self,
        name: str,
        read: S,
        build: Callable[[S, Runtime], Awaitable[Service]],
        clock: Clock | None = None,
    ) -> None:
        self._name = name
        self._settings = read
        self._build = build
        self._clock = clock or SystemClock()
        self._registry = metrics.new_registry()
        self._measures = metrics.RuntimeMetrics(self._registry, service=name, version=__version__)
        self._stopping = asyncio.Event()
        self._service: Service | None = None
        self._waiting_for = "starting"

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        lag = asyncio.create_task(self._measure_lag(), name="lag")
        front = await http.serve(
            self._app, self._settings.http_listen, ready=self._unready, registry=self._registry
        )
        try:
            await self._work(front)
        finally:
            lag.cancel()
            await front.stop()

    async def _work(self, front: http.HttpServer) -> None:
        async with AsyncExitStack() as closing:
            built = await self._until_stopping(self._build_patiently(closing))
            if built is None:
                return
            server: grpc.aio.Server | None = None
            grpc_port = 0
            if built.register is not None:
                server, grpc_port = await grpc_server.serve(built.register, self._settings.grpc_listen)
            self._service = built
            self._write_endpoints(front, grpc_port)
            tasks = [
                asyncio.create_task(supervise(name, loop, self._clock, self._measures), name=name)
                for name, loop in built.loops.items()
            ]
            await self._stopping.wait()
            log.info("service stops")
            await _cancel(tasks)
            if server is not None:
                await server.stop(1.0)

    async def _build_patiently(self, closing: AsyncExitStack) -> Service:
        delay = Backoff(0.5, 15.0)
        while True:
            attempt = AsyncExitStack()
            runtime = Runtime(
                self._name, self._settings.replica, self._clock, self._registry, self._measures, attempt
            )
            try:
                service = await self._build(self._settings, runtime)
            except (StartError, http.ListenError):
                await attempt.aclose()
                raise
            except Exception as error:  # noqa: BLE001 - whatever is not there yet may come: say so and try again
                await attempt.aclose()
                wait_s = delay.next_s()
                self._waiting_for = f"can't start yet: {error or type(error).__name__}"
                log.warning(
                    "service can't start yet and tries again",
                    error=f"{type(error).__name__}: {error}", wait_s=round(wait_s, 2),
                )  # fmt: skip
                await self._clock.sleep(wait_s)
            else:
                closing.push_async_callback(_within_grace, attempt)
                return service

    async def _until_stopping(self, work: Coroutine[Any, Any, Service]) -> Service | None:
        """The result of `work`, or None when the end was asked for before it came."""
        doing = asyncio.create_task(work, name="build")
        stopping = asyncio.create_task(self._stopping.wait(), name="stopping")
        await asyncio.wait({doing, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if doing.done():
            return doing.result()
        await _cancel([doing])
        return None

    async def _app(self, scope: http.Scope, receive: http.Receive, send: http.Send) -> None:
        """The service's own app once there is one; an app's lifespan events are not used."""
        if scope["type"] == "lifespan":
            await _answer_lifespan(receive, send)
        elif self._service is not None and self._service.app is not None:
            await self._service.app(scope, receive, send)
        else:
            status = 404 if self._service is not None else 503
            await http.reply(send, status, b"not found\n" if status == 404 else b"starting\n")

    def _unready(self) -> str | None:
        if self._stopping.is_set():
            reason: str | None = "stopping"
        else:
            reason = self._waiting_for if self._service is None else self._service.ready()
        self._measures.ready.set(reason is None)
        return reason

    def _write_endpoints(self, front: http.HttpServer, grpc_port: int) -> None:
        facts: dict[str, str | int] = {
            "service": self._name,
            "replica": self._settings.replica,
            "pid": os.getpid(),
        }
        facts["http"] = front.address
        if grpc_port:
            host, _ = settings.split_address(self._settings.grpc_listen)
            facts["grpc"] = f"[{host}]:{grpc_port}" if ":" in host else f"{host}:{grpc_port}"
        log.info("service listens", **{key: facts[key] for key in ("http", "grpc") if key in facts})
        if self._settings.endpoints_file:
            path = Path(self._settings.endpoints_file)
            temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
            temporary.write_text(json.dumps(facts))
            temporary.replace(path)

    async def _measure_lag(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + 0.5
            await asyncio.sleep(0.5)
            self._measures.event_loop_lag.observe(max(0.0, loop.time() - due))


async def _cancel(tasks: Sequence["asyncio.Task[Any]"]) -> None:
    """Cancels tasks and waits for their clean-ups, at most the grace time."""
    for task in tasks:
        task.cancel()
    if not tasks:
        return
    _, late = await asyncio.wait(tasks, timeout=_GRACE_S)
    if late:
        log.warning("loops did not end in time", loops=sorted(task.get_name() for task in late))


async def _within_grace(stack: AsyncExitStack) -> None:
    try:
        await asyncio.wait_for(stack.aclose(), _GRACE_S)
    except TimeoutError:
        log.warning("clean-ups did not end in time", after_s=_GRACE_S)


async def _answer_lifespan(receive: http.Receive, send: http.Send) -> None:
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return

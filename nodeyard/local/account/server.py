"""Runs the account: the HTTP port in threads of this process, and the machines in one more.

`AccountServer` is what the process's entry point and in-process tests share; it owns starting and stopping, in order.
Connections are kept alive and small answers sent at once (a delayed ACK would cost 40 ms on each).
"""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from moto.moto_server.werkzeug_app import MotoRequestHandler
from werkzeug.serving import make_server

from nodeyard.local.account.account import Account
from nodeyard.local.account.board import Board
from nodeyard.local.account.front import Front
from nodeyard.local.account.machines.yard import Yard


class _Handler(MotoRequestHandler):
    """Keep-alive, no Nagle, no access log (the call log has it all)."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 65_536

    def log(self, *_args: Any, **_kwargs: Any) -> None:
        """Nothing: the account keeps its own log of calls."""


class AccountServer:
    """A running account; one per process at a time, since moto's models are the process's.

    `url` is its endpoint; `account` its inside, for tests; `port` 0 takes a free one. `host` is loopback but in a container.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        host: str = "127.0.0.1",
        region: str = "eu-west-1",
        cluster: str = "nodeyard",
        seed: int = 7,
        kubeconfig: Path | None = None,
    ) -> None:
        self.account = Account(region=region, cluster=cluster, seed=seed)
        self.yard = Yard(self.account, kubeconfig) if kubeconfig is not None else None
        board = Board(self.account, self.yard.shown if self.yard else list)
        self._server = make_server(
            host, port, Front(self.account, board), threaded=True, request_handler=_Handler
        )
        self._server.daemon_threads = True  # type: ignore[attr-defined]
        self.port = int(self._server.server_port)
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="account-http", daemon=True
        )
        self._thread.start()
        if self.yard is not None:
            self.yard.start()

    def close(self) -> None:
        """Stop machines, port and clock."""
        if self.yard is not None:
            self.yard.stop()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)
        self.account.close()

    def __enter__(self) -> AccountServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

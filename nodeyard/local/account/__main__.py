"""`python -m nodeyard.local.account`: the simulated account as a process.

Listens on loopback, unless `--host` says otherwise (in a container). Prints one line when it is ready; ends on SIGTERM or Ctrl-C. With `--kubeconfig` the
instances it launches join that cluster.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from pathlib import Path

import structlog


def main(arguments: list[str] | None = None) -> int:
    """Run until told to stop; the exit code."""
    wanted = _parser().parse_args(arguments)
    if wanted.kubeconfig is not None and not wanted.kubeconfig.is_file():
        print(f"--kubeconfig: no such file: {wanted.kubeconfig}", file=sys.stderr)
        return 2
    _configure_logging()
    # After the arguments: moto takes a second or two to load.
    from nodeyard.local.account.server import AccountServer

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        server = AccountServer(
            port=wanted.port,
            host=wanted.host,
            region=wanted.region,
            cluster=wanted.cluster_name,
            seed=wanted.seed,
            kubeconfig=wanted.kubeconfig,
        )
    except OSError as error:
        print(f"--port {wanted.port}: {error.strerror}", file=sys.stderr)
        return 1
    with server:
        facts = {
            "url": server.url,
            "pid": os.getpid(),
            "region": wanted.region,
            "cluster": wanted.cluster_name,
        }
        if wanted.state_dir is not None:
            wanted.state_dir.mkdir(parents=True, exist_ok=True)
            (wanted.state_dir / "account.json").write_text(json.dumps(facts))
        print(f"the simulated account is ready at {server.url}", flush=True)
        stop.wait()
    return 0


def _configure_logging() -> None:
    """One JSON object a line on standard error; tracebacks without the locals, which hold whole fleets."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger("info"),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nodeyard.local.account", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="port; 0 takes a free one")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen at; other than loopback in containers only"
    )
    parser.add_argument("--state-dir", type=Path, help="where account.json (url, pid) is written")
    parser.add_argument(
        "--kubeconfig", type=Path, help="the cluster that the machines join; without it they don't"
    )
    parser.add_argument("--cluster-name", default=os.environ.get("NODEYARD_CLUSTER_NAME", "nodeyard"))
    parser.add_argument("--region", default=os.environ.get("AWS_REGION", "eu-west-1"))
    parser.add_argument("--seed", type=int, default=7, help="of the spot market")
    return parser


if __name__ == "__main__":
    sys.exit(main())

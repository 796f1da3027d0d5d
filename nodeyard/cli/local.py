"""`nodeyard local`: everything on one machine, up and down.

A thin shell over `nodeyard.local.stand`: it turns options into a Stand, prints where things are, and turns
failures into one clear message and exit status 1.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from nodeyard.local.binaries import Binaries
from nodeyard.local.errors import StandError
from nodeyard.local.probe import succeeds
from nodeyard.local.processes import Processes, is_running
from nodeyard.local.progress import LineProgress
from nodeyard.local.stand import Options, Stand, default_directory, read_endpoints, stop_directory

app = typer.Typer(
    help="Everything on this machine: a real control plane, Redis, a simulated AWS account, the services.",
    no_args_is_help=True,
)

Name = Annotated[str, typer.Option(help="Name of the stand; stands of different names run side by side.")]
Directory = Annotated[
    Path | None,
    typer.Option("--dir", help="Where state and logs go. [default: ~/.local/state/nodeyard/NAME]"),
]


@contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except StandError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from error


@app.command()
def up(
    name: Name = "default",
    directory: Directory = None,
    control_plane_only: Annotated[
        bool, typer.Option("--control-plane-only", help="Only the Kubernetes control plane.")
    ] = False,
    services: Annotated[bool, typer.Option(help="Start the five services as well.")] = True,
    replicas: Annotated[int, typer.Option(min=1, max=5, help="Replicas of each service.")] = 1,
    kind: Annotated[
        bool, typer.Option("--kind", help="Use a kind cluster (needs Docker and kind) instead of our own.")
    ] = False,
) -> None:
    """Bring everything up; it stays up until `nodeyard local down`."""
    where = (directory or default_directory(name)).absolute()
    parts = "control-plane" if control_plane_only else "services" if services else "account"
    with _failures():
        known = read_endpoints(where)
        if known is not None and _everything_runs(where):
            print(f"already up under {where}")
        else:
            options = Options(name=name, parts=parts, replicas=replicas, kind=kind, detached=True)
            Stand(where, options, progress=LineProgress()).start()
            known = read_endpoints(where)
        _explain(known or {})


def _everything_runs(directory: Path) -> bool:
    records = Processes(directory).records()
    return bool(records) and all(is_running(record) for record in records)


def _explain(known: dict[str, Any]) -> None:
    print(f"export KUBECONFIG={known.get('kubeconfig')}")
    for variable, value in known.get("aws_environment", {}).items():
        if variable.startswith(("AWS_ENDPOINT", "AWS_ACCESS", "AWS_SECRET", "AWS_REGION")):
            print(f"export {variable}={value}")
    for service, replicas in known.get("services", {}).items():
        print(f"# {service}: {', '.join(each['url'] for each in replicas)}")


@app.command()
def down(
    name: Name = "default",
    directory: Directory = None,
    every: Annotated[bool, typer.Option("--all", help="Every stand of the default place.")] = False,
) -> None:
    """Stop everything that runs under a stand's directory."""
    chosen = (directory or default_directory(name)).absolute()
    places = sorted(path.parent for path in chosen.parent.glob("*/run")) if every else [chosen]
    with _failures():
        stopped = {place: stop_directory(place) for place in places if place.exists()}
    if not any(stopped.values()):
        print("nothing was running")
    for place, names in stopped.items():
        if names:
            print(f"{place.name}: stopped {', '.join(names)}")


@app.command()
def status(name: Name = "default", directory: Directory = None) -> None:
    """Show what runs; exit status 1 when something that was started does not."""
    where = (directory or default_directory(name)).absolute()
    known = read_endpoints(where) or {}
    records = Processes(where).records() if where.exists() else []
    if not records:
        print(f"nothing runs under {where}")
        raise typer.Exit(1)
    table = Table("component", "pid", "state", "log")
    for record in records:
        table.add_row(
            record.name, str(record.pid), _state(record.name, is_running(record), known), record.log
        )
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    if not all(is_running(record) for record in records):
        raise typer.Exit(1)


def _state(component: str, running: bool, known: dict[str, Any]) -> str:
    if not running:
        return "ended"
    service, _, replica = component.rpartition("-")
    endpoints = known.get("services", {}).get(service)
    if not endpoints or not replica.isdigit() or int(replica) >= len(endpoints):
        return "running"
    return "ready" if succeeds(f"{endpoints[int(replica)]['url']}/readyz") else "running, not ready"


@app.command()
def logs(
    component: Annotated[
        str | None, typer.Argument(help="E.g. kube-apiserver, account, allocator-0.")
    ] = None,
    name: Name = "default",
    directory: Directory = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as more is written.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many lines from the end.")] = 200,
) -> None:
    """Show a component's log, or name the components that have one."""
    folder = (directory or default_directory(name)).absolute() / "logs"
    known = sorted(path.stem for path in folder.glob("*.log"))
    if component is None:
        print("\n".join(known) if known else f"no logs under {folder}")
        return
    if component not in known:
        has = f"there are: {', '.join(known)}" if known else "there are none"
        print(f"error: no log of {component} under {folder}; {has}", file=sys.stderr)
        raise typer.Exit(1)
    with (folder / f"{component}.log").open(errors="replace") as file:
        for line in deque(file, maxlen=lines):
            print(line, end="")
        while follow:
            if line := file.readline():
                print(line, end="", flush=True)
            else:
                time.sleep(0.2)


@app.command()
def fetch() -> None:
    """Find, fetch or build the control plane's programs, so that `up` and the tests start at once."""
    with _failures():
        for program, path in Binaries().resolve(LineProgress()).items():
            print(f"{program}: {path}")

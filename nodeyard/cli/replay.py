"""`nodeyard replay`: policies side by side over a trace of pods and prices in simulated time. Touches no cluster.

Pods come from a CSV, from what Kubernetes told of them, or from the generator; pools from `files` or the generator's
own; prices from a catalogue and a CSV or a walk. Prints a table (or JSON) and draws an SVG. Exit status: 0, or 2 for
unusable input (the message names file, line and field). docs/replay.md has the formats.
"""

from __future__ import annotations

import enum
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from nodeyard.api.nodeclass import NodeClass
from nodeyard.cli.files import InputError, read_catalogue_file, read_objects, read_text
from nodeyard.cli.market import REGION, catalogues
from nodeyard.cloudprovider.model import Catalogue
from nodeyard.replay import generating
from nodeyard.replay.bound import hourly_bound
from nodeyard.replay.events import pods_from_events
from nodeyard.replay.generating import Season
from nodeyard.replay.market import Market, market_of
from nodeyard.replay.plot import svg
from nodeyard.replay.policy import POLICIES, PolicyError, policy_of
from nodeyard.replay.reading import pod_rows, read_pods, read_prices
from nodeyard.replay.result import Result
from nodeyard.replay.simulation import planner_options, replay
from nodeyard.replay.trace import Trace, TraceError
from nodeyard.state.cluster import Change, Kind, snapshot_of
from nodeyard.state.manifests import ManifestError, changes_from

app = typer.Typer(add_completion=False)
UNUSABLE = 2
_SPOKEN = frozenset({Kind.POOL, Kind.NODE_CLASS, Kind.DAEMON_SET, Kind.SHAPE})


class Output(enum.StrEnum):
    TABLE = "table"
    JSON = "json"


@app.callback(invoke_without_command=True)
def command(
    trace: Annotated[str | None, typer.Option(help="Pods as CSV, - for standard input. [default: generated]")] = None,
    events: Annotated[
        str | None, typer.Option(help="Pods as Kubernetes objects or watch events (JSON or YAML documents).")
    ] = None,
    prices: Annotated[str | None, typer.Option(help="Price moves and reclaims as CSV. [default: generated]")] = None,
    files: Annotated[
        list[str] | None, typer.Option("--filename", "-f", help="NodePools, node classes, DaemonSets (repeatable).")
    ] = None,
    catalog: Annotated[
        str | None, typer.Option(help="Catalogue as JSON Lines. [default: the simulated account's]")
    ] = None,
    region: Annotated[str, typer.Option(help="Region of the simulated account.")] = REGION,
    policies: Annotated[
        list[str] | None,
        typer.Option(
            "--policy", "-p",
            help=f"NAME or NAME:setting=value,... (repeatable) of {', '.join(POLICIES)}. [default: nodeyard, baseline]",
        ),
    ] = None,
    days: Annotated[float, typer.Option(help="Days to generate.", min=0.01, max=366)] = 7.0,
    pods_per_day: Annotated[int, typer.Option(help="Pods a day to generate.", min=1, max=1_000_000)] = 20_000,
    replicas: Annotated[int, typer.Option(help="Replicas of all generated services together.", min=0)] = Season().replicas,
    seed: Annotated[int, typer.Option(help="Of everything generated.", min=0)] = 1,
    plot: Annotated[Path | None, typer.Option(help="Where to draw an SVG.")] = None,
    save_trace: Annotated[Path | None, typer.Option(help="Where to write the trace as CSV.")] = None,
    output: Annotated[Output, typer.Option("--output", "-o")] = Output.TABLE,
) -> None:  # fmt: skip
    """Replay a trace of pods and prices under several policies and compare them."""
    try:
        chosen = [policy_of(text) for text in policies or ["nodeyard", "baseline"]]
        season = Season(days=days, pods_per_day=pods_per_day, replicas=replicas)
        objects = _objects(files or [])
        catalogue = _catalogue(catalog, region, objects)
        played, market = _input(trace, events, prices, season, catalogue, seed)
        if save_trace is not None:
            save_trace.write_text("\n".join(pod_rows(played)) + "\n")
        results = _results(played, market, objects, chosen)
        if plot is not None:
            plot.write_text(svg(results))
    except (InputError, TraceError, PolicyError, OSError) as error:
        print(f"nodeyard replay: {error}", file=sys.stderr)
        raise typer.Exit(UNUSABLE) from error
    if output is Output.JSON:
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(report(results)), indent=1) + b"\n")
    else:
        Console(width=None if sys.stdout.isatty() else 160).print(table(results))


def _objects(files: Sequence[str]) -> list[Change]:
    """What the cluster allows: pools and what belongs to them. Raises InputError."""
    if not files:
        made = [Change(Kind.POOL, pool.key, pool) for pool in generating.pools()]
        return [*made, Change(Kind.NODE_CLASS, "default", NodeClass("default"))]
    try:
        changes = changes_from([item.object for item in read_objects(files)])
    except ManifestError as error:
        raise InputError(str(error)) from error
    kept = [change for change in changes if change.kind in _SPOKEN]
    pools = [c.value for c in kept if c.kind is Kind.POOL and c.value is not None]
    if not pools:
        raise InputError(f"{', '.join(files)}: no NodePool in it")
    for pool in pools:
        if pool.problems:
            raise InputError(f"NodePool {pool.key}: {pool.problems[0]}")
    return kept


def _catalogue(file: str | None, region: str, objects: Sequence[Change]) -> Catalogue:
    if file:
        return read_catalogue_file(file)
    found = catalogues(snapshot_of(objects), file=None, pricing=None, region=region, now=time.time())
    return next(iter(found.values()))


def _input(
    trace: str | None, events: str | None, prices: str | None, season: Season, catalogue: Catalogue, seed: int
) -> tuple[Trace, Market]:
    """The pods and the prices. Raises InputError, TraceError."""
    if trace and events:
        raise InputError("--trace and --events: give one of them")
    if not trace and not events:
        played, market = generating.generate(season, catalogue, seed)
    else:
        played = _read_trace(trace) if trace else _read_events(events or "")
        walk = msgspec.structs.replace(season, days=max(played.length_s, 1.0) / generating.DAY_S)
        market = generating.walking(walk, catalogue, np.random.default_rng([seed, 1]))
    if prices:
        try:
            market = market_of(catalogue, *read_prices(read_text(prices).decode().splitlines()))
        except (TraceError, UnicodeDecodeError) as error:
            raise InputError(f"{prices}: {error}") from error
    return played, market


def _read_trace(path: str) -> Trace:
    try:
        return read_pods(read_text(path).decode().splitlines())
    except (TraceError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {error}") from error


def _read_events(path: str) -> Trace:
    try:
        return pods_from_events(read_watch(read_text(path)))
    except TraceError as error:
        raise InputError(f"{path}: {error}") from error


def read_watch(data: bytes) -> list[dict[str, Any]]:
    """Objects or events: one JSON document (a list, a List) or one a line, as `kubectl get pods --watch
    --output-watch-events -o json` writes them with `jq -c`. Raises TraceError naming the line.
    """
    try:
        whole = msgspec.json.decode(data)
    except msgspec.DecodeError:
        whole = [_line(number, line) for number, line in enumerate(data.splitlines(), 1) if line.strip()]
    if isinstance(whole, dict):
        whole = whole["items"] if isinstance(whole.get("items"), list) else [whole]
    if not isinstance(whole, list) or not all(isinstance(item, dict) for item in whole):
        raise TraceError("neither Kubernetes objects nor watch events")
    return [item if "kind" in item or "object" in item else {"kind": "Pod", **item} for item in whole]


def _line(number: int, line: bytes) -> Any:
    try:
        return msgspec.json.decode(line)
    except msgspec.DecodeError as error:
        raise TraceError(f"line {number}: not JSON: {error}") from None


def _results(
    played: Trace, market: Market, objects: Sequence[Change], policies: Sequence[Any]
) -> list[Result]:
    bounds: dict[float, Any] = {}
    out = []
    for policy in policies:
        charge = policy.node_charge_usd_per_hour
        if charge not in bounds:
            bounds[charge] = hourly_bound(played, market, objects, planner_options(policy))
        out.append(replay(played, market, objects, policy, bound=bounds[charge]))
    return out


# --- showing ------------------------------------------------------------------------------------------------------------
def report(results: Sequence[Result]) -> list[dict[str, Any]]:
    """The results as JSON: totals, then the hours."""
    out = []
    for one in results:
        totals = msgspec.to_builtins(one)
        out.append({**totals, "cost": one.cost, "overBound": one.over_bound})
    return out


def table(results: Sequence[Result]) -> Table:
    """The results side by side."""
    made = Table(title=f"{results[0].length_s / 86400:.2f} days" if results else None)
    for name in ("policy", "cost $", "rent $", "bound $", "over bound", "of the dearest", "node-hours", "moves",
                 "evictions", "interrupted", "waited", "mean wait s", "p99 wait s", "pending"):  # fmt: skip
        made.add_column(name, justify="left" if name == "policy" else "right")
    dearest = max((r.cost for r in results), default=0.0) or 1.0
    for r in results:
        made.add_row(
            r.policy.name, f"{r.cost:.2f}", f"{r.rent:.2f}", f"{r.bound:.2f}", f"{r.over_bound:+.1%}",
            f"{r.cost / dearest:.1%}", f"{r.node_hours:.0f}", str(r.moves), str(r.evictions), str(r.interruptions),
            f"{r.waits.waited}/{r.waits.pods}", f"{r.waits.mean_s:.1f}", f"{r.waits.p99_s:.0f}", str(r.pending),
        )  # fmt: skip
    return made

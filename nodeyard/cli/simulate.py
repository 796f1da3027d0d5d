"""`nodeyard simulate`: what the reallocator would make of a cluster, from files or read from a running one.

`consolidate` plays a consolidation to its end: the nodes that would be left, the steps there, the bound that says how
far that is from the cheapest there can be, and why each node that stays does. Writes nothing. Exit status as for
`nodeyard plan`: 0, 3 where some pods have no place at the end, 2 for unusable input.
"""

from __future__ import annotations

import sys
import time
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from nodeyard.cli.plan import SOME_LEFT
from nodeyard.cli.simulate_reading import Output, Reading, reads
from nodeyard.cli.simulate_whatif import add, drain_zone, pool, price, remove, replace
from nodeyard.disruption.consolidation import Play, Played, Settings
from nodeyard.disruption.report import played_json
from nodeyard.provisioning.model import Options

app = typer.Typer(add_completion=False, no_args_is_help=True)
for question in (remove, replace, drain_zone, add, price, pool):
    app.command(question.__name__.replace("_", "-"))(question)


@app.callback()
def simulate() -> None:
    """What the reallocator would make of a cluster. Changes nothing."""


@app.command()
@reads
def consolidate(
    reading: Reading,
    disruption_price: Annotated[
        float,
        typer.Option(
            help="USD per hour that the eviction of one pod of no priority must save to be worth it.", min=0
        ),
    ] = Settings().disruption_usd,
    spot_to_spot: Annotated[
        bool, typer.Option(help="Exchange spot nodes for other spot nodes too.")
    ] = Settings().spot_to_spot,
    deadline: Annotated[
        float, typer.Option(help="Seconds after which the best found so far is taken.", min=0.1)
    ] = Settings().seconds,
) -> None:
    """Play a consolidation to its end: nodes left, steps there, and how far from the least possible that is."""
    settings = Settings(disruption_usd=disruption_price, spot_to_spot=spot_to_spot, seconds=deadline)
    options = Options(node_charge_usd_per_hour=reading.node_charge)
    played = Play(reading.view(), options, settings, time.monotonic).run()
    if reading.output is Output.JSON:
        sys.stdout.buffer.write(
            msgspec.json.format(msgspec.json.encode(played_json(played)), indent=1) + b"\n"
        )
    else:
        Console(width=None if sys.stdout.isatty() else 160).print(*_table(played), *_lines(played), sep="\n")
    if played.unplaced:
        raise typer.Exit(SOME_LEFT)


def _table(played: Played) -> list[Table | str]:
    if not played.steps:
        return ["no step is worth taking"]
    table = Table("step", "remove", "add", "evictions", "saves $/h", "reason", title="steps")
    for number, step in enumerate(played.steps, 1):
        table.add_row(
            str(number), ", ".join(step.remove), ", ".join(step.add), str(step.evictions),
            f"{step.saves_per_hour:.4f}", step.reason,
        )  # fmt: skip
    return [table]


def _lines(played: Played) -> list[str]:
    before, after = played.before, played.after
    lines = [
        f"before: {len(before.places)} nodes, {before.rent:.4f} USD/h rent, {before.cost:.4f} with charges",
        f"after:  {len(after.places)} nodes, {after.rent:.4f} USD/h rent, {after.cost:.4f} with charges",
        f"bound:  {played.bound:.4f} USD/h for any cluster that holds these pods",
    ]
    stays = [
        f"{name}: {block.message}" for name, block in sorted(played.kept.items()) if name in after.places
    ]
    return [*lines, *(f"kept {text}" for text in stays), *(f"no place for {pod}" for pod in played.unplaced)]

"""`nodeyard simulate remove`, `replace` and `drain-zone`: what would happen if these nodes went.

Each reads as `consolidate` does and prints moves, launches, blocks and money. Writes nothing. Exit status 0, 3 where
some pods would have no place, 2 for unusable input, which includes a node or zone that is not there.
"""

from __future__ import annotations

import sys
import time
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from nodeyard.cli.market import REGION
from nodeyard.cli.plan import SOME_LEFT
from nodeyard.cli.simulate_reading import Output, unusable, view_of
from nodeyard.disruption import whatif
from nodeyard.disruption.model import Planner, View
from nodeyard.provisioning.model import Options, Plan, Problem
from nodeyard.provisioning.planner import plan

Nodes = Annotated[list[str], typer.Argument(help="Names of nodes.")]
Files = Annotated[
    list[str] | None,
    typer.Option(
        "--filename",
        "-f",
        help="Objects: a file, a directory, or - for standard input (repeatable). [default: the current cluster]",
    ),
]
Kubeconfig = Annotated[str | None, typer.Option(help="Read the rest from this cluster.")]
Catalog = Annotated[str | None, typer.Option(help="What is on sale: a JSON Lines file.")]
Shown = Annotated[Output, typer.Option("--output", "-o", help="How to show it.")]
Charge = Annotated[float, typer.Option(help="USD per node-hour added to the rent.", min=0)]


def remove(
    nodes: Nodes,
    files: Files = None,
    kubeconfig: Kubeconfig = None,
    catalog: Catalog = None,
    output: Shown = Output.TABLE,
    node_charge: Charge = 0.01,
) -> None:
    """What if these nodes were removed: their pods on the nodes there are, or on new ones."""
    view = view_of(files or [], kubeconfig, catalog, None, REGION, node_charge)
    try:
        answer = whatif.without_nodes(view, nodes, _planner(node_charge))
    except whatif.UnknownNode as error:
        raise unusable(str(error)) from error
    _show(answer, output)


def replace(
    nodes: Nodes,
    files: Files = None,
    kubeconfig: Kubeconfig = None,
    catalog: Catalog = None,
    output: Shown = Output.TABLE,
    node_charge: Charge = 0.01,
) -> None:
    """What if these nodes were replaced: their pods on new nodes only."""
    view = view_of(files or [], kubeconfig, catalog, None, REGION, node_charge)
    try:
        answer = whatif.replaced(view, nodes, _planner(node_charge))
    except whatif.UnknownNode as error:
        raise unusable(str(error)) from error
    _show(answer, output)


def drain_zone(
    zone: Annotated[str, typer.Argument(help="Name of the zone.")],
    files: Files = None,
    kubeconfig: Kubeconfig = None,
    catalog: Catalog = None,
    output: Shown = Output.TABLE,
    node_charge: Charge = 0.01,
) -> None:
    """What if this zone were drained: its nodes gone, and nothing placed or bought there."""
    view: View = view_of(files or [], kubeconfig, catalog, None, REGION, node_charge)
    if zone not in (known := whatif.zones(view)):
        raise unusable(f"no zone {zone!r}; there are {', '.join(sorted(known)) or 'none'}")
    _show(whatif.drained_zone(view, zone, _planner(node_charge)), output)


def _planner(node_charge: float) -> Planner:
    options = Options(node_charge_usd_per_hour=node_charge)

    def planned(problem: Problem) -> Plan:
        return plan(problem, options, time.monotonic)

    return planned


def _show(answer: whatif.Answer, output: Output) -> None:
    if output is Output.JSON:
        shown = msgspec.json.format(msgspec.json.encode(whatif.answer_json(answer)), indent=1)
        sys.stdout.buffer.write(shown + b"\n")
    else:
        table = Table("pod", "from", "to", title=answer.action)
        for move in answer.moves:
            table.add_row(*move)
        Console(width=None if sys.stdout.isatty() else 160).print(table, *_lines(answer), sep="\n")
    if answer.plan.unschedulable:
        raise typer.Exit(SOME_LEFT)


def _lines(answer: whatif.Answer) -> list[str]:
    saves = answer.objective_before - answer.objective_after
    return [
        *(f"launch {n.name}: {n.instance_type} {n.zone} {n.capacity_type}" for n in answer.plan.nodes),
        *(f"blocked {node}: {block.message}" for node, block in answer.blocks),
        *(f"no place for {one.pod}: {one.message}" for one in answer.plan.unschedulable),
        *(f"price unknown: {node}" for node in answer.unpriced),
        f"before: {answer.rent_before:.4f} USD/h rent, {answer.objective_before:.4f} with charges",
        f"after:  {answer.rent_after:.4f} USD/h rent, {answer.objective_after:.4f} with charges",
        f"saves:  {saves:.4f} USD/h",
    ]

"""`nodeyard simulate remove`, `replace`, `drain-zone`, `add`, `price` and `pool`: what if things were otherwise.

Each asks one question (`nodeyard.disruption.asking`) of objects in files or of a running cluster, and prints moves,
launches, blocks and money. Writes nothing. Exit status 0, 3 where some pods would have no place, 2 for unusable input,
which includes a node, zone or offering that is not there.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from nodeyard.cli.files import InputError, read_objects
from nodeyard.cli.plan import SOME_LEFT
from nodeyard.cli.simulate_reading import Output, Reading, reads, unusable
from nodeyard.disruption import asking
from nodeyard.disruption.reaction import Price
from nodeyard.disruption.whatif import UnusableQuestion

Json = dict[str, Any]
Nodes = Annotated[list[str], typer.Argument(help="Names of nodes.")]
Deadline = Annotated[
    float, typer.Option(help="Seconds after which no further step is looked for.", min=0.1, max=120)
]


@reads
def remove(reading: Reading, nodes: Nodes) -> None:
    """What if these nodes were removed: their pods on the nodes there are, or on new ones."""
    _answer(reading, asking.Remove(tuple(nodes)))


@reads
def replace(reading: Reading, nodes: Nodes) -> None:
    """What if these nodes were replaced: their pods on new nodes only."""
    _answer(reading, asking.Replace(tuple(nodes)))


@reads
def drain_zone(reading: Reading, zone: Annotated[str, typer.Argument(help="Name of the zone.")]) -> None:
    """What if this zone were drained: its nodes gone, and nothing placed or bought there."""
    _answer(reading, asking.DrainZone(zone))


@reads
def add(
    reading: Reading,
    objects: Annotated[list[str], typer.Argument(help="Files with Nodes, Pods and workloads to add.")],
) -> None:
    """What if these nodes and pods came: where pods would go, what would be launched."""
    _answer(reading, asking.Add(_objects(objects)))


@reads
def price(
    reading: Reading,
    prices: Annotated[
        list[str],
        typer.Argument(
            metavar="PRICE",
            help="TYPE=USD, TYPE/ZONE=USD, TYPE/CAPACITY-TYPE=USD or TYPE/ZONE/CAPACITY-TYPE=USD",
        ),
    ],
    deadline: Deadline = asking.PATIENCE_S,
) -> None:
    """What if offerings had these prices: what the reallocator would do, step by step."""
    _answer(reading, asking.AtPrices(tuple(_price(text) for text in prices), deadline))


@reads
def pool(
    reading: Reading,
    objects: Annotated[list[str], typer.Argument(help="Files with NodePools as they would be.")],
    deadline: Deadline = asking.PATIENCE_S,
) -> None:
    """What if a NodePool were changed: which nodes drift, and what the reallocator would do, step by step."""
    _answer(reading, asking.ChangedPool(_objects(objects), deadline))


def _objects(files: list[str]) -> tuple[Json, ...]:
    try:
        return tuple(found.object for found in read_objects(files))
    except InputError as error:
        raise unusable(str(error)) from error


def _price(text: str) -> Price:
    """`TYPE[/ZONE][/CAPACITY-TYPE]=USD`."""
    what, _, usd = text.partition("=")
    name, *where = what.split("/")
    kinds = [part for part in where if part in ("on-demand", "spot", "reserved")]
    zones = [part for part in where if part not in kinds]
    try:
        amount = float(usd)
    except ValueError:
        amount = 0.0
    if not name or len(kinds) > 1 or len(zones) > 1 or not 0.0 < amount < float("inf"):
        raise unusable(f"price {text!r}: TYPE[/ZONE][/CAPACITY-TYPE]=USD is wanted, with USD above 0")
    return Price(name, amount, "".join(zones), "".join(kinds))


def _answer(reading: Reading, question: asking.Question) -> None:
    view = reading.view()
    try:
        answer = asking.asked(view, question, reading.planner(), time.monotonic)
    except UnusableQuestion as error:
        raise unusable(str(error)) from error
    if reading.output is Output.JSON:
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(answer), indent=1) + b"\n")
    else:
        steps = [step for step in answer.get("steps", [answer]) if step["moves"]]
        lines = [*_lines(answer), *_money(answer)]
        Console(width=None if sys.stdout.isatty() else 160).print(*map(_table, steps), *lines, sep="\n")
    if asking.unplaced(answer):
        raise typer.Exit(SOME_LEFT)


def _table(step: Json) -> Table:
    gone = f", without {', '.join(step['remove'])}" if step.get("remove") else ""
    table = Table("pod", "from", "to", title=step.get("action") or step["reason"] + gone)
    for move in step["moves"]:
        table.add_row(move["pod"], move["from"], move["to"])
    return table


def _lines(answer: Json) -> Iterator[str]:
    for step in answer.get("steps", [answer]):
        for node in step["launch"]:
            yield f"launch {node['name']}: {node['instanceType']} {node['zone']} {node['capacityType']}"
        yield from _drain(step["drain"])
        if step["singletons"]:
            yield f"only pod of its workload: {', '.join(step['singletons'])}"
    yield from (f"drifted {node}" for node in answer.get("drifted", ()))
    yield from (f"blocked {block['node']}: {block['message']}" for block in answer["blocks"])
    yield from (f"no place for {one['pod']}: {one['message']}" for one in answer["unschedulable"])
    yield from (f"price unknown: {node}" for node in answer.get("unpriced", ()))
    if not answer.get("complete", True):
        yield "there may be more steps: time was up (--deadline)"


def _drain(drain: Json) -> Iterator[str]:
    if drain["seconds"] is None:
        yield "drain:  nothing known ends it"
    elif drain["seconds"]:
        cut = ", cut short by the termination grace period" if drain["cutShort"] else ""
        yield f"drain:  at most {drain['seconds']:.0f} s{cut}"
    yield from (f"        {held}" for held in drain["heldBy"])


def _money(answer: Json) -> Iterator[str]:
    words = {"before": "before:", "unchanged": "as is: ", "after": "after: "}
    for name, word in words.items():
        if name in answer:
            cost = answer[name]
            rent, objective = cost["pricePerHour"], cost["objectivePerHour"]
            yield f"{word} {rent:.4f} USD/h rent, {objective:.4f} with charges"
    yield f"saves:  {answer['savesPerHour']:.4f} USD/h"

"""What every `nodeyard simulate` command reads: objects, what is on sale, and from them the view of one pass.

`reads` gives a command the options for it, once for all. Input that can't be used ends the command with status 2 and
a line that says what is wrong and where.
"""

from __future__ import annotations

import enum
import functools
import inspect
import sys
import time
from collections.abc import Callable
from typing import Annotated, Any, get_type_hints

import msgspec
import typer

from nodeyard.cli.files import Found, InputError
from nodeyard.cli.market import REGION, catalogues
from nodeyard.cli.options import NODE_CHARGE, Catalog, Files, Kubeconfig, NodeCharge, Pricing, Region
from nodeyard.cli.plan import UNUSABLE, gathered, snapshot_of_found
from nodeyard.disruption.completing import completed
from nodeyard.disruption.model import Options, Planner, View
from nodeyard.provisioning.model import Options as PlanOptions
from nodeyard.provisioning.model import Plan, Problem
from nodeyard.provisioning.planner import plan


class Output(enum.StrEnum):
    TABLE = "table"
    JSON = "json"


class Reading(msgspec.Struct, frozen=True):
    """The options that every command has; `node_charge` in USD per node-hour."""

    files: Files = None
    kubeconfig: Kubeconfig = None
    catalog: Catalog = None
    pricing: Pricing = None
    region: Region = REGION
    node_charge: NodeCharge = NODE_CHARGE
    output: Annotated[Output, typer.Option("--output", "-o", help="How to show it.")] = Output.TABLE

    def view(self) -> View:
        """The cluster as its controllers would show it now. Raises typer.Exit where it can't be read."""
        try:
            found = gathered(self.files or [], self.kubeconfig)
            snapshot = snapshot_of_found(found)
            now = time.time()
            offered = catalogues(
                snapshot, file=self.catalog, pricing=self.pricing, region=self.region, now=now
            )
        except InputError as error:
            raise unusable(str(error)) from error
        return View(
            completed(snapshot, offered, _uncounted(found)),
            offered,
            now,
            options=Options(node_charge_usd_per_hour=self.node_charge),
        )

    def planner(self) -> Planner:
        """The allocator's planner."""
        options = PlanOptions(
            node_charge_usd_per_hour=self.node_charge, bound=False, strict_reservations=False
        )

        def planned(problem: Problem) -> Plan:
            return plan(problem, options, time.monotonic)

        return planned


def reads(command: Callable[..., None]) -> Callable[..., None]:
    """The command, whose first parameter is a Reading, with a Reading's options in that one's place."""
    own = get_type_hints(command, include_extras=True)
    shared = get_type_hints(Reading, include_extras=True)
    defaults = msgspec.structs.asdict(Reading())

    @functools.wraps(command)
    def wrapped(**given: Any) -> None:
        reading = Reading(**{name: given.pop(name) for name in shared})
        command(reading, **given)

    kept = list(inspect.signature(command).parameters.values())[1:]
    plain = inspect.Parameter.KEYWORD_ONLY
    parameters = [p.replace(annotation=own[p.name], kind=plain) for p in kept] + [
        inspect.Parameter(name, plain, default=defaults[name], annotation=hint)
        for name, hint in shared.items()
    ]
    wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapped


def unusable(message: str) -> typer.Exit:
    """The end of the command, once the message is written."""
    print(f"nodeyard simulate: {message}", file=sys.stderr)
    return typer.Exit(UNUSABLE)


def _uncounted(found: list[Found]) -> set[str]:
    """Keys of PodDisruptionBudgets whose status does not say how many pods may go."""
    out = set()
    for item in found:
        if item.object.get("kind") == "PodDisruptionBudget":
            status: dict[str, Any] = item.object.get("status") or {}
            if status.get("disruptionsAllowed") is None:
                meta = item.object["metadata"]
                out.add(f"{meta.get('namespace') or 'default'}/{meta['name']}")
    return out

"""What every `nodeyard simulate` command reads: objects, what is on sale, and from them the view of one pass.

Input that can't be used ends the command with status 2 and a line that says what is wrong and where.
"""

from __future__ import annotations

import enum
import sys
import time
from collections.abc import Sequence
from typing import Any

import typer

from nodeyard.cli.files import Found, InputError
from nodeyard.cli.market import catalogues
from nodeyard.cli.plan import UNUSABLE, gathered, snapshot_of_found
from nodeyard.disruption.completing import completed
from nodeyard.disruption.model import Options, View


class Output(enum.StrEnum):
    TABLE = "table"
    JSON = "json"


def view_of(
    files: Sequence[str],
    kubeconfig: str | None,
    catalog: str | None,
    pricing: str | None,
    region: str,
    node_charge: float,
) -> View:
    """The cluster as its controllers would show it now; `node_charge` in USD per node-hour."""
    try:
        found = gathered(files, kubeconfig)
        snapshot = snapshot_of_found(found)
        now = time.time()
        offered = catalogues(snapshot, file=catalog, pricing=pricing, region=region, now=now)
    except InputError as error:
        raise unusable(str(error)) from error
    return View(
        completed(snapshot, offered, _uncounted(found)),
        offered,
        now,
        options=Options(node_charge_usd_per_hour=node_charge),
    )


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

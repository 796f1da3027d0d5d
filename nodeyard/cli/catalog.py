"""`nodeyard catalog`: the catalogue without a running service.

`export` asks AWS (or whatever AWS_ENDPOINT_URL names) for types and prices and writes them as JSON Lines, as a node
class of the given image family with a subnet in every zone would see them. Where a price source can't be asked, that
is said on standard error and estimates stand in, marked as such in each offering's `source`.
"""

from __future__ import annotations

import asyncio
import gzip
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from nodeyard.adapters.ec2.describe import read_spot_prices, read_types
from nodeyard.adapters.ec2.session import Ec2Session
from nodeyard.adapters.pricing.products import read_on_demand_prices
from nodeyard.api.nodeclass import Kubelet, NodeClass, Subnet
from nodeyard.cloudprovider.ami_families import FAMILIES
from nodeyard.cloudprovider.errors import CloudError
from nodeyard.cloudprovider.jsonl import catalogue_lines
from nodeyard.cloudprovider.market import PriceSheet, TypeTable, market_of
from nodeyard.cloudprovider.model import Catalogue
from nodeyard.cloudprovider.refusals import Shut
from nodeyard.cloudprovider.resolve import resolve

app = typer.Typer(help="What the cloud sells and at what price.", no_args_is_help=True)


@app.callback()
def catalog() -> None:
    """What the cloud sells and at what price."""


@app.command()
def export(
    region: Annotated[str | None, typer.Option(help="AWS region. [default: AWS_REGION]")] = None,
    ami_family: Annotated[
        str, typer.Option(help=f"Image family that allocatable is worked out for: {', '.join(FAMILIES)}.")
    ] = "AL2023",
    zones: Annotated[
        str, typer.Option(help="Only these zones (names or ids), comma-separated. [default: all]")
    ] = "",
    max_pods: Annotated[int | None, typer.Option(min=1, help="The kubelet's maxPods.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File; gzipped if it ends in .gz. [default: stdout]")
    ] = None,
) -> None:
    """Write the region's instance types as JSON Lines, one per line."""
    if ami_family not in FAMILIES:
        _fail(f"--ami-family: {ami_family!r} is none of {', '.join(FAMILIES)}")
    try:
        table, on_demand, spot = asyncio.run(_ask(region))
        node_class = _node_class(table, ami_family, zones, max_pods)
    except (CloudError, ValueError) as error:
        _fail(str(error))
    now = time.time()
    catalogue = resolve(market_of(table, on_demand, spot, Shut(), now=now), node_class, now=now)
    _write(catalogue, output)
    print(f"{len(catalogue)} instance types of {table.region}", file=sys.stderr)


async def _ask(region: str | None) -> tuple[TypeTable, PriceSheet | None, PriceSheet | None]:
    session = Ec2Session(region=region, threads=6)
    try:
        now = time.time()
        table, on_demand, spot = await asyncio.gather(
            read_types(session),
            read_on_demand_prices(session, now),
            read_spot_prices(session, now),
            return_exceptions=True,
        )
    finally:
        session.close()
    if isinstance(table, BaseException):
        raise table
    return table, _or_estimates(on_demand, "on-demand prices"), _or_estimates(spot, "spot prices")


def _or_estimates(answer: PriceSheet | BaseException, what: str) -> PriceSheet | None:
    if isinstance(answer, CloudError):
        print(f"warning: no {what}, estimates stand in: {answer}", file=sys.stderr)
        return None
    if isinstance(answer, BaseException):
        raise answer
    return answer


def _node_class(table: TypeTable, ami_family: str, zones: str, max_pods: int | None) -> NodeClass:
    wanted = {zone.strip() for zone in zones.split(",") if zone.strip()}
    known = {name for zone in table.zones for name in (zone.name, zone.id)}
    if not wanted <= known:
        offered = ", ".join(zone.name for zone in table.zones) or "none"
        raise ValueError(f"--zones: {', '.join(sorted(wanted - known))} not in {table.region} ({offered})")
    chosen = [zone for zone in table.zones if not wanted or zone.name in wanted or zone.id in wanted]
    return NodeClass(
        "export",
        ami_family=ami_family,
        kubelet=Kubelet(max_pods=max_pods),
        subnets=tuple(Subnet(f"any-{zone.name}", zone.name, zone.id) for zone in chosen),
    )


def _write(catalogue: Catalogue, output: Path | None) -> None:
    if output is None:
        sys.stdout.writelines(f"{line}\n" for line in catalogue_lines(catalogue))
        return
    with gzip.open(output, "wt") if output.suffix == ".gz" else output.open("w") as file:
        file.writelines(f"{line}\n" for line in catalogue_lines(catalogue))


def _fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    raise typer.Exit(1)

"""`nodeyard catalog`: the catalogue without a running service.

`export` asks AWS (or whatever AWS_ENDPOINT_URL names) for types and prices and writes them as JSON Lines, as a node
class of the given image family, or one in a file, with a subnet in every zone would see them. Where a price source
can't be asked, that is said on standard error and the price feed, if given, or estimates stand in, marked as such in
each offering's `source`.
"""

from __future__ import annotations

import asyncio
import gzip
import sys
import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from nodeyard.adapters.ec2.describe import read_spot_prices, read_types
from nodeyard.adapters.ec2.session import Ec2Session
from nodeyard.adapters.pricing.feed import fetch, problem_of
from nodeyard.adapters.pricing.products import read_on_demand_prices
from nodeyard.api.nodeclass import NodeClass, Subnet
from nodeyard.cli.files import InputError, read_objects
from nodeyard.cloudprovider.ami_families import FAMILIES
from nodeyard.cloudprovider.capacity import problems_of
from nodeyard.cloudprovider.errors import CloudError
from nodeyard.cloudprovider.feed import Feed, FeedError, read_feed, screened
from nodeyard.cloudprovider.jsonl import catalogue_lines
from nodeyard.cloudprovider.market import PriceSheet, Sheets, TypeTable, market_of
from nodeyard.cloudprovider.model import Catalogue
from nodeyard.cloudprovider.refusals import Shut
from nodeyard.cloudprovider.resolve import resolve
from nodeyard.state.manifests import ManifestError, snapshot_from

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
    reserved_interfaces: Annotated[
        int, typer.Option(min=0, help="Network interfaces of each instance that are kept from pods.")
    ] = 0,
    node_class: Annotated[
        Path | None,
        typer.Option(
            help="EC2NodeClass in a file, whose image family, kubelet settings and disks count instead."
        ),
    ] = None,
    price_feed: Annotated[
        str, typer.Option(help="file, http(s):// or s3:// prices for what AWS can't be asked for.")
    ] = "",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File; gzipped if it ends in .gz. [default: stdout]")
    ] = None,
) -> None:
    """Write the region's instance types as JSON Lines, one per line."""
    if ami_family not in FAMILIES:
        _fail(f"--ami-family: {ami_family!r} is none of {', '.join(FAMILIES)}")
    try:
        base = _class_in(node_class) if node_class else NodeClass("export", ami_family=ami_family)
        if max_pods is not None:
            kubelet = msgspec.structs.replace(base.kubelet, max_pods=max_pods)
            base = msgspec.structs.replace(base, kubelet=kubelet)
        table, on_demand, spot = asyncio.run(_ask(region, price_feed))
        table = TypeTable(table.region, table.zones, table.types, reserved_interfaces)
        wanted = msgspec.structs.replace(base, subnets=_subnets(table, zones))
    except (CloudError, InputError, ValueError) as error:
        _fail(str(error))
    now = time.time()
    catalogue = resolve(market_of(table, on_demand, spot, Shut(), now=now), wanted, now=now)
    _write(catalogue, output)
    print(f"{len(catalogue)} instance types of {table.region}", file=sys.stderr)


async def _ask(region: str | None, feed: str) -> tuple[TypeTable, Sheets, Sheets]:
    if feed and (problem := problem_of(feed)):
        raise ValueError(f"--price-feed: {feed}: {problem}")
    session = Ec2Session(region=region, threads=6)
    try:
        now = time.time()
        table, on_demand, spot = await asyncio.gather(
            read_types(session),
            read_on_demand_prices(session, now),
            read_spot_prices(session, now),
            return_exceptions=True,
        )
        if isinstance(table, BaseException):
            raise table
        backup = None
        if feed and not (isinstance(on_demand, PriceSheet) and isinstance(spot, PriceSheet)):
            backup = await _read_feed(feed, session, table, now)
    finally:
        session.close()
    return (
        table,
        _or_else(on_demand, "on-demand prices", backup.on_demand if backup else None),
        _or_else(spot, "spot prices", backup.spot if backup else None),
    )


async def _read_feed(address: str, session: Ec2Session, table: TypeTable, now: float) -> Feed | None:
    try:
        raw, modified_at = await fetch(address, session)
        feed = screened(read_feed(raw, session.region, modified_at or now), table)
    except (CloudError, FeedError) as error:
        print(f"warning: the price feed is of no use: {error}", file=sys.stderr)
        return None
    for problem in feed.problems:
        print(f"warning: price feed: {problem}", file=sys.stderr)
    return feed


def _or_else(answer: PriceSheet | BaseException, what: str, backup: PriceSheet | None) -> Sheets:
    if isinstance(answer, CloudError):
        stand_in = "the feed and estimates stand in" if backup is not None else "estimates stand in"
        print(f"warning: no {what}, {stand_in}: {answer}", file=sys.stderr)
        return backup
    if isinstance(answer, BaseException):
        raise answer
    return answer


def _class_in(path: Path) -> NodeClass:
    """The one EC2NodeClass in a file. Raises InputError."""
    try:
        found = list(snapshot_from(item.object for item in read_objects([str(path)])).node_classes.values())
    except ManifestError as error:
        raise InputError(f"{path}: {error}") from error
    if len(found) != 1:
        raise InputError(f"{path}: {len(found)} EC2NodeClasses in it, not one")
    problems = problems_of(found[0])
    if problems:
        raise InputError(f"{path}: {'; '.join(problems)}")
    return found[0]


def _subnets(table: TypeTable, zones: str) -> tuple[Subnet, ...]:
    """One in each zone asked for. Raises ValueError."""
    wanted = {zone.strip() for zone in zones.split(",") if zone.strip()}
    known = {name for zone in table.zones for name in (zone.name, zone.id)}
    if not wanted <= known:
        offered = ", ".join(zone.name for zone in table.zones) or "none"
        raise ValueError(f"--zones: {', '.join(sorted(wanted - known))} not in {table.region} ({offered})")
    chosen = [zone for zone in table.zones if not wanted or zone.name in wanted or zone.id in wanted]
    return tuple(Subnet(f"any-{zone.name}", zone.name, zone.id) for zone in chosen)


def _write(catalogue: Catalogue, output: Path | None) -> None:
    if output is None:
        sys.stdout.writelines(f"{line}\n" for line in catalogue_lines(catalogue))
        return
    with gzip.open(output, "wt") if output.suffix == ".gz" else output.open("w") as file:
        file.writelines(f"{line}\n" for line in catalogue_lines(catalogue))


def _fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    raise typer.Exit(1)

"""Where a plan from the command line buys: a catalogue file, a running pricing service, or the simulated account.

A file serves every node class alike. The other two are markets, which each class sees in its own way: its image
family and kubelet settings decide what a node has left for pods, its subnets the zones. A class that has not been
resolved in an account yet (no subnets in its status), or that is not in the input at all, is offered every zone.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

import msgspec

from nodeyard.api.nodeclass import NodeClass, Subnet
from nodeyard.cli.files import InputError, read_catalogue_file
from nodeyard.cloudprovider.market import (
    PRICING_API,
    SPOT_HISTORY,
    Market,
    PriceSheet,
    TypeTable,
    Zone,
    market_of,
)
from nodeyard.cloudprovider.model import Catalogue
from nodeyard.cloudprovider.refusals import Shut
from nodeyard.cloudprovider.resolve import Resolver
from nodeyard.state.cluster import Snapshot

REGION = "eu-west-1"
_PATIENCE_S = 15.0


def catalogues(
    snapshot: Snapshot, *, file: str | None, pricing: str | None, region: str, now: float
) -> Mapping[str, Catalogue]:
    """By node class key, as a Problem wants them. Raises InputError where there is nothing to buy from."""
    if file and pricing:
        raise InputError("--catalog and --pricing: give one of them")
    if file:
        return {"": read_catalogue_file(file)}
    market = asyncio.run(served(pricing)) if pricing else simulated(region)
    return catalogues_of(market, snapshot, now)


def catalogues_of(market: Market, snapshot: Snapshot, now: float) -> Mapping[str, Catalogue]:
    """What each node class that a pool names can buy."""
    resolver = Resolver()
    everywhere = tuple(Subnet(f"any-{zone.name}", zone.name, zone.id) for zone in market.table.zones)
    out: dict[str, Catalogue] = {}
    for key in {pool.node_class.key for pool in snapshot.pools.values()}:
        known = snapshot.node_classes.get(key) or NodeClass(key)
        resolved = known if known.subnets else msgspec.structs.replace(known, subnets=everywhere)
        out[key] = resolver.resolve(market, resolved, now=now)
    return out


async def served(address: str, patience_s: float = _PATIENCE_S) -> Market:
    """The market of the pricing service at HOST:PORT. Raises InputError when it has none in time."""
    from nodeyard.rpc.catalog import CatalogFeed  # gRPC takes a while to import, and files need none

    feed = CatalogFeed([address], "nodeyard plan")
    following = asyncio.create_task(feed.run())
    try:
        await feed.wait_changed("", patience_s)
    finally:
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following
    if feed.market is None:
        raise InputError(f"--pricing {address}: no catalogue within {patience_s:g} s: {feed.problem}")
    return feed.market


def simulated(region: str) -> Market:
    """The simulated account's market as it is when the account is made. Raises InputError."""
    try:
        from moto.ec2.models.availability_zones_and_regions import RegionsAndZonesBackend

        from nodeyard.adapters.ec2.describe import description_of
        from nodeyard.local.account.catalogue import description, zones_offering
        from nodeyard.local.account.prices import SpotMarket, on_demand_usd_per_hour
    except ModuleNotFoundError as error:
        raise InputError(
            f"the simulated account needs the Python package {error.name}: give --catalog or --pricing, "
            "or install nodeyard[local]"
        ) from error
    zones = [Zone(z.name, z.zone_id) for z in RegionsAndZonesBackend.zones.get(region, ())]
    offered = zones_offering(region)
    if not zones or not offered:
        raise InputError(f"--region {region}: the simulated account knows no such region")
    infos = {name: info for name in offered if (info := description(name)) is not None}
    types = TypeTable(region, zones, [description_of(infos[n], sorted(offered[n])) for n in infos])
    usd = {name: on_demand_usd_per_hour(info, region) for name, info in infos.items()}
    spot = SpotMarket(usd.__getitem__, seed=7, started=0.0)
    walk = {f"{name}/{zone}": spot.price(name, zone, 0.0) for name in infos for zone in offered[name]}
    return market_of(
        types, PriceSheet(PRICING_API, 0.0, usd), PriceSheet(SPOT_HISTORY, 0.0, walk), Shut(), now=0.0
    )

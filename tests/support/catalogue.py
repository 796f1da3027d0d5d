"""Real instance types (as EC2 describes them, from moto's data) and small markets made of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from moto.ec2.models.instance_types import INSTANCE_TYPES

from nodeyard.adapters.ec2.describe import description_of
from nodeyard.api.nodeclass import NodeClass, Subnet
from nodeyard.cloudprovider.description import TypeDescription
from nodeyard.cloudprovider.market import (
    PRICING_API,
    SPOT_HISTORY,
    Market,
    PriceSheet,
    TypeTable,
    Zone,
    market_of,
)
from nodeyard.cloudprovider.refusals import Refusal, Shut

REGION = "eu-west-1"
ZONES = tuple(Zone(f"eu-west-1{letter}", f"euw1-az{n}") for n, letter in enumerate("abc", 1))
SMALL = ("c7g.xlarge", "g4dn.xlarge", "m5.large", "m5.xlarge", "r6g.large")


def described(name: str, zones: Iterable[str] | None = None) -> TypeDescription:
    """The real type of that name, sold in these zones (all by default)."""
    return description_of(INSTANCE_TYPES[name], [z.name for z in ZONES] if zones is None else zones)


def all_types() -> list[TypeDescription]:
    """Every real type, sold in every zone."""
    return [described(name) for name in INSTANCE_TYPES]


def table_of(*names: str) -> TypeTable:
    """A table of these types (a few by default) in three zones."""
    return TypeTable(REGION, ZONES, [described(name) for name in names or SMALL])


def on_demand_sheet(table: TypeTable, asked_at: float = 0.0, usd: float | None = None) -> PriceSheet:
    """A price for every type: `usd`, else 5 cents per vCPU."""
    return PriceSheet(PRICING_API, asked_at, {t.name: usd or round(t.vcpus * 0.05, 4) for t in table.types})


def spot_sheet(table: TypeTable, asked_at: float = 0.0, usd: float | None = None) -> PriceSheet:
    """A price for every pool: `usd`, else 2 cents per vCPU."""
    prices = {f"{t.name}/{z}": usd or round(t.vcpus * 0.02, 4) for t in table.types for z in t.zones}
    return PriceSheet(SPOT_HISTORY, asked_at, prices)


def small_market(
    table: TypeTable | None = None,
    refusals: Iterable[Refusal] = (),
    prices: Mapping[str, float] | None = None,
) -> Market:
    """A market with a price for everything; `prices` overrides on-demand ones."""
    table = table or table_of()
    on_demand = on_demand_sheet(table)
    on_demand = PriceSheet(on_demand.source, 0.0, {**on_demand.usd, **(prices or {})})
    return market_of(table, on_demand, spot_sheet(table), Shut(refusals), now=0.0)


def node_class(*zones: str, **settings: object) -> NodeClass:
    """A class with a subnet in each of these zones (all by default)."""
    chosen = [z for z in ZONES if not zones or z.name in zones]
    subnets = tuple(Subnet(f"subnet-{z.name}", z.name, z.id) for z in chosen)
    return NodeClass("default", subnets=subnets, **settings)  # type: ignore[arg-type]

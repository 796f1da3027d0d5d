"""What KWOK "sells": the types, zones and prices that it is given, and node classes that need nothing looked up.

Every class has a subnet in each zone and an image per architecture, whatever it selects; there is no account to look
them up in. Spot costs a fixed share of the on-demand price.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from nodeyard.api import labels as keys
from nodeyard.api.node import READY, Condition
from nodeyard.api.nodeclass import Image, NodeClass, SecurityGroup, Subnet
from nodeyard.api.selectors import Requirement
from nodeyard.cloudprovider.market import PriceSheet, TypeTable
from nodeyard.cloudprovider.reservations import ReservationSheet

SOURCE: Final = "file"
_SPOT_SHARE: Final = 0.4


class KwokMarket:
    """The sources of one price list. `usd`: on-demand price per hour by type."""

    def __init__(self, table: TypeTable, usd: Mapping[str, float]) -> None:
        self._table = table
        self._usd = dict(usd)

    async def types(self) -> TypeTable:
        return self._table

    async def on_demand(self, now: float) -> PriceSheet:
        return PriceSheet(SOURCE, now, self._usd)

    async def spot(self, now: float) -> PriceSheet:
        pools = {
            f"{described.name}/{zone}": round(self._usd[described.name] * _SPOT_SHARE, 6)
            for described in self._table.types
            for zone in described.zones
            if described.name in self._usd
        }
        return PriceSheet(SOURCE, now, pools)

    async def reservations(self, now: float) -> ReservationSheet:
        """Nothing is reserved."""
        return ReservationSheet(now)


class KwokClasses:
    """What a node class stands for: every zone, every architecture."""

    def __init__(self, table: TypeTable) -> None:
        self._table = table

    async def resolve(self, node_class: NodeClass) -> NodeClass:
        """The class with what it stands for; it is always ready."""
        arches = sorted({described.arch for described in self._table.types if described.launchable()})
        return msgspec.structs.replace(
            node_class,
            subnets=tuple(Subnet(f"kwok-{zone.name}", zone.name, zone.id) for zone in self._table.zones),
            security_groups=(SecurityGroup("kwok"),),
            images=tuple(
                Image(f"kwok-{arch}", arch, (Requirement(keys.ARCH, "In", (arch,)),)) for arch in arches
            ),
            resolved_profile="kwok",
            conditions=(Condition(READY, "True", READY, observed_generation=node_class.generation),),
        )

    def forget(self, key: str) -> None:
        """Nothing is remembered."""

    async def delete_profile(self, node_class: NodeClass) -> None:
        """There is none."""

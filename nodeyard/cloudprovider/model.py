"""Instance types, their offerings, and the catalogue of them that one node class can launch.

An offering is (capacity type × zone × reservation, where there is one): price and whether it can be had now. Prices are USD per hour. Capacity is the
instance's; allocatable is what the kubelet leaves for pods under the node class's image family and kubelet settings.
Source: Karpenter documentation, "Instance types"; EC2 DescribeInstanceTypes.
"""

from collections.abc import Iterable, Mapping
from functools import cached_property

from nodeyard.api.quantity import Resources
from nodeyard.api.selectors import Value


class Reserved(Value, frozen=True):
    """The capacity reservation that an offering of capacity type `reserved` is in."""

    id: str
    kind: str = "default"
    """default or capacity-block."""
    interruptible: bool = False
    left: int = 0
    """Instances that it still took when it was counted."""
    counted_at: float = 0.0
    """Unix seconds."""


class Offering(Value, frozen=True):
    zone: str
    capacity_type: str
    price: float
    """USD per hour that one more costs: the list price, or less where commitments cover it."""
    available: bool = True
    zone_id: str = ""
    source: str = ""
    """Where the price came from: pricing-api, spot-history, file, last-known, estimate; empty in files."""
    price_age_s: float | None = None
    risk: float = 0.0
    """USD per hour to add when plans are compared: what the odds of a refusal will probably cost."""
    list_price: float | None = None
    """USD per hour without commitments and discounts, where that is another."""
    release: float | None = None
    """USD per hour that giving one up saves, where that is another than the price."""
    reserved: Reserved | None = None
    """Set where the capacity type is `reserved`."""
    refused_partitions: tuple[str, ...] = ()
    """Partitions of the class's placement group in which the cloud refuses it now."""


class InstanceType(Value, frozen=True):
    """`requirements`: label -> the values a node of this type can have (zone and capacity type excluded)."""

    name: str
    requirements: dict[str, tuple[str, ...]] = {}
    capacity: Resources = {}
    allocatable: Resources = {}
    offerings: tuple[Offering, ...] = ()


class Catalogue:
    """Instance types by name, in a fixed order. Immutable; `revision` changes when anything in it does.

    The planner builds its columns from it once per revision and keeps them with it (`memo`).
    """

    def __init__(
        self, types: Iterable[InstanceType], revision: str = "", unselected: Iterable[str] = ()
    ) -> None:
        self.types: tuple[InstanceType, ...] = tuple(types)
        self.revision = revision
        self.unselected = frozenset(unselected)
        """Ids of capacity reservations that there are, but not for the node class of this catalogue."""
        self.memo: dict[str, object] = {}
        """Derived tables that readers keep beside the catalogue; keyed by the reader's module."""

    @cached_property
    def by_name(self) -> Mapping[str, InstanceType]:
        return {t.name: t for t in self.types}

    def offering(
        self, instance_type: str, zone: str, capacity_type: str, reservation: str = ""
    ) -> Offering | None:
        """The offering, or None where there is none. `reservation`: its id; empty: any."""
        found = self.by_name.get(instance_type)
        if found is None:
            return None
        return next(
            (
                o
                for o in found.offerings
                if o.zone == zone
                and o.capacity_type == capacity_type
                and (not reservation or (o.reserved is not None and o.reserved.id == reservation))
            ),
            None,
        )

    def __len__(self) -> int:
        return len(self.types)

"""Where in EC2's racks a node class wants its instances: the placement group it names, and the group that was found.

A class names one group that exists, by name or by id; all its instances go into it. Refuses, naming the field, a
selector that names none or two. Neighbours: `nodeclass` carries both, `adapters/ec2/placement` looks the group up.
Source: Karpenter documentation, "NodeClasses" (placementGroupSelector); EC2 user guide, "Placement groups".
"""

from collections.abc import Iterable
from typing import Final

from nodeyard.api.selectors import Value

CLUSTER: Final = "cluster"
PARTITION: Final = "partition"
SPREAD: Final = "spread"


class PlacementGroupSelector(Value, frozen=True):
    """Exactly one of the two."""

    name: str = ""
    id: str = ""


class PlacementGroup(Value, frozen=True):
    """A group as it is in the account."""

    id: str
    name: str = ""
    strategy: str = ""
    """cluster, partition or spread."""
    partition_count: int = 0
    """Of a partition group; they are numbered from 1."""


class Placement(Value, frozen=True):
    """What one launch asks for besides its class's group. `partition` 0: EC2 chooses; `tenancy` empty: shared."""

    partition: int = 0
    tenancy: str = ""


def placement_problems(selector: PlacementGroupSelector | None) -> Iterable[str]:
    """What is wrong with a selector."""
    if selector is not None and bool(selector.name) == bool(selector.id):
        yield "spec.placementGroupSelector: exactly one of name and id is wanted"

"""Placement groups: which there are, who is in them, and what a launch into one is refused for.

moto has none. A cluster group stays in the zone of its first instance, a spread group takes seven running instances a
zone, a partition group deals instances evenly to its partitions unless a launch names one. Hold the account's lock.
Source: EC2 user guide, "Placement groups"; EC2 API reference, CreatePlacementGroup, DescribePlacementGroups.
"""

from __future__ import annotations

import fnmatch
import secrets
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from moto.ec2.exceptions import EC2ClientError
from moto.ec2.utils import convert_tag_spec

MOST_PER_ZONE = 7
_ENDED = ("shutting-down", "terminated")
SPREAD_LIMIT = (
    "You've reached the limit of instances in this spread placement group. A spread placement group can have up to "
    "seven instances per Availability Zone."
)


@dataclass
class Group:
    """One placement group and its members, ended ones too."""

    name: str
    id: str
    strategy: str
    partition_count: int
    tags: dict[str, str]
    members: list[Any] = field(default_factory=list)
    """`Rented` each."""

    def living(self) -> list[Any]:
        """Members that still take a place."""
        self.members = [entry for entry in self.members if entry.state not in _ENDED]
        return self.members

    def shown(self) -> dict[str, Any]:
        """As DescribePlacementGroups has it."""
        found: dict[str, Any] = {
            "GroupName": self.name,
            "GroupId": self.id,
            "State": "available",
            "Strategy": self.strategy,
            "Tags": [{"Key": key, "Value": value} for key, value in self.tags.items()],
        }
        if self.strategy == "partition":
            found["PartitionCount"] = self.partition_count
        if self.strategy == "spread":
            found["SpreadLevel"] = "rack"
        return found


class PlacementGroups:
    """All groups of an account."""

    def __init__(self) -> None:
        self._groups: dict[str, Group] = {}

    def create(self, params: dict[str, Any]) -> dict[str, Any]:
        """The result of CreatePlacementGroup. Raises EC2ClientError."""
        name, strategy = str(params.get("GroupName") or ""), params.get("Strategy") or "cluster"
        if not name:
            raise EC2ClientError("MissingParameter", "The request must contain the parameter GroupName")
        if name in self._groups:
            raise EC2ClientError(
                "InvalidPlacementGroup.Duplicate", f"The Placement Group '{name}' already exists."
            )
        count = int(params.get("PartitionCount") or (2 if strategy == "partition" else 0))
        if not (1 <= count <= MOST_PER_ZONE if strategy == "partition" else count == 0):
            raise EC2ClientError(
                "InvalidParameterValue", f"Value ({count}) for parameter partitionCount is invalid."
            )
        tags = convert_tag_spec(params.get("TagSpecifications") or []).get("placement-group", {})
        made = self._groups[name] = Group(name, f"pg-0{secrets.token_hex(8)}", strategy, count, tags)
        return {"PlacementGroup": made.shown()}

    def describe(self, params: dict[str, Any]) -> dict[str, Any]:
        """The result of DescribePlacementGroups. Raises EC2ClientError for a name or id that is not there."""
        found = list(self._groups.values())
        if names := params.get("GroupNames"):
            found = [self.get(name=name) for name in names]
        if ids := params.get("GroupIds"):
            found = [self.get(id=one) for one in ids]
        for each in params.get("Filters") or []:
            values = each.get("Values") or []
            found = [g for g in found if any(fnmatch.fnmatchcase(_field(g, each["Name"]), v) for v in values)]
        return {"PlacementGroups": [group.shown() for group in found]}

    def delete(self, name: str) -> None:
        """DeletePlacementGroup. Raises EC2ClientError where it is not there or not empty."""
        group = self.get(name=name)
        if group.living():
            raise EC2ClientError(
                "InvalidPlacementGroup.InUse",
                f"The Placement Group '{name}' is in use and may not be deleted.",
            )
        del self._groups[name]

    def get(self, *, name: str = "", id: str = "") -> Group:
        """The group. Raises EC2ClientError."""
        found = next((g for g in self._groups.values() if g.name == name or g.id == id), None)
        if found is None:
            raise EC2ClientError(
                "InvalidPlacementGroup.Unknown", f"The Placement Group '{name or id}' is unknown."
            )
        return found

    def of(self, placement: dict[str, Any]) -> Group | None:
        """The group that a launch's Placement names, if it names one. Raises EC2ClientError."""
        name, id = placement.get("GroupName") or "", placement.get("GroupId") or ""
        if not name and not id:
            return None
        return self.get(name=name, id=id)

    def check(self, placement: dict[str, Any], described: dict[str, Any]) -> None:
        """Raises EC2ClientError for a placement that no instance of this type can ever have."""
        group, name = self.of(placement), described["InstanceType"]
        if group is None:
            return
        if group.strategy not in described.get("PlacementGroupInfo", {}).get("SupportedStrategies", []):
            raise EC2ClientError(
                "InvalidParameterCombination",
                f"{group.strategy.capitalize()} placement groups are not supported by the '{name}' instance type.",
            )
        if group.strategy == "spread" and placement.get("Tenancy") == "dedicated":
            raise EC2ClientError(
                "InvalidParameterCombination", "Spread placement groups don't support dedicated tenancy."
            )
        number = placement.get("PartitionNumber")
        if number and not (group.strategy == "partition" and 1 <= number <= group.partition_count):
            raise EC2ClientError(
                "InvalidParameterValue", f"Value ({number}) for parameter partitionNumber is invalid."
            )

    def room(self, placement: dict[str, Any], zone: str, promised: dict[str, int]) -> tuple[int | None, str]:
        """(how many more instances the group takes in the zone, None: any number; EC2's words where it takes none).
        `promised`: zone -> instances that this launch puts there already.
        """
        group = self.of(placement)
        if group is None or group.strategy == "partition":
            return None, ""
        living = group.living()
        if group.strategy == "spread":
            here = sum(entry.zone == zone for entry in living) + promised.get(zone, 0)
            return max(0, MOST_PER_ZONE - here), SPREAD_LIMIT
        if {*(entry.zone for entry in living[:1]), *promised} - {zone}:
            return 0, f"The placement group '{group.name}' is in another Availability Zone."
        return None, ""

    def enter(self, placement: dict[str, Any], entry: Any) -> None:
        """Takes a new instance in and writes on it where it came to be."""
        shown = {"GroupName": "", "Tenancy": placement.get("Tenancy") or "default"}
        group = self.of(placement)
        if group is not None:
            shown |= {"GroupName": group.name, "GroupId": group.id}
            if group.strategy == "partition":
                shown["PartitionNumber"] = placement.get("PartitionNumber") or _emptiest(group)
            group.members.append(entry)
        entry.placement = shown


def _emptiest(group: Group) -> int:
    taken = Counter(entry.placement["PartitionNumber"] for entry in group.living())
    return min(range(1, group.partition_count + 1), key=lambda number: (taken[number], number))


def _field(group: Group, name: str) -> str:
    fields = {"group-name": group.name, "strategy": group.strategy, "state": "available"}
    if name not in fields:
        raise EC2ClientError("InvalidParameterValue", f"The filter '{name}' is invalid")
    return fields[name]

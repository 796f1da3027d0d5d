"""Placement groups: the one that a node class names, and the partition that EC2 put an instance in.

A group must be available; one that is being made or deleted counts as not there. The partition of an instance is
EC2's choice unless the launch named one, and known only once the instance is shown.
Source: EC2 API reference, DescribePlacementGroups, DescribeInstances; EC2 user guide, "Placement groups".
"""

from nodeyard.adapters.ec2.session import Ec2Session
from nodeyard.api.placement import PlacementGroup, PlacementGroupSelector
from nodeyard.cloudprovider.errors import NotFound


async def find_group(session: Ec2Session, selector: PlacementGroupSelector) -> PlacementGroup | None:
    """The group, or None where there is none to launch into. Raises CloudError."""
    wanted = {"GroupIds": [selector.id]} if selector.id else {"GroupNames": [selector.name]}
    try:
        answer = await session.call("ec2", "describe_placement_groups", **wanted)
    except NotFound:
        return None
    for row in answer.get("PlacementGroups", []):
        if row.get("State") == "available":
            return PlacementGroup(
                row["GroupId"],
                row.get("GroupName", ""),
                row.get("Strategy", ""),
                row.get("PartitionCount") or 0,
            )
    return None


class Partitions:
    """Asks EC2 where in its group an instance came to be."""

    def __init__(self, session: Ec2Session) -> None:
        self._session = session

    async def partition_of(self, instance_id: str) -> int | None:
        """Its partition; None where EC2 does not show the instance yet, or has it in none. Raises CloudError."""
        filters = [{"Name": "instance-id", "Values": [instance_id]}]
        for page in await self._session.pages("ec2", "describe_instances", Filters=filters):
            for reservation in page.get("Reservations", []):
                for instance in reservation.get("Instances", []):
                    return (instance.get("Placement") or {}).get("PartitionNumber") or None
        return None

"""The instances of this cluster: which there are, what became of some, and their end.

Asks by tag (the cluster's UID) and by filter, so that an id EC2 has forgotten is an absence and not an error.
Neighbours: `launch`, which makes them; the reallocator, which decides about them.
Source: EC2 API reference, DescribeInstances (200 values per filter), TerminateInstances.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

from nodeyard.adapters.ec2.session import Ec2Session
from nodeyard.api import labels as keys
from nodeyard.cloudprovider.errors import NotFound
from nodeyard.disruption.collection import Instance
from nodeyard.provisioning.batches import LAUNCH_BATCH

_FILTER_VALUES: Final = 200
_PER_TERMINATION: Final = 500
_ALIVE: Final = ("pending", "running", "shutting-down", "stopping", "stopped")


class Instances:
    """Instances tagged with `cluster_uid`. Every method raises CloudError."""

    def __init__(self, session: Ec2Session, *, cluster_uid: str) -> None:
        self._session = session
        self.cluster_uid = cluster_uid

    async def list_ours(self) -> list[Instance]:
        """Every instance of this cluster that is not terminated."""
        return await self._find(
            [
                {"Name": f"tag:{keys.CLUSTER_UID_TAG}", "Values": [self.cluster_uid]},
                {"Name": "instance-state-name", "Values": list(_ALIVE)},
            ]
        )

    async def describe(self, ids: Iterable[str]) -> dict[str, Instance]:
        """The instances with these ids, whoever's they are; ids that EC2 does not know are absent."""
        wanted = sorted(set(ids))
        found: dict[str, Instance] = {}
        for start in range(0, len(wanted), _FILTER_VALUES):
            part = wanted[start : start + _FILTER_VALUES]
            found |= {i.id: i for i in await self._find([{"Name": "instance-id", "Values": part}])}
        return found

    async def terminate(self, ids: Iterable[str]) -> None:
        """Ends the instances; ids that EC2 does not know are skipped."""
        wanted = sorted(set(ids))
        for start in range(0, len(wanted), _PER_TERMINATION):
            part = wanted[start : start + _PER_TERMINATION]
            try:
                await self._session.call("ec2", "terminate_instances", InstanceIds=part)
            except NotFound:
                if len(part) > 1:
                    for one in part:
                        await self.terminate([one])

    async def _find(self, filters: list[dict[str, Any]]) -> list[Instance]:
        pages = await self._session.pages("ec2", "describe_instances", Filters=filters)
        return [
            _instance(raw)
            for page in pages
            for reservation in page.get("Reservations", [])
            for raw in reservation.get("Instances", [])
        ]


def _instance(raw: dict[str, Any]) -> Instance:
    tags = {tag["Key"]: tag.get("Value", "") for tag in raw.get("Tags", [])}
    launched = raw.get("LaunchTime")
    return Instance(
        id=raw["InstanceId"],
        state=raw.get("State", {}).get("Name", ""),
        launched_at=launched.timestamp() if isinstance(launched, datetime) else 0.0,
        zone=raw.get("Placement", {}).get("AvailabilityZone", ""),
        cluster_uid=tags.get(keys.CLUSTER_UID_TAG, ""),
        claim=tags.get(keys.NODECLAIM_TAG, ""),
        claim_uid=tags.get(keys.NODECLAIM_UID_TAG, ""),
        batch=tags.get(LAUNCH_BATCH, ""),
        pool=tags.get(keys.NODEPOOL_TAG, ""),
        instance_type=raw.get("InstanceType", ""),
        capacity_type=keys.SPOT if raw.get("InstanceLifecycle") == "spot" else keys.ON_DEMAND,
        reservation=raw.get("CapacityReservationId") or "",
    )

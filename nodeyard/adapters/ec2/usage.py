"""What runs on demand in the account's region: instances by type and zone, of every cluster and owner.

Commitments are the account's, so everything that uses them up counts, not only our nodes. Left out is what Linux
commitments on shared tenancy do not cover: spot, Windows and dedicated instances. Source: EC2 DescribeInstances.
"""

from collections import Counter
from typing import Any

from nodeyard.adapters.ec2.session import Ec2Session


async def read_usage(session: Ec2Session) -> dict[tuple[str, str], float]:
    """(instance type, zone) -> instances running or starting. Raises CloudError's subclasses."""
    pages = await session.pages(
        "ec2",
        "describe_instances",
        Filters=[{"Name": "instance-state-name", "Values": ["pending", "running"]}],
        PaginationConfig={"PageSize": 1000},
    )
    counts = Counter(
        (str(instance["InstanceType"]), str(instance.get("Placement", {}).get("AvailabilityZone", "")))
        for page in pages
        for reservation in page.get("Reservations", ())
        for instance in reservation.get("Instances", ())
        if _counts(instance)
    )
    return {key: float(count) for key, count in counts.items()}


def _counts(instance: dict[str, Any]) -> bool:
    tenancy = instance.get("Placement", {}).get("Tenancy") or "default"
    return not instance.get("InstanceLifecycle") and not instance.get("Platform") and tenancy == "default"

"""Zones that traffic is shifted away from, by hand or by autoshift, as Amazon's Application Recovery Controller has it.

Asks about one managed resource, the EKS cluster: ARC gives every zone a weight, and one without any is to be left alone.
Source: ARC Zonal Shift API reference, GetManagedResource (`appliedWeights`).
"""

from nodeyard.adapters.ec2.session import Ec2Session


async def read_shifted_zones(session: Ec2Session, resource: str) -> frozenset[str]:
    """Zones, as ARC calls them (`euw1-az1`), that are out for the resource (its ARN). Raises CloudError's subclasses."""
    answer = await session.call("arc-zonal-shift", "get_managed_resource", resourceIdentifier=resource)
    weights = answer.get("appliedWeights") or {}
    return frozenset(str(zone) for zone, weight in weights.items() if weight <= 0)

"""Commitments as the account itself tells them: Savings Plans with their rates, and Reserved Instances.

Only what covers Linux on shared tenancy in the session's region is read. An organisation's discount, and what other
accounts use of a plan, no API tells; a document does (`cloudprovider.commitments`). Sources: Savings Plans API
reference; EC2 DescribeReservedInstances.
"""

import asyncio
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final, Literal, Protocol

from nodeyard.cloudprovider.commitments import Commitments, ReservedInstance, SavingsPlan
from nodeyard.cloudprovider.estimates import currency_of

_KINDS: Final[dict[str, Literal["compute", "ec2-instance"]]] = {
    "Compute": "compute",
    "EC2Instance": "ec2-instance",
}
_LINUX: Final = ("Linux/UNIX", "Linux/UNIX (Amazon VPC)")


class Caller(Protocol):
    """What is needed of the way to AWS."""

    @property
    def region(self) -> str: ...

    async def call(self, service: str, operation: str, **params: Any) -> dict[str, Any]: ...


async def read_account_commitments(aws: Caller) -> Commitments:
    """What runs now. Raises CloudError's subclasses."""
    plans, reserved = await asyncio.gather(
        _every(aws, "describe_savings_plans", "savingsPlans", states=["active"]),
        aws.call("ec2", "describe_reserved_instances", Filters=[{"Name": "state", "Values": ["active"]}]),
    )
    wanted = [plan for plan in plans if _covers(plan, aws.region)]
    rates = await asyncio.gather(*(_rates(aws, str(plan["savingsPlanId"])) for plan in wanted))
    return Commitments(
        tuple(_plan(plan, found) for plan, found in zip(wanted, rates, strict=True)),
        tuple(_reserved(reserved.get("ReservedInstances", ()))),
    )


def _covers(plan: Mapping[str, Any], region: str) -> bool:
    kind = _KINDS.get(str(plan.get("savingsPlanType", "")))
    if plan.get("currency", "") != currency_of(region):
        return False
    return kind == "compute" or (kind == "ec2-instance" and plan.get("region") == region)


def _plan(plan: Mapping[str, Any], rates: dict[str, float]) -> SavingsPlan:
    ends = str(plan.get("end", ""))
    return SavingsPlan(
        kind=_KINDS[str(plan["savingsPlanType"])],
        usd_per_hour=float(plan["commitment"]),
        id=str(plan["savingsPlanId"]),
        family=str(plan.get("ec2InstanceFamily", "")),
        rates=rates,
        ends_at=datetime.fromisoformat(ends).timestamp() if ends else None,
    )


async def _rates(aws: Caller, plan_id: str) -> dict[str, float]:
    """Instance type -> USD per hour under the plan."""
    filters = [
        {"name": "region", "values": [aws.region]},
        {"name": "productDescription", "values": ["Linux/UNIX"]},
        {"name": "tenancy", "values": ["shared"]},
    ]
    found = await _every(
        aws, "describe_savings_plan_rates", "searchResults", savingsPlanId=plan_id, filters=filters
    )
    out: dict[str, float] = {}
    for entry in found:
        names = [p.get("value", "") for p in entry.get("properties", ()) if p.get("name") == "instanceType"]
        # Unused reservations have rates of their own, under another operation or usage type.
        if names and entry.get("unit") == "Hrs" and "BoxUsage" in entry.get("usageType", ""):
            out[str(names[0])] = float(entry["rate"])
    return out


async def _every(aws: Caller, operation: str, field: str, **params: Any) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    token: dict[str, str] = {}
    while True:
        answer = await aws.call("savingsplans", operation, **params, **token)
        out += answer.get(field, ())
        if not answer.get("nextToken"):
            return out
        token = {"nextToken": str(answer["nextToken"])}


def _reserved(entries: Iterable[Mapping[str, Any]]) -> Iterable[ReservedInstance]:
    for entry in entries:
        if entry.get("ProductDescription") not in _LINUX or entry.get("InstanceTenancy") != "default":
            continue
        zonal = entry.get("Scope") == "Availability Zone"
        yield ReservedInstance(
            instance_type=str(entry["InstanceType"]),
            count=float(entry.get("InstanceCount", 0)),
            id=str(entry.get("ReservedInstancesId", "")),
            zone=str(entry.get("AvailabilityZone", "")) if zonal else "",
            ends_at=entry["End"].timestamp() if "End" in entry else None,
        )

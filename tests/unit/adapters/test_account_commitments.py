"""Commitments out of the account's own answers, in the shapes of the API references."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from nodeyard.adapters.pricing.account_commitments import read_account_commitments
from nodeyard.cloudprovider.commitments import ReservedInstance, SavingsPlan

END = datetime(2028, 1, 1, tzinfo=UTC)


def plan(number: int, kind: str, **more: Any) -> dict[str, Any]:
    return {
        "savingsPlanId": f"sp-{number}", "savingsPlanType": kind, "commitment": "2.5", "currency": "USD",
        "end": "2028-01-01T00:00:00.000Z", **more,
    }  # fmt: skip


def rate(name: str, usd: str, usage: str = "EU-BoxUsage:x", unit: str = "Hrs") -> dict[str, Any]:
    properties = [{"name": "region", "value": "eu-west-1"}, {"name": "instanceType", "value": name}]
    return {"rate": usd, "currency": "USD", "unit": unit, "usageType": usage, "properties": properties}


def reserved(name: str, **more: Any) -> dict[str, Any]:
    return {
        "ReservedInstancesId": f"ri-{name}", "InstanceType": name, "InstanceCount": 3, "Scope": "Region",
        "ProductDescription": "Linux/UNIX", "InstanceTenancy": "default", "End": END, **more,
    }  # fmt: skip


class Account:
    """Answers call by call, a page at a time."""

    region = "eu-west-1"

    async def call(self, service: str, operation: str, **params: Any) -> dict[str, Any]:
        if service == "ec2":
            return {
                "ReservedInstances": [
                    reserved("m5.large"),
                    reserved("c7g.large", Scope="Availability Zone", AvailabilityZone="eu-west-1a"),
                    reserved("r5.large", ProductDescription="Windows"),
                    reserved("r5.xlarge", InstanceTenancy="dedicated"),
                ]
            }
        if operation == "describe_savings_plans":
            assert params["states"] == ["active"]
            if "nextToken" not in params:
                return {"savingsPlans": [plan(1, "Compute"), plan(2, "SageMaker")], "nextToken": "2"}
            ours = plan(3, "EC2Instance", ec2InstanceFamily="m5", region="eu-west-1")
            theirs = plan(4, "EC2Instance", ec2InstanceFamily="m5", region="us-east-1")
            return {"savingsPlans": [ours, theirs]}
        assert {f["name"]: f["values"] for f in params["filters"]}["region"] == ["eu-west-1"]
        unused = rate("m5.large", "0.0001", usage="EU-UnusedBox:m5.large")
        seconds = rate("m5.xlarge", "9", unit="Request")
        return {"searchResults": [rate("m5.large", "0.07"), unused, seconds]}


async def test_what_covers_linux_on_shared_tenancy_here_is_read() -> None:
    found = await read_account_commitments(Account())
    rates, ends = {"m5.large": 0.07}, END.timestamp()
    assert found.savings_plans == (
        SavingsPlan("compute", 2.5, "sp-1", rates=rates, ends_at=ends),
        SavingsPlan("ec2-instance", 2.5, "sp-3", "m5", rates=rates, ends_at=ends),
    )
    assert found.reserved_instances == (
        ReservedInstance("m5.large", 3.0, "ri-m5.large", ends_at=ends),
        ReservedInstance("c7g.large", 3.0, "ri-c7g.large", "eu-west-1a", ends_at=ends),
    )

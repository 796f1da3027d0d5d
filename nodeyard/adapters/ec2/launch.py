"""CreateFleet `instant`, one per claim, and the search for what an earlier call may have made.

The request is built from the claim's launch record and UID alone, so any replica repeats it byte for byte and EC2's
ClientToken makes one instance of all tries. Refusals of single offerings are values; everything else is raised as our
error tree. Neighbours: `launch_templates` (the templates named in the record), the allocator's launcher (when).
Source: EC2 API reference, CreateFleet (instant fleets, allocation strategies, error codes), DescribeInstances.
"""

from typing import Any, Final

from botocore.exceptions import ClientError

from nodeyard.adapters.ec2.errors import CAPACITY_CODES, translated
from nodeyard.adapters.ec2.launch_templates import tag_list
from nodeyard.adapters.ec2.session import Ec2Session
from nodeyard.api import labels as keys
from nodeyard.cloudprovider.errors import InsufficientCapacity
from nodeyard.cloudprovider.refusals import Refusal
from nodeyard.provisioning.claims import LaunchRecord
from nodeyard.provisioning.launches import Launched, Refused
from nodeyard.runtime.lifecycle import kill_point

_ALIVE: Final = ("pending", "running", "stopping", "stopped")
_NO_SPOT_ROLE: Final = "AuthFailure.ServiceLinkedRoleCreationNotPermitted"
_NO_ADDRESSES: Final = "InsufficientFreeAddressesInSubnet"


class Fleet:
    """Launches for one cluster, and finds and ends what was launched."""

    def __init__(self, session: Ec2Session, *, cluster_uid: str) -> None:
        self._session = session
        self._cluster_uid = cluster_uid

    @property
    def region(self) -> str:
        return self._session.region

    async def launch(self, claim: str, uid: str, record: LaunchRecord) -> Launched | Refused:
        """One instance for the claim, or every refusal. Repeating it is safe. Raises CloudError."""
        request = fleet_request(claim, uid, record)
        kill_point("allocator.before-create-fleet")
        try:
            answer = await self._session.call("ec2", "create_fleet", **request)
        except InsufficientCapacity as error:
            return Refused(_all_refused(record, error.code), str(error))
        kill_point("allocator.after-create-fleet")
        return read_answer(answer, record)

    async def find(self, uid: str) -> Launched | None:
        """The live instance that was made for the claim with this UID. Raises CloudError."""
        pages = await self._session.pages(
            "ec2",
            "describe_instances",
            Filters=[
                {"Name": f"tag:{keys.NODECLAIM_UID_TAG}", "Values": [uid]},
                {"Name": "instance-state-name", "Values": list(_ALIVE)},
            ],
        )
        found = [i for page in pages for r in page.get("Reservations", []) for i in r.get("Instances", [])]
        found.sort(key=lambda i: (str(i.get("LaunchTime", "")), i["InstanceId"]))
        return _found(found[0]) if found else None

    async def terminate(self, instance_id: str) -> None:
        """Ends an instance that nobody will follow. Raises CloudError."""
        kill_point("allocator.before-terminate")
        await self._session.call("ec2", "terminate_instances", InstanceIds=[instance_id])
        kill_point("allocator.after-terminate")


def fleet_request(claim: str, uid: str, record: LaunchRecord) -> dict[str, Any]:
    """CreateFleet's parameters for one instance."""
    spot = record.capacity_type == keys.SPOT
    tags = {
        **record.tags,
        keys.NODECLAIM_TAG: claim,
        keys.NODECLAIM_UID_TAG: uid,
    }
    tags.setdefault("Name", claim)
    configs = [
        {
            "LaunchTemplateSpecification": {"LaunchTemplateName": choice.template, "Version": "$Latest"},
            "Overrides": [{"InstanceType": kind, "SubnetId": subnet} for kind, _, subnet in choice.overrides],
        }
        for choice in record.choices
    ]
    strategy = (
        {"SpotOptions": {"AllocationStrategy": "price-capacity-optimized"}}
        if spot
        else {"OnDemandOptions": {"AllocationStrategy": "lowest-price"}}
    )
    return {
        "Type": "instant",
        "ClientToken": record.token(uid),
        "LaunchTemplateConfigs": configs,
        "TargetCapacitySpecification": {
            "DefaultTargetCapacityType": "spot" if spot else "on-demand",
            "TotalTargetCapacity": 1,
        },
        "TagSpecifications": [
            {"ResourceType": kind, "Tags": tag_list(tags)} for kind in ("instance", "volume", "fleet")
        ],
        **strategy,
    }


def read_answer(answer: dict[str, Any], record: LaunchRecord) -> Launched | Refused:
    """What CreateFleet said. Raises CloudError where it names anything but capacity and made nothing."""
    errors = answer.get("Errors") or []
    refusals = tuple(dict.fromkeys(r for e in errors for r in _refusals(e, record)))
    for made in answer.get("Instances") or []:
        for instance_id in made.get("InstanceIds") or []:
            return _launched(made, instance_id, record, refusals)
    for error in errors:
        if error.get("ErrorCode") not in CAPACITY_CODES:
            cause = ClientError(
                {"Error": {"Code": error.get("ErrorCode", ""), "Message": error.get("ErrorMessage", "")}},
                "CreateFleet",
            )
            raise translated(cause, "ec2:CreateFleet") from cause
    message = errors[0].get("ErrorMessage", "") if errors else "the fleet came back empty"
    return Refused(refusals or _all_refused(record, "UnfulfillableCapacity"), message)


def _launched(
    made: dict[str, Any], instance_id: str, record: LaunchRecord, refusals: tuple[Refusal, ...]
) -> Launched:
    override = (made.get("LaunchTemplateAndOverrides") or {}).get("Overrides") or {}
    kind = made.get("InstanceType") or override.get("InstanceType", "")
    rows = [(c, row) for c in record.choices for row in c.overrides if row[0] == kind]
    choice, row = next(
        ((c, row) for c, row in rows if row[2] == override.get("SubnetId")),
        rows[0] if rows else (None, ("", "", "")),
    )
    zone = override.get("AvailabilityZone") or row[1]
    image = override.get("ImageId") or (choice.image_id if choice is not None else "")
    return Launched(instance_id, kind, zone, record.capacity_type, image, refusals)


def _refusals(error: dict[str, Any], record: LaunchRecord) -> list[Refusal]:
    code = str(error.get("ErrorCode", ""))
    if code not in CAPACITY_CODES:
        return []
    if code == _NO_SPOT_ROLE:
        return [Refusal(capacity_type=record.capacity_type, code=code)]
    override = (error.get("LaunchTemplateAndOverrides") or {}).get("Overrides") or {}
    kind, subnet, zone = (override.get(k, "") for k in ("InstanceType", "SubnetId", "AvailabilityZone"))
    if code == _NO_ADDRESSES and subnet:
        return [Refusal(code=code, subnet=subnet)]
    return [
        Refusal(row[0], row[1], record.capacity_type, code)
        for choice in record.choices
        for row in choice.overrides
        if kind in ("", row[0]) and (subnet in ("", row[2])) and (zone in ("", row[1]))
    ]


def _all_refused(record: LaunchRecord, code: str) -> tuple[Refusal, ...]:
    return tuple(
        Refusal(kind, zone, record.capacity_type, code)
        for choice in record.choices
        for kind, zone, _ in choice.overrides
    )


def _found(instance: dict[str, Any]) -> Launched:
    return Launched(
        instance_id=instance["InstanceId"],
        instance_type=instance.get("InstanceType", ""),
        zone=(instance.get("Placement") or {}).get("AvailabilityZone", ""),
        capacity_type=keys.SPOT if instance.get("InstanceLifecycle") == "spot" else keys.ON_DEMAND,
        image_id=instance.get("ImageId", ""),
    )

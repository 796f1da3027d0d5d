"""CreateFleet `instant`, one per batch of claims, and the search for what an earlier call may have made.

The request is built from a launch record and its batch alone, so any replica repeats it byte for byte and EC2's
ClientToken, a hash of it, makes one set of instances of all tries. A request that this version would word otherwise
than the one that wrote the batch is not sent. Refusals of single offerings are values; everything else is our error
tree. Neighbours: `launch_templates` (the templates named in the record), the allocator's `batches` (when).
Source: EC2 API reference, CreateFleet (instant fleets, allocation strategies, error codes), DescribeInstances.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from botocore.exceptions import ClientError

from nodeyard.adapters.ec2.errors import CAPACITY_CODES, RESERVATION_CODES, translated
from nodeyard.adapters.ec2.launch_templates import tag_list
from nodeyard.adapters.ec2.session import Ec2Session
from nodeyard.api import labels as keys
from nodeyard.cloudprovider.errors import IdempotencyMismatch, InsufficientCapacity
from nodeyard.cloudprovider.refusals import NO_ADDRESSES, Refusal
from nodeyard.provisioning.batches import LAUNCH_BATCH, Answer, Batch, Found
from nodeyard.provisioning.claims import LaunchRecord
from nodeyard.provisioning.launches import Launched
from nodeyard.runtime.lifecycle import kill_point

_ALIVE: Final = ("pending", "running", "stopping", "stopped")
_NO_SPOT_ROLE: Final = "AuthFailure.ServiceLinkedRoleCreationNotPermitted"
_TAGGED: Final = ("instance", "volume", "fleet")
_SPREAD_LIMIT: Final = "spread placement group"
"""In the message where a spread group has its seven instances in a zone; the code is that of missing capacity."""
Members = tuple[tuple[str, str], ...]


class Fleet:
    """Launches for one cluster, and finds and names what was launched. Methods raise CloudError."""

    def __init__(self, session: Ec2Session, *, cluster_uid: str) -> None:
        self._session = session
        self._cluster_uid = cluster_uid

    @property
    def region(self) -> str:
        return self._session.region

    def stamp(self, record: LaunchRecord, members: Members) -> str:
        """The id of the batch of these claims: a hash of its request, the same in every replica."""
        request = _request(record, Batch("", members))
        text = msgspec.json.encode([request, members, record.attempt], order="deterministic")
        return hashlib.blake2b(text, digest_size=20).hexdigest()

    async def launch(self, record: LaunchRecord, batch: Batch) -> Answer:
        """An instance for each claim, or what was refused. Repeating it is safe."""
        if self.stamp(record, batch.members) != batch.id:
            raise IdempotencyMismatch(
                "the batch's request was written by another version", operation="ec2:CreateFleet"
            )
        kill_point("allocator.before-create-fleet")
        try:
            answer = await self._session.call("ec2", "create_fleet", **_request(record, batch))
        except InsufficientCapacity as error:
            return Answer((), _all_refused(record, error.code), str(error))
        kill_point("allocator.after-create-fleet")
        return read_answer(answer, record)

    async def find(self, batch: Batch) -> list[Found]:
        """The instances that were made for the batch, as far as EC2 shows them by now, ended ones too."""
        return [f for f, _ in await self._described([{"Name": f"tag:{LAUNCH_BATCH}", "Values": [batch.id]}])]

    async def unnamed(self) -> dict[str, str]:
        """Live instances of this cluster that came of a batch and carry no claim's tag yet: id -> batch id."""
        filters = [
            {"Name": f"tag:{keys.CLUSTER_UID_TAG}", "Values": [self._cluster_uid]},
            {"Name": "tag-key", "Values": [LAUNCH_BATCH]},
            {"Name": "instance-state-name", "Values": list(_ALIVE)},
        ]
        return {f.made.instance_id: batch for f, batch in await self._described(filters) if not f.claim_uid}

    async def name(self, instance_id: str, claim: str, uid: str, *, named: bool) -> None:
        """Tags an instance as its claim's. `named`: its class gives it a Name of its own."""
        tags = _claim_tags(claim, uid, {"Name": ""} if named else {})
        kill_point("allocator.before-create-tags")
        await self._session.call("ec2", "create_tags", Resources=[instance_id], Tags=tag_list(tags))
        kill_point("allocator.after-create-tags")

    async def _described(self, filters: list[dict[str, Any]]) -> list[tuple[Found, str]]:
        pages = await self._session.pages("ec2", "describe_instances", Filters=filters)
        found = [i for page in pages for r in page.get("Reservations", []) for i in r.get("Instances", [])]
        return [_found(instance) for instance in found]


def _request(record: LaunchRecord, batch: Batch) -> dict[str, Any]:
    """CreateFleet's parameters: one instance for each claim. A single claim's instance is tagged as its own at once."""
    tags = {**record.tags, LAUNCH_BATCH: batch.id}
    if len(batch.members) == 1:
        tags |= _claim_tags(*batch.members[0], tags)
    ranks = _ranks(record)
    configs = [
        {
            "LaunchTemplateSpecification": {"LaunchTemplateName": choice.template, "Version": "$Latest"},
            "Overrides": [
                {"InstanceType": kind, "SubnetId": subnet, **_priority(ranks, record.prices, kind, zone)}
                for kind, zone, subnet in choice.overrides
            ],
        }
        for choice in record.choices
    ]
    return {
        "Type": "instant",
        "ClientToken": batch.id,
        "LaunchTemplateConfigs": configs,
        "TargetCapacitySpecification": {
            "DefaultTargetCapacityType": _target(record),
            "TotalTargetCapacity": len(batch.members),
        },
        "TagSpecifications": [{"ResourceType": kind, "Tags": tag_list(tags)} for kind in _TAGGED],
        **({"Context": record.context} if record.context else {}),
        **_strategy(record),
    }


def _target(record: LaunchRecord) -> str:
    """EC2's word for what the record buys."""
    if record.capacity_type != keys.RESERVED:
        return record.capacity_type
    return keys.CAPACITY_BLOCK if record.in_block else keys.ON_DEMAND


def _strategy(record: LaunchRecord) -> dict[str, Any]:
    if record.capacity_type == keys.SPOT:
        ours, theirs = "capacity-optimized-prioritized", "price-capacity-optimized"
        return {"SpotOptions": {"AllocationStrategy": ours if record.prioritized else theirs}}
    options: dict[str, Any] = {"AllocationStrategy": "prioritized" if record.prioritized else "lowest-price"}
    if record.capacity_type != keys.RESERVED:
        return {"OnDemandOptions": options}
    if record.in_block:
        return {}
    options["CapacityReservationOptions"] = {"UsageStrategy": "use-capacity-reservations-first"}
    return {"OnDemandOptions": options}


def _ranks(record: LaunchRecord) -> dict[float, int]:
    """Price -> its place among the record's, the lowest first; none where EC2 goes by its own prices."""
    prices = sorted(set(record.prices.values())) if record.prioritized else []
    return {price: rank for rank, price in enumerate(prices)}


def _priority(
    ranks: Mapping[float, int], prices: Mapping[str, float], kind: str, zone: str
) -> dict[str, float]:
    """EC2 takes whole numbers from 0, the lowest first; an override without one comes last."""
    rank = ranks.get(prices.get(f"{kind}/{zone}", -1.0))
    return {} if rank is None else {"Priority": float(rank)}


def _claim_tags(claim: str, uid: str, others: Mapping[str, str]) -> dict[str, str]:
    own = {keys.NODECLAIM_TAG: claim, keys.NODECLAIM_UID_TAG: uid}
    return own if "Name" in others else {**own, "Name": claim}


def read_answer(answer: dict[str, Any], record: LaunchRecord) -> Answer:
    """What CreateFleet said."""
    errors = answer.get("Errors") or []
    refusals = tuple(dict.fromkeys(r for e in errors for r in _refusals(e, record)))
    made = tuple(
        _launched(group, instance_id, record)
        for group in answer.get("Instances") or []
        for instance_id in group.get("InstanceIds") or []
    )
    message = errors[0].get("ErrorMessage", "") if errors else "the fleet came back with fewer instances"
    for error in () if made else errors:
        if error.get("ErrorCode") not in CAPACITY_CODES:
            code, words = error.get("ErrorCode", ""), error.get("ErrorMessage", "")
            cause = ClientError({"Error": {"Code": code, "Message": words}}, "CreateFleet")
            return Answer((), refusals, message, translated(cause, "ec2:CreateFleet"))
    if not made and not refusals:
        refusals = _all_refused(record, "UnfulfillableCapacity")
    return Answer(made, refusals, message)


def _launched(made: dict[str, Any], instance_id: str, record: LaunchRecord) -> Launched:
    override = (made.get("LaunchTemplateAndOverrides") or {}).get("Overrides") or {}
    kind = made.get("InstanceType") or override.get("InstanceType", "")
    rows = [(c, row) for c in record.choices for row in c.overrides if row[0] == kind]
    choice, row = next(
        ((c, row) for c, row in rows if row[2] == override.get("SubnetId")),
        rows[0] if rows else (None, ("", "", "")),
    )
    zone = override.get("AvailabilityZone") or row[1]
    image = override.get("ImageId") or (choice.image_id if choice is not None else "")
    subnet = override.get("SubnetId") or row[2]
    into = record.reservations.get(f"{kind}/{zone}")
    return Launched(instance_id, kind, zone, record.capacity_type, image, subnet, reservation=into)


def _refusals(error: dict[str, Any], record: LaunchRecord) -> list[Refusal]:
    code = str(error.get("ErrorCode", ""))
    if code not in CAPACITY_CODES:
        return []
    if code == _NO_SPOT_ROLE:
        return [Refusal(capacity_type=record.capacity_type, code=code)]
    override = (error.get("LaunchTemplateAndOverrides") or {}).get("Overrides") or {}
    kind, subnet, zone = (override.get(k, "") for k in ("InstanceType", "SubnetId", "AvailabilityZone"))
    if code == NO_ADDRESSES and subnet:
        return [Refusal(code=code, subnet=subnet)]
    if _SPREAD_LIMIT in str(error.get("ErrorMessage", "")).lower():
        zones = {
            row[1] for choice in record.choices for row in choice.overrides if _hit(row, kind, subnet, zone)
        }
        return [Refusal(zone=z, code=code, placement_group=record.placement_group) for z in sorted(zones)]
    return [
        _refusal(record, row, code)
        for choice in record.choices
        for row in choice.overrides
        if _hit(row, kind, subnet, zone)
    ]


def _hit(row: tuple[str, str, str], kind: str, subnet: str, zone: str) -> bool:
    """Whether an error about these, as far as it names them, is about the (type, zone, subnet) asked for."""
    return kind in ("", row[0]) and subnet in ("", row[2]) and zone in ("", row[1])


def _all_refused(record: LaunchRecord, code: str) -> tuple[Refusal, ...]:
    rows = [row for choice in record.choices for row in choice.overrides]
    if code == NO_ADDRESSES:
        return tuple(Refusal(code=code, subnet=subnet) for subnet in dict.fromkeys(row[2] for row in rows))
    return tuple(_refusal(record, row, code) for row in rows)


def _refusal(record: LaunchRecord, row: tuple[str, str, str], code: str) -> Refusal:
    """Of one override; of the reservation or the placement group alone where it was to be launched into one. A reservation
    that had no room in the group may have some outside, unless EC2 says that it is full or gone.
    """
    into = record.reservations.get(f"{row[0]}/{row[1]}")
    group = "" if into is not None and code in RESERVATION_CODES else record.placement_group
    return Refusal(
        row[0],
        row[1],
        record.capacity_type,
        code,
        placement_group=group,
        reservation=into.id if into is not None else "",
    )


def _found(instance: dict[str, Any]) -> tuple[Found, str]:
    tags = {tag["Key"]: tag.get("Value", "") for tag in instance.get("Tags", [])}
    made = Launched(
        instance_id=instance["InstanceId"],
        instance_type=instance.get("InstanceType", ""),
        zone=(instance.get("Placement") or {}).get("AvailabilityZone", ""),
        capacity_type=keys.SPOT if instance.get("InstanceLifecycle") == "spot" else keys.ON_DEMAND,
        image_id=instance.get("ImageId", ""),
        subnet_id=instance.get("SubnetId", ""),
    )
    alive = (instance.get("State") or {}).get("Name") in _ALIVE
    return Found(made, tags.get(keys.NODECLAIM_UID_TAG, ""), alive), tags.get(LAUNCH_BATCH, "")

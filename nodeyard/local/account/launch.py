"""Makes instances in moto's model from a launch template and an override, with all that moto's fleet leaves out.

The template's profile, disks, security groups, metadata options and tags arrive on the instance; the private DNS name
is the region's; the network interface goes away with the instance. Neighbours: `fleet` decides, `account` keeps.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from moto.core.exceptions import ServiceException
from moto.ec2.exceptions import EC2ClientError, InvalidSecurityGroupNotFoundError
from moto.ec2.utils import filter_iam_instance_profiles
from werkzeug.exceptions import HTTPException

from nodeyard.local.account.account import Account

_DEFAULT_ROOT_GIB = 20


@dataclass(frozen=True)
class Order:
    """What to launch: the template's data and what an override changes in it."""

    data: dict[str, Any]
    image_id: str
    instance_type: str
    subnet_id: str | None
    tags: dict[str, dict[str, str]]
    client_token: str | None

    def at(self, instance_type: str, subnet_id: str, image_id: str) -> Order:
        """The same order for one pool."""
        return dataclasses.replace(self, instance_type=instance_type, subnet_id=subnet_id, image_id=image_id)

    @property
    def placement(self) -> dict[str, Any]:
        """The template's placement: group, partition, tenancy."""
        return self.data.get("Placement") or {}

    def security_groups(self) -> list[str]:
        """The ids of the template's groups, from either place that may name them."""
        groups = list(self.data.get("SecurityGroupIds") or [])
        for interface in self.data.get("NetworkInterfaces") or []:
            groups.extend(interface.get("Groups") or [])
        return groups

    def check_security_groups(self, account: Account) -> None:
        """Raises EC2ClientError when one of the groups does not exist."""
        for group in self.security_groups():
            if account.backends.ec2.get_security_group_from_id(group) is None:
                raise InvalidSecurityGroupNotFoundError(group)


def launch(account: Account, order: Order, count: int, *, spot: bool) -> list[Any]:
    """`count` instances of the order, entered in the account's books. Hold the account's lock."""
    nic = {"DeviceIndex": 0, "DeleteOnTermination": True, "Groups": order.security_groups()}
    reservation = account.backends.ec2.run_instances(
        image_id=order.image_id,
        count=count,
        user_data=order.data.get("UserData"),
        security_group_names=[],
        security_group_ids=order.security_groups(),
        instance_type=order.instance_type,
        is_instance_type_default=False,
        region_name=account.region,
        subnet_id=order.subnet_id,
        key_name=order.data.get("KeyName"),
        nics=[nic],
        monitoring_state="enabled" if (order.data.get("Monitoring") or {}).get("Enabled") else "disabled",
        ebs_optimized=bool(order.data.get("EbsOptimized")),
        metadata_options=order.data.get("MetadataOptions") or {},
        block_device_mappings=_disks(order.data),
        tags=order.tags,
        placement=None,
    )
    arn = profile_arn(account, order.data.get("IamInstanceProfile"))
    for instance in reservation.instances:
        instance.iam_instance_profile = arn
        instance.asked_interfaces = order.data.get("NetworkInterfaces") or []
        entry = account.enter(
            instance, spot=spot, reservation_id=reservation.id, client_token=order.client_token
        )
        account.groups.enter(order.placement, entry)
    return list(reservation.instances)


def profile_arn(account: Account, given: dict[str, Any] | None) -> dict[str, str] | None:
    """{Arn, Id} of the profile a template names. Raises EC2ClientError when there is no such profile."""
    if not given:
        return None
    name, arn = given.get("Name"), given.get("Arn")
    found: Any = None
    cause: Exception | None = None
    try:
        found = filter_iam_instance_profiles(account.account_id, "aws", arn, name)
    except (ServiceException, HTTPException) as error:  # moto raises IAM's errors; EC2 words them its own way
        cause = error
    if found is None:
        field, value = ("name", name) if name else ("arn", arn)
        raise EC2ClientError(
            "InvalidParameterValue",
            f"Value ({value}) for parameter iamInstanceProfile.{field} is invalid. Invalid IAM Instance Profile {field}",
        ) from cause
    return {"Arn": found.arn, "Id": found.id}


def _disks(data: dict[str, Any]) -> list[dict[str, Any]]:
    """The template's block devices, with EC2's defaults (a root volume that goes with the instance)."""
    given = data.get("BlockDeviceMappings") or [{"DeviceName": "/dev/xvda", "Ebs": {}}]
    disks = []
    for mapping in given:
        if "Ebs" not in mapping:
            continue
        ebs = {"DeleteOnTermination": True, "VolumeType": "gp3", **mapping["Ebs"]}
        ebs["VolumeSize"] = ebs.get("VolumeSize") or _DEFAULT_ROOT_GIB
        ebs["SnapshotId"] = None  # the snapshots of other people's images are not simulated
        disks.append({**mapping, "Ebs": ebs})
    return disks

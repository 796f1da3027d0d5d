"""What DescribeInstances and DescribeSpotPriceHistory say: instances and prices as the API shows them.

Builds plain values from moto's objects and the books (moto's own serializer needs 2 ms per instance). Filters follow
EC2's rules: values are ORed, filters ANDed, `*` and `?` match. Neighbours: `ec2` asks, `wire` writes.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from moto.ec2.exceptions import EC2ClientError

from nodeyard.local.account import wire
from nodeyard.local.account.account import Account
from nodeyard.local.account.book import Rented
from nodeyard.local.account.catalogue import any_match, description, paged, zones_offering

_PRODUCT = "Linux/UNIX"
_HISTORY_SECONDS = 6 * 3600.0  # EC2 keeps 90 days; a stand has no use for them
_CODES = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}
_FIELDS: dict[str, Any] = {
    "instance-state-name": lambda e: [e.state],
    "instance-state-code": lambda e: [str(_CODES.get(e.state, 0))],
    "instance-id": lambda e: [e.instance_id],
    "instance-type": lambda e: [e.instance_type],
    "instance-lifecycle": lambda e: ["spot"] if e.capacity_type == "spot" else [],
    "availability-zone": lambda e: [e.zone],
    "image-id": lambda e: [e.ec2.image_id],
    "architecture": lambda e: [e.ec2.architecture],
    "subnet-id": lambda e: [e.ec2.subnet_id],
    "placement-group-name": lambda e: [e.placement["GroupName"]],
    "tenancy": lambda e: [e.placement["Tenancy"]],
    "vpc-id": lambda e: [e.ec2.vpc_id],
    "private-dns-name": lambda e: [e.ec2.private_dns_name],
    "private-ip-address": lambda e: [e.ec2.private_ip],
    "reservation-id": lambda e: [e.reservation_id],
    "client-token": lambda e: [e.client_token or ""],
    "key-name": lambda e: [e.ec2.key_name or ""],
    "instance.group-id": lambda e: [group.id for group in e.ec2.security_groups],
    "tag-key": lambda e: list(e.tags()),
    "tag-value": lambda e: list(e.tags().values()),
}


def state(name: str) -> dict[str, Any]:
    """EC2's InstanceState."""
    return {"Code": _CODES[name], "Name": name}


def passes(entry: Rented, filters: list[dict[str, Any]]) -> bool:
    """Whether the instance passes every filter. Raises EC2ClientError for a filter that EC2 does not know."""
    for each in filters:
        name, values = str(each.get("Name")), each.get("Values") or []
        if name.startswith("tag:"):
            found = [v for k, v in entry.tags().items() if k == name[4:]]
        elif name in _FIELDS:
            found = _FIELDS[name](entry)
        else:
            raise EC2ClientError("InvalidParameterValue", f"The filter '{name}' is invalid")
        if not any(any_match(str(value), values) for value in found):
            return False
    return True


def reservations(entries: list[Rented], owner: str) -> list[dict[str, Any]]:
    """The instances, grouped by the launch they came from."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        groups.setdefault(entry.reservation_id, []).append(instance(entry))
    return [{"ReservationId": r, "OwnerId": owner, "Instances": found} for r, found in groups.items()]


def instance(entry: Rented) -> dict[str, Any]:
    """One instance as DescribeInstances shows it; a terminated one has lost its network and disks, as at AWS."""
    ec2 = entry.ec2
    ended = entry.state == "terminated"
    groups = [{"GroupId": group.id, "GroupName": group.name} for group in ec2.security_groups]
    shown: dict[str, Any] = {
        "InstanceId": entry.instance_id,
        "ImageId": ec2.image_id,
        "InstanceType": entry.instance_type,
        "InstanceLifecycle": "spot" if entry.capacity_type == "spot" else None,
        "CapacityReservationId": entry.capacity_reservation or None,
        "ClientToken": entry.client_token or "",
        "LaunchTime": datetime.fromtimestamp(entry.launched_at, UTC),
        "State": state(entry.state),
        "StateReason": {"Code": ec2.state_reason.code, "Message": ec2.state_reason.message}
        if ended
        else None,
        "Placement": {"AvailabilityZone": entry.zone, **entry.placement},
        "Architecture": ec2.architecture,
        "AmiLaunchIndex": ec2.ami_launch_index,
        "KeyName": ec2.key_name,
        "EbsOptimized": bool(ec2.ebs_optimized),
        "Hypervisor": "xen",
        "VirtualizationType": "hvm",
        "RootDeviceName": ec2.root_device_name,
        "RootDeviceType": "ebs",
        "Monitoring": {"State": ec2.monitoring_state},
        "IamInstanceProfile": ec2.iam_instance_profile,
        "MetadataOptions": _metadata(ec2.metadata_options),
        "CpuOptions": _cpu(entry.instance_type),
        "Tags": [{"Key": key, "Value": value} for key, value in entry.tags().items()],
        "PrivateDnsName": "" if ended else ec2.private_dns_name,
    }
    if not ended:
        shown.update(
            SubnetId=ec2.subnet_id,
            VpcId=ec2.vpc_id,
            PrivateIpAddress=ec2.private_ip,
            SecurityGroups=groups,
            SourceDestCheck=True,
            NetworkInterfaces=[
                *(_interface(nic, groups, ec2) for nic in ec2.nics.values()),
                *_further_interfaces(groups, ec2),
            ],
            BlockDeviceMappings=[_disk(name, disk) for name, disk in ec2.get_block_device_mapping],
        )
    return shown


def _metadata(options: Any) -> dict[str, Any]:
    return {
        "State": options.state,
        "HttpTokens": options.http_tokens,
        "HttpPutResponseHopLimit": options.http_put_response_hop_limit,
        "HttpEndpoint": options.http_endpoint,
        "HttpProtocolIpv6": options.http_protocol_ipv6,
        "InstanceMetadataTags": options.instance_metadata_tags,
    }


def _cpu(instance_type: str) -> dict[str, Any] | None:
    found = (description(instance_type) or {}).get("VCpuInfo", {})
    if "DefaultCores" not in found:
        return None
    return {"CoreCount": found["DefaultCores"], "ThreadsPerCore": found.get("DefaultThreadsPerCore", 1)}


def _interface(nic: Any, groups: list[dict[str, str]], ec2: Any) -> dict[str, Any]:
    return {
        "NetworkInterfaceId": nic.id,
        "SubnetId": ec2.subnet_id,
        "VpcId": ec2.vpc_id,
        "Status": "in-use",
        "MacAddress": nic.mac_address,
        "PrivateIpAddress": nic.private_ip_address,
        "PrivateDnsName": ec2.private_dns_name,
        "PrivateIpAddresses": [{"Primary": True, "PrivateIpAddress": nic.private_ip_address}],
        "Groups": groups,
        "InterfaceType": "interface",
        "Attachment": {"DeviceIndex": nic.device_index, "Status": "attached", "DeleteOnTermination": True},
    }


def _further_interfaces(groups: list[dict[str, str]], ec2: Any) -> list[dict[str, Any]]:
    """Those beside the primary, which moto does not make; they take no address of the subnet here."""
    return [
        {
            "NetworkInterfaceId": f"{next(iter(ec2.nics.values())).id[:-3]}{number:03x}",
            "SubnetId": ec2.subnet_id,
            "VpcId": ec2.vpc_id,
            "Status": "in-use",
            "Groups": groups,
            "InterfaceType": asked.get("InterfaceType") or "interface",
            "Attachment": {
                "DeviceIndex": asked.get("DeviceIndex", 0),
                "NetworkCardIndex": asked.get("NetworkCardIndex", 0),
                "Status": "attached",
                "DeleteOnTermination": True,
            },
        }
        for number, asked in enumerate(getattr(ec2, "asked_interfaces", []))
        if asked.get("DeviceIndex") or asked.get("NetworkCardIndex")
    ]


def _disk(name: str, disk: Any) -> dict[str, Any]:
    return {
        "DeviceName": name,
        "Ebs": {
            "VolumeId": disk.volume_id,
            "Status": "attached",
            "DeleteOnTermination": bool(disk.delete_on_termination),
        },
    }


# -- spot prices


def spot_price_history(account: Account, params: dict[str, Any], region: str) -> str:
    """The answer to DescribeSpotPriceHistory: changes since StartTime and what was in force then, newest first."""
    # The token carries the moment of the first page, so that later pages belong to the same answer.
    place, _, moment = str(params.get("NextToken") or "").partition("@")
    now = float(moment) if moment else account.clock()
    asked = {name: value for name, value in params.items() if name not in ("NextToken", "MaxResults")}
    key = json.dumps((region, now, asked), sort_keys=True, default=str)
    if account.last_history is None or account.last_history[0] != key:
        account.last_history = (key, _history_rows(account, params, region, now))
    rows = account.last_history[1]
    page, token = paged(rows, {**params, "NextToken": place}, least=1, most=1000, default=1000)
    following = f"{token}@{now}" if token else ""
    return wire.answer("DescribeSpotPriceHistory", {"SpotPriceHistory": page, "NextToken": following})


def _history_rows(account: Account, params: dict[str, Any], region: str, now: float) -> list[dict[str, Any]]:
    end = min(now, _seconds(params.get("EndTime"), now))
    start = min(end, max(now - _HISTORY_SECONDS, _seconds(params.get("StartTime"), now - _HISTORY_SECONDS)))
    wanted = _wanted(params)
    products = wanted.pop("product-description", None)
    if products is not None and not any_match(_PRODUCT, products):
        return []
    offered = zones_offering(region)
    names = [n for n in offered if "instance-type" not in wanted or any_match(n, wanted["instance-type"])]
    rows = []
    for name in names:
        if "spot" not in (description(name) or {}).get("SupportedUsageClasses", []):
            continue
        elsewhere = account.on_demand_price(name, region) / account.on_demand_price(name)
        for zone in sorted(offered[name]):
            if "availability-zone" in wanted and not any_match(zone, wanted["availability-zone"]):
                continue
            for since, price in account.spot.changes(name, zone, start, end):
                rows.append(
                    {
                        "InstanceType": name,
                        "AvailabilityZone": zone,
                        "ProductDescription": _PRODUCT,
                        "SpotPrice": f"{price * elsewhere:.6f}",
                        "Timestamp": datetime.fromtimestamp(since, UTC),
                    }
                )
    return rows


def _wanted(params: dict[str, Any]) -> dict[str, list[str]]:
    wanted: dict[str, list[str]] = {}
    if params.get("InstanceTypes"):
        wanted["instance-type"] = params["InstanceTypes"]
    if params.get("ProductDescriptions"):
        wanted["product-description"] = params["ProductDescriptions"]
    if params.get("AvailabilityZone"):
        wanted["availability-zone"] = [params["AvailabilityZone"]]
    for each in params.get("Filters") or []:
        if each.get("Name") not in ("instance-type", "product-description", "availability-zone"):
            raise EC2ClientError("InvalidParameterValue", f"The filter '{each.get('Name')}' is invalid")
        wanted[each["Name"]] = each.get("Values") or []
    return wanted


def _seconds(value: datetime | None, default: float) -> float:
    return default if value is None else value.replace(tzinfo=UTC).timestamp()

"""Launch templates: one per (image × everything else that a node class and a pool decide), named by its content.

The name holds a digest of the whole template, so a replica that restarts, or another one, finds it by name, and a
changed class simply gets another. Templates are made ahead of launches, and again when somebody deleted one.
Source: EC2 API reference, CreateLaunchTemplate; Karpenter documentation, "NodeClasses" (metadata, block devices).
"""

import asyncio
import base64
import hashlib
from collections.abc import Mapping, Set
from typing import Any, Final

import msgspec

from nodeyard.adapters.ec2.session import Ec2Session
from nodeyard.adapters.ec2.user_data import user_data
from nodeyard.api.labels import CAPACITY_BLOCK
from nodeyard.api.networking import EFA_ONLY, INTERFACE, NetworkInterface
from nodeyard.api.nodeclass import BlockDeviceMapping, Image, NodeClass
from nodeyard.api.quantity import parse
from nodeyard.cloudprovider.ami_families import family_of
from nodeyard.cloudprovider.boot import Boot
from nodeyard.cloudprovider.errors import Conflict, NotFound
from nodeyard.provisioning.claims import ReservationRef
from nodeyard.runtime.lifecycle import kill_point

_GIB: Final = 2**30
PREFIX: Final = "nodeyard"
UNUSED_S: Final = 3600.0
"""A template that nothing needs is kept this long."""
_CLASS: Final = "karpenter.k8s.aws/ec2nodeclass"


class LaunchTemplates:
    """Makes and finds templates of one cluster. `tags` mark them as this cluster's."""

    def __init__(self, session: Ec2Session, *, cluster: str, tags: Mapping[str, str]) -> None:
        self._session = session
        self._cluster = cluster
        self._tags = dict(tags)
        self._known: set[str] = set()
        self._making: dict[str, asyncio.Task[None]] = {}

    async def ensure(
        self, node_class: NodeClass, image: Image, boot: Boot, into: ReservationRef | None = None
    ) -> str:
        """The name of the template, which exists when this returns. `into`: the capacity reservation that it launches
        into. Raises CloudError, UserDataError.
        """
        data = template_data(node_class, image, boot, into)
        name = f"{PREFIX}-{self._cluster[:60]}-{_digest(data)}"
        if name not in self._known:
            making = self._making.get(name)
            if making is None:  # many launches want the same one at once
                making = self._making[name] = asyncio.create_task(self._create(name, data, node_class))
                making.add_done_callback(lambda _: self._making.pop(name, None))
            await asyncio.shield(making)
            self._known.add(name)
        return name

    def forget(self, names: Mapping[str, Any] | set[str] | list[str]) -> None:
        """These turned out not to exist any more: the next `ensure` makes them again."""
        self._known.difference_update(names)

    async def _create(self, name: str, data: dict[str, Any], node_class: NodeClass) -> None:
        tags = {**self._tags, _CLASS: node_class.key}
        kill_point("allocator.before-launch-template")
        try:
            await self._session.call(
                "ec2",
                "create_launch_template",
                LaunchTemplateName=name,
                LaunchTemplateData=data,
                TagSpecifications=[{"ResourceType": "launch-template", "Tags": tag_list(tags)}],
            )
        except Conflict:
            return  # its name holds its content: it is the same template
        kill_point("allocator.after-launch-template")

    async def delete_of(self, node_class_key: str) -> int:
        """Deletes the templates made for a class that goes away; returns how many. Raises CloudError."""
        found = await self._ours({"Name": f"tag:{_CLASS}", "Values": [node_class_key]})
        return await self._delete([t["LaunchTemplateName"] for t in found])

    async def prune(self, keep: Set[str], classes: Set[str], now: float) -> int:
        """Deletes templates of these classes that are an hour old and none of `keep`; returns how many. One that is
        wanted after all is made again. `now`: seconds since the epoch. Raises CloudError.
        """
        return await self._delete(
            [
                t["LaunchTemplateName"]
                for t in await self._ours()
                if t["LaunchTemplateName"] not in keep
                and _tag(t, _CLASS) in classes
                and now - t["CreateTime"].timestamp() > UNUSED_S
            ]
        )

    async def _ours(self, *more: dict[str, Any]) -> list[dict[str, Any]]:
        filters = [{"Name": f"tag:{key}", "Values": [value]} for key, value in self._tags.items()]
        pages = await self._session.pages("ec2", "describe_launch_templates", Filters=[*filters, *more])
        return [t for page in pages for t in page.get("LaunchTemplates", [])]

    async def _delete(self, names: list[str]) -> int:
        for name in names:
            try:
                await self._session.call("ec2", "delete_launch_template", LaunchTemplateName=name)
            except NotFound:
                continue
        self.forget(names)
        return len(names)


def _tag(described: dict[str, Any], key: str) -> str:
    return next((str(tag["Value"]) for tag in described.get("Tags", []) if tag["Key"] == key), "")


def template_data(
    node_class: NodeClass, image: Image, boot: Boot, into: ReservationRef | None = None
) -> dict[str, Any]:
    """LaunchTemplateData for EC2, in a fixed order. Raises UserDataError."""
    text = user_data(node_class.ami_family, boot, node_class.user_data)
    metadata = node_class.metadata_options
    data: dict[str, Any] = {
        "ImageId": image.id,
        "IamInstanceProfile": {"Name": node_class.resolved_profile},
        "UserData": base64.b64encode(text.encode()).decode(),
        "MetadataOptions": {
            "HttpEndpoint": metadata.http_endpoint,
            "HttpProtocolIpv6": metadata.http_protocol_ipv6,
            "HttpPutResponseHopLimit": metadata.http_put_response_hop_limit,
            "HttpTokens": metadata.http_tokens,
        },
        "BlockDeviceMappings": _block_devices(node_class),
    }
    if interfaces := _interfaces(node_class):
        data["NetworkInterfaces"] = interfaces
    else:
        data["SecurityGroupIds"] = [g.id for g in node_class.security_groups]
    options = node_class.cpu_options
    if options is not None and options.nested_virtualization:
        data["CpuOptions"] = {"NestedVirtualization": options.nested_virtualization}
    if placement := _placement(node_class):
        data["Placement"] = placement
    if node_class.detailed_monitoring:
        data["Monitoring"] = {"Enabled": True}
    return data | _reservation(node_class, into)


def _reservation(node_class: NodeClass, into: ReservationRef | None) -> dict[str, Any]:
    """In the reservation or not at all. A class that selects reservations stays out of open ones otherwise, so that
    what is counted of them is true; for other classes EC2 matches open ones as it always does.
    """
    if into is None:
        none = {"CapacityReservationSpecification": {"CapacityReservationPreference": "none"}}
        return none if node_class.capacity_reservation_terms else {}
    out: dict[str, Any] = {
        "CapacityReservationSpecification": {
            "CapacityReservationPreference": "capacity-reservations-only",
            "CapacityReservationTarget": {"CapacityReservationId": into.id},
        }
    }
    if into.kind == CAPACITY_BLOCK:
        out["InstanceMarketOptions"] = {"MarketType": CAPACITY_BLOCK}
    return out


def _placement(node_class: NodeClass) -> dict[str, Any]:
    """The group, its partition and the tenancy, as far as anything but EC2's default is asked for."""
    group, asked = node_class.placement_group, node_class.placement
    wanted = {
        "GroupId": group.id if group is not None else None,
        "PartitionNumber": asked.partition or None,
        "Tenancy": asked.tenancy or None,
    }
    return {key: value for key, value in wanted.items() if value is not None}


def _interfaces(node_class: NodeClass) -> list[dict[str, Any]]:
    """The class's interfaces, or one where something is asked of it; none where EC2's own default serves."""
    asked = (
        node_class.associate_public_ip is not None,
        node_class.ip_prefix_count,
        node_class.connection_tracking,
    )
    wanted = node_class.network_interfaces or ((NetworkInterface(),) if any(asked) else ())
    return [_interface(one, node_class, alone=len(wanted) == 1) for one in wanted]


def _interface(one: NetworkInterface, node_class: NodeClass, *, alone: bool) -> dict[str, Any]:
    out: dict[str, Any] = {
        "DeviceIndex": one.device_index,
        "Groups": [g.id for g in node_class.security_groups],
    }
    if one.network_card_index:
        out["NetworkCardIndex"] = one.network_card_index
    if one.interface_type != INTERFACE:
        out["InterfaceType"] = one.interface_type
    if one.interface_type == EFA_ONLY:
        return out
    if alone and node_class.associate_public_ip is not None:  # EC2 takes it for a single interface only
        out["AssociatePublicIpAddress"] = node_class.associate_public_ip
    if node_class.ip_prefix_count:
        out["Ipv4PrefixCount"] = node_class.ip_prefix_count
    if tracking := node_class.connection_tracking:
        seconds = {
            "TcpEstablishedTimeout": tracking.tcp_established_timeout,
            "UdpStreamTimeout": tracking.udp_stream_timeout,
            "UdpTimeout": tracking.udp_timeout,
        }
        out["ConnectionTrackingSpecification"] = {k: v for k, v in seconds.items() if v is not None}
    return out


def _block_devices(node_class: NodeClass) -> list[dict[str, Any]]:
    if node_class.block_device_mappings:
        return [_device(m, node_class.ami_family) for m in node_class.block_device_mappings]
    default = {"VolumeSize": 20, "VolumeType": "gp3", "Encrypted": True, "DeleteOnTermination": True}
    if node_class.ami_family == "Bottlerocket":
        return [
            {"DeviceName": "/dev/xvda", "Ebs": {**default, "VolumeSize": 4}},
            {"DeviceName": "/dev/xvdb", "Ebs": default},
        ]
    if node_class.ami_family == "Custom":
        return []
    family = family_of(node_class.ami_family)
    return [{"DeviceName": family.ephemeral_device, "Ebs": {**default, "VolumeSize": family.ephemeral_gib}}]


def _device(mapping: BlockDeviceMapping, family: str) -> dict[str, Any]:
    out: dict[str, Any] = {
        "DeviceName": mapping.device_name or family_of(family).ephemeral_device or "/dev/xvda"
    }
    if mapping.ebs is None:
        return out
    ebs = mapping.ebs
    fields = {
        "VolumeSize": -(-parse("ebs.volumeSize", ebs.volume_size) // _GIB) if ebs.volume_size else None,
        "VolumeType": ebs.volume_type or None,
        "Iops": ebs.iops,
        "Throughput": ebs.throughput,
        "Encrypted": ebs.encrypted,
        "DeleteOnTermination": True if ebs.delete_on_termination is None else ebs.delete_on_termination,
        "KmsKeyId": ebs.kms_key_id or None,
        "SnapshotId": ebs.snapshot_id or None,
        "VolumeInitializationRate": ebs.volume_initialization_rate,
    }
    return {**out, "Ebs": {key: value for key, value in fields.items() if value is not None}}


def tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Tags as EC2 takes them, sorted, so that the same tags make the same request."""
    return [{"Key": key, "Value": value} for key, value in sorted(tags.items())]


def _digest(data: dict[str, Any]) -> str:
    return hashlib.blake2b(msgspec.json.encode(data, order="deterministic"), digest_size=10).hexdigest()

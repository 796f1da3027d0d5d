"""What is in the account before anyone asks: a network, an identity, images, parameters and a queue.

The default VPC's subnets (one per zone) and a security group carry the tags that clusters are found by; roles and
profiles are named as the getting-started guides name them; images of the EKS families exist with the right
architecture, and the SSM parameters that name the recommended ones point at them. Source of names and paths: "Retrieve
recommended Amazon Linux AMI IDs", EKS user guide; Bottlerocket's documentation of its public parameters.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from typing import Any

from moto.ec2.models.amis import Ami
from moto.ssm.models import Parameter

KUBERNETES_VERSIONS = ("1.31", "1.32", "1.33", "1.34", "1.35", "1.36")
_RELEASES = ("20260801", "20261101")
_BOTTLEROCKET = {"20260801": "1.48.0", "20261101": "1.51.0"}
_OWNER_EKS, _OWNER_BOTTLEROCKET = "602401143452", "092701018921"


class RestingAddresses:
    """The addresses given back to a subnet, oldest first; each rests until many others have come back.

    moto gives an address out again at once, so that the next machine would bear the name of the last one and
    find its pods; at AWS that takes a long time. Stands in for moto's set of unused addresses.
    """

    def __init__(self, resting: int = 1000) -> None:
        self._addresses: dict[str, None] = {}
        self._resting = resting

    def add(self, address: str) -> None:
        """An address came back."""
        self._addresses[address] = None

    def remove(self, address: str) -> None:
        """An address was taken by name. Raises KeyError when it is not here."""
        del self._addresses[address]

    def pop(self) -> str:
        """The address that rested longest. Raises KeyError while too few have come back since."""
        if len(self._addresses) <= self._resting:
            raise KeyError("all addresses rest")
        address = next(iter(self._addresses))
        del self._addresses[address]
        return address


@dataclass(frozen=True)
class Backends:
    """moto's models of the services, for one account and region."""

    account_id: str
    region: str
    ec2: Any
    iam: Any
    ssm: Any
    sqs: Any


def cluster_tags(cluster: str) -> dict[str, str]:
    """The tags by which subnets and security groups are found."""
    return {f"kubernetes.io/cluster/{cluster}": "owned", "karpenter.sh/discovery": cluster}


def sow(backends: Backends, cluster: str) -> None:
    """Fill an empty account for one cluster."""
    _network(backends, cluster)
    _identity(backends, cluster)
    _images(backends)


def _network(backends: Backends, cluster: str) -> None:
    ec2 = backends.ec2
    tags = cluster_tags(cluster)
    for zone, subnet in ec2.get_default_subnets().items():
        subnet._unused_ips = RestingAddresses()
        ec2.create_tags([subnet.id], {**tags, "Name": f"{cluster}-{zone}"})
    vpc = ec2.get_default_vpc()
    group = ec2.create_security_group(
        f"{cluster}-nodes",
        f"Nodes of the cluster {cluster}",
        vpc_id=vpc.id,
        tags={**tags, "Name": f"{cluster}-nodes"},
    )
    ec2.create_tags([group.id], tags)


def _identity(backends: Backends, cluster: str) -> None:
    """A node role and the two profile names that the guides of both APIs use."""
    trust = {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}
        ],
    }
    role = f"KarpenterNodeRole-{cluster}"
    backends.iam.create_role(role, json.dumps(trust), "/", None, "Nodes of the cluster", [], "3600")
    for profile in (role, f"KarpenterNodeInstanceProfile-{cluster}"):
        backends.iam.create_instance_profile(profile, "/", [], [])
        backends.iam.add_role_to_instance_profile(profile, role)


def _images(backends: Backends) -> None:
    for release in _RELEASES:
        for version in KUBERNETES_VERSIONS:
            _al2023(backends, version, release)
            _al2(backends, version, release)
            _bottlerocket(backends, version, release)


def _al2023(backends: Backends, version: str, release: str) -> None:
    for arch, variant in (
        ("x86_64", "standard"),
        ("arm64", "standard"),
        ("x86_64", "nvidia"),
        ("arm64", "nvidia"),
        ("x86_64", "neuron"),
    ):
        name = f"amazon-eks-node-al2023-{arch}-{variant}-{version}-v{release}"
        image = _image(backends, name, arch, release, _OWNER_EKS)
        path = f"/aws/service/eks/optimized-ami/{version}/amazon-linux-2023/{arch}/{variant}"
        _parameter(backends, f"{path}/recommended/image_id", image)
        _parameter(backends, f"{path}/{name}/image_id", image)


def _al2(backends: Backends, version: str, release: str) -> None:
    for arch, kind, infix in (
        ("x86_64", "amazon-linux-2", ""),
        ("arm64", "amazon-linux-2-arm64", "arm64-"),
        ("x86_64", "amazon-linux-2-gpu", "gpu-"),
    ):
        name = f"amazon-eks-{infix}node-{version}-v{release}"
        image = _image(backends, name, arch, release, _OWNER_EKS)
        path = f"/aws/service/eks/optimized-ami/{version}/{kind}"
        _parameter(backends, f"{path}/recommended/image_id", image)
        _parameter(backends, f"{path}/{name}/image_id", image)


def _bottlerocket(backends: Backends, version: str, release: str) -> None:
    number = _BOTTLEROCKET[release]
    for arch, in_name in (("x86_64", "x86_64"), ("arm64", "aarch64")):
        for variant in ("", "-nvidia"):
            name = (
                f"bottlerocket-aws-k8s-{version}{variant}-{in_name}-v{number}-{_digits(version + number, 8)}"
            )
            image = _image(backends, name, arch, release, _OWNER_BOTTLEROCKET)
            path = f"/aws/service/bottlerocket/aws-k8s-{version}{variant}/{arch}"
            _parameter(backends, f"{path}/latest/image_id", image)
            _parameter(backends, f"{path}/{number}/image_id", image)


def _image(backends: Backends, name: str, arch: str, release: str, owner: str) -> str:
    image_id = f"ami-0{_digits(f'{backends.region}/{name}', 16)}"
    backends.ec2.amis[image_id] = Ami(
        backends.ec2,
        image_id,
        name=name,
        description=f"EKS worker node {name}",
        owner_id=owner,
        owner_alias="amazon",
        public=True,
        virtualization_type="hvm",
        architecture=arch,
        creation_date=datetime.strptime(release, "%Y%m%d"),
        hypervisor="xen",
        root_device_type="ebs",
        root_device_name="/dev/xvda",
        region_name=f"{backends.region}a",
    )
    return image_id


def _parameter(backends: Backends, name: str, value: str) -> None:
    """Write a public parameter; the API refuses names under /aws, so moto's store is written directly."""
    versions = backends.ssm._parameters[name]
    versions.append(
        Parameter(  # type: ignore[abstract]
            account_id=backends.account_id,
            name=name,
            value=value,
            parameter_type="String",
            description=None,
            allowed_pattern=None,
            keyid=None,
            last_modified_date=datetime(2026, 11, 1),
            version=len(versions) + 1,
            data_type="text",
        )
    )


def _digits(text: str, count: int) -> str:
    return blake2b(text.encode(), digest_size=16).hexdigest()[:count]

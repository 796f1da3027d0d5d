"""The labels of real types."""

from __future__ import annotations

import pytest

from nodeyard.cloudprovider.ami_families import FAMILIES
from nodeyard.cloudprovider.type_labels import requirements_of
from tests.support.catalogue import described

AWS = "karpenter.k8s.aws/"


def labels(name: str, family: str = "AL2023") -> dict[str, str | None]:
    found = requirements_of(described(name), "eu-west-1", FAMILIES[family])
    return {key.removeprefix(AWS): values[0] if values else None for key, values in found.items()}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "m5d.large",
            {
                "instance-category": "m", "instance-family": "m5d", "instance-generation": "5",
                "instance-size": "large", "instance-cpu": "2", "instance-cpu-manufacturer": "intel",
                "instance-cpu-sustained-clock-speed-mhz": "3100", "instance-memory": "8192",
                "instance-ebs-bandwidth": "4750", "instance-network-bandwidth": "750",
                "instance-local-nvme": "75", "instance-hypervisor": "nitro", "nitro-sandbox": "false",
                "instance-capability-flex": "false", "instance-encryption-in-transit-supported": "false",
                "kubernetes.io/arch": "amd64", "kubernetes.io/os": "linux",
                "topology.kubernetes.io/region": "eu-west-1", "node.kubernetes.io/instance-type": "m5d.large",
            },
        ),
        (
            "g5.xlarge",
            {
                "instance-gpu-name": "a10g", "instance-gpu-manufacturer": "nvidia", "instance-gpu-count": "1",
                "instance-gpu-memory": "22888", "nitro-sandbox": "true", "instance-network-bandwidth": "2500",
            },
        ),
        (
            "inf2.xlarge",
            {
                "instance-accelerator-name": "inferentia2", "instance-accelerator-manufacturer": "aws",
                "instance-accelerator-count": "1", "instance-network-bandwidth": "2083",
            },
        ),
        ("m7i-flex.large", {"instance-capability-flex": "true", "instance-family": "m7i-flex"}),
        ("u-6tb1.56xlarge", {"instance-category": "u", "instance-generation": "1"}),
        ("p4d.24xlarge", {"instance-network-bandwidth": "400000"}),
        ("c6in.32xlarge", {"instance-network-bandwidth": "200000"}),
        ("a1.metal", {"kubernetes.io/arch": "arm64", "instance-hypervisor": ""}),
        ("c1.medium", {"kubernetes.io/arch": "amd64"}),
        ("mac2.metal", {"kubernetes.io/arch": "arm64_mac", "kubernetes.io/os": "darwin"}),
    ],
)  # fmt: skip
def test_a_real_type_carries_the_published_labels(name: str, expected: dict[str, str]) -> None:
    found = labels(name)
    assert {key: found.get(key) for key in expected} == expected


@pytest.mark.parametrize(
    ("name", "absent"),
    [
        ("t2.micro", ("instance-network-bandwidth", "instance-ebs-bandwidth", "instance-local-nvme")),
        ("d2.xlarge", ("instance-local-nvme",)),
        (
            "m5.large",
            ("instance-gpu-name", "instance-gpu-count", "instance-accelerator-name", "windows-build"),
        ),
    ],
)
def test_a_key_that_does_not_apply_is_absent(name: str, absent: tuple[str, ...]) -> None:
    assert not set(absent) & set(labels(name))


def test_windows_runs_on_amd64_only() -> None:
    assert labels("m5.large", "Windows2022")["kubernetes.io/os"] == "windows"
    assert labels("m5.large", "Windows2022")["node.kubernetes.io/windows-build"] == "10.0.20348"
    assert labels("c7g.xlarge", "Windows2022")["kubernetes.io/os"] is None

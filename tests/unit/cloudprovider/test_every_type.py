"""Capacity and allocatable of every real type, against the documented formulas worked out anew from EC2's answer.

The oracle reads DescribeInstanceTypes' own shape and counts in whole MiB and fractions, so that it shares neither
reading nor rounding with what it checks.
"""

from __future__ import annotations

from fractions import Fraction
from math import ceil
from typing import Any

import pytest
from moto.ec2.models.instance_types import INSTANCE_TYPES

from nodeyard.adapters.ec2.describe import description_of
from nodeyard.api.nodeclass import Kubelet, NodeClass
from nodeyard.cloudprovider.capacity import allocatable_of, capacity_of, reservations_of

MIB = 2**20
GIB = 2**30


def addresses(info: dict[str, Any]) -> int:
    network = info["NetworkInfo"]
    card = network["NetworkCards"][network["DefaultNetworkCardIndex"]]
    return int(card["MaximumNetworkInterfaces"] * (network["Ipv4AddressesPerInterface"] - 1) + 2)


def memory_mib(info: dict[str, Any]) -> int:
    nominal = info["MemoryInfo"]["SizeInMiB"]
    if info["ProcessorInfo"]["SupportedArchitectures"][0] == "arm64":
        nominal -= 64
    return int(nominal - ceil(Fraction(nominal * 75, 1000)))


def reserved_millicores(cores: int) -> int:
    """6 % of the first core, 1 % of the second, half a per cent of the next two, a quarter of the rest."""
    shares = [Fraction(60), Fraction(10), Fraction(5), Fraction(5)] + [Fraction(5, 2)] * max(0, cores - 4)
    tiers = (shares[:1], shares[1 : min(2, cores)], shares[2 : min(4, cores)], shares[4:cores])
    return sum(int(sum(tier, Fraction(0))) for tier in tiers)


@pytest.mark.parametrize(
    ("family", "max_pods"), [("AL2023", None), ("AL2023", 30), ("Bottlerocket", None), ("Bottlerocket", 30)]
)
def test_every_type_has_what_the_formulas_say(family: str, max_pods: int | None) -> None:
    settings = reservations_of(NodeClass("any", ami_family=family, kubelet=Kubelet(max_pods=max_pods)))
    for name, info in INSTANCE_TYPES.items():
        described = description_of(info)
        capacity = capacity_of(described, settings)
        allocatable = allocatable_of(described, settings, capacity)
        cores = info["VCpuInfo"]["DefaultVCpus"]
        pods = max_pods or addresses(info)
        counted = pods if family == "Bottlerocket" else addresses(info)
        memory = memory_mib(info) * MIB
        assert (capacity["cpu"], allocatable["cpu"]) == (
            cores * 1000,
            cores * 1000 - reserved_millicores(cores),
        ), name
        left = memory - (11 * counted + 255 + 100) * MIB
        assert (capacity["memory"], allocatable["memory"]) == (memory, max(0, left)), name
        assert (capacity["pods"], allocatable["pods"]) == (pods, pods), name
        assert (capacity["ephemeral-storage"], allocatable["ephemeral-storage"]) == (20 * GIB, 17 * GIB), name
        gpus = info.get("GpuInfo", {}).get("Gpus", [])
        for maker, resource in (("NVIDIA", "nvidia.com/gpu"), ("AMD", "amd.com/gpu")):
            count = sum(gpu.get("Count", 0) for gpu in gpus if gpu["Manufacturer"] == maker)
            assert capacity.get(resource, 0) == allocatable.get(resource, 0) == count, name
        efas = info["NetworkInfo"].get("EfaInfo", {}).get("MaximumEfaInterfaces", 0)
        assert capacity.get("vpc.amazonaws.com/efa", 0) == efas, name


def test_a_bandwidth_that_the_documentation_gives_otherwise_is_the_documented_one() -> None:
    assert description_of(INSTANCE_TYPES["i8ge.48xlarge"]).network_mbps == 180_000
    assert description_of(INSTANCE_TYPES["i8ge.24xlarge"]).network_mbps == 150_000

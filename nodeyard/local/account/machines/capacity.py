"""What a machine finds itself to have: capacity from the hardware, allocatable after its kubelet's reservations.

The simulator's own arithmetic, from the type's description in EC2 and the boot settings; deliberately independent of
the planner's, so that a mistake in either shows. Firmware and kernel keep a part of the nominal memory (a dial).
Sources: EKS AMI's kube-reserved formulas and eni-max-pods; "Reserve Compute Resources for System Daemons",
Kubernetes docs. Pure; bytes, millicores and counts are integers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any

from kubernetes.utils.quantity import parse_quantity

from nodeyard.local.account.machines.userdata import Boot, BootError

_MIB, _GIB = 1024**2, 1024**3
_DEFAULT_EVICTION = {"memory.available": "100Mi", "nodefs.available": "10%"}
# Share of each core kept for the node's daemons: the first, the second, the third and fourth, all further ones.
_CPU_SHARES = ((1, 0.06), (1, 0.01), (2, 0.005), (10_000, 0.0025))
_NVIDIA, _AMD, _NEURON, _NEURON_CORE, _EFA = (
    "nvidia.com/gpu",
    "amd.com/gpu",
    "aws.amazon.com/neuron",
    "aws.amazon.com/neuroncore",
    "vpc.amazonaws.com/efa",
)


@dataclass(frozen=True)
class Resources:
    """Integers by resource name: cpu in millicores, memory and storage in bytes, the rest counts."""

    capacity: dict[str, int]
    allocatable: dict[str, int]
    devices: dict[str, int]


def measure(
    found: Mapping[str, Any], boot: Boot, *, disk_gib: int, memory_missing_fraction: float
) -> Resources:
    """The resources of a machine of the described type. Raises BootError for reservations that make no sense."""
    vcpus = int(found["VCpuInfo"]["DefaultVCpus"])
    storage = _local_storage_bytes(found) if boot.raid0 else 0
    capacity = {
        "cpu": vcpus * 1000,
        "memory": int(found["MemoryInfo"]["SizeInMiB"] * _MIB * (1 - memory_missing_fraction)) // 4096 * 4096,
        "ephemeral-storage": storage or disk_gib * _GIB,
        "pods": max_pods(found, boot),
        "hugepages-1Gi": 0,
        "hugepages-2Mi": 0,
    }
    allocatable = dict(capacity)
    for name, reserved in _reserved(capacity, boot).items():
        if name in allocatable:
            allocatable[name] = max(0, allocatable[name] - reserved)
    return Resources(capacity, allocatable, _devices(found))


def max_pods(found: Mapping[str, Any], boot: Boot) -> int:
    """How many pods the kubelet takes: what it was told, else what the network interfaces have addresses for."""
    network = found["NetworkInfo"]
    index = network.get("DefaultNetworkCardIndex", 0)
    card = next((c for c in network.get("NetworkCards", []) if c["NetworkCardIndex"] == index), network)
    interfaces = int(card["MaximumNetworkInterfaces"])
    pods = boot.max_pods or interfaces * (int(network["Ipv4AddressesPerInterface"]) - 1) + 2
    if boot.pods_per_core:
        pods = min(pods, boot.pods_per_core * int(found["VCpuInfo"]["DefaultVCpus"]))
    return pods


def _reserved(capacity: dict[str, int], boot: Boot) -> dict[str, int]:
    kube: dict[str, int] = {
        "cpu": _reserved_millicores(capacity["cpu"] // 1000),
        "memory": (11 * capacity["pods"] + 255) * _MIB,
        "ephemeral-storage": _GIB,
    }
    kube.update(_quantities(boot.kube_reserved))
    system = _quantities(boot.system_reserved)
    thresholds = {**_DEFAULT_EVICTION, **boot.eviction_hard}
    eviction = {
        "memory": _threshold(thresholds["memory.available"], capacity["memory"]),
        "ephemeral-storage": _threshold(thresholds["nodefs.available"], capacity["ephemeral-storage"]),
    }
    return {n: kube.get(n, 0) + system.get(n, 0) + eviction.get(n, 0) for n in {*kube, *system, *eviction}}


def _reserved_millicores(cores: int) -> int:
    total = 0.0
    for step, share in _CPU_SHARES:
        here = min(cores, step)
        total += here * share * 1000
        cores -= here
    return int(total)


def _quantities(given: Mapping[str, str]) -> dict[str, int]:
    return {name: amount(name, text) for name, text in given.items()}


def _threshold(text: str, whole: int) -> int:
    if text.endswith("%"):
        return math.ceil(whole * float(text[:-1]) / 100)
    return amount("memory", text)


@lru_cache(maxsize=16_384)
def amount(resource: str, text: str) -> int:
    """A quantity as an integer: millicores for cpu, else whole units, rounded up. Raises BootError."""
    try:
        number: Decimal = parse_quantity(text)  # type: ignore[no-untyped-call]
    except ValueError as error:
        raise BootError(f"{resource}: {text!r} is no quantity") from error
    return math.ceil(number * 1000) if resource == "cpu" else math.ceil(number)


def shown(amounts: Mapping[str, int]) -> dict[str, str]:
    """As a Node's status has them."""
    texts = {}
    for name, value in amounts.items():
        if name == "cpu":
            texts[name] = f"{value}m" if value % 1000 else str(value // 1000)
        elif name in ("memory", "ephemeral-storage"):
            texts[name] = f"{value // 1024}Ki"
        else:
            texts[name] = str(value)
    return texts


def _local_storage_bytes(found: Mapping[str, Any]) -> int:
    return int(found.get("InstanceStorageInfo", {}).get("TotalSizeInGB", 0) * 10**9)


def _devices(found: Mapping[str, Any]) -> dict[str, int]:
    devices: dict[str, int] = {}
    for gpu in found.get("GpuInfo", {}).get("Gpus", []):
        name = {"NVIDIA": _NVIDIA, "AMD": _AMD}.get(str(gpu.get("Manufacturer", "")).upper())
        if name:
            devices[name] = devices.get(name, 0) + int(gpu.get("Count", 1))
    for device in found.get("NeuronInfo", {}).get("NeuronDevices", []):
        count = int(device.get("Count", 1))
        cores = int(device.get("CoreInfo", {}).get("Count", 1))
        devices[_NEURON] = devices.get(_NEURON, 0) + count
        devices[_NEURON_CORE] = devices.get(_NEURON_CORE, 0) + count * cores
    if not devices:
        inferentia = sum(
            int(a.get("Count", 1)) for a in found.get("InferenceAcceleratorInfo", {}).get("Accelerators", [])
        )
        if inferentia:
            devices[_NEURON] = inferentia
    efa = int(found["NetworkInfo"].get("EfaInfo", {}).get("MaximumEfaInterfaces", 0))
    if efa:
        devices[_EFA] = efa
    return devices

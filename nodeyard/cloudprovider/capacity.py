"""What an instance brings, and what of it the kubelet leaves for pods, under a node class's settings.

Estimates made before the machine exists: memory less a margin for the hypervisor and firmware, less what the kubelet
is told to reserve and to keep free. Integers throughout, so that they agree with the kube-scheduler's sums.
Sources: Karpenter documentation, "NodeClasses", spec.kubelet; amazon-eks-ami, kubelet reservations; VPC CNI,
addresses per interface.
"""

import math
from collections.abc import Mapping
from typing import Final

from nodeyard.api.networking import EFA_ONLY, NetworkInterface
from nodeyard.api.nodeclass import BlockDeviceMapping, Kubelet, NodeClass
from nodeyard.api.quantity import (
    CPU,
    EPHEMERAL_STORAGE,
    MEMORY,
    PODS,
    QuantityError,
    Resources,
    parse,
    parse_all,
)
from nodeyard.api.selectors import Value
from nodeyard.cloudprovider.ami_families import WINDOWS, AmiFamily, family_of
from nodeyard.cloudprovider.branch_interfaces import branch_interfaces
from nodeyard.cloudprovider.description import Device, TypeDescription

POD_ENI: Final = "vpc.amazonaws.com/pod-eni"
EFA: Final = "vpc.amazonaws.com/efa"
PRIVATE_IPV4: Final = "vpc.amazonaws.com/PrivateIPv4Address"
NVIDIA_GPU: Final = "nvidia.com/gpu"
AMD_GPU: Final = "amd.com/gpu"
GAUDI: Final = "habana.ai/gaudi"
NEURON: Final = "aws.amazon.com/neuron"
NEURON_CORE: Final = "aws.amazon.com/neuroncore"
_GPU_RESOURCE: Final = {"nvidia": NVIDIA_GPU, "amd": AMD_GPU, "habana": GAUDI}

MIB: Final = 2**20
GIB: Final = 2**30
MEMORY_OVERHEAD: Final = 0.075
"""Share of the nominal memory that an instance's system does not see."""
GRAVITON_RESERVED_MIB: Final = 64
DEFAULT_MAX_PODS: Final = 110
_EVICTION_MEMORY: Final = 100 * MIB
_RESERVED_STORAGE: Final = GIB
_CPU_TIERS: Final = ((0, 1000, 6.0), (1000, 2000, 1.0), (2000, 4000, 0.5), (4000, 1 << 31, 0.25))
"""(from, to, per cent reserved) in millicores."""
_HUGEPAGES: Final = "hugepages-"


class Reservations(Value, frozen=True):
    """A class's settings that capacity depends on, its quantities parsed."""

    family: AmiFamily
    max_pods: int | None = None
    pods_per_core: int | None = None
    kube_reserved: Resources = {}
    system_reserved: Resources = {}
    memory_available: str = ""
    storage_available: str = ""
    volume_bytes: int | None = None
    """Size of the volume that pods' storage is on, where the class gives it."""
    instance_store: bool = False
    reserved_interfaces: int = 0
    network_interfaces: tuple[NetworkInterface, ...] = ()


def problems_of(node_class: NodeClass) -> tuple[str, ...]:
    """What in the class's settings can't be understood; each names the field. Empty: usable."""
    out: list[str] = []
    for field, quantities in (
        ("kubelet.kubeReserved", node_class.kubelet.kube_reserved),
        ("kubelet.systemReserved", node_class.kubelet.system_reserved),
    ):
        for name, text in quantities.items():
            try:
                parse(name, str(text))
            except QuantityError as error:
                out.append(f"{field}: {error}")
    for signal, text in node_class.kubelet.eviction_hard.items():
        if signal in ("memory.available", "nodefs.available"):
            out.extend(_signal_problems(signal, str(text)))
    for mapping in node_class.block_device_mappings:
        if mapping.ebs is not None and mapping.ebs.volume_size:
            try:
                parse(EPHEMERAL_STORAGE, mapping.ebs.volume_size)
            except QuantityError as error:
                out.append(f"blockDeviceMappings[{mapping.device_name}].ebs.volumeSize: {error}")
    return tuple(out)


def reservations_of(node_class: NodeClass, reserved_interfaces: int = 0) -> Reservations:
    """The class's settings, parsed, and how many interfaces are kept from pods.

    Raises QuantityError where `problems_of` reports any.
    """
    kubelet: Kubelet = node_class.kubelet
    family = family_of(node_class.ami_family)
    return Reservations(
        family=family,
        max_pods=kubelet.max_pods,
        pods_per_core=kubelet.pods_per_core if family.pods_per_core else None,
        kube_reserved=parse_all(kubelet.kube_reserved),
        system_reserved=parse_all(kubelet.system_reserved),
        memory_available=kubelet.eviction_hard.get("memory.available", ""),
        storage_available=kubelet.eviction_hard.get("nodefs.available", ""),
        volume_bytes=_volume_bytes(node_class.block_device_mappings, family),
        reserved_interfaces=reserved_interfaces,
        network_interfaces=node_class.network_interfaces,
        instance_store=node_class.instance_store_policy == "RAID0",
    )


def capacity_of(
    described: TypeDescription, settings: Reservations, seen_memory: int | None = None
) -> Resources:
    """What the node will report as capacity; resources it has none of are left out.

    `seen_memory`: bytes that nodes of this kind turned out to have, in place of the estimate.
    """
    capacity: Resources = {
        CPU: described.vcpus * 1000,
        MEMORY: memory_bytes(described) if seen_memory is None else seen_memory,
        EPHEMERAL_STORAGE: _storage_bytes(described, settings),
        PODS: _pods(described, settings),
        POD_ENI: branch_interfaces(described.name),
        EFA: _efa_devices(described, settings),
        NEURON: sum(d.count for d in described.neuron or described.inference if _is_neuron(d)),
        NEURON_CORE: sum(d.cores for d in described.neuron if _is_neuron(d)),
    }
    for gpu in described.gpus:
        resource = _GPU_RESOURCE.get(gpu.manufacturer.lower())
        if resource:
            capacity[resource] = capacity.get(resource, 0) + gpu.count
    if settings.family.os == WINDOWS:
        capacity[PRIVATE_IPV4] = max(0, described.addresses_per_interface - 1)
    always = (CPU, MEMORY, EPHEMERAL_STORAGE, PODS)
    return {name: amount for name, amount in capacity.items() if amount > 0 or name in always}


def allocatable_of(
    described: TypeDescription, settings: Reservations, capacity: Mapping[str, int]
) -> Resources:
    """What is left of `capacity` for pods; never below zero."""
    held = _kube_reserved(described, settings, capacity[PODS])
    out = dict(capacity)
    for name, amount in (*held.items(), *settings.system_reserved.items()):
        if name in out:
            out[name] -= amount
    out[MEMORY] -= _kept_free(settings.memory_available, capacity[MEMORY], _EVICTION_MEMORY)
    storage = capacity[EPHEMERAL_STORAGE]
    out[EPHEMERAL_STORAGE] -= _kept_free(settings.storage_available, storage, -(-storage // 10))
    out[MEMORY] -= sum(amount for name, amount in capacity.items() if name.startswith(_HUGEPAGES))
    return {name: max(0, amount) for name, amount in out.items()}


def memory_bytes(described: TypeDescription) -> int:
    """Memory that the system will see, estimated."""
    mib = described.memory_mib - (GRAVITON_RESERVED_MIB if described.arch == "arm64" else 0)
    return (mib - math.ceil(mib * MIB * MEMORY_OVERHEAD / 1024 / 1024)) * MIB


def interface_limited_pods(described: TypeDescription, reserved_interfaces: int = 0) -> int:
    """Pods that the addresses of the instance's interfaces allow, host-network ones of the system included."""
    interfaces = described.interfaces - reserved_interfaces
    return interfaces * (described.addresses_per_interface - 1) + 2 if interfaces > 0 else 0


def _efa_devices(described: TypeDescription, settings: Reservations) -> int:
    """Those the class names; without any, as many as the type has are made for pods that ask."""
    if settings.network_interfaces:
        return sum(one.interface_type == EFA_ONLY for one in settings.network_interfaces)
    return described.efa_interfaces


def _kept_interfaces(described: TypeDescription, settings: Reservations) -> int:
    """Interfaces of the card that carries pod addresses which carry none: reserved ones and EFA-only ones."""
    return settings.reserved_interfaces + sum(
        one.interface_type == EFA_ONLY and one.network_card_index == described.default_card
        for one in settings.network_interfaces
    )


def _pods(described: TypeDescription, settings: Reservations) -> int:
    if settings.max_pods is not None:
        pods = settings.max_pods
    elif settings.family.pods_limited_by_interfaces:
        pods = interface_limited_pods(described, _kept_interfaces(described, settings))
    else:
        pods = DEFAULT_MAX_PODS
    if settings.pods_per_core:
        pods = min(pods, settings.pods_per_core * described.vcpus)
    return pods


def _kube_reserved(described: TypeDescription, settings: Reservations, pods: int) -> Resources:
    if settings.family.reserve_by_interfaces:
        pods = interface_limited_pods(described, _kept_interfaces(described, settings))
    cpu = described.vcpus * 1000
    reserved = sum(
        int((min(cpu, until) - since) * percent / 100) for since, until, percent in _CPU_TIERS if cpu >= since
    )
    defaults = {CPU: reserved, MEMORY: (11 * pods + 255) * MIB, EPHEMERAL_STORAGE: _RESERVED_STORAGE}
    return {**defaults, **settings.kube_reserved}


def _storage_bytes(described: TypeDescription, settings: Reservations) -> int:
    if settings.instance_store and described.nvme_gb:
        return described.nvme_gb * 10**9
    return settings.volume_bytes or settings.family.ephemeral_gib * GIB


def _volume_bytes(mappings: tuple[BlockDeviceMapping, ...], family: AmiFamily) -> int | None:
    chosen = [m for m in mappings if m.root_volume]
    if not chosen and family.ephemeral_device:
        chosen = [m for m in mappings if m.device_name == family.ephemeral_device]
    if not chosen and not family.ephemeral_device:
        chosen = list(mappings[-1:])
    for mapping in chosen:
        if mapping.ebs is not None and mapping.ebs.volume_size:
            return parse(EPHEMERAL_STORAGE, mapping.ebs.volume_size)
    return None


def _kept_free(signal: str, capacity: int, default: int) -> int:
    """Bytes the kubelet keeps free by evicting; 100 % means that the threshold is off."""
    if not signal:
        return default
    if signal.endswith("%"):
        percent = float(signal.rstrip("%"))
        return 0 if percent == 100 else math.ceil(capacity / 100 * percent)
    return parse(MEMORY, signal)


def _signal_problems(signal: str, text: str) -> list[str]:
    field = f"kubelet.evictionHard[{signal}]"
    try:
        amount = float(text.rstrip("%")) if text.endswith("%") else float(parse(MEMORY, text))
    except (ValueError, QuantityError):
        return [f"{field}: {text!r} is neither a percentage nor a quantity"]
    if amount < 0 or (text.endswith("%") and amount > 100):
        return [f"{field}: {text!r} is out of range"]
    return []


def _is_neuron(device: Device) -> bool:
    return device.manufacturer.lower() == "aws"

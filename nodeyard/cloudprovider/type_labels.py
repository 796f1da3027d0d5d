"""The labels a node of an instance type will carry, known before there is a node.

Some thirty keys by which pods and pools choose. Zone, zone id and capacity type belong to offerings and are not here.
A key that does not apply to a type is left out. Source: Karpenter documentation, "Well-Known Labels" and the
instance type reference; EC2 API reference.
"""

from typing import Final

from nodeyard.api import labels as keys
from nodeyard.api.placement import PARTITION, PlacementGroup
from nodeyard.cloudprovider.ami_families import DARWIN, WINDOWS, AmiFamily
from nodeyard.cloudprovider.description import Device, TypeDescription

_AWS: Final = keys.AWS_GROUP
FLEX: Final = f"{_AWS}/instance-capability-flex"
CLOCK: Final = f"{_AWS}/instance-cpu-sustained-clock-speed-mhz"
EBS_BANDWIDTH: Final = f"{_AWS}/instance-ebs-bandwidth"
NETWORK_BANDWIDTH: Final = f"{_AWS}/instance-network-bandwidth"
ENCRYPTION: Final = f"{_AWS}/instance-encryption-in-transit-supported"
HYPERVISOR: Final = f"{_AWS}/instance-hypervisor"
LOCAL_NVME: Final = f"{_AWS}/instance-local-nvme"
NITRO_SANDBOX: Final = f"{_AWS}/nitro-sandbox"
GPU: Final = f"{_AWS}/instance-gpu"
ACCELERATOR: Final = f"{_AWS}/instance-accelerator"

Requirements = dict[str, tuple[str, ...]]


def requirements_of(described: TypeDescription, region: str, family: AmiFamily) -> Requirements:
    """Label -> values of a node of this type under this image family."""
    out: Requirements = {
        keys.INSTANCE_TYPE: (described.name,),
        keys.ARCH: (described.arch,),
        keys.OS: _systems(described, family),
        keys.REGION: (region,),
        keys.INSTANCE_CPU: (str(described.vcpus),),
        keys.INSTANCE_MEMORY: (str(described.memory_mib),),
        keys.INSTANCE_FAMILY: (described.family,),
        keys.INSTANCE_SIZE: (described.size,),
        CLOCK: (str(described.clock_mhz),),
        HYPERVISOR: (described.hypervisor,),
        ENCRYPTION: (_flag(described.encryption_in_transit),),
        FLEX: (_flag("-flex" in described.family),),
        NITRO_SANDBOX: (_flag(described.nitro_enclaves),),
        keys.TENANCY: ("dedicated", "default"),
    }
    if described.category:
        out[keys.INSTANCE_CATEGORY] = (described.category,)
        out[keys.INSTANCE_GENERATION] = (described.generation,)
    if described.cpu_manufacturer:
        out[keys.INSTANCE_CPU_MANUFACTURER] = (kebab(described.cpu_manufacturer),)
    for key, figure in (
        (EBS_BANDWIDTH, described.ebs_mbps),
        (NETWORK_BANDWIDTH, described.network_mbps),
        (LOCAL_NVME, described.nvme_gb if described.nvme else None),
    ):
        if figure is not None:
            out[key] = (str(figure),)
    if family.windows_build:
        out[keys.WINDOWS_BUILD] = (family.windows_build,)
    _add_devices(out, described)
    return out


def group_requirements(group: PlacementGroup | None) -> Requirements:
    """What a class's placement group adds to the labels of its nodes."""
    if group is None:
        return {}
    out: Requirements = {keys.PLACEMENT_GROUP: (group.id,)}
    if group.strategy == PARTITION and group.partition_count:
        out[keys.PLACEMENT_PARTITION] = tuple(str(n + 1) for n in range(group.partition_count))
    return out


def kebab(text: str) -> str:
    """Lower case, blanks as dashes: how label values spell names."""
    return text.lower().replace(" ", "-")


def _add_devices(out: Requirements, described: TypeDescription) -> None:
    if len(described.gpus) == 1:
        gpu = described.gpus[0]
        _add_device(out, GPU, gpu)
        out[f"{GPU}-memory"] = (str(gpu.memory_mib),)
    accelerators = described.inference or described.neuron
    if len(accelerators) == 1:
        _add_device(out, ACCELERATOR, accelerators[0])


def _add_device(out: Requirements, prefix: str, device: Device) -> None:
    out[f"{prefix}-name"] = (kebab(device.name),)
    out[f"{prefix}-manufacturer"] = (kebab(device.manufacturer),)
    out[f"{prefix}-count"] = (str(device.count),)


def _systems(described: TypeDescription, family: AmiFamily) -> tuple[str, ...]:
    if not described.launchable():
        return (DARWIN,)
    if family.os == WINDOWS and described.arch != "amd64":
        return ()
    return (family.os,)


def _flag(value: bool) -> str:
    return "true" if value else "false"

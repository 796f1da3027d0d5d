"""An instance type as EC2 describes it: the facts that labels, capacity and estimates are worked out from.

Only facts are kept, nothing that depends on a node class, so that descriptions travel and are stored once for all
classes. Made from DescribeInstanceTypes in `adapters/ec2`; read by `type_labels`, `capacity` and `estimates`.
Source: EC2 API reference, `InstanceTypeInfo`.
"""

import re
from typing import Final

from nodeyard.api.selectors import Value

_SCHEME: Final = re.compile(r"(^[a-z]+)(-[0-9]+tb)?([0-9]+).*\.")
ARCHITECTURES: Final = {"x86_64": "amd64", "arm64": "arm64"}
"""EC2's name -> Kubernetes'. Others (mac) need hosts of their own and are never offered."""


class Device(Value, frozen=True):
    """Accelerators of one model: GPUs, inference chips. `memory_mib` is one device's."""

    name: str
    manufacturer: str
    count: int
    memory_mib: int = 0
    cores: int = 0
    """Of all devices together; NeuronCores, where EC2 tells."""


class TypeDescription(Value, frozen=True):
    """One instance type. Bandwidths in Mbit/s, the instance store in GB (10^9), memory in MiB."""

    name: str
    architectures: tuple[str, ...] = ()
    """As EC2 writes them: x86_64, arm64, i386, x86_64_mac, arm64_mac."""
    vcpus: int = 0
    memory_mib: int = 0
    usage_classes: tuple[str, ...] = ()
    """on-demand, spot, capacity-block."""
    bare_metal: bool = False
    hypervisor: str = ""
    cpu_manufacturer: str = ""
    clock_mhz: int = 0
    interfaces: int = 0
    """Network interfaces of the default network card; only those carry pod addresses."""
    addresses_per_interface: int = 0
    """IPv4 addresses of each."""
    cards: tuple[int, ...] = ()
    """Network interfaces that each network card takes, by the card's index."""
    default_card: int = 0
    efa_only_cards: tuple[int, ...] = ()
    """Indexes of the cards that take EFA-only interfaces."""
    network_mbps: int | None = None
    ebs_mbps: int | None = None
    efa_interfaces: int = 0
    encryption_in_transit: bool = False
    nitro_enclaves: bool = False
    nvme: bool = False
    nvme_gb: int = 0
    """Instance store in all, disks that are not NVMe included (`nvme` says which)."""
    nested_virtualization: bool = False
    placement_strategies: tuple[str, ...] = ()
    """Kinds of placement group that take it: cluster, partition, spread."""
    gpus: tuple[Device, ...] = ()
    inference: tuple[Device, ...] = ()
    neuron: tuple[Device, ...] = ()
    zones: tuple[str, ...] = ()
    """Names of the zones that sell it, in order."""

    @property
    def arch(self) -> str:
        """Kubernetes' architecture; EC2's own word where Kubernetes has none."""
        for name in self.architectures:
            if name in ARCHITECTURES:
                return ARCHITECTURES[name]
        return self.architectures[0] if self.architectures else ""

    @property
    def family(self) -> str:
        return self.name.partition(".")[0]

    @property
    def size(self) -> str:
        return self.name.partition(".")[2]

    @property
    def category(self) -> str:
        """The letters a name begins with, where it follows EC2's scheme."""
        parts = _SCHEME.match(self.name)
        return parts[1] if parts else ""

    @property
    def generation(self) -> str:
        parts = _SCHEME.match(self.name)
        return parts[3] if parts else ""

    def launchable(self) -> bool:
        """Whether a Kubernetes node can be made of it at all."""
        return any(name in ARCHITECTURES for name in self.architectures)

    def accelerator_count(self) -> int:
        return sum(device.count for device in (*self.gpus, *(self.neuron or self.inference)))

"""Image families and what differs between their kubelets where capacity is concerned.

Facts per family: which operating system, where pods' storage lives and how big it is by default, whether reserved
memory follows the pods that the interfaces allow or the pods that are allowed, and whether interfaces limit pods at
all. User data and images are the launcher's. Source: Karpenter documentation, "NodeClasses", spec.amiFamily.
"""

from typing import Final

from nodeyard.api.selectors import Value

LINUX: Final = "linux"
WINDOWS: Final = "windows"
DARWIN: Final = "darwin"
"""What runs on mac types; none of ours."""


class AmiFamily(Value, frozen=True):
    name: str
    os: str = LINUX
    ephemeral_device: str = "/dev/xvda"
    """The block device that pods' ephemeral storage is on; empty: unknown."""
    ephemeral_gib: int = 20
    reserve_by_interfaces: bool = True
    """kube-reserved memory counts the pods that the interfaces allow, whatever maxPods says."""
    pods_limited_by_interfaces: bool = True
    pods_per_core: bool = True
    """The family's settings know podsPerCore."""
    windows_build: str = ""


FAMILIES: Final = {
    family.name: family
    for family in (
        AmiFamily("AL2023"),
        AmiFamily("AL2"),
        AmiFamily(
            "Bottlerocket", ephemeral_device="/dev/xvdb", reserve_by_interfaces=False, pods_per_core=False
        ),
        AmiFamily("Custom", ephemeral_device=""),
        *(
            AmiFamily(
                f"Windows{year}",
                os=WINDOWS,
                ephemeral_device="/dev/sda1",
                ephemeral_gib=50,
                reserve_by_interfaces=False,
                pods_limited_by_interfaces=False,
                windows_build=build,
            )
            for year, build in (("2019", "10.0.17763"), ("2022", "10.0.20348"), ("2025", "10.0.26100"))
        ),
    )
}


def family_of(name: str) -> AmiFamily:
    """The family of that name; an unknown one counts as Custom, about which nothing is assumed."""
    return FAMILIES.get(name, FAMILIES["Custom"])

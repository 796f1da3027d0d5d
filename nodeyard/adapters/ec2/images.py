"""Which images a node class may boot: those that an alias stands for, and those that EC2 describes.

Source: EKS documentation, "Retrieve recommended Amazon Linux AMI IDs" and its siblings for Bottlerocket and Windows;
Bottlerocket documentation (public SSM parameters); EC2 DescribeImages.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from nodeyard.api import labels as keys
from nodeyard.api.nodeclass import Image, NodeClass, SelectorTerm
from nodeyard.api.selectors import Requirement

_GPU: Final = "karpenter.k8s.aws/instance-gpu-count"
_ACCELERATOR: Final = "karpenter.k8s.aws/instance-accelerator-count"
_ARCH: Final = {"x86_64": "amd64", "arm64": "arm64"}
_STANDARD: Final = (Requirement(_GPU, "DoesNotExist"), Requirement(_ACCELERATOR, "DoesNotExist"))
_NVIDIA: Final = (Requirement(_GPU, "Exists"),)
_NEURON: Final = (Requirement(_ACCELERATOR, "Exists"),)


def alias_parameters(family: str, version: str, kubernetes: str) -> list[tuple[str, tuple[Requirement, ...]]]:
    """SSM parameter -> what its image boots, for an alias of `family` at `version` ("latest" or one by name)."""
    amd, arm = (Requirement(keys.ARCH, "In", (arch,)) for arch in ("amd64", "arm64"))
    eks = f"/aws/service/eks/optimized-ami/{kubernetes}"
    match family.lower():
        case "al2023":
            return [
                (_al2023_path(eks, arch, variant, version, kubernetes), (only, *requirements))
                for arch, only in (("x86_64", amd), ("arm64", arm))
                for variant, requirements in (
                    ("standard", _STANDARD),
                    ("nvidia", _NVIDIA),
                    ("neuron", _NEURON),
                )
            ]
        case "al2":
            return [
                (
                    f"{eks}/amazon-linux-2{suffix}/{_al2_end(infix, version, kubernetes)}/image_id",
                    (only, *requirements),
                )
                for suffix, infix, only, requirements in (
                    ("", "", amd, _STANDARD),
                    ("-arm64", "arm64-", arm, _STANDARD),
                    ("-gpu", "gpu-", amd, _NVIDIA),
                )
            ]
        case "bottlerocket":
            rocket = f"/aws/service/bottlerocket/aws-k8s-{kubernetes}"
            return [
                (f"{rocket}{suffix}/{arch}/{version.removeprefix('v')}/image_id", (only, *requirements))
                for arch, only in (("x86_64", amd), ("arm64", arm))
                for suffix, requirements in (("", _STANDARD), ("-nvidia", _NVIDIA))
            ]
        case "windows2019" | "windows2022" | "windows2025" if version == "latest":
            year = family[-4:]
            image = f"Windows_Server-{year}-English-Core-EKS_Optimized-{kubernetes}"
            runs = Requirement(keys.OS, "In", ("windows",))
            return [(f"/aws/service/ami-windows-latest/{image}/image_id", (amd, runs))]
    return []


def _al2_end(infix: str, version: str, kubernetes: str) -> str:
    return "recommended" if version == "latest" else f"amazon-eks-{infix}node-{kubernetes}-{version}"


def _al2023_path(eks: str, arch: str, variant: str, version: str, kubernetes: str) -> str:
    base = f"{eks}/amazon-linux-2023/{arch}/{variant}"
    if version == "latest":
        return f"{base}/recommended/image_id"
    return f"{base}/amazon-eks-node-al2023-{arch}-{variant}-{kubernetes}-{version}/image_id"


_DEFAULT_ALIAS: Final = {
    "AL2023": "al2023@latest",
    "AL2": "al2@latest",
    "Bottlerocket": "bottlerocket@latest",
    "Windows2019": "windows2019@latest",
    "Windows2022": "windows2022@latest",
    "Windows2025": "windows2025@latest",
}


def image_terms(node_class: NodeClass) -> tuple[SelectorTerm, ...]:
    """The class's terms, or its family's newest image where it names none (a Provisioner's)."""
    if node_class.ami_terms:
        return node_class.ami_terms
    alias = _DEFAULT_ALIAS.get(node_class.ami_family)
    return (SelectorTerm(alias=alias),) if alias else ()


def described_images(rows: Iterable[Mapping[str, Any]], now: str) -> list[Image]:
    """The images that DescribeImages' rows are, newest first and deprecated ones last, without those that can't be
    launched or are of an architecture that Kubernetes has no name for. `now`: ISO 8601, in UTC.
    """
    usable = [
        r for r in rows if r.get("State", "available") == "available" and r.get("Architecture") in _ARCH
    ]
    usable.sort(key=lambda row: (_deprecated(row, now), _newest_first(str(row.get("CreationDate", "")))))
    return [
        Image(
            row["ImageId"],
            row.get("Name", ""),
            (Requirement(keys.ARCH, "In", (_ARCH[row["Architecture"]],)),),
        )
        for row in usable
    ]


def _deprecated(image: Mapping[str, Any], now: str) -> bool:
    """Whether the time to deprecate it, which EC2 names long before, has come. `now`: ISO 8601, in UTC."""
    at = str(image.get("DeprecationTime") or "")
    return bool(at) and at[:19] <= now[:19]


def _newest_first(date: str) -> tuple[int, ...]:
    """A sort key that turns ISO dates round."""
    return tuple(-ord(c) for c in date)

"""Invented instance types of any number: families, sizes and prices as plausible as they need to be, from a seed.

Entries are in the catalogue's JSON Lines form, {name: entry}. A family has a ratio of memory to vCPU, a processor and
a price level; sizes double; spot costs 25–70 % of on demand, by type and zone; a type in eight misses a zone.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import count, product
from typing import Any

from nodeyard.cloudprovider.jsonl import read_catalogue
from nodeyard.cloudprovider.model import Catalogue

Json = dict[str, Any]

REGION = "eu-test-1"
ZONES = tuple(f"{REGION}{letter}" for letter in "abcd")
SIZES = {"medium": 1, "large": 2, "xlarge": 4, "2xlarge": 8, "4xlarge": 16, "8xlarge": 32, "12xlarge": 48,
         "16xlarge": 64, "24xlarge": 96}  # fmt: skip
"""Size -> vCPUs."""
GIB_PER_CPU = {"c": 2, "m": 4, "r": 8, "x": 16}
ARCHES = {"": "amd64", "a": "amd64", "g": "arm64", "i": "amd64"}
_LEVEL = {"": 1.0, "a": 0.9, "g": 0.8, "i": 1.05}


def invented(
    types: int = 40, zones: int = 3, capacity_types: Sequence[str] = ("on-demand", "spot"), seed: int = 0
) -> dict[str, Json]:
    """So many types, {name: entry}; the same arguments give the same market."""
    rng = random.Random(f"{types}/{zones}/{seed}")
    out: dict[str, Json] = {}
    for category, generation, maker, size in _variants():
        if len(out) == types:
            break
        cpus = SIZES[size]
        name = f"{category}{generation}{maker}.{size}"
        rate = (0.034 + 0.0037 * GIB_PER_CPU[category]) * _LEVEL[maker] * (1 + 0.03 * (generation - 5))
        price = round(cpus * rate * rng.uniform(0.97, 1.03), 4)
        out[name] = instance_type(
            name, cpus, cpus * GIB_PER_CPU[category],
            _offerings(rng, price, ZONES[:zones], capacity_types, everywhere=rng.random() < 0.875),
            arch=ARCHES[maker], category=category, generation=generation, size=size,
        )  # fmt: skip
    return out


def gpu_types(zones: int = 3) -> dict[str, Json]:
    """A few types with devices."""
    out = {}
    for size, cpus, gpus, price in (
        ("xlarge", 4, 1, 0.55),
        ("4xlarge", 16, 1, 1.25),
        ("12xlarge", 48, 4, 4.1),
    ):
        offerings = _offerings(
            random.Random(size), price, ZONES[:zones], ("on-demand", "spot"), everywhere=True
        )
        out[f"g4.{size}"] = instance_type(
            f"g4.{size}", cpus, cpus * 4, offerings, category="g", generation=4, size=size, gpus=gpus
        )
    return out


def instance_type(
    name: str, cpus: int, memory_gib: float, offerings: Iterable[Json], *, arch: str = "amd64", category: str = "m",
    generation: int = 5, size: str = "large", gpus: int = 0, pods: int | None = None,
) -> Json:  # fmt: skip
    """One entry; a node keeps 80 mCPU and 0.4 GiB and 6 % of memory for itself."""
    memory_mib = int(memory_gib * 1024)
    density = pods or min(110, 8 + 12 * cpus)
    labels = {
        "node.kubernetes.io/instance-type": name, "kubernetes.io/arch": arch, "kubernetes.io/os": "linux",
        "topology.kubernetes.io/region": REGION, "karpenter.k8s.aws/instance-category": category,
        "karpenter.k8s.aws/instance-family": name.split(".")[0], "karpenter.k8s.aws/instance-size": size,
        "karpenter.k8s.aws/instance-generation": str(generation), "karpenter.k8s.aws/instance-cpu": str(cpus),
        "karpenter.k8s.aws/instance-memory": str(memory_mib),
    }  # fmt: skip
    devices = {"nvidia.com/gpu": str(gpus)} if gpus else {}
    if gpus:
        labels["karpenter.k8s.aws/instance-gpu-count"] = str(gpus)
        labels["karpenter.k8s.aws/instance-gpu-manufacturer"] = "nvidia"
    usual = {"ephemeral-storage": "20Gi", "pods": str(density), **devices}
    return {
        "name": name,
        "requirements": {key: [value] for key, value in labels.items()},
        "capacity": {"cpu": str(cpus), "memory": f"{memory_mib}Mi", **usual},
        "allocatable": {
            "cpu": f"{cpus * 1000 - 80}m",
            "memory": f"{int(memory_mib * 0.94) - 400}Mi",
            **usual,
            "ephemeral-storage": "17Gi",
        },
        "offerings": list(offerings),
    }


def offering(zone: str, capacity_type: str, price: float, *, available: bool = True) -> Json:
    """One offering; the zone's id follows from its letter."""
    zone_id = f"eut1-az{ord(zone[-1]) - ord('a') + 1}"
    return {"zone": zone, "zoneId": zone_id, "capacityType": capacity_type, "price": price, "available": available}  # fmt: skip


def _variants() -> Iterator[tuple[str, int, str, str]]:
    """Every size of a family before the next one; then the families of other makes and years."""
    for year in count(5):
        for maker, category, size in product(ARCHES, GIB_PER_CPU, SIZES):
            yield category, year, maker, size


def _offerings(
    rng: random.Random, price: float, zones: Sequence[str], capacity_types: Sequence[str], *, everywhere: bool
) -> list[Json]:
    sold = zones if everywhere or len(zones) < 2 else rng.sample(zones, len(zones) - 1)
    shares = {"on-demand": lambda: 1.0, "spot": lambda: rng.uniform(0.25, 0.70)}
    return [offering(zone, kind, round(price * shares[kind](), 5)) for zone in sorted(sold) for kind in capacity_types]  # fmt: skip


def catalogue_of(entries: dict[str, Json]) -> Catalogue:
    """The entries as the product reads them."""
    return _read("\n".join(json.dumps(entry) for entry in entries.values()))


@cache
def _read(lines: str) -> Catalogue:
    return read_catalogue(lines.splitlines(), revision=str(hash(lines)))


def three_families() -> dict[str, Json]:
    """Three families in three zones, spot at 40 % of on demand: small, and the same always."""
    out = {}
    for family, ratio, rate in (("c5", 2, 0.043), ("m5", 4, 0.048), ("r5", 8, 0.063)):
        for cores in (2, 4, 8, 16):
            name = f"{family}.{cores}"
            room = {"cpu": f"{cores * 1000 - 80}m", "memory": f"{cores * ratio * 900}Mi", "pods": "58"}
            offerings = [
                {"zone": z, "zoneId": f"{z}-id", "capacityType": kind, "price": round(rate * cores * part, 4), "available": True}
                for z in ("z-a", "z-b", "z-c")
                for kind, part in (("on-demand", 1.0), ("spot", 0.4))
            ]  # fmt: skip
            requirements = {
                "kubernetes.io/arch": ["amd64"],
                "kubernetes.io/os": ["linux"],
                "node.kubernetes.io/instance-type": [name],
                "karpenter.k8s.aws/instance-category": [family[0]],
                "karpenter.k8s.aws/instance-generation": ["5"],
                "karpenter.k8s.aws/instance-cpu": [str(cores)],
            }
            out[name] = {
                "name": name, "requirements": requirements, "capacity": room, "allocatable": room, "offerings": offerings,
            }  # fmt: skip
    return out

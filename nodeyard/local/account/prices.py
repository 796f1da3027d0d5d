"""What things cost in this account: on-demand rates of our own, and a spot market that walks with time.

On-demand prices follow a small table of per-family rates (USD per vCPU-hour, per GiB-hour, per device); they are
plausible, not Amazon's. A spot price is a share of its on-demand price (25–70 %), a step function of time drawn from
a seed, so that the same seed gives the same market. Time comes in as an argument; a person may freeze, hasten or set
it. Nothing of this is shared with the product, which learns prices from the Pricing and EC2 APIs only.
"""

from __future__ import annotations

import fnmatch
import math
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Any

# USD per vCPU-hour, USD per GiB-hour, by the letters a family begins with.
_RATES: dict[str, tuple[float, float]] = {
    "a": (0.0222, 0.0017),
    "c": (0.0350, 0.0038),
    "d": (0.0380, 0.0052),
    "dl": (0.0360, 0.0042),
    "f": (0.0400, 0.0060),
    "g": (0.0370, 0.0046),
    "gr": (0.0370, 0.0046),
    "h": (0.0400, 0.0048),
    "hpc": (0.0260, 0.0028),
    "i": (0.0380, 0.0044),
    "im": (0.0300, 0.0036),
    "is": (0.0300, 0.0040),
    "inf": (0.0360, 0.0041),
    "m": (0.0335, 0.0036),
    "mac": (0.0900, 0.0050),
    "p": (0.0450, 0.0055),
    "r": (0.0330, 0.0037),
    "t": (0.0, 0.0104),  # burstable: sizes differ by memory, all small ones have two vCPUs
    "trn": (0.0400, 0.0044),
    "u": (0.0360, 0.0063),
    "vt": (0.0350, 0.0040),
    "x": (0.0340, 0.0045),
    "z": (0.0450, 0.0060),
}
_FALLBACK_RATES = (0.0400, 0.0045)
# Old generations are dear for what they give; new ones cost a little more per vCPU and give more.
_GENERATION = {1: 1.35, 2: 1.25, 3: 1.16, 4: 1.05, 5: 1.0, 6: 1.0, 7: 1.05, 8: 1.09, 9: 1.12}
_MANUFACTURER = {"AWS": 0.80, "AMD": 0.90, "Intel": 1.0, "Apple": 1.0}
# Additional capabilities, by the letters after the generation.
_TRAITS = {"n": 1.24, "z": 1.20, "b": 1.14, "e": 1.06, "flex": 0.95}
_NVME_PER_GB = 0.000055
_HDD_PER_GB = 0.0000075
_DEVICES: dict[str, float] = {
    "K80": 0.62,
    "M60": 0.58,
    "V100": 2.45,
    "T4": 0.31,
    "T4g": 0.26,
    "A10G": 0.72,
    "A100": 2.75,
    "H100": 7.90,
    "H200": 8.60,
    "B200": 11.5,
    "B300": 13.5,
    "L4": 0.58,
    "L40S": 1.28,
    "Inferentia": 0.10,
    "Inferentia2": 0.52,
    "Trainium": 1.10,
    "Trainium2": 2.60,
    "U30": 0.35,
}
_DEVICE_FALLBACK = 1.0
# China's prices are in CNY, as AWS lists and bills them there.
_REGIONS = {
    "us-east-1": 1.0,
    "us-east-2": 1.0,
    "us-west-2": 1.0,
    "eu-west-1": 1.07,
    "eu-north-1": 1.03,
    "eu-central-1": 1.15,
    "ap-northeast-1": 1.24,
    "ap-southeast-1": 1.22,
    "sa-east-1": 1.55,
    "cn-north-1": 7.4,
    "cn-northwest-1": 6.9,
}
_FAMILY = re.compile(r"^(?P<letters>[a-z]+)-?(?P<generation>\d*)(?P<traits>.*)$")
_STEP_SECONDS = 1200.0
_KNOT_STEPS = 12
_STEPS_KEPT = 100
_LOWEST_SHARE, _HIGHEST_SHARE = 0.25, 0.70


def on_demand_usd_per_hour(description: Mapping[str, Any], region: str) -> float:
    """The Linux, shared-tenancy price of a type described as in DescribeInstanceTypes; USD per hour, > 0."""
    family = str(description["InstanceType"]).split(".")[0]
    match = _FAMILY.match(family)
    letters, generation, traits = (
        match.group("letters", "generation", "traits") if match else (family, "", "")
    )
    per_vcpu, per_gib = _RATES.get(letters, _FALLBACK_RATES)
    cost = description["VCpuInfo"]["DefaultVCpus"] * per_vcpu
    cost += description["MemoryInfo"]["SizeInMiB"] / 1024 * per_gib
    cost *= _GENERATION.get(int(generation or 5), 1.1)
    cost *= _MANUFACTURER.get(description.get("ProcessorInfo", {}).get("Manufacturer", "Intel"), 1.0)
    for trait, factor in _TRAITS.items():
        if trait in traits:
            cost *= factor
    cost += _disks(description) + _devices(description)
    cost *= _REGIONS.get(region) or 1.05 + 0.25 * _draw("region", region)
    return float(round(max(cost, 0.0034), 4))


def _disks(description: Mapping[str, Any]) -> float:
    total = 0.0
    for disk in description.get("InstanceStorageInfo", {}).get("Disks", []):
        rate = _HDD_PER_GB if disk.get("Type") == "hdd" else _NVME_PER_GB
        total += disk["Count"] * disk["SizeInGB"] * rate
    return total


def _devices(description: Mapping[str, Any]) -> float:
    devices = [
        *description.get("GpuInfo", {}).get("Gpus", []),
        *description.get("NeuronInfo", {}).get("NeuronDevices", []),
        *description.get("InferenceAcceleratorInfo", {}).get("Accelerators", []),
        *description.get("MediaAcceleratorInfo", {}).get("Accelerators", []),
        *description.get("FpgaInfo", {}).get("Fpgas", []),
    ]
    total = 0.0
    for device in devices:
        share = float(device.get("GpuPartitionSize") or 1.0)
        total += device.get("Count", 1) * share * _DEVICES.get(device.get("Name", ""), _DEVICE_FALLBACK)
    return total


@dataclass(frozen=True)
class SetPrice:
    """A spot price put by hand on the pools that match, from `since` (epoch seconds) on."""

    instance_type: str
    zone: str
    price_usd_per_hour: float
    since: float


class SpotMarket:
    """Spot prices by (type, zone) and time. `on_demand` gives a type's on-demand price in USD per hour."""

    def __init__(self, on_demand: Callable[[str], float], seed: int, started: float) -> None:
        self._on_demand = on_demand
        self._lock = threading.Lock()
        self._set: list[SetPrice] = []
        self.seed = seed
        self.speed = 1.0
        self._anchor = started
        self._virtual_anchor = 0.0

    def turn(self, now: float, seed: int | None = None, speed: float | None = None) -> None:
        """Draw another market, or let time run `speed` times as fast from `now` on (0 freezes the prices)."""
        with self._lock:
            if seed is not None:
                self.seed = seed
            if speed is not None:
                self._virtual_anchor, self._anchor = self._virtual(now), now
                self.speed = speed

    def set_price(self, instance_type: str, zone: str, price_usd_per_hour: float, now: float) -> None:
        """From `now` on the pools that match (shell-style patterns) cost this much; the newest word counts."""
        with self._lock:
            self._set = [s for s in self._set if (s.instance_type, s.zone) != (instance_type, zone)]
            self._set.insert(0, SetPrice(instance_type, zone, price_usd_per_hour, now))

    def clear_prices(self) -> int:
        """Back to the walk; how many set prices went."""
        with self._lock:
            count = len(self._set)
            self._set = []
            return count

    def shown(self) -> dict[str, Any]:
        """The market's dials, as JSON can carry them."""
        with self._lock:
            return {"seed": self.seed, "speed": self.speed, "prices": [vars(entry) for entry in self._set]}

    def price(self, instance_type: str, zone: str, at: float) -> float:
        """USD per hour of the pool at `at` (epoch seconds)."""
        return self.changes(instance_type, zone, at, at)[0][1]

    def changes(self, instance_type: str, zone: str, start: float, end: float) -> list[tuple[float, float]]:
        """(since, USD per hour), newest first: what changed in [start, end] and what was in force at `start`."""
        with self._lock:
            found = self._set_price(instance_type, zone)
            if found is not None and found.since <= start:
                return [(found.since, found.price_usd_per_hour)]
            steps = self._steps(instance_type, zone, start, min(end, found.since) if found else end)
            if found is not None and found.since <= end:
                steps.insert(0, (found.since, found.price_usd_per_hour))
            return steps

    def _set_price(self, instance_type: str, zone: str) -> SetPrice | None:
        for entry in self._set:
            if fnmatch.fnmatchcase(instance_type, entry.instance_type) and fnmatch.fnmatchcase(
                zone, entry.zone
            ):
                return entry
        return None

    def _virtual(self, at: float) -> float:
        return self._virtual_anchor + (at - self._anchor) * self.speed

    def _steps(self, instance_type: str, zone: str, start: float, end: float) -> list[tuple[float, float]]:
        phase = _draw(self.seed, instance_type, zone, "phase") * _STEP_SECONDS
        first = math.floor((self._virtual(start) + phase) / _STEP_SECONDS)
        last = math.floor((self._virtual(end) + phase) / _STEP_SECONDS)
        on_demand = self._on_demand(instance_type)
        changes = []
        for step in range(last, max(first, last - _STEPS_KEPT) - 1, -1):
            since = self._anchor
            if self.speed > 0:
                since += (step * _STEP_SECONDS - phase - self._virtual_anchor) / self.speed
            changes.append((since, round(on_demand * _share(self.seed, instance_type, zone, step), 6)))
        return changes


@lru_cache(maxsize=65_536)
def _share(seed: int, instance_type: str, zone: str, step: int) -> float:
    """The part of the on-demand price in one step: a level per pool, slow swings, a little jitter."""
    level = (
        0.30
        + 0.30 * _draw(seed, instance_type, "level")
        + 0.05 * (_draw(seed, instance_type, zone, "level") - 0.5)
    )
    knot, place = divmod(step, _KNOT_STEPS)
    before = _draw(seed, instance_type, zone, "knot", knot)
    after = _draw(seed, instance_type, zone, "knot", knot + 1)
    ease = (1 - math.cos(math.pi * place / _KNOT_STEPS)) / 2
    swing = (before + (after - before) * ease - 0.5) * 0.24
    jitter = (_draw(seed, instance_type, zone, "step", step) - 0.5) * 0.01
    return min(_HIGHEST_SHARE, max(_LOWEST_SHARE, level + swing + jitter))


def depth(seed: int, instance_type: str, zone: str) -> float:
    """How deep a spot pool is, 0 to 1; what the capacity-optimized strategies look at."""
    return _draw(seed, instance_type, zone, "depth")


def _draw(*what: object) -> float:
    """A number in [0, 1) that depends on `what` alone."""
    digest = blake2b("|".join(map(str, what)).encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big") / 2**56

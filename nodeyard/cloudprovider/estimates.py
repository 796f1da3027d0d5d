"""What a type probably costs on demand when nobody can be asked: rates per family, never more than a stand-in.

A price made here is always marked as an estimate. Known families follow us-east-1 list prices of July 2026 (USD per
vCPU-hour, plus per accelerator; per GiB-hour for burstable ones) to within about a tenth; other families follow a
plain rate by vCPU, memory and accelerators. Spot is assumed at a fixed share, which is dearer than it mostly is, so
that an estimate never makes spot look better than a known price. Source: AWS price list.
"""

from functools import lru_cache
from typing import Final

from nodeyard.cloudprovider.description import TypeDescription

SPOT_SHARE: Final = 0.65
"""Of the on-demand price, where no spot price is known at all."""
_CNY_PER_USD: Final = 7.0
_PER_VCPU: Final = {
    "a": "a1:0.02550",
    "c": "c1:0.06500 c3:0.05250 c4:0.04975 c5:0.04250 c5a:0.03850 c5ad:0.04300 c5d:0.04800 c5n:0.05400 c6a:0.03825 c6g:0.03400 c6gd:0.03840 c6gn:0.04320 c6i:0.04250 c6id:0.05040 c6in:0.05670 c7a:0.05132 c7g:0.03625 c7gd:0.04536 c7gn:0.06240 c7i:0.04462 c7i-flex:0.04239 c8a:0.05389 c8g:0.03988 c8gd:0.04899 c8gn:0.05925 c8i:0.04686 c8i-flex:0.04451 c8in:0.06804",
    "d": "d2:0.17250 d3:0.12487 d3en:0.13143",
    "g": "g4dn:0.06035+0.2703 g5:0.05150+0.8000",
    "h": "h1:0.05850",
    "hpc": "hpc7g:0.05260",
    "i": "i2:0.21313 i3:0.07800 i3en:0.11300 i4g:0.07722 i4i:0.08580 i7i:0.09438 i7ie:0.12995 i8g:0.08580 i8ge:0.11865",
    "im": "im4gn:0.09095",
    "inf": "inf1:0.03350+0.0940 inf2:0.03696+0.5672",
    "is": "is4gen:0.14408",
    "m": "m1:0.08725 m2:0.12250 m3:0.06650 m4:0.05000 m5:0.04800 m5a:0.04300 m5ad:0.05150 m5d:0.05650 m5dn:0.06800 m5n:0.05950 m5zn:0.08259 m6a:0.04320 m6g:0.03850 m6gd:0.04520 m6i:0.04800 m6id:0.05933 m6idn:0.07956 m6in:0.06961 m7a:0.05796 m7g:0.04080 m7gd:0.05339 m7i:0.05040 m7i-flex:0.04788 m8a:0.06086 m8azn:0.10323 m8g:0.04488 m8gb:0.07275 m8gd:0.05766 m8gn:0.07275 m8i:0.05292 m8i-flex:0.05028 m8ib:0.08354 m8id:0.06526 m8idb:0.09547 m8idn:0.09547 m8in:0.08354 m9g:0.04892 m9gd:0.06285",
    "p": "p3dn:0.32288+0.0269 p4d:0.22715+0.0189",
    "r": "r3:0.08313 r4:0.06650 r5:0.06300 r5a:0.05650 r5ad:0.06550 r5b:0.07450 r5d:0.07200 r5dn:0.08350 r5n:0.07450 r6a:0.05670 r6g:0.05040 r6gd:0.05760 r6i:0.06300 r6id:0.07560 r6idn:0.09770 r6in:0.08717 r7a:0.07608 r7g:0.05355 r7gd:0.06804 r7i:0.06615 r7iz:0.09300 r8a:0.07988 r8g:0.05891 r8gd:0.07348 r8i:0.06946 r8i-flex:0.06599 r8ib:0.10460 r8id:0.08316 r8idb:0.11724 r8idn:0.11724 r8in:0.10460",
    "u": "u-3tb1:0.12187 u-6tb1:0.16452 u7i-12tb:0.14016 u7i-6tb:0.14016 u7i-8tb:0.18687 u7in-16tb:0.20142 u7in-24tb:0.30216",
    "vt": "vt1:0.05417",
    "x": "x1:0.10420 x1e:0.20850 x2gd:0.08350 x2idn:0.10420 x2iedn:0.20841 x2iezn:0.20850 x8g:0.09770 x8i:0.10941",
    "z": "z1d:0.09300",
}
"""By category: family:USD per vCPU-hour[+USD per accelerator-hour]."""
_PER_GIB: Final = {"t2": 0.0116, "t3": 0.0104, "t3a": 0.0094, "t4g": 0.0084, "t8i": 0.0107}
_FALLBACK_VCPU: Final = 0.034
_FALLBACK_GIB: Final = 0.0045
_FALLBACK_NVME_GB: Final = 0.00006
_PER_ACCELERATOR: Final = {
    "p": 5.0,
    "g": 0.8,
    "gr": 0.8,
    "trn": 1.3,
    "inf": 0.5,
    "dl": 1.5,
    "f": 1.6,
    "vt": 0.2,
}


def currency_of(region: str) -> str:
    """China's price list is in its own currency, its spot prices too, so that they compare."""
    return "CNY" if region.startswith("cn-") else "USD"


def estimate_scale(region: str) -> float:
    """What estimates, which are in USD, are multiplied by to be in a region's currency."""
    return _CNY_PER_USD if currency_of(region) == "CNY" else 1.0


@lru_cache(maxsize=1)
def _families() -> dict[str, tuple[float, float]]:
    out: dict[str, tuple[float, float]] = {}
    for entry in " ".join(_PER_VCPU.values()).split():
        family, _, rates = entry.partition(":")
        vcpu, _, device = rates.partition("+")
        out[family] = (float(vcpu), float(device or 0))
    return out


def on_demand_estimate(described: TypeDescription) -> float:
    """USD per hour, greater than zero."""
    devices = described.accelerator_count()
    gib = described.memory_mib / 1024
    if described.family in _PER_GIB:
        return round(_PER_GIB[described.family] * gib, 6)
    if described.family in _families():
        per_vcpu, per_device = _families()[described.family]
        return round(per_vcpu * described.vcpus + per_device * devices, 6)
    per_device = _PER_ACCELERATOR.get(described.category, 1.0)
    price = _FALLBACK_VCPU * described.vcpus + _FALLBACK_GIB * gib + _FALLBACK_NVME_GB * described.nvme_gb
    return round(price + per_device * devices, 6)

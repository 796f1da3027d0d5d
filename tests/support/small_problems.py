"""Planning problems so small that every plan can be tried, drawn number by number.

`small_problem(pick)` asks `pick(least, most)` for every decision, so that Hypothesis can draw and shrink them and a
seeded generator can make a fixed sample: at most five pods of two apps with up to two constraints each, a market of up
to three types in two or three zones at any prices, perhaps a node that stands, perhaps a daemon.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.support.invented_market import ZONES, instance_type, offering
from tests.support.kube_rules import CAPACITY_TYPE, HOST, REQUIRED, ZONE
from tests.support.manifests import daemon, node, pod, pool, required, spread
from tests.support.problems import PlanningProblem

Json = dict[str, Any]
Pick = Callable[[int, int], int]

_TYPES = ((2, 2), (2, 8), (4, 4), (8, 4), (16, 2))
"""(vCPUs, GiB per vCPU)."""
_SIZES = ((200, 300), (900, 1500), (1800, 2500), (3500, 3000))
"""(millicores, MiB)."""


def small_problem(pick: Pick) -> PlanningProblem:
    """One problem; simpler ones for lower numbers."""
    objects = [pool(capacity_types=("spot", "on-demand"))]
    objects += _replicas(pick, "a", "b", 3)
    objects += _replicas(pick, "b", "a", 2, followed=_followed_by(objects[-1], "b"))
    if pick(0, 1):
        objects.append(daemon("agent", 100, 100))
    if pick(0, 2) == 2:
        objects.append(node("n0", ZONES[0], cpus=2, memory_gib=8))
        objects.append(pod("old-0", 300, 300, node="n0", labels={"app": "ca"[pick(0, 1)]}))
    return PlanningProblem("small", objects, _market(pick))


def _market(pick: Pick) -> dict[str, Json]:
    zones = ZONES[: pick(2, 3)]
    kinds = {_TYPES[pick(0, len(_TYPES) - 1)] for _ in range(pick(1, 3))}
    out = {}
    for index, (cpus, ratio) in enumerate(sorted(kinds)):
        offers = [
            offering(zone, kind, pick(2, 60) / 100, available=pick(0, 5) < 5)
            for zone in zones
            for kind in ("on-demand", "spot")
        ]
        name = f"m5.t{index}"
        out[name] = instance_type(name, cpus, cpus * ratio, offers)
    return out


def _followed_by(replica: Json, app: str) -> str:
    """The key by which the pod follows the app's, if it does."""
    terms = replica["spec"].get("affinity", {}).get("podAffinity", {}).get(REQUIRED, [])
    return next((t["topologyKey"] for t in terms if t["labelSelector"]["matchLabels"]["app"] == app), "")


def _replicas(pick: Pick, app: str, other: str, most: int, followed: str = "") -> list[Json]:
    """Replicas of one app. `followed`: the key by which the other's follow them; on a host, nobody follows in return."""
    spec: Json = {}
    match pick(0, 9):
        case 1:
            spec["topologySpreadConstraints"] = [spread(ZONE, app, skew=pick(1, 2))]
        case 2:
            spec["topologySpreadConstraints"] = [spread(HOST, app, skew=pick(1, 2))]
        case 3:
            spec["topologySpreadConstraints"] = [spread(ZONE, app, minDomains=pick(1, 3))]
        case 4:
            spec["affinity"] = required("podAntiAffinity", (HOST, ZONE)[pick(0, 1)], {"app": app})
        case 5:
            spec["affinity"] = required("podAffinity", (HOST, ZONE)[pick(0, 1)], {"app": app})
        case 6 if followed != HOST:
            spec["affinity"] = required("podAffinity", ZONE, {"app": other})
        case 7:
            spec["affinity"] = required("podAntiAffinity", HOST, {"app": other})
        case 8 if not followed:
            spec["affinity"] = required("podAffinity", HOST, {"app": other})
    match pick(0, 5):
        case 1:
            spec["nodeSelector"] = {CAPACITY_TYPE: "on-demand"}
        case 2:
            spec["nodeSelector"] = {ZONE: ZONES[pick(0, 1)]}
    if pick(0, 6) == 6:
        spec["ports"] = [{"containerPort": 80, "hostPort": 80}]
    size = _SIZES[pick(0, len(_SIZES) - 1)]
    return [pod(f"{app}-{i}", *size, **spec) for i in range(pick(1, most))]

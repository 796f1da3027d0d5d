"""Small clusters to be consolidated, drawn number by number: what stands, what protects it, and what asks for a place.

`small_cluster(pick)` asks `pick(least, most)` for every decision, so that Hypothesis can draw and shrink them and a seeded
generator can make a fixed sample. Pods stand where kube-scheduler's filters (the judge's) let them; some have gone since,
as after a scale-down. Simpler clusters for lower numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.support.invented_market import ZONES, instance_type, offering
from tests.support.judge_hosts import Host, Scene, existing_hosts, misfits, overfull, settle, site_of
from tests.support.judge_topology import Replay
from tests.support.kube_rules import CAPACITY_TYPE, HOST, INSTANCE_TYPE, ZONE
from tests.support.manifests import daemon, node, pod, pool, required, spread
from tests.support.problems import PlanningProblem

Json = dict[str, Any]
Pick = Callable[[int, int], int]
_TYPES = {
    "m5.large": (2, 8),
    "m5.xlarge": (4, 16),
    "c5.xlarge": (4, 8),
    "m5.2xlarge": (8, 32),
    "m5.4xlarge": (16, 64),
}
"""(vCPUs, GiB)."""
_SIZES = ((200, 300), (900, 1500), (1800, 2500), (3500, 3000), (700, 6000))
"""(millicores, MiB)."""
_APPS = "abcd"
_BUDGETS: tuple[list[Json], ...] = (
    [{"nodes": "100%"}],
    [{"nodes": "1"}],
    [{"nodes": "50%"}],
    [{"nodes": "2", "reasons": ["Underutilized"]}],
    [{"nodes": "0", "reasons": ["Empty"]}, {"nodes": "100%"}],
)


def small_cluster(pick: Pick) -> PlanningProblem:
    """One cluster, as it is before it is consolidated."""
    zones = ZONES[: pick(1, 3)]
    market = _market(zones, pick)
    objects: list[Json] = [_pool(pick, "default")]
    if pick(0, 3) == 3:
        taint = {"key": "team", "value": "red", "effect": "NoSchedule"}
        objects.append(_pool(pick, "red", taints=[taint], labels={"team": "red"}))
    if pick(0, 3) == 3:
        objects.append(daemon("agent", 100, 100))
    objects += _nodes(
        pick, zones, market, [o["metadata"]["name"] for o in objects if o["kind"] == "NodePool"]
    )
    apps = [_app(pick, name) for name in _APPS[: pick(1, 4)]]
    pods = [_replica(pick, name, i, spec) for name, spec in apps for i in range(pick(1, 4))]
    objects += _standing(pick, objects, pods, market)
    objects += [_pdb(pick, name) for name, _ in apps if pick(0, 3) == 3]
    return PlanningProblem("small cluster", objects, market)


def _market(zones: tuple[str, ...], pick: Pick) -> dict[str, Json]:
    out = {}
    for name, (cpus, gib) in _TYPES.items():
        rate = cpus * 0.03 + gib * 0.004
        offers = [
            offering(zone, kind, round(rate * share * (1 + 0.01 * number), 4), available=pick(0, 9) < 9)
            for number, zone in enumerate(zones)
            for kind, share in (("on-demand", 1.0), ("spot", 0.4))
        ]
        out[name] = instance_type(name, cpus, gib, offers, category=name[0])
    return out


def _pool(pick: Pick, name: str, **more: Any) -> Json:
    kinds = (("on-demand",), ("spot", "on-demand"), ("spot",))[pick(0, 2)]
    limits = ({}, {}, {"cpu": "40"}, {"nodes": "5"})[pick(0, 3)]
    made = pool(name, capacity_types=kinds, limits=limits, **more)
    disruption: Json = {"budgets": _BUDGETS[pick(0, len(_BUDGETS) - 1)], "consolidateAfter": "0s"}
    match pick(0, 9):
        case 8:
            disruption["consolidationPolicy"] = "WhenEmpty"
        case 9:
            disruption["consolidateAfter"] = "Never"
    made["spec"]["disruption"] = disruption
    return made


def _nodes(pick: Pick, zones: tuple[str, ...], market: dict[str, Json], pools: list[str]) -> list[Json]:
    out = []
    for number in range(pick(1, 5)):
        name = f"n{number}"
        kind = list(_TYPES)[pick(0, len(_TYPES) - 1)]
        cpus, gib = _TYPES[kind]
        of = pools[pick(0, len(pools) - 1)]
        labels = {**{k: v[0] for k, v in market[kind]["requirements"].items()},
                  CAPACITY_TYPE: ("on-demand", "spot")[pick(0, 1)]}  # fmt: skip
        made = node(name, zones[pick(0, len(zones) - 1)], cpus=cpus, memory_gib=gib, of=of, labels=labels)
        made["status"]["allocatable"] = market[kind]["allocatable"]
        made["status"]["capacity"] = market[kind]["capacity"]
        if of == "red":
            made["metadata"]["labels"]["team"] = "red"
            made["spec"]["taints"] = [{"key": "team", "value": "red", "effect": "NoSchedule"}]
        match pick(0, 15):
            case 11:
                made["metadata"]["annotations"] = {"karpenter.sh/do-not-disrupt": "true"}
            case 12:
                made["status"]["conditions"] = [{"type": "Ready", "status": "False"}]
            case 13:
                made["metadata"]["labels"][INSTANCE_TYPE] = "x9.unknown"
            case 14:
                made["spec"]["unschedulable"] = True
            case 15:
                del made["metadata"]["labels"]["karpenter.sh/nodepool"]
        out.append(made)
    return out


def _app(pick: Pick, name: str) -> tuple[str, Json]:
    """An app's name and what its pods ask for besides room."""
    spec: Json = {}
    if pick(0, 2) == 2:
        spec["tolerations"] = [{"key": "team", "operator": "Exists"}]
        if pick(0, 1):
            spec["nodeSelector"] = {"team": "red"}
    match pick(0, 11):
        case 5:
            spec["affinity"] = required("podAntiAffinity", HOST, {"app": name})
        case 6:
            spec["topologySpreadConstraints"] = [spread(ZONE, name)]
        case 7:
            spec["topologySpreadConstraints"] = [spread(HOST, name)]
        case 8:
            spec["nodeSelector"] = {ZONE: ZONES[0]}
        case 9:
            spec["affinity"] = required("podAntiAffinity", ZONE, {"app": name})
        case 10:
            spec["affinity"] = required("podAffinity", ZONE, {"app": name})
        case 11:
            spec["affinity"] = required("podAffinity", HOST, {"app": name})
    return name, spec


def _replica(pick: Pick, app: str, number: int, spec: Json) -> Json:
    made = pod(f"{app}-{number}", *_SIZES[pick(0, len(_SIZES) - 1)], labels={"app": app}, **spec)
    made["metadata"]["ownerReferences"] = [
        {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": app, "uid": app, "controller": True}
    ]
    match pick(0, 19):
        case 17:
            made["metadata"]["annotations"] = {"karpenter.sh/do-not-disrupt": "true"}
        case 18:
            made["metadata"]["annotations"] = {"controller.kubernetes.io/pod-deletion-cost": "-2147483648"}
        case 19:
            made["spec"]["priority"] = 1_000_000
    return made


def _pdb(pick: Pick, app: str) -> Json:
    field = ("maxUnavailable", "minAvailable")[pick(0, 1)]
    value = (1, 0, "50%", 2)[pick(0, 3)]
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": app, "namespace": "default", "uid": f"pdb-{app}"},
        "spec": {field: value, "selector": {"matchLabels": {"app": app}}},
    }


def _standing(pick: Pick, objects: list[Json], pods: list[Json], market: dict[str, Json]) -> list[Json]:
    """Each pod on a node that may take it, from one picked on; some pending, some gone by now."""
    scene = Scene.of([*objects, *pods])
    hosts = existing_hosts(scene, market)
    names = sorted(hosts)
    replay = Replay(map(site_of, hosts.values()), scene.namespaces)
    out = []
    for each in pods:
        first = pick(0, len(names) - 1)
        order = [*names[first:], *names[:first]]
        name = next((n for n in order if _takes(scene, hosts[n], replay, each)), "")
        fate = pick(0, 19)
        if name and fate < 19:
            settle(scene, hosts[name], each, [])
            replay.settle(each, name)
        if fate >= 17:
            if fate == 19:
                out.append(each)  # it waits for a place
            continue
        if name:
            spec = {**each["spec"], "nodeName": name}
            out.append({**each, "spec": spec, "status": {"phase": "Running"}})
    return out


def _takes(scene: Scene, host: Host, replay: Replay, each: Json) -> bool:
    tried = Host(host.name, host.labels, host.taints, host.room.copy(), list(host.pods), list(host.ports))
    if any(misfits(scene, tried, each)) or replay.refusal(each, host.name):
        return False
    settle(scene, tried, each, [])
    return not any(overfull(scene, tried))

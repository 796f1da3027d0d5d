"""Planning problems from a seed: Kubernetes manifests beside an invented market, one function per kind.

Small ones go to the judge, to a brute-force search and to the real kube-scheduler; large ones are measured. `diverse`
and `preferring` have the pods of Karpenter's own scheduling benchmark (its sizes, labels and fifths). Neighbours:
`invented_market` (what can be bought), `planning` (solves them), `judge`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.support.invented_market import ZONES, gpu_types, invented
from tests.support.kube_rules import CAPACITY_TYPE, HOST, REQUIRED, ZONE
from tests.support.manifests import CATEGORY, claim, daemon, node, pod, pods, pool, required, spread

Json = dict[str, Any]

BENCHMARK_CPU_M = (100, 250, 500, 1000, 1500)
BENCHMARK_MEMORY_MIB = (100, 256, 512, 1024, 2048, 4096)
BENCHMARK_VALUES = "abcdefg"


@dataclass(frozen=True)
class PlanningProblem:
    """What `nodeyard plan` reads: objects, and the catalogue as {name: entry}."""

    name: str
    objects: list[Json]
    market: dict[str, Json] = field(repr=False)


def _problem(name: str, objects: Iterable[Json], market: dict[str, Json] | None = None) -> PlanningProblem:
    return PlanningProblem(name, list(objects), market or invented())


def _sizes(rng: random.Random) -> tuple[int, int]:
    return rng.choice((250, 500, 900, 1400, 2600)), rng.choice((300, 900, 1800, 3500, 9000))


# --- kinds ----------------------------------------------------------------------------------------------------------
def plain_deployments(seed: int = 1, count: int = 3, each: int = 15) -> PlanningProblem:
    rng = random.Random(seed)
    made = [p for d in range(count) for p in pods(f"web{d}", each, *_sizes(rng))]
    return _problem("plain deployments", [pool(), *made])


def fleet(
    total: int,
    deployments: int,
    seed: int = 1,
    market: dict[str, Json] | None = None,
    capacity_types: Iterable[str] = ("spot", "on-demand"),
) -> PlanningProblem:
    """Deployments of all sizes, as many pods in all."""
    rng = random.Random(seed)
    kinds = [(rng.choice((50, 100, 250, 500, 1000, 2000, 4000)) + rng.randrange(0, 50, 10),
              rng.choice((128, 256, 512, 1024, 2048, 4096, 8192)) + 16 * rng.randrange(8))
             for _ in range(deployments)]  # fmt: skip
    made = [pod(f"d{i % deployments}-{i // deployments}", *kinds[i % deployments]) for i in range(total)]
    return _problem(
        f"{total} pods of {deployments} deployments", [pool(capacity_types=capacity_types), *made], market
    )


def diverse(total: int, seed: int = 42, market: dict[str, Json] | None = None) -> PlanningProblem:
    """A fifth each: plain, zone spread, host spread, affinity to one's own kind by zone, anti-affinity by host."""
    rng = random.Random(seed)
    made = []
    for i in range(total):
        sizes = rng.choice(BENCHMARK_CPU_M), rng.choice(BENCHMARK_MEMORY_MIB)
        label, other = rng.choice(BENCHMARK_VALUES), rng.choice(BENCHMARK_VALUES)
        kind = min(i // max(1, total // 5), 5) if total >= 5 else 0
        if kind in (1, 2):
            selector = {"matchLabels": {"my-label": other}}
            key = ZONE if kind == 1 else HOST
            constraint = spread(key, "", labelSelector=selector)
            made.append(
                pod(f"spread-{i}", *sizes, labels={"my-label": label}, topologySpreadConstraints=[constraint])
            )
        elif kind == 3:
            own = {"my-affinity": label}
            made.append(pod(f"together-{i}", *sizes, labels=own, affinity=required("podAffinity", ZONE, own)))
        elif kind == 4:
            own = {"app": "nginx"}
            made.append(
                pod(f"apart-{i}", *sizes, labels=own, affinity=required("podAntiAffinity", HOST, own))
            )
        else:
            made.append(pod(f"plain-{i}", *sizes, labels={"my-label": label}))
    return _problem(f"{total} diverse pods", [pool(capacity_types=("spot", "on-demand")), *made], market)


def preferring(total: int, seed: int = 42, market: dict[str, Json] | None = None) -> PlanningProblem:
    """One deployment that prefers a zone, prefers a zone for each pod, which can't be, and a host for each pod."""
    rng = random.Random(seed)
    sizes = rng.choice(BENCHMARK_CPU_M), rng.choice(BENCHMARK_MEMORY_MIB)
    own = {"matchLabels": {"app": "nginx"}}
    apart = [
        {"weight": weight, "podAffinityTerm": {"labelSelector": own, "topologyKey": key}}
        for weight, key in ((10, ZONE), (1, HOST))
    ]
    zone = {"matchExpressions": [{"key": ZONE, "operator": "In", "values": [ZONES[0]]}]}
    soft = "preferredDuringSchedulingIgnoredDuringExecution"
    affinity = {
        "nodeAffinity": {soft: [{"weight": 1, "preference": zone}]},
        "podAntiAffinity": {soft: apart},
    }
    made = [pod(f"nginx-{i}", *sizes, labels={"app": "nginx"}, affinity=affinity) for i in range(total)]
    return _problem(f"{total} pods with preferences", [pool(), *made], market)


def spot_fleet(seed: int = 1, total: int = 60) -> PlanningProblem:
    found = fleet(total, 6, seed, capacity_types=("spot",))
    return PlanningProblem("spot fleet", found.objects, found.market)


def zone_spread(seed: int = 1, each: int = 13) -> PlanningProblem:
    rng = random.Random(seed)
    made = []
    for app, skew, more in (("a", 1, {}), ("b", 2, {}), ("c", 1, {"minDomains": 3})):
        constraint = spread(ZONE, app, skew=skew, **more)
        made += pods(app, each, *_sizes(rng), topologySpreadConstraints=[constraint])
    made += pods("both", 6, 400, 700, topologySpreadConstraints=[spread(ZONE, "both"), spread(HOST, "both")])
    return _problem("zone spread", [pool(), *made])


def rolling_spread(seed: int = 1) -> PlanningProblem:
    """Spread by hash of the template (matchLabelKeys), pods restricted to two zones, and by capacity type."""
    rng = random.Random(seed)
    made = []
    for revision in ("r1", "r2"):
        own = {"app": "roll", "pod-template-hash": revision}
        constraint = spread(ZONE, "roll", matchLabelKeys=["pod-template-hash"])
        made += [pod(f"roll-{revision}-{i}", 400, 800, labels=own, topologySpreadConstraints=[constraint]) for i in range(5)]  # fmt: skip
    two = {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": ZONE, "operator": "In", "values": list(ZONES[:2])}]}]}}}  # fmt: skip
    made += pods("pair", 6, *_sizes(rng), affinity=two, topologySpreadConstraints=[spread(ZONE, "pair")])
    made += pods("kinds", 6, 300, 600, topologySpreadConstraints=[spread(CAPACITY_TYPE, "kinds")])
    return _problem("rolling spread", [pool(capacity_types=("spot", "on-demand")), *made])


def host_anti_affinity(seed: int = 1, apart: int = 8, fill: int = 30) -> PlanningProblem:
    rng = random.Random(seed)
    anti = required("podAntiAffinity", HOST, {"app": "db"})
    return _problem(
        "host anti-affinity",
        [pool(), *pods("db", apart, 2500, 6000, affinity=anti), *pods("fill", fill, *_sizes(rng))],
    )


def affinities(seed: int = 1) -> PlanningProblem:
    """Together by zone and by host, apart by zone, after others, and across namespaces."""
    rng = random.Random(seed)
    spaces = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": n, "labels": {"team": n[0]}}} for n in ("x1", "x2", "y1")]  # fmt: skip
    cache, web = {"app": "cache"}, {"app": "web"}
    made = [
        *pods("cache", 5, *_sizes(rng), affinity=required("podAffinity", ZONE, cache)),
        *pods("web", 6, 300, 500, affinity=required("podAffinity", HOST, cache)),
        *pods("lone", 3, 700, 900, affinity=required("podAntiAffinity", ZONE, {"app": "lone"})),
        *pods("quiet", 2, 700, 900, affinity=required("podAntiAffinity", ZONE, web)),
        *pods("base", 2, 500, 500, namespace="x1"),
        *pods("guest", 3, 500, 500, namespace="y1", affinity=required(
            "podAffinity", HOST, {"app": "base"}, namespaceSelector={"matchLabels": {"team": "x"}})),
        *pods("shy", 3, 500, 500, namespace="x2", affinity=required(
            "podAntiAffinity", HOST, {"app": "base"}, namespaces=["x1"])),
    ]  # fmt: skip
    return _problem("affinities", [pool(), *spaces, *made])


def daemons(seed: int = 1) -> PlanningProblem:
    rng = random.Random(seed)
    sets = [
        daemon("cni", 50, 64),
        daemon("logs", 200, 400),
        daemon("only-m", 500, 2000, nodeSelector={CATEGORY: "m"}),
    ]
    port = [{"containerPort": 9100, "hostPort": 9100}]
    sets[0]["spec"]["template"]["spec"]["containers"][0]["ports"] = port
    made = [*pods("web", 40, *_sizes(rng)), *pods("api", 20, *_sizes(rng))]
    return _problem("daemons", [pool(), *sets, *made])


def host_ports(seed: int = 1) -> PlanningProblem:
    rng = random.Random(seed)
    port = {"containerPort": 80, "hostPort": 8080}
    made = [
        *pods("edge", 4, 300, 400, ports=[port]),
        *pods("dns", 3, 300, 400, ports=[{**port, "protocol": "UDP"}]),
        *pods("web", 10, *_sizes(rng)),
    ]
    return _problem("host ports", [pool(), *made])


def two_pools(seed: int = 1) -> PlanningProblem:
    rng = random.Random(seed)
    only = {CAPACITY_TYPE: "on-demand"}
    market = invented()
    pools = [
        pool("spot", capacity_types=("spot",), weight=20),
        pool("steady", limits={"cpu": "24", "nodes": "4"}),
    ]
    return _problem("two pools", [*pools, *pods("any", 30, *_sizes(rng)), *pods("od", 10, 900, 1800, nodeSelector=only)], market)  # fmt: skip


def short_of_limits(seed: int = 1) -> PlanningProblem:
    """More pods than the pool's limits admit, some more important than others."""
    rng = random.Random(seed)
    made = [*pods("low", 20, *_sizes(rng)), *pods("high", 10, 900, 1500, priority=1000)]
    return _problem("short of limits", [pool(limits={"cpu": "16", "memory": "96Gi"}), *made])


def tainted_pools(seed: int = 1) -> PlanningProblem:
    """A pool behind a taint and with a custom label left open, beside a plain one."""
    rng = random.Random(seed)
    taint = {"key": "team", "value": "red", "effect": "NoSchedule"}
    tier = {"key": "example.com/tier", "operator": "In", "values": ["gold", "silver"]}
    tolerations = [{"key": "team", "operator": "Equal", "value": "red", "effect": "NoSchedule"}]
    made = [
        *pods("plain", 10, *_sizes(rng)),
        *pods("gold", 4, *_sizes(rng), tolerations=tolerations, nodeSelector={"example.com/tier": "gold"}),
        *pods(
            "silver", 4, *_sizes(rng), tolerations=tolerations, nodeSelector={"example.com/tier": "silver"}
        ),
        *pods("lost", 2, 200, 200, nodeSelector={"example.com/tier": "gold"}),
    ]
    return _problem("tainted pools", [pool(), pool("red", taints=[taint], requirements=[tier]), *made])


def min_values(seed: int = 1) -> PlanningProblem:
    rng = random.Random(seed)
    least = [
        {
            "key": "karpenter.k8s.aws/instance-family",
            "operator": "Exists",
            "minValues": 3,
        },
        {"key": "node.kubernetes.io/instance-type", "operator": "Exists", "minValues": 6},
    ]
    return _problem("minValues", [pool(requirements=least), *pods("web", 25, *_sizes(rng))])


def node_affinities(seed: int = 1) -> PlanningProblem:
    """All operators, ORed terms, an architecture, and a zone that is not."""
    rng = random.Random(seed)

    def terms(*each: list[Json]) -> Json:
        return {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [{"matchExpressions": e} for e in each]}}}

    cpu, memory = "karpenter.k8s.aws/instance-cpu", "karpenter.k8s.aws/instance-memory"
    made = [
        *pods("big", 3, *_sizes(rng), affinity=terms([{"key": cpu, "operator": "Gt", "values": ["15"]}])),
        *pods("small", 3, 200, 300, affinity=terms([{"key": memory, "operator": "Lt", "values": ["9000"]}])),
        *pods("either", 4, *_sizes(rng), affinity=terms(
            [{"key": ZONE, "operator": "In", "values": ["nowhere"]}],
            [{"key": ZONE, "operator": "NotIn", "values": [ZONES[0]]}, {"key": CATEGORY, "operator": "In", "values": ["r"]}])),
        *pods("arm", 4, *_sizes(rng), nodeSelector={"kubernetes.io/arch": "arm64"}),
        *pods("nowhere", 2, 200, 300, nodeSelector={ZONE: "nowhere"}),
        *pods("without", 2, 200, 300, affinity=terms([{"key": "example.com/old", "operator": "DoesNotExist"}])),
    ]  # fmt: skip
    return _problem("node affinities", [pool(), pool("arm", arches=("arm64",)), *made], invented(types=120))


def existing_nodes(seed: int = 1, nodes: int = 6) -> PlanningProblem:
    """Nodes with pods on them, one of which keeps others off by zone; a taint and a cordon."""
    rng = random.Random(seed)
    made = [node(f"n{i}", ZONES[i % 3]) for i in range(nodes)]
    made[1]["spec"]["taints"] = [{"key": "held", "effect": "NoSchedule"}]
    made[2]["spec"]["unschedulable"] = True
    guard = required("podAntiAffinity", ZONE, {"app": "noisy"})
    running = [pod(f"old-{i}", 900, 2000, node=f"n{i % nodes}") for i in range(2 * nodes)]
    running.append(pod("guard-0", 100, 100, node="n0", affinity=guard))
    spread_over = [spread(ZONE, "new")]
    return _problem(
        "existing nodes",
        [pool(), *made, *running, *pods("noisy", 4, 400, 600),
         *pods("new", 12, *_sizes(rng), topologySpreadConstraints=spread_over), *pods("more", 10, 700, 900)],
    )  # fmt: skip


def joining_nodes(seed: int = 1) -> PlanningProblem:
    """A node that has joined and is not ready, one that waits for an agent, and a claim whose node is on its way."""
    rng = random.Random(seed)
    agent = {"key": "example.com/agent", "value": "starting", "effect": "NoSchedule"}
    fresh, waiting, held = (node(f"j{i}", ZONES[i]) for i in range(3))
    for each in (fresh, waiting):
        del each["metadata"]["labels"]["karpenter.sh/initialized"]
    fresh["spec"]["taints"] = [{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]
    fresh["status"]["conditions"] = [{"type": "Ready", "status": "False"}]
    waiting["spec"]["taints"] = [agent]
    held["spec"]["taints"] = [agent]  # it is ready, so that this taint is there to stay
    claims = [
        claim("c1", ZONES[1], startup_taints=[agent], provider=waiting["spec"]["providerID"]),
        claim("c9", ZONES[0]),
    ]
    made = [
        *pods("web", 12, *_sizes(rng)),
        *pods("even", 5, 400, 700, topologySpreadConstraints=[spread(ZONE, "even")]),
    ]
    return _problem("joining nodes", [pool(), fresh, waiting, held, *claims, *made])


def odd_requests(seed: int = 1) -> PlanningProblem:
    """Init containers, sidecars, overhead, requests of the pod as a whole, limits that stand for requests."""
    rng = random.Random(seed)
    made = []
    for i in range(12):
        whole = i % 4 == 3
        one = pod(f"odd-{i}", *((500, 900) if whole else _sizes(rng)), labels={"n": str(i % 3)})
        first = {"name": "init", "image": "i", "resources": {"requests": {"cpu": "3", "memory": "2Gi"}}}
        sidecar = {"name": "side", "image": "i", "restartPolicy": "Always", "resources": {"requests": {"cpu": "200m"}, "limits": {"memory": "300Mi"}}}  # fmt: skip
        one["spec"]["initContainers"] = [[first], [sidecar, first], [sidecar]][i % 3]
        if whole:
            one["spec"]["resources"] = {"requests": {"cpu": "3500m", "memory": "5Gi"}}
        made.append(one)
    return _problem("odd requests", [pool(), *made])


def volumes(seed: int = 1) -> PlanningProblem:
    """A bound volume in one zone, a class bound to another, a free one, attach limits, and a broken claim."""
    del seed
    zonal = [{"matchLabelExpressions": [{"key": ZONE, "values": [ZONES[1]]}]}]
    reach = {"required": {"nodeSelectorTerms": [{"matchExpressions": [{"key": ZONE, "operator": "In", "values": [ZONES[2]]}]}]}}  # fmt: skip
    made: list[Json] = [_storage_class("free"), {**_storage_class("zonal"), "allowedTopologies": zonal}]
    made.append({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "disk", "uid": "pv-disk"},
        "spec": {"capacity": {"storage": "10Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "free",
                 "csi": {"driver": "ebs.csi.aws.com", "volumeHandle": "vol-disk"}, "nodeAffinity": reach},
    })  # fmt: skip
    made += [
        _claim("bound", "free", volume="disk"),
        _claim("zonal", "zonal"),
        *(_claim(f"free-{i}", "free") for i in range(4)),
    ]
    made += [node("n0", ZONES[0], cpus=16, memory_gib=64)]
    made.append({"apiVersion": "storage.k8s.io/v1", "kind": "CSINode", "metadata": {"name": "n0"},
                 "spec": {"drivers": [{"name": "ebs.csi.aws.com", "nodeID": "i-n0", "topologyKeys": [], "allocatable": {"count": 2}}]}})  # fmt: skip
    made += [
        _with_claim("a", "bound"),
        _with_claim("b", "zonal"),
        *(_with_claim(f"c{i}", f"free-{i}") for i in range(4)),
    ]
    made += [_with_claim("broken", "missing"), *pods("rest", 5, 300, 400)]
    return _problem("volumes", [pool(), *made])


def _storage_class(name: str) -> Json:
    return {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name, "uid": f"class-{name}"},
            "provisioner": "ebs.csi.aws.com", "volumeBindingMode": "WaitForFirstConsumer"}  # fmt: skip


def _claim(name: str, of: str, *, volume: str = "") -> Json:
    spec = {"accessModes": ["ReadWriteOnce"], "storageClassName": of, "resources": {"requests": {"storage": "10Gi"}}}  # fmt: skip
    metadata: Json = {"name": name, "namespace": "default", "uid": f"claim-{name}"}
    if volume:
        spec["volumeName"] = volume
        metadata["annotations"] = {"pv.kubernetes.io/bind-completed": "yes"}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec,
            "status": {"phase": "Bound" if volume else "Pending"}}  # fmt: skip


def _with_claim(name: str, claim: str) -> Json:
    return pod(
        name,
        400,
        500,
        volumes=[{"name": "data", "persistentVolumeClaim": {"claimName": claim}}],
        labels={"app": "db"},
    )


def gpus(seed: int = 1) -> PlanningProblem:
    rng = random.Random(seed)
    pools = [pool("cpu"), pool("gpu", categories="g", capacity_types=("spot", "on-demand"))]
    plugin = daemon("plugin", 100, 100, nodeSelector={"karpenter.k8s.aws/instance-gpu-manufacturer": "nvidia"})  # fmt: skip
    made = [*pods("train", 6, 2500, 7000, extra={"nvidia.com/gpu": "1"}), *pods("web", 20, *_sizes(rng))]
    return _problem("gpus", [*pools, plugin, *made], {**invented(), **gpu_types()})


def all_different(seed: int = 1, total: int = 60) -> PlanningProblem:
    rng = random.Random(seed)
    made = [
        pod(f"one-{i}", rng.randrange(50, 4000), rng.randrange(64, 12000), labels={"n": str(i)})
        for i in range(total)
    ]
    return _problem(f"{total} pods all different", [pool(capacity_types=("spot", "on-demand")), *made])


def pending_into_cluster(pending: int = 100, nodes: int = 2000, running: int = 30_000, seed: int = 1, market: dict[str, Json] | None = None) -> PlanningProblem:  # fmt: skip
    """A standing cluster, nearly full, and some pods more."""
    rng = random.Random(seed)
    made: list[Json] = [node(f"n{i:05d}", ZONES[i % 3], cpus=8, memory_gib=32) for i in range(nodes)]
    made += [
        pod(f"run{i % 150}-{i}", (250, 500, 600)[i % 3], (512, 1024, 2048)[i % 3], node=f"n{i % nodes:05d}")
        for i in range(running)
    ]
    made += [
        pod(f"new{i % 10}-{i}", rng.choice((500, 2000, 4000)), rng.choice((1024, 4096)))
        for i in range(pending)
    ]
    return _problem(f"{pending} pods into {nodes} nodes", [pool(capacity_types=("spot", "on-demand")), *made], market)  # fmt: skip


KINDS: dict[str, Callable[[int], PlanningProblem]] = {
    "plain deployments": plain_deployments,
    "diverse": lambda seed: diverse(60, seed),
    "preferring": lambda seed: preferring(30, seed),
    "spot fleet": spot_fleet,
    "zone spread": zone_spread,
    "rolling spread": rolling_spread,
    "host anti-affinity": host_anti_affinity,
    "affinities": affinities,
    "daemons": daemons,
    "host ports": host_ports,
    "two pools": two_pools,
    "short of limits": short_of_limits,
    "tainted pools": tainted_pools,
    "minValues": min_values,
    "node affinities": node_affinities,
    "existing nodes": existing_nodes,
    "joining nodes": joining_nodes,
    "odd requests": odd_requests,
    "volumes": volumes,
    "gpus": gpus,
    "all different": all_different,
}
"""Every kind of constraint, in a size that the judge can take: name -> problem of a seed."""

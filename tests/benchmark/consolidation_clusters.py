"""Generated clusters to be consolidated, as Kubernetes objects: five kinds of waste, from ten nodes to a thousand.

`fresh_waves`: deployments came in waves, each bought for by itself; `after_scale_down`: the same, most replicas gone
since; `zone_spread`: balanced over zones, then scaled down evenly; `fragmented`: one small node after another, each
half empty; `mixed_spot`: spot and on-demand pools side by side. Every node is an offering of the catalogue given, as
{name: entry} of the JSON Lines format. Seeds are arguments.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any, Final

Json = dict[str, Any]
ZONE, TYPE = "topology.kubernetes.io/zone", "node.kubernetes.io/instance-type"
CAPACITY_TYPE, POOL, HOST = "karpenter.sh/capacity-type", "karpenter.sh/nodepool", "kubernetes.io/hostname"
CPUS: Final = (100, 150, 200, 250, 300, 400, 500, 750, 1000, 1500, 2000, 3000)
RATIOS: Final = (0.5, 1, 1.5, 2, 3, 4, 6, 8)
"""GiB of memory per core."""
_UNITS: Final = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def milli(quantity: str) -> float:
    """A quantity in thousandths of its unit."""
    for unit, size in _UNITS.items():
        if quantity.endswith(unit):
            return float(quantity[: -len(unit)]) * size * 1000
    return float(quantity[:-1]) if quantity.endswith("m") else float(quantity) * 1000


class Offered:
    """What may be bought: one entry per type, zone and capacity type."""

    def __init__(self, name: str, entry: Json, offering: Json) -> None:
        self.name, self.entry = name, entry
        self.zone: str = offering["zone"]
        self.capacity_type: str = offering["capacityType"]
        self.price: float = offering["price"]
        room = entry["allocatable"]
        self.room = [milli(room["cpu"]), milli(room["memory"]), milli(room["pods"])]


class Builder:
    """A cluster under construction."""

    def __init__(self, catalogue: dict[str, Json], seed: int, *, capacity_types: tuple[str, ...]) -> None:
        self.rng = random.Random(seed)
        self.objects: list[Json] = []
        self.pods: list[Json] = []
        self.made = 0
        self.offered = [
            Offered(name, entry, offering)
            for name, entry in catalogue.items()
            if _general(entry)
            for offering in entry["offerings"]
            if offering["available"] and offering["capacityType"] in ("on-demand", "spot")
        ]
        self.zones = sorted({o.zone for o in self.offered})[:3]
        self.offered = [o for o in self.offered if o.zone in self.zones]
        self.nodes: list[tuple[Offered, list[float], str]] = []
        for capacity_type in capacity_types:
            self.objects.append(node_pool(capacity_type, self.zones))

    def deployments(
        self, many: int, replicas: tuple[int, int], *, spread: bool = False, plain: float = 1.0
    ) -> list[list[Json]]:
        """Pods of so many deployments."""
        out = []
        for _ in range(many):
            self.made += 1
            name = f"app-{self.made}"
            cpu = self.rng.choice(CPUS)
            memory = max(64, int(cpu / 1000 * self.rng.choice(RATIOS) * 1024))
            spec: Json = {
                "containers": [
                    {"name": "main", "resources": {"requests": {"cpu": f"{cpu}m", "memory": f"{memory}Mi"}}}
                ]
            }
            if spread or self.rng.random() > plain:
                spec["topologySpreadConstraints"] = [
                    {
                        "maxSkew": 1,
                        "topologyKey": ZONE,
                        "whenUnsatisfiable": "DoNotSchedule",
                        "labelSelector": {"matchLabels": {"app": name}},
                    }
                ]
            count = self.rng.randint(*replicas)
            pods = [
                {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": {
                        "name": f"{name}-{i}",
                        "namespace": "default",
                        "labels": {"app": name},
                        "ownerReferences": [
                            {
                                "apiVersion": "apps/v1",
                                "kind": "ReplicaSet",
                                "name": name,
                                "uid": name,
                                "controller": True,
                            }
                        ],
                    },
                    "spec": spec,
                }
                for i in range(count)
            ]
            self.pods += pods
            out.append(pods)
        return out

    def place(self, pods: list[Json], usable: Callable[[Offered], bool], most_pods: int = 10_000) -> None:
        """First fit, largest first, as a batch: what does not fit is bought for with as few nodes as there can be."""
        order = sorted(pods, key=lambda p: (-_request(p)[0], -_request(p)[1]))
        rest = []
        for pod in order:
            node = next((n for n in self.nodes if usable(n[0]) and _fits(pod, n[1])), None)
            if node is None:
                rest.append(pod)
            else:
                _put(pod, node)
        while rest:
            rest = self._buy(rest, [o for o in self.offered if usable(o)], most_pods)

    def _buy(self, rest: list[Json], offered: list[Offered], most_pods: int) -> list[Json]:
        load = [0.0, 0.0, 0.0]
        inside: list[Json] = []
        largest = [max(o.room[j] for o in offered) for j in range(3)]
        for pod in rest[:most_pods]:
            wider = [a + b for a, b in zip(load, _request(pod), strict=True)]
            if all(w <= m for w, m in zip(wider, largest, strict=True)) and any(
                _holds(o, wider) for o in offered
            ):
                load, inside = wider, [*inside, pod]
        best = min((o for o in offered if _holds(o, load)), key=lambda o: (o.price, o.name, o.zone))
        node = self.node(best)
        for pod in inside:
            _put(pod, node)
        taken = {id(p) for p in inside}
        return [p for p in rest if id(p) not in taken]

    def node(self, offered: Offered) -> tuple[Offered, list[float], str]:
        """One more node, empty."""
        name = f"ip-10-0-{len(self.nodes) // 250}-{len(self.nodes) % 250}"
        node = (offered, list(offered.room), name)
        self.nodes.append(node)
        return node

    def finished(self) -> list[Json]:
        """All objects: pods that are left, and the nodes."""
        placed = [p for p in self.pods if p["spec"].get("nodeName")]
        return [*self.objects, *(_node_object(n) for n in self.nodes), *placed]


def _general(entry: Json) -> bool:
    own = entry["requirements"]
    return (
        own["kubernetes.io/arch"] == ["amd64"]
        and own.get("karpenter.k8s.aws/instance-category", ["m"])[0] in ("c", "m", "r")
        and own.get("karpenter.k8s.aws/instance-size", [""])[0] not in ("metal",)
        and 2 <= int(own.get("karpenter.k8s.aws/instance-cpu", ["4"])[0]) <= 64
        and float(own.get("karpenter.k8s.aws/instance-generation", ["5"])[0]) > 4
    )


def node_pool(capacity_type: str, zones: list[str], budget: str = "100%") -> Json:
    """A pool of general types, of one capacity type, whose name it bears."""
    requirements = [
        {"key": "kubernetes.io/arch", "operator": "In", "values": ["amd64"]},
        {"key": CAPACITY_TYPE, "operator": "In", "values": [capacity_type]},
        {"key": ZONE, "operator": "In", "values": zones},
        {"key": "karpenter.k8s.aws/instance-category", "operator": "In", "values": ["c", "m", "r"]},
        {"key": "karpenter.k8s.aws/instance-generation", "operator": "Gt", "values": ["4"]},
        {"key": "karpenter.k8s.aws/instance-cpu", "operator": "Lt", "values": ["65"]},
    ]
    return {
        "apiVersion": "karpenter.sh/v1",
        "kind": "NodePool",
        "metadata": {"name": capacity_type},
        "spec": {
            "template": {
                "metadata": {"labels": {}},
                "spec": {
                    "requirements": requirements,
                    "nodeClassRef": {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "default"},
                },
            },
            "disruption": {
                "consolidationPolicy": "WhenEmptyOrUnderutilized",
                "consolidateAfter": "0s",
                "budgets": [{"nodes": budget}],
            },
        },
    }


def _node_object(node: tuple[Offered, list[float], str]) -> Json:
    offered, _, name = node
    labels = {k: v[0] for k, v in offered.entry["requirements"].items() if len(v) == 1}
    labels |= {
        HOST: name,
        TYPE: offered.name,
        ZONE: offered.zone,
        CAPACITY_TYPE: offered.capacity_type,
        POOL: offered.capacity_type,
        "karpenter.sh/registered": "true",
        "karpenter.sh/initialized": "true",
    }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "spec": {"providerID": f"aws:///{offered.zone}/i-{name}"},
        "status": {
            "capacity": offered.entry["capacity"],
            "allocatable": offered.entry["allocatable"],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def _request(pod: Json) -> list[float]:
    asked = pod["spec"]["containers"][0]["resources"]["requests"]
    return [milli(asked["cpu"]), milli(asked["memory"]), 1000.0]


def _fits(pod: Json, free: list[float]) -> bool:
    return all(r <= f for r, f in zip(_request(pod), free, strict=True))


def _holds(offered: Offered, load: list[float]) -> bool:
    return all(r <= f for r, f in zip(load, offered.room, strict=True))


def _put(pod: Json, node: tuple[Offered, list[float], str]) -> None:
    pod["spec"] = {**pod["spec"], "nodeName": node[2]}
    for j, amount in enumerate(_request(pod)):
        node[1][j] -= amount


def _small(capacity_type: str, zone: str = "") -> Callable[[Offered], bool]:
    """Offerings of up to sixteen cores."""
    return lambda o: o.capacity_type == capacity_type and o.room[0] < 17_000 and zone in ("", o.zone)


# --- the five kinds ---------------------------------------------------------------------------------------------------
def fresh_waves(catalogue: dict[str, Json], nodes: int, seed: int) -> list[Json]:
    """Eight waves, each batch bought for when it came."""
    made = Builder(catalogue, seed, capacity_types=("on-demand",))
    per_node = max(1, nodes * 15 // 37)
    for _ in range(8):
        groups = made.deployments(max(1, per_node // 8), (10, 60))
        made.place([p for g in groups for p in g], _small("on-demand"))
    return made.finished()


def after_scale_down(catalogue: dict[str, Json], nodes: int, seed: int, left: float = 0.4) -> list[Json]:
    """Waves, and then most replicas went."""
    made = Builder(catalogue, seed, capacity_types=("on-demand",))
    per_node = max(1, nodes * 15 // 37)
    for _ in range(8):
        groups = made.deployments(max(1, per_node // 8), (10, 60))
        made.place([p for g in groups for p in g], _small("on-demand"))
    for pod in made.pods:
        if made.rng.random() > left:
            pod["spec"]["nodeName"] = ""
    return made.finished()


def zone_spread(catalogue: dict[str, Json], nodes: int, seed: int) -> list[Json]:
    """Every other deployment balanced over three zones; scaled down by whole triples since."""
    made = Builder(catalogue, seed, capacity_types=("on-demand",))
    per_node = max(2, nodes * 15 // 24)
    for wave in range(6):
        groups = made.deployments(max(1, per_node // 6), (2, 10), spread=wave % 2 == 0)
        for group in groups:
            count = len(group) // 3 * 3 or len(group)
            for pod in group[count:]:
                made.pods.remove(pod)
            del group[count:]
        by_zone: dict[str, list[Json]] = {z: [] for z in made.zones}
        for group in groups:
            for i, pod in enumerate(group):
                by_zone[made.zones[i % 3]].append(pod)
        for zone, pods in by_zone.items():
            made.place(pods, _small("on-demand", zone))
        for group in groups:
            for first in range(0, len(group) - 3, 3):
                if made.rng.random() < 0.4:
                    for pod in group[first : first + 3]:
                        pod["spec"]["nodeName"] = ""
    return made.finished()


def fragmented(catalogue: dict[str, Json], nodes: int, seed: int) -> list[Json]:
    """Node after node of whatever type was at hand, each filled to between a quarter and four fifths."""
    made = Builder(catalogue, seed, capacity_types=("on-demand",))
    kinds = [o for o in made.offered if o.capacity_type == "on-demand" and o.room[0] < 17_000]
    groups = made.deployments(max(4, nodes * 15 // 37), (10, 60))
    waiting = [p for g in groups for p in g]
    made.rng.shuffle(waiting)
    for _ in range(nodes):
        node = made.node(made.rng.choice(kinds))
        share = made.rng.uniform(0.25, 0.8)
        for _ in range(40):
            if not waiting or node[1][0] < (1 - share) * node[0].room[0]:
                break
            pod = waiting.pop()
            if _fits(pod, node[1]):
                _put(pod, node)
            else:
                waiting.insert(0, pod)
    return made.finished()


def mixed_spot(catalogue: dict[str, Json], nodes: int, seed: int) -> list[Json]:
    """Two pools; a third of the deployments insists on on-demand, a third of the rest happens to be there too."""
    made = Builder(catalogue, seed, capacity_types=("on-demand", "spot"))
    per_node = max(3, nodes * 15 // 37)
    for wave in range(8):
        groups = made.deployments(max(1, per_node // 8), (10, 60))
        for group in groups:
            kind = "on-demand" if made.rng.random() < 0.5 else "spot"
            if kind == "on-demand" and made.rng.random() < 0.6:
                for pod in group:
                    pod["spec"] = {**pod["spec"], "nodeSelector": {CAPACITY_TYPE: "on-demand"}}
            made.place(group, _small(kind))
        if wave == 5:
            for pod in made.pods:
                if made.rng.random() < 0.4:
                    pod["spec"] = {k: v for k, v in pod["spec"].items() if k != "nodeName"}
            made.pods[:] = [p for p in made.pods if p["spec"].get("nodeName")]
    return made.finished()


KINDS: Final[dict[str, Callable[[dict[str, Json], int, int], list[Json]]]] = {
    "fresh waves": fresh_waves,
    "after scale-down": after_scale_down,
    "zone-spread": zone_spread,
    "fragmented by drift": fragmented,
    "mixed spot": mixed_spot,
}


def clusters(
    catalogue: dict[str, Json], sizes: tuple[int, ...], seed: int = 1
) -> Iterator[tuple[str, int, list[Json]]]:
    """(kind, about how many nodes, objects) for every kind and size."""
    for kind, make in KINDS.items():
        for size in sizes:
            yield kind, size, make(catalogue, size, seed)

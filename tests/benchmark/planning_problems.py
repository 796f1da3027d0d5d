"""Generated planning problems for the planner's figures: each with a stated seed, built as values without manifests.

`diverse` has the sizes, labels and fifths of Karpenter's own scheduling benchmark (plain, zone spread, host spread,
zone affinity, host anti-affinity); `deployments` is a fleet of plain deployments; `unsatisfiable` has preferences that
can't all be kept; `running` is a cluster that is already full of pods.
"""

import random

from nodeyard.api import labels as keys
from nodeyard.api.node import Condition, Node
from nodeyard.api.pod import PodRecord, PodShape
from nodeyard.api.pool import Pool
from nodeyard.api.selectors import (
    LabelSelector,
    PodAffinity,
    PodAffinityTerm,
    Requirement,
    TopologySpreadConstraint,
    WeightedPodAffinityTerm,
)
from nodeyard.cloudprovider.model import Catalogue, InstanceType, Offering
from nodeyard.provisioning.model import Problem
from nodeyard.state.cluster import Change, Kind, snapshot_of

MIB, GIB = 2**20, 2**30
CPUS = (100, 250, 500, 1000, 1500)
MEMORIES = tuple(m * MIB for m in (100, 256, 512, 1024, 2048, 4096))
LETTERS = "abcdefg"
FAMILIES = {"c": 2, "m": 4, "r": 8}
SIZES = (2, 4, 8, 16, 32, 48, 64, 96, 128, 192)


def linear_catalogue(types: int = 400) -> Catalogue:
    """Types that grow evenly, as Karpenter's benchmark has them: i cores, 2i GiB, 10i pods, in three zones."""
    out = []
    for i in range(1, types + 1):
        price = 0.1 * i * 0.25 + 0.01 * 2 * i
        offerings = [
            Offering(f"test-zone-{z}", ct, price * (0.6 if ct == keys.SPOT else 1.0))
            for z in (1, 2, 3)
            for ct in (keys.SPOT, keys.ON_DEMAND)
        ]
        out.append(_type(f"fake-it-{i}", i * 1000, 2 * i * GIB, 10 * i, offerings))
    return Catalogue(out, "linear")


def real_catalogue(types: int = 1309, seed: int = 7) -> Catalogue:
    """Families of cores and memory like EC2's, four zones, on demand and spot."""
    rng = random.Random(seed)
    out: list[InstanceType] = []
    number = 0
    while len(out) < types:
        number += 1
        for family, ratio in FAMILIES.items():
            rate = (0.02 + 0.0045 * ratio) * rng.uniform(0.85, 1.3)
            for cores in SIZES:
                if len(out) == types:
                    break
                price = rate * cores
                offerings = []
                for zone in "abcd":
                    offerings.append(Offering(f"eu-west-1{zone}", keys.ON_DEMAND, round(price, 4)))
                    spot = round(price * rng.uniform(0.25, 0.7), 4)
                    offerings.append(Offering(f"eu-west-1{zone}", keys.SPOT, spot))
                pods = min(737, 29 * cores // 2)
                out.append(
                    _type(f"{family}{number}.{cores}", cores * 1000, cores * ratio * GIB, pods, offerings)
                )
    return Catalogue(out, "real")


def _type(name: str, cpu: int, memory: int, pods: int, offerings: list[Offering]) -> InstanceType:
    room = {"cpu": cpu - 80, "memory": int(memory * 0.92) - 255 * MIB, "pods": pods}
    requirements = {
        keys.ARCH: ("amd64",),
        keys.OS: ("linux",),
        keys.INSTANCE_FAMILY: (name.split(".")[0],),
        keys.INSTANCE_CPU: (str(cpu // 1000),),
    }
    return InstanceType(
        name, requirements, {"cpu": cpu, "memory": memory, "pods": pods}, room, tuple(offerings)
    )


POOL = Pool("default", requirements=(Requirement(keys.OS, "In", ("linux",)),))


def problem_of(
    pods: list[tuple[PodShape, str]], catalogue: Catalogue, nodes: tuple[Change, ...] = (), pool: Pool = POOL
) -> Problem:
    """`pods`: shape and the node it runs on, empty for pending."""
    changes = [Change(Kind.POOL, pool.key, pool), *nodes]
    shapes = {shape.id: shape for shape, _ in pods}
    changes += [Change(Kind.SHAPE, i, s) for i, s in shapes.items()]
    pending = []
    for i, (shape, node) in enumerate(pods):
        phase = "Running" if node else "Pending"
        record = PodRecord(
            "default", f"p-{i:06d}", f"u{i}", shape.id, node=node, phase=phase, owner_kind="ReplicaSet"
        )
        changes.append(Change(Kind.POD, record.key, record))
        if not node:
            pending.append(record.key)
    return Problem(snapshot_of(changes), tuple(pending), {"": catalogue}, 0.0)


def shape(identity: str, cpu: int, memory: int, labels: dict[str, str], **more: object) -> PodShape:
    requests = {"cpu": cpu, "memory": memory, "pods": 1}
    return PodShape(identity, "default", labels, requests, **more)  # type: ignore[arg-type]


def diverse(count: int, seed: int = 1) -> list[tuple[PodShape, str]]:
    rng = random.Random(seed)
    out = []
    for i in range(count):
        cpu, memory = rng.choice(CPUS), rng.choice(MEMORIES)
        own, other, near = rng.choice(LETTERS), rng.choice(LETTERS), rng.choice(LETTERS)
        name = f"{i % 5}-{cpu}-{memory}-{own}-{other}-{near}"
        out.append((_diverse_shape(i % 5, name, cpu, memory, own, other, near), ""))
    return out


def _diverse_shape(kind: int, name: str, cpu: int, memory: int, own: str, other: str, near: str) -> PodShape:
    if kind == 0:
        return shape(f"0-{cpu}-{memory}-{own}", cpu, memory, {"my-label": own})
    if kind in (1, 2):
        key = keys.ZONE if kind == 1 else keys.HOSTNAME
        spread = TopologySpreadConstraint(1, key, "DoNotSchedule", LabelSelector({"my-label": other}))
        identity = f"{kind}-{cpu}-{memory}-{own}-{other}"
        return shape(identity, cpu, memory, {"my-label": own}, topology_spread_constraints=(spread,))
    if kind == 3:
        term = PodAffinityTerm(keys.ZONE, LabelSelector({"my-affinity": near}))
        return shape(
            f"3-{cpu}-{memory}-{near}", cpu, memory, {"my-affinity": near}, pod_affinity=PodAffinity((term,))
        )
    term = PodAffinityTerm(keys.HOSTNAME, LabelSelector({"app": "nginx"}))
    return shape(f"4-{cpu}-{memory}", cpu, memory, {"app": "nginx"}, pod_anti_affinity=PodAffinity((term,)))


def deployments(pods: int, kinds: int, seed: int = 2) -> list[tuple[PodShape, str]]:
    rng = random.Random(seed)
    shapes = []
    for i in range(kinds):
        cpu = int(rng.choice((100, 250, 500, 1000, 2000)) * rng.uniform(0.8, 1.3))
        memory = int(cpu * rng.uniform(1.0, 6.0)) * MIB
        shapes.append(shape(f"d{i}", cpu, memory, {"app": f"d{i}"}))
    return [(shapes[i % kinds], "") for i in range(pods)]


def all_different(pods: int, seed: int = 3) -> list[tuple[PodShape, str]]:
    return deployments(pods, pods, seed)


def unsatisfiable(pods: int, seed: int = 4) -> list[tuple[PodShape, str]]:
    """Soft anti-affinity over hosts and zones, and a preference for a zone that does not exist."""
    rng = random.Random(seed)
    out = []
    for _ in range(pods):
        cpu, memory, own = rng.choice(CPUS), rng.choice(MEMORIES), rng.choice(LETTERS)
        apart = tuple(
            WeightedPodAffinityTerm(weight, PodAffinityTerm(key, LabelSelector({"my-label": own})))
            for key, weight in ((keys.HOSTNAME, 50), (keys.ZONE, 10))
        )
        out.append(
            (
                shape(
                    f"s-{cpu}-{memory}-{own}", cpu, memory, {"my-label": own},
                    pod_anti_affinity=PodAffinity((), apart),
                ),
                "",
            )
        )  # fmt: skip
    return out


def running(
    nodes: int, pods: int, pending: int, seed: int = 5
) -> tuple[list[tuple[PodShape, str]], tuple[Change, ...]]:
    """A cluster of nodes nearly full of running pods, and a few pending ones."""
    rng = random.Random(seed)
    shapes = [shape(f"r{i}", rng.choice(CPUS), rng.choice(MEMORIES), {"app": f"r{i}"}) for i in range(100)]
    changes = []
    for i in range(nodes):
        labels = {
            keys.HOSTNAME: f"n{i}", keys.ZONE: f"eu-west-1{'abcd'[i % 4]}", keys.ARCH: "amd64", keys.OS: "linux",
            keys.NODEPOOL: "default", keys.CAPACITY_TYPE: keys.ON_DEMAND, keys.INSTANCE_TYPE: "m1.16",
            keys.INITIALIZED: "true", keys.REGISTERED: "true",
        }  # fmt: skip
        room = {"cpu": 15900, "memory": 60 * GIB, "pods": 110}
        ready = (Condition("Ready", "True"),)
        node = Node(
            f"n{i}", labels=labels, allocatable=room, capacity=room, conditions=ready, provider_id=f"i-{i}"
        )
        changes.append(Change(Kind.NODE, node.name, node))
    placed = [(rng.choice(shapes), f"n{i % nodes}") for i in range(pods)]
    return placed + [(rng.choice(shapes), "") for _ in range(pending)], tuple(changes)

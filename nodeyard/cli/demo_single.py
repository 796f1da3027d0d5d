"""What the demo's pods would have cost on machines of one type only, pool by pool, planned like everything else."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from math import inf
from typing import Any, Final

import msgspec

from nodeyard.api import labels as keys
from nodeyard.api.pod import PodShape
from nodeyard.api.pool import Pool
from nodeyard.api.quantity import total
from nodeyard.api.selectors import Requirement
from nodeyard.cloudprovider.model import Catalogue, InstanceType
from nodeyard.provisioning.claims import requirements_allow
from nodeyard.provisioning.model import Options, Problem
from nodeyard.provisioning.planner import plan
from nodeyard.state.cluster import Snapshot
from nodeyard.state.manifests import snapshot_from

Json = dict[str, Any]
_OPTIONS: Final = Options(bound=False, search_s=0.05)
_READ: Final = ("Namespace", "NodePool", "Provisioner", "EC2NodeClass", "DaemonSet")


class Single(msgspec.Struct, frozen=True):
    """A pool's cheapest plan with one instance type: `usd_per_hour` is rent."""

    pool: str
    instance_type: str
    nodes: int
    usd_per_hour: float


def cheapest_single(objects: Sequence[Json], catalogues: Mapping[str, Catalogue]) -> list[Single] | None:
    """For each pool, the type on which alone the pods that run on the pool's nodes now would be cheapest, with all their
    constraints and every zone and capacity type that the pool allows. None where a pool's pods fit on no single type.

    `objects`: the cluster's, as the API server has them. `catalogues`: by node class key.
    """
    snapshot = snapshot_from([o for o in objects if o["kind"] in _READ])
    found = []
    for pool in snapshot.pools.values():
        pods = [_pending(o) for o in objects if o["kind"] == "Pod" and _pool_of(o, objects) == pool.key]
        if not pods:
            continue
        single = _cheapest(snapshot, pool, pods, catalogues)
        if single is None:
            return None
        found.append(single)
    return found


def _cheapest(
    snapshot: Snapshot, pool: Pool, pods: Iterable[Json], catalogues: Mapping[str, Catalogue]
) -> Single | None:
    waiting = snapshot_from(pods)
    world = msgspec.structs.replace(snapshot, pods=waiting.pods, shapes=waiting.shapes)
    shapes = [world.shape(pod) for pod in world.pods.values()]
    best: Single | None = None
    types = [k for k in catalogues[pool.node_class.key].types if _may_hold(k, pool, shapes)]
    for floor, name in sorted((_floor(kind, shapes), kind.name) for kind in types):
        if floor >= (best.usd_per_hour if best else inf):
            break
        only = (*pool.requirements, Requirement(keys.INSTANCE_TYPE, "In", (name,)))
        pools = {pool.key: msgspec.structs.replace(pool, requirements=only)}
        alone = msgspec.structs.replace(world, pools=pools)
        made = plan(Problem(alone, tuple(world.pods), catalogues, time.time()), _OPTIONS, time.monotonic)
        usd = made.cost.price_per_hour
        if not made.unschedulable and (best is None or usd < best.usd_per_hour):
            best = Single(pool.key, name, len(made.nodes), usd)
    return best


def _may_hold(kind: InstanceType, pool: Pool, shapes: Iterable[PodShape]) -> bool:
    """Whether the pool allows the type and no pod's selector names another."""
    labels = kind.requirements
    asked = [r for r in pool.requirements if r.key in labels]
    selectors = {(k, v) for shape in shapes for k, v in shape.node_selector.items() if k in labels}
    return requirements_allow(asked, labels) and all(v in labels[k] for k, v in selectors)


def _floor(kind: InstanceType, shapes: Sequence[PodShape]) -> float:
    """USD per hour that no plan with this type alone can be below: so much of it as the resources' sum, at its lowest
    price, and what asks for on-demand at the lowest of those.
    """
    bound = [s for s in shapes if s.node_selector.get(keys.CAPACITY_TYPE) == keys.ON_DEMAND]
    whole, part = _share(kind, shapes), _share(kind, bound)
    open_ = [o for o in kind.offerings if o.available]
    price = min((o.price for o in open_), default=inf)
    on_demand = min((o.price for o in open_ if o.capacity_type == keys.ON_DEMAND), default=inf)
    return price * whole + (max(0.0, on_demand - price) * part if part else 0.0)


def _share(kind: InstanceType, shapes: Iterable[PodShape]) -> float:
    """How many of the type the shapes' requests come to; not whole."""
    needed = total(shape.requests for shape in shapes)
    have = kind.allocatable
    return max((n / have[name] if have.get(name) else inf for name, n in needed.items()), default=0.0)


def _pool_of(pod: Json, objects: Sequence[Json]) -> str:
    """The key of the pool whose node the pod runs on."""
    name = pod["spec"].get("nodeName")
    node = next((o for o in objects if o["kind"] == "Node" and o["metadata"]["name"] == name), None)
    if node is None or pod["status"].get("phase") != "Running":
        return ""
    labels: dict[str, str] = node["metadata"].get("labels", {})
    if provisioner := labels.get(keys.PROVISIONER):
        return f"provisioner/{provisioner}"
    return labels.get(keys.NODEPOOL, "")


def _pending(pod: Json) -> Json:
    return {**pod, "spec": {k: v for k, v in pod["spec"].items() if k != "nodeName"}, "status": {}}

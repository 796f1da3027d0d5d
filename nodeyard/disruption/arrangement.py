"""Which pods are on which nodes while a consolidation is thought through: nodes that run, and nodes to be made.

Cheap to copy and to change; it becomes a Snapshot whenever the planner is to be asked. A node to be made stands there
as the Node it will be, so that nothing downstream tells the two apart. Money is USD per hour.
"""

from collections.abc import Collection, Iterable, Mapping

import msgspec

from nodeyard.api import labels as keys
from nodeyard.api.node import READY, Condition, Node, NodeClaim
from nodeyard.api.pod import PodKey
from nodeyard.api.pool import PoolKey
from nodeyard.api.quantity import Resources
from nodeyard.cloudprovider.model import Catalogue
from nodeyard.disruption.model import Candidate
from nodeyard.disruption.unsold import unsold
from nodeyard.provisioning.model import Plan, PlannedNode, Problem
from nodeyard.state.cluster import Snapshot


class Place(msgspec.Struct, frozen=True):
    """A node that stands or is to be made. `movable`: it may go. `planned`: what makes it, with the pods it was first
    planned for; None where it runs already.
    """

    node: Node
    pool: str = ""
    instance_type: str = ""
    zone: str = ""
    capacity_type: str = ""
    price: float = 0.0
    charge: float = 0.0
    movable: bool = False
    planned: PlannedNode | None = None

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def cost(self) -> float:
        """Rent and node charge."""
        return self.price + self.charge

    @property
    def busy(self) -> bool:
        """Not ready or on its way out: budgets count it as disrupted."""
        return not self.node.ready or bool(self.node.deleted_at)

    @property
    def offering(self) -> tuple[str, str, str, str]:
        return self.pool, self.instance_type, self.zone, self.capacity_type


class Arrangement:
    """Places by name, and the pods that count on each: daemons and finished pods are left out."""

    def __init__(self, base: Snapshot, places: dict[str, Place], held: dict[str, tuple[PodKey, ...]]) -> None:
        self.base, self.places, self.held = base, places, held

    def copy(self) -> "Arrangement":
        return Arrangement(self.base, dict(self.places), dict(self.held))

    @property
    def cost(self) -> float:
        return sum(p.cost for p in self.places.values())

    @property
    def rent(self) -> float:
        return sum(p.price for p in self.places.values())

    def replace(
        self, gone: Collection[str], fresh: Iterable[Place], moves: Mapping[str, Iterable[PodKey]]
    ) -> None:
        """Takes places away, adds others, and puts pods where `moves` says (by place)."""
        for name in gone:
            del self.places[name]
            self.held.pop(name, None)
        for place in fresh:
            self.places[place.name] = place
            self.held.setdefault(place.name, ())
        for name, pods in moves.items():
            self.held[name] = (*self.held.get(name, ()), *pods)

    def snapshot(self) -> Snapshot:
        """The cluster as it would be; pods without a place have none, and those that moved are as they come back."""
        pods = dict(self.base.pods)
        pods_on = {n: self.base.pods_on.get(n, frozenset()) for n in self.places if n in self.base.nodes}
        for name, keys_ in self.held.items():
            for key in keys_:
                record = pods[key]
                if record.node != name:
                    shape = self.base.successor(record)
                    pods[key] = msgspec.structs.replace(record, node=name, shape=shape)
            fixed = {k for k in pods_on.get(name, ()) if pods[k].daemon}
            pods_on[name] = frozenset(fixed) | frozenset(keys_)
        placed = {k for held in self.held.values() for k in held}
        for key, record in self.base.pods.items():
            if record.node and key not in placed and not record.daemon and record.node not in self.places:
                pods[key] = msgspec.structs.replace(pods[key], node="")
        nodes = {name: place.node for name, place in self.places.items()}
        return msgspec.structs.replace(
            self.base, pods=pods, nodes=nodes, pods_on=pods_on, claims=_coming(self.base)
        )


def _coming(snapshot: Snapshot) -> dict[str, NodeClaim]:
    """Claims that have no node yet; the others are told by their nodes."""
    return {
        name: claim
        for name, claim in snapshot.claims.items()
        if snapshot.node_of(claim) is None and claim.node_name not in snapshot.nodes
    }


Used = Mapping[PoolKey, Resources]
"""What each pool's nodes hold of everything there is a limit for; `nodes` is their number."""


def used_of_limited(arrangement: Arrangement) -> Used:
    """What counts towards the limits of pools that may never be over any."""
    pools = arrangement.base.pools
    limited = {key: pool.limits for key, pool in pools.items() if pool.limits and pool.limits_inclusive}
    used: dict[PoolKey, Resources] = {key: dict.fromkeys(limits, 0) for key, limits in limited.items()}
    if limited:
        _count(used, arrangement.places.values())
    return used


def exceeds(base: Snapshot, used: Used, made: Iterable[Place]) -> bool:
    """Whether a pool of these nodes would be over one of its limits once they are made."""
    coming = {p.pool: dict(used[p.pool]) for p in made if p.pool in used}
    _count(coming, made)
    return any(
        amount > base.pools[key].limits[resource]
        for key, amounts in coming.items()
        for resource, amount in amounts.items()
    )


def _count(used: Mapping[PoolKey, Resources], places: Iterable[Place]) -> None:
    for place in places:
        mine = used.get(place.pool)
        if mine is None:
            continue
        for resource in mine:
            mine[resource] += 1 if resource == "nodes" else place.node.capacity.get(resource, 0)


def place_of(candidate: Candidate, node: Node, movable: bool) -> Place:
    """A node that runs."""
    return Place(
        node,
        candidate.pool,
        candidate.instance_type,
        candidate.zone,
        candidate.capacity_type,
        candidate.price_per_hour or 0.0,
        candidate.node_charge_per_hour,
        movable,
    )


def place_to_make(planned: PlannedNode, name: str, catalogue: Catalogue | None) -> Place:
    """The node that a planned one will become."""
    kind = catalogue.by_name.get(planned.instance_type) if catalogue else None
    labels = {
        **planned.labels,
        keys.HOSTNAME: name,
        keys.REGISTERED: "true",
        keys.INITIALIZED: "true",
    }
    node = Node(
        name,
        labels=labels,
        taints=planned.taints,
        provider_id=f"planned:///{name}",
        capacity=kind.capacity if kind else {},
        allocatable=kind.allocatable if kind else {},
        conditions=(Condition(READY, "True"),),
    )
    return Place(
        node,
        planned.pool,
        planned.instance_type,
        planned.zone,
        planned.capacity_type,
        planned.price_per_hour,
        planned.node_charge_per_hour,
        True,
        msgspec.structs.replace(planned, name=name),
    )


class Names:
    """Names for nodes to be made that no node bears, `<pool>-new-<number>`."""

    def __init__(self, taken: Collection[str]) -> None:
        self._taken, self._next = set(taken), 0

    def fresh(self, pool: str) -> str:
        while True:
            self._next += 1
            name = f"{pool.replace('/', '-')}-new-{self._next}"
            if name not in self._taken:
                self._taken.add(name)
                return name


def problem_of(
    arrangement: Arrangement, catalogues: Mapping[str, Catalogue], now: float, gone: Collection[str],
    pods: tuple[PodKey, ...], *, closed: Collection[str] = (), allow_new_nodes: bool = True,
) -> Problem:  # fmt: skip
    """What to ask the planner once `gone` are away: where `pods` go."""
    made = (p.node.labels for n, p in arrangement.places.items() if p.planned is not None and n not in gone)
    return Problem(
        snapshot=arrangement.snapshot(),
        pods=pods,
        catalogues=unsold(catalogues, made),
        now=now,
        without_nodes=frozenset(gone),
        uninitialized_targets=False,
        closed_nodes=frozenset(closed),
        allow_new_nodes=allow_new_nodes,
    )


def applied(
    arrangement: Arrangement,
    plan: Plan,
    gone: Collection[str],
    names: Names,
    catalogues: Mapping[str, Catalogue],
) -> Arrangement:
    """The arrangement after the plan."""
    out = arrangement.copy()
    fresh, moves = [], {p.node: p.pods for p in plan.existing}
    for planned in plan.nodes:
        pool = arrangement.base.pools.get(planned.pool)
        catalogue = catalogues.get(pool.node_class.key if pool else "") or catalogues.get("")
        place = place_to_make(planned, names.fresh(planned.pool), catalogue)
        fresh.append(place)
        moves[place.name] = planned.pods
    out.replace(gone, fresh, moves)
    return out

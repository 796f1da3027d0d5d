"""What a pod is worth where nodes could be bought in fractions, and which instance types are worth buying.

The relaxation's prices tell it for all pods at once. A node whose pods are worth less than it costs wastes the
difference; the sum of all wastes is the distance from the relaxation's bound. Neighbour: `search`, which empties the
wasteful nodes first.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Final

import msgspec
import numpy as np

from nodeyard.api import labels as keys
from nodeyard.api.pod import ShapeId
from nodeyard.api.pool import Pool
from nodeyard.cloudprovider.model import Catalogue
from nodeyard.disruption.remembering import without_status
from nodeyard.provisioning.compiling import compile_problem
from nodeyard.provisioning.labelled import Bools, Ints
from nodeyard.provisioning.linear import Kinds, Market, Relaxation, relax
from nodeyard.provisioning.model import Options, Problem
from nodeyard.provisioning.setting import Setting

_MOVED: Final = 0.02
"""Of what ran, the most that may have come or gone before its worth is found out anew. With a tenth, one replayed day came to
6.31 % over the bound; it had been 5.99 % before worth was kept at all.
"""
_PER_SIZE: Final = 8
"""Types kept of each size (a factor of the square root of two)."""


class Worth(msgspec.Struct, frozen=True):
    """`of_shape`: USD per hour that one pod is worth. `types`: names of instance types that may be worth buying.
    `offered`: (pool, type, zone, capacity type) that can be bought.
    """

    of_shape: Mapping[ShapeId, float]
    types: frozenset[str]
    offered: frozenset[tuple[str, str, str, str]]


def worth_of(problem: Problem, options: Options) -> Worth:
    """The worth of the problem's pods; of those no column could hold, nothing."""
    setting, _ = compile_problem(problem, options)
    columns = setting.columns
    if not columns.count or not setting.classes.classes:
        return Worth({}, frozenset(), offered(setting))
    allowed = np.array([_usable(setting, i) for i in range(len(setting.classes.classes))])
    chosen = _distinct(setting, allowed)
    kinds = np.nonzero(allowed.any(axis=1))[0]
    classes = [setting.classes.classes[i] for i in kinds]
    if not classes:
        return Worth({}, frozenset(), offered(setting))
    found = relax(
        Kinds(
            np.array([c.request for c in classes]),
            np.array([float(c.demand) for c in classes]),
            allowed[np.ix_(kinds, chosen)],
        ),
        Market(columns.room[chosen], columns.cost[chosen], np.zeros((len(chosen), 0)), np.zeros(0)),
    )
    worth: dict[ShapeId, float] = {}
    for one, value in zip(classes, found.value.tolist(), strict=True):
        for key in one.pods:
            worth[problem.snapshot.successor(problem.snapshot.pods[key])] = value
    return Worth(worth, _good_types(setting, found, chosen, allowed), offered(setting))


class Appraisal:
    """What pods were found worth last, for as long as the same is on offer and about the same runs. Ranks nodes; what a
    change saves is always planned. Not thread-safe.
    """

    def __init__(self) -> None:
        self._offer: tuple[object, ...] = ()
        self._pools: tuple[Pool, ...] = ()
        self._running: Counter[ShapeId] = Counter()
        self._worth: Mapping[ShapeId, float] = {}

    def of(self, problem: Problem, options: Options) -> Mapping[ShapeId, float]:
        """The worth of one pod of each of the problem's shapes, USD per hour."""
        cluster, catalogues = problem.snapshot, problem.catalogues
        running = Counter(cluster.successor(cluster.pods[key]) for key in problem.pods)
        offer = (options, *catalogues, *catalogues.values())
        pools = tuple(map(without_status, cluster.pools.values()))
        if not (self._same_offer(offer) and pools == self._pools and self._still_holds(running)):
            self._offer, self._pools, self._running = offer, pools, running
            self._worth = worth_of(problem, options).of_shape
        return self._worth

    def _same_offer(self, offer: tuple[object, ...]) -> bool:
        return len(offer) == len(self._offer) and all(
            a is b or (isinstance(a, str | Options) and a == b)
            for a, b in zip(offer, self._offer, strict=True)
        )

    def _still_holds(self, running: Counter[ShapeId]) -> bool:
        """Whether what came and went since is worth little of what ran."""
        if not running.keys() <= self._running.keys():
            return False
        worth, before = self._worth, self._running
        ran = sum(many * worth.get(shape, 0.0) for shape, many in before.items())
        moved = sum(abs(running[shape] - many) * worth.get(shape, 0.0) for shape, many in before.items())
        return moved <= _MOVED * ran


def _usable(setting: Setting, number: int) -> Bools:
    one = setting.classes.classes[number]
    return setting.rules.on_columns(one) & (setting.columns.room >= one.request).all(axis=1)


def _distinct(setting: Setting, allowed: Bools) -> Ints:
    """Of columns of one type and pool that the same pods may use, the cheapest."""
    columns = setting.columns
    used = np.nonzero(allowed.any(axis=0))[0]
    if not len(used):
        return used
    _, sign = np.unique(np.packbits(allowed[:, used], axis=0).T, axis=0, return_inverse=True)
    key = np.column_stack([sign.reshape(-1), columns.variant[used], columns.type[used]])
    order = np.lexsort((columns.cost[used], key[:, 2], key[:, 1], key[:, 0]))
    first = np.concatenate([[True], (key[order][1:] != key[order][:-1]).any(axis=1)])
    out: Ints = used[order[first]]
    return out


def _good_types(setting: Setting, found: Relaxation, chosen: Ints, allowed: Bools) -> frozenset[str]:
    """The types that come nearest to paying for themselves, of every size and set of users."""
    columns = setting.columns
    if not found.price.size:
        return frozenset()
    worth = (columns.room[chosen] @ found.price.T).min(axis=1) / np.maximum(columns.cost[chosen], 1e-9)
    scale = np.maximum(columns.room[chosen].max(axis=0), 1e-9)
    size = np.round(2 * np.log2(np.maximum((columns.room[chosen] / scale).max(axis=1), 1e-9))).astype(int)
    users = np.unique(np.packbits(allowed[:, chosen], axis=0).T, axis=0, return_inverse=True)[1].reshape(-1)
    most = max(2, _PER_SIZE // max(1, len(np.unique(users)) // 2))
    names = {columns.type_of(int(chosen[found.chosen[i]])).name for i in np.nonzero(found.count > 1e-9)[0]}
    taken: dict[tuple[int, int], int] = {}
    for place in np.argsort(-worth, kind="stable").tolist():
        key = (int(size[place]), int(users[place]))
        if taken.get(key, 0) < most:
            taken[key] = taken.get(key, 0) + 1
            names.add(columns.type_of(int(chosen[place])).name)
    return frozenset(names)


def offered(setting: Setting) -> frozenset[tuple[str, str, str, str]]:
    """Every (pool, instance type, zone, capacity type) that a plan may buy."""
    columns = setting.columns
    zone, zones = columns.labelled.column(keys.ZONE)
    kind, kinds = columns.labelled.column(keys.CAPACITY_TYPE)
    return frozenset(
        (
            columns.pool_of(c).key,
            columns.type_of(c).name,
            zones[int(zone[c])] or "",
            kinds[int(kind[c])] or "",
        )
        for c in range(columns.count)
    )


def only(catalogues: Mapping[str, Catalogue], types: frozenset[str]) -> dict[str, Catalogue]:
    """The catalogues with these types only; smaller ones are searched faster."""
    return {
        key: Catalogue((t for t in catalogue.types if t.name in types), catalogue.revision)
        for key, catalogue in catalogues.items()
    }


def cheap_ones(catalogues: Mapping[str, Catalogue], most: float) -> dict[str, Catalogue]:
    """The catalogues without offerings that cost more than so many USD per hour."""
    out = {}
    for key, catalogue in catalogues.items():
        within = [(t, tuple(o for o in t.offerings if o.price <= most)) for t in catalogue.types]
        kept = (msgspec.structs.replace(t, offerings=offerings) for t, offerings in within if offerings)
        out[key] = Catalogue(kept, catalogue.revision)
    return out

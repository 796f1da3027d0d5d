"""Many small nodes bought at once, as whole fillings of what there is most of.

Where nodes hold a few pods each, what fits into one decides more than what all have room for together. So pods that differ
only in terms that hardly bind are one kind here; a program over fillings of kinds says which nodes to buy, and their places
are given to the lots. What found none goes on to be packed node by node. Neighbours: `packing` asks, `mixer` has the
program.
"""

from typing import Final

import numpy as np

from nodeyard.provisioning.dealing import MANY, Nodes
from nodeyard.provisioning.effort import Effort
from nodeyard.provisioning.labelled import Bools, Ints
from nodeyard.provisioning.linear import Relaxation
from nodeyard.provisioning.lots import Bin, Lots, Shop
from nodeyard.provisioning.mixer import Mixer, Pace

_MANY_NODES: Final = 60
_MOST_EACH: Final = 12.0
"""Nodes at least, and pods on each at most in the mean, that fillings are worth the time for."""
_ALIKE: Final = 4.0
_MOST_KINDS: Final = 260
"""Pods of a kind at least, in the mean; with fewer, hardly a filling is needed twice."""
_PACE: Final = Pace(fillings=160, mendings=1)
_TURNS: Final = 5
_EVEN: Final = 1e-3
"""By how much more of its cost the largest node is dearer here: of programs as cheap, the one with nodes of like size packs
better, keeps more apart what should be, and loses less with a node.
"""


def blended(
    lots: Lots,
    shop: Shop,
    fits: Bools,
    known: Bools,
    now: Relaxation,
    columns: Ints,
    left: Ints,
    work: Effort,
) -> list[Bin]:
    """Nodes for much of what is left of the lots, which goes down by what they hold; none where little would come of it.
    `known`: the resources that tell kinds apart; `columns`: those worth buying.
    """
    nodes, pods, active = float(now.count.sum()), int(left.sum()), np.nonzero(left > 0)[0]
    if nodes < _MANY_NODES or pods > nodes * _MOST_EACH:
        return []
    keyed = np.column_stack([lots.request[active][:, known], lots.mask[active]])
    kinds, first, member = np.unique(keyed, axis=0, return_index=True, return_inverse=True)
    if len(kinds) > _MOST_KINDS or pods < len(kinds) * _ALIKE:
        return []
    kind, some = np.full(lots.count, -1, np.int64), active[first]
    kind[active] = member.reshape(-1)
    demand = np.bincount(kind[active], left[active], len(kinds)).astype(np.int64)
    cost = shop.cost[columns] * (1 + _EVEN * shop.cost[columns] / shop.cost[columns].max())
    mixer = Mixer(
        kinds[:, :-1],
        shop.room[columns][:, known],
        cost,
        fits[np.ix_(some, columns)],
        work.total,
        work,
        _PACE,
    )
    found = mixer.in_short(demand, now.value[some], _TURNS)
    if not found:
        return []
    bought = np.repeat(columns[[column for column, _, _ in found]], [many for _, _, many in found])
    places = np.repeat(np.array([counts for _, counts, _ in found]), [many for _, _, many in found], axis=0)
    return _given(Nodes(lots, shop, bought), np.ascontiguousarray(places.T), kind, known, left)


def _given(nodes: Nodes, places: Ints, kind: Ints, known: Bools, left: Ints) -> list[Bin]:
    """The nodes with their places given to the lots, first to those with terms of their own. `places`: [kind, node]."""
    lots = nodes.lots
    free = ~(lots.request[:, ~known].any(axis=1) | (lots.most < MANY) | lots.carries.any(axis=1))
    for lot in np.argsort(free, kind="stable").tolist():
        if left[lot] > 0:
            left[lot] -= nodes.take(lot, int(left[lot]), places[kind[lot]])
    return nodes.bins()

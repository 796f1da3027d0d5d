"""What packing works on: lots of pods counted, columns on sale, and nodes decided, all as numbers.

Per-node terms with most pods become resources here, so that the relaxation and every filling see them as room. Neighbours:
`attempt` makes lots of portions, `packing` fills nodes with them.
"""

from dataclasses import dataclass

import numpy as np

from nodeyard.provisioning.labelled import Bools, Floats, Ints

_MOST_TERMS = 12


@dataclass(slots=True)
class Lots:
    """What is to be packed. One row per lot.

    `mask`: row of `allowed` ([mask, column]) that says which columns it may use; `most`: most pods of it on one node;
    `carries`, `matches`: [lot, term] per-node terms; `ceiling`: per term, the most matching pods on a node (spread),
    or 0 for terms whose carriers and matches exclude each other (anti-affinity).
    """

    request: Floats
    demand: Ints
    mask: Ints
    allowed: Bools
    most: Floats
    carries: Bools
    matches: Bools
    ceiling: Ints

    @property
    def count(self) -> int:
        return len(self.demand)


@dataclass(slots=True)
class Shop:
    """Columns on sale: `use`: [column, limit]; `left`: what is left of each limit (inf: none)."""

    room: Floats
    cost: Floats
    use: Floats
    left: Floats


@dataclass(slots=True)
class Bin:
    """A node to make: its column, and pods per lot."""

    column: int
    lots: Ints
    counts: Ints


def terms_as_resources(lots: Lots, shop: Shop) -> tuple[Lots, Shop, Bools]:
    """The per-node terms with most pods become resources: of a spread there is as much as its skew, of an
    anti-affinity whose carriers are its matches there is one. Also: which resources the relaxation should know.
    """
    n_res = lots.request.shape[1]
    pods = lots.demand @ lots.matches if len(lots.ceiling) else np.zeros(0)
    amount = np.maximum(lots.ceiling, 1)
    symmetric = (lots.carries == lots.matches).all(axis=0)
    able = np.nonzero((lots.ceiling > 0) | symmetric)[0]
    pick = able[np.argsort(-pods[able] / amount[able], kind="stable")[:_MOST_TERMS]]
    if not len(pick):
        return lots, shop, np.ones(n_res, np.bool_)
    rest = np.setdiff1d(np.arange(len(lots.ceiling)), pick)
    need = pods[pick] / amount[pick]
    binding = np.concatenate([np.ones(n_res, np.bool_), need >= 0.2 * need.max()])
    room = np.repeat(amount[pick][None].astype(np.float64), len(shop.cost), axis=0)
    request = np.concatenate([lots.request, lots.matches[:, pick].astype(np.float64)], axis=1)
    return (
        Lots(
            request, lots.demand, lots.mask, lots.allowed, lots.most,
            lots.carries[:, rest], lots.matches[:, rest], lots.ceiling[rest],
        ),
        Shop(np.concatenate([shop.room, room], axis=1), shop.cost, shop.use, shop.left),
        binding,
    )  # fmt: skip


def fits_of(lots: Lots, shop: Shop) -> Bools:
    """[lot, column]: the lot may use the column and one pod of it fits."""
    if not lots.count or not len(shop.cost):
        return np.zeros((lots.count, len(shop.cost)), np.bool_)
    keyed = np.column_stack([lots.request, lots.mask])
    rows, member = np.unique(keyed, axis=0, return_inverse=True)
    unique = np.zeros((len(rows), len(shop.cost)), np.bool_)
    for i, row in enumerate(rows):
        unique[i] = lots.allowed[int(row[-1])] & (shop.room >= row[:-1]).all(axis=1)
    out: Bools = unique[member.reshape(-1)]
    return out

"""Pools by weight: which columns can be bought at all, since a pod gets a node of the heaviest pool that can take it.

A node of a lighter pool is bought for some pod that no heavier pool could take at that moment. Where every pod that a
column takes could always have had one of a heavier pool, nobody buys it. Where a heavier pool has limits, either nobody
did, or so much of it is in use that it had no room left for the smallest node such a pod fits: one `Case` each.
Neighbours: `bounding` and `joint` ask, for what is proved; `buying` and `mending` buy by the same rule.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from nodeyard.provisioning.classes import PodClass
from nodeyard.provisioning.domains import cells_of
from nodeyard.provisioning.field import Field
from nodeyard.provisioning.labelled import Bools, Floats, Ints
from nodeyard.provisioning.limits import Limits
from nodeyard.provisioning.setting import Setting
from nodeyard.scheduling.topology import TermKind

_MOST_CLASSES = 400
_MOST_LEVELS = 3
_MOST_CASES = 16


@dataclass(slots=True)
class Case:
    """What the plans have in common that close the same heavier pools. `bought`: columns that they may buy; `full`:
    (limit, least use of it by new nodes), limits by their place in `Limits`.
    """

    bought: Bools
    full: tuple[tuple[int, float], ...] = ()


@dataclass(slots=True)
class _Limited:
    """A pool with limits that a lighter one may stand in for. `level`: per class how early the pool is closed to it, the
    last ones first to lighter pools (-1: it never uses the pool, or has an equal without limits); `full`: per level what
    its limits are used up to at least then, in the one or the other.
    """

    columns: Bools
    level: Ints
    full: list[list[tuple[int, float]]]


def buyable(setting: Setting, first: Field) -> Bools:
    """Columns that some plan may buy; all of them where weights don't settle it. `first`: with the standing pods only."""
    if not _ordered(setting, first):
        return np.ones(setting.columns.count, np.bool_)
    return _bought(setting, first, np.repeat(_always(setting)[None], len(setting.classes.classes), axis=0))


def cases(setting: Setting, first: Field) -> list[Case]:
    """Every plan is one of these. One, without anything in full use, where no heavier pool has limits."""
    limited = _limited(setting, first) if _ordered(setting, first) else []
    while limited and _count(limited) > _MOST_CASES:
        limited.pop()
    if not limited:
        return [Case(buyable(setting, first))]
    always, out = _always(setting), []
    for closed in product(*([None, *_closings(one)] for one in limited)):
        sure = np.repeat(always[None], len(setting.classes.classes), axis=0)
        for one, closing in zip(limited, closed, strict=True):
            level = len(one.full) if closing is None else closing[0]
            sure[(one.level >= 0) & (one.level < level)] |= one.columns
        full = tuple(closing[1] for closing in closed if closing is not None)
        out.append(Case(_bought(setting, first, sure), full))
    return out


def _count(limited: Sequence[_Limited]) -> int:
    return int(np.prod([1 + len(_closings(one)) for one in limited]))


def _closings(one: _Limited) -> list[tuple[int, tuple[int, float]]]:
    """(level, (limit, least use)): the ways in which the pool can have been closed to a class."""
    return [(level, full) for level, fulls in enumerate(one.full) for full in fulls]


def _ordered(setting: Setting, first: Field) -> bool:
    """Whether weights tell which pool each pod by itself gets a node of."""
    columns, classes = setting.columns, setting.classes.classes
    if len(columns.tiers) < 2 or len(classes) > _MOST_CLASSES or not columns.flexible.all():
        return False
    joined = any(_joins(setting, number) for one in classes for number in one.carried)
    return not (first.daemon_matched or joined)


def _bought(setting: Setting, first: Field, sure: Bools) -> Bools:
    """Columns that are bought for some class, `sure`: [class, column] being open to it whatever was bought before."""
    columns, cells = setting.columns, cells_of(first)
    out = np.zeros(columns.count, np.bool_)
    for at, one in enumerate(setting.classes.classes):
        able = _able(setting, one)
        if _holds_out(setting, one):
            out |= able
            continue
        open_ = able & sure[at]
        best = np.full(cells.count, len(columns.tiers))
        np.minimum.at(best, cells.of_column[open_], columns.tier[open_])
        out |= able & (columns.tier <= best[cells.of_column])
    return out


def _able(setting: Setting, one: PodClass) -> Bools:
    return setting.rules.on_columns(one) & (setting.columns.room >= one.request).all(axis=1)


def _holds_out(setting: Setting, one: PodClass) -> bool:
    """Whether the class may leave a heavier pool for what it prefers."""
    return bool(one.preferred or one.soft or one.number in setting.minding)


def _limited(setting: Setting, first: Field) -> list[_Limited]:
    """The pools whose limits decide who may buy of a lighter one."""
    columns, limits = setting.columns, Limits(setting.columns, setting.hosts)
    if not limits.any:
        return []
    asking, affordable, out = _asking(setting), limits.affordable(), []
    for pool in dict.fromkeys(v.pool.key for v in columns.variants):
        rows = [i for i, (key, _) in enumerate(limits.names) if key == pool]
        mine = np.array([v.pool.key == pool for v in columns.variants])[columns.variant] & ~asking
        if not rows or not limits.inclusive[rows].all() or not (mine & affordable).any():
            continue
        found = _levels(setting, first, limits, rows, mine & affordable)
        if found is not None:
            out.append(found)
    return out


def _levels(setting: Setting, first: Field, limits: Limits, rows: list[int], mine: Bools) -> _Limited | None:
    """How the pool's limits close it to one class after the other. None: nobody has a lighter pool to turn to."""
    columns, always = setting.columns, _always(setting)
    cells, tier = cells_of(first), columns.tier[mine].min()
    least: dict[int, Floats] = {}
    for at, one in enumerate(setting.classes.classes):
        able = _able(setting, one)
        lighter = able & (columns.tier > tier)
        if _holds_out(setting, one) or not lighter.any() or not (able & mine).any():
            continue
        if (able & always & (columns.tier <= tier)).any() and cells.count == 1:
            continue
        least[at] = _smallest(limits, rows, able & mine, cells.of_column)
    if not least:
        return None
    kinds = {tuple(u): None for u in least.values()}
    order = sorted(kinds, key=lambda u: float((np.array(u) / limits.left[rows]).max()))
    part = -(-len(order) // _MOST_LEVELS)
    levels = [order[i : i + part] for i in range(0, len(order), part)]
    level = np.full(len(setting.classes.classes), -1, np.int64)
    for at, use in least.items():
        level[at] = next(i for i, uses in enumerate(levels) if tuple(use) in uses)
    full = []
    for uses in levels:
        most = np.array(uses).max(axis=0)
        full.append(
            [(r, _used_up(limits, r, mine, float(m))) for r, m in zip(rows, most, strict=True) if m > 0]
        )
    return _Limited(mine, level, full)


def _smallest(limits: Limits, rows: list[int], able: Bools, cell: Ints) -> Floats:
    """What the smallest of the columns uses of each limit; in the cell where that is most."""
    use = limits.use[:, rows]
    size = (use / np.maximum(limits.left[rows], 1e-300)).max(axis=1)
    out = np.zeros(len(rows))
    for one in np.unique(cell[able]).tolist():
        here = np.nonzero(able & (cell == one))[0]
        out = np.maximum(out, use[here[np.argmin(size[here])]])
    return out


def _used_up(limits: Limits, row: int, mine: Bools, smallest: float) -> float:
    """The least use of a limit that leaves no room for as much more as `smallest`, whole nodes being bought."""
    step = float(np.gcd.reduce(limits.use[mine, row].astype(np.int64)))
    left = float(limits.left[row])
    return float(min(step * (np.floor((left - smallest) / step + 1e-9) + 1.0), left))


def _joins(setting: Setting, number: int) -> bool:
    """Whether pods that carry the term share a host on purpose: together they may need what each by itself does not."""
    term = setting.classes.terms[number]
    return term.per_host and term.kind is TermKind.AFFINITY


def _always(setting: Setting) -> Bools:
    """Columns of which one more can be bought whatever was bought before."""
    limits = Limits(setting.columns, setting.hosts)
    free: Bools = np.asarray(~limits.use.any(axis=1), np.bool_)
    return free & ~_asking(setting)


def _asking(setting: Setting) -> Bools:
    """Columns of pools that want minimum values."""
    columns = setting.columns
    asking = np.array([any(r.min_values for r in v.pool.requirements) for v in columns.variants], np.bool_)
    out: Bools = asking[columns.variant]
    return out

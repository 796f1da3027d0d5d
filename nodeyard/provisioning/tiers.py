"""Pools by weight: which columns can be bought at all, since a pod gets a node of the heaviest pool that can take it.

A node of a lighter pool is bought for some pod that no heavier pool could take at that moment. Where every pod that a
column takes could always have had one of a heavier pool, nobody buys it. Neighbours: `kinds` asks, for what is proved;
`buying` and `mending` buy by the same rule.
"""

import numpy as np

from nodeyard.provisioning.domains import cells_of
from nodeyard.provisioning.field import Field
from nodeyard.provisioning.labelled import Bools
from nodeyard.provisioning.limits import Limits
from nodeyard.provisioning.setting import Setting
from nodeyard.scheduling.topology import TermKind

_MOST_CLASSES = 400


def buyable(setting: Setting, first: Field) -> Bools:
    """Columns that some plan may buy; all of them where weights don't settle it. `first`: with the standing pods only."""
    columns, classes = setting.columns, setting.classes.classes
    everything = np.ones(columns.count, np.bool_)
    if len(columns.tiers) < 2 or len(classes) > _MOST_CLASSES or not columns.flexible.all():
        return everything
    if first.daemon_matched or any(_joins(setting, number) for one in classes for number in one.carried):
        return everything
    cells, always = cells_of(first), _always(setting)
    out = np.zeros(columns.count, np.bool_)
    for one in classes:
        able = setting.rules.on_columns(one) & (columns.room >= one.request).all(axis=1)
        if one.preferred or one.soft or one.number in setting.minding:  # it may hold out for what it prefers
            out |= able
            continue
        sure = able & always
        best = np.full(cells.count, len(columns.tiers))
        np.minimum.at(best, cells.of_column[sure], columns.tier[sure])
        out |= able & (columns.tier <= best[cells.of_column])
    return out


def _joins(setting: Setting, number: int) -> bool:
    """Whether pods that carry the term share a host on purpose: together they may need what each by itself does not."""
    term = setting.classes.terms[number]
    return term.per_host and term.kind is TermKind.AFFINITY


def _always(setting: Setting) -> Bools:
    """Columns of which one more can be bought whatever was bought before."""
    limits, columns = Limits(setting.columns, setting.hosts), setting.columns
    asking = np.array([any(r.min_values for r in v.pool.requirements) for v in columns.variants], np.bool_)
    free: Bools = np.asarray(~limits.use.any(axis=1), np.bool_)
    return free & ~asking[columns.variant]

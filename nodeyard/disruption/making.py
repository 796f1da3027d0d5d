"""The nodes that a target still has to make, as numbers: which of them takes most of some pods for what it costs.

What a node takes does not change before it is made, so one table serves a whole unfolding. Neighbour: `unfolding`, which
asks for every node that is to go, with hundreds to choose from.
"""

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from nodeyard.api.pod import ShapeId
from nodeyard.disruption.arrangement import Place
from nodeyard.disruption.neighbours import TopologyGuard
from nodeyard.provisioning.labelled import Bools, Ints

Cell = tuple[str, ...]


class Making:
    """`wants`: of each node, how many pods of each shape it takes. Pods of shapes that terms over domains look at are
    asked for by cell.
    """

    def __init__(
        self, wants: Mapping[str, Mapping[ShapeId, int]], to_make: Mapping[str, Place], guard: TopologyGuard
    ) -> None:
        self._names = sorted(to_make)
        self._at = {name: i for i, name in enumerate(self._names)}
        shapes = sorted({shape for name in self._names for shape in wants[name]})
        self._shape_at = {shape: j for j, shape in enumerate(shapes)}
        self._takes: Ints = np.zeros((len(self._names), len(shapes)), np.int64)
        for i, name in enumerate(self._names):
            for shape, many in wants[name].items():
                self._takes[i, self._shape_at[shape]] = many
        self._cost = np.maximum([to_make[name].cost for name in self._names], 1e-9)
        self._tied: Bools = np.array([shape in guard.involved for shape in shapes], np.bool_)
        self._cells = [guard.cell(to_make[name].node) for name in self._names]

    def among(self, names: Iterable[str]) -> Bools:
        """Which nodes are among these, one flag for each in order of their names."""
        out = np.zeros(len(self._names), np.bool_)
        out[[self._at[name] for name in names]] = True
        return out

    def best(
        self, rest: Mapping[ShapeId, int], made: Bools, cell: Cell | None, allowed: Callable[[str], bool]
    ) -> str:
        """The node that takes most of `rest` for its cost, of those not `made` and allowed; empty where none takes any.
        `cell`: where tied pods have to stay.
        """
        some = [(j, many) for shape, many in rest.items() if (j := self._shape_at.get(shape)) is not None]
        if not some:
            return ""
        columns = np.array([j for j, _ in some])
        taken = np.minimum(self._takes[:, columns], np.array([many for _, many in some]))
        if cell is not None and self._tied[columns].any():
            elsewhere = np.array([own != cell for own in self._cells], np.bool_)
            taken[np.ix_(elsewhere, self._tied[columns])] = 0
        score = taken.sum(axis=1) / self._cost
        score[made] = 0.0
        while (most := float(score.max())) > 0.0:
            last = int(np.nonzero(score == most)[0][-1])
            if allowed(self._names[last]):
                return self._names[last]
            score[last] = 0.0
        return ""

"""How many nodes of which column a plan needs at least: whole nodes against what pods are worth, and no pods placed.

Say a pod of each lot is worth some u >= 0, whatever. A node of a column then holds at most so much worth V(u), and a plan's
nodes together hold all of it: a row in nodes alone that every plan keeps. A few dozen such rows say nearly all that summed
room says, while the integer program over them stays small, so that its bound rises quickly. The first u are what pods ask
of one resource, over all lots and over those that only certain columns take; more come from where the rows so far would
let pods be short of room. Neighbours: `aggregate` has the program with pods, `joint` asks for both.
"""

from dataclasses import dataclass, field

import numpy as np

from nodeyard.provisioning.effort import Effort
from nodeyard.provisioning.labelled import Bools, Floats, Ints
from nodeyard.provisioning.pattern_program import Model, balance
from nodeyard.provisioning.solver import INF, Program, Rows, solved_integer, solved_linear

_ROUNDS = 12
_MOST_ROWS = 120
_MOST_PAIRS = 6_000
_SHORT = 1e-5
_EPS = 1e-9


def covering(
    model: Model,
    columns: Ints,
    fits: Bools,
    most: Floats,
    upper: float,
    seconds: float,
    work: Effort,
    close: float,
) -> float:
    """What no plan is below, from nodes of `columns`, which must hold one that is as good as any left out. `most`: pods of
    each lot that one node takes at most; `upper`: the cost of a plan: only what is cheaper by a share `close` or more is
    looked for. 0 where the program is too large or can't be solved.
    """
    if int(fits[:, columns].sum()) > _MOST_PAIRS or seconds <= 0 or not np.isfinite(upper):
        return 0.0
    end = work.seconds + seconds
    cover = _Cover(model, columns, fits, most, work)
    cover.begin()
    for _ in range(_ROUNDS):
        if work.seconds >= end or len(cover.rows) >= _MOST_ROWS or not cover.sharpen():
            break
    aim = upper * (1 - close)
    found = solved_integer(
        cover.program(aim), cover.whole(), max(end - work.seconds, 0.0), work, relative_gap=1e-3
    )
    return 0.0 if found is None else max(min(found.low, aim), 0.0) * (1 - 1e-7)


@dataclass(slots=True)
class _Row:
    """`worth`: of a pod of each lot, all pods' demand together about 1; `most`: on a node of each column."""

    worth: Floats
    most: Floats


@dataclass(slots=True)
class _Cover:
    model: Model
    columns: Ints
    fits: Bools
    most: Floats
    work: Effort
    rows: list[_Row] = field(default_factory=list)
    needed: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    fixed: bool = True
    """Whether each lot's pods are known: no lot shares its demand with another."""

    def begin(self) -> None:
        """The rows that need no solver to be found."""
        model = self.model
        self.fixed = model.by_lot
        self.needed = np.nonzero((model.request > 0).any(axis=0))[0]
        takes: Bools = self.fits[:, self.columns]
        for users in np.unique(takes, axis=0):
            inside = (takes <= users).all(axis=1)
            for resource in self.needed.tolist():
                if len(self.rows) < _MOST_ROWS // 2:
                    self._add(np.where(inside, model.request[:, resource], 0.0))

    def sharpen(self) -> bool:
        """Solve the rows so far in fractions and add one for what the nodes bought so are short of; False: of nothing."""
        model = self.model
        program = self.program(INF)
        solver = solved_linear(program)
        if solver is None:
            return False
        self.work.count_program(program.entries, solver.getInfo().simplex_iteration_count)
        values = np.maximum(np.array(solver.getSolution().col_value), 0.0)
        nodes, pods = values[: len(self.columns)], values[len(self.columns) : len(self.columns) + model.lots]
        worth = self._short(nodes, pods)
        return worth is not None and self._add(worth)

    def program(self, aim: float) -> Program:
        """Nodes per column, and pods per lot, that keep all rows and cost at most `aim`."""
        model, out = self.model, Rows()
        first = out.rows([0.0] * len(self.rows), [INF] * len(self.rows))
        groups = [out.row(d, d) for d in model.demand.tolist()]
        cost_row = out.row(-INF, aim)
        limits = [out.row(-INF, left) for left in model.left.tolist()]
        most = np.array([row.most for row in self.rows]).reshape(len(self.rows), len(self.columns))
        worth = np.array([row.worth for row in self.rows]).reshape(len(self.rows), model.lots)
        if self.fixed:  # no node counts for more than all there is
            most = np.minimum(most, (worth @ model.demand[model.group])[:, None])
        for place, column in enumerate(self.columns.tolist()):
            entries = [
                (first + i, float(most[i, place])) for i in np.nonzero(most[:, place] > _EPS)[0].tolist()
            ]
            entries.append((cost_row, float(model.cost[column])))
            entries += [(limits[i], float(u)) for i, u in enumerate(model.use[column].tolist()) if u]
            out.variable(float(model.cost[column]), entries, float(model.times[column]))
        mine: list[list[tuple[int, float]]] = []
        for lot in range(model.lots):
            mine.append(
                [(first + i, -float(worth[i, lot])) for i in np.nonzero(worth[:, lot] > 0)[0].tolist()]
            )
            mine[-1].append((groups[int(model.group[lot])], 1.0))
        balance(model, out, mine)
        return out.program()

    def whole(self) -> list[bool]:
        return [True] * (len(self.columns) + self.model.lots) + self.model.balanced

    def _add(self, worth: Floats) -> bool:
        """The row of such a worth; False where it says nothing."""
        total = float(worth @ self.model.demand[self.model.group])
        if total <= 0:
            return False
        worth = np.where(worth > _EPS * worth.max(), worth / total, 0.0)
        most = self._most_worth(worth)
        if most is not None:
            self.rows.append(_Row(worth, most))
        return most is not None

    def _most_worth(self, worth: Floats) -> Floats | None:
        """An upper bound of the worth that a node of each column holds. The solver only proposes prices of room: at any
        prices w >= 0, no load is worth more than room·w and what its pods are worth beyond what they ask for.
        """
        model, takes = self.model, self.fits[:, self.columns]
        request, room = model.request[:, self.needed], model.room[np.ix_(self.columns, self.needed)]
        out, size = Rows(), len(self.needed)
        for place in range(len(self.columns)):
            first = out.rows([-INF] * size, room[place].tolist())
            for lot in np.nonzero(takes[:, place] & (worth > 0))[0].tolist():
                asked = np.nonzero(request[lot])[0].tolist()
                out.variable(
                    -float(worth[lot]),
                    [(first + r, float(request[lot, r])) for r in asked],
                    float(self.most[lot]),
                )
        program = out.program()
        solver = solved_linear(program) if program.entries else None
        if solver is None:
            return None
        steps = solver.getInfo().simplex_iteration_count
        self.work.count_program(program.entries, steps // len(self.columns))  # each is about one column alone
        price = np.maximum(-np.array(solver.getSolution().row_dual), 0.0).reshape(len(self.columns), size)
        beyond = np.maximum(worth[:, None] - request @ price.T, 0.0) * np.where(
            takes, self.most[:, None], 0.0
        )
        bound: Floats = ((room * price).sum(axis=1) + beyond.sum(axis=0)) * (1 + _EPS)
        return bound

    def _short(self, nodes: Floats, pods: Floats) -> Floats | None:
        """What pods of each lot are worth where these nodes' summed room is short of them; None where it is not."""
        model, out = self.model, Rows()
        size = model.request / np.maximum(model.room[self.columns].max(axis=0), _EPS)
        weight = np.maximum(size.max(axis=1), _EPS)
        first = out.rows(pods.tolist(), [INF] * model.lots)
        for lot in range(model.lots):
            out.variable(float(weight[lot]), [(first + lot, 1.0)])
        for place in np.nonzero(nodes > _EPS)[0].tolist():
            column, many = int(self.columns[place]), float(nodes[place])
            room = out.rows([-INF] * len(self.needed), (many * model.room[column, self.needed]).tolist())
            for lot in np.nonzero(self.fits[:, column])[0].tolist():
                need = model.request[lot, self.needed]
                taken = [(room + i, float(need[i])) for i in np.nonzero(need)[0].tolist()]
                out.variable(0.0, [(first + lot, 1.0), *taken], many * float(self.most[lot]))
        program = out.program()
        solver = solved_linear(program)
        if solver is None:
            return None
        self.work.count_program(program.entries, solver.getInfo().simplex_iteration_count)
        if solver.getInfo().objective_function_value <= _SHORT * float(weight @ pods):
            return None
        duals: Floats = np.maximum(np.array(solver.getSolution().row_dual)[: model.lots], 0.0)
        return duals

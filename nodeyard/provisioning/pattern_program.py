"""The program over patterns: which to buy, how often, so that every group's pods are delivered and spreads balance.

Rows: lots, groups, times, limits, spreads, and the room of columns without listed patterns (bought in fractions).
Solved in fractions for its duals, or in integers for a plan. Neighbours: `patterns` finds patterns and asks; `joint`
and `packing` make the models.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from nodeyard.provisioning.effort import Effort
from nodeyard.provisioning.labelled import Bools, Floats, Ints
from nodeyard.provisioning.solver import INF, Rows, solved_integer, solved_linear


@dataclass(slots=True)
class Spread:
    """Counts per domain may differ by `skew` at most: `lots_of` per eligible domain, `standing` counts beside them.
    `floor_zero`: fewer domains than demanded, so that the least count is taken as zero.
    """

    skew: int
    lots_of: list[list[int]]
    standing: list[int]
    floor_zero: bool = False


@dataclass(slots=True)
class Together:
    """Lots that have `pods` pods between them, all in one domain: `lots_of` per domain."""

    pods: float
    lots_of: list[list[int]]


@dataclass(slots=True)
class Ceiling:
    """Of `lots` there are `most` pods at most, and `each` more for every pod of `others`."""

    lots: list[int]
    most: float
    others: list[int] = field(default_factory=list)
    each: float = 0.0


@dataclass(slots=True)
class Joining:
    """Pods of `lots` are only on nodes that hold one of `others`, but for the columns `free`."""

    lots: list[int]
    others: list[int]
    free: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Keeping:
    """No node holds pods of `lots` and of `others`."""

    lots: list[int]
    others: list[int]


@dataclass(slots=True)
class Model:
    """Lots with their demand by group (a kind split over domains has one lot per domain), and columns.

    `cap`: most pods of a lot on one node; `times`: how often a column may be used; `use`, `left`: pool limits.
    """

    request: Floats
    group: Ints
    demand: Floats
    cap: Floats
    allowed: Bools
    room: Floats
    cost: Floats
    times: Floats
    use: Floats
    left: Floats
    spreads: list[Spread] = field(default_factory=list)
    together: list[Together] = field(default_factory=list)
    ceilings: list[Ceiling] = field(default_factory=list)
    joining: list[Joining] = field(default_factory=list)
    keeping: list[Keeping] = field(default_factory=list)

    @property
    def lots(self) -> int:
        return len(self.group)

    @property
    def by_lot(self) -> bool:
        """Whether each lot's pods are known and nothing is asked of several lots at once."""
        tied = self.spreads or self.together or self.ceilings or self.joining
        return len(self.demand) == self.lots and not tied

    def may_join(self, column: int, lot: int, counts: Ints) -> Bools:
        """Which fillings of the column, [filling, lot], may hold pods of the lot beside what they hold, room aside."""
        out = np.ones(len(counts), np.bool_)
        for one in self.joining:
            if lot in one.lots and column not in one.free:
                out &= counts[:, one.others].any(axis=1)
        for bar in self.keeping:
            for mine, others in ((bar.lots, bar.others), (bar.others, bar.lots)):
                if lot in mine:
                    out &= ~counts[:, others].any(axis=1)
        return out

    @property
    def leading(self) -> list[int]:
        """Lots that others join: a node holds no more of them than are meant."""
        return sorted({lot for one in self.joining for lot in one.others})

    @property
    def balanced(self) -> list[bool]:
        """Which of the variables that `balance` adds beyond those of lots are whole."""
        return [False] * len(self.spreads) + [True] * sum(len(one.lots_of) for one in self.together)


@dataclass(slots=True)
class Solution:
    """`duals`: (of lots, of times, of limits), of the program in fractions; `low`: no solution is below."""

    value: float
    duals: tuple[Floats, Floats, Floats]
    low: float
    nodes: list[tuple[int, Ints, int]] = field(default_factory=list)
    delivered: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    times: Floats = field(default_factory=lambda: np.zeros(0))
    """How often each pattern is bought."""


class PatternProgram:
    """The program over some patterns. Rows: lots, groups, times, limits, spreads, broad room."""

    def __init__(
        self, model: Model, column: Ints, counts: Ints, broad: list[int], most: Floats, fits: Bools
    ) -> None:
        self.model, self.column, self.counts, self.broad = model, column, counts, broad
        self.rows = rows = Rows()
        leading = set(model.leading)
        rows.rows([0.0] * model.lots, [0.0 if lot in leading else INF for lot in range(model.lots)])
        self.finite = [int(c) for c in np.nonzero(np.isfinite(model.times))[0]]
        self.group_row = rows.rows(model.demand.tolist(), model.demand.tolist())
        times = [float(model.times[c]) for c in self.finite]
        self.times_row = rows.rows([-INF] * len(times), times)
        self.limit_row = rows.rows([-INF] * len(model.left), model.left.tolist())
        self.time_of = {c: self.times_row + i for i, c in enumerate(self.finite)}
        for c, pods in zip(column.tolist(), counts, strict=True):
            held = np.nonzero(pods)[0]
            given = zip(held.tolist(), pods[held].tolist(), strict=True)
            rows.variable(model.cost[c], [*given, *self._node_entries(c)])
        self.first_delivered = len(rows.cost)
        self._delivered()
        dear = 100.0 * float(model.cost.max() + 1.0)
        for i in range(len(model.demand)):  # pods left out, so that few patterns are enough to begin with
            rows.variable(dear, [(self.group_row + i, 1.0)])
        self.first_broad = len(rows.cost)
        for c in broad:
            self._broad(c, most, fits)

    def _node_entries(self, column: int) -> list[tuple[int, float]]:
        """What a node uses of limits and of the times it exists."""
        out = [(self.time_of[column], 1.0)] if column in self.time_of else []
        for limit in np.nonzero(self.model.use[column])[0].tolist():
            out.append((self.limit_row + limit, float(self.model.use[column, limit])))
        return out

    def _delivered(self) -> None:
        """One variable per lot: pods of it that get a place; groups ask for them, spreads balance them."""
        model, rows = self.model, self.rows
        mine = [[(lot, -1.0), (self.group_row + int(model.group[lot]), 1.0)] for lot in range(model.lots)]
        balance(model, rows, mine)

    def _broad(self, column: int, most: Floats, fits: Bools) -> None:
        """A column without listed patterns: room for its lots, bought in fractions."""
        model, rows = self.model, self.rows
        lots = np.nonzero(fits[:, column])[0].tolist()
        needed = np.nonzero((model.request[lots] > 0).any(axis=0))[0].tolist()
        room = rows.rows([0.0] * len(needed), [INF] * len(needed))
        caps = rows.rows([0.0] * len(lots), [INF] * len(lots))
        entries = [(room + i, float(model.room[column, r])) for i, r in enumerate(needed)]
        entries += [(caps + i, float(most[lot])) for i, lot in enumerate(lots)]
        rows.variable(model.cost[column], [*entries, *self._node_entries(column)])
        for i, lot in enumerate(lots):
            need = model.request[lot]
            taken = [(room + j, -float(need[r])) for j, r in enumerate(needed) if need[r] > 0]
            rows.variable(0.0, [(lot, 1.0), (caps + i, -1.0), *taken])

    def in_fractions(self, work: Effort) -> "Solution | None":
        """The optimum where nodes and pods may be bought in parts, with its duals."""
        program = self.rows.program()
        solver = solved_linear(program)
        if solver is None:
            return None
        work.count_program(program.entries, solver.getInfo().simplex_iteration_count)
        model, solution = self.model, solver.getSolution()
        dual = np.array(solution.row_dual)
        value = np.maximum(dual[: model.lots], 0.0)
        scarcity = np.zeros(len(model.cost))
        for column, row in self.time_of.items():
            scarcity[column] = max(-dual[row], 0.0)
        toll = np.maximum(-dual[self.limit_row : self.limit_row + len(model.left)], 0.0)
        objective = float(solver.getInfo().objective_function_value)
        times = np.array(solution.col_value)[: len(self.column)]
        return Solution(objective, (value, scarcity, toll), objective, times=times)

    def in_integers(self, seconds: float, work: Effort, start: Mapping[int, float]) -> "Solution | None":
        """The best plan found. `start`: how often each pattern is bought in a plan that is known."""
        model, many = self.model, len(self.column) + self.model.lots
        whole = [True] * many + model.balanced
        whole += [False] * (len(self.rows.cost) - len(whole))
        known = self._completed(start) if any(start.values()) else None
        found = solved_integer(self.rows.program(), whole, seconds, work, relative_gap=1e-4, start=known)
        if found is None or (np.isinf(found.low) and found.low > 0):
            return None
        zero = (np.zeros(model.lots), np.zeros(len(model.cost)), np.zeros(len(model.left)))
        if found.values is None:
            return Solution(np.inf, zero, found.low)
        value = float(found.values @ np.array(self.rows.cost))
        lots = found.values[self.first_delivered : self.first_delivered + model.lots]
        nodes = self._nodes(found.values)
        return Solution(value, zero, min(found.low, value), nodes, np.round(lots).astype(np.int64))

    def _completed(self, start: Mapping[int, float]) -> Floats:
        """All variables of the plan that buys these patterns."""
        out = np.zeros(len(self.rows.cost))
        times = np.array([start.get(i, 0.0) for i in range(len(self.column))])
        out[: len(times)] = times
        given = times @ self.counts
        lots = self.model.lots
        out[self.first_delivered : self.first_delivered + lots] = given
        for i, spread in enumerate(self.model.spreads):
            least = min(
                float(given[mine].sum()) + standing
                for mine, standing in zip(spread.lots_of, spread.standing, strict=True)
            )
            out[self.first_delivered + lots + i] = 0.0 if spread.floor_zero else least
        at = self.first_delivered + lots + len(self.model.spreads)
        for one in self.model.together:
            there = [float(given[mine].sum()) > 0 for mine in one.lots_of]
            out[at : at + len(there)] = there
            at += len(there)
        return out

    def _nodes(self, primal: Floats) -> list[tuple[int, Ints, int]]:
        """The chosen patterns; none if some broad column was bought, which is no plan."""
        if (primal[self.first_broad :] > 1e-6).any():
            return []
        chosen = np.nonzero(primal[: len(self.column)] > 0.5)[0]
        return [(int(self.column[i]), self.counts[i], round(float(primal[i]))) for i in chosen]


def balance(model: Model, rows: Rows, mine: list[list[tuple[int, float]]]) -> None:
    """Add each lot's variable of delivered pods, `mine` being its entries so far, and the rows that tie lots to each other:
    a variable per spread is the floor that no domain is below and none further above than the skew, one per domain that
    pods together may be in is 1 where they are.
    """
    floors: list[tuple[list[tuple[int, float]], float]] = []
    for spread in model.spreads:
        floor: list[tuple[int, float]] = []
        for lots, standing in zip(spread.lots_of, spread.standing, strict=True):
            over = rows.row(-INF, float(spread.skew - standing))
            under = rows.row(-float(standing), INF)
            for lot in lots:
                mine[lot] += [(over, 1.0), (under, 1.0)]
            floor += [(over, -1.0), (under, -1.0)]
        floors.append((floor, 0.0 if spread.floor_zero else INF))
    for one in model.together:
        only = rows.row(-INF, 1.0)
        for lots in one.lots_of:
            within = rows.row(-INF, 0.0)
            for lot in lots:
                mine[lot].append((within, 1.0))
            floors.append(([(within, -one.pods), (only, 1.0)], 1.0))
    for ceiling in model.ceilings:
        row = rows.row(-INF, ceiling.most)
        for lot in ceiling.lots:
            mine[lot].append((row, 1.0))
        for lot in ceiling.others:
            mine[lot].append((row, -ceiling.each))
    for entries in mine:
        rows.variable(0.0, entries)
    for entries, most in floors:
        rows.variable(0.0, entries, most)

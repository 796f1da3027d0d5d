"""The program over patterns: which to buy, how often, so that every group's pods are delivered and spreads balance.

Rows: lots, groups, times, limits, spreads, and the room of columns without listed patterns (bought in fractions).
Solved in fractions for its duals, or in integers for a plan. Neighbours: `patterns` finds patterns and asks; `joint`
and `packing` make the models.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import highspy
import numpy as np

from nodeyard.provisioning.labelled import Bools, Floats, Ints
from nodeyard.provisioning.linear import quiet_solver

_INF = highspy.kHighsInf


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

    @property
    def lots(self) -> int:
        return len(self.group)


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


class Program:
    """The program over some patterns, as the solver takes it. Rows: lots, groups, times, limits, spreads, broad room."""

    def __init__(
        self, model: Model, column: Ints, counts: Ints, broad: list[int], most: Floats, fits: Bools
    ) -> None:
        self.model, self.column, self.counts, self.broad = model, column, counts, broad
        self.cost: list[float] = []
        self.lower: list[float] = []
        self.upper: list[float] = []
        self.entries: list[tuple[list[int], list[float]]] = []
        self.row_lower: list[float] = [0.0] * model.lots
        self.row_upper: list[float] = [_INF] * model.lots
        self.finite = [int(c) for c in np.nonzero(np.isfinite(model.times))[0]]
        self.group_row = self._rows(model.demand.tolist(), model.demand.tolist())
        times = [float(model.times[c]) for c in self.finite]
        self.times_row = self._rows([-_INF] * len(times), times)
        self.limit_row = self._rows([-_INF] * len(model.left), model.left.tolist())
        self.time_of = {c: self.times_row + i for i, c in enumerate(self.finite)}
        for c, pods in zip(column.tolist(), counts, strict=True):
            held = np.nonzero(pods)[0]
            self._add(model.cost[c], self._node_rows(c, held.tolist(), pods[held].tolist()))
        self.first_delivered = len(self.cost)
        self._delivered()
        dear = 100.0 * float(model.cost.max() + 1.0)
        for i in range(len(model.demand)):  # pods left out, so that few patterns are enough to begin with
            self._add(dear, ([self.group_row + i], [1.0]))
        self.first_broad = len(self.cost)
        for c in broad:
            self._broad(c, most, fits)

    def _rows(self, lower: list[float], upper: list[float]) -> int:
        first = len(self.row_lower)
        self.row_lower += lower
        self.row_upper += upper
        return first

    def _add(self, cost: float, entries: tuple[list[int], list[float]], upper: float = _INF) -> int:
        self.cost.append(float(cost))
        self.lower.append(0.0)
        self.upper.append(upper)
        self.entries.append(entries)
        return len(self.cost) - 1

    def _node_rows(self, column: int, rows: list[int], values: list[float]) -> tuple[list[int], list[float]]:
        """A node's entries: what it gives, its use of limits and of the times it exists."""
        rows, values = list(rows), [float(v) for v in values]
        if column in self.time_of:
            rows.append(self.time_of[column])
            values.append(1.0)
        for limit in np.nonzero(self.model.use[column])[0].tolist():
            rows.append(self.limit_row + limit)
            values.append(float(self.model.use[column, limit]))
        return rows, values

    def _delivered(self) -> None:
        """One variable per lot: pods of it that get a place; groups ask for them, spreads balance them."""
        model = self.model
        rows: list[list[int]] = [[lot, self.group_row + int(model.group[lot])] for lot in range(model.lots)]
        values: list[list[float]] = [[-1.0, 1.0] for _ in range(model.lots)]
        floors: list[tuple[list[int], list[float], float]] = []
        for spread in model.spreads:
            at: list[int] = []
            at_values: list[float] = []
            for lots, standing in zip(spread.lots_of, spread.standing, strict=True):
                over = self._rows([-_INF], [float(spread.skew - standing)])
                under = self._rows([-float(standing)], [_INF])
                for lot in lots:
                    rows[lot] += [over, under]
                    values[lot] += [1.0, 1.0]
                at += [over, under]
                at_values += [-1.0, -1.0]
            floors.append((at, at_values, 0.0 if spread.floor_zero else _INF))
        for mine, their in zip(rows, values, strict=True):
            self._add(0.0, (mine, their))
        for at, at_values, most in floors:
            self._add(0.0, (at, at_values), most)

    def _broad(self, column: int, most: Floats, fits: Bools) -> None:
        """A column without listed patterns: room for its lots, bought in fractions."""
        model = self.model
        lots = np.nonzero(fits[:, column])[0].tolist()
        needed = np.nonzero((model.request[lots] > 0).any(axis=0))[0].tolist()
        room = self._rows([0.0] * len(needed), [_INF] * len(needed))
        caps = self._rows([0.0] * len(lots), [_INF] * len(lots))
        rows = [room + i for i in range(len(needed))] + [caps + i for i in range(len(lots))]
        values = [float(model.room[column, r]) for r in needed] + [float(most[lot]) for lot in lots]
        self._add(model.cost[column], self._node_rows(column, rows, values))
        for i, lot in enumerate(lots):
            own = [lot, caps + i] + [room + j for j, r in enumerate(needed) if model.request[lot, r] > 0]
            amounts = [1.0, -1.0] + [
                -float(model.request[lot, r]) for r in needed if model.request[lot, r] > 0
            ]
            self._add(0.0, (own, amounts))

    def solve(self, seconds: float | None, start: Mapping[int, float]) -> "Solution | None":
        lp = highspy.HighsLp()
        lp.num_col_, lp.num_row_ = len(self.cost), len(self.row_lower)
        lp.col_cost_, lp.col_lower_, lp.col_upper_ = self.cost, self.lower, self.upper
        lp.row_lower_, lp.row_upper_ = self.row_lower, self.row_upper
        lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
        lengths = np.array([len(rows) for rows, _ in self.entries], np.int64)
        lp.a_matrix_.start_ = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        lp.a_matrix_.index_ = np.array([r for rows, _ in self.entries for r in rows], np.int32)
        lp.a_matrix_.value_ = np.array([v for _, values in self.entries for v in values], np.float64)
        solver = quiet_solver()
        if seconds is not None:
            whole, part = highspy.HighsVarType.kInteger, highspy.HighsVarType.kContinuous
            many = len(self.column) + self.model.lots
            lp.integrality_ = [whole] * many + [part] * (len(self.cost) - many)
            solver.setOptionValue("time_limit", max(seconds, 0.05))
            solver.setOptionValue("mip_rel_gap", 1e-4)
            solver.setOptionValue("mip_heuristic_run_feasibility_jump", False)  # it heeds no time limit
        solver.passModel(lp)
        if seconds is not None and any(start.values()):
            known = highspy.HighsSolution()
            known.col_value = self._completed(start)
            solver.setSolution(known)
            solver.setOptionValue(
                "presolve", "off"
            )  # with it the solver answers wrongly from a given solution
        solver.run()
        status = solver.getModelStatus()
        good = (highspy.HighsModelStatus.kOptimal, highspy.HighsModelStatus.kTimeLimit)
        if status not in good or (seconds is None and status != good[0]):
            return None
        solution, info = solver.getSolution(), solver.getInfo()
        model = self.model
        zero = (np.zeros(model.lots), np.zeros(len(model.cost)), np.zeros(len(model.left)))
        if seconds is not None:
            if not solution.value_valid:
                return Solution(np.inf, zero, float(info.mip_dual_bound))
            primal = np.array(solution.col_value)
            value = float(primal @ np.array(self.cost))
            lots = primal[self.first_delivered : self.first_delivered + model.lots]
            low = min(float(info.mip_dual_bound), value)
            return Solution(value, zero, low, self._nodes(primal), np.round(lots).astype(np.int64))
        dual = np.array(solution.row_dual)
        value = np.maximum(dual[: model.lots], 0.0)
        scarcity = np.zeros(len(model.cost))
        for column, row in self.time_of.items():
            scarcity[column] = max(-dual[row], 0.0)
        toll = np.maximum(-dual[self.limit_row : self.limit_row + len(model.left)], 0.0)
        objective = float(info.objective_function_value)
        times = np.array(solution.col_value)[: len(self.column)]
        return Solution(objective, (value, scarcity, toll), objective, times=times)

    def _completed(self, start: Mapping[int, float]) -> Floats:
        """All variables of the plan that buys these patterns."""
        out = np.zeros(len(self.cost))
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
        return out

    def _nodes(self, primal: Floats) -> list[tuple[int, Ints, int]]:
        """The chosen patterns; none if some broad column was bought, which is no plan."""
        if (primal[self.first_broad :] > 1e-6).any():
            return []
        chosen = np.nonzero(primal[: len(self.column)] > 0.5)[0]
        return [(int(self.column[i]), self.counts[i], round(float(primal[i]))) for i in chosen]

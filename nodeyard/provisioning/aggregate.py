"""Whole nodes, summed room: between the relaxation, which buys nodes in fractions, and patterns, which fill each one.

Nodes are counted per column in integers, pods per lot and column, and the room of a column's nodes is summed. Any plan
is a solution, so the program's value bounds every plan; it sees what the relaxation can't, that a last node is bought
whole, and stays small where patterns are too many to list. Neighbours: `patterns` has the model, `joint` asks.
"""

from dataclasses import dataclass, field

import highspy
import numpy as np

from nodeyard.provisioning.labelled import Bools, Ints
from nodeyard.provisioning.linear import quiet_solver
from nodeyard.provisioning.pattern_program import Model

_INF = highspy.kHighsInf
_MOST_VARIABLES = 4_000


@dataclass(slots=True)
class Aggregate:
    """`bound`: no plan is below it. `nodes`: per column of `columns`; `pods`: [lot, column], whole ones."""

    bound: float
    columns: Ints
    nodes: Ints
    pods: Ints


@dataclass(slots=True)
class _Program:
    cost: list[float] = field(default_factory=list)
    upper: list[float] = field(default_factory=list)
    entries: list[list[tuple[int, float]]] = field(default_factory=list)
    row_lower: list[float] = field(default_factory=list)
    row_upper: list[float] = field(default_factory=list)

    def row(self, lower: float, upper: float) -> int:
        self.row_lower.append(lower)
        self.row_upper.append(upper)
        return len(self.row_lower) - 1

    def variable(self, cost: float, entries: list[tuple[int, float]], upper: float = _INF) -> None:
        self.cost.append(cost)
        self.upper.append(upper)
        self.entries.append(entries)


def aggregate(
    model: Model, columns: Ints, fits: Bools, upper: float, seconds: float, close: float
) -> Aggregate | None:
    """Solve the program over `columns`, which must hold one that is as good as any left out. `upper`: the cost of a
    plan; only what is cheaper by a share `close` or more is looked for. None where it is too large or can't be solved.
    """
    pairs = int(fits[:, columns].sum())
    if pairs + len(columns) > _MOST_VARIABLES or seconds <= 0:
        return None
    program = _Program()
    lot_row = [program.row(0.0, _INF) for _ in range(model.lots)]
    group_row = [program.row(d, d) for d in model.demand.tolist()]
    aim = upper * (1 - close)
    cost_row = program.row(-_INF, aim)
    limit_row = [program.row(-_INF, left) for left in model.left.tolist()]
    room_row = [_rooms(model, program, fits, column) for column in columns.tolist()]
    for column, rooms in zip(columns.tolist(), room_row, strict=True):
        entries = [(row, float(model.room[column, r])) for r, row in rooms.items()]
        entries.append((cost_row, float(model.cost[column])))
        entries += [(limit_row[i], float(u)) for i, u in enumerate(model.use[column].tolist()) if u]
        program.variable(float(model.cost[column]), entries, float(model.times[column]))
    lots, places = np.nonzero(fits[:, columns])
    for lot, place in zip(lots.tolist(), places.tolist(), strict=True):
        need = model.request[lot]
        entries = [(row, -float(need[r])) for r, row in room_row[place].items() if need[r] > 0]
        program.variable(0.0, [(lot_row[lot], 1.0), *entries])
    _delivered(model, program, lot_row, group_row)
    return _solved(program, columns, lots, places, model, seconds, aim)


def _rooms(model: Model, program: _Program, fits: Bools, column: int) -> dict[int, int]:
    """A row per resource that somebody asks for there."""
    needed = np.nonzero((model.request[fits[:, column]] > 0).any(axis=0))[0].tolist()
    return {r: program.row(0.0, _INF) for r in needed}


def _delivered(model: Model, program: _Program, lot_row: list[int], group_row: list[int]) -> None:
    """One variable per lot for its pods, balanced by the spreads."""
    mine = [[(lot_row[lot], -1.0), (group_row[int(model.group[lot])], 1.0)] for lot in range(model.lots)]
    floors: list[tuple[list[tuple[int, float]], float]] = []
    for spread in model.spreads:
        floor: list[tuple[int, float]] = []
        for lots, standing in zip(spread.lots_of, spread.standing, strict=True):
            over = program.row(-_INF, float(spread.skew - standing))
            under = program.row(-float(standing), _INF)
            for lot in lots:
                mine[lot] += [(over, 1.0), (under, 1.0)]
            floor += [(over, -1.0), (under, -1.0)]
        floors.append((floor, 0.0 if spread.floor_zero else _INF))
    for entries in mine:
        program.variable(0.0, entries)
    for entries, most in floors:
        program.variable(0.0, entries, most)


def _solved(
    program: _Program, columns: Ints, lots: Ints, places: Ints, model: Model, seconds: float, aim: float
) -> Aggregate | None:
    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = len(program.cost), len(program.row_lower)
    lp.col_cost_, lp.col_lower_, lp.col_upper_ = program.cost, [0.0] * lp.num_col_, program.upper
    lp.row_lower_, lp.row_upper_ = program.row_lower, program.row_upper
    lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    lengths = np.array([len(e) for e in program.entries], np.int64)
    lp.a_matrix_.start_ = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    lp.a_matrix_.index_ = np.array([row for e in program.entries for row, _ in e], np.int32)
    lp.a_matrix_.value_ = np.array([v for e in program.entries for _, v in e], np.float64)
    whole, part = highspy.HighsVarType.kInteger, highspy.HighsVarType.kContinuous
    first = len(columns) + len(lots)
    lp.integrality_ = (
        [whole] * len(columns)
        + [part] * len(lots)
        + [whole] * model.lots
        + [part] * (lp.num_col_ - first - model.lots)
    )
    solver = quiet_solver()
    solver.setOptionValue("time_limit", seconds)
    solver.setOptionValue("mip_rel_gap", 2e-3)
    solver.setOptionValue("mip_heuristic_run_feasibility_jump", False)  # it heeds no time limit
    solver.passModel(lp)
    solver.run()
    nodes, pods = np.zeros(len(columns), np.int64), np.zeros((model.lots, len(columns)), np.int64)
    if solver.getModelStatus() == highspy.HighsModelStatus.kInfeasible:
        return Aggregate(aim * (1 - 1e-7), columns, nodes, pods)
    good = (highspy.HighsModelStatus.kOptimal, highspy.HighsModelStatus.kTimeLimit)
    if solver.getModelStatus() not in good:
        return None
    low = min(float(solver.getInfo().mip_dual_bound), aim)
    solution = solver.getSolution()
    if solution.value_valid:
        primal = np.array(solution.col_value)
        nodes = np.round(primal[: len(columns)]).astype(np.int64)
        pods[lots, places] = np.round(primal[len(columns) : first]).astype(np.int64)
    return Aggregate(max(low, 0.0) * (1 - 1e-7) if np.isfinite(low) else 0.0, columns, nodes, pods)

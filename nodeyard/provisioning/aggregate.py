"""Whole nodes, summed room: between the relaxation, which buys nodes in fractions, and patterns, which fill each one.

Nodes are counted per column in integers, pods per lot and column, and the room of a column's nodes is summed. Any plan
is a solution, so the program's value bounds every plan; it sees what the relaxation can't, that a last node is bought
whole, and stays small where patterns are too many to list. Neighbours: `patterns` has the model, `joint` asks.
"""

from dataclasses import dataclass

import numpy as np

from nodeyard.provisioning.effort import Effort
from nodeyard.provisioning.labelled import Bools, Ints
from nodeyard.provisioning.pattern_program import Model, balance
from nodeyard.provisioning.solver import INF, Rows, solved_integer

_MOST_VARIABLES = 4_000


@dataclass(slots=True)
class Aggregate:
    """`bound`: no plan is below it. `nodes`: per column of `columns`; `pods`: [lot, column], whole ones."""

    bound: float
    columns: Ints
    nodes: Ints
    pods: Ints


def aggregate(
    model: Model, columns: Ints, fits: Bools, upper: float, seconds: float, work: Effort, close: float
) -> Aggregate | None:
    """Solve the program over `columns`, which must hold one that is as good as any left out. `upper`: the cost of a
    plan; only what is cheaper by a share `close` or more is looked for. None where it is too large or can't be solved.
    """
    pairs = int(fits[:, columns].sum())
    if pairs + len(columns) > _MOST_VARIABLES or seconds <= 0:
        return None
    program = Rows()
    lot_row = [program.row(0.0, INF) for _ in range(model.lots)]
    group_row = [program.row(d, d) for d in model.demand.tolist()]
    aim = upper * (1 - close)
    cost_row = program.row(-INF, aim)
    limit_row = [program.row(-INF, left) for left in model.left.tolist()]
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
    balance(
        model,
        program,
        [[(lot_row[lot], -1.0), (group_row[int(model.group[lot])], 1.0)] for lot in range(model.lots)],
    )
    return _solved(program, columns, lots, places, model, seconds, work, aim)


def _rooms(model: Model, program: Rows, fits: Bools, column: int) -> dict[int, int]:
    """A row per resource that somebody asks for there."""
    needed = np.nonzero((model.request[fits[:, column]] > 0).any(axis=0))[0].tolist()
    return {r: program.row(0.0, INF) for r in needed}


def _solved(
    program: Rows,
    columns: Ints,
    lots: Ints,
    places: Ints,
    model: Model,
    seconds: float,
    work: Effort,
    aim: float,
) -> Aggregate | None:
    first = len(columns) + len(lots)
    whole = [True] * len(columns) + [False] * len(lots) + [True] * model.lots + model.balanced
    found = solved_integer(program.program(), whole, seconds, work, relative_gap=2e-3)
    if found is None:
        return None
    nodes, pods = np.zeros(len(columns), np.int64), np.zeros((model.lots, len(columns)), np.int64)
    if found.values is not None:
        nodes = np.round(found.values[: len(columns)]).astype(np.int64)
        pods[lots, places] = np.round(found.values[len(columns) : first]).astype(np.int64)
    return Aggregate(max(min(found.low, aim), 0.0) * (1 - 1e-7), columns, nodes, pods)

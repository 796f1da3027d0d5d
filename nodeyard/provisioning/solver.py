"""The door to the solver: every program is built and run here, and none can run on without an end.

The solver heeds a time limit in most of its phases only, and looks at none inside some of them. So each run has limits
that no clock decides: iterations of the simplex method, nodes of the search, solutions, looks at whether to go on (each
stands for about as much work), and a ceiling on the size of what is handed over, which bounds the phases that heed
nothing (the interior point method behind the analytic centre). The clock's limit is well above them. Phases that may
take long and help little here are off: feasibility jump, symmetry. One thread only.
Neighbours: `linear`, `pattern_program` and `aggregate` write programs.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import highspy
import numpy as np

from nodeyard.provisioning.effort import Effort
from nodeyard.provisioning.labelled import Floats, Ints

INF = highspy.kHighsInf
_MOST_LINEAR_ENTRIES = 2_000_000
_MOST_INTEGER_ENTRIES = 100_000
_MOST_INTEGER_COLUMNS = 5_000
_LINEAR_S = 60.0
"""Far above the slowest linear program measured (0.3 s), also on a machine with twenty times the work it can do: the
limit on iterations ends a run that goes wrong."""
_SHORTEST_S = 0.05
_MOST_NODES = 20_000
_MOST_SOLUTIONS = 2_000
_STATUS = highspy.HighsModelStatus
_LOOK = highspy.cb.HighsCallbackType.kCallbackMipInterrupt
_FIRST_LOOKS = 2
_FIRST_ENTRY_S = 2e-7
_ROOT_LOOK_S, _ROOT_ENTRY_S = 5e-4, 4e-6
_LOOK_S, _LOOK_ENTRY_S = 2e-4, 3e-7
"""What passes between two looks, and more for each entry of the program: before the search branches, where the first looks
follow each other quickly, and after.
"""


@dataclass(slots=True)
class Rows:
    """A program to be minimized, written column by column. All variables are at least zero."""

    cost: list[float] = field(default_factory=list)
    upper: list[float] = field(default_factory=list)
    row_lower: list[float] = field(default_factory=list)
    row_upper: list[float] = field(default_factory=list)
    start: list[int] = field(default_factory=lambda: [0])
    index: list[int] = field(default_factory=list)
    value: list[float] = field(default_factory=list)

    def row(self, lower: float, upper: float) -> int:
        self.row_lower.append(lower)
        self.row_upper.append(upper)
        return len(self.row_lower) - 1

    def rows(self, lower: list[float], upper: list[float]) -> int:
        """Several rows; the number of the first."""
        first = len(self.row_lower)
        self.row_lower += lower
        self.row_upper += upper
        return first

    def variable(self, cost: float, entries: Iterable[tuple[int, float]], upper: float = INF) -> int:
        """A variable with its entries as (row, factor)."""
        self.cost.append(float(cost))
        self.upper.append(upper)
        for row, factor in entries:
            self.index.append(row)
            self.value.append(factor)
        self.start.append(len(self.index))
        return len(self.cost) - 1

    def program(self) -> "Program":
        return Program.of(
            np.array(self.cost), np.array(self.upper), np.array(self.row_lower), np.array(self.row_upper),
            np.array(self.start), np.array(self.index), np.array(self.value),
        )  # fmt: skip


@dataclass(slots=True, frozen=True)
class Program:
    """A program as the solver takes it, and how many entries it has."""

    lp: Any
    entries: int

    @staticmethod
    def of(
        cost: Floats,
        upper: Floats,
        row_lower: Floats,
        row_upper: Floats,
        start: Ints,
        index: Ints,
        value: Floats,
    ) -> "Program":
        """Variable i, at least zero, has the entries from `start[i]` to `start[i + 1]`."""
        lp = highspy.HighsLp()
        lp.num_col_, lp.num_row_ = len(cost), len(row_lower)
        lp.col_cost_, lp.col_lower_, lp.col_upper_ = cost, np.zeros(len(cost)), upper
        lp.row_lower_, lp.row_upper_ = row_lower, row_upper
        lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
        lp.a_matrix_.start_ = start.astype(np.int32)
        lp.a_matrix_.index_ = index.astype(np.int32)
        lp.a_matrix_.value_ = value.astype(np.float64)
        return Program(lp, len(index))


def solved_linear(program: Program) -> Any | None:
    """The solver with the optimum of a linear program; None where it has none or is too large."""
    lp = program.lp
    if program.entries > _MOST_LINEAR_ENTRIES:
        return None
    solver = _solver(_LINEAR_S)
    solver.setOptionValue("simplex_iteration_limit", 2_000 + 5 * (lp.num_col_ + lp.num_row_))
    solver.passModel(lp)
    solver.run()
    return solver if solver.getModelStatus() == _STATUS.kOptimal else None


@dataclass(slots=True)
class Integers:
    """`low`: no solution is below it; infinite where there is none at all. `values`: the best one found, if any."""

    low: float
    values: Floats | None = None


def solved_integer(
    program: Program,
    whole: Iterable[bool],
    seconds: float,
    work: Effort,
    *,
    relative_gap: float,
    start: Floats | None = None,
) -> Integers | None:
    """The program with the variables that are `whole` in integers, as far as the limits allow; `seconds` of work at most,
    as `work` counts them. `start`: a solution to begin from. None where the program is too large or the solver gives up.
    """
    lp = program.lp
    if lp.num_col_ > _MOST_INTEGER_COLUMNS or program.entries > _MOST_INTEGER_ENTRIES:
        return None
    kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
    lp.integrality_ = [kinds[w] for w in whole]
    work.count_program(program.entries)
    end = work.seconds + max(seconds, _SHORTEST_S)
    solver = _searched(program, end, work, relative_gap, start, presolve=start is None)
    if solver.getModelStatus() == _STATUS.kSolveError and start is None and end - work.seconds > _SHORTEST_S:
        solver = _searched(program, end, work, relative_gap, None, presolve=False)
    status = solver.getModelStatus()
    if status == _STATUS.kInfeasible:
        return Integers(INF)
    if status not in (_STATUS.kOptimal, _STATUS.kTimeLimit, _STATUS.kSolutionLimit, _STATUS.kInterrupt):
        return None
    solution = solver.getSolution()
    values = np.array(solution.col_value) if solution.value_valid else None
    return Integers(float(solver.getInfo().mip_dual_bound), values)


def _searched(
    program: Program, end: float, work: Effort, relative_gap: float, start: Floats | None, *, presolve: bool
) -> Any:
    """The solver after its search, until `work` has come to `end` seconds. Without presolve where a start is given (it
    then answers wrongly), and where it could not translate its answer back.
    """
    solver = _solver(max(work.clock_for(end - work.seconds), _SHORTEST_S))
    solver.setOptionValue("mip_rel_gap", relative_gap)
    solver.setOptionValue("mip_max_nodes", _MOST_NODES)
    solver.setOptionValue("mip_max_improving_sols", _MOST_SOLUTIONS)
    solver.setOptionValue("mip_heuristic_run_feasibility_jump", False)
    solver.setOptionValue("mip_detect_symmetry", False)
    if not presolve:
        solver.setOptionValue("presolve", "off")
    solver.passModel(program.lp)
    if start is not None:
        known = highspy.HighsSolution()
        known.col_value = start
        solver.setSolution(known)

    looks = count(1)

    def look(_kind: Any, _message: str, seen: Any, answer: Any, _data: Any) -> None:
        if seen.mip_node_count > 0:
            work.seconds += _LOOK_S + program.entries * _LOOK_ENTRY_S
        elif next(looks) <= _FIRST_LOOKS:
            work.seconds += _LOOK_S + program.entries * _FIRST_ENTRY_S
        else:
            work.seconds += _ROOT_LOOK_S + program.entries * _ROOT_ENTRY_S
        answer.user_interrupt = work.seconds >= end

    solver.setCallback(look, None)
    solver.startCallback(_LOOK)
    solver.run()
    solver.setCallback(None, None)
    return solver


def _solver(seconds: float) -> Any:
    """A solver that prints nothing: the package's own wrapper greets on standard output when it is made."""
    solver = highspy._core._Highs()
    solver.setOptionValue("output_flag", False)
    solver.setOptionValue("threads", 1)
    solver.setOptionValue("parallel", "off")
    solver.setOptionValue("time_limit", seconds)
    return solver

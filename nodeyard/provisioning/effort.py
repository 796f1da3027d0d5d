"""Work that is counted, not timed, so that the same problem gives the same plan on a busy machine and on an idle one.

Whoever searches says how much it has done: array elements gone over, entries of programs written, steps of the solver.
What these take on an ordinary machine with nothing else to do makes seconds of them, and budgets for improving a plan
are in such seconds. The clock decides only where the deadline comes first. Neighbours: `setting` holds one per plan;
`packing`, `patterns`, `frontier` and `solver` count.
"""

from collections.abc import Callable
from dataclasses import dataclass

_CALL_S = 3e-4
_ELEMENT_S = 6e-9
_ENTRY_S = 3e-6
_STEP_S = 1e-8
_CLOCK = 100.0
"""How many times longer than meant a run of the solver may take by the clock, which no count stops in all its phases."""


def _for_ever() -> float:
    return 1e9


@dataclass(slots=True)
class Effort:
    """`seconds`: of all the work so far, on an ordinary machine. `total`: seconds of the clock until the deadline."""

    total: Callable[[], float] = _for_ever
    seconds: float = 0.0

    def count(self, elements: float, *, calls: float = 1.0) -> None:
        """So many calls that went over so many array elements in all."""
        self.seconds += calls * _CALL_S + elements * _ELEMENT_S

    def count_program(self, entries: int, iterations: int = 0) -> None:
        """A program of so many entries was written, and solved in so many iterations of the simplex method."""
        self.seconds += _CALL_S + entries * (_ENTRY_S + iterations * _STEP_S)

    def budget(self, seconds: float) -> Callable[[], float]:
        """What is left of so many seconds of work from now on; never more than until the deadline."""
        end = self.seconds + seconds
        return lambda: min(end - self.seconds, self.total())

    def clock_for(self, seconds: float) -> float:
        """Seconds of the clock for a run that is to end by its count after about so many."""
        return min(seconds * _CLOCK, self.total())

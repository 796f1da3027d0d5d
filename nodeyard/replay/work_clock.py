"""A clock that counts how often it is asked: every look is a fixed step later.

Planner and optimizer improve for as long as their clock allows. With this one they do a fixed amount of work instead,
so that a replay gives the same result on every machine, as long as no integer program inside the planner runs into
the solver's own limit, which is in seconds of the real clock.
"""


class WorkClock:
    """Seconds that pass by being looked at."""

    def __init__(self, step_s: float) -> None:
        self._step_s = step_s
        self._now_s = 0.0

    def __call__(self) -> float:
        self._now_s += self._step_s
        return self._now_s

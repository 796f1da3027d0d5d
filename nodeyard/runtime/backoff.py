"""How long to wait before trying again: doubling up to a limit, with jitter.

A `Backoff` belongs to one thing that fails (a loop, a stream, a claim); `reset` after it succeeded. The jitter
shortens a delay by up to half, so that many clients that lost the same server do not come back together.
"""

import random
from collections.abc import Callable


class Backoff:
    """Delays `first_s`, twice that, ... up to `most_s` seconds, each shortened by up to `jitter` of itself."""

    def __init__(
        self,
        first_s: float = 1.0,
        most_s: float = 60.0,
        *,
        jitter: float = 0.5,
        chance: Callable[[], float] = random.random,
    ) -> None:
        if not 0 < first_s <= most_s:
            raise ValueError(f"backoff needs 0 < first_s <= most_s, not {first_s} and {most_s}")
        self._first_s = first_s
        self._most_s = most_s
        self._jitter = jitter
        self._chance = chance
        self._failures = 0

    @property
    def failures(self) -> int:
        """Failures in a row so far."""
        return self._failures

    def next_s(self) -> float:
        """Counts a failure and says how many seconds to wait after it."""
        exponent = min(self._failures, 60)
        self._failures += 1
        delay = min(self._most_s, self._first_s * 2.0**exponent)
        return delay * (1.0 - self._jitter * self._chance())

    def reset(self) -> None:
        """Forgets the failures: it worked."""
        self._failures = 0

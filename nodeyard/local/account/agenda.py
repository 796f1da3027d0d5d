"""What is to happen later: pending becomes running, shutting-down becomes terminated, a notice becomes an end.

One thread and a heap. Tasks are short and run one at a time, outside the agenda's own lock; one that raises is logged
and the rest go on. Neighbour: `account`, which puts things on it.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable

import structlog

log = structlog.get_logger(__name__)


class Agenda:
    """Runs callables after a delay, in a thread of its own."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="account-agenda", daemon=True)
        self._thread.start()

    def later(self, seconds: float, run: Callable[[], None]) -> None:
        """Run `run` after `seconds`; at once, in the caller's thread, when that is 0."""
        if seconds <= 0:
            run()
            return
        with self._changed:
            heapq.heappush(self._heap, (time.monotonic() + seconds, next(self._count), run))
            self._changed.notify()

    def close(self) -> None:
        """Stop; what has not happened yet never will."""
        with self._changed:
            self._closed = True
            self._heap.clear()
            self._changed.notify()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._closed and not (self._heap and self._heap[0][0] <= time.monotonic()):
                    self._changed.wait(self._heap[0][0] - time.monotonic() if self._heap else None)
                if self._closed:
                    return
                run = heapq.heappop(self._heap)[2]
            try:
                run()
            except Exception:
                log.exception("a task of the account failed")

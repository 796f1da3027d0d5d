"""Telling a waiting person what is being built, fetched or started, and how far it has got.

A Progress is any callable of (step, detail, fraction). LineProgress writes plain lines that read well in a
terminal and in a CI log alike: a line when the step or its detail changes in kind, and at most one every few
seconds while only the fraction grows.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Protocol, TextIO


class Progress(Protocol):
    """Called with a step's name, what it is doing now, and how far it is (0 to 1) where that is known."""

    def __call__(self, step: str, detail: str = "", fraction: float | None = None) -> None: ...


def silent(step: str, detail: str = "", fraction: float | None = None) -> None:
    """A Progress that says nothing."""


class LineProgress:
    """A Progress that writes lines to a stream, thinned out to one every `every_s` seconds per step."""

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        every_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._every_s = every_s
        self._clock = clock
        self._began = clock()
        self._step = ""
        self._last = float("-inf")

    def __call__(self, step: str, detail: str = "", fraction: float | None = None) -> None:
        now = self._clock()
        steady = step == self._step and fraction is not None and fraction < 1.0
        if steady and now - self._last < self._every_s:
            return
        self._step, self._last = step, now
        share = "" if fraction is None else f" {round(fraction * 100):3d} %"
        text = f"{step}:{share} {detail}" if detail or share else step
        self._stream.write(f"[{now - self._began:6.1f} s] {text.rstrip()}\n")
        self._stream.flush()

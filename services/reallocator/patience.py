"""Which methods a pass tries: a course where the cluster is calm, urgent ones only while it may soon be.

Single commands would keep a cluster from the calm that a course needs, so they wait for it a while; where no course was
worth it, or two had to be given up in a row, they have the time until the next is looked for. Neighbours: `controller`, which asks
before each pass; `nodeyard.disruption.course`, which says what calm is.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from nodeyard.disruption.course import calm
from nodeyard.disruption.methods import LIVE, METHODS, URGENT, WITHOUT_COURSES, Method
from nodeyard.disruption.model import Outcome, View

CALM_S: Final = 30.0
"""How long single commands wait for a cluster that is not calm to become so."""
LONGEST_REST_S: Final = 60.0
_REST: Final = 10.0
"""After a search that found no course, none is looked for this many times as long, LONGEST_REST_S at most."""
Terms = object
"""What decides whether nodes may go and at what price, whatever the pods do: compared only."""


class Patience:
    """Remembers since when the cluster has not been calm, and until when no course is looked for."""

    def __init__(self, *, courses: bool = True) -> None:
        """`courses`: whether one could be carried out at all."""
        self._courses = courses
        self._rest: tuple[float, Terms] = (0.0, None)
        self._restless: tuple[float, Terms] | None = None
        self._in_vain = 0
        """Courses given up since one arrived."""

    def methods(self, view: View, terms: Terms) -> Sequence[Method]:
        """What is tried now; other terms than before end every wait."""
        if not self._courses:
            return WITHOUT_COURSES
        until, then = self._rest
        if view.now < until and terms == then:
            return METHODS
        if calm(view):
            self._restless = None
            return LIVE
        if self._restless is None or self._restless[1] != terms:
            self._restless = (view.now, terms)
        return URGENT if view.now - self._restless[0] < CALM_S else METHODS

    def awake(self, outcome: Outcome, methods: Sequence[Method], now: float) -> Outcome:
        """The outcome, but that a wait which ends by itself lets no pass rest beyond it."""
        if methods is URGENT:
            return msgspec.structs.replace(outcome, quiet=False)
        if methods is METHODS and self._courses:
            again = min(outcome.recheck_at or now + CALM_S, now + CALM_S)
            return msgspec.structs.replace(outcome, recheck_at=again)
        return outcome

    def fruitless(self, now: float, terms: Terms, took_s: float) -> None:
        """A search of so many seconds found no course."""
        self._rest = (now + min(_REST * took_s, LONGEST_REST_S), terms)

    def given_up(self, now: float, terms: Terms) -> None:
        """A course could not be carried out, or not to its end: the next is looked for at once, after that less often."""
        self._in_vain += 1
        if self._in_vain > 1:
            self._rest = (now + LONGEST_REST_S, terms)

    def arrived(self) -> None:
        """A course came to its end."""
        self._in_vain = 0

"""Whose place is whose: places on nodes are found for lots of pods, and here they are given to the pods of each.

A spread over hosts binds the pods that bear it, when they come: whoever is only counted may come at any time. So packing
does not tell apart pods that differ in the host spreads that only count them or that they only bear. Here those that bear
one are given their places first, and the others then go, as far as they can, where they crowd none of them, so that the
order in which pods really come matters little. Neighbours: `buying` and `ledger` have places to give.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from nodeyard.provisioning.classes import PodClass
from nodeyard.provisioning.domains import Portion
from nodeyard.provisioning.field import Field, Seat
from nodeyard.provisioning.labelled import Ints
from nodeyard.provisioning.lots import Bin
from nodeyard.scheduling.topology import TermKind

_AMPLE = 1 << 40


@dataclass(slots=True, frozen=True)
class _Mind:
    """What a spread over hosts has to say about a class that bears it or is counted by it. `there`, `bearing`: pods on each
    node that it counts, and that bear it.
    """

    skew: int
    there: list[int]
    bearing: list[int]
    borne: bool
    counted: bool

    def most(self, node: int, *, apart: bool) -> int:
        """How many more pods the node takes by this spread; `apart`: so that they crowd none that bear it."""
        there = self.there[node]
        if self.borne:
            return self.skew - there if self.counted else _AMPLE if there <= self.skew else 0
        return self.skew - there if apart and self.bearing[node] else _AMPLE


def lone_terms(state: Field, carried: Sequence[int], matched: Sequence[int]) -> tuple[set[int], set[int]]:
    """Of a class's terms over hosts, (carried, matched): those that packing must know, for they need no order to hold. A spread
    is among them only where the class both bears it and is counted by it.
    """
    both = {*carried} & {*matched}

    def known(numbers: Sequence[int]) -> set[int]:
        spread = TermKind.SPREAD
        return {
            n for n in numbers if n in state.at and (state.classes.terms[n].kind is not spread or n in both)
        }

    return known(carried), known(matched)


class Seating:
    """Places being given. `nodes`: the field's number of each bin's node; `queues`: per lot the pods that it stands for,
    whose counts go down as they get places.
    """

    def __init__(
        self,
        state: Field,
        carried_of: Callable[[PodClass], tuple[int, ...]],
        bins: Sequence[Bin],
        nodes: Ints,
        queues: Sequence[Sequence[Portion]],
        *,
        judged: bool = False,
    ) -> None:
        """`judged`: every place is looked at again, by all constraints of its node."""
        self.state, self.carried_of, self.queues, self.judged = state, carried_of, queues, judged
        self.minded = self._minded()
        self.there, self.bearing = (
            {n: counts[: state.count, state.at[n]].tolist() for n in self.minded}
            for counts in (state.matched, state.carried)
        )
        sizes = [len(b.lots) for b in bins]
        lot = np.concatenate([b.lots for b in bins]) if bins else np.zeros(0, np.int64)
        many = np.concatenate([b.counts for b in bins]) if bins else np.zeros(0, np.int64)
        order = np.argsort(lot, kind="stable")
        self.node: list[int] = np.repeat(nodes, sizes)[order].tolist()
        self.free: list[int] = many[order].astype(np.int64).tolist()
        start = np.searchsorted(lot[order], np.arange(len(queues) + 1)).tolist()
        self.open = [list(range(first, last)) for first, last in pairwise(start)]
        """Per lot, the places that are not taken."""
        self.seated: list[Seat] = []

    def _minded(self) -> frozenset[int]:
        """Spreads over hosts that bind some of the pods and count others."""
        bearers: dict[int, set[int]] = {}
        counted: dict[int, set[int]] = {}
        for one in {p.one.number: p.one for queue in self.queues for p in queue}.values():
            for numbers, seen in ((self.carried_of(one), bearers), (one.matched, counted)):
                for number in numbers:
                    if number in self.state.at and self.state.classes.terms[number].kind is TermKind.SPREAD:
                        seen.setdefault(number, set()).add(one.number)
        return frozenset(n for n, who in bearers.items() if who != counted.get(n))

    def run(self) -> None:
        """Give the places; pods that could not take theirs are left in the queues."""
        order = [(lot, portion) for lot, queue in enumerate(self.queues) for portion in queue]
        for lot, portion in sorted(order, key=lambda one: self._turn(one[1].one)):
            self._seat(lot, portion, self._minds(portion.one))
        self._settle()

    def _settle(self) -> None:
        """Tell the field who has got a place."""
        self.state.place_all(self.seated)
        self.seated = []

    def _turn(self, one: PodClass) -> int:
        """Who bears a spread that counts it comes first, then who only bears one, then who is only counted."""
        borne, counted = self._minded_by(one)
        if borne & counted:
            return 0
        return 1 if borne else 2 if counted else 3

    def _minded_by(self, one: PodClass) -> tuple[frozenset[int], frozenset[int]]:
        """(spreads that the class bears, that count it), of those that are minded."""
        return self.minded.intersection(self.carried_of(one)), self.minded.intersection(one.matched)

    def _minds(self, one: PodClass) -> list[_Mind]:
        borne, counted = self._minded_by(one)
        terms = self.state.classes.terms
        return [
            _Mind(terms[n].max_skew, self.there[n], self.bearing[n], n in borne, n in counted)
            for n in sorted(borne | counted)
        ]

    def _seat(self, lot: int, portion: Portion, minds: list[_Mind]) -> None:
        places, node, free = self.open[lot], self.node, self.free
        if not places:
            return
        one, carried = portion.one, self.carried_of(portion.one)
        judged = self._judged(one, carried)
        taken: list[int] = []
        counts: list[int] = []
        for apart in (True, False) if minds else (False,):
            for place in places:
                if portion.count <= 0:
                    break
                here = node[place]
                many = min(portion.count, free[place])
                for mind in minds:
                    many = min(many, mind.most(here, apart=apart))
                if judged is not None:
                    many = min(many, judged[here])
                    judged[here] -= max(many, 0)
                if many <= 0:
                    continue
                free[place] -= many
                portion.count -= many
                taken.append(here)
                counts.append(many)
                self._count(minds, here, many)
        if taken:
            self.open[lot] = [place for place in places if free[place] > 0]
            self.seated.append(Seat(one, carried, taken, counts))

    def _judged(self, one: PodClass, carried: Sequence[int]) -> list[int] | None:
        """How many pods of the class each node takes by all constraints, where these are to be looked at again."""
        if not self.judged:
            return None
        self._settle()
        judged: list[int] = self.state.capacity(one, carried).tolist()
        return judged

    @staticmethod
    def _count(minds: Sequence[_Mind], node: int, many: int) -> None:
        for mind in minds:
            if mind.counted:
                mind.there[node] += many
            if mind.borne:
                mind.bearing[node] += many

"""Whose place is whose: places on nodes are found for lots of pods, and here they are given to the pods of each.

A spread over hosts binds the pods that bear it, when they come: whoever is only counted may come at any time. So packing
does not tell apart pods that differ in the host spreads that only count them or that they only bear. Here those that bear
one are given their places first, and the others then go, as far as they can, where they crowd none of them, so that the
order in which pods really come matters little. Neighbours: `buying` and `ledger` have places to give.
"""

from collections.abc import Callable, Sequence

import numpy as np

from nodeyard.provisioning.classes import PodClass
from nodeyard.provisioning.domains import Portion
from nodeyard.provisioning.field import Field
from nodeyard.provisioning.labelled import Ints
from nodeyard.provisioning.lots import Bin
from nodeyard.scheduling.topology import TermKind

_AMPLE = 1 << 40


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
        sizes = [len(b.lots) for b in bins]
        lot = np.concatenate([b.lots for b in bins]) if bins else np.zeros(0, np.int64)
        many = np.concatenate([b.counts for b in bins]) if bins else np.zeros(0, np.int64)
        order = np.argsort(lot, kind="stable")
        self.node: Ints = np.repeat(nodes, sizes)[order]
        self.free: Ints = many[order].astype(np.int64)
        self.start = np.searchsorted(lot[order], np.arange(len(queues) + 1))

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
        turns: list[list[tuple[int, Portion]]] = [[], [], [], []]
        for lot, queue in enumerate(self.queues):
            for portion in queue:
                turns[self._turn(portion.one)].append((lot, portion))
        for turn in turns:
            for lot, portion in turn:
                self._seat(lot, portion)

    def _turn(self, one: PodClass) -> int:
        """Who bears a spread that counts it comes first, then who only bears one, then who is only counted."""
        if not self.minded:
            return 3
        borne, counted = self.minded & {*self.carried_of(one)}, self.minded & {*one.matched}
        if borne & counted:
            return 0
        return 1 if borne else 2 if counted else 3

    def _seat(self, lot: int, portion: Portion) -> None:
        mine = slice(int(self.start[lot]), int(self.start[lot + 1]))
        node, free = self.node[mine], self.free[mine]
        able, apart = self._able(portion.one, node, free)
        given = np.zeros(len(node), np.int64)
        for most in (np.minimum(able, apart), able):
            room = most - given
            ahead = np.cumsum(room) - room
            given += np.clip(portion.count - int(given.sum()) - ahead, 0, room)
        used = np.nonzero(given)[0]
        if not len(used):
            return
        self.free[mine] = free - given
        portion.count -= int(given.sum())
        self.state.place(portion.one, self.carried_of(portion.one), node[used], given[used])

    def _able(self, one: PodClass, node: Ints, free: Ints) -> tuple[Ints, Ints]:
        """(how many each node takes by the spreads that the pods bear, how many so that they crowd no other's)."""
        able, apart = np.maximum(free, 0), np.full(len(node), _AMPLE)
        state = self.state
        if self.judged and len(node):
            able = np.minimum(able, state.capacity(one, self.carried_of(one))[node])
        for number in self.minded:
            borne, counted = number in self.carried_of(one), number in one.matched
            if not borne and not counted:
                continue
            at, skew = state.at[number], state.classes.terms[number].max_skew
            there = state.matched[node, at]
            if borne and counted:
                able = np.minimum(able, np.maximum(skew - there, 0))
            elif borne:
                able = np.where(there <= skew, able, 0)
            else:
                apart = np.where(
                    state.carried[node, at] > 0, np.minimum(apart, np.maximum(skew - there, 0)), apart
                )
        return able, apart

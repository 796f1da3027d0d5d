"""Plans of few nodes searched in full: which patterns to buy one after the other until nothing is left to place.

A state is what is left of each lot. Of any plan some node holds a pod of the first lot that has pods left, so only such
patterns need follow a state. The duals say what is left is worth at least, so a state whose cost and that worth together
reach the best plan known is dropped. Where too many states stay, the best of them go on, and the cheapest one dropped
still bounds every plan. Neighbours: `patterns` asks; its integer program takes over where this does not close the gap.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from nodeyard.provisioning.effort import Effort
from nodeyard.provisioning.labelled import Floats, Ints

_WIDTHS = (200, 2_000, 20_000)
_MOST_PAIRS = 400_000
_MOST_CODES = 2**62
_GAINING = 0.1
"""A pass that finds nothing cheaper and closes less of the gap than this is not followed by a wider one."""
_NEXT = 1e-9
_PAIRING = 9.0
_MOST_PODS = 600
"""With more, far too many states are alike for the best of them to be told."""


@dataclass(slots=True)
class Found:
    """`low`: no plan is cheaper. `cost`, `patterns`: of the best plan found, each as often as it is bought."""

    low: float
    cost: float = np.inf
    patterns: list[int] = field(default_factory=list)


@dataclass(slots=True)
class _Layer:
    """States after so many nodes: what is left, what was spent, and the pattern and state each came from."""

    left: Ints
    spent: Floats
    parent: Ints
    pattern: Ints


class Frontier:
    """`counts`: [pattern, lot]; `value`: duals, by which no pattern is worth more than its `cost`."""

    def __init__(
        self, counts: Ints, cost: Floats, demand: Floats, value: Floats, work: Effort | None = None
    ) -> None:
        self.work = Effort() if work is None else work
        self.demand, self.value = demand.astype(np.int64), value
        waste = cost - counts @ value
        order = np.argsort(waste, kind="stable")
        self.order = order
        self.counts, self.cost, self.waste = counts[order], cost[order], waste[order]
        self.serving = [np.nonzero(self.counts[:, lot] > 0)[0] for lot in range(len(demand))]
        self.radix = np.concatenate([[1], np.cumprod(self.demand[:-1] + 1)])
        few = int(self.demand.sum()) <= _MOST_PODS
        self.able = few and float(np.prod(self.demand + 1.0)) < _MOST_CODES

    def search(self, upper: float, spare: Callable[[], float]) -> Found:
        """The best plan cheaper than `upper`, if there is one and time suffices, and what no plan is below."""
        best = Found(float(self.demand @ self.value))
        if not self.able:
            return best
        for width in _WIDTHS:
            aim, before = min(upper, best.cost), best.low
            found = self._pass(width, aim, spare)
            if found.cost < best.cost:
                best.cost, best.patterns = found.cost, found.patterns
            best.low = max(best.low, min(found.low, best.cost, upper))
            if best.low >= min(upper, best.cost) * (1 - 1e-6) or spare() <= 0:
                break
            if min(upper, best.cost) >= aim and best.low < before + (aim - before) * _GAINING:
                break
        return best

    def _pass(self, width: int, aim: float, spare: Callable[[], float]) -> Found:
        """One search with at most so many states kept from node to node. `low` is infinite if none was dropped."""
        start = _Layer(self.demand[None], np.zeros(1), np.zeros(1, np.int64), np.zeros(1, np.int64))
        layers, out = [start], Found(np.inf)
        while len(layers[-1].spent):
            if spare() <= 0:
                last = layers[-1]
                out.low = min(out.low, float((last.spent + last.left @ self.value).min()))
                break
            grown = self._grown(layers[-1], aim)
            done = np.nonzero(~grown.left.any(axis=1))[0]
            if len(done):
                end = int(done[np.argmin(grown.spent[done])])
                out.cost = aim = float(grown.spent[end])
                out.patterns = self._path(layers, grown, end)
            layers.append(self._kept(grown, width, aim, out))
        return out

    def _grown(self, layer: _Layer, aim: float) -> _Layer:
        """Every state that a node more leads to and that could be part of a plan cheaper than `aim`."""
        first = np.argmax(layer.left > 0, axis=1)
        slack = aim - layer.spent - layer.left @ self.value
        parts: list[_Layer] = []
        for lot in np.unique(first).tolist():
            states = np.nonzero(first == lot)[0]
            serving = self.serving[lot]
            many = np.searchsorted(self.waste[serving], slack[states] - _NEXT)
            for chunk in _chunks(many):
                parts.append(self._pairs(layer, states[chunk], serving, many[chunk], aim))
        none = np.zeros(0, np.int64)
        if not parts:
            return _Layer(np.zeros((0, len(self.demand)), np.int64), np.zeros(0), none, none)
        return _Layer(
            np.concatenate([p.left for p in parts]), np.concatenate([p.spent for p in parts]),
            np.concatenate([p.parent for p in parts]), np.concatenate([p.pattern for p in parts]),
        )  # fmt: skip

    def _pairs(self, layer: _Layer, states: Ints, serving: Ints, many: Ints, aim: float) -> _Layer:
        """Each state with the first so many of the patterns that serve it, the cheapest way to each outcome only."""
        parent = np.repeat(states, many)
        pattern = serving[np.arange(len(parent)) - np.repeat(np.cumsum(many) - many, many)]
        left = np.maximum(layer.left[parent] - self.counts[pattern], 0)
        spent = layer.spent[parent] + self.cost[pattern]
        good = spent + left @ self.value < aim - _NEXT
        self.work.count(left.size * _PAIRING)
        return self._distinct(_Layer(left[good], spent[good], parent[good], pattern[good]))

    def _distinct(self, layer: _Layer) -> _Layer:
        code = layer.left @ self.radix
        order = np.lexsort((layer.spent, code))
        keep = order[np.concatenate([[True], np.diff(code[order]) > 0])] if len(order) else order
        return _Layer(layer.left[keep], layer.spent[keep], layer.parent[keep], layer.pattern[keep])

    def _kept(self, grown: _Layer, width: int, aim: float, out: Found) -> _Layer:
        """The states to go on from; what the others could cost at least is noted."""
        grown = self._distinct(grown)
        total = grown.spent + grown.left @ self.value
        open_ = np.nonzero(grown.left.any(axis=1) & (total < aim - _NEXT))[0]
        if len(open_) > width:
            part = np.argpartition(total[open_], width)
            out.low = min(out.low, float(total[open_[part[width:]]].min()))
            open_ = open_[part[:width]]
        return _Layer(grown.left[open_], grown.spent[open_], grown.parent[open_], grown.pattern[open_])

    def _path(self, layers: list[_Layer], last: _Layer, end: int) -> list[int]:
        """The patterns bought on the way to a state."""
        out = [int(self.order[last.pattern[end]])]
        at = int(last.parent[end])
        for layer in layers[:0:-1]:
            out.append(int(self.order[layer.pattern[at]]))
            at = int(layer.parent[at])
        return out


def _chunks(many: Ints) -> list[slice]:
    """Slices over states whose pairs stay below a certain number."""
    if not len(many):
        return []
    block = np.cumsum(many) // _MOST_PAIRS
    starts = np.concatenate([[0], np.nonzero(np.diff(block))[0] + 1, [len(many)]])
    return [slice(a, b) for a, b in pairwise(starts.tolist())]

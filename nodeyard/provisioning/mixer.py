"""The best mix of fillings for pods of lots, as in cutting stock.

A filling is one column with so many pods of each lot. A linear program over the fillings at hand says how many of each
there would be if nodes could be bought in parts, and what a pod of each lot is worth then; fillings that are worth more
than they cost join it until few are found. Whole parts are decided, and what is left over goes through the same again.
Fillings are made greedily in shaken orders, and then mended: a pod or two out, the best pair that fits in. Unlike
`patterns` it proves nothing, and takes hundreds of lots. Neighbours: `mixing` packs a finished plan anew so, `blending`
begins one.
Source: Gilmore and Gomory, A linear programming approach to the cutting-stock problem (1961).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from nodeyard.provisioning.effort import Effort
from nodeyard.provisioning.labelled import Bools, Floats, Ints
from nodeyard.provisioning.linear import Kinds, Market, relax
from nodeyard.provisioning.lots import Bin
from nodeyard.provisioning.solver import INF, Program, solved_linear

_JOINING: Final = 150
_MOST_PAIRS: Final = 500
_FIRST: Final = 0.65
"""Of the time, what is spent before anything is decided; and of what is left, for each later decision."""
_LATER: Final = 0.3
_STALLED, _LITTLE, _HARDLY = 3, 2e-5, 5e-3
_STEADY, _LOOSER, _LOOSE = 0.8, 0.6, 0.15
"""How far the worths that guide new fillings are the relaxation's at first, which are never far off, and not the program's,
which leap while fillings are few; how far less so each time that nothing comes of it, and from where on not at all.
Source: Wentges, Weighted Dantzig-Wolfe decomposition for linear mixed-integer programming (1997).
"""
_NEARLY: Final = 0.7
"""From this share of a node on, it is decided as a whole one."""
_SLIVER: Final = 1e-9
_MAKING, _MENDING = 3.6, 0.5
"""Elements gone over, per filling and lot, and per filling and pair."""
Worth = Floats


@dataclass(slots=True, frozen=True)
class Pace:
    """How thoroughly fillings are looked for. `fillings`: made in one turn for each set of columns that take the same lots;
    `mendings`: exchanges tried on each.
    """

    fillings: int = 240
    mendings: int = 6


class Mixer:
    """One mix being found. `allowed`: [lot, column]; `spare`: seconds of work left."""

    def __init__(
        self, request: Floats, room: Floats, cost: Floats, allowed: Bools, spare: Callable[[], float],
        work: Effort, pace: Pace = Pace(),
    ) -> None:  # fmt: skip
        needed = (request > 0).any(axis=0)
        scale = np.maximum(room[:, needed].max(axis=0), 1e-9)
        self.request, self.room = request[:, needed] / scale, room[:, needed] / scale
        self.shared, self.most = _caps(self.request, self.room)
        self.cost, self.spare, self.work, self.pace = cost, spare, work, pace
        holds = (self.room[None] >= self.request[:, None] - _SLIVER).all(axis=2)
        self.fits: Bools = allowed & holds
        self.groups = _groups(self.fits, holds)
        self.rng = np.random.default_rng(1)
        self.column: Ints = np.zeros(0, np.int64)
        self.counts: Ints = np.zeros((0, len(request)), np.int64)
        self._known: set[tuple[int, bytes]] = set()

    def run(self, bins: Sequence[Bin]) -> list[Bin] | None:
        """Nodes for the pods of these; None where the program gives up."""
        counts = np.zeros((len(bins), len(self.request)), np.int64)
        for row, one in zip(counts, bins, strict=True):
            row[one.lots] = one.counts
        demand = counts.sum(axis=0)
        self._join(np.array([b.column for b in bins], np.int64), counts)
        self.worth = self._relaxed(demand)
        decided: list[int] = []
        left = demand.copy()
        while left.any():
            able, share = self._shared(left, self.spare() * (_LATER if decided else _FIRST))
            if share is None:
                return None
            for filling, many in self._decided(able, share, left):
                decided += [filling] * many
                left = np.maximum(left - many * self.counts[filling], 0)
        return self._delivered(decided, demand)

    def in_short(self, demand: Ints, worth: Worth, turns: int) -> list[tuple[int, Ints, int]]:
        """(column, pods per lot, nodes) of what is bought in whole nodes after so few turns. `worth`: of a pod of each lot,
        by the relaxation.
        """
        before, steady = np.inf, 1.0
        while True:
            able = self._usable(demand)
            cost, share, now = self._program(able, demand)
            if share is None:
                return []
            if turns <= 1 or before - cost < _HARDLY * cost:
                whole = self._decided(able, share, demand)
                return [(int(self.column[i]), self.counts[i], many) for i, many in whole]
            before, steady, turns = cost, steady * _STEADY, turns - 1
            self._turn(steady * worth + (1 - steady) * now, now, demand)

    def _relaxed(self, demand: Ints) -> Worth:
        """What a pod of each lot is worth where nodes and what they hold are bought in parts."""
        nothing = np.zeros((len(self.cost), 0))
        market = Market(self.room, self.cost, nothing, np.zeros(0))
        out, some = np.zeros(len(demand)), np.nonzero(demand > 0)[0]
        self.work.count(len(some) * len(self.cost) * 40.0, calls=40.0)
        out[some] = relax(
            Kinds(self.request[some], demand[some].astype(np.float64), self.fits[some]), market
        ).value
        return out

    # --- in parts -----------------------------------------------------------------------------------------------------
    def _shared(self, left: Ints, seconds: float) -> tuple[Ints, Floats | None]:
        """(fillings that may be used, how many of each if nodes could be bought in parts), after so long a search."""
        stop = self.spare() - seconds
        stalled, before, steady = 0, np.inf, _STEADY
        while True:
            able = self._usable(left)
            cost, share, worth = self._program(able, left)
            stalled = stalled + 1 if before - cost < _LITTLE * cost else 0
            if stalled and steady > 0:
                stalled, steady = 0, steady * _LOOSER if steady > _LOOSE else 0.0
            if share is None or (np.isfinite(before) and (self.spare() <= stop or stalled >= _STALLED)):
                return able, share
            before = cost
            self._turn(steady * self.worth + (1 - steady) * worth, worth, left)

    def _turn(self, guide: Worth, worth: Worth, left: Ints) -> None:
        """New fillings for what is left."""
        for columns, lots in self.groups:
            if left[lots].any():
                self._generate(columns, lots[left[lots] > 0], guide, worth, left)

    def _usable(self, left: Ints) -> Ints:
        """Fillings that hold no more than what is left; one for every lot."""
        able = self._within(left)
        bare = np.nonzero((left > 0) & ~(self.counts[able] > 0).any(axis=0))[0]
        if not len(bare):
            return able
        alone = np.zeros((len(bare), len(left)), np.int64)
        alone[np.arange(len(bare)), bare] = 1
        dear = np.where(self.fits[bare], self.cost[None], np.inf)
        self._join(dear.argmin(axis=1), alone)
        return self._within(left)

    def _within(self, left: Ints) -> Ints:
        fitting = (self.counts <= left).all(axis=1) & self.counts.any(axis=1)
        return np.nonzero(fitting)[0]

    def _program(self, able: Ints, left: Ints) -> tuple[float, Floats | None, Worth]:
        """(cost, how many of each filling, what a pod of each lot is worth)."""
        counts = self.counts[able]
        filling, lot = np.nonzero(counts)
        start = np.concatenate([[0], np.cumsum(np.bincount(filling, minlength=len(able)))])
        nothing = np.full(len(left), INF)
        program = Program.of(
            self.cost[self.column[able]], np.full(len(able), INF), left.astype(np.float64), nothing,
            start, lot, counts[filling, lot].astype(np.float64),
        )  # fmt: skip
        solver = solved_linear(program)
        self.work.count_program(
            program.entries, int(solver.getInfo().simplex_iteration_count) if solver else 0
        )
        if solver is None:
            return np.inf, None, np.zeros(len(left))
        solution = solver.getSolution()
        share, worth = np.array(solution.col_value), np.maximum(np.array(solution.row_dual), 0.0)
        return float(solver.getInfo().objective_function_value), share, worth

    # --- fillings -----------------------------------------------------------------------------------------------------
    def _join(self, columns: Ints, counts: Ints) -> None:
        """Fillings that are not known yet."""
        new = []
        for i, column in enumerate(columns.tolist()):
            key = (column, counts[i].tobytes())
            if key not in self._known:
                self._known.add(key)
                new.append(i)
        self.column = np.concatenate([self.column, columns[new]])
        self.counts = np.concatenate([self.counts, counts[new]])

    def _generate(self, columns: Ints, lots: Ints, guide: Worth, worth: Worth, left: Ints) -> None:
        """Fillings that are worth more than they cost, the best of them by `guide`, by which they are made."""
        tries = max(2, self.pace.fillings // len(columns))
        of, counts = self._filled(columns, lots, guide[lots], left[lots], tries)
        counts = self._mended(of, lots, counts, guide[lots], left[lots])
        over = (self.cost[of] - counts @ guide[lots]) / self.cost[of]
        best = np.argsort(over, kind="stable")
        best = best[(self.cost[of] - counts @ worth[lots])[best] < -_SLIVER][:_JOINING]
        whole = np.zeros((len(best), len(left)), np.int64)
        whole[:, lots] = counts[best]
        self._join(of[best], whole)

    def _filled(self, columns: Ints, lots: Ints, worth: Worth, left: Ints, tries: int) -> tuple[Ints, Ints]:
        """(column, pods per lot) of greedy fillings in shaken orders, what is worth most for its room first."""
        request, of = self.request[lots], np.tile(columns, tries)
        share = (request[None] / np.maximum(self.room[columns], 1e-12)[:, None]).max(axis=2)
        apt = np.log(np.maximum(worth, 1e-12) / np.maximum(share * self.cost[columns][:, None], 1e-12))
        lean = np.resize(np.array([0.0, 0.5, 1.0, 2.0]), tries)[:, None, None]
        key = 3 * apt[None] + lean * np.log(np.maximum(share, 1e-12))[None]
        key = (key + self.rng.standard_normal(key.shape)).reshape(len(of), len(lots))
        order = np.argsort(-key, axis=1, kind="stable")
        request, free, every = request[:, self.shared], self.room[np.ix_(of, self.shared)], np.arange(len(of))
        most = self._limits(of, lots, left)
        divisor = np.where(request > 0, request, 1e-30)
        counts = np.zeros((len(of), len(lots)), np.int64)
        few = 1 + np.floor(self.rng.exponential(2.0, counts.shape))
        for rank in range(len(lots)):
            lot = order[:, rank]
            amount = ((free + _SLIVER) / divisor[lot]).min(axis=1, initial=np.inf)
            amount = np.floor(np.minimum(np.minimum(amount, few[:, rank]), most[every, lot]))
            free -= amount[:, None] * request[lot]
            counts[every, lot] = amount
        self.work.count(counts.size * len(self.shared) * _MAKING, calls=len(lots) / 20)
        return of, counts

    def _mended(self, of: Ints, lots: Ints, counts: Ints, worth: Worth, left: Ints) -> Ints:
        """The fillings after some exchanges: one or two pods out, the pair in that is worth most of those that fit."""
        request = np.concatenate([self.request[np.ix_(lots, self.shared)], np.zeros((1, len(self.shared)))])
        value, every, none = np.append(worth, 0.0), np.arange(len(of)), len(lots)
        room, most = self.room[np.ix_(of, self.shared)], self._limits(of, lots, left)
        for _ in range(self.pace.mendings):
            one, other = self._pairs(value, left)
            asked = request[one] + request[other]
            chance = self.rng.random(counts.shape) * (counts > 0)
            out = np.argsort(-chance, axis=1)[:, :2] if none > 1 else np.zeros((len(of), 2), np.int64)
            out = np.where(counts[every[:, None], out] > 0, out, none)
            out[:, 1] = np.where((self.rng.random(len(of)) < 0.5) & (out[:, 0] != out[:, 1]), out[:, 1], none)
            held = np.concatenate([counts, np.zeros((len(of), 1), np.int64)], axis=1)
            np.subtract.at(held, (every[:, None], out), 1)
            held[:, none] = 0
            free = room - held @ request
            able = np.ones((len(of), len(one)), np.bool_)
            for resource in range(request.shape[1]):
                able &= asked[None, :, resource] <= free[:, None, resource] + _SLIVER
            pick = able.argmax(axis=1)
            pair = np.column_stack([one[pick], other[pick]])
            gain = value[pair].sum(axis=1) - value[out].sum(axis=1)
            np.add.at(held, (every[:, None], pair), 1)
            held = held[:, :none]
            better = able[every, pick] & (gain > 1e-12) & (held <= most).all(axis=1)
            counts = np.where(better[:, None], held, counts)
            self.work.count(able.size * request.shape[1] * _MENDING, calls=1.0)
        return counts

    def _limits(self, of: Ints, lots: Ints, left: Ints) -> Ints:
        """[filling, lot]: the most pods of a lot that a filling of a column may hold, whatever else it holds."""
        return np.where(
            self.fits[np.ix_(lots, of)], np.minimum(self.most[np.ix_(lots, of)], left[:, None]), 0
        ).T

    def _pairs(self, value: Worth, left: Ints) -> tuple[Ints, Ints]:
        """(lot, lot) that there are pods for, the last standing for none; those worth most first."""
        one, other = np.triu_indices(len(value))
        able = (one != other) | (np.append(left, 2)[one] >= 2)
        one, other = one[able], other[able]
        if len(one) > _MOST_PAIRS:
            some = self.rng.choice(len(one), _MOST_PAIRS, replace=False)
            one, other = one[some], other[some]
        order = np.argsort(-(value[one] + value[other]), kind="stable")
        return one[order], other[order]

    # --- whole nodes --------------------------------------------------------------------------------------------------
    def _decided(self, able: Ints, share: Floats, left: Ints) -> list[tuple[int, int]]:
        """(filling, how many): whole parts, and nearly whole ones that fit beside them; at least one node."""
        whole = np.floor(share + 1e-6).astype(np.int64)
        left = left - whole @ self.counts[able]
        part = share - whole
        for i in np.argsort(-part, kind="stable").tolist():
            if part[i] < _NEARLY and whole.any():
                break
            if (self.counts[able[i]] <= left).all():
                whole[i] += 1
                left = left - self.counts[able[i]]
        return [(int(able[i]), int(whole[i])) for i in np.nonzero(whole)[0]]

    def _delivered(self, decided: Sequence[int], demand: Ints) -> list[Bin]:
        """The fillings without pods there are none of, each on the cheapest column that holds it."""
        left, out = demand.copy(), []
        for filling in decided:
            taken = np.minimum(self.counts[filling], left)
            left -= taken
            held = np.nonzero(taken)[0]
            if len(held):
                able = self.fits[held].all(axis=0) & (self.room >= taken @ self.request - _SLIVER).all(axis=1)
                out.append(Bin(int(np.argmin(np.where(able, self.cost, np.inf))), held, taken[held]))
        return out


def _caps(request: Floats, room: Floats) -> tuple[Ints, Ints]:
    """(resources that several lots use, [lot, column]: the most pods by those that no other lot uses)."""
    shared = np.nonzero((request > 0).sum(axis=0) > 1)[0]
    most = np.full((len(request), len(room)), np.iinfo(np.int64).max)
    for resource in np.nonzero((request > 0).sum(axis=0) == 1)[0]:
        lot = int(request[:, resource].argmax())
        cap = np.floor(room[:, resource] / request[lot, resource] + _SLIVER).astype(np.int64)
        most[lot] = np.minimum(most[lot], cap)
    return shared, most


def _groups(fits: Bools, holds: Bools) -> list[tuple[Ints, Ints]]:
    """(columns, lots): columns that take the same lots as far as these are small enough (`holds`)."""
    found: list[tuple[list[int], Bools]] = []
    for column in np.argsort(-fits.sum(axis=0), kind="stable").tolist():
        alike = (c for c, lots in found if (fits[:, column] == (lots & holds[:, column])).all())
        columns = next(alike, None)
        if columns is None:
            found.append(([column], fits[:, column]))
        else:
            columns.append(column)
    return [(np.array(columns), np.nonzero(lots)[0]) for columns, lots in found]

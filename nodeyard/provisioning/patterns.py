"""Exact answers where lots are few: every way to fill a column is listed, and the best mix of fillings is solved for.

A pattern is one column with so many pods of each lot on it, as full as it gets. Columns with too many patterns stay in
the program as plain room that may be bought in fractions, a lot's share of a node never above its demand; that only
lowers the bound. The linear program over all patterns gives the bound; the integer program over those that could still
be part of a better plan gives the plan, and raises the bound with it. Neighbours: `packing` uses the plan, `bounding`
the bound.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from nodeyard.provisioning.effort import Effort
from nodeyard.provisioning.frontier import Frontier
from nodeyard.provisioning.labelled import Bools, Floats, Ints
from nodeyard.provisioning.pattern_program import Model, PatternProgram, Solution

_MOST_PER_COLUMN = 12_000
_MOST_PATTERNS = 250_000
_MOST_COLUMNS = 90
_MOST_COMPLETE = 4_000
_MOST_INTEGER = 1_200
_MOST_FAILURES = 4
_LISTING = 0.4
"""Of the time, what listing patterns may take."""
_TRIES = 6
_GENERATED = 400
_NEARLY = 0.6
_PROVED = 1e-5
_KEPT = 500
_COMPARING = 300.0
_LISTING_EACH = 2.0
_GENERATING = 40.0


@dataclass(slots=True)
class Answer:
    """`bound` holds for every integer solution. `nodes`: (column, pods per lot, how many) of the plan, if one came;
    they may hold more pods than there are: `delivered` says how many of each lot are meant.
    """

    bound: float
    cost: float = np.inf
    nodes: list[tuple[int, Ints, int]] = field(default_factory=list)
    delivered: Ints = field(default_factory=lambda: np.zeros(0, np.int64))


@dataclass(slots=True)
class Within:
    """Only fillings that waste at most `waste` are asked for: what a node costs (`cost`: [column]) beyond what its pods are
    worth (`value`: [lot]). `price`: [column, resource], at which no pod that the column takes asks for less than its worth;
    infinite where no such price is known.
    """

    value: Floats
    price: Floats
    cost: Floats
    waste: float


class PatternSolver:
    """One model being solved. `spare`: seconds left."""

    def __init__(
        self,
        model: Model,
        spare: Callable[[], float],
        seeds: Sequence[tuple[int, Ints]] = (),
        incumbent: Sequence[tuple[int, Ints, int]] = (),
        work: Effort | None = None,
        within: Within | None = None,
    ) -> None:
        """`seeds`: (column, pods per lot) known to be good, for columns with too many patterns to list.
        `incumbent`: the best plan known, as (column, pods per lot, how many).
        """
        self.model, self.spare, self.within = model, spare, within
        self.work = Effort() if work is None else work
        self.most = np.minimum(model.cap, model.demand[model.group])
        self.fits = model.allowed & (model.room[None] >= model.request[:, None]).all(axis=2)
        self.columns = self._undominated()
        self.column: Ints = np.zeros(0, np.int64)
        self.counts: Ints = np.zeros((0, model.lots), np.int64)
        self.broad: list[int] = []
        self._list_patterns()
        self._known: set[tuple[int, bytes]] = set()
        self.rng = np.random.default_rng(1)
        first = len(self.column)
        self.start = {first + i: float(times) for i, (_, _, times) in enumerate(incumbent)}
        self._append([(column, counts) for column, counts, _ in incumbent])
        self._append(seeds)

    # --- patterns -----------------------------------------------------------------------------------------------------
    def _undominated(self) -> Ints:
        """Columns that no other column beats: at least the room that could be used, no dearer, for all the same lots."""
        model = self.model
        useful = np.nonzero(self.fits.any(axis=0))[0]
        total = (self.most[:, None] * model.request).sum(axis=0)
        room = np.minimum(model.room[useful], total)
        order = np.lexsort((-room.sum(axis=1), model.cost[useful]))
        useful, room = useful[order], room[order]
        self.work.count(room.size * _COMPARING)
        fits, use = self.fits[:, useful].T, model.use[useful]
        scarce = np.isfinite(model.times[useful]) | np.isin(
            useful, [c for one in model.joining for c in one.free]
        )
        beaten = np.zeros(len(useful), np.bool_)
        for i in range(len(useful)):
            if beaten[i] or scarce[i]:
                continue
            later = i + 1 + np.nonzero(~(beaten[i + 1 :] | scarce[i + 1 :]))[0]
            later = later[(room[later] <= room[i] + 1e-9).all(axis=1)]
            later = later[(fits[later] <= fits[i]).all(axis=1)]
            beaten[later[(use[later] >= use[i] - 1e-9).all(axis=1)]] = True
        return useful[~beaten]

    def _list_patterns(self) -> None:
        """Smallest columns first, as long as there are not too many patterns in all, nor for several columns in turn: larger
        ones have more.
        """
        model = self.model
        size = (model.room[self.columns] / np.maximum(model.room.max(axis=0), 1e-9)).max(axis=1)
        columns, counts, total, failures = [], [], 0, 0
        end = self.spare() * (1 - _LISTING)
        for column in self.columns[np.argsort(size, kind="stable")].tolist():
            found = None
            if total < _MOST_PATTERNS and failures < _MOST_FAILURES and self.spare() > end:
                found = self._fillings(column)
            if found is None:
                self.broad.append(column)
                failures += 1
                continue
            failures = 0
            total += len(found)
            columns.append(np.full(len(found), column, np.int64))
            counts.append(found)
        if counts:
            self.column = np.concatenate(columns)
            self.counts = np.concatenate(counts)

    def _fillings(self, column: int) -> Ints | None:
        """Every maximal filling of one node of the column; None if there are too many."""
        model = self.model
        lots = np.nonzero(self.fits[:, column])[0]
        share = (model.request[lots] / np.maximum(model.room[column], 1e-9)).max(axis=1)
        leading = np.isin(lots, model.leading)
        lots = lots[np.lexsort((-share, ~leading))]
        free = model.room[column][None].copy()
        counts = np.zeros((1, model.lots), np.int64)
        for rank, lot in enumerate(lots.tolist()):
            needed = model.request[lot] > 0
            fit = np.floor((free[:, needed] / model.request[lot][needed]).min(axis=1) + 1e-9)
            fit = np.where(model.may_join(column, lot, counts), np.minimum(fit, self.most[lot]), 0).astype(
                np.int64
            )
            if rank == len(lots) - 1 and not leading.any():
                counts[:, lot] = fit
                free = free - fit[:, None] * model.request[lot]
                break
            self.work.count((int(fit.sum()) + len(fit)) * model.lots * _LISTING_EACH, calls=0.4)
            if int(fit.sum()) + len(fit) > _MOST_PER_COLUMN * 4:
                return None
            again = np.repeat(np.arange(len(fit)), fit + 1)
            amount = np.arange(len(again)) - np.repeat(np.cumsum(fit + 1) - fit - 1, fit + 1)
            counts, free = counts[again], free[again] - amount[:, None] * model.request[lot]
            counts[:, lot] = amount
            if self.within is not None:
                able = self._thrifty(column, counts, free, lots[rank + 1 :])
                counts, free = counts[able], free[able]
        full = np.ones(len(counts), np.bool_)
        for lot in lots[~np.isin(lots, model.leading)].tolist():
            room = (free >= model.request[lot] - 1e-9).all(axis=1) & (counts[:, lot] < self.most[lot])
            full &= ~(room & model.may_join(column, lot, counts))
        counts = counts[full]
        return counts if len(counts) <= _MOST_PER_COLUMN else None

    def _thrifty(self, column: int, counts: Ints, free: Floats, rest: Ints) -> Bools:
        """Which begun fillings may still come to waste little enough, whatever of the lots `rest` joins them."""
        within = self.within
        assert within is not None
        most = float(self.most[rest] @ within.value[rest])
        price = within.price[column]
        more = np.minimum(free @ price, most) if np.isfinite(price).all() else np.full(len(free), most)
        out: Bools = within.cost[column] - counts @ within.value - more <= within.waste
        return out

    @property
    def lists_all(self) -> bool:
        """Whether every pattern is listed and an integer program could hold them all: the answer would be exact."""
        return not self.broad and len(self.column) <= _MOST_COMPLETE

    def add(self, seeds: Sequence[tuple[int, Ints]]) -> None:
        """More patterns that may be good."""
        self._append(seeds)

    def _append(self, patterns: Sequence[tuple[int, Ints]]) -> None:
        if not patterns:
            return
        columns = np.array([c for c, _ in patterns], np.int64)
        counts = np.array([p for _, p in patterns], np.int64)
        for one in self.model.joining:
            alone = ~np.isin(columns, one.free) & ~counts[:, one.others].any(axis=1)
            counts[np.ix_(alone, np.array(one.lots, np.int64))] = 0
        for bar in self.model.keeping:
            both = counts[:, bar.lots].any(axis=1) & counts[:, bar.others].any(axis=1)
            counts[np.ix_(both, np.array(bar.lots, np.int64))] = 0
        self.column = np.concatenate([self.column, columns])
        self.counts = np.concatenate([self.counts, counts])

    def _generate(self, duals: tuple[Floats, Floats, Floats]) -> None:
        """Add fillings that these duals say are worth more than they cost: greedy ones, in shaken orders of worth."""
        model, value = self.model, duals[0]
        columns, n_lot = self.columns, model.lots
        share = (model.request[None] / np.maximum(model.room[columns], 1e-9)[:, None]).max(axis=2)
        worth = np.log(np.maximum(value[None], 1e-12) / np.maximum(share, 1e-12))  # [column, lot]
        shake = np.linspace(0.0, 0.8, _TRIES)[:, None, None] * self.rng.standard_normal(
            (_TRIES, len(columns), n_lot)
        )
        lean = (
            np.resize(np.array([0.0, 0.5, 0.0, 1.0]), _TRIES)[:, None, None]
            * np.log(np.maximum(share, 1e-12))[None]
        )
        order = np.argsort(-(worth[None] + shake + lean), axis=2, kind="stable")
        free = np.repeat(model.room[columns][None], _TRIES, axis=0)
        able = np.where(
            (self.fits[:, columns] & (value[:, None] > 0)).T, self.most[None], 0.0
        )  # [column, lot]
        divisor = np.where(model.request > 0, model.request, 1e-30)
        counts = np.zeros((_TRIES, len(columns), n_lot), np.int64)
        t_index, c_index = np.arange(_TRIES)[:, None], np.arange(len(columns))[None]
        for rank in range(n_lot):
            lot = order[:, :, rank]
            amount = np.floor(((free + 1e-6) / divisor[lot]).min(axis=2))
            amount = np.maximum(np.minimum(amount, able[c_index, lot]), 0.0)
            free -= amount[:, :, None] * model.request[lot]
            counts[t_index, c_index, lot] = amount
        self.work.count(counts.size * _GENERATING)
        reduced = self._price(duals)[columns][None] - counts @ value
        good = np.argsort(reduced, axis=None, kind="stable")[:_GENERATED]
        found: list[tuple[int, Ints]] = []
        for pick in good.tolist():
            trial, place = divmod(pick, len(columns))
            if reduced[trial, place] > -1e-9:
                break
            key = (int(columns[place]), counts[trial, place].tobytes())
            if key not in self._known:
                self._known.add(key)
                found.append((int(columns[place]), counts[trial, place]))
        self._append(found)

    # --- programs -----------------------------------------------------------------------------------------------------
    def solve(self, upper: float, *, integer_s: float, good_enough: float = 0.002) -> Answer:
        """The bound and, if the time allows, the best plan. `upper`: cost of the best plan known."""
        model = self.model
        if not np.bincount(model.group, self.fits.any(axis=1), len(model.demand)).all():
            return Answer(0.0)
        active = self._first_patterns()
        bound, duals = -np.inf, (np.zeros(model.lots), np.zeros(len(model.cost)), np.zeros(len(model.left)))
        for _ in range(60):
            solved = self._program(active, None)
            if solved is None:
                return Answer(0.0)
            value, duals = solved.value, solved.duals
            worth = self._reduced(duals)
            worst = np.nonzero(worth < -1e-7 * max(1.0, value))[0]
            worst = np.setdiff1d(worst, active)
            if not len(worst):
                bound = value
                break
            ahead = worst[np.argsort(worth[worst], kind="stable")[:60]]
            active = np.union1d(active, ahead)
            if self.spare() <= 0:
                break
        if not np.isfinite(bound):  # not priced out: charge what the worst pattern still lacks
            return Answer(0.0)
        bound *= 1 - 1e-7
        if upper <= bound * (1 + good_enough) or integer_s <= 0 or self.spare() <= 0:
            return Answer(bound)
        return self._integer(bound, duals, upper, min(integer_s, self.spare()))

    def _first_patterns(self) -> Ints:
        """Per lot the pattern with least cost per pod, to begin with."""
        chosen: set[int] = set()
        cost = self.model.cost[self.column]
        for lot in range(self.model.lots):
            many = self.counts[:, lot]
            if len(many) and many.max() > 0:
                chosen.add(int(np.argmin(np.where(many > 0, (cost + 1e-9) / np.maximum(many, 1), np.inf))))
        return np.array(sorted(chosen), np.int64)

    def _price(self, duals: tuple[Floats, Floats, Floats]) -> Floats:
        """What a node of each column costs with its use of what is scarce."""
        _, scarcity, toll = duals
        out: Floats = self.model.cost + scarcity + (self.model.use @ toll if len(toll) else 0.0)
        return out

    def _reduced(self, duals: tuple[Floats, Floats, Floats]) -> Floats:
        self.work.count(self.counts.size, calls=0.4)
        out: Floats = self._price(duals)[self.column] - self.counts @ duals[0]
        return out

    def _integer(
        self, bound: float, duals: tuple[Floats, Floats, Floats], upper: float, seconds: float
    ) -> Answer:
        """Patterns dearer than the gap can't be part of a better plan; over the others the program is exact."""
        stop = self.spare() - seconds
        worth = self._reduced(duals)
        able = np.nonzero(worth <= upper - bound + 1e-9)[0]
        found = Answer(bound)
        if not self.broad and self._plain():
            found = self._searched(able, duals[0], upper, lambda: self.spare() - stop - seconds * 0.5)
            bound, upper = max(bound, found.bound), min(upper, found.cost)
            if upper <= bound * (1 + _PROVED):
                return found
        complete = len(able) <= _MOST_COMPLETE and not self.broad
        kept, self.broad = self.broad, []  # a plan is made of patterns only
        if not complete:
            able, value = self._promising(stop + seconds * 0.75)
            if self._plain():  # these patterns are not all there are, so that nothing is proved
                better = self._searched(able, value, upper, lambda: self.spare() - stop - seconds * 0.5)
                found = found if better.cost >= found.cost else replace(better, bound=bound)
                upper = min(upper, found.cost)
            able = np.union1d(able, self._dive(able, stop + seconds * 0.3, upper))
        able = np.union1d(able, np.array(list(self.start), np.int64))
        solved = self._program(able, max(self.spare() - stop, 0.05))
        self.broad = kept
        if solved is None:
            return replace(found, bound=bound)
        if complete:
            bound = max(bound, min(solved.low * (1 - 1e-9), upper))
        if not solved.nodes or solved.value >= found.cost:
            return replace(found, bound=bound)
        return Answer(bound, solved.value, solved.nodes, solved.delivered)

    def _plain(self) -> bool:
        """Whether lots are all there is to place, each by itself, and columns may be used at will."""
        model = self.model
        scarce = bool(np.isfinite(model.times).any()) or len(model.left) > 0
        return model.by_lot and not scarce

    def _searched(self, able: Ints, value: Floats, upper: float, spare: Callable[[], float]) -> Answer:
        """The search in full, as far as it comes; a better plan is where the integer program starts."""
        cost = self.model.cost[self.column[able]]
        found = Frontier(self.counts[able], cost, self.model.demand, value, self.work).search(upper, spare)
        low = min(found.low, upper) * (1 - 1e-7)
        if not found.patterns:
            return Answer(low)
        times = Counter(int(able[p]) for p in found.patterns)
        nodes = [(int(self.column[p]), self.counts[p], many) for p, many in times.items()]
        self._start_with({p: float(many) for p, many in times.items()})
        return Answer(low, found.cost, nodes, self.model.demand.astype(np.int64))

    def _dive(self, active: Ints, stop: float, upper: float) -> Ints:
        """Round the program in fractions step by step, each time solving anew for what is left; a plan so found that
        is cheaper than any known is where the integer program starts. Returns its patterns.
        """
        whole, start, cost = self.model, dict[int, float](), 0.0
        if not self._plain():
            return np.zeros(0, np.int64)
        left, most = whole.demand.copy(), self.most
        try:
            while left.any() and cost < upper:
                self.model = replace(whole, demand=left)
                self.most = np.minimum(most, left)
                solved = self._program(active, None)
                if solved is None or self.spare() <= stop:
                    return np.zeros(0, np.int64)
                before = len(self.column)
                self._generate(solved.duals)
                fresh = np.arange(before, len(self.column))
                worth = self._reduced(solved.duals)
                if len(fresh):
                    useful = active[np.argsort(worth[active], kind="stable")[:_KEPT]]
                    active = np.union1d(useful, fresh)
                    solved = self._program(active, None)
                if solved is None:
                    return np.zeros(0, np.int64)
                for pattern, times in _rounded(solved.times, active, self.counts, left):
                    start[pattern] = start.get(pattern, 0.0) + times
                    cost += float(whole.cost[self.column[pattern]]) * times
                    left = np.maximum(left - self.counts[pattern] * times, 0.0)
        finally:
            self.model, self.most = whole, most
        if left.any() or cost >= upper:
            return np.zeros(0, np.int64)
        self._start_with(start)
        return np.array(list(self.start), np.int64)

    def _start_with(self, start: Mapping[int, float]) -> None:
        """Start from this plan, each pattern cut down to pods that are really there."""
        left = self.model.demand.copy()
        exact: list[tuple[int, Ints]] = []
        for pattern, times in start.items():
            for _ in range(int(times)):
                counts = np.minimum(self.counts[pattern], left).astype(np.int64)
                left -= counts
                exact.append((int(self.column[pattern]), counts))
        first = len(self.column)
        self._append(exact)
        self.start = {first + i: 1.0 for i in range(len(exact))}

    def _promising(self, stop: float) -> tuple[Ints, Floats]:
        """The patterns nearest to being used where nodes can be bought in fractions but not pods, and what pods are worth
        then; more patterns are made on the way, until `stop` seconds are left.
        """
        active = np.union1d(self._first_patterns(), np.array(list(self.start), np.int64))
        duals = (np.zeros(self.model.lots), np.zeros(len(self.model.cost)), np.zeros(len(self.model.left)))
        for _ in range(60):
            solved = self._program(active, None)
            if solved is None:
                break
            duals = solved.duals
            self._generate(duals)
            worth = self._reduced(duals)
            fresh = np.setdiff1d(np.nonzero(worth < -1e-7 * max(1.0, solved.value))[0], active)
            if not len(fresh) or self.spare() <= stop:
                break
            active = np.union1d(active, fresh[np.argsort(worth[fresh], kind="stable")[:80]])
        out: Ints = np.argsort(self._reduced(duals), kind="stable")[:_MOST_INTEGER]
        return out, duals[0]

    def _program(self, active: Ints, seconds: float | None) -> "Solution | None":
        """Solve over the active patterns; `seconds` set: in integers."""
        built = PatternProgram(
            self.model, self.column[active], self.counts[active], self.broad, self.most, self.fits
        )
        if seconds is None:
            return built.in_fractions(self.work)
        return built.in_integers(
            seconds, self.work, {i: self.start.get(int(p), 0.0) for i, p in enumerate(active)}
        )


def _rounded(times: Floats, active: Ints, counts: Ints, left: Floats) -> list[tuple[int, int]]:
    """(pattern, times) to fix now: what is whole already, as far as there are pods; else the largest part rounded up."""
    rest, out = left.copy(), []
    for i in np.argsort(-times, kind="stable").tolist():
        pattern = int(active[i])
        held = counts[pattern] > 0
        whole = int(times[i] + 1e-6)
        if whole < 1:
            break
        whole = min(whole, int((rest[held] // counts[pattern][held]).min()))
        if whole > 0:
            out.append((pattern, whole))
            rest -= counts[pattern] * whole
    if out:
        return out
    order = np.argsort(-times, kind="stable")
    out = [(int(active[order[0]]), 1)]
    rest -= counts[active[order[0]]]
    for i in order[1:].tolist():
        if times[i] < _NEARLY:
            break
        if (counts[active[i]] <= np.maximum(rest, 0)).all():
            out.append((int(active[i]), 1))
            rest -= counts[active[i]]
    return out

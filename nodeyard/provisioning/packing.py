"""Packing counted lots into new nodes: which columns to buy, and how many pods of each lot go onto each.

Works on numbers only. The relaxation says what a pod of each lot is worth; a node's waste is its cost less the worth
of what it holds, and the plan's distance from the bound is the sum of the wastes. So: bulk nodes follow the
relaxation's mix, the rest is filled by trying many fillings of every promising column at once and taking the least
wasteful, and the worst nodes are then emptied and filled anew while that helps. Neighbours: `linear` for the
relaxation, `dealing` and `filling` put pods on nodes, `patterns` has exact answers where lots are few.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from nodeyard.provisioning.blending import blended
from nodeyard.provisioning.dealing import Nodes
from nodeyard.provisioning.effort import Effort
from nodeyard.provisioning.filling import Filler
from nodeyard.provisioning.labelled import Bools, Floats, Ints
from nodeyard.provisioning.linear import Kinds, Market, Relaxation, relax
from nodeyard.provisioning.lots import Bin, Lots, Shop, fits_of, terms_as_resources
from nodeyard.provisioning.pattern_program import Model
from nodeyard.provisioning.patterns import PatternSolver

_BULK = 3.0
_WASTE = 0.12
_WASTE_BY_TERMS = 0.5
_MOST_EXACT, _MOST_EXACT_OF_FEW, _FEW_PODS = 60, 200, 300
"""Lots that are packed exactly: in general, and where there are no more than so many pods."""
_HISTORY = 600
_MOST_LOTS = 260
_WORK = 60_000
_RELAXING, _RELAXING_CALLS = 40.0, 40.0
_FILLING, _FILLING_CALLS = 30.0, 2.0
"""What a relaxation, and a lot of fillings, come to: elements gone over per element of theirs, and calls."""
_TRIED_TWICE = 10_000
"""Pods at most that packing begins twice for: with whole fillings bought first, and without."""


@dataclass(slots=True)
class Packed:
    bins: list[Bin]
    left: Ints
    """Pods of each lot that found no place."""
    relaxation: Relaxation | None = None
    value: Floats = field(default_factory=lambda: np.zeros(0))


class Packer:
    """One packing under way. `spare`: seconds that may still be spent (a function, read now and then); `near`: whether
    bins of such a cost need no further search.
    """

    def __init__(
        self,
        lots: Lots,
        shop: Shop,
        spare: Callable[[], float],
        seed: int = 1,
        exact_s: Callable[[], float] = lambda: 0.0,
        work: Effort | None = None,
        near: Callable[[float], bool] = lambda _: False,
    ) -> None:
        self.exact_s, self.near = exact_s, near
        self.work = Effort() if work is None else work
        self.floor = 0.0
        self.seen: Ints = np.zeros(0, np.int64)
        self.history: list[Bin] = []
        self.plain = lots.request.shape[1]
        lots, shop, self.binding = terms_as_resources(lots, shop)
        self.lots = lots
        self.shop = shop
        self.spare = spare
        self.fair = shop.cost
        self.rng = np.random.default_rng(seed)
        self.fits = fits_of(lots, shop)
        self.request = lots.request
        self.limit_left = shop.left.copy()
        self.value = np.zeros(lots.count)
        self.scale = (
            np.maximum(shop.room.max(axis=0), 1e-9) if len(shop.room) else np.ones(lots.request.shape[1])
        )
        self.filler = Filler(lots, shop, self.fits, self.scale, self.rng)
        self.columns = np.zeros(0, np.int64)
        self.price = np.zeros((0, lots.request.shape[1]))

    # --- the whole ------------------------------------------------------------------------------------------------
    def run(self) -> Packed:
        """Pack everything that can be packed."""
        bins, left, first, blended = self._begun(blending=True)
        if blended and self.lots.demand.sum() <= _TRIED_TWICE:
            plain, missing, _, _ = self._begun(blending=False)
            if self._worth(plain, missing) < self._worth(bins, left):
                bins, left = plain, missing
        bins = self.improve(bins, left)
        bins = self._solved(bins, left)
        unplaced = self.lots.demand.copy()
        for one in bins:
            unplaced[one.lots] -= one.counts
        return Packed(bins, unplaced, first, self.value)

    def _begun(self, *, blending: bool) -> tuple[list[Bin], Ints, Relaxation | None, bool]:
        """(nodes, pods per lot that have none, the first relaxation, whether fillings of kinds were bought)."""
        left = self.lots.demand.copy()
        left[~self.fits.any(axis=1)] = 0
        bins: list[Bin] = []
        first: Relaxation | None = None
        blended = False
        for _ in range(6):
            if not left.any():
                break
            now = self._relaxed(left, self.binding)
            if first is None:
                first = now
                self.floor = now.bound
                self._learn(now, left)
            opened = self._blended(now, left) if blending and now is first else []
            blended = blended or bool(opened)
            opened = opened or (self._bulk(now, left) if now.solved else [])
            bins += opened
            if len(opened) <= 0.02 * len(bins):
                break
        if bins and left.any():
            self._learn(self._relaxed(left, self.binding), left)
        bins += self.complete(left)
        left[~self.fits.any(axis=1)] = 0
        return bins, left, first, blended

    def appraised(self) -> float:
        """The relaxation's cost alone."""
        left = self.lots.demand.copy()
        left[~self.fits.any(axis=1)] = 0
        return self._relaxed(left, self.binding).bound if left.any() else 0.0

    def _relaxed(self, left: Ints, known: Bools) -> Relaxation:
        active = np.nonzero(left > 0)[0]
        keyed = np.column_stack([self.request[active][:, known], self.lots.mask[active]])
        kinds, member = np.unique(keyed, axis=0, return_inverse=True)
        member = member.reshape(-1)
        demand = np.bincount(member, left[active], len(kinds)).astype(np.float64)
        row = np.zeros(len(kinds), np.int64)
        row[member] = active
        self.work.count(len(kinds) * len(self.shop.cost) * _RELAXING, calls=_RELAXING_CALLS)
        finite = np.isfinite(self.limit_left)
        market = Market(
            self.shop.room[:, known],
            self.shop.cost,
            self.shop.use[:, finite],
            np.maximum(self.limit_left[finite], 0.0),
        )
        found = relax(Kinds(kinds[:, :-1], demand, self.fits[row]), market, extra=self.seen)
        if not found.solved and finite.any():  # limits bind: let the rest be decided lot by lot
            free = Market(market.room, self.shop.cost, np.zeros((len(self.shop.cost), 0)), np.zeros(0))
            found = relax(Kinds(kinds[:, :-1], demand, self.fits[row]), free)
            scarce = (self.shop.use[:, finite] / np.maximum(market.left, 1e-9)).sum(axis=1)
            self.fair = self.shop.cost + scarce * 10 * self.shop.cost.max()
        else:
            self.fair = self.shop.cost + (self.shop.use[:, finite] @ found.toll if finite.any() else 0.0)
        self.seen = found.chosen[found.count > 1e-9]
        price = np.zeros((len(found.chosen), len(known)))
        price[:, known] = found.price
        found.price = price
        value = np.zeros(self.lots.count)
        value[active] = found.value[member]
        found.value = value
        share = left[active] / demand[member]
        flow = np.zeros((self.lots.count, found.flow.shape[1]))
        flow[active] = found.flow[member] * share[:, None]
        found.flow = flow
        return found

    def _learn(self, now: Relaxation, left: Ints) -> None:
        """Keep the relaxation's values, and pick the columns worth trying later. Where per-node terms decide how many
        nodes there are, pods of no term would look free; half of their worth by room alone keeps them from it.
        """
        fresh = now.value
        if not self.binding.all() or len(self.binding) > self.plain:
            fair = self.fair
            known = np.arange(len(self.binding)) < self.plain
            fresh = 0.5 * fresh + 0.5 * self._relaxed(left, known).value
            self.fair = fair
        self.value = np.where(left > 0, np.maximum(fresh, 1e-9), np.maximum(self.value, 1e-9))
        self.price = now.price
        worth = (
            (self.shop.room @ now.price.T).min(axis=1) if now.price.size else np.zeros(len(self.shop.cost))
        )
        efficiency = worth / np.maximum(self.fair, 1e-9)
        usable: Bools = np.asarray(self.fits.any(axis=0), np.bool_)
        size = np.log2(np.maximum((self.shop.room / self.scale).max(axis=1), 1e-9))
        level = np.round(size * 2).astype(np.int64)
        signature = np.unique(np.packbits(self.fits, axis=0).T, axis=0, return_inverse=True)[1].reshape(-1)
        picked = set(now.chosen[now.count > 1e-9].tolist())
        per_level = 3 if len(np.unique(level[usable])) * len(np.unique(signature[usable])) < 60 else 1
        order = np.argsort(-efficiency, kind="stable")
        taken: dict[tuple[int, int], int] = {}
        for column in order.tolist():
            if not usable[column]:
                continue
            key = (int(level[column]), int(signature[column]))
            if taken.get(key, 0) < per_level:
                taken[key] = taken.get(key, 0) + 1
                picked.add(int(column))
            if len(picked) >= 160:
                break
        self.columns = np.array(sorted(picked), np.int64)

    def _blended(self, now: Relaxation, left: Ints) -> list[Bin]:
        """Whole fillings for what there is most of, where nodes hold few pods each and no limit is to be heeded."""
        if not now.solved or np.isfinite(self.limit_left).any():
            return []
        bins = blended(self.lots, self.shop, self.fits, self.binding, now, self.columns, left, self.work)
        return self._worthwhile(bins, left)

    # --- bulk: many nodes of one column, each holding about the relaxation's mix ------------------------------------
    def _bulk(self, now: Relaxation, left: Ints) -> list[Bin]:
        """Open most of the nodes the relaxation buys, deal each column its share, then fill the gaps with what is left."""
        numbers, columns = [], []
        least = _BULK if int((left > 0).sum()) < 120 else 1.0
        for number in np.argsort(-now.count, kind="stable").tolist():
            nodes = int(now.count[number] * 0.985 + 1e-6)
            if now.count[number] < least or nodes < 1:
                continue
            nodes = self._affordable(int(now.chosen[number]), nodes)
            numbers += [number] * nodes
            columns += [int(now.chosen[number])] * nodes
            self.limit_left -= self.shop.use[now.chosen[number]] * nodes
        if not columns:
            return []
        state, of = Nodes(self.lots, self.shop, np.array(columns, np.int64)), np.array(numbers, np.int64)
        nodes_of = {number: np.nonzero(of == number)[0] for number in dict.fromkeys(numbers)}
        opened = np.bincount(of, minlength=len(now.count)) / np.maximum(now.count, 1e-9)
        whole = self._whole(now.flow * np.minimum(opened, 1.0))  # what is left over has the same mix then
        weight = now.price[np.unique(of)].max(axis=0)
        weight = np.where(weight > 0, weight, 1e-3 / self.scale)
        size = self.request @ weight
        order = np.argsort(-size, kind="stable")
        for lot in order.tolist():
            if left[lot] <= 0:
                continue
            shares = whole[lot]
            for number in np.nonzero(shares)[0].tolist():
                if number in nodes_of:
                    many = int(min(shares[number], left[lot]))
                    left[lot] -= state.deal(lot, many, weight, nodes_of[number])
        for lot in order.tolist():
            if left[lot] > 0:
                here = np.nonzero(self.fits[lot][state.columns])[0]
                left[lot] -= state.deal(lot, int(left[lot]), weight, here, fullest=True)
        return self._worthwhile(state.bins(), left)

    def _worthwhile(self, bins: list[Bin], left: Ints) -> list[Bin]:
        """The bins not much worse than the others; the pods of the rest are to be packed again."""
        waste = np.array([self.cost_left(b) for b in bins])
        enough = max(_WASTE, float(np.quantile(waste, 0.6))) if len(waste) else 0.0
        if len(self.binding) > self.plain and self.binding[self.plain :].any():
            enough = max(enough, _WASTE_BY_TERMS)
        kept = []
        for one, share in zip(bins, waste.tolist(), strict=True):
            if share > enough:
                left[one.lots] += one.counts
                self.limit_left += self.shop.use[one.column]
            else:
                kept.append(one)
        return kept

    def _whole(self, flow: Floats) -> Ints:
        """The flows in whole pods, each lot's total kept and no column favoured."""
        offset = self.rng.random((len(flow), 1))
        total = np.floor(np.cumsum(flow, axis=1) + offset + 1e-9)
        out: Ints = np.diff(total, axis=1, prepend=0.0).astype(np.int64)
        return out

    def _affordable(self, column: int, nodes: int) -> int:
        use = self.shop.use[column]
        bound = np.where(use > 0, self.limit_left / np.maximum(use, 1e-9), np.inf)
        return int(min(nodes, np.floor(bound.min() + 1e-9))) if len(bound) else nodes

    def cost_left(self, one: Bin) -> float:
        """The share of a node's cost that what it holds is not worth."""
        cost = self.fair[one.column]
        return float(1.0 - (self.value[one.lots] @ one.counts) / max(cost, 1e-9))

    # --- the rest: least wasteful filling first ----------------------------------------------------------------------
    def complete(self, left: Ints, tries: int = 12) -> list[Bin]:
        """Bins for all that is left, the least wasteful fillings first; `left` is used up."""
        bins: list[Bin] = []
        while left.any():
            active = self._sample(np.nonzero(left > 0)[0], left)
            made = self._best_fillings(active, left, tries)
            if not made:
                break
            for column, counts, times in made:
                held = counts > 0
                bins += [Bin(column, active[held], counts[held]) for _ in range(times)]
                self.limit_left -= self.shop.use[column] * times
                if len(self.history) < _HISTORY:
                    self.history.append(bins[-1])
                left[active] -= counts * times
        return bins

    def _sample(self, active: Ints, left: Ints) -> Ints:
        """At most so many lots to look at at once: those worth most, and some others."""
        if len(active) <= _MOST_LOTS:
            return active
        worth = (
            self.value[active] * np.sqrt(left[active]) * np.exp(0.7 * self.rng.standard_normal(len(active)))
        )
        return np.sort(active[np.argsort(-worth, kind="stable")[:_MOST_LOTS]])

    def _best_fillings(self, active: Ints, left: Ints, tries: int) -> list[tuple[int, Ints, int]]:
        """The least wasteful (column, pods per active lot, times), and others nearly as good that go beside it."""
        columns = self._candidates(active)
        if not len(columns):
            return []
        tries = int(np.clip(_WORK // (len(active) * len(columns)), 2, tries))
        counts = self.filler.fillings(
            active, left[active], columns, self.value, self.fair, tries
        )  # [try, column, lot]
        self.work.count(counts.size * (_FILLING + self.request.shape[1]), calls=_FILLING_CALLS)
        value = counts @ self.value[active]
        score = (self.fair[columns][None, :] / np.maximum(value, 1e-12)).reshape(-1)
        order = np.argsort(score, kind="stable")[:60]
        best = score[order[0]]
        rest = left[active].copy()
        many = len(active) > 30 or int(rest.sum()) > 400
        out: list[tuple[int, Ints, int]] = []
        for pick in order:
            if out and (not many or score[pick] > best * 1.01 + 0.002):
                break
            trial, place = divmod(int(pick), len(columns))
            chosen = counts[trial, place].astype(np.int64)
            held = chosen > 0
            if not held.any() or (chosen > rest).any():
                continue
            times = int((rest[held] // chosen[held]).min())
            column = self._right_size(int(columns[place]), active[held], chosen[held])
            times = max(1, self._affordable(column, times))
            if out and (self.shop.use[column] > self.limit_left + 1e-6).any():
                continue
            out.append((column, chosen, times))
            rest -= chosen * times
            if len(self.limit_left):
                break
        return out

    def _candidates(self, active: Ints) -> Ints:
        """Columns worth trying for what is left: the promising ones, and the cheapest for each lot that has none."""
        affordable: Bools = np.asarray((self.shop.use <= self.limit_left + 1e-6).all(axis=1), np.bool_)
        pick = self.columns[affordable[self.columns]]
        pick = pick[self.fits[np.ix_(active, pick)].any(axis=0)] if len(pick) else pick
        covered = (
            self.fits[np.ix_(active, pick)].any(axis=1) if len(pick) else np.zeros(len(active), np.bool_)
        )
        more = []
        for lot in active[~covered]:
            usable = np.nonzero(self.fits[lot] & affordable)[0]
            if len(usable):
                more.append(int(usable[np.argmin(self.shop.cost[usable])]))
        pick = np.unique(np.concatenate([pick, np.array(more, np.int64)])) if more else pick
        most = max(12, _WORK // (3 * len(active)))
        if len(pick) > most:
            pick = np.sort(self.rng.choice(pick, most, replace=False))
        return pick

    def _right_size(self, column: int, lots: Ints, counts: Ints) -> int:
        """The cheapest column that holds the same pods."""
        load = counts @ self.request[lots]
        able: Bools = np.logical_and(self.fits[lots].all(axis=0), (self.shop.room >= load - 1e-6).all(axis=1))
        if len(self.limit_left):
            able &= (self.shop.use <= np.maximum(self.limit_left, 0) + 1e-6).all(axis=1)
        able[column] = True
        usable = np.nonzero(able)[0]
        return int(usable[np.argmin(self.fair[usable])])

    # --- improvement ------------------------------------------------------------------------------------------------
    def improve(self, bins: list[Bin], missing: Ints) -> list[Bin]:
        """Empty a few wasteful nodes at a time and fill them anew, while time is left and it pays. Pods that found no
        place are tried again each time; placing them is worth more than any saving. `missing` is kept up to date. Where
        nodes hold very many lots, one turn may take longer than is left.
        """
        failures, took = 0, 0.0
        while (begin := self.spare()) > took and failures < 60 and bins:
            waste = np.array([max(self.cost_left(b), 0.0) * self.fair[b.column] for b in bins])
            if not missing.any() and waste.sum() <= 1e-3 * self.fair[[b.column for b in bins]].sum():
                break
            some = self._victims(waste, bins)
            kept_limits = self.limit_left.copy()
            old = [bins[i] for i in some]
            left = missing.copy()
            for one in old:
                left[one.lots] += one.counts
                self.limit_left += self.shop.use[one.column]
            fresh = self.complete(left, tries=6 if failures % 2 else 10)
            before, after = self._worth(old, missing), self._worth(fresh, left)
            if after < before - 1e-9:
                gone = set(some)
                bins = [b for i, b in enumerate(bins) if i not in gone] + fresh
                missing[:] = left
                failures = 0
            else:
                self.limit_left = kept_limits
                failures += 1
            took = begin - self.spare()
        return bins

    # --- exact, where lots are few --------------------------------------------------------------------------------------
    def _solved(self, bins: list[Bin], missing: Ints) -> list[Bin]:
        """The best mix of patterns instead, part by part, where it is cheaper and lots are few enough to ask."""
        lots = self.lots
        active = np.nonzero((lots.demand > 0) & self.fits.any(axis=1))[0]
        if len(lots.ceiling) or missing.any() or not len(active):
            return bins
        cost = self._worth(bins, missing)
        if cost <= self.floor * 1.004 and cost < 40 * self.shop.cost[self.columns].max():
            return bins
        parts = self._parts(active)
        if self.exact_s() <= 0 or not any(map(self._few, parts)) or self.near(cost):
            return bins
        place = {int(lot): i for i, part in enumerate(parts) for lot in part}
        out: list[Bin] = []
        stop, whole = 0.0, self.exact_s()
        for i, part in enumerate(parts):
            stop += whole / len(parts)  # what one part leaves goes to the next
            mine = [b for b in bins if place[int(b.lots[0])] == i]
            out += self._part_solved(part, mine, self._until(whole - stop))
        return out

    def _until(self, end: float) -> Callable[[], float]:
        """Seconds left until so many are left of those for exact patterns."""
        return lambda: self.exact_s() - end

    def _parts(self, active: Ints) -> list[Ints]:
        """Lots that share no column with others, such as those dealt to one zone, are a problem by themselves."""
        if np.isfinite(self.shop.left).any():
            return [active]
        fits: Bools = self.fits[active]
        open_: Bools = np.ones(len(active), np.bool_)
        parts = []
        while open_.any():
            inside: Bools = np.zeros(len(active), np.bool_)
            inside[np.argmax(open_)] = True
            while True:
                wider: Bools = np.asarray(fits[:, fits[inside].any(axis=0)].any(axis=1), np.bool_)
                if (wider == inside).all():
                    break
                inside = wider
            parts.append(active[inside])
            open_ &= ~inside
        return parts

    def _few(self, active: Ints) -> bool:
        """Whether the lots are few enough for exact patterns."""
        most = _MOST_EXACT_OF_FEW if self.lots.demand[active].sum() <= _FEW_PODS else _MOST_EXACT
        return len(active) <= most

    def _part_solved(self, active: Ints, bins: list[Bin], spare: Callable[[], float]) -> list[Bin]:
        lots, cost, seconds = self.lots, self._worth(bins, np.zeros(0, np.int64)), spare()
        if seconds <= 0.02 or not self._few(active):
            return bins
        finite = np.isfinite(self.shop.left)
        model = Model(
            self.request[active], np.arange(len(active)), lots.demand[active].astype(np.float64),
            lots.most[active], lots.allowed[lots.mask[active]], self.shop.room, self.shop.cost,
            np.full(len(self.shop.cost), np.inf), self.shop.use[:, finite], np.maximum(self.shop.left[finite], 0.0),
        )  # fmt: skip
        place = {int(lot): i for i, lot in enumerate(active)}
        best = [(b.column, _dense(b, place), 1) for b in bins]
        seeds = [(b.column, _dense(b, place)) for b in self.history if int(b.lots[0]) in place]
        solver = PatternSolver(model, spare, seeds, best, self.work)
        answer = solver.solve(cost, integer_s=seconds * 0.7)
        if not answer.nodes or answer.cost >= cost - 1e-9:
            return bins
        return self._trimmed(answer.nodes, active)

    def _trimmed(self, nodes: list[tuple[int, Ints, int]], active: Ints) -> list[Bin]:
        """The chosen patterns as bins, without the pods they hold beyond the demand, each the right size."""
        left = self.lots.demand[active].copy()
        spread = [(column, counts) for column, counts, times in nodes for _ in range(times)]
        self.limit_left = self.shop.left.copy()
        for column, _ in spread:  # one that is resized takes nothing that another of them has
            self.limit_left -= self.shop.use[column]
        bins = []
        for column, counts in sorted(spread, key=lambda n: -self.shop.cost[n[0]]):
            taken = np.minimum(counts, left)
            left -= taken
            held = taken > 0
            self.limit_left += self.shop.use[column]
            if held.any():
                best = self._right_size(column, active[held], taken[held])
                self.limit_left -= self.shop.use[best]
                bins.append(Bin(best, active[held], taken[held]))
        return bins

    def _worth(self, bins: list[Bin], missing: Ints) -> float:
        """Cost of bins, and a dear price for every pod missing."""
        penalty = 10.0 * float((self.value + self.shop.cost.max()) @ missing) if missing.any() else 0.0
        return float(self.shop.cost[[b.column for b in bins]].sum()) + penalty

    def _victims(self, waste: Floats, bins: list[Bin]) -> list[int]:
        many = int(self.rng.integers(1, 5))
        chance = waste + 0.02 * waste.mean() + 1e-12
        many = min(many, len(bins))
        return [int(i) for i in self.rng.choice(len(bins), many, replace=False, p=chance / chance.sum())]


def _dense(one: Bin, place: dict[int, int]) -> Ints:
    """A bin's pods by the places of its lots."""
    counts = np.zeros(len(place), np.int64)
    counts[[place[int(lot)] for lot in one.lots]] = one.counts
    return counts

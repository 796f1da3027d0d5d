"""A finished plan made cheaper: a few of its nodes at a time are emptied and packed anew, exactly.

Whatever made the plan, dealing first and packing then or a program too large to be solved, some of its nodes together
hold what fewer or cheaper ones could. Those that cost most beyond what their pods are worth are looked at first, with
others that could take the same pods; what comes out cheaper replaces them. Neighbours: `ledger` writes the plan as
numbers and back, `patterns` packs.
"""

from collections.abc import Callable

import numpy as np

from nodeyard.provisioning.labelled import Bools, Floats, Ints
from nodeyard.provisioning.ledger import Ledger
from nodeyard.provisioning.linear import Kinds, Market, relax
from nodeyard.provisioning.lots import Bin
from nodeyard.provisioning.pattern_program import Model
from nodeyard.provisioning.patterns import PatternSolver, Within
from nodeyard.provisioning.setting import Draft, Setting

_CLOSED = 1.003
_MOST_CLASSES = 600
_MOST_LOTS = 24
_TURN_S = 0.15
_STRANGERS = 0.02
_SLACK = 1.001


def reworked(setting: Setting, draft: Draft, spare: Callable[[], float]) -> Draft:
    """The draft, or a cheaper one that places the same pods. `spare`: seconds of work left."""
    if draft.cost <= 0 or spare() <= 0 or (draft.limits.left < -1e-6).any():
        return draft
    if len({n for held in draft.state.contents for n in held}) > _MOST_CLASSES:
        return draft
    ledger = Ledger(setting, draft)
    if not ledger.bins:
        return draft
    reworker = Reworker(ledger, spare)
    if not reworker.run():
        return draft
    better = ledger.drafted(reworker.bins)
    return draft if better is None or better.cost >= draft.cost - 1e-9 else better


class Reworker:
    """The nodes of one plan, being reworked."""

    def __init__(self, ledger: Ledger, spare: Callable[[], float]) -> None:
        self.ledger, self.spare = ledger, spare
        self.work = ledger.setting.effort
        self.bins = list(ledger.bins)
        self.left = ledger.draft.limits.left.copy()
        self.rng = np.random.default_rng(1)
        self.tried: set[frozenset[tuple[int, bytes, bytes]]] = set()
        sort_of = np.array([i for i, _ in ledger.lots], np.int64)
        self.group = sort_of
        self.open_to: Bools = np.zeros_like(ledger.allowed)
        """[lot, place]: some lot of the same sort may go there."""
        for sort in range(len(ledger.sorts)):
            mine = sort_of == sort
            self.open_to[mine] = ledger.allowed[mine].any(axis=0)

    def run(self) -> bool:
        """Rework until time is up or it has stopped to pay; whether anything is cheaper now."""
        self._learn()
        paid = False
        failures = 0
        while self.spare() > 0 and failures < 3 * len(self.bins) + 40:
            waste = self._waste()
            if waste.sum() <= (_CLOSED - 1) * self._cost(self.bins):
                break
            some = self._picked(waste)
            if some is not None and self._replaced(some):
                failures, paid = 0, True
            else:
                failures += 1
        return paid

    # --- which --------------------------------------------------------------------------------------------------------
    def _learn(self) -> None:
        """What a pod of each lot is worth where nodes are bought in fractions, what nodes cost with what is scarce, and
        prices of room at which nothing is worth more than it asks for.
        """
        ledger = self.ledger
        demand = self._total(self.bins)
        active = np.nonzero(demand > 0)[0]
        finite = np.isfinite(self.left)
        once = ledger.place < 0
        use = np.concatenate([ledger.use[:, finite], np.eye(len(once))[:, once]], axis=1)
        left = np.concatenate([self.left[finite] + self._used(self.bins)[finite], np.ones(int(once.sum()))])
        market = Market(ledger.room, ledger.cost, use, np.maximum(left, 0.0))
        self.work.count(len(active) * len(ledger.cost) * 40.0, calls=40.0)
        kinds = Kinds(ledger.request[active], demand[active], ledger.allowed[active])
        found = relax(kinds, market, extra=np.nonzero(once)[0])
        self.value, self.fair = np.zeros(len(demand)), ledger.cost
        self.price = np.full(ledger.room.shape, np.inf)
        if not found.solved:
            return
        self.value[active] = found.value
        self.fair = ledger.cost + use @ found.toll
        short = found.value[:, None] > kinds.request @ found.price.T * (1 + 1e-9) + 1e-12  # [lot, price]
        wrong = kinds.allowed.T.astype(np.float32) @ short.astype(np.float32) > 0
        worth = np.where(wrong, np.inf, ledger.room @ found.price.T)
        best = worth.argmin(axis=1)
        known = np.isfinite(worth[np.arange(len(best)), best])
        self.price[known] = found.price[best[known]]

    def _waste(self) -> Floats:
        fair, value = self.fair, self.value
        return np.array([max(fair[b.column] - float(value[b.lots] @ b.counts), 0.0) for b in self.bins])

    def _picked(self, waste: Floats) -> list[int] | None:
        """A wasteful node, and a few more that could take the same pods; None where those were looked at before."""
        bins, ledger, rng = self.bins, self.ledger, self.rng
        chance = waste + 0.05 * waste.mean() + 1e-9
        seed = int(rng.choice(len(bins), p=chance / chance.sum()))
        here = self.open_to[:, bins[seed].column]
        lots_here = bins[seed].lots if len(bins[seed].lots) else slice(None)
        mine = np.asarray(self.open_to[lots_here].any(axis=0))
        akin = np.array([here[b.lots].any() or mine[b.column] for b in bins])
        chance = (chance + 0.3 * waste.mean()) * np.where(akin, 1.0, _STRANGERS)
        chance[seed] = 0.0
        many = min(int(rng.integers(1, 6)), len(bins) - 1)
        others: list[int] = (
            rng.choice(len(bins), many, replace=False, p=chance / chance.sum()).tolist() if many else []
        )
        some, lots = [seed], set(bins[seed].lots.tolist())
        for other in others:
            wider = lots | set(bins[int(other)].lots.tolist())
            if len(wider) <= _MOST_LOTS:
                some.append(int(other))
                lots = wider
        key = frozenset((bins[i].column, bins[i].lots.tobytes(), bins[i].counts.tobytes()) for i in some)
        if key in self.tried or not any(ledger.cost[bins[i].column] for i in some):
            return None
        self.tried.add(key)
        return some

    # --- anew ---------------------------------------------------------------------------------------------------------
    def _replaced(self, some: list[int]) -> bool:
        """Whether cheaper nodes were found for the pods of these, and put in their place."""
        ledger = self.ledger
        old = [self.bins[i] for i in some]
        cost = self._cost(old)
        fresh = self._solved(old, cost)
        if fresh is None or self._cost(fresh) >= cost - 1e-9:
            return False
        gone = set(some)
        self.left = self.left + self._used(old) - self._used(fresh)
        held = {b.column for b in fresh}
        empty = np.zeros(0, np.int64)
        fresh += [  # a standing node that came out empty is still there
            Bin(b.column, empty, empty) for b in old if ledger.place[b.column] < 0 and b.column not in held
        ]
        self.bins = [b for i, b in enumerate(self.bins) if i not in gone] + fresh
        return True

    def _solved(self, old: list[Bin], cost: float) -> list[Bin] | None:
        ledger = self.ledger
        demand = self._total(old)
        groups = np.unique(self.group[demand > 0])
        lots = np.nonzero(np.isin(self.group, groups))[0]
        standing = [b.column for b in old if ledger.place[b.column] < 0]
        able = np.nonzero(ledger.allowed[lots].any(axis=0) & (ledger.place >= 0) & (ledger.cost < cost))[0]
        able = np.unique(np.concatenate([able, np.array([b.column for b in old], np.int64)]))
        able = able[(ledger.place[able] >= 0) | np.isin(able, standing)]
        needed = np.nonzero((ledger.request[lots] > 0).any(axis=0))[0]
        finite = np.isfinite(self.left)
        ledger.settle(self.bins)
        model = Model(
            ledger.request[np.ix_(lots, needed)],
            np.searchsorted(groups, self.group[lots]),
            np.array([float(demand[self.group == g].sum()) for g in groups]),
            np.full(len(lots), np.inf),
            ledger.allowed[np.ix_(lots, able)],
            ledger.room[np.ix_(able, needed)],
            ledger.cost[able],
            np.where(ledger.place[able] < 0, 1.0, np.inf),
            ledger.use[np.ix_(able, np.nonzero(finite)[0])],
            np.maximum((self.left + self._used(old))[finite], 0.0),
            ledger.spreads(lots, old),
        )
        place = {int(lot): i for i, lot in enumerate(lots)}
        where = {int(column): i for i, column in enumerate(able)}
        known = [(where[b.column], _dense(b, place), 1) for b in old if len(b.lots)]
        budget = min(_TURN_S, self.spare())
        begin = self.spare()
        wasted = sum(max(self.fair[b.column] - float(self.value[b.lots] @ b.counts), 0.0) for b in old)
        within = Within(self.value[lots], self.price[np.ix_(able, needed)], self.fair[able], wasted * _SLACK)
        solver = PatternSolver(model, lambda: budget - (begin - self.spare()), (), known, self.work, within)
        answer = solver.solve(cost, integer_s=budget * 0.9)
        if not answer.nodes or answer.cost >= cost - 1e-9:
            return None
        return self._bins_of(answer.nodes, answer.delivered, lots, able)

    def _bins_of(
        self, nodes: list[tuple[int, Ints, int]], wanted: Ints, lots: Ints, able: Ints
    ) -> list[Bin] | None:
        """The chosen patterns without the pods they hold beyond those that are meant."""
        left, out = wanted.copy(), []
        each = [(column, counts) for column, counts, times in nodes for _ in range(times)]
        for column, counts in sorted(each, key=lambda n: -int(n[1].sum())):
            taken = np.minimum(counts, left)
            left = left - taken
            held = np.nonzero(taken)[0]
            if len(held):
                out.append(Bin(int(able[column]), lots[held], taken[held]))
        return None if left.any() else out

    def _total(self, bins: list[Bin]) -> Floats:
        out = np.zeros(len(self.ledger.lots))
        for one in bins:
            out[one.lots] += one.counts
        return out

    def _used(self, bins: list[Bin]) -> Floats:
        out: Floats = self.ledger.use[[b.column for b in bins]].sum(axis=0)
        return out

    def _cost(self, bins: list[Bin]) -> float:
        return float(self.ledger.cost[[b.column for b in bins]].sum())


def _dense(one: Bin, place: dict[int, int]) -> Ints:
    counts = np.zeros(len(place), np.int64)
    counts[[place[int(lot)] for lot in one.lots]] = one.counts
    return counts

"""Which domains classes go to: zones, capacity types, any key but the host's own.

Spread, affinity and anti-affinity over such keys are settled before any node is chosen: the values of all keys in use
make cells, and each class's pods are dealt to cells so that every term holds in the end, whatever the order in which
pods arrive. What remains for packing is plain: so many pods of this class in that cell. Neighbours: `field` has the
counts that standing pods bring; `packing` takes the result.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from nodeyard.provisioning.classes import PodClass
from nodeyard.provisioning.field import DomainTerm, Field
from nodeyard.provisioning.labelled import Bools, Floats, Ints
from nodeyard.scheduling.topology import TermKind

ANYWHERE = -1
_FAR = 1e3
"""How much dearer another cell seems than home: it is taken only where home can't be."""


@dataclass(slots=True)
class Portion:
    """So many pods of a class that go to one cell (or anywhere)."""

    one: PodClass
    cell: int
    count: int


@dataclass(slots=True)
class Cells:
    """Combinations of domain codes, one per key of `keys`; -1 where a thing's combination is not among them."""

    keys: list[str]
    codes: Ints
    of_column: Ints
    of_host: Ints

    @property
    def count(self) -> int:
        return len(self.codes)


@dataclass(slots=True)
class _Group:
    """Classes that every term over domains treats alike."""

    carried: tuple[int, ...]
    matched: tuple[int, ...]
    feasible: Ints
    members: list[tuple[PodClass, int]] = field(default_factory=list)

    @property
    def demand(self) -> int:
        return sum(count for _, count in self.members)


def cells_of(state: Field) -> Cells:
    """The cells that columns and hosts make under the keys in use."""
    if not state.keys:
        return Cells([], np.zeros((1, 0), np.int64), np.zeros(state.columns.count, np.int64),
                     np.zeros(state.hosts.count, np.int64))  # fmt: skip
    columns = np.column_stack([state.column_domain[k] for k in state.keys])
    hosts = np.column_stack([state.domain[k][: state.hosts.count] for k in state.keys])
    codes, which = np.unique(np.concatenate([columns, hosts]), axis=0, return_inverse=True)
    which = which.reshape(-1)
    return Cells(list(state.keys), codes, which[: len(columns)], which[len(columns) :])


def stays_together(terms: Mapping[int, DomainTerm], carried: Sequence[int], matched: Sequence[int]) -> bool:
    """Whether pods that carry and match these terms must share a domain with their own kind."""
    return any(n in terms and terms[n].term.kind is TermKind.AFFINITY for n in {*carried} & {*matched})


class Dealer:
    """Deals classes to cells. `carried_of` says which terms of a class count as hard in this attempt."""

    def __init__(
        self,
        state: Field,
        cells: Cells,
        carried_of: Callable[[PodClass], tuple[int, ...]],
        new_nodes: bool,
        home: int = ANYWHERE,
    ) -> None:
        """`home`: the cell that classes whose pods stay together go to if they may, so that they can share nodes."""
        self.state, self.cells, self.carried_of, self.new_nodes = state, cells, carried_of, new_nodes
        self.home = home
        self.counts: dict[int, DomainTerm] = {n: t.copy() for n, t in state.by_domain.items()}
        position = {k: i for i, k in enumerate(cells.keys)}
        self.code: dict[int, list[int]] = {
            n: cells.codes[:, position[t.term.key]].tolist() for n, t in self.counts.items()
        }
        self._following: dict[int, Bools] = {}
        self._hosts_shared()
        self._fit: dict[tuple[object, ...], tuple[Bools, Floats, Floats]] = {}
        self.free = np.zeros((cells.count, len(state.classes.resources)))
        open_ = state.hosts.open
        for j in range(self.free.shape[1]):
            self.free[:, j] = np.bincount(
                cells.of_host[open_], np.maximum(state.hosts.room[open_, j], 0.0), cells.count
            )

    def _hosts_shared(self) -> None:
        """Pods that must share a host share its cell: affinity over hosts is dealt as affinity over cells too."""
        state, cells = self.state, self.cells
        standing = state.hosts.count
        for number, at in state.at.items():
            term = state.classes.terms[number]
            if term.kind is TermKind.AFFINITY and cells.count > 1:
                shared = DomainTerm(term, cells.count + 1)
                here = np.bincount(cells.of_host, state.matched[:standing, at], cells.count)
                shared.matched[1:] = here.astype(np.int64)
                self.counts[number] = shared
                self.code[number] = list(range(1, cells.count + 1))

    def deal(
        self, demand: Sequence[tuple[PodClass, int]]
    ) -> tuple[list[Portion], list[tuple[PodClass, int]]]:
        """(portions, what no cell may take)."""
        portions: list[Portion] = []
        nowhere: list[tuple[PodClass, int]] = []
        groups: dict[tuple[object, ...], _Group] = {}
        for one, many in demand:
            carried = tuple(n for n in self.carried_of(one) if n in self.counts)
            hard = self._watched(one)
            if not carried and not hard:
                portions.append(Portion(one, ANYWHERE, many))
                continue
            feasible = self._feasible(one)[0]
            key = (carried, hard, feasible.tobytes(), one.priority)
            group = groups.get(key)
            if group is None:
                group = groups[key] = _Group(carried, hard, np.nonzero(feasible)[0])
            group.members.append((one, many))
        for group in self._in_order(list(groups.values())):
            quota, left = self._quota(group)
            self._hand_out(group, quota, portions, nowhere, left)
        return portions, nowhere

    def _watched(self, one: PodClass) -> tuple[int, ...]:
        """Terms over domains that count pods of the class and that somebody bears; others' preferences don't bind it."""
        own = self.carried_of(one)
        return tuple(
            n
            for n in one.matched
            if n in self.counts and self._borne(n) and (n in own or not self.counts[n].term.soft)
        )

    def _borne(self, number: int) -> bool:
        if not hasattr(self, "_bearers"):
            bearers = {n for c in self.state.classes.classes for n in self.carried_of(c)}
            bearers |= {n for n, t in self.counts.items() if t.carried.any()}
            self._bearers = bearers
        return number in self._bearers

    def _feasible(self, one: PodClass) -> tuple[Bools, Floats, Floats]:
        """(cells with a column or host that could take one pod, least cost per pod there, best pool weight there)."""
        key = (one.rule, one.ports, one.request.tobytes())
        found = self._fit.get(key)
        if found is None:
            state, cells = self.state, self.cells
            out = np.zeros(cells.count, np.bool_)
            price = np.full(cells.count, np.inf)
            tier = np.full(cells.count, np.inf)
            if self.new_nodes and state.columns.count:
                needed = one.request > 0
                ok = state.rules.on_columns(one) & (state.columns.room >= one.request).all(axis=1)
                share = (one.request[needed] / np.maximum(state.columns.room[:, needed], 1e-9)).max(axis=1)
                np.minimum.at(price, cells.of_column[ok], (share * state.columns.cost)[ok])
                np.minimum.at(tier, cells.of_column[ok], state.columns.tier[ok].astype(np.float64))
                out |= np.isfinite(price)
            hosts = state.rules.on_hosts(one.rule) & (state.hosts.room >= one.request).all(axis=1)
            out[np.unique(cells.of_host[hosts])] = True
            found = self._fit[key] = (out, price, tier)
        return found

    def _in_order(self, groups: list[_Group]) -> list[_Group]:
        """Those with least choice first; those that only look at others last."""

        def rank(group: _Group) -> tuple[int, int, int, int]:
            kinds = {self.counts[n].term.kind for n in group.carried}
            other = any(n not in group.matched for n in group.carried)
            needs = any(
                self.counts[n].term.kind is TermKind.AFFINITY and n not in group.matched
                for n in group.carried
            )
            if not group.carried:
                step = 1 if any(self.counts[n].term.kind is not TermKind.SPREAD for n in group.matched) else 3
            elif needs:
                step = 5
            elif TermKind.ANTI_AFFINITY in kinds:
                alone = any(
                    self.counts[n].term.kind is TermKind.ANTI_AFFINITY and n in group.matched
                    for n in group.carried
                )
                step = 0 if alone else 6
            elif other:
                step = 4
            else:
                step = 2 if TermKind.SPREAD in kinds else 1
            if len(group.feasible) == 1:
                step = min(step, 0)
            priority = -max(one.priority for one, _ in group.members)
            return (priority, step, len(group.feasible), -group.demand)

        return sorted(groups, key=rank)

    # --- how many to each cell ---------------------------------------------------------------------------------------
    def _quota(self, group: _Group) -> tuple[Ints, int]:
        quota = np.zeros(self.cells.count, np.int64)
        left = group.demand
        mean = sum((one.request * n for one, n in group.members), np.zeros(self.free.shape[1])) / max(left, 1)
        price = np.full(self.cells.count, np.inf)
        tier = np.full(self.cells.count, np.inf)
        for one, _ in group.members[:8]:
            _, costs, tiers = self._feasible(one)
            price, tier = np.minimum(price, costs), np.minimum(tier, tiers)
        if self.home != ANYWHERE and stays_together(self.counts, group.carried, group.matched):
            price = np.where(np.arange(len(price)) == self.home, price, price * _FAR)
        if each := self._evenly(group, left):
            for cell in group.feasible.tolist():
                self._give(group, cell, each, mean, quota)
            left -= each * len(group.feasible)
        while left > 0:
            cell, many = self._next(group, left, mean, price, tier)
            if cell < 0:
                break
            self._give(group, cell, many, mean, quota)
            left -= many
        return quota, left

    def _give(self, group: _Group, cell: int, many: int, mean: Floats, quota: Ints) -> None:
        quota[cell] += many
        self.free[cell] -= mean * many
        for number in group.matched:
            self.counts[number].matched[self.code[number][cell]] += many
        for number in group.carried:
            self.counts[number].carried[self.code[number][cell]] += many

    def _evenly(self, group: _Group, left: int) -> int:
        """How many every feasible cell may take at once: as many to each changes no difference that spread looks at,
        provided that the cells are the domains, one for one. 0 where anything else is at play.
        """
        numbers = {*group.carried, *group.matched}
        cells = group.feasible.tolist()
        if len(cells) < 2 or left < 4 * len(cells):
            return 0
        for number in numbers:
            term = self.counts[number]
            if term.term.kind is not TermKind.SPREAD:
                return 0
            codes = sorted(self.code[number][cell] for cell in cells)
            if codes != np.nonzero(term.eligible)[0].tolist():
                return 0
            level = term.matched[term.eligible]
            if number in group.carried and int(level.max() - level.min()) > term.term.max_skew:
                return 0
            if number in group.carried and len(codes) < term.term.min_domains:
                return 0
        return left // len(cells) - 1

    def _next(self, group: _Group, left: int, mean: Floats, price: Floats, tier: Floats) -> tuple[int, int]:
        """The cell that takes the next pods, and how many may go there at once."""
        best: tuple[float, float, float, int] | None = None
        limits = self._lowest(group)
        for cell in group.feasible.tolist():
            room = self._room(group, cell, limits)
            if room <= 0:
                continue
            fullness = 0.0
            for number in group.matched:
                term = self.counts[number]
                if term.term.kind is TermKind.SPREAD and (number not in group.carried or term.term.soft):
                    fullness += int(term.matched[self.code[number][cell]]) - limits[number]
            hosted = bool((self.free[cell] >= mean).all())
            if not hosted and not np.isfinite(price[cell]):
                continue
            cost = 0.0 if hosted else float(price[cell])
            fullness += 1e6 * sum(not self._awaited(number)[cell] for number in group.matched)
            key = (fullness, -1.0 if hosted else float(tier[cell]), cost, cell)
            if best is None or key < best:
                best = key
        if best is None:
            return -1, 0
        cell = best[3]
        return cell, max(1, min(left, self._room(group, cell, limits), self._step(group, cell, left, mean)))

    def _awaited(self, number: int) -> Bools:
        """Cells where all who must join the term's pods could follow; for other kinds of terms, all cells."""
        found = self._following.get(number)
        if found is None:
            found = np.ones(self.cells.count, np.bool_)
            if self.counts[number].term.kind is TermKind.AFFINITY:
                for one in self.state.classes.classes:
                    if number in one.carried:
                        found = found & self._feasible(one)[0]
            if not found.any():
                found = np.ones(self.cells.count, np.bool_)
            self._following[number] = found
        return found

    def _lowest(self, group: _Group) -> dict[int, int]:
        return {
            n: self.counts[n].lowest()
            for n in {*group.carried, *group.matched}
            if self.counts[n].term.kind is TermKind.SPREAD
        }

    def _step(self, group: _Group, cell: int, left: int, mean: Floats) -> int:
        """How many to place before looking again: all where nothing is to be balanced, a fair part at first else."""
        spreads = [n for n in {*group.matched, *group.carried} if self.counts[n].term.kind is TermKind.SPREAD]
        if not spreads:
            if any(self.counts[n].term.kind is TermKind.ANTI_AFFINITY for n in group.carried):
                return left
            hosted = np.floor((self.free[cell] / np.maximum(mean, 1e-9)).min()) if (mean > 0).any() else 0
            binding = any(self.counts[n].term.kind is TermKind.AFFINITY for n in group.carried)
            return left if binding or hosted < 1 else int(min(left, hosted))
        return 1

    def _room(self, group: _Group, cell: int, lowest: dict[int, int]) -> int:
        """How many more pods of the group this cell may have now."""
        room = 1 << 40
        for number in group.carried:
            term = self.counts[number]
            code = self.code[number][cell]
            itself = number in group.matched
            count = int(term.matched[code])
            kind = term.term.kind
            if kind is TermKind.SPREAD:
                if code == 0 or not term.eligible[code]:
                    return 0
                slack = term.term.max_skew + lowest[number] - count
                room = min(room, slack) if itself else (room if slack >= 0 else 0)
            elif kind is TermKind.AFFINITY:
                if code == 0 or (count == 0 and not (itself and not term.matched.any())):
                    return 0
            elif code != 0:
                if count > 0:
                    return 0
                room = min(room, 1) if itself else room
        for number in group.matched:
            term = self.counts[number]
            code = self.code[number][cell]
            if term.term.kind is TermKind.ANTI_AFFINITY and code != 0 and term.carried[code] > 0:
                return 0
        return room

    # --- which pods --------------------------------------------------------------------------------------------------
    def _hand_out(
        self,
        group: _Group,
        quota: Ints,
        portions: list[Portion],
        nowhere: list[tuple[PodClass, int]],
        left: int,
    ) -> None:
        """Split the cells' quotas among the classes: in proportion where classes are few, else one after the other."""
        where = np.nonzero(quota)[0].tolist()
        remaining = {cell: int(quota[cell]) for cell in where}
        order = sorted(group.members, key=lambda m: (-m[0].priority, -float(m[0].request[0]), m[0].number))
        for one, many in order:
            todo = min(many, sum(remaining.values()))
            taken = _apportioned(todo, remaining)
            for cell, part in taken.items():
                remaining[cell] -= part
            portions += [Portion(one, cell, n) for cell, n in taken.items() if n]
            if todo < many:
                nowhere.append((one, many - todo))


def _apportioned(many: int, quota: Mapping[int, int]) -> dict[int, int]:
    """So many pods split over cells in proportion to their quotas, what is left over to those furthest behind."""
    total = max(sum(quota.values()), 1)
    out = {cell: many * part // total for cell, part in quota.items()}
    rest = many - sum(out.values())
    for cell in sorted(quota, key=lambda c: (out[c] - many * quota[c] / total, -quota[c]))[:rest]:
        out[cell] += 1
    return out

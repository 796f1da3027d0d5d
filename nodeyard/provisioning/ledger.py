"""A finished draft as numbers, and numbers as a draft again: what a rework of its nodes reads and writes.

Pods that no constraint tells apart are one sort. Where a term over domains looks at them, each stays in the cell it is in,
or, if the term is a spread that binds all it counts, in any cell that keeps the balance. What a node has a whole number of
(of an anti-affinity one, of a spread over hosts its skew, of a host port one, of a volume driver its attachments) is room
like any other; where that would forbid what a node holds, or pods share a host or a volume on purpose, the node is left
alone. Neighbours: `reworking` decides.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from nodeyard.provisioning.classes import PodClass
from nodeyard.provisioning.columns import cheapest
from nodeyard.provisioning.domains import ANYWHERE, Cells, Portion, cells_of
from nodeyard.provisioning.field import Field
from nodeyard.provisioning.kinds import Attachments, attachments_left, own_volumes, settled_spreads
from nodeyard.provisioning.labelled import Bools, Floats, Ints
from nodeyard.provisioning.limits import Limits
from nodeyard.provisioning.lots import Bin
from nodeyard.provisioning.mending import Mender
from nodeyard.provisioning.pattern_program import Spread
from nodeyard.provisioning.seating import Seating, lone_terms
from nodeyard.provisioning.setting import Draft, Setting
from nodeyard.scheduling.topology import TermKind

_BALANCED = -2
_MOST_CELLS = 6
_MOST_HOSTS = 60
_BESIDE = 1.0 / 4096
"""Of an anti-affinity, what a pod takes that others keep off but that itself keeps nobody off."""


@dataclass(slots=True)
class Sort:
    """Pods that a rework need not tell apart. `cell`: where they must stay, `ANYWHERE`, or balanced over cells."""

    one: PodClass
    carried: tuple[int, ...]
    cell: int
    tier: int
    attached: tuple[tuple[str, int], ...]
    """(driver, volumes that a pod attaches), where nodes that stand count them."""
    members: dict[int, int] = field(default_factory=lambda: defaultdict(int))


class Ledger:
    """The draft's nodes as bins. Places are columns, and behind them standing nodes, which exist once and cost nothing."""

    def __init__(self, setting: Setting, draft: Draft) -> None:
        self.setting, self.draft, self.state = setting, draft, draft.state
        self.columns, self.hosts, self.terms = setting.columns, setting.hosts, setting.classes.terms
        self.first = Field(
            setting.problem, setting.classes, setting.columns, setting.hosts, setting.rules,
            setting.options.max_share_per_node,
        )  # fmt: skip
        self.cells: Cells = cells_of(self.first)
        self.settled = (
            settled_spreads(setting, self.first) if self.cells.count <= _MOST_CELLS else frozenset()
        )
        self.sorts: list[Sort] = []
        self.lots: list[tuple[int, int]] = []
        self.at: dict[tuple[int, int], int] = {}
        self.fixed: list[int] = []
        self.nodes: list[int] = []
        self._sort_out()
        self.shares = self._shares()
        self.bins: list[Bin] = []
        if self.sorts:
            self._places()
            self.bins = self._bins()

    # --- pods ---------------------------------------------------------------------------------------------------------
    def _sort_out(self) -> None:
        """Sorts and their lots; nodes whose pods share a host on purpose, or volumes that a node counts, stay."""
        found: dict[tuple[object, ...], int] = {}
        shared = {
            n for c in self.setting.classes.classes for n in self.draft.carried_of(c)
            if self.terms[n].per_host and self.terms[n].kind is TermKind.AFFINITY
        }  # fmt: skip
        own = own_volumes(self.setting, self.first)
        self.holding: dict[int, list[tuple[int, int, int]]] = {}
        for node, held in enumerate(self.state.contents):
            if not held:
                continue
            classes = [self.setting.classes.classes[n] for n in held]
            if any(
                shared & {*self.draft.carried_of(c), *c.matched}
                or (self.first.attached and not own.issuperset(c.attachments))
                for c in classes
            ):
                self.fixed.append(node)
                continue
            cell = self._cell(node)
            mine = []
            for one in classes:
                key, sort = self._sort_of(one, cell, self._tier(node))
                number = found.setdefault(key, len(self.sorts))
                if number == len(self.sorts):
                    self.sorts.append(sort)
                many = held[one.number]
                self.sorts[number].members[one.number] += many
                mine.append((number, cell if sort.cell != ANYWHERE else ANYWHERE, many))
            self.holding[node] = mine
        for number, sort in enumerate(self.sorts):
            for cell in range(self.cells.count) if sort.cell == _BALANCED else [sort.cell]:
                self.at[(number, cell)] = len(self.lots)
                self.lots.append((number, cell))

    def _cell(self, node: int) -> int:
        if node < self.hosts.count:
            return int(self.cells.of_host[node])
        return int(self.cells.of_column[self.state.column[node]])

    def _tier(self, node: int) -> int:
        return -1 if node < self.hosts.count else int(self.columns.tier[self.state.column[node]])

    def _sort_of(self, one: PodClass, cell: int, tier: int) -> tuple[tuple[object, ...], Sort]:
        carried = self.draft.carried_of(one)
        seen = self.draft.view_of(one)
        there = {n for n in (*carried, *one.soft, *one.matched) if n in self.first.by_domain}
        if not there:
            cell = ANYWHERE
        elif there <= self.settled and there <= set(carried):
            cell = _BALANCED
        share = one.workload if one.workload in self.first.share else ""
        near = lone_terms(self.first, carried, one.matched)
        soft = tuple(n for n in one.soft if n in self.first.at)
        over = carried if cell == _BALANCED else ()
        terms = (*map(frozenset, near), soft, over)
        drivers = Counter(driver for driver, _ in one.attachments) if self.first.attached else {}
        attached = tuple(sorted(drivers.items()))
        key = (seen.rule, one.ports, one.request.tobytes(), *terms, share, cell, tier, attached)
        return key, Sort(seen, carried, cell, tier, attached)

    # --- what a node has a whole number of ------------------------------------------------------------------------------
    def _shares(self) -> list[tuple[object, Floats, float]]:
        """(name, units per sort, of a new node)."""
        units: dict[object, Floats] = {}

        def add(name: object, sort: int, many: float) -> None:
            units.setdefault(name, np.zeros(len(self.sorts)))[sort] = many

        borne = {n for s in self.sorts for n in s.carried if n in self.first.at}
        lone = {n for n in borne if self._only_lone(n)}
        for i, sort in enumerate(self.sorts):
            for number in borne & {*sort.carried, *sort.one.matched}:
                if self.terms[number].kind is TermKind.SPREAD:
                    if number in sort.carried and number in sort.one.matched:
                        add(number, i, 1.0)
                elif self.terms[number].kind is TermKind.ANTI_AFFINITY:
                    add(
                        number,
                        i,
                        1.0 if number in (sort.one.matched if number in lone else sort.carried) else _BESIDE,
                    )
            for port in sort.one.ports:
                add((port.protocol, port.port), i, 1.0)
            for driver, many in sort.attached:
                add(Attachments(driver), i, float(many))
            if sort.one.workload in self.first.share:
                add(sort.one.workload, i, 1.0)
        return [(name, each, self._whole(name)) for name, each in units.items()]

    def _only_lone(self, number: int) -> bool:
        """Whether no node has two of the pods that a term counts, whatever else it has: then they may take all of what a node
        has of it, and its bearers, however many, what is next to nothing.
        """
        counted = [s for s in self.sorts if number in s.one.matched]
        anti = TermKind.ANTI_AFFINITY
        return bool(counted) and all(
            any(n in self.first.at and self.terms[n].kind is anti for n in {*s.carried} & {*s.one.matched})
            for s in counted
        )

    def _whole(self, name: object) -> float:
        if isinstance(name, int):
            term = self.terms[name]
            return float(term.max_skew) if term.kind is TermKind.SPREAD else 1.0
        if isinstance(
            name, Attachments
        ):  # as many as anybody needs: a node's room is divided by the largest there is
            return float(sum(len(c.attachments) for c in self.setting.classes.classes))
        return float(self.first.share[name][0]) if isinstance(name, str) else 1.0

    def _left_on_columns(self, name: object, whole: float) -> Floats:
        out = np.full(self.columns.count, whole)
        at = self.first.at.get(name) if isinstance(name, int) else None
        if at is None:
            return out
        for there, (matches, carries) in self.first.daemon_matched:
            if self.terms[int(str(name))].kind is TermKind.SPREAD:
                out[there] -= matches[at]
            elif matches[at] or carries[at]:
                out[there] = 0.0
        left: Floats = np.maximum(out, 0.0)
        return left

    def _left_on_hosts(self, name: object, whole: float) -> Floats:
        count, first = self.hosts.count, self.first
        out = np.full(count, whole)
        if isinstance(name, str):
            return np.maximum(out - first.share[name][1][:count], 0.0)
        if isinstance(name, int):
            at = first.at[name]
            if self.terms[name].kind is TermKind.SPREAD:
                return np.maximum(out - first.matched[:count, at], 0.0)
            return np.where((first.matched[:count, at] > 0) | (first.carried[:count, at] > 0), 0.0, out)
        if isinstance(name, Attachments):
            left: Floats = np.minimum(out, attachments_left(self.setting, first, name.driver))
            return left
        for node, ports in first.ports.items():
            if any((p.protocol, p.port) == name for p in ports):
                out[node] = 0.0
        return out

    # --- places -------------------------------------------------------------------------------------------------------
    def _places(self) -> None:
        """Room, cost and use of every place worth having, and which lots may go there."""
        columns, limits = self.columns, self.draft.limits
        each = [self._masks(sort) for sort in self.sorts]
        sort_of = [i for i, _ in self.lots]
        on_columns = np.array([each[i][0] & self._in_cell(self.cells.of_column, c) for i, c in self.lots])
        on_hosts = np.array([each[i][1] & self._in_cell(self.cells.of_host, c) for i, c in self.lots])
        units = np.array([u for _, u, _ in self.shares]).reshape(len(self.shares), len(self.sorts)).T
        self.request: Floats = np.concatenate(
            [np.array([s.one.request for s in self.sorts])[sort_of], units[sort_of]], axis=1
        )
        used = np.nonzero(on_columns.any(axis=0))[0]
        used = used[cheapest(columns, on_columns[:, used], used)]
        spare = [self._left_on_columns(name, whole) for name, _, whole in self.shares]
        room = np.concatenate([columns.room[used], *(s[used, None] for s in spare)], axis=1)
        allowed = on_columns[:, used] & _holds(self.request, room)
        own = np.isin(used, [self.state.column[n] for n in self.holding if n >= self.hosts.count])
        kept = _undominated(room, columns.cost[used], allowed, limits.use[used], own)
        hosts = np.nonzero(on_hosts.any(axis=0) & self.hosts.open)[0][:_MOST_HOSTS]
        left = [self._left_on_hosts(name, whole) for name, _, whole in self.shares]
        host_room = np.concatenate([self.hosts.room[hosts], *(s[hosts, None] for s in left)], axis=1)
        self.place: Ints = np.concatenate([used[kept], -1 - hosts])
        self.room: Floats = np.concatenate([room[kept], host_room])
        self.cost: Floats = np.concatenate([columns.cost[used[kept]], np.zeros(len(hosts))])
        self.use: Floats = np.concatenate(
            [limits.use[used[kept]], np.zeros((len(hosts), limits.use.shape[1]))]
        )
        self.allowed: Bools = np.concatenate(
            [allowed[:, kept], on_hosts[:, hosts] & _holds(self.request, host_room)], axis=1
        )

    def _masks(self, sort: Sort) -> tuple[Bools, Bools]:
        """(columns, hosts) that take pods of the sort, by all that other pods of this plan don't change."""
        columns, one = self.columns, sort.one
        mask = self.setting.rules.on_columns(one)
        if sort.tier >= 0:
            mask = mask & (columns.tier == sort.tier)
        if not columns.flexible.all():
            able = columns.flexible & mask & (columns.room >= one.request).all(axis=1)
            mask = mask & columns.flexible if able.any() else mask
        if not self.hosts.count:
            return mask, np.zeros(0, np.bool_)
        carried = [n for n in sort.carried if n in self.first.at]
        return mask, self.first.capacity(one, carried) > 0

    def _in_cell(self, cells: Ints, cell: int) -> Bools:
        return np.ones(len(cells), np.bool_) if cell == ANYWHERE else cells == cell

    # --- nodes --------------------------------------------------------------------------------------------------------
    def _bins(self) -> list[Bin]:
        """The nodes that may be reworked; the others are fixed."""
        at_host = {-1 - int(p): i for i, p in enumerate(self.place) if p < 0}
        columns = np.nonzero(self.place >= 0)[0]
        out = []
        for node, mine in self.holding.items():
            held: Counter[int] = Counter()
            for sort, cell, many in mine:
                held[self.at[(sort, cell)]] += many
            lots, counts = np.array(list(held)), np.array(list(held.values()))
            place = (
                at_host.pop(node, -1) if node < self.hosts.count else self._like(node, lots, counts, columns)
            )
            load = counts @ self.request[lots]
            if place < 0 or not self.allowed[lots, place].all() or (load > self.room[place] + 1e-6).any():
                self.fixed.append(node)
                continue
            self.nodes.append(node)
            out.append(Bin(place, lots, counts))
        nothing = np.zeros(0, np.int64)
        for host, place in at_host.items():
            if not self.state.contents[host]:
                self.nodes.append(host)
                out.append(Bin(place, nothing, nothing))
        return out

    def _like(self, node: int, lots: Ints, counts: Ints, columns: Ints) -> int:
        """The cheapest place that is like the node's column: no dearer, of no more use of limits, with room."""
        column = int(self.state.column[node])
        load = counts @ self.request[lots]
        able = columns[self.allowed[np.ix_(lots, columns)].all(axis=0)]
        able = able[(self.room[able] >= load - 1e-6).all(axis=1)]
        able = able[(self.use[able] <= self.draft.limits.use[column] + 1e-9).all(axis=1)]
        able = able[self.cost[able] <= self.columns.cost[column] + 1e-9]
        return int(able[np.argmin(self.cost[able])]) if len(able) else -1

    def spreads(self, lots: Ints, taken: Sequence[Bin]) -> list[Spread]:
        """The balances that these lots take part in, while the pods of the bins `taken` are in the air."""
        out = []
        numbers = {n for lot in lots.tolist() for n in self._balanced(lot)}
        for number in sorted(numbers):
            term = self.first.by_domain[number]
            at = self.cells.keys.index(term.term.key)
            eligible = np.nonzero(term.eligible)[0].tolist()
            now = self.counts[number].copy()
            for one in taken:
                for lot, many in zip(one.lots.tolist(), one.counts.tolist(), strict=True):
                    if number in self._balanced(lot):
                        now[self.cells.codes[self.lots[lot][1], at]] -= many
            mine = [
                [i for i, lot in enumerate(lots.tolist())
                 if number in self._balanced(lot) and self.cells.codes[self.lots[lot][1], at] == d]
                for d in eligible
            ]  # fmt: skip
            few = len(eligible) < term.term.min_domains
            out.append(Spread(term.term.max_skew, mine, [int(now[d]) for d in eligible], few))
        return out

    def _balanced(self, lot: int) -> list[int]:
        sort = self.sorts[self.lots[lot][0]]
        return [n for n in sort.carried if n in self.settled] if sort.cell == _BALANCED else []

    def settle(self, bins: Sequence[Bin]) -> None:
        """Count the bins' pods per domain, for `spreads`."""
        self.counts = {n: self.state.by_domain[n].matched.copy() for n in self.settled}
        for bins_now, sign in ((self.bins, -1), (bins, 1)):
            for one in bins_now:
                for lot, many in zip(one.lots.tolist(), one.counts.tolist(), strict=True):
                    for number in self._balanced(lot):
                        at = self.cells.keys.index(self.first.by_domain[number].term.key)
                        self.counts[number][self.cells.codes[self.lots[lot][1], at]] += sign * many

    # --- and back -------------------------------------------------------------------------------------------------------
    def drafted(self, bins: Sequence[Bin]) -> Draft | None:
        """The draft with these bins for its nodes; None if anything in it turns out not to hold."""
        setting, old = self.setting, self.state
        state = Field(
            setting.problem, setting.classes, setting.columns, setting.hosts, setting.rules,
            setting.options.max_share_per_node,
        )  # fmt: skip
        limits = Limits(setting.columns, setting.hosts)
        for node in self.fixed:
            self._copied(old, node, state, limits)
        if not self._seated(state, limits, bins):
            return None
        if (limits.left < np.minimum(self.draft.limits.left, 0) - 1e-6).any():
            return None
        if not self._balanced_as_before(state):
            return None
        bought = state.column[[n for n in range(self.hosts.count, state.count) if state.contents[n]]]
        return replace(self.draft, state=state, limits=limits, cost=float(self.columns.cost[bought].sum()))

    def _bought(self, state: Field, limits: Limits, column: int) -> int:
        limits.spend(column)
        return int(state.add_nodes(np.array([column]))[0])

    def _copied(self, old: Field, node: int, state: Field, limits: Limits) -> None:
        here = node if node < self.hosts.count else self._bought(state, limits, int(old.column[node]))
        for number, many in old.contents[node].items():
            one = self.setting.classes.classes[number]
            state.place(one, self.draft.carried_of(one), np.array([here]), np.array([many]))

    def _seated(self, state: Field, limits: Limits, bins: Sequence[Bin]) -> bool:
        """Whether all pods of the sorts have a place, on the bins' nodes or where they fit."""
        used = [one for one in bins if len(one.lots)]
        used.sort(key=lambda b: (self.place[b.column] >= 0, -self.cost[b.column]))
        nodes = [
            -1 - at if (at := int(self.place[b.column])) < 0 else self._bought(state, limits, at)
            for b in used
        ]
        wanted = np.zeros(len(self.lots), np.int64)
        for one in used:
            wanted[one.lots] += one.counts
        queues = self._queues(wanted)
        Seating(state, self.draft.carried_of, used, np.array(nodes, np.int64), queues, judged=True).run()
        return all(self._taken(p, state, limits) for queue in queues for p in queue)

    def _queues(self, wanted: Ints) -> list[list[Portion]]:
        """Per lot, the pods that are to come there; what the lots of a sort don't ask for waits in its last one."""
        queues: list[list[Portion]] = [[] for _ in self.lots]
        waiting = [list(sort.members.items()) for sort in self.sorts]
        last = {sort: lot for lot, (sort, _) in enumerate(self.lots)}
        for lot, (sort, cell) in enumerate(self.lots):
            open_, left = waiting[sort], int(wanted[lot])
            while open_ and (left or lot == last[sort]):
                number, many = open_.pop()
                part = many if lot == last[sort] else min(many, left)
                queues[lot].append(Portion(self.setting.classes.classes[number], cell, part))
                left -= part
                if part < many:
                    open_.append((number, many - part))
        return queues

    def _taken(self, portion: Portion, state: Field, limits: Limits) -> bool:
        """Whether pods that found no place on the bins' nodes find one elsewhere in their cell."""
        if not portion.count:
            return True
        mender = Mender(
            state, limits, self.setting.effort.total, new_nodes=self.setting.problem.allow_new_nodes
        )
        if portion.cell != ANYWHERE:
            mender.cells = self.cells.of_host == portion.cell, self.cells.of_column == portion.cell
        return not mender.place(portion.one, self.draft.carried_of(portion.one), portion.count)

    def _balanced_as_before(self, state: Field) -> bool:
        """Whether every count over domains is what it was, or a spread that holds."""
        for number, was in self.state.by_domain.items():
            now = state.by_domain[number]
            same = (now.matched == was.matched).all() and (now.carried == was.carried).all()
            if same:
                continue
            if number not in self.settled:
                return False
            if int(now.matched[now.eligible].max()) - now.lowest() > now.term.max_skew:
                return False
        return True


def _holds(request: Floats, room: Floats) -> Bools:
    """[lot, place]: one pod fits."""
    rows, member = np.unique(request, axis=0, return_inverse=True)
    fits = np.array([(room >= row - 1e-9).all(axis=1) for row in rows]).reshape(len(rows), len(room))
    out: Bools = fits[member.reshape(-1)]
    return out


def _undominated(room: Floats, cost: Floats, allowed: Bools, use: Floats, own: Bools) -> Ints:
    """Columns that no cheaper one with as much room, all the same lots and no more use of limits beats."""
    signs, sign = np.unique(np.packbits(allowed, axis=0).T, axis=0, return_inverse=True)
    sign = sign.reshape(-1)
    within = np.array([((signs & row) == row).all(axis=1) for row in signs])  # [of, by]
    kept: list[int] = []
    for i in np.lexsort((-room.sum(axis=1), cost)).tolist():
        if not signs[sign[i]].any():
            continue
        others = np.array(kept, np.int64)
        others = others[within[sign[i], sign[others]]] if len(others) else others
        beaten = (room[others] >= room[i] - 1e-9).all(axis=1) & (use[others] <= use[i] + 1e-9).all(axis=1)
        if own[i] or not beaten.any():
            kept.append(i)
    return np.array(sorted(kept), np.int64)

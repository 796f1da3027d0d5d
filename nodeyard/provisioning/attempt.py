"""One attempt at a plan: classes dealt to domains, standing nodes filled, new nodes packed, the rest mended.

An attempt treats each term as hard or not at all; the planner makes several with different preferences honoured and
keeps the best. Everything it decides goes through `field`, which keeps the counts true. Neighbours: `domains`,
`packing`, `mending`, `limits`.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nodeyard.provisioning.classes import Classes, PodClass
from nodeyard.provisioning.columns import Columns
from nodeyard.provisioning.domains import ANYWHERE, Cells, Dealer, Portion, cells_of
from nodeyard.provisioning.field import Field, Rules
from nodeyard.provisioning.hosts import Hosts
from nodeyard.provisioning.labelled import Bools, Floats, Ints, NodeRule
from nodeyard.provisioning.limits import Limits
from nodeyard.provisioning.lots import Lots, Shop
from nodeyard.provisioning.mending import Mender
from nodeyard.provisioning.model import Options, Problem
from nodeyard.provisioning.packing import Packed, Packer
from nodeyard.scheduling.topology import TermKind

Carried = Callable[[PodClass], tuple[int, ...]]


@dataclass(slots=True, frozen=True)
class Honour:
    """Which preferences count as if they were required."""

    affinity: bool = False
    anti_affinity: bool = False
    spread: bool = False
    node: bool = False


ALL = Honour(True, True, True, True)
NONE = Honour()
_UNLIMITED = 1e9
_FEW = 200
_FEW_NODES = 40


@dataclass(slots=True)
class Setting:
    """What every attempt at a problem shares."""

    problem: Problem
    options: Options
    classes: Classes
    columns: Columns
    hosts: Hosts
    rules: Rules


@dataclass(slots=True)
class Draft:
    """What an attempt came to. `left`: class number -> pods without a place."""

    state: Field
    limits: Limits
    left: dict[int, int]
    carried_of: Carried
    view_of: Callable[[PodClass], PodClass]
    """The class as the attempt saw it: with the preferred node terms it honoured among its rules."""
    cost: float = 0.0

    @property
    def unplaced(self) -> int:
        return sum(self.left.values())


@dataclass(slots=True)
class _Lot:
    """Portions that packing need not tell apart."""

    portions: list[Portion]
    mask: Bools
    most: float
    carries: frozenset[object]
    matches: frozenset[object]


@dataclass(slots=True, frozen=True)
class _Share:
    """At most so many of a workload's pods on one node."""

    workload: str
    most: int


class Attempt:
    """`stages`: preferences honoured at first, and then for the pods that found no place so. `spare`: seconds that may
    still be spent on improving; `total_spare`: until the deadline.
    """

    def __init__(
        self,
        setting: Setting,
        stages: Sequence[Honour],
        spare: Callable[[], float],
        total_spare: Callable[[], float],
        exact: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.exact = exact
        self.setting, self.stages, self.honour = setting, stages, stages[0]
        self.spare, self.total_spare = spare, total_spare
        self.problem, self.classes, self.columns = setting.problem, setting.classes, setting.columns
        self.hosts, self.rules = setting.hosts, setting.rules
        self.state = Field(
            setting.problem, setting.classes, setting.columns, setting.hosts, setting.rules,
            setting.options.max_share_per_node,
        )  # fmt: skip
        self.limits = Limits(setting.columns, setting.hosts)
        self.cells: Cells = cells_of(self.state)
        self.new_nodes = setting.problem.allow_new_nodes and setting.columns.count > 0

    def carried_of(self, one: PodClass) -> tuple[int, ...]:
        """Terms that bind the class in this stage."""
        if not one.soft or self.honour == NONE:
            return one.carried
        return one.carried + tuple(n for n in one.soft if self._honoured(n))

    def _honoured(self, number: int) -> bool:
        kind = self.classes.terms[number].kind
        if kind is TermKind.SPREAD:
            return self.honour.spread
        return self.honour.affinity if kind is TermKind.AFFINITY else self.honour.anti_affinity

    def run(self) -> Draft:
        """Place every class, stage by stage."""
        left = {c.number: c.demand for c in self.classes.classes}
        for number, stage in enumerate(self.stages):
            self.honour = stage
            left = self._stage(left, last=number == len(self.stages) - 1)
            if not left:
                break
        self.honour = self.stages[0]  # merging must not give up what the first stage kept
        self._merge()
        self._repair(left)
        left = {n: m for n, m in left.items() if m > 0}
        used = self.state.column[
            [n for n in range(self.hosts.count, self.state.count) if self.state.contents[n]]
        ]
        cost = float(self.columns.cost[used].sum()) if len(used) else 0.0
        return Draft(self.state, self.limits, left, self.carried_of, self._view, cost)

    def _stage(self, waiting: dict[int, int], *, last: bool) -> dict[int, int]:
        """Place what waits with the present stage's preferences honoured; returns what is left."""
        demand = [(self._view(self.classes.classes[n]), many) for n, many in waiting.items() if many > 0]
        together = [one for one, _ in demand if self._shares_host(one)]
        dealer = Dealer(self.state, self.cells, self.carried_of, self.new_nodes)
        portions, nowhere = dealer.deal(demand)
        left: dict[int, int] = defaultdict(int)
        for one, many in nowhere:
            left[one.number] += many
        apart = {c.number for c in together}
        dealt: dict[int, list[int]] = defaultdict(list)
        for portion in portions:
            if portion.one.number in apart:
                left[portion.one.number] += portion.count
                dealt[portion.one.number].append(portion.cell)
        portions = [p for p in portions if p.one.number not in apart]
        if together:  # hosts shared with others are found first for those that need a whole one
            self._mend_hosts_first(together, left, dealt)
            portions = self._gather(together, left, portions, dealt)
        for level in self._levels(portions):
            rest = self.fill(level, 0, self.state.count)
            if self.new_nodes:
                rest = self._pack(rest)
            for portion in rest:
                left[portion.one.number] += portion.count
        if last or sum(left.values()) <= _FEW:
            self._mend(left)
        return {n: m for n, m in left.items() if m > 0}

    def _view(self, one: PodClass) -> PodClass:
        """The class with its preferred node terms, heaviest first, made required as far as some column keeps them."""
        if not one.preferred or not self.honour.node or not self.columns.count:
            return one
        seen = one
        for preference in sorted(one.preferred, key=lambda p: -p.weight):
            rule = NodeRule(
                seen.rule.selector, seen.rule.required, seen.rule.tolerations,
                (*seen.rule.reach, (preference.preference,)),
            )  # fmt: skip
            narrowed = replace(seen, rule=rule)
            if (self.rules.on_columns(narrowed) & (self.columns.room >= one.request).all(axis=1)).any():
                seen = narrowed
        return seen

    def _shares_host(self, one: PodClass) -> bool:
        return any(
            n in self.state.at and self.classes.terms[n].kind is TermKind.AFFINITY
            for n in self.carried_of(one)
        )

    def _levels(self, portions: list[Portion]) -> list[list[Portion]]:
        """Portions by falling priority where limits make it matter who comes first; else all at once."""
        if not self.limits.any and self.new_nodes:
            return [portions]
        levels: dict[int, list[Portion]] = defaultdict(list)
        for portion in portions:
            levels[portion.one.priority].append(portion)
        return [levels[p] for p in sorted(levels, reverse=True)]

    # --- nodes that are there -----------------------------------------------------------------------------------------
    def fill(self, portions: list[Portion], first: int, last: int) -> list[Portion]:
        """Put portions on the nodes from `first` to `last`; returns what found no room there."""
        if first >= last or (last <= self.hosts.count and not self.hosts.open.any()):
            return portions
        state = self.state
        scale = np.maximum(state.room[first:last].max(axis=0), 1.0)
        choice = {p.one.rule: int(self.rules.on_hosts(p.one.rule).sum()) for p in portions}
        order = sorted(
            portions,
            key=lambda p: (
                -p.one.priority, choice[p.one.rule], -float((p.one.request / scale).max()), p.one.number,
            ),
        )  # fmt: skip
        rest = []
        for portion in order:
            carried = self.carried_of(portion.one)
            room = state.capacity(portion.one, carried, first=first)[:last]
            if portion.cell != ANYWHERE:
                room = room * (self._cell_of_nodes(last) == portion.cell)
            able = np.nonzero(room)[0]
            many = 0
            if len(able):
                ahead = np.cumsum(room[able]) - room[able]
                given = np.clip(portion.count - ahead, 0, room[able])
                used = given > 0
                many = int(given.sum())
                state.place(portion.one, carried, able[used], given[used])
            if many < portion.count:
                rest.append(Portion(portion.one, portion.cell, portion.count - many))
        return rest

    def _cell_of_nodes(self, last: int) -> Ints:
        out = np.empty(last, np.int64)
        h = self.hosts.count
        out[: min(h, last)] = self.cells.of_host[: min(h, last)]
        if last > h:
            out[h:] = self.cells.of_column[self.state.column[h:last]]
        return out

    # --- new nodes ------------------------------------------------------------------------------------------------------
    def _pack(self, portions: list[Portion]) -> list[Portion]:
        """Buy nodes for the portions; returns what no pool can take (any more)."""
        rest = portions
        before = -1
        while rest:
            count = sum(p.count for p in rest)
            if count == before:
                break
            before = count
            first = self.state.count
            rest, impossible = self._buy(rest)
            if rest:
                rest = self.fill(rest, self.hosts.count, self.state.count)
            rest = self.fill(rest, first, self.state.count) if rest else rest
            if impossible and not rest:
                return impossible
            rest += impossible
            if not self.limits.any:
                break
        return rest

    def _buy(self, portions: list[Portion]) -> tuple[list[Portion], list[Portion]]:
        lots, impossible = self._lots(portions)
        if not lots:
            return [], impossible
        shop, chosen, packed_lots = self._shop(lots)
        packer = Packer(packed_lots, shop, self.spare, exact_s=self.exact)
        packed = packer.run()
        rest = self._commit(lots, packed, chosen)
        return rest, impossible

    def _lots(self, portions: list[Portion]) -> tuple[list[_Lot], list[Portion]]:
        affordable = self.limits.affordable()
        private = self._private_terms(portions)
        lots: dict[tuple[object, ...], _Lot] = {}
        impossible: list[Portion] = []
        masks: dict[tuple[object, ...], Bools | None] = {}
        for portion in portions:
            one = portion.one
            where = (one.rule, one.ports, portion.cell, one.request.tobytes())
            if where not in masks:
                masks[where] = self._usable(one, portion.cell, affordable)
            mask = masks[where]
            if mask is None:
                impossible.append(portion)
                continue
            most, carries, matches = self._per_node(one, private)
            key = (*where, most, carries, matches)
            lot = lots.get(key)
            if lot is None:
                lots[key] = _Lot([portion], mask, most, carries, matches)
            else:
                lot.portions.append(portion)
        return list(lots.values()), impossible

    def _usable(self, one: PodClass, cell: int, affordable: Bools) -> Bools | None:
        """Columns of the best tier that can take a pod of the class in the cell; None if no tier can."""
        mask = self.rules.on_columns(one) & affordable
        if cell != ANYWHERE:
            mask = mask & (self.cells.of_column == cell)
        able = mask & (self.columns.room >= one.request).all(axis=1)
        for number in (*self.carried_of(one), *one.matched):
            i = self.state.at.get(number)
            if i is not None and self.classes.terms[number].kind is TermKind.ANTI_AFFINITY:
                for there, (matches, carries) in self.state.daemon_matched:
                    if (number in self.carried_of(one) and matches[i]) or (
                        number in one.matched and carries[i]
                    ):
                        mask, able = mask & ~there, able & ~there
        if not able.any():
            return None
        if not self.columns.flexible.all() and (able & self.columns.flexible).any():
            mask, able = mask & self.columns.flexible, able & self.columns.flexible
        if len(self.columns.tiers) > 1:
            mask = mask & (self.columns.tier == self.columns.tier[able].min())
        return mask

    def _private_terms(self, portions: list[Portion]) -> set[object]:
        """Per-node terms whose every bearer and match in one cell is one class: a cap says all there is to say."""
        seen: dict[object, dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
        for portion in portions:
            for number in {*self.carried_of(portion.one), *portion.one.matched}:
                if number in self.state.at:
                    seen[number][portion.cell].add(portion.one.number)
            for port in portion.one.ports:
                seen[(port.protocol, port.port)][portion.cell].add(portion.one.number)
            if (cap := self.state.share_cap(portion.one)) is not None:
                seen[_Share(portion.one.workload, cap)][portion.cell].add(portion.one.number)
        return {
            name
            for name, cells in seen.items()
            if all(len(c) == 1 for c in cells.values()) and (ANYWHERE not in cells or len(cells) == 1)
        }

    def _per_node(
        self, one: PodClass, private: set[object]
    ) -> tuple[float, frozenset[object], frozenset[object]]:
        most = _UNLIMITED
        carried = {n for n in self.carried_of(one) if n in self.state.at}
        matched = {n for n in one.matched if n in self.state.at}
        for number in carried & matched:
            term = self.classes.terms[number]
            most = min(most, 1.0 if term.kind is TermKind.ANTI_AFFINITY else float(term.max_skew))
        ports: set[object] = {(p.protocol, p.port) for p in one.ports}
        if ports:
            most = 1.0
        if (cap := self.state.share_cap(one)) is not None:
            most = min(most, float(cap))
            ports.add(_Share(one.workload, cap))
        shared_ports = ports - private
        return (
            most,
            frozenset((carried - private) | shared_ports),
            frozenset((matched - private) | shared_ports),
        )

    def _shop(self, lots: list[_Lot]) -> tuple[Shop, Ints, Lots]:
        """The distinct things on sale: of columns that no lot and no room tells apart, only the cheapest."""
        rows: dict[bytes, int] = {}
        unique: list[Bools] = []
        mask_of = np.zeros(len(lots), np.int64)
        for i, lot in enumerate(lots):
            packed = np.packbits(lot.mask).tobytes()
            if packed not in rows:
                rows[packed] = len(unique)
                unique.append(lot.mask)
            mask_of[i] = rows[packed]
        masks = np.array(unique)
        chosen = _representatives(self.columns, masks)
        names = sorted({n for lot in lots for n in lot.carries | lot.matches}, key=str)
        borne = [n for n in names if any(n in lot.carries for lot in lots)]
        ceiling = np.array([self._ceiling(n) for n in borne], np.int64)
        shop = Shop(
            self.columns.room[chosen], self.columns.cost[chosen], self.limits.use[chosen], self.limits.left
        )
        packed_lots = Lots(
            np.array([lot.portions[0].one.request for lot in lots]),
            np.array([sum(p.count for p in lot.portions) for lot in lots], np.int64),
            mask_of,
            masks[:, chosen],
            np.array([lot.most for lot in lots]),
            np.array([[n in lot.carries for n in borne] for lot in lots], np.bool_).reshape(
                len(lots), len(borne)
            ),
            np.array([[n in lot.matches for n in borne] for lot in lots], np.bool_).reshape(
                len(lots), len(borne)
            ),
            ceiling,
        )
        return shop, chosen, packed_lots

    def _ceiling(self, name: object) -> int:
        if isinstance(name, _Share):
            return name.most
        if not isinstance(name, int):
            return 0
        term = self.classes.terms[name]
        return term.max_skew if term.kind is TermKind.SPREAD else 0

    def _commit(self, lots: list[_Lot], packed: Packed, chosen: Ints) -> list[Portion]:
        """Make the packed nodes real, and hand the lots' pods back to their classes."""
        state, bins = self.state, packed.bins
        if bins:
            columns = chosen[np.array([b.column for b in bins], np.int64)]
            first = int(state.add_nodes(columns)[0])
            self.limits.spend_all(columns)
        queues: list[list[tuple[Portion, int]]] = [[(p, p.count) for p in lot.portions] for lot in lots]
        given: dict[int, tuple[PodClass, list[int], list[int]]] = {}
        for i, one_bin in enumerate(bins):
            for lot, count in zip(one_bin.lots.tolist(), one_bin.counts.tolist(), strict=True):
                queue = queues[lot]
                while count:
                    portion, left = queue[-1]
                    part = min(count, left)
                    one = portion.one
                    _, nodes, counts = given.setdefault(one.number, (one, [], []))
                    nodes.append(first + i)
                    counts.append(part)
                    count -= part
                    if part == left:
                        queue.pop()
                    else:
                        queue[-1] = (portion, left - part)
        for one, nodes, counts in given.values():
            self._place(one, nodes, counts)
        return [Portion(p.one, p.cell, left) for queue in queues for p, left in queue]

    def _place(self, one: PodClass, nodes: list[int], counts: list[int]) -> None:
        where, member = np.unique(np.array(nodes, np.int64), return_inverse=True)
        amounts = np.bincount(member.reshape(-1), counts, len(where)).astype(np.int64)
        self.state.place(one, self.carried_of(one), where, amounts)

    def _merge(self) -> None:
        """Where nodes are few: drop each whose pods all find room on the others, the dearest first."""
        first, state = self.hosts.count, self.state
        if not 1 <= state.count - first <= _FEW_NODES:
            return
        nodes = [n for n in range(first, state.count) if state.contents[n]]
        for node in sorted(nodes, key=lambda n: -float(self.columns.cost[state.column[n]])):
            if self.total_spare() <= 0:
                return
            held = [(self.classes.classes[number], many) for number, many in state.contents[node].items()]
            if any(one.attachments or self._shares_host(one) for one, _ in held):
                continue
            before = state.saved()
            for one, many in held:
                state.place(one, self.carried_of(one), np.array([node]), np.array([-many]))
            state.contents[node].clear()
            state.ports.pop(node, None)
            mender = Mender(state, self.limits, self.total_spare, new_nodes=False)
            mender.closed = node
            if any(mender.place(one, self.carried_of(one), many) for one, many in held):
                state.restore(before)
            else:
                self.limits.give_back(int(state.column[node]))

    def _repair(self, left: dict[int, int]) -> None:
        """Take back pods whose domain came out too full, because pods counted on elsewhere found no place there, and
        place them anew where they may go.
        """
        mender = Mender(self.state, self.limits, self.total_spare, new_nodes=self.new_nodes)
        for _ in range(4):
            moved = False
            for number in list(self.state.by_domain):
                for one, many in self._overfull(number):
                    moved = True
                    mender.cells = self._emptier(number)
                    rest = mender.place(one, one.carried, many)
                    mender.cells = None
                    left[one.number] = left.get(one.number, 0) + mender.place(one, one.carried, rest)
            if not moved:
                return

    def _emptier(self, number: int) -> tuple[Bools, Bools]:
        """(hosts, columns) in domains that may take one more pod of a spread term."""
        state, term = self.state, self.state.by_domain[number]
        room = term.matched - term.lowest() < term.term.max_skew
        key = term.term.key
        return room[state.domain[key][: self.hosts.count]], room[state.column_domain[key]]

    def _overfull(self, number: int) -> list[tuple[PodClass, int]]:
        """Pods taken back from domains that hold more than a hard spread term allows."""
        domain = self.state.by_domain[number]
        term = domain.term
        taken: list[tuple[PodClass, int]] = []
        if term.kind is not TermKind.SPREAD or term.soft:
            return taken
        for code in np.nonzero(domain.matched - domain.lowest() > term.max_skew)[0].tolist():
            excess = int(domain.matched[code]) - domain.lowest() - term.max_skew
            if self._borne_in(number, code):
                taken += self._take_back(number, code, excess)
        return taken

    def _borne_in(self, number: int, code: int) -> bool:
        """Whether pods that this plan places bear the term in the domain."""
        state = self.state
        nodes = np.nonzero(state.domain[state.by_domain[number].term.key][: state.count] == code)[0]
        return any(
            number in self.classes.classes[held].carried
            for node in nodes.tolist()
            for held in state.contents[node]
        )

    def _take_back(self, number: int, code: int, excess: int) -> list[tuple[PodClass, int]]:
        """Up to `excess` pods that the term counts in the domain; those that bear it first."""
        state = self.state
        taken: list[tuple[PodClass, int]] = []
        where = np.nonzero(state.domain[state.by_domain[number].term.key][: state.count] == code)[0]
        for bearing in (True, False):
            for node in where.tolist()[::-1]:
                for held, many in list(state.contents[node].items()):
                    one = self.classes.classes[held]
                    apt = number in one.matched and (number in one.carried) == bearing and not one.ports
                    if excess <= 0 or not apt or self._shares_host(one):
                        continue
                    back = min(many, excess)
                    state.place(one, one.carried, np.array([node]), np.array([-back]))
                    if not state.contents[node][held]:
                        del state.contents[node][held]
                    taken.append((one, back))
                    excess -= back
        return taken

    # --- one by one -----------------------------------------------------------------------------------------------------
    def _in_cells(self, cells: list[int]) -> tuple[Bools, Bools] | None:
        """(hosts, columns) of the cells a class was dealt to; None: anywhere."""
        if not cells or ANYWHERE in cells:
            return None
        return np.isin(self.cells.of_host, cells), np.isin(self.cells.of_column, cells)

    def _mend_hosts_first(
        self, together: list[PodClass], left: dict[int, int], dealt: dict[int, list[int]]
    ) -> None:
        """Classes that gather on one host among themselves take theirs before the room is gone."""
        mender = Mender(self.state, self.limits, self.total_spare, new_nodes=self.new_nodes)
        for one in sorted(together, key=lambda c: (-c.priority, -float(c.request[0]))):
            carried = self.carried_of(one)
            selfish = all(
                n in one.matched
                for n in carried
                if n in self.state.at and self.classes.terms[n].kind is TermKind.AFFINITY
            )
            mender.cells = self._in_cells(dealt[one.number])
            if selfish and dealt[one.number] and left.get(one.number):
                left[one.number] = mender.place(one, carried, left[one.number])

    def _gather(
        self,
        together: list[PodClass],
        left: dict[int, int],
        portions: list[Portion],
        dealt: dict[int, list[int]],
    ) -> list[Portion]:
        """For pods that must share a host with others not placed yet: a node for one of those and as many of them as
        fit beside it. Returns the portions without those used up.
        """
        terms = self.classes.terms
        for one in sorted(together, key=lambda c: (-c.priority, -float(c.request[0]))):
            carried = self.carried_of(one)
            near = [n for n in carried if n in self.state.at and terms[n].kind is TermKind.AFFINITY]
            if all(n in one.matched for n in near) or not dealt[one.number]:
                continue
            mender = Mender(self.state, self.limits, self.total_spare, new_nodes=False)
            mender.cells = self._in_cells(dealt[one.number])
            while left.get(one.number, 0) > 0 and self.total_spare() > 0:
                left[one.number] = mender.place(one, carried, left[one.number])
                hosts = [p for p in portions if p.count > 0 and all(n in p.one.matched for n in near)]
                if not left[one.number] or not self._beside(one, carried, left, hosts, dealt):
                    break
        return [p for p in portions if p.count > 0]

    def _beside(
        self,
        one: PodClass,
        carried: tuple[int, ...],
        left: dict[int, int],
        hosts: list[Portion],
        dealt: dict[int, list[int]],
    ) -> bool:
        """One new node with one pod of a portion and pods of the class beside it."""
        if not self.new_nodes:
            return False
        room = self.columns.room
        for portion in hosts:
            other = portion.one
            usable = self.rules.on_columns(one) & self.rules.on_columns(other) & self.limits.affordable()
            usable &= (room >= one.request + other.request).all(axis=1)
            usable &= self.state.domain_ok(one, carried)[1]
            if (within := self._in_cells(dealt[one.number])) is not None:
                usable &= within[1]
            if portion.cell != ANYWHERE:
                usable &= self.cells.of_column == portion.cell
            where = np.nonzero(usable)[0]
            if not len(where):
                continue
            where = where[self.columns.tier[where] == self.columns.tier[where].min()]
            needed = one.request > 0
            spare = (room[where] - other.request)[:, needed] / one.request[needed]
            fit = np.minimum(np.floor(spare.min(axis=1) + 1e-9), left[one.number])
            column = int(where[np.argmin(self.columns.cost[where] / np.maximum(fit, 1e-9))])
            node = self.state.add_nodes(np.array([column]))
            self.limits.spend(column)
            self.state.place(other, self.carried_of(other), node, np.array([1]))
            portion.count -= 1
            many = min(left[one.number], int(self.state.capacity(one, carried)[node[0]]))
            if many > 0:
                self.state.place(one, carried, node, np.array([many]))
                left[one.number] -= many
                return True
        return False

    def _mend(self, left: dict[int, int]) -> None:
        mender = Mender(self.state, self.limits, self.total_spare, new_nodes=self.new_nodes)
        for _ in range(3):
            progress = False
            waiting = sorted(
                (self.classes.classes[n] for n, many in left.items() if many > 0),
                key=lambda c: (-c.priority, -float(c.request[0]), c.number),
            )
            for one in waiting:
                before = left[one.number]
                left[one.number] = mender.place(one, self.carried_of(one), before)
                progress |= left[one.number] < before
            if not progress:
                break


def _representatives(columns: Columns, masks: Bools) -> Ints:
    """The cheapest column of each set that has the same type, pool, daemons and users."""
    used = np.nonzero(masks.any(axis=0))[0]
    marks = [np.packbits(masks[:, used], axis=0).T]
    if columns.daemon_of:
        marks.append(np.packbits(np.array([m[used] for _, m in columns.daemon_of]), axis=0).T)
    _, sign = np.unique(np.concatenate(marks, axis=1), axis=0, return_inverse=True)
    key = np.column_stack([sign.reshape(-1), columns.variant[used], columns.type[used]])
    order = np.lexsort((columns.cost[used], key[:, 2], key[:, 1], key[:, 0]))
    ordered = key[order]
    first = (
        np.concatenate([[True], (ordered[1:] != ordered[:-1]).any(axis=1)])
        if len(order)
        else np.zeros(0, bool)
    )
    out: Ints = used[order[first]]
    return out


def load_of(state: Field, node: int) -> Floats:
    """What the planned pods of a node ask for together."""
    total = np.zeros(state.room.shape[1])
    for number, many in state.contents[node].items():
        total += state.classes.classes[number].request * many
    return total

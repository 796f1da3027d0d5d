"""Buying nodes for portions: what packing need not tell apart becomes lots, and what it decides becomes nodes.

Portions with equal rule, request, cell and per-node terms are one lot; columns that no lot tells apart are one column.
Works on an attempt's site. Neighbours: `attempt` calls, `packing` decides, `columns` knows what is cheapest.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from nodeyard.provisioning.classes import PodClass
from nodeyard.provisioning.columns import cheapest
from nodeyard.provisioning.domains import ANYWHERE, Portion
from nodeyard.provisioning.labelled import Bools, Ints
from nodeyard.provisioning.lots import Lots, Shop
from nodeyard.provisioning.packing import Packed, Packer
from nodeyard.provisioning.seating import Seating, lone_terms
from nodeyard.provisioning.setting import Site
from nodeyard.scheduling.topology import TermKind

_UNLIMITED = 1e9


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


class Buyer:
    """Buys nodes for one attempt. `spare`, `exact`: seconds left for improving, and for exact patterns."""

    def __init__(self, site: Site, spare: Callable[[], float], exact: Callable[[], float]) -> None:
        self.site, self.spare, self.exact = site, spare, exact
        self.state, self.limits, self.cells = site.state, site.limits, site.cells
        self.columns, self.rules = site.setting.columns, site.setting.rules
        self.terms = site.setting.classes.terms
        self.carried_of = site.carried_of

    def buy(self, portions: list[Portion]) -> tuple[list[Portion], list[Portion]]:
        """(portions that got no node, portions that no column can take)."""
        lots, impossible = self._lots(portions)
        if not lots:
            return [], impossible
        shop, chosen, packed_lots = self._shop(lots)
        setting, before = self.site.setting, self._bought()
        packer = Packer(
            packed_lots, shop, self.spare, exact_s=self.exact, work=setting.effort,
            near=lambda cost: setting.near(before + cost),
        )  # fmt: skip
        packed = packer.run()
        rest = self._commit(lots, packed, chosen)
        return rest, impossible

    def floor(self, portions: list[Portion]) -> float:
        """What nodes for the portions cost at least, as far as the relaxation knows; nothing is bought."""
        lots, impossible = self._lots(portions)
        if impossible or not lots:
            return np.inf if impossible else 0.0
        shop, _, packed_lots = self._shop(lots)
        return Packer(packed_lots, shop, lambda: 0.0, work=self.site.setting.effort).appraised()

    def _bought(self) -> float:
        """What the nodes bought so far cost."""
        state, first = self.state, self.site.setting.hosts.count
        bought = state.column[[n for n in range(first, state.count) if state.contents[n]]]
        return float(self.columns.cost[bought].sum())

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
            most, carries, matches, alone = self._per_node(one, private)
            key = (*where, most, carries, matches, alone)
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
            if i is not None and self.terms[number].kind is TermKind.ANTI_AFFINITY:
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
            carried, matched = lone_terms(self.state, self.carried_of(portion.one), portion.one.matched)
            for number in carried | matched:
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
    ) -> tuple[float, frozenset[object], frozenset[object], frozenset[object]]:
        """(most pods on one node, terms carried, terms matched, terms of the class alone that the cap stands for: two
        classes with terms of their own may share a node, and must not become one lot under one cap).
        """
        most = _UNLIMITED
        carried, matched = lone_terms(self.state, self.carried_of(one), one.matched)
        for number in carried & matched:
            term = self.terms[number]
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
            frozenset(((carried & matched) | ports) & private),
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
        used = np.nonzero(masks.any(axis=0))[0]
        chosen = used[cheapest(self.columns, masks[:, used], used)]
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
        term = self.terms[name]
        return term.max_skew if term.kind is TermKind.SPREAD else 0

    def _commit(self, lots: list[_Lot], packed: Packed, chosen: Ints) -> list[Portion]:
        """Make the packed nodes real, and hand the lots' pods back to their classes."""
        state, bins = self.state, packed.bins
        if bins:
            columns = chosen[np.array([b.column for b in bins], np.int64)]
            first = int(state.add_nodes(columns)[0])
            self.limits.spend_all(columns)
        queues = [[replace(p) for p in lot.portions] for lot in lots]
        if bins:
            nodes = first + np.arange(len(bins))
            Seating(state, self.carried_of, bins, nodes, queues).run()
        return [p for queue in queues for p in queue if p.count]

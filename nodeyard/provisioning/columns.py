"""What could be bought, as columns: one per pool, instance type, zone and capacity type, with price and room.

A `TypeTable` is a catalogue turned into arrays, once per catalogue (kept in its memo). `Columns` joins the tables of
all usable pools: rows that a pool's own requirements exclude are gone, custom labels a pool leaves open become
variants of it, and what daemons will take is off the room. Its neighbours: `labelled` evaluates pods' rules over the
columns, `classes` says which pods ask.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import product
from typing import cast

import numpy as np

from nodeyard.api import labels as keys
from nodeyard.api.cluster import DaemonSet
from nodeyard.api.node import pool_labels
from nodeyard.api.pod import PodShape
from nodeyard.api.pool import Pool
from nodeyard.api.selectors import Requirement
from nodeyard.cloudprovider.model import Catalogue, InstanceType, Offering
from nodeyard.provisioning.labelled import (
    Bools,
    Floats,
    Ints,
    LabelColumn,
    Labelled,
    NodeRule,
    coded,
)
from nodeyard.scheduling.requirements import ANYTHING, LabelStates, canonical_key, intersect, states_of

_MEMO = "nodeyard.provisioning.columns"
_BY_OFFERING = (
    keys.ZONE, keys.CAPACITY_TYPE, keys.ZONE_ID, keys.INSTANCE_TYPE, keys.RESERVATION_ID, keys.RESERVATION_TYPE,
    keys.RESERVATION_INTERRUPTIBLE,
)  # fmt: skip
MOST_VARIANTS = 64
_CHOSEN_AT_LAUNCH = (keys.TENANCY, keys.PLACEMENT_PARTITION)
"""Labels that a type may have any value of, and a launch settles."""


class TypeTable:
    """One catalogue as arrays. Types and offerings keep the catalogue's order; what can't be had now is left out."""

    def __init__(self, types: Sequence[InstanceType]) -> None:
        self.types = types
        self.resources = sorted({r for t in types for r in (*t.allocatable, *t.capacity)})
        self.allocatable = self._amounts([t.allocatable for t in types])
        self.capacity = self._amounts([t.capacity for t in types])
        offers = [(i, o) for i, t in enumerate(types) for o in t.offerings if o.available]
        self.offer_type = np.array([i for i, _ in offers], np.int64)
        self.offers = [o for _, o in offers]
        self.offer_price = np.array([o.price for _, o in offers], np.float64)
        self.offer_risk = np.array([o.risk for _, o in offers], np.float64)
        self.offer_label: dict[str, LabelColumn] = {
            keys.ZONE: coded([o.zone for _, o in offers]),
            keys.CAPACITY_TYPE: coded([o.capacity_type for _, o in offers]),
            keys.ZONE_ID: coded([o.zone_id or None for _, o in offers]),
        }
        reserved = [o.reserved for _, o in offers]
        if any(reserved):
            self.offer_label |= {
                keys.RESERVATION_ID: coded([r.id if r else None for r in reserved]),
                keys.RESERVATION_TYPE: coded([r.kind if r else None for r in reserved]),
                keys.RESERVATION_INTERRUPTIBLE: coded(
                    [None if r is None else "true" if r.interruptible else "false" for r in reserved]
                ),
            }
        self.reservations = {r.id: r for r in reserved if r is not None}
        self.keys = {k for t in types for k in t.requirements}
        self._type_label: dict[str, tuple[Ints, list[tuple[str, ...]]]] = {}

    def _amounts(self, rows: list[dict[str, int]]) -> Floats:
        out = np.zeros((len(rows), len(self.resources)), np.float64)
        for j, resource in enumerate(self.resources):
            out[:, j] = [row.get(resource, 0) for row in rows]
        return out

    def type_label(self, key: str) -> tuple[Ints, list[tuple[str, ...]]]:
        """Codes per type, and the values that each code allows."""
        found = self._type_label.get(key)
        if found is None:
            seen: dict[tuple[str, ...], int] = {}
            if key == keys.INSTANCE_TYPE:
                rows: list[tuple[str, ...]] = [(t.name,) for t in self.types]
            else:
                rows = [t.requirements.get(key, ()) for t in self.types]
            codes = np.fromiter((seen.setdefault(r, len(seen)) for r in rows), np.int64, len(rows))
            found = self._type_label[key] = (codes, list(seen))
        return found


def table_of(catalogue: Catalogue) -> TypeTable:
    """The catalogue's table; built on first use."""
    found = catalogue.memo.get(_MEMO)
    if found is None:
        found = catalogue.memo[_MEMO] = TypeTable(catalogue.types)
    return cast(TypeTable, found)


class Variant:
    """A pool with every custom label settled: the columns `first` to `last` are its."""

    def __init__(self, pool: Pool, labels: Mapping[str, str], table: TypeTable) -> None:
        self.pool = pool
        self.labels = dict(labels)
        self.table = table
        self.offers: Ints = np.zeros(0, np.int64)
        self.first = 0
        self.last = 0


class Columns:
    """All columns of all pools. Arrays have one entry per column unless they say otherwise."""

    def __init__(
        self,
        pools: Sequence[tuple[Pool, Catalogue]],
        resources: Sequence[str],
        mentioned: Mapping[str, frozenset[str] | None],
        node_charge: float,
    ) -> None:
        """`mentioned`: custom label key -> values that pods name (None: every value matters, as a topology key)."""
        self.resources = list(resources)
        self.variants: list[Variant] = []
        for pool, catalogue in pools:
            table = table_of(catalogue)
            for labels in _variants(pool, table, mentioned):
                self._add(pool, labels, table)
        total = self.variants[-1].last if self.variants else 0
        self.count = total
        self.variant = np.zeros(total, np.int64)
        self.type = np.zeros(total, np.int64)
        self.price = np.zeros(total)
        self.risk = np.zeros(total)
        self.charge = np.zeros(total)
        self.room: Floats = np.zeros((total, len(resources)))
        self.capacity: Floats = np.zeros((total, len(resources)))
        for number, variant in enumerate(self.variants):
            here = slice(variant.first, variant.last)
            table = variant.table
            self.variant[here] = number
            self.type[here] = table.offer_type[variant.offers]
            self.price[here] = table.offer_price[variant.offers]
            self.risk[here] = table.offer_risk[variant.offers]
            own = variant.pool.node_charge_usd_per_hour
            self.charge[here] = node_charge if own is None else own
            for j, resource in enumerate(resources):
                if resource in table.resources:
                    row = table.resources.index(resource)
                    self.room[here, j] = table.allocatable[self.type[here], row]
                    self.capacity[here, j] = table.capacity[self.type[here], row]
        self.expected = self.price + self.risk
        self.cost = self.expected + self.charge
        self.labelled = Labelled(total, self._label)
        codes, ids = self.labelled.column(keys.RESERVATION_ID)
        self.reservation: Ints = codes
        """Code of the reservation that a node of the column is launched into."""
        self.reservation_ids: list[str | None] = list(ids)
        """By code; None: in none."""
        self.free_in: dict[str, int] = {}
        """Reservation -> instances that a plan may still put into it; the others take none."""
        self.room_before_daemons = self.room.copy()
        self.daemon_of: list[tuple[PodShape, Bools]] = []
        weights = {v.pool.weight for v in self.variants}
        self.tiers = sorted(weights, reverse=True)
        self.tier = np.array([self.tiers.index(v.pool.weight) for v in self.variants], np.int64)[self.variant]

    def _add(self, pool: Pool, labels: Mapping[str, str], table: TypeTable) -> None:
        types = np.ones(len(table.types), np.bool_)
        offers = np.ones(len(table.offer_type), np.bool_)
        for requirement in pool.requirements:
            key = canonical_key(requirement.key)
            states = states_of(requirement)
            if key in table.offer_label:
                codes, values = table.offer_label[key]
                offers &= np.fromiter((states.allows(v) for v in values), np.bool_, len(values))[codes]
            elif key in table.keys or key == keys.INSTANCE_TYPE:
                codes, sets = table.type_label(key)
                types &= np.fromiter((_some(states, s) for s in sets), np.bool_, len(sets))[codes]
            elif not states.allows(labels.get(key)):
                types[:] = False
        for key in _CHOSEN_AT_LAUNCH:
            if key in labels and key in table.keys:
                codes, sets = table.type_label(key)
                types &= np.fromiter((labels[key] in s for s in sets), np.bool_, len(sets))[codes]
        if partition := _named_partition(pool, labels, table):
            kept = (partition not in offer.refused_partitions for offer in table.offers)
            offers &= np.fromiter(kept, np.bool_, len(table.offers))
        variant = Variant(pool, labels, table)
        variant.offers = np.nonzero(offers & types[table.offer_type])[0]
        order = pool.capacity_type_order
        if (
            keys.ON_DEMAND in order
            and keys.SPOT in order
            and order.index(keys.ON_DEMAND) < order.index(keys.SPOT)
        ):
            variant.offers = _preferred_capacity(variant, order)
        variant.first = self.variants[-1].last if self.variants else 0
        variant.last = variant.first + len(variant.offers)
        self.variants.append(variant)

    def _label(self, key: str) -> LabelColumn:
        seen: dict[str | None, int] = {}
        out = np.zeros(self.count, np.int64)
        for variant in self.variants:
            here = slice(variant.first, variant.last)
            table = variant.table
            if key in variant.labels:
                out[here] = seen.setdefault(variant.labels[key], len(seen))
                continue
            if key in table.offer_label:
                codes, values = table.offer_label[key]
                source, flat = codes[variant.offers], list(values)
            elif key in table.keys or key == keys.INSTANCE_TYPE:
                codes, sets = table.type_label(key)
                states = _states_on(variant.pool, key)
                source = codes[table.offer_type[variant.offers]]
                flat = [_settled(key, states, s) for s in sets]
            else:
                out[here] = seen.setdefault(None, len(seen))
                continue
            recode = np.fromiter((seen.setdefault(v, len(seen)) for v in flat), np.int64, len(flat))
            out[here] = recode[source]
        return out, list(seen)

    def value(self, key: str, column: int) -> str | None:
        codes, values = self.labelled.column(key)
        return values[int(codes[column])]

    def type_of(self, column: int) -> InstanceType:
        return self.variants[int(self.variant[column])].table.types[int(self.type[column])]

    def offering_of(self, column: int) -> Offering:
        variant = self.variants[int(self.variant[column])]
        return variant.table.offers[int(variant.offers[column - variant.first])]

    def pool_of(self, column: int) -> Pool:
        return self.variants[int(self.variant[column])].pool

    def tolerated(self, rule: NodeRule) -> Bools:
        """Which columns' pools have only taints that the rule's pod may land among."""
        ok = [rule.endures(v.pool.taints) for v in self.variants]
        return np.array(ok, np.bool_)[self.variant] if self.variants else np.zeros(0, np.bool_)

    @cached_property
    def flexible(self) -> Bools:
        """Columns that may be filled to the brim: where a pool demands several values of a key (minValues), enough of
        them have at least this column's room.
        """
        out = np.ones(self.count, np.bool_)
        for variant in self.variants:
            for requirement in variant.pool.requirements:
                if not requirement.min_values or variant.last == variant.first:
                    continue
                here = np.arange(variant.first, variant.last)
                codes, _ = self.labelled.column(requirement.key)
                rows, member = np.unique(
                    np.column_stack([self.room[here], codes[here]]), axis=0, return_inverse=True
                )
                enough = np.zeros(len(rows), np.bool_)
                for i, row in enumerate(rows):
                    above = (rows[:, :-1] >= row[:-1]).all(axis=1)
                    enough[i] = len(np.unique(rows[above, -1])) >= requirement.min_values
                out[here] &= enough[member.reshape(-1)]
        return out

    def admitted(self, rule: NodeRule) -> Bools:
        """Which columns a pod with this rule may land on, room aside."""
        return self.labelled.admitted(rule) & self.tolerated(rule)

    def take_off(self, daemons: Sequence[tuple[DaemonSet, NodeRule]]) -> None:
        """Keep what daemons will use out of the room, per column: each column has the daemons that will run there."""
        starting = {keys.REGISTERED: "true", keys.INITIALIZED: "true"}
        for daemon, rule in daemons:
            mask = self.labelled.admitted(_without(rule, starting)) & self.tolerated(rule)
            if not mask.any():
                continue
            self.daemon_of.append((daemon.shape, mask))
            for j, resource in enumerate(self.resources):
                amount = daemon.shape.requests.get(resource, 0)
                if amount:
                    self.room[mask, j] -= amount

    def labels_of(self, column: int) -> dict[str, str]:
        """Every label the node will have that is known now; the hostname is not."""
        variant = self.variants[int(self.variant[column])]
        kind = self.type_of(column)
        offer = int(variant.offers[column - variant.first])
        out: dict[str, str] = {}
        for key, values in kind.requirements.items():
            if key in variant.table.offer_label:
                continue
            settled = _settled(key, _states_on(variant.pool, key), values)
            if settled is not None:
                out[key] = settled
        for key, (codes, known) in variant.table.offer_label.items():
            value = known[int(codes[offer])]
            if value is not None:
                out[key] = value
        out[keys.INSTANCE_TYPE] = kind.name
        return out | variant.labels


def _preferred_capacity(variant: Variant, order: Sequence[str]) -> Ints:
    """Only the first capacity type in the pool's order that a type is sold at: what would be launched."""
    codes, values = variant.table.offer_label[keys.CAPACITY_TYPE]
    rank = np.array([order.index(v) if v in order else len(order) for v in values], np.int64)
    mine = rank[codes[variant.offers]]
    types = variant.table.offer_type[variant.offers]
    best = np.full(len(variant.table.types), len(order) + 1, np.int64)
    np.minimum.at(best, types, mine)
    kept: Ints = variant.offers[mine == best[types]]
    return kept


def _some(states: LabelStates, values: tuple[str, ...]) -> bool:
    return any(states.allows(v) for v in values) if values else states.absent


def _states_on(pool: Pool, key: str) -> LabelStates:
    states = ANYTHING
    for requirement in pool.requirements:
        if canonical_key(requirement.key) == key:
            states = intersect(states, states_of(requirement))
    return states


def _settled(key: str, states: LabelStates, values: tuple[str, ...]) -> str | None:
    """The value a node of this type will have, where that is certain."""
    left = [v for v in values if states.allows(v)]
    if len(left) == 1:
        return left[0]
    return "default" if key == keys.TENANCY and "default" in left else None


def _without(rule: NodeRule, satisfied: Mapping[str, str]) -> NodeRule:
    """The rule less selectors on labels that every node gets while it starts."""
    left = tuple((k, v) for k, v in rule.selector if satisfied.get(k) != v)
    required = rule.required
    if required is not None:
        terms = []
        for term in required.node_selector_terms:
            kept = tuple(e for e in term.match_expressions if e.key not in satisfied)
            if not kept and term.match_expressions:
                return NodeRule(left, None, rule.tolerations, rule.reach)
            terms.append(type(term)(kept, term.match_fields))
        required = type(required)(tuple(terms))
    return NodeRule(left, required, rule.tolerations, rule.reach)


def own_labels(pool: Pool) -> dict[str, str]:
    """Labels that every node of the pool has."""
    out = {**pool.labels, **pool_labels(pool.key)}
    if pool.node_class.kind == "EC2NodeClass" and pool.node_class.name:
        out.setdefault(keys.NODECLASS_LABEL, pool.node_class.name)
    return out


def _variants(
    pool: Pool, table: TypeTable, mentioned: Mapping[str, frozenset[str] | None]
) -> list[dict[str, str]]:
    """The pool's labels for every way its open custom labels can be settled that pods could tell apart."""
    base = own_labels(pool)
    choices: list[list[tuple[str, str | None]]] = []
    for key in dict.fromkeys(canonical_key(r.key) for r in pool.requirements):
        known = key in table.keys or key in _BY_OFFERING or key in base
        if known:
            continue
        choices.append(
            [(key, v) for v in _open_values(_states_on(pool, key), mentioned.get(key, frozenset()))]
        )
    for key in _CHOSEN_AT_LAUNCH:
        if key in table.keys and (
            values := _launch_values(pool, table, key, mentioned.get(key, frozenset()))
        ):
            choices.append([(key, value) for value in values])
    out: list[dict[str, str]] = []
    for combination in product(*choices):
        out.append({**base, **{k: v for k, v in combination if v is not None}})
        if len(out) >= MOST_VARIANTS:
            break
    return out


def _launch_values(pool: Pool, table: TypeTable, key: str, wanted: frozenset[str] | None) -> list[str | None]:
    """Values of a label that a launch chooses, as far as pods tell them apart; None: left to the launch."""
    every = _allowed_values(pool, table, key)
    if len(every) < 2:
        return []
    if wanted is None:
        return list(every)
    named: list[str | None] = [v for v in every if v in wanted]
    return [None, *named] if named else []


def _allowed_values(pool: Pool, table: TypeTable, key: str) -> list[str]:
    """Values of the types' label that the pool allows."""
    states = _states_on(pool, key)
    return sorted({v for values in table.type_label(key)[1] for v in values if states.allows(v)})


def _named_partition(pool: Pool, labels: Mapping[str, str], table: TypeTable) -> str | None:
    """The partition that launches of the variant name; None where the cloud chooses one."""
    if keys.PLACEMENT_PARTITION not in table.keys:
        return None
    left = _allowed_values(pool, table, keys.PLACEMENT_PARTITION)
    return labels.get(keys.PLACEMENT_PARTITION) or (left[0] if len(left) == 1 else None)


def _open_values(states: LabelStates, wanted: frozenset[str] | None) -> list[str | None]:
    """Values of an open label worth telling apart: those that pods name, and one for everybody else."""
    if not states.complement:
        values = sorted(states.values)
        if wanted is None:
            return list(values) or ([None] if states.absent else [])
        named = [v for v in values if v in wanted]
        rest = [v for v in values if v not in wanted]
        out: list[str | None] = [*named, *rest[:1]]
        return out or ([None] if states.absent else [])
    out = [v for v in sorted(wanted or ()) if states.allows(v)]
    if states.absent:
        return [*out, None]
    plain = (
        str(states.at_least if states.at_least is not None else states.at_most) if states.bounded else "true"
    )
    if states.allows(plain) and plain not in out:
        out.append(plain)
    return out


def requirement_of(key: str, values: Sequence[str], min_values: int | None = None) -> Requirement:
    return Requirement(key, "In", tuple(values), min_values)


def cheapest(columns: Columns, allowed: Bools, used: Ints) -> Ints:
    """Of columns of one type, pool and reservation with the same daemons and users (`allowed`: [user, used]), the
    cheapest; positions in `used`.
    """
    marks = [np.packbits(allowed, axis=0).T]
    if columns.daemon_of:
        marks.append(np.packbits(np.array([m[used] for _, m in columns.daemon_of]), axis=0).T)
    _, sign = np.unique(np.concatenate(marks, axis=1), axis=0, return_inverse=True)
    key = np.column_stack(
        [sign.reshape(-1), columns.variant[used], columns.type[used], columns.reservation[used]]
    )
    order = np.lexsort((columns.cost[used], key[:, 3], key[:, 2], key[:, 1], key[:, 0]))
    ordered = key[order]
    first: Bools = np.ones(len(order), np.bool_)
    first[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    out: Ints = order[first]
    return out

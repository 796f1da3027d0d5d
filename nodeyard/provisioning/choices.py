"""From decided nodes to what is launched: for each, the first choice and every alternative that is as valid.

A node may become any column of its pool that holds the same pods, lies in the same domains wherever one of them cares,
and costs little more. Limits are shared out beforehand, so that any combination of choices stays within them; a node in
a capacity reservation stays with it, and one that is in none goes into one only as its first choice.
Neighbours: `attempt` decided the nodes, `launching` writes them down.
"""

from dataclasses import dataclass

import numpy as np

from nodeyard.api import labels as keys
from nodeyard.provisioning.classes import PodClass
from nodeyard.provisioning.labelled import Bools, Floats, Ints
from nodeyard.provisioning.setting import Draft, Setting, load_of

_RUNNERS_UP = 3
_MOST_CHOICES = 60
"""What one launch may name, the first choice among them."""
_DEAREST_RUNNER_UP = 2.0


@dataclass(slots=True)
class Choice:
    """Columns a node may become, the first choice first. `beyond`: the next-best types, outside the tolerance."""

    node: int
    columns: Ints
    beyond: Ints
    load: Floats
    relaxed: bool = False


class Chooser:
    """Finds the choices of all planned nodes of a draft."""

    def __init__(self, setting: Setting, draft: Draft) -> None:
        self.setting, self.draft = setting, draft
        self.columns, self.state = setting.columns, draft.state
        self.least_types = setting.problem.least_types
        self.order = np.lexsort((self.columns.expected, self.columns.variant))
        self.prices = self.columns.expected[self.order]
        self.starts = [v.first for v in self.columns.variants]
        self._signs: dict[int, int] = {}
        self._alike: dict[tuple[object, ...], tuple[int, tuple[str, ...]]] = {}
        self._members: list[tuple[int, tuple[str, ...]]] = []
        self._found: dict[tuple[int, frozenset[int], bytes], tuple[Ints, Ints, bool]] = {}
        self._kept: dict[tuple[int, frozenset[int]], tuple[Ints, Floats]] = {}
        self.slack = self._shares()

    def _shares(self) -> Floats:
        """What is left of each limit, split evenly over the nodes planned under it."""
        limits = self.draft.limits
        if not limits.any:
            return np.zeros(0)
        used = self.state.column[self.setting.hosts.count : self.state.count]
        nodes = (limits.use[used] > 0).sum(axis=0) if len(used) else np.zeros(len(limits.left))
        out: Floats = np.where(limits.inclusive, np.maximum(limits.left, 0.0), 0.0) / np.maximum(nodes, 1)
        out[[not pool for pool, _ in limits.names]] = 1.0  # reservations are looked at node by node
        return out

    def of(self, node: int) -> Choice:
        """The choices of one node; its column in the state becomes the first choice."""
        column = int(self.state.column[node])
        load = load_of(self.state, node)
        signs = frozenset([self._sign(number) for number in self.state.contents[node]])
        key = (column, signs, load.tobytes())
        found = None if self.draft.limits.any else self._found.get(key)
        if found is None:
            found = self._found[key] = self._choices(column, signs, load)
        chosen, beyond, relaxed = found
        first = int(chosen[0])
        if first != column:
            self._move(node, column, first)
        return Choice(node, chosen, beyond, load, relaxed)

    def _choices(self, column: int, signs: frozenset[int], load: Floats) -> tuple[Ints, Ints, bool]:
        """(choices, next-best columns, whether minValues are not met) of a node of the column with this load."""
        able = self._able(column, signs, load)
        able = self._of_one_reservation(able)
        price = self.columns.expected[able]
        within = able[price <= price[0] * (1 + self.setting.options.price_tolerance) + 1e-12]
        within = within[self.columns.reservation[within] == self.columns.reservation[able[0]]]
        chosen, relaxed = self._with_min_values(able, within)
        named = set(chosen.tolist())
        ahead = able[: len(named) + _RUNNERS_UP * 8].tolist()
        beyond = np.array([c for c in ahead if c not in named][: _RUNNERS_UP * 8], np.int64)
        return chosen, beyond, relaxed

    def _able(self, column: int, signs: frozenset[int], load: Floats) -> Ints:
        """Columns of the pool variant that hold the node's pods, cheapest first, ties by room."""
        key = (column, signs)
        kept = self._kept.get(key)
        if kept is None:
            part = self._keeping(*key)
            kept = self._kept[key] = (part, self.columns.room[part])
        part, room = kept
        able: Ints = part[(room >= load - 1e-6).all(axis=1) & self._has_place(part, column)]
        return able if len(able) else np.array([column], np.int64)

    def _has_place(self, part: Ints, column: int) -> Bools:
        """Columns outside reservations, in the node's own, or in one that takes another node."""
        columns, limits = self.columns, self.draft.limits
        free = np.array(
            [id_ is None or limits.free_in(id_) >= 1.0 for id_ in self.columns.reservation_ids], np.bool_
        )
        out: Bools = free[columns.reservation[part]] | (
            columns.reservation[part] == columns.reservation[column]
        )
        return out

    def _of_one_reservation(self, able: Ints) -> Ints:
        """Those in the reservation of the cheapest, and those in none."""
        codes = self.columns.reservation[able]
        outside = np.array([id_ is None for id_ in self.columns.reservation_ids], np.bool_)
        out: Ints = able[(codes == codes[0]) | outside[codes]]
        return out

    def _keeping(self, column: int, signs: frozenset[int]) -> Ints:
        """Columns of the pool variant that keep the rules of pods with these signs, whatever they ask for."""
        columns, variant = self.columns, self.columns.variants[int(self.columns.variant[column])]
        first, last = variant.first, variant.last
        demanding = self.least_types or any(r.min_values for r in columns.pool_of(column).requirements)
        dearest = max(_DEAREST_RUNNER_UP, 1 + self.setting.options.price_tolerance)
        ceiling = np.inf if demanding else columns.expected[column] * dearest + 1e-9
        stop = int(np.searchsorted(self.prices[first:last], ceiling, side="right"))
        part = self.order[first:last][:stop]
        mask: Bools = np.ones(len(part), np.bool_)
        for sign in signs:
            number, locked = self._members[sign]
            one = self.state.classes.classes[number]
            wished = self.setting.rules.on_columns(self.draft.view_of(one))
            mask &= (wished if wished[column] else self.setting.rules.on_columns(one))[part]
            for key in locked:
                mask &= self.state.column_domain[key][part] == self.state.column_domain[key][column]
        limits = self.draft.limits
        if limits.any:
            mask &= (limits.use[part] <= limits.use[column] + self.slack + 1e-6).all(axis=1)
        for there, _ in self.state.daemon_matched:
            mask &= there[part] == there[column]
        out: Ints = part[mask]
        return out

    def _sign(self, number: int) -> int:
        """The same for classes whose rules are the same, and whose pods depend on domains of the same keys."""
        found = self._signs.get(number)
        if found is None:
            one = self.state.classes.classes[number]
            locked = self.locked(one)
            key = (one.rule, self.draft.view_of(one).rule, one.ports, locked)
            member = self._alike.setdefault(key, (number, locked))
            if member[0] == number:
                self._members.append(member)
                self._signs[number] = len(self._members) - 1
            found = self._signs.setdefault(number, self._signs[member[0]])
        return found

    def locked(self, one: PodClass) -> tuple[str, ...]:
        """Keys whose domain the class's pods depend on, or others' pods depend on for theirs."""
        terms = {*self.draft.carried_of(one), *one.matched}
        return tuple(sorted({self.state.by_domain[n].term.key for n in terms if n in self.state.by_domain}))

    def _move(self, node: int, old: int, new: int) -> None:
        """Same pods, same domains, another column."""
        self.state.move(node, new)
        limits = self.draft.limits
        if limits.any:
            limits.left = limits.left + limits.use[old] - limits.use[new]

    def _with_min_values(self, able: Ints, within: Ints) -> tuple[Ints, bool]:
        """The first choice and at most the asked number of alternatives, with enough values of each key that demands several."""
        most = min(1 + self.setting.options.max_alternatives, _MOST_CHOICES)
        pool = self.columns.variants[int(self.columns.variant[able[0]])].pool
        wanted = [(r.key, r.min_values, True) for r in pool.requirements if r.min_values]
        if self.least_types:
            wanted.append((keys.INSTANCE_TYPE, self.least_types, False))
        chosen = within[:most]
        relaxed = False
        for key, least, demanded in wanted:
            codes, _ = self.columns.labelled.column(key)
            if len(np.unique(codes[chosen])) >= least:
                continue
            _, firsts = np.unique(codes[able], return_index=True)
            picked = able[np.sort(firsts)][:least]
            relaxed |= demanded and len(picked) < least
            merged = [*picked.tolist(), *[c for c in chosen.tolist() if c not in set(picked.tolist())]]
            chosen = np.array(merged[: max(most, len(picked))], np.int64)
            chosen = chosen[np.lexsort((chosen, self.columns.expected[chosen]))]
        return chosen, relaxed


def min_values_met(setting: Setting, columns: Ints) -> bool:
    """Whether a node with these choices has enough values of each key its pool demands several of."""
    pool = setting.columns.pool_of(int(columns[0]))
    for requirement in pool.requirements:
        if requirement.min_values:
            codes, _ = setting.columns.labelled.column(requirement.key)
            if len(np.unique(codes[columns])) < requirement.min_values:
                return False
    return True


def type_values(setting: Setting, columns: Ints, key: str) -> list[str]:
    """The values of a label over the columns, in their order, each once."""
    codes, values = setting.columns.labelled.column(key)
    return [v for v in dict.fromkeys(values[int(c)] for c in codes[columns]) if v is not None]


CHOICE_KEYS = (keys.INSTANCE_TYPE, keys.ZONE, keys.CAPACITY_TYPE)

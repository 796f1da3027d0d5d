"""Many labelled things at once: a label becomes an array of codes, an expression an array of booleans.

`Labelled` is what both the columns (offerings that could be bought) and the hosts (nodes that exist) offer; a node rule
(selector, affinity, volume reach) is evaluated over all of them in a few array operations, once per distinct
expression. Its neighbours `columns` and `hosts` say what the labels are.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.ma  # `unique` loads it when first called: a tenth of a second that no plan should wait for
from numpy.typing import NDArray

from nodeyard.api.selectors import NodeSelector, NodeSelectorTerm, Requirement, Taint, Toleration, Value
from nodeyard.scheduling.requirements import LabelStates, canonical_key, states_of
from nodeyard.scheduling.selectors import value_matches
from nodeyard.scheduling.taints import HARD, SOFT, tolerates

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
LabelColumn = tuple[Ints, Sequence[str | None]]
"""A code per thing, and the value each code stands for (None: the label is absent)."""


class NodeRule(Value, frozen=True):
    """All that a pod asks of a node by itself. `reach`: per volume, terms of which one must hold. `gentle`: it keeps off
    nodes with soft taints (PreferNoSchedule) that it does not tolerate, too.
    """

    selector: tuple[tuple[str, str], ...] = ()
    required: NodeSelector | None = None
    tolerations: tuple[Toleration, ...] = ()
    reach: tuple[tuple[NodeSelectorTerm, ...], ...] = ()
    gentle: bool = False

    def endures(self, taints: Iterable[Taint]) -> bool:
        """Whether a pod with this rule may land among the taints."""
        return tolerates(self.tolerations, taints, HARD | SOFT if self.gentle else HARD)

    @property
    def expressions(self) -> list[Requirement]:
        """Every expression in it, in no particular order."""
        out = [Requirement(k, "In", (v,)) for k, v in self.selector]
        terms = [t for alternatives in self.reach for t in alternatives]
        terms += self.required.node_selector_terms if self.required else ()
        return out + [e for t in terms for e in t.match_expressions]


class Labelled:
    """`count` things; `column` gives a label's codes and values."""

    def __init__(self, count: int, column: Callable[[str], LabelColumn]) -> None:
        self.count = count
        self._column = column
        self._columns: dict[str, LabelColumn] = {}
        self._masks: dict[Requirement, Bools] = {}

    def column(self, key: str) -> LabelColumn:
        key = canonical_key(key)
        found = self._columns.get(key)
        if found is None:
            found = self._columns[key] = self._column(key)
        return found

    def matching(self, expression: Requirement) -> Bools:
        """Which things one expression matches."""
        mask = self._masks.get(expression)
        if mask is None:
            codes, values = self.column(expression.key)
            by_code = np.fromiter((value_matches(expression, v) for v in values), np.bool_, len(values))
            mask = self._masks[expression] = by_code[codes] if len(values) else np.zeros(self.count, np.bool_)
        return mask

    def allowed(self, key: str, states: LabelStates) -> Bools:
        codes, values = self.column(key)
        return np.fromiter((states.allows(v) for v in values), np.bool_, len(values))[codes]

    def satisfying(self, requirement: Requirement) -> Bools:
        return self.allowed(requirement.key, states_of(requirement))

    def admitted(self, rule: NodeRule, *, with_reach: bool = True) -> Bools:
        """Which things the rule's selector, affinity and volumes allow; taints are looked at elsewhere."""
        mask = np.ones(self.count, np.bool_)
        for key, value in rule.selector:
            mask &= self.matching(Requirement(key, "In", (value,)))
        if rule.required is not None:
            mask &= self._any_term(rule.required.node_selector_terms)
        if with_reach:
            for terms in rule.reach:
                mask &= self._any_term(terms)
        return mask

    def term(self, term: NodeSelectorTerm) -> Bools:
        if not term.match_expressions or term.match_fields:
            return np.zeros(self.count, np.bool_)
        mask = np.ones(self.count, np.bool_)
        for expression in term.match_expressions:
            mask &= self.matching(expression)
        return mask

    def _any_term(self, terms: Sequence[NodeSelectorTerm]) -> Bools:
        mask = np.zeros(self.count, np.bool_)
        for term in terms:
            mask |= self.term(term)
        return mask


def coded(values: Sequence[str | None]) -> LabelColumn:
    """Codes of a plain list of values."""
    seen: dict[str | None, int] = {}
    codes = np.fromiter((seen.setdefault(v, len(seen)) for v in values), np.int64, len(values))
    return codes, list(seen)

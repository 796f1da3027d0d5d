"""Requirements on one label as sets of states: which values it may have, and whether it may be absent.

Every operator (In, NotIn, Exists, DoesNotExist, Gt, Lt, Gte, Lte) becomes one canonical `LabelStates`, so that
intersection is a plain set intersection and equality means equivalence. Absence is a state like any other, which is
why NotIn and DoesNotExist are compatible. Source: Kubernetes API reference, `NodeSelectorRequirement`; Karpenter
documentation, "Scheduling" for Gte and Lte. Its neighbour `selectors` applies expressions to labels at hand.
"""

from collections.abc import Iterable, Mapping

from nodeyard.api.labels import ALIASES
from nodeyard.api.selectors import NodeSelectorTerm, Requirement, Value

OPERATORS = frozenset({"In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt", "Gte", "Lte"})


class RequirementError(ValueError):
    """An expression that means nothing: unknown operator, or values that don't go with it."""


class LabelStates(Value, frozen=True):
    """The states a label may be in. `complement`: every value but `values`. Bounds hold for integers and exclude
    everything that is not one. Build with `states_of` or `intersect`, which keep it canonical.
    """

    values: frozenset[str] = frozenset()
    complement: bool = False
    at_least: int | None = None
    at_most: int | None = None
    absent: bool = False

    @property
    def empty(self) -> bool:
        """No state at all is allowed."""
        return not self.absent and not self.complement and not self.values

    @property
    def bounded(self) -> bool:
        return self.at_least is not None or self.at_most is not None

    def allows(self, value: str | None) -> bool:
        """Whether the label may have this value; None asks whether it may be absent."""
        if value is None:
            return self.absent
        if not self._within(value):
            return False
        return (value in self.values) != self.complement

    def _within(self, value: str) -> bool:
        if not self.bounded:
            return True
        number = integer(value)
        if number is None:
            return False
        return (self.at_least is None or number >= self.at_least) and (
            self.at_most is None or number <= self.at_most
        )


ANYTHING = LabelStates(complement=True, absent=True)
NOTHING = LabelStates()


def integer(text: str) -> int | None:
    """The integer a label value spells, as Kubernetes parses it for Gt and Lt; None if it is none."""
    body = text[1:] if text[:1] in ("-", "+") else text
    return int(text) if body.isascii() and body.isdigit() else None


def states_of(requirement: Requirement) -> LabelStates:
    """The states one expression allows. Raises RequirementError naming the key and what is wrong."""
    operator, values = requirement.operator, requirement.values
    if operator in ("In", "NotIn"):
        if not values:
            raise RequirementError(f"{requirement.key}: {operator} needs at least one value")
        negative = operator == "NotIn"
        return LabelStates(frozenset(values), complement=negative, absent=negative)
    if operator == "Exists":
        return LabelStates(complement=True)
    if operator == "DoesNotExist":
        return LabelStates(absent=True)
    if operator not in OPERATORS:
        raise RequirementError(f"{requirement.key}: unknown operator {operator!r}")
    number = integer(values[0]) if len(values) == 1 else None
    if number is None:
        raise RequirementError(f"{requirement.key}: {operator} needs one integer, got {list(values)}")
    if operator in ("Gt", "Gte"):
        return LabelStates(complement=True, at_least=number + (operator == "Gt"))
    return LabelStates(complement=True, at_most=number - (operator == "Lt"))


def intersect(first: LabelStates, second: LabelStates) -> LabelStates:
    """The states both allow, in canonical form."""
    lows = [b for b in (first.at_least, second.at_least) if b is not None]
    highs = [b for b in (first.at_most, second.at_most) if b is not None]
    low, high = max(lows, default=None), min(highs, default=None)
    absent = first.absent and second.absent
    if first.complement and second.complement:
        if low is not None and high is not None and low > high:
            return LabelStates(absent=absent)
        probe = LabelStates(complement=True, at_least=low, at_most=high)
        excluded = frozenset(v for v in first.values | second.values if probe.allows(v))
        return LabelStates(excluded, True, low, high, absent)
    pool = second.values if first.complement else first.values
    return LabelStates(frozenset(v for v in pool if first.allows(v) and second.allows(v)), absent=absent)


def compatible(first: LabelStates, second: LabelStates) -> bool:
    """Whether some state is allowed by both."""
    return not intersect(first, second).empty


class Requirements(Value, frozen=True):
    """Requirements on several labels; a key not named may be in any state."""

    states: dict[str, LabelStates] = {}

    def on(self, key: str) -> LabelStates:
        return self.states.get(key, ANYTHING)

    def also(self, other: "Requirements") -> "Requirements":
        """Both at once."""
        merged = dict(self.states)
        for key, states in other.states.items():
            merged[key] = intersect(merged[key], states) if key in merged else states
        return Requirements(merged)

    @property
    def empty(self) -> bool:
        return any(states.empty for states in self.states.values())

    def allow(self, labels: Mapping[str, str]) -> bool:
        return all(states.allows(labels.get(key)) for key, states in self.states.items())


def requirements_of(
    expressions: Iterable[Requirement], labels: Mapping[str, str] | None = None
) -> Requirements:
    """All expressions and exact labels at once; deprecated keys are read as the ones they stand for."""
    out: dict[str, LabelStates] = {}
    exact = (Requirement(key, "In", (value,)) for key, value in (labels or {}).items())
    for expression in (*expressions, *exact):
        key = canonical_key(expression.key)
        states = states_of(expression)
        out[key] = intersect(out[key], states) if key in out else states
    return Requirements(out)


def canonical_key(key: str) -> str:
    """The label key that a deprecated one stands for, else the key itself."""
    return ALIASES.get(key, key)


def term_requirements(term: NodeSelectorTerm) -> Requirements:
    return requirements_of(term.match_expressions)

"""The algebra of label requirements against direct evaluation: sets of states, intersected and compared."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeyard.api.selectors import Requirement, Taint, Toleration
from nodeyard.scheduling.requirements import (
    ANYTHING,
    NOTHING,
    RequirementError,
    compatible,
    intersect,
    requirements_of,
    states_of,
)
from nodeyard.scheduling.selectors import value_matches
from nodeyard.scheduling.taints import tolerates

VALUES = ("a", "b", "1", "2", "3", "-1", "x1")
STATES = (None, *VALUES, "unheard-of", "7")


@st.composite
def requirements(draw: st.DrawFn) -> Requirement:
    operator = draw(st.sampled_from(("In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt", "Gte", "Lte")))
    if operator in ("In", "NotIn"):
        return Requirement(
            "k", operator, tuple(draw(st.lists(st.sampled_from(VALUES), min_size=1, max_size=4)))
        )
    if operator in ("Exists", "DoesNotExist"):
        return Requirement("k", operator)
    return Requirement("k", operator, (str(draw(st.integers(-2, 4))),))


@given(requirements())
def test_a_requirement_allows_exactly_what_kube_scheduler_would_match(one: Requirement) -> None:
    for value in STATES:
        assert states_of(one).allows(value) == value_matches(one, value)


@given(requirements(), requirements())
def test_an_intersection_allows_what_both_allow(first: Requirement, second: Requirement) -> None:
    both = intersect(states_of(first), states_of(second))
    for value in STATES:
        assert both.allows(value) == (value_matches(first, value) and value_matches(second, value))


@given(requirements(), requirements(), requirements())
def test_intersecting_is_commutative_associative_and_idempotent(
    a: Requirement, b: Requirement, c: Requirement
) -> None:
    x, y, z = states_of(a), states_of(b), states_of(c)
    assert intersect(x, y) == intersect(y, x)
    assert intersect(intersect(x, y), z) == intersect(x, intersect(y, z))
    assert intersect(x, x) == x == intersect(x, ANYTHING)
    assert intersect(x, NOTHING) == NOTHING


@given(st.lists(requirements(), max_size=4), st.sampled_from(STATES))
def test_requirements_together_allow_what_each_allows(several: list[Requirement], value: str | None) -> None:
    labels = {} if value is None else {"k": value}
    assert requirements_of(several).allow(labels) == all(value_matches(r, value) for r in several)


def test_not_in_and_does_not_exist_go_together() -> None:
    absent = states_of(Requirement("k", "DoesNotExist"))
    assert compatible(states_of(Requirement("k", "NotIn", ("a",))), absent)
    assert not compatible(states_of(Requirement("k", "Exists")), absent)


def test_bounds_that_cross_leave_nothing() -> None:
    above, below = Requirement("k", "Gt", ("5",)), Requirement("k", "Lt", ("5",))
    assert intersect(states_of(above), states_of(below)).empty


@pytest.mark.parametrize(
    "bad",
    [Requirement("k", "In"), Requirement("k", "Near", ("a",)), Requirement("k", "Gt", ("five",))],
)
def test_an_expression_that_means_nothing_names_its_key(bad: Requirement) -> None:
    with pytest.raises(RequirementError, match="k"):
        states_of(bad)


@given(
    st.sampled_from(("", "a", "b")), st.sampled_from(("Equal", "Exists")), st.sampled_from(("", "v")),
    st.sampled_from(("", "NoSchedule", "NoExecute")),
)  # fmt: skip
def test_a_toleration_covers_key_value_and_effect_or_all_of_them(
    key: str, operator: str, value: str, effect: str
) -> None:
    toleration, taint = Toleration(key, operator, value, effect), Taint("a", "NoSchedule", "v")
    named = key == "a" or (key == "" and operator == "Exists")
    covered = named and (operator == "Exists" or value == "v") and effect in ("", "NoSchedule")
    assert tolerates((toleration,), (taint,)) == covered
    assert tolerates((), (Taint("a", "PreferNoSchedule"),))

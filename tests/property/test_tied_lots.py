"""Lots that terms tie to each other, against a search over every plan: bounds never above the cheapest, patterns at it."""

from __future__ import annotations

from functools import cache
from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nodeyard.provisioning.covering import covering
from nodeyard.provisioning.effort import Effort
from nodeyard.provisioning.pattern_program import Ceiling, Joining, Keeping, Model, Together
from nodeyard.provisioning.patterns import PatternSolver

RULES = ("together", "apart", "beside", "joining", "keeping")
A, B = (0, 1), (2, 3)
"""Lots of the first and the second kind, in each of two domains."""


@st.composite
def models(draw: st.DrawFn, rule: str) -> Model:
    """Two kinds of up to three pods, up to four columns in two domains; the rule binds the first kind."""
    columns = draw(st.integers(1, 4))
    each = [[draw(st.integers(1, 5)), draw(st.integers(0, 3))] for _ in range(2)]
    demand = [draw(st.integers(1, 3)), draw(st.integers(1, 3))]
    room = np.array([[draw(st.integers(4, 12)), draw(st.integers(2, 8))] for _ in range(columns)], np.float64)
    cost = np.array([draw(st.integers(1, 30)) / 10 for _ in range(columns)])
    domain = np.array([draw(st.integers(0, 1)) for _ in range(columns)])
    model = Model(
        np.array([each[0], each[0], each[1], each[1]], np.float64), np.array([0, 0, 1, 1]),
        np.array(demand, np.float64), np.full(4, np.inf), np.array([domain == d for d in (0, 1, 0, 1)]),
        room, cost, np.full(columns, np.inf), np.zeros((columns, 0)), np.zeros(0),
    )  # fmt: skip
    match rule:
        case "together":
            model.together.append(Together(float(demand[0]), [[lot] for lot in A]))
        case "apart":
            model.ceilings += [Ceiling([lot], 1.0) for lot in A]
        case "beside":
            model.ceilings += [Ceiling([a], 0.0, [b], float(demand[0])) for a, b in zip(A, B, strict=True)]
        case "joining":
            model.joining.append(Joining([*A], [*B], [0] if draw(st.booleans()) else []))
        case "keeping":
            model.keeping.append(Keeping([*A], [*B]))
    return model


def keeps(model: Model, placed: tuple[int, ...]) -> bool:
    """Whether so many pods of each lot may be where they are."""
    for one in model.together:
        if sum(any(placed[lot] for lot in lots) for lots in one.lots_of) > 1:
            return False
    for ceiling in model.ceilings:
        mine, others = (sum(placed[lot] for lot in lots) for lots in (ceiling.lots, ceiling.others))
        if mine > ceiling.most + ceiling.each * others:
            return False
    return True


def cheapest(model: Model) -> float:
    """The optimum, by looking at everything; infinite where the pods have no place."""

    def holds(column: int, held: tuple[int, ...]) -> bool:
        counts = np.array(held)
        joined = all(
            column in one.free or not counts[one.lots].any() or counts[one.others].any()
            for one in model.joining
        )
        mixed = any(counts[one.lots].any() and counts[one.others].any() for one in model.keeping)
        return joined and not mixed and bool((counts @ model.request <= model.room[column]).all())

    @cache
    def rest(left: tuple[int, ...]) -> float:
        best = np.inf if any(left) else 0.0
        for column in range(len(model.cost)) if any(left) else ():
            for held in product(
                *(range(many + 1 if model.allowed[lot, column] else 1) for lot, many in enumerate(left))
            ):
                if any(held) and holds(column, held):
                    after = tuple(a - b for a, b in zip(left, held, strict=True))
                    best = min(best, float(model.cost[column]) + rest(after))
        return float(best)

    first, second = (int(d) for d in model.demand)
    ways = [(a, first - a, b, second - b) for a in range(first + 1) for b in range(second + 1)]
    return min((rest(way) for way in ways if keeps(model, way)), default=np.inf)


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_patterns_find_the_cheapest_plan_that_keeps_what_ties_lots(rule: str, data: st.DataObject) -> None:
    model = data.draw(models(rule))
    best = cheapest(model)
    assume(best < np.inf)
    answer = PatternSolver(model, lambda: 5.0).solve(best * 2, integer_s=2.0, good_enough=0.0)
    assert answer.bound <= best + 1e-6
    assert answer.cost == pytest.approx(best)
    assert keeps(model, tuple(answer.delivered.tolist()))
    for column, counts, _ in answer.nodes:
        for one in model.joining:
            assert column in one.free or not counts[one.lots].any() or counts[one.others].any()
        for bar in model.keeping:
            assert not (counts[bar.lots].any() and counts[bar.others].any())


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=40, deadline=None)
@given(st.data())
def test_whole_nodes_bound_every_plan_that_keeps_what_ties_lots(rule: str, data: st.DataObject) -> None:
    model = data.draw(models(rule))
    best = cheapest(model)
    assume(best < np.inf)
    fits = np.asarray(model.allowed & (model.room[None] >= model.request[:, None]).all(axis=2), np.bool_)
    columns, most = np.nonzero(fits.any(axis=0))[0], model.demand[model.group]
    assert covering(model, columns, fits, most, best * 1.5, 5.0, Effort(), 0.003) <= best + 1e-9

"""The bound by whole nodes against a search over every plan: never above the cheapest, and at it where room decides."""

from __future__ import annotations

from functools import cache
from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nodeyard.provisioning.covering import covering
from nodeyard.provisioning.effort import Effort
from nodeyard.provisioning.pattern_program import Model, Spread


@st.composite
def models(draw: st.DrawFn) -> Model:
    """Up to three lots, some of them one kind spread over domains, and up to three columns, one of which may exist once."""
    lots, columns = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    spread = lots > 1 and draw(st.booleans())
    group = [0] * lots if spread else list(range(lots))
    demand = [float(draw(st.integers(1, 5))) for _ in range(1 if spread else lots)]
    each = [[draw(st.integers(1, 4)), draw(st.integers(0, 3))] for _ in range(1 if spread else lots)]
    request = np.array([each[g] for g in group], np.float64)
    room = np.array([[draw(st.integers(3, 9)), draw(st.integers(2, 7))] for _ in range(columns)], np.float64)
    cost = np.array([draw(st.integers(1, 30)) / 10 for _ in range(columns)])
    times = np.full(columns, np.inf)
    if draw(st.booleans()):
        times[0], cost[0] = 1.0, 0.0
    allowed = np.array([[draw(st.integers(0, 3)) > 0 for _ in range(columns)] for _ in range(lots)])
    skew = Spread(draw(st.integers(1, 2)), [[lot] for lot in range(lots)], [0] * lots)
    return Model(
        request, np.array(group), np.array(demand), np.full(lots, np.inf), allowed, room, cost, times,
        np.zeros((columns, 0)), np.zeros(0), [skew] if spread else [],
    )  # fmt: skip


def fits_of(model: Model) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    return np.asarray(model.allowed & (model.room[None] >= model.request[:, None]).all(axis=2), np.bool_)


def cheapest(model: Model) -> float:
    """The optimum, by looking at everything; infinite where the pods have no place."""
    fits, lots = fits_of(model), range(model.lots)

    @cache
    def rest(left: tuple[int, ...], free: bool) -> float:
        best = np.inf if any(left) else 0.0
        for column in range(len(model.cost)):
            once = bool(np.isfinite(model.times[column]))
            if not any(left) or (once and not free):
                continue
            for held in product(*(range(left[lot] + 1 if fits[lot, column] else 1) for lot in lots)):
                if any(held) and (np.array(held) @ model.request <= model.room[column]).all():
                    after = tuple(a - b for a, b in zip(left, held, strict=True))
                    best = min(best, float(model.cost[column]) + rest(after, free and not once))
        return best

    if not model.spreads:
        return rest(tuple(int(d) for d in model.demand), True)
    total, skew = int(model.demand[0]), model.spreads[0].skew
    ways = [w for w in product(range(total + 1), repeat=model.lots) if sum(w) == total]
    return min((rest(way, True) for way in ways if max(way) - min(way) <= skew), default=np.inf)


def bound(model: Model, upper: float) -> float:
    fits = fits_of(model)
    columns = np.nonzero(fits.any(axis=0))[0]
    most = model.demand[model.group]
    return covering(model, columns, fits, most, upper, 5.0, Effort(), 0.003)


@settings(max_examples=120, deadline=None)
@given(models(), st.sampled_from([1.0, 1.5, 4.0]))
def test_the_bound_is_never_above_the_cheapest_plan(model: Model, dearer: float) -> None:
    best = cheapest(model)
    assume(best < np.inf)
    assert bound(model, best * dearer) <= best + 1e-9


def test_a_last_node_is_bought_whole() -> None:
    request, room, cost = np.array([[1.0]]), np.array([[4.0]]), np.array([1.0])
    model = Model(
        request, np.array([0]), np.array([9.0]), np.array([np.inf]), np.array([[True]]), room, cost,
        np.array([np.inf]), np.zeros((1, 0)), np.zeros(0),
    )  # fmt: skip
    assert bound(model, 10.0) == pytest.approx(3.0, rel=1e-3)


def test_pods_that_only_some_columns_take_need_nodes_of_those() -> None:
    """Two pods for the dear column only, two for any: together they would fill two cheap nodes."""
    request, room, cost = np.array([[1.0], [1.0]]), np.array([[2.0], [2.0]]), np.array([1.0, 5.0])
    model = Model(
        request, np.array([0, 1]), np.array([2.0, 2.0]), np.full(2, np.inf), np.array([[True, True], [False, True]]),
        room, cost, np.full(2, np.inf), np.zeros((2, 0)), np.zeros(0),
    )  # fmt: skip
    assert bound(model, 20.0) == pytest.approx(6.0, rel=1e-3)

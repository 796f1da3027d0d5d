"""The search of few nodes in full against a search over everything: the optimum, and never a bound above it."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodeyard.provisioning import frontier
from nodeyard.provisioning.frontier import Frontier
from nodeyard.provisioning.labelled import Floats, Ints

Cover = tuple[Ints, Floats, Floats]


@st.composite
def covers(draw: st.DrawFn) -> Cover:
    """(pods per pattern and lot, cost per pattern, demand); every lot has a pattern."""
    lots = draw(st.integers(1, 3))
    demand = [draw(st.integers(1, 5)) for _ in range(lots)]
    some = [[draw(st.integers(0, 4)) for _ in range(lots)] for _ in range(draw(st.integers(0, 5)))]
    counts = np.array([*some, *np.eye(lots, dtype=np.int64).tolist()], np.int64)
    cost = np.array([draw(st.integers(1, 20)) / 10 for _ in range(len(counts))])
    return np.minimum(counts, demand), cost, np.array(demand, np.float64)


def worth(counts: Ints, cost: Floats, demand: Floats) -> Floats:
    """A worth per pod, the same for all lots, by which no pattern is worth more than its cost."""
    pods = counts.sum(axis=1)
    return np.full(len(demand), float((cost[pods > 0] / pods[pods > 0]).min()))


def cheapest(counts: Ints, cost: Floats, demand: Floats) -> float:
    """The optimum, by looking at everything."""

    @cache
    def rest(left: tuple[int, ...]) -> float:
        if not any(left):
            return 0.0
        ways = []
        for pods, price in zip(counts.tolist(), cost.tolist(), strict=True):
            after = tuple(max(a - b, 0) for a, b in zip(left, pods, strict=True))
            if after != left:
                ways.append(price + rest(after))
        return min(ways)

    return rest(tuple(int(d) for d in demand))


@settings(max_examples=80, deadline=None)
@given(covers())
def test_finds_the_optimum_and_proves_it(cover: Cover) -> None:
    counts, cost, demand = cover
    best = cheapest(*cover)
    found = Frontier(counts, cost, demand, worth(*cover)).search(best * 2 + 1, lambda: 10.0)
    assert found.cost == pytest.approx(best)
    assert found.low == pytest.approx(best)
    assert float(cost[found.patterns].sum()) == pytest.approx(best)
    assert (counts[found.patterns].sum(axis=0) >= demand).all()


@settings(max_examples=80, deadline=None)
@given(covers())
def test_keeps_its_bound_below_every_plan_where_states_are_too_many_to_keep(cover: Cover) -> None:
    counts, cost, demand = cover
    best = cheapest(*cover)
    narrow = Frontier(counts, cost, demand, worth(*cover))
    found = narrow._pass(1, best * 2 + 1, lambda: 10.0)
    assert found.low <= best + 1e-9 or found.cost == pytest.approx(best)


def test_says_what_no_plan_is_below_when_it_runs_out_of_time() -> None:
    counts, cost = np.array([[3, 1], [1, 3], [2, 2]]), np.array([1.0, 1.0, 0.9])
    demand = np.array([40.0, 40.0])
    looks = iter([1.0, 1.0, *[0.0] * 50])
    found = Frontier(counts, cost, demand, worth(counts, cost, demand)).search(30.0, lambda: next(looks))
    assert found.patterns == []
    assert found.low <= cheapest(counts, cost, demand)


def test_a_search_that_finds_nothing_cheaper_proves_the_plan_at_hand() -> None:
    counts, cost, demand = np.array([[2]]), np.array([1.0]), np.array([3.0])
    found = Frontier(counts, cost, demand, worth(counts, cost, demand)).search(2.0, lambda: 10.0)
    assert found.patterns == []
    assert found.low == 2.0


def test_too_many_states_to_number_are_left_to_others() -> None:
    lots = 40
    counts, cost = np.eye(lots, dtype=np.int64), np.ones(lots)
    demand = np.full(lots, 10.0)
    assert 11.0**lots > frontier._MOST_CODES
    found = Frontier(counts, cost, demand, np.ones(lots)).search(1e9, lambda: 10.0)
    assert (found.low, found.patterns) == (400.0, [])

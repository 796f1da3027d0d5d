"""Many small nodes bought at once as whole fillings: each fits, what is left is told, and little room is wasted."""

from __future__ import annotations

import time

import numpy as np
import pytest

from nodeyard.provisioning.blending import blended
from nodeyard.provisioning.compiling import compile_problem
from nodeyard.provisioning.effort import Effort
from nodeyard.provisioning.field import Field, Seat
from nodeyard.provisioning.linear import Kinds, Market, Relaxation, relax
from nodeyard.provisioning.lots import Bin, Lots, Shop, fits_of
from nodeyard.provisioning.model import Options
from nodeyard.provisioning.planner import plan
from tests.benchmark.planning_problems import diverse, linear_catalogue, problem_of

ONE_EACH = 1.0


def market(seed: int, pods: int = 40) -> tuple[Lots, Shop]:
    """Lots of six sizes, two of each: one free, one of which a node holds one pod, and which keeps off a third kind."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 6, (6, 2)).astype(float)
    request = np.repeat(sizes, 2, axis=0)
    room = np.array([[4.0, 4.0], [7.0, 6.0], [9.0, 11.0], [16.0, 16.0]])
    most = np.tile([1e9, ONE_EACH], 6)
    carries = np.zeros((12, 1), np.bool_)
    matches = np.zeros((12, 1), np.bool_)
    carries[1], matches[2] = True, True
    lots = Lots(
        request, rng.integers(pods // 2, pods, 12), np.zeros(12, np.int64), np.ones((1, 4), np.bool_), most,
        carries, matches, np.zeros(1, np.int64),
    )  # fmt: skip
    return lots, Shop(room, room.sum(axis=1) ** 0.98, np.zeros((4, 0)), np.zeros(0))


def bought(lots: Lots, shop: Shop) -> tuple[list[Bin], np.ndarray, Relaxation]:
    """(nodes, pods left of each lot, the relaxation of them all)."""
    fits, left = fits_of(lots, shop), lots.demand.copy()
    nowhere = np.flatnonzero(~fits.any(axis=1))
    left[nowhere] = 0
    anywhere = fits.copy()
    anywhere[nowhere] = True
    now = relax(
        Kinds(lots.request, np.maximum(left, 1e-9).astype(float), anywhere),
        Market(shop.room, shop.cost, shop.use, shop.left),
    )
    bins = blended(lots, shop, fits, np.ones(2, np.bool_), now, np.arange(4), left, Effort())
    return bins, left, now


@pytest.mark.parametrize("seed", range(12))
def test_nodes_hold_what_fits_and_what_no_term_forbids(seed: int) -> None:
    lots, shop = market(seed)
    bins, left, _ = bought(lots, shop)
    assert bins
    held = np.zeros(lots.count, np.int64)
    for one in bins:
        assert (one.counts > 0).all()
        assert (one.counts @ lots.request[one.lots] <= shop.room[one.column] + 1e-6).all()
        assert (one.counts <= lots.most[one.lots]).all()
        assert not ({1, 2} <= {*one.lots.tolist()})
        held[one.lots] += one.counts
    placeable = fits_of(lots, shop).any(axis=1)
    assert (held + left == np.where(placeable, lots.demand, 0)).all()


@pytest.mark.parametrize("seed", range(4))
def test_most_pods_find_a_node_at_hardly_more_than_the_relaxation(seed: int) -> None:
    lots, shop = market(seed, 200)
    lots.most[:], lots.carries[:] = 1e9, False
    bins, left, now = bought(lots, shop)
    placed = np.where(fits_of(lots, shop).any(axis=1), lots.demand, 0) - left
    assert placed.sum() > 10 * left.sum()
    assert shop.cost[[b.column for b in bins]].sum() < 1.1 * now.value @ placed


def test_few_nodes_are_left_to_be_packed_one_by_one() -> None:
    lots, shop = market(1, 3)
    bins, left, _ = bought(lots, shop)
    assert not bins
    assert left.sum() == lots.demand[fits_of(lots, shop).any(axis=1)].sum()


@pytest.mark.parametrize("seed", [1, 2])
def test_thousands_of_diverse_pods_on_small_nodes_are_planned_near_the_bound(seed: int) -> None:
    made = plan(problem_of(diverse(4_000, seed), linear_catalogue()), Options(), time.process_time)
    assert not made.unschedulable
    assert made.cost.gap is not None
    assert made.cost.gap < 0.03


def test_placing_many_seats_at_once_comes_to_the_same_as_one_after_the_other() -> None:
    setting = compile_problem(problem_of(diverse(300, 3), linear_catalogue()), Options())[0]
    states = [
        Field(setting.problem, setting.classes, setting.columns, setting.hosts, setting.rules)
        for _ in range(2)
    ]
    rng, seats = np.random.default_rng(1), []
    for state in states:
        state.add_nodes(np.array([390, 395, 399, 799, 1199]))
    for one in setting.classes.classes:
        nodes = rng.permutation(5)[: 1 + one.demand % 3].tolist()
        seats.append(Seat(one, one.carried, nodes, rng.integers(1, 4, len(nodes)).tolist()))
    for seat in seats:
        states[0].place(seat.one, seat.carried, np.array(seat.nodes), np.array(seat.counts))
    states[1].place_all(seats)
    assert [list(held.items()) for held in states[0].contents] == [
        list(held.items()) for held in states[1].contents
    ]
    for name in ("room", "matched", "carried"):
        assert (getattr(states[0], name) == getattr(states[1], name)).all()
    for number, term in states[0].by_domain.items():
        assert (term.matched == states[1].by_domain[number].matched).all()
        assert (term.carried == states[1].by_domain[number].carried).all()

"""The bounds against brute force: never above the cheapest packing, and patterns meet it where lots are few."""

from functools import cache

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from nodeyard.provisioning.kinds import whole_room
from nodeyard.provisioning.linear import Kinds, Market, relax
from nodeyard.provisioning.lots import Lots, Shop
from nodeyard.provisioning.packing import Packer
from nodeyard.provisioning.pattern_program import Model
from nodeyard.provisioning.patterns import PatternSolver

Small = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@st.composite
def problems(draw: st.DrawFn) -> Small:
    """(request, demand, room, cost): up to three kinds of few pods, up to four columns."""
    kinds, columns = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    request = [[draw(st.integers(1, 6)), draw(st.integers(1, 6))] for _ in range(kinds)]
    demand = [draw(st.integers(1, 3)) for _ in range(kinds)]
    room = [[draw(st.integers(6, 14)), draw(st.integers(6, 14))] for _ in range(columns)]
    cost = [draw(st.integers(1, 20)) / 10 for _ in range(columns)]
    return np.array(request, float), np.array(demand), np.array(room, float), np.array(cost)


def cheapest(problem: Small, least_of_first: int = 0) -> float:
    """The least cost of any packing with at least so many nodes of the first column, by trying every filling of every
    column.
    """
    request, demand, room, cost = problem

    @cache
    def least(left: tuple[int, ...], wanted: int) -> float:
        if not any(left):
            return wanted * float(cost[0])
        best = np.inf
        for counts in np.ndindex(*(n + 1 for n in left)):
            if not any(counts):
                continue
            load = np.array(counts) @ request
            rest = tuple(n - c for n, c in zip(left, counts, strict=True))
            for column in np.nonzero((room >= load).all(axis=1))[0].tolist():
                still = max(wanted - (column == 0), 0)
                best = min(best, float(cost[column]) + least(rest, still))
        return float(best)

    return least(tuple(int(d) for d in demand), least_of_first)


def market(room: np.ndarray, cost: np.ndarray) -> Market:
    return Market(room, cost, np.zeros((len(cost), 0)), np.zeros(0))


@settings(deadline=None, max_examples=60)
@given(problems())
def test_the_bound_never_exceeds_the_cheapest_packing_and_patterns_meet_it(problem: Small) -> None:
    request, demand, room, cost = problem
    best = cheapest(problem)
    allowed = (room[None] >= request[:, None]).all(axis=2)
    relaxed = relax(Kinds(request, demand.astype(float), allowed), market(room, cost))
    assert relaxed.bound <= best + 1e-6
    model = Model(
        request, np.arange(len(demand)), demand.astype(float), np.full(len(demand), np.inf), allowed, room, cost,
        np.full(len(cost), np.inf), np.zeros((len(cost), 0)), np.zeros(0),
    )  # fmt: skip
    answer = PatternSolver(model, lambda: 5.0).solve(best * 2, integer_s=2.0)
    assert relaxed.bound - 1e-6 <= answer.bound <= best + 1e-6
    assert abs(answer.cost - best) < 1e-6


@settings(deadline=None, max_examples=60)
@given(problems(), st.integers(1, 3))
def test_the_bound_never_exceeds_the_cheapest_packing_that_uses_enough_of_a_column(
    problem: Small, wanted: int
) -> None:
    request, demand, room, cost = problem
    allowed = (room[None] >= request[:, None]).all(axis=2)
    nobody = np.zeros((len(demand), 1), np.bool_)
    kinds = Kinds(request, demand.astype(float), np.concatenate([allowed, nobody], axis=1))
    last = len(cost)  # holds nothing and can stand for what is missing, at a price
    use = np.zeros((last + 1, 1))
    use[[0, last]] = -1.0
    enough = Market(
        np.concatenate([room, np.zeros((1, 2))]), np.append(cost, 100.0), use, np.array([-float(wanted)])
    )
    relaxed = relax(kinds, enough, extra=np.array([last]))
    assert relaxed.bound <= cheapest(problem, wanted) + 1e-6
    plain = relax(Kinds(request, demand.astype(float), allowed), market(room, cost)).bound
    assert relaxed.bound >= plain - 1e-6


@settings(deadline=None, max_examples=60)
@given(problems())
def test_a_packing_holds_every_pod_once_within_room_and_costs_hardly_more_than_the_least(
    problem: Small,
) -> None:
    request, demand, room, cost = problem
    none = np.zeros((len(demand), 0), np.bool_)
    lots = Lots(
        request, demand.astype(np.int64), np.zeros(len(demand), np.int64), np.ones((1, len(cost)), np.bool_),
        np.full(len(demand), 1e9), none, none, np.zeros(0, np.int64),
    )  # fmt: skip
    shop = Shop(room, cost, np.zeros((len(cost), 0)), np.zeros(0))
    packed = Packer(lots, shop, lambda: 0.0, exact_s=lambda: 1.0).run()
    held = np.zeros(len(demand), np.int64)
    for one in packed.bins:
        assert (one.counts @ request[one.lots] <= room[one.column]).all()
        held[one.lots] += one.counts
    assert (held == demand).all()
    assert not packed.left.any()
    assert sum(cost[b.column] for b in packed.bins) <= cheapest(problem) * 1.005 + 1e-9


def test_parts_of_a_packing_that_share_no_columns_are_each_packed_as_well_as_if_alone() -> None:
    """Pods dealt to zones make such parts; here are more lots in all than one program may hold, of three pods each."""
    parts = 21
    request = np.array([[7.0, 6.0], [5.0, 3.0], [4.0, 2.0]])
    room, cost = np.array([[10.0, 10.0], [21.0, 20.0]]), np.array([1.1, 2.0])
    none = np.zeros((3 * parts, 0), np.bool_)
    lots = Lots(
        np.tile(request, (parts, 1)), np.ones(3 * parts, np.int64), np.repeat(np.arange(parts), 3),
        np.repeat(np.eye(parts, dtype=np.bool_), 2, axis=1), np.full(3 * parts, 1e9), none, none,
        np.zeros(0, np.int64),
    )  # fmt: skip
    costs = np.tile(cost, parts)
    shop = Shop(np.tile(room, (parts, 1)), costs, np.zeros((len(costs), 0)), np.zeros(0))
    packed = Packer(lots, shop, lambda: 0.0, exact_s=lambda: 10.0).run()
    assert not packed.left.any()
    assert sum(costs[b.column] for b in packed.bins) <= parts * 2.0 + 1e-9


# --- room that nobody can use -------------------------------------------------------------------------------------------
@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=4),
    st.integers(1, 5),
    st.integers(0, 200),
    st.lists(st.integers(0, 6), min_size=4, max_size=4),
)
def test_a_load_fits_the_room_it_can_use_exactly_where_it_fits_the_room(
    sizes: list[int], step: int, room: int, counts: list[int]
) -> None:
    request = np.array(sizes, float)[:, None] * step
    usable = float(whole_room(request, np.array([[float(room)]]))[0, 0])
    load = float(np.array(counts[: len(sizes)]) @ request[:, 0])
    assert (load <= usable) == (load <= room)
    assert usable <= room


def test_requests_that_are_multiples_of_something_leave_the_rest_of_a_node_empty() -> None:
    request = np.array([[1500.0, 100.0], [250.0, 0.0], [100.0, 256.0]])
    assert whole_room(request, np.array([[1930.0, 3114.0]])).tolist() == [[1900.0, 3112.0]]

"""Nodes packed anew as one mix of fillings: everything is placed, everything fits, and what could be perfect nearly is."""

from __future__ import annotations

import numpy as np
import pytest

from nodeyard.provisioning.effort import Effort
from nodeyard.provisioning.labelled import Bools, Floats
from nodeyard.provisioning.linear import Kinds, Market, relax
from nodeyard.provisioning.lots import Bin
from nodeyard.provisioning.mixer import Mixer
from nodeyard.provisioning.mixing import mixed
from nodeyard.provisioning.model import Options
from nodeyard.provisioning.planner import plan
from tests.support.drafts import broken, hasty, placed, setting_of, split
from tests.support.planning import posed
from tests.support.problems import KINDS

MIX_S = 1.0


def mixer_of(request: Floats, room: Floats, cost: Floats, allowed: Bools, seconds: float = MIX_S) -> Mixer:
    work = Effort()
    return Mixer(request, room, cost, allowed, work.budget(seconds), work)


def one_by_one(demand: list[int], fits: Bools, cost: Floats) -> list[Bin]:
    """A node for every pod, the cheapest that holds it."""
    cheapest = np.where(fits, cost[None], np.inf).argmin(axis=1)
    each = np.repeat(np.arange(len(demand)), demand).tolist()
    return [Bin(int(cheapest[lot]), np.array([lot]), np.array([1])) for lot in each]


def spread_out(seed: int) -> tuple[Floats, Floats, Floats, Bools, list[int]]:
    """(requests, room, cost, what is allowed where, demand) of a random small problem that has an answer."""
    rng = np.random.default_rng(seed)
    lots, columns = int(rng.integers(1, 9)), int(rng.integers(1, 6))
    room = rng.integers(8, 40, (columns, 2)).astype(float)
    request = rng.integers(1, 9, (lots, 2)).astype(float)
    request[rng.random(lots) < 0.3, 1] = 0.0
    if rng.random() < 0.5:  # and something that one lot alone asks for
        own = rng.integers(1, 4, columns).astype(float)
        room = np.column_stack([room, own])
        request = np.column_stack([request, np.eye(lots)[:, rng.integers(lots)]])
    allowed = rng.random((lots, columns)) < 0.7
    allowed[:, 0] = True
    return request, room, room.sum(axis=1) * rng.uniform(0.8, 1.2, columns), allowed, rng.integers(1, 30, lots).tolist()  # fmt: skip


@pytest.mark.parametrize("seed", range(20))
def test_every_pod_is_on_a_node_that_holds_it(seed: int) -> None:
    request, room, cost, allowed, demand = spread_out(seed)
    fits = allowed & (room[None] >= request[:, None]).all(axis=2)
    bins = mixer_of(request, room, cost, allowed).run(one_by_one(demand, fits, cost))
    assert bins is not None
    total = np.zeros(len(demand), np.int64)
    for one in bins:
        assert len({*one.lots.tolist()}) == len(one.lots)
        assert fits[one.lots, one.column].all()
        assert (one.counts @ request[one.lots] <= room[one.column] + 1e-6).all()
        total[one.lots] += one.counts
    assert total.tolist() == demand


def test_pods_that_fill_nodes_perfectly_nearly_do() -> None:
    """Forty nodes were filled to the brim at random; their pods, one node each, come back within two percent of that."""
    rng = np.random.default_rng(3)
    request = rng.integers(2, 30, (30, 2)).astype(float)
    room, cost = np.array([[100.0, 100.0], [50.0, 50.0]]), np.array([1.0, 0.52])
    demand, nodes, last = np.zeros(32, np.int64), 40, []
    for _ in range(nodes):
        free = room[0].copy()
        while len(able := np.nonzero((request <= free).all(axis=1))[0]):
            lot = int(rng.choice(able))
            demand[lot] += 1
            free -= request[lot]
        last.append(free)
    request = np.concatenate([request, [[1.0, 0.0], [0.0, 1.0]]])
    demand[30:] = np.array(last).sum(axis=0).astype(np.int64)
    allowed = np.ones((32, 2), np.bool_)
    bins = mixer_of(request, room, cost, allowed, 3.0).run(one_by_one(demand.tolist(), allowed, cost))
    assert bins is not None
    assert nodes <= sum(cost[b.column] for b in bins) <= nodes * 1.02


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("preferring", "all different")])
def test_mixing_places_the_same_pods_for_no_more_and_breaks_nothing(kind: str) -> None:
    setting = setting_of(kind, 2)
    before = hasty(setting)
    domains = {n: (t.matched.copy(), t.carried.copy()) for n, t in before.state.by_domain.items()}
    after = mixed(setting, before, setting.effort.budget(0.3))
    assert after.cost <= before.cost
    assert placed(after) == placed(before)
    assert broken(setting, after) == []
    assert (after.limits.left >= np.minimum(before.limits.left, 0.0) - 1e-6).all()
    for number, (matched, carried) in domains.items():
        assert (after.state.by_domain[number].matched == matched).all()
        assert (after.state.by_domain[number].carried == carried).all()


@pytest.mark.parametrize("kind", ["plain deployments", "zone spread", "node affinities"])
def test_a_plan_spread_out_over_too_many_nodes_comes_out_much_cheaper(kind: str) -> None:
    setting = setting_of(kind, 1)
    poor = split(setting, hasty(setting))
    after = mixed(setting, poor, setting.effort.budget(MIX_S))
    assert after.cost < 0.7 * poor.cost
    assert placed(after) == placed(poor)


def test_a_plan_that_is_mixed_comes_within_a_hundredth_of_its_bound() -> None:
    problem = posed(KINDS["plain deployments"](1))
    made = plan(problem, Options(deadline_s=60.0, search_s=0.2, mixing_s=3.0), lambda: 0.0)
    assert made.cost.gap is not None
    assert made.cost.gap < 0.01


def test_without_time_the_plan_is_what_it_was() -> None:
    setting = setting_of("plain deployments", 1)
    draft = hasty(setting)
    assert mixed(setting, draft, lambda: 0.0) is draft


def test_a_poor_plan_of_very_different_pods_does_not_end_the_search_for_fillings() -> None:
    """Before there are many fillings the program's worths leap, and nothing made by them alone is of any use for long."""
    rng = np.random.default_rng(5)
    request = np.column_stack(
        [rng.choice([1.0, 2.5, 5.0, 10.0, 15.0], 40), rng.choice([1.0, 5.0, 10.0, 20.0, 40.0], 40)]
    )
    room, cost = np.array([[19.3, 31.0], [39.2, 141.0], [79.1, 140.0]]), np.array([0.0294, 0.0558, 0.1])
    demand, allowed = rng.integers(1, 6, 40), np.ones((40, 3), np.bool_)
    fits = allowed & (room[None] >= request[:, None]).all(axis=2)
    bins = mixer_of(request, room, cost, allowed, 3.0).run(one_by_one(demand.tolist(), fits, cost))
    assert bins is not None
    kinds = Kinds(request, demand.astype(float), fits)
    low = relax(kinds, Market(room, cost, np.zeros((3, 0)), np.zeros(0))).bound
    assert sum(cost[b.column] for b in bins) < 1.04 * low

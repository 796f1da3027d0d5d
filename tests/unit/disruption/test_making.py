"""Which node of a target is made next: the one that takes most of the pods for its cost."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from nodeyard.api import labels as keys
from nodeyard.api.node import Node
from nodeyard.disruption.arrangement import Place
from nodeyard.disruption.making import Making
from nodeyard.disruption.neighbours import TopologyGuard
from nodeyard.state.cluster import Snapshot

ZONES = ("a", "b")


class ByZone(TopologyGuard):
    """As if a term over zones looked at the pods of two shapes."""

    def __init__(self) -> None:
        super().__init__(Snapshot())
        self.keys, self.involved = (keys.ZONE,), frozenset({"s0", "s1"})


@pytest.mark.parametrize("seed", range(15))
def test_the_best_is_the_best_of_all_looked_at_one_by_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    places, wants = {}, {}
    for i in range(12):
        node = Node(f"n{i}", labels={keys.ZONE: ZONES[i % 2]})
        places[node.name] = Place(node, price=float(rng.integers(1, 9)))
        wants[node.name] = Counter({f"s{j}": int(rng.integers(0, 5)) for j in range(6)})
    rest = Counter({f"s{j}": int(rng.integers(0, 9)) for j in range(7)})
    made, barred = {"n3", "n4"}, {"n7", "n8"}
    cell = (ZONES[int(rng.integers(2))],) if seed % 3 else None

    def worth(name: str) -> float:
        near = cell is None or places[name].node.labels[keys.ZONE] == cell[0]
        tied = {"s0", "s1"}
        taken = sum(min(many, wants[name][s]) for s, many in rest.items() if near or s not in tied)
        return taken / places[name].cost

    open_ = places.keys() - made - barred
    making = Making(wants, places, ByZone())
    found = making.best(rest, making.among(made), cell, lambda name: name not in barred)
    assert found in open_
    assert worth(found) == max(map(worth, open_))


def test_none_takes_pods_that_no_node_is_meant_for() -> None:
    node = Node("n")
    making = Making({"n": Counter({"s": 2})}, {"n": Place(node, price=1.0)}, ByZone())
    assert making.best(Counter({"t": 1}), making.among(()), None, lambda _: True) == ""
    assert making.best(Counter({"s": 1}), making.among(["n"]), None, lambda _: True) == ""

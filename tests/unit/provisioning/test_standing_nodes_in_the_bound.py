"""Standing nodes in what is proved: they cost nothing, but there is only so much of them."""

from __future__ import annotations

from tests.support.invented_market import ZONES, invented
from tests.support.kube_rules import ZONE
from tests.support.manifests import node, pods, pool
from tests.support.planning import solve
from tests.support.problems import PlanningProblem


def test_a_bound_is_found_where_several_standing_nodes_hold_only_some_of_the_pods() -> None:
    """Each of the nodes is good for other pods, and all of them together hold a few."""
    standing = [node(f"n{i}", zone) for i, zone in enumerate(ZONES[:3])]
    own = [
        p for i, zone in enumerate(ZONES[:3]) for p in pods(f"own{i}", 2, 300, 500, nodeSelector={ZONE: zone})
    ]
    problem = PlanningProblem("", [pool(), *standing, *own, *pods("app", 40, 900, 1500)], invented(40, 4))
    made = solve(problem).plan
    assert made.nodes
    assert made.cost.gap is not None
    assert made.cost.gap < 0.06

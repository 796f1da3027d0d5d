"""Small problems cut out of a cluster: pods that terms over zones concern stay in theirs, everything else is free."""

from __future__ import annotations

from nodeyard.api import labels as keys
from nodeyard.api.pod import PodKey
from nodeyard.api.selectors import LabelSelector, TopologySpreadConstraint
from nodeyard.disruption.arrangement import Arrangement, place_of
from nodeyard.disruption.candidates import candidates
from nodeyard.disruption.neighbours import TopologyGuard
from nodeyard.disruption.parts import Parts
from nodeyard.provisioning.model import Problem
from tests.support.disruption import NOW, Builder, catalogue

SPREAD = TopologySpreadConstraint(
    max_skew=1,
    topology_key=keys.ZONE,
    when_unsatisfiable="DoNotSchedule",
    label_selector=LabelSelector({"app": "even"}),
)


def two_zones() -> tuple[Arrangement, Parts]:
    """One node in each of two zones, each with a pod of an even deployment and a free one; a third node has room."""
    made = Builder()
    made.pool()
    made.shape("even", 500, labels={"app": "even"}, topology_spread_constraints=(SPREAD,))
    for name, zone in (("a", "za"), ("b", "zb"), ("room", "za")):
        labels = {keys.ZONE: zone, keys.NODEPOOL: "default", keys.INSTANCE_TYPE: "m5.large"}
        labels |= {keys.CAPACITY_TYPE: keys.ON_DEMAND, keys.INITIALIZED: "true"}
        made.node(name, "m5.large", labels=labels)
        made.pod(f"even-{name}", name, shape="even")
        made.pod(f"free-{name}", name)
    view = made.view()
    places = {c.node: place_of(c, view.snapshot.nodes[c.node], True) for c in candidates(view)}
    held = {name: tuple(sorted(view.snapshot.pods_on[name])) for name in places}
    guard = TopologyGuard(view.snapshot)
    return Arrangement(view.snapshot, places, held), Parts(view.snapshot, guard, NOW)


def zone_of(problem: Problem, pod: PodKey) -> str | None:
    shape = problem.snapshot.shape(problem.snapshot.pods[pod])
    return shape.node_selector.get(keys.ZONE)


def test_pods_that_are_spread_stay_in_their_zones_and_others_are_free() -> None:
    now, parts = two_zones()
    problem = parts.part(now, ["a", "b"], ["room"], {"": catalogue()}, beside=True)
    assert {pod: zone_of(problem, pod) for pod in problem.pods} == {
        "default/even-a": "za",
        "default/even-b": "zb",
        "default/free-a": None,
        "default/free-b": None,
    }


def test_terms_over_zones_are_left_out_of_standing_pods_too() -> None:
    now, parts = two_zones()
    problem = parts.part(now, ["a"], ["room"], {"": catalogue()}, beside=True)
    shapes = problem.snapshot.shapes.values()
    assert not any(shape.topology_spread_constraints for shape in shapes)
    assert problem.snapshot.pods["default/even-room"].node == "room"


def test_pools_buy_in_no_zone_that_the_spread_pods_were_not_in() -> None:
    now, parts = two_zones()
    both = parts.part(now, ["a", "b"], [], {"": catalogue()}, beside=True)
    assert _zones(both) == {"za", "zb"}
    one = parts.part(now, ["b"], [], {"": catalogue()}, beside=True)
    assert _zones(one) == {"zb"}


def _zones(problem: Problem) -> set[str]:
    wanted = [r for r in problem.snapshot.pools["default"].requirements if r.key == keys.ZONE]
    assert [r.operator for r in wanted] == ["In"]
    return set(wanted[0].values)

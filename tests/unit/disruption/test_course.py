"""Where a cluster could be in one go, as commands one after the other, and what keeps the next from beginning."""

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from nodeyard.api import labels as keys
from nodeyard.api.pool import Budget
from nodeyard.api.selectors import LabelSelector, TopologySpreadConstraint
from nodeyard.disruption.course import best_course, calm, still_holds
from nodeyard.disruption.judgement import Pass
from nodeyard.disruption.methods import LIVE, decide
from nodeyard.disruption.model import Block, Course, Rule, View
from nodeyard.provisioning.keeping import kind_of
from tests.support.disruption import TYPES, Builder, catalogue, first_fit

ALL = (Budget("100%"),)
NOTHING_CHEAPER = {"default": catalogue({"m5.xlarge": TYPES["m5.xlarge"]}, spot=1.0)}


def half_empty(
    nodes: int = 8, *, shape: str = "web", budgets: Sequence[Budget] = ALL, **pods: Any
) -> Builder:
    """Nodes of four cores that hold a core each; two of them would do."""
    build = Builder()
    build.pool(budgets=budgets)
    build.shape("zonal", 500, labels={"app": "zonal"}, topology_spread_constraints=(_over_zones(),))
    for n in range(nodes):
        build.node(f"n{n}", "m5.xlarge")
        for p in range(2):
            build.pod(f"p{n}-{p}", f"n{n}", **{"shape": shape, "owner_uid": f"u{p}", **pods})
    return build


def _over_zones() -> TopologySpreadConstraint:
    return TopologySpreadConstraint(
        max_skew=1,
        topology_key=keys.ZONE,
        when_unsatisfiable="DoNotSchedule",
        label_selector=LabelSelector({"app": "zonal"}),
    )


def clock() -> Callable[[], float]:
    """A twentieth of a second for every look at it, so that a search is short and always the same."""
    ticks = itertools.count()
    return lambda: next(ticks) / 20


def looked_for(view: View) -> Course | Block:
    return best_course(Pass(view, first_fit, clock()))[0]


def found(view: View) -> Course:
    course = looked_for(view)
    assert isinstance(course, Course), course
    return course


def why_not(view: View) -> Rule:
    block = looked_for(view)
    assert isinstance(block, Block)
    return block.rule


@pytest.fixture(scope="module")
def begun() -> tuple[Builder, Course]:
    return again()


def test_all_that_can_go_goes_and_every_pod_has_a_place_kept(begun: tuple[Builder, Course]) -> None:
    build, course = begun
    pods = build.snapshot.pods.values()
    need = Counter(kind_of(p) for p in pods if p.node in course.leaving)
    there = Counter(kind_of(p) for p in pods if p.node in course.kept)
    kept = Counter({(k.owner, k.shape): 0 for each in course.kept.values() for k in each})
    for each in (*course.kept.values(), *(k for c in course.commands for k in c.keeps)):
        kept.update({(k.owner, k.shape): k.pods for k in each})
    assert len(course.leaving) >= 5
    assert kept == need + there
    assert not course.leaving & course.kept.keys()


def test_pods_that_would_not_come_back_keep_their_nodes() -> None:
    assert why_not(half_empty(owner_uid="").view()) is Rule.SEVERAL_NODES


def test_pods_whose_zone_matters_keep_their_nodes() -> None:
    assert why_not(half_empty(shape="zonal").view()) is Rule.SEVERAL_NODES


def test_two_nodes_are_left_to_single_commands() -> None:
    assert why_not(half_empty(2).view()) is Rule.SEVERAL_NODES


def test_budgets_that_let_fewer_nodes_go_at_once_than_it_takes_leave_them_to_single_commands() -> None:
    assert why_not(half_empty(budgets=(Budget("2"),)).view()) is Rule.BUDGET
    assert len(found(half_empty(budgets=(Budget("8"),)).view()).leaving) == 8


def test_a_budget_of_nothing_means_no_course() -> None:
    assert why_not(half_empty(budgets=(Budget("0"),)).view()) is Rule.SEVERAL_NODES


def test_it_comes_before_every_other_method_and_is_said_of_each_node() -> None:
    build = half_empty()
    build.node("empty", "m5.xlarge")
    outcome = decide(build.view(), first_fit, clock(), methods=LIVE)
    assert outcome.course is not None
    assert outcome.command is None
    assert not outcome.quiet
    assert "empty" in outcome.course.leaving
    assert {p.node for p in outcome.proposals} == outcome.course.leaving


def test_how_far_the_cluster_stands_from_the_cheapest_is_told_with_and_without_a_course() -> None:
    for build in (half_empty(), half_empty(budgets=(Budget("2"),))):
        outcome = decide(build.view(), first_fit, clock(), methods=LIVE)
        assert (outcome.course is None) == bool(outcome.no_course)
        assert outcome.distance is not None
        assert outcome.distance.cost_per_hour == pytest.approx(sum(outcome.cost.values()))
        assert 0 < outcome.distance.least_per_hour < 0.7 * outcome.distance.cost_per_hour


def test_nothing_is_told_of_the_cheapest_where_no_search_was_made() -> None:
    assert decide(half_empty(2).view(), first_fit, clock(), methods=LIVE).distance is None


def test_a_cluster_is_not_calm_while_pods_look_for_a_place_or_nodes_come_or_go() -> None:
    build = half_empty()
    assert calm(build.view())
    assert calm(build.view(in_command=frozenset({"nothing-there"})))
    assert not calm(build.view(in_command=frozenset({"n0"})))
    build.pod("waits")
    assert not calm(build.view())
    build = half_empty()
    build.node("coming", initialized=False)
    assert not calm(build.view())
    build = half_empty()
    build.node("n0", claim={"deleted_at": build.now})
    assert not calm(build.view())


# --- the look before each command -------------------------------------------------------------------------------------
def stopped(build: Builder, course: Course, **view: Any) -> Rule | None:
    block = still_holds(course, build.view(**view))
    return block.rule if block is not None else None


def again() -> tuple[Builder, Course]:
    build = half_empty()
    course = found(build.view(catalogues=NOTHING_CHEAPER))
    assert course.kept
    return build, course


def test_an_unchanged_cluster_lets_it_begin(begun: tuple[Builder, Course]) -> None:
    assert stopped(*begun) is None


def test_a_pod_that_came_to_a_node_that_goes_stops_it() -> None:
    build, course = again()
    build.pod("late", course.commands[-1].nodes[0], owner_uid="u0")
    assert stopped(build, course) is Rule.CHANGED


def test_a_pod_that_went_leaves_it_as_it_is() -> None:
    build, course = again()
    node = course.commands[0].nodes[0]
    gone = next(p for p in build.snapshot.pods.values() if p.node == node)
    build.pod(gone.name, node, owner_uid=gone.owner_uid, phase="Succeeded")
    assert stopped(build, course) is None


def test_pods_that_took_the_room_stop_it() -> None:
    build, course = again()
    build.shape("large", 3500)
    build.pod("took-it", next(iter(course.kept)), shape="large")
    assert stopped(build, course) is Rule.CHANGED


def test_somebody_elses_pod_without_a_place_stops_it() -> None:
    build, course = again()
    build.pod("stranger")
    assert stopped(build, course) is Rule.PENDING_PODS


def test_a_node_that_is_not_there_any_more_stops_it() -> None:
    build, course = again()
    build.node(next(iter(course.kept)), claim={"deleted_at": build.now})
    assert stopped(build, course) is Rule.CHANGED


def test_a_budget_that_closed_stops_it() -> None:
    build, course = again()
    build.pool(budgets=(Budget("0"),))
    assert stopped(build, course) is Rule.BUDGET


def test_a_dearer_replacement_stops_it() -> None:
    build = half_empty()
    course = found(build.view())
    assert course.commands[0].replacements
    assert stopped(build, course) is None
    assert stopped(build, course, catalogues={"default": catalogue(spot=0.9)}) is Rule.CHANGED

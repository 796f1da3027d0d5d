"""What no course may do, told by oracles of its own over random clusters: leave a pod without a place of its kind, fill a
node beyond its room, pay more than a tenth or one node above the start, break a budget or do-not-disrupt, or end dearer.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from nodeyard.api import labels as keys
from nodeyard.api.pool import Budget
from nodeyard.disruption.course import best_course, calm, still_holds
from nodeyard.disruption.judgement import Pass
from nodeyard.disruption.model import Course, View
from nodeyard.provisioning.keeping import Kept
from tests.property.test_commands import POOLS, SIZES, allowed, free_to_go, to_move
from tests.support.disruption import TYPES, Builder, catalogue, first_fit

CAREFUL = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
SHARE = {keys.ON_DEMAND: 1.0, keys.SPOT: 1 / 3}
Drawn = tuple[View, dict[str, list[Budget]]]


def counted() -> Callable[[], float]:
    ticks = itertools.count()
    return lambda: next(ticks) / 20


@st.composite
def roomy(draw: st.DrawFn) -> Drawn:
    """Nodes with room to spare, and the budgets of their pools."""
    build = Builder()
    for id_, cpu in SIZES.items():
        build.shape(id_, cpu, labels={"app": id_, "tier": "any"})
    budgets: dict[str, list[Budget]] = {}
    for pool in POOLS:
        budgets[pool] = [Budget(draw(st.sampled_from(["100%"] * 6 + ["80%", "50%", "3", "1"])))]
        build.pool(pool, budgets=budgets[pool])
    for i in range(draw(st.integers(4, 8))):
        type_ = draw(st.sampled_from([t for t in sorted(TYPES) if t != "m5.large"]))
        protected = draw(st.sampled_from([{}] * 9 + [{keys.DO_NOT_DISRUPT: "true"}]))
        capacity_type = draw(st.sampled_from([keys.ON_DEMAND] * 3 + [keys.SPOT]))
        pool = draw(st.sampled_from(POOLS))
        build.node(f"n{i}", type_, pool=pool, capacity_type=capacity_type, annotations=protected)
        for j in range(draw(st.integers(0, 2))):
            asks = draw(st.sampled_from([""] * 14 + ["true", "1h"]))
            owner = draw(st.sampled_from(["u", "v", "w"] * 4 + [""]))
            shape = draw(st.sampled_from(sorted(SIZES)))
            build.pod(f"p{i}-{j}", f"n{i}", shape=shape, owner_uid=owner, do_not_disrupt=asks)
    for app in draw(st.sampled_from([(), (), ("s",), ("m",)])):
        build.pdb(app, draw(st.integers(0, 3)), {"app": app})
    return build.view(catalogues={"default": catalogue()}), budgets


def drawn_course(view: View) -> Course:
    assert calm(view)
    course, distance = best_course(Pass(view, first_fit, counted()))
    assert distance is None or distance.least_per_hour <= distance.cost_per_hour + 1e-9
    assume(isinstance(course, Course))
    assert isinstance(course, Course)
    return course


def cpu_of(kept: Iterable[Kept]) -> int:
    return sum(SIZES[k.shape] * k.pods for k in kept)


def price_of(view: View, name: str) -> float:
    labels = view.snapshot.nodes[name].labels
    return TYPES[labels[keys.INSTANCE_TYPE]][1] * SHARE[labels[keys.CAPACITY_TYPE]]


@CAREFUL
@given(roomy())
def test_every_pod_that_moves_finds_a_place_of_its_kind_when_its_turn_comes(drawn: Drawn) -> None:
    view, _ = drawn
    course = drawn_course(view)
    assert still_holds(course, view) is None
    places: Counter[tuple[str, str]] = Counter()
    for name, kept in course.kept.items():
        places.update({(k.owner, k.shape): k.pods for k in kept})
        places.subtract((p.owner_uid, p.shape) for p in to_move(view, name))
    for command in course.commands:
        for kept in command.keeps:
            places.update({(k.owner, k.shape): k.pods for k in kept})
        places.subtract((p.owner_uid, p.shape) for node in command.nodes for p in to_move(view, node))
        assert min(places.values(), default=0) >= 0
    assert not +places, "no place is kept that nobody comes to"


@CAREFUL
@given(roomy())
def test_no_node_is_to_hold_more_than_it_can(drawn: Drawn) -> None:
    view, _ = drawn
    course = drawn_course(view)
    for name, kept in course.kept.items():
        assert name not in course.leaving
        assert cpu_of(kept) <= view.snapshot.nodes[name].allocatable["cpu"]
    for command in course.commands:
        for node, kept in zip(command.replacements, command.keeps, strict=True):
            kinds = {node.instance_type, *(r.instance_type for r in node.alternatives)}
            assert all(cpu_of(kept) <= TYPES[kind][0] for kind in kinds)


@CAREFUL
@given(roomy())
def test_a_tenth_or_one_node_more_than_at_the_start_is_the_most_it_costs_and_no_command_leaves_it_dearer(
    drawn: Drawn,
) -> None:
    view, _ = drawn
    course = drawn_course(view)
    start = now = sum(price_of(view, name) for name in view.snapshot.nodes)
    dearest = max((n.price_per_hour for c in course.commands for n in c.replacements), default=0.0)
    for command in course.commands:
        now += sum(n.price_per_hour for n in command.replacements)
        assert now <= start + max(0.1 * start, dearest) + 1e-6
        now -= sum(price_of(view, name) for name in command.nodes)
        charges = 0.01 * (len(course.leaving) + len(course.commands))
        assert now <= start + charges
    assert now < start


@CAREFUL
@given(roomy())
def test_a_course_keeps_within_budgets_as_a_whole_and_touches_nothing_that_asks_to_be_left(
    drawn: Drawn,
) -> None:
    view, budgets = drawn
    course = drawn_course(view)
    pool_of = {name: node.pool for name, node in view.snapshot.nodes.items()}
    for command in course.commands:
        for pool in POOLS:
            going = sum(pool_of[name] == pool for name in command.nodes)
            assert going <= allowed(view, pool, budgets[pool], command.reason)
    for pool in POOLS:  # all of them are tainted at the beginning
        going = sum(pool_of[name] == pool for name in course.leaving)
        assert (
            all(going <= allowed(view, pool, budgets[pool], c.reason) for c in course.commands) or not going
        )
    for name in course.leaving:
        assert view.snapshot.nodes[name].annotations.get(keys.DO_NOT_DISRUPT) != "true"
        assert all(free_to_go(view, pod) and pod.owner_uid for pod in to_move(view, name))

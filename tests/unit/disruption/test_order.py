"""In which order ways and nodes are tried, and what moving a pod is taken to cost."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeyard.api import labels as keys
from nodeyard.api.node import Condition, Node, NodeClaim
from nodeyard.disruption.drift import DRIFTED, HASH_VERSION
from nodeyard.disruption.evictability import eviction_cost
from nodeyard.disruption.methods import decide, in_turn
from nodeyard.disruption.model import Candidate, Command, Options, Outcome, Reason
from nodeyard.state.cluster import Kind
from tests.support.disruption import NOW, Builder, catalogue, first_fit, shape


def drifted(build: Builder, name: str, since: float, *, pods: int = 1) -> tuple[Node, NodeClaim]:
    """A node made from another version of its pool."""
    stamps = {keys.NODEPOOL_HASH: "old", keys.NODEPOOL_HASH_VERSION: HASH_VERSION}
    node, claim = build.node(name, claim={"annotations": stamps})
    said = Condition(DRIFTED, "True", "NodePoolDrifted", "", since)
    build.put(
        Kind.NODE_CLAIM, claim.name, msgspec.structs.replace(claim, conditions=(*claim.conditions, said))
    )
    for place in range(pods):
        build.pod(f"{name}-p{place}", name)
    return node, claim


def command(build: Builder) -> Command:
    found = decide(build.view(), first_fit, lambda: 0.0).command
    assert found is not None
    return found


def test_empty_nodes_go_before_drifted_ones_and_these_before_under_used_ones() -> None:
    build = Builder()
    build.pool(hash="new")
    drifted(build, "drifted", NOW - 60)
    build.node("underused", "m5.4xlarge")
    build.pod("p", "underused")
    build.node("empty")
    first = command(build)
    assert (first.reason, first.nodes) == (Reason.EMPTY, ("empty",))
    build.put(Kind.NODE, "empty", None)
    second = command(build)
    assert (second.reason, second.nodes) == (Reason.DRIFTED, ("drifted",))
    build.put(Kind.NODE, "drifted", None)
    assert command(build).reason is Reason.UNDERUTILIZED


def test_one_method_acts_in_a_pass_and_the_others_wait_for_the_next() -> None:
    build = Builder()
    build.pool(hash="new")
    drifted(build, "drifted", NOW - 60)
    build.node("empty")
    outcome = decide(build.view(), first_fit, lambda: 0.0)
    assert list(outcome.judged) == ["emptiness"]


def test_under_used_nodes_are_tried_dearest_per_unit_of_disruption_first() -> None:
    cheap = Candidate("cheap", "c", pool="a", price_per_hour=0.1, eviction_cost=0.0)
    crowded = Candidate("crowded", "c", pool="a", price_per_hour=0.8, eviction_cost=15.0)
    dear = Candidate("dear", "c", pool="a", price_per_hour=0.4, eviction_cost=1.0)
    assert [c.node for c in in_turn([cheap, crowded, dear])] == ["dear", "cheap", "crowded"]


def test_pools_take_turns_whatever_their_size() -> None:
    big = [Candidate(f"big-{i}", "c", pool="big", price_per_hour=1.0) for i in range(3)]
    small = [Candidate("small-0", "c", pool="small", price_per_hour=0.1)]
    assert [c.node for c in in_turn([*big, *small])] == ["big-0", "small-0", "big-1", "big-2"]


def test_a_pool_that_a_pass_had_no_time_for_begins_in_the_next() -> None:
    build = Builder()
    for pool in ("a", "b", "c"):
        build.pool(pool)
        build.node(f"{pool}-node", "m5.large", pool=pool)
        build.pod(f"{pool}-pod", f"{pool}-node")
    dear = {"default": catalogue(spot=9.0)}

    def hurried(overdue: frozenset[str]) -> Outcome:
        moments = iter([0.0] * 4 + [1e6] * 99)
        return decide(
            build.view(overdue=overdue, catalogues=dear, options=Options(deadline_s=10.0)),
            first_fit,
            lambda: next(moments),
        )

    first = hurried(frozenset())
    assert first.overdue
    assert not hurried(first.overdue).overdue & first.overdue
    assert decide(build.view(catalogues=dear), first_fit, lambda: 0.0).overdue == frozenset()


@pytest.mark.parametrize(
    ("deletion_cost", "priority", "cost"),
    [
        (0, 0, 1.0),
        (2**27, 0, 2.0),
        (-(2**27), 0, 0.0),
        (0, 2**25, 2.0),
        (0, -(2**25), 0.0),
        (2**26, 2**24, 2.0),
        (2**31 - 1, 0, 10.0),
        (-(2**31), 0, -10.0),
        (0, 2_000_000_000, 10.0),
        (0, -(2**31), -10.0),
    ],
)
def test_an_eviction_costs_one_and_what_deletion_cost_and_priority_add_or_take(
    deletion_cost: int, priority: int, cost: float
) -> None:
    pod = Builder().pod("p", "a", deletion_cost=deletion_cost)
    assert eviction_cost(pod, shape("web", priority=priority)) == pytest.approx(cost, abs=1e-6)


INT32 = st.integers(-(2**31), 2**31 - 1)


@given(INT32, INT32, st.integers(-(2**31), 2_000_001_000))
def test_an_eviction_never_costs_less_for_a_higher_deletion_cost(low: int, high: int, priority: int) -> None:
    low, high = sorted((low, high))
    costs = [
        eviction_cost(Builder().pod("p", "a", deletion_cost=value), shape("web", priority=priority))
        for value in (low, high)
    ]
    assert -10.0 <= costs[0] <= costs[1] <= 10.0

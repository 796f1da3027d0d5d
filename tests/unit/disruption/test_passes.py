"""Passes: which nodes are removed or replaced, which stay, and why."""

import itertools
from collections.abc import Mapping

import msgspec

from nodeyard.api import labels as keys
from nodeyard.api.pool import Budget
from nodeyard.cloudprovider.model import Catalogue
from nodeyard.disruption.methods import decide
from nodeyard.disruption.model import Action, Options, Reason, Rule
from nodeyard.provisioning.model import Placement, Plan, Problem
from nodeyard.state.cluster import Kind
from tests.support.disruption import (
    NOW,
    Builder,
    catalogue,
    clock,
    first_fit,
    passed,
    rules,
    two_half_empty,
)


def test_a_node_whose_pods_fit_on_another_goes_without_a_replacement() -> None:
    build = Builder()
    two_half_empty(build)
    outcome = passed(build)
    assert outcome.command is not None
    assert (outcome.command.reason, outcome.command.action) == (Reason.UNDERUTILIZED, Action.DELETE)
    assert len(outcome.command.nodes) == 1


def test_a_policy_that_is_not_known_keeps_empty_nodes_too_and_the_rest_goes_on() -> None:
    build = Builder()
    build.pool(policy="WhenBored")
    build.pool("other")
    build.node("a")
    build.node("b", pool="other")
    outcome = passed(build)
    assert rules(outcome)["a"] is Rule.POLICY
    assert outcome.command is not None
    assert outcome.command.nodes == ("b",)


def test_when_empty_pools_keep_their_underused_nodes() -> None:
    build = Builder()
    two_half_empty(build)
    build.pool(policy="WhenEmpty")
    assert set(rules(passed(build)).values()) == {Rule.POLICY}


def test_a_node_is_replaced_by_a_cheaper_one_that_is_pinned_to_spot() -> None:
    build = Builder()
    build.pool()
    build.node("a", "m5.4xlarge")
    build.pod("p", "a")
    command = passed(build).command
    assert command is not None
    (new,) = command.replacements
    assert (new.instance_type, new.capacity_type) == ("m5.large", keys.SPOT)
    assert {ref.capacity_type for ref in new.alternatives} == {keys.SPOT}
    pinned = next(r for r in new.requirements if r.key == keys.CAPACITY_TYPE)
    assert pinned.values == (keys.SPOT,)


def test_every_offering_of_a_replacement_is_cheaper_than_what_it_replaces() -> None:
    build = Builder()
    build.pool()
    build.node("a", "m5.xlarge")
    build.pod("p", "a")
    command = passed(build).command
    assert command is not None
    (new,) = command.replacements
    assert all(r.price_per_hour < 0.20 for r in new.alternatives)


def test_the_cheapest_node_that_holds_its_pods_stays() -> None:
    build = Builder()
    build.pool()
    build.node("a", "m5.large")
    build.pod("p", "a")
    outcome = passed(build, catalogues={"default": catalogue(spot=2.0)})
    assert rules(outcome) == {"a": Rule.NOT_CHEAPER}
    assert outcome.quiet


def test_spot_is_exchanged_for_spot_only_with_the_gate_and_fifteen_cheaper_types() -> None:
    build = Builder()
    build.pool()
    build.node("a", "m5.4xlarge", capacity_type=keys.SPOT)
    build.pod("p", "a")
    assert rules(passed(build)) == {"a": Rule.SPOT_TO_SPOT}

    def market(count: int) -> Mapping[str, Catalogue]:
        types = {f"t{i}.large": (2000, 0.03 + i / 1000) for i in range(count)} | {"m5.4xlarge": (16000, 0.8)}
        return {"default": catalogue(types)}

    gate = Options(spot_to_spot=True)
    assert rules(passed(build, catalogues=market(14), options=gate)) == {"a": Rule.SPOT_TO_SPOT}
    command = passed(build, catalogues=market(20), options=gate).command
    assert command is not None
    (new,) = command.replacements
    types = {new.instance_type, *(r.instance_type for r in new.alternatives)}
    assert types == {f"t{i}.large" for i in range(15)}


def test_pods_are_not_moved_onto_a_node_inside_its_window_but_pending_ones_go_there() -> None:
    build = Builder()
    build.pool(after=300.0)
    for name in ("a", "b"):
        build.node(name)
        build.pod(f"{name}-pod", name, shape="web")
    quiet = {"b": NOW - 10}
    outcome = passed(build, quiet_since=quiet, catalogues={"default": catalogue(spot=99.0)})
    a = next(p for p in outcome.proposals if p.node == "a")
    assert a.action is Action.REPLACE, "b may not take its pod, so a smaller node must"
    build.pod("pending")
    seen: list[Problem] = []

    def spy(problem: Problem) -> Plan:
        seen.append(problem)
        return first_fit(problem)

    decide(build.view(quiet_since=quiet), spy, clock)
    assert seen[0].closed_nodes == frozenset()
    assert "b" in seen[1].closed_nodes


def test_pods_are_not_moved_onto_a_node_that_is_still_starting() -> None:
    build = Builder()
    build.pool()
    build.node("a", "m5.large")
    build.pod("p", "a")
    build.node("starting", initialized=False)
    outcome = passed(build, catalogues={"default": catalogue(spot=99.0)})
    assert rules(outcome)["a"] is Rule.NOT_CHEAPER


def test_pods_of_leaving_nodes_may_count_on_a_node_that_is_still_starting() -> None:
    build = Builder()
    build.pool()
    build.node("going", claim={"deleted_at": NOW})
    build.pod("p", "going")
    build.node("starting", initialized=False)
    targets: list[tuple[Placement, ...]] = []

    def spy(problem: Problem) -> Plan:
        plan = first_fit(problem)
        targets.append(plan.existing)
        return plan

    build.node("a")
    build.pod("q", "a", do_not_disrupt="true")
    build.node("empty", "m5.large")
    decide(build.view(), spy, clock)
    assert targets[0][0].pods == ("default/p",)


def test_a_terminating_stateful_set_pod_needs_a_place_and_a_replica_sets_does_not() -> None:
    build = Builder()
    build.pool()
    build.node("going", claim={"deleted_at": NOW})
    build.pod("set-0", "going", owner_kind="StatefulSet", deleted_at=NOW + 30)
    build.pod("rs-x", "going", owner_kind="ReplicaSet", deleted_at=NOW + 30)
    build.node("b")
    asked: list[tuple[str, ...]] = []

    def spy(problem: Problem) -> Plan:
        asked.append(problem.pods)
        return first_fit(problem)

    decide(build.view(), spy, clock)
    assert asked == [("default/set-0",)]


def test_a_node_without_a_price_stays_and_the_rest_goes_on() -> None:
    build = Builder()
    two_half_empty(build)
    node = build.snapshot.nodes["a"]
    build.put(Kind.NODE, "a", msgspec.structs.replace(node, labels=node.labels | {keys.INSTANCE_TYPE: "x.y"}))
    outcome = passed(build)
    assert rules(outcome)["a"] is Rule.NO_PRICE
    assert outcome.command is not None
    assert outcome.command.nodes == ("b",)


def test_pools_take_turns_and_time_that_runs_out_is_said() -> None:
    build = Builder()
    for pool in ("one", "two"):
        build.pool(pool)
        for i in range(3):
            build.node(f"{pool}-{i}", "m5.2xlarge" if pool == "one" else "m5.large", pool=pool)
            build.pod(f"p-{pool}-{i}", f"{pool}-{i}")
    ticks = itertools.count()
    view = build.view(options=Options(deadline_s=4.0), catalogues={"default": catalogue(spot=9.0)})

    def nowhere(problem: Problem) -> Plan:
        return first_fit(msgspec.structs.replace(problem, closed_nodes=frozenset(problem.snapshot.nodes)))

    outcome = decide(view, nowhere, lambda: float(next(ticks)) / 2)
    late = {p.node for p in outcome.proposals if p.blocks and p.blocks[0].rule is Rule.DEADLINE}
    judged = {p.node for p in outcome.proposals} - late
    assert late
    assert not outcome.complete
    assert {node.split("-")[0] for node in judged} == {"one", "two"}


def test_a_closed_budget_does_not_make_the_pass_quiet() -> None:
    build = Builder()
    build.pool(budgets=(Budget("0"),))
    build.node("a")
    outcome = passed(build)
    assert outcome.command is None
    assert not outcome.quiet


def test_balanced_keeps_a_node_whose_saving_is_not_worth_its_disruption() -> None:
    build = Builder()
    build.pool(policy="Balanced")
    build.node("big", "m5.4xlarge")
    build.pod("keep", "big", do_not_disrupt="true")
    build.node("small", "m5.large")
    for i in range(4):
        build.pod(f"p{i}", "small", shape="web")
    outcome = passed(build)
    assert rules(outcome)["small"] is Rule.POLICY

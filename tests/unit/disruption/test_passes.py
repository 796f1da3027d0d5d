"""Passes: which nodes go, which stay and why, and what a second look lets through."""

import itertools
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from nodeyard.api import labels as keys
from nodeyard.api.node import Condition
from nodeyard.api.pool import Budget
from nodeyard.api.selectors import Toleration
from nodeyard.cloudprovider.model import Catalogue
from nodeyard.disruption.methods import decide
from nodeyard.disruption.model import Action, Block, Command, Options, Outcome, Reason, Rule, View
from nodeyard.disruption.validation import still_open, validate
from nodeyard.provisioning.model import Placement, Plan, Problem
from nodeyard.state.cluster import Kind
from tests.support.disruption import NOW, TOLERATES_ALL, Builder, catalogue, first_fit


def clock() -> float:
    return 0.0


def passed(build: Builder, **fields: Any) -> Outcome:
    return decide(build.view(**fields), first_fit, clock)


def rules(outcome: Outcome) -> dict[str, Rule | None]:
    return {p.node: p.blocks[0].rule if p.blocks else None for p in outcome.proposals}


def two_half_empty(build: Builder) -> None:
    """Two nodes whose pods fit on either."""
    build.pool()
    for name in ("a", "b"):
        build.node(name)
        build.pod(f"{name}-pod", name)


# --- emptiness ------------------------------------------------------------------------------------------------------
def test_empty_nodes_go_together_and_dearest_first_within_the_budget() -> None:
    build = Builder()
    build.pool(budgets=(Budget("2"),))
    for name, type_ in (("a", "m5.large"), ("b", "m5.4xlarge"), ("c", "m5.2xlarge")):
        build.node(name, type_)
    outcome = passed(build)
    assert outcome.command is not None
    assert (outcome.command.reason, outcome.command.nodes) == (Reason.EMPTY, ("b", "c"))
    assert outcome.command.saves_per_hour == pytest.approx(0.80 + 0.40 + 2 * 0.01)
    assert rules(outcome)["a"] is Rule.BUDGET


def test_a_node_whose_pods_cost_nothing_to_evict_counts_as_empty_even_when_only_empty_ones_go() -> None:
    build = Builder()
    build.pool(policy="WhenEmpty")
    build.node("a")
    build.pod("cheap", "a", deletion_cost=-(2**31))
    command = passed(build).command
    assert command is not None
    assert command.reason is Reason.EMPTY


def test_daemons_and_finished_pods_keep_no_node() -> None:
    build = Builder()
    build.pool(policy="WhenEmpty")
    build.node("a")
    build.pod("daemon", "a", owner_kind="DaemonSet")
    build.pod("done", "a", phase="Succeeded")
    assert passed(build).command is not None


def test_an_empty_node_stays_until_consolidate_after_has_passed() -> None:
    build = Builder()
    build.pool(after=300.0)
    build.node("a")
    outcome = passed(build, quiet_since={"a": NOW - 299})
    assert outcome.command is None
    assert rules(outcome) == {"a": Rule.CONSOLIDATE_AFTER}
    assert outcome.recheck_at == NOW + 1
    assert passed(build, quiet_since={"a": NOW - 300}).command is not None


def test_consolidate_after_never_keeps_empty_nodes() -> None:
    build = Builder()
    build.pool(after=None)
    build.node("a")
    assert rules(passed(build)) == {"a": Rule.NEVER}


def test_an_empty_node_that_pending_pods_fit_on_stays() -> None:
    build = Builder()
    build.pool()
    build.node("a")
    build.pod("pending")
    outcome = passed(build)
    assert outcome.command is None
    assert rules(outcome) == {"a": Rule.PENDING_PODS}


def test_a_provisioners_node_goes_only_after_its_emptiness_timestamp() -> None:
    build = Builder()
    build.pool("provisioner/default", policy="WhenEmpty", after=30.0, budgets=())
    build.node("a", pool="provisioner/default")
    assert rules(passed(build)) == {"a": Rule.CONSOLIDATE_AFTER}
    node = build.snapshot.nodes["a"]
    stamped = {keys.EMPTINESS_TIMESTAMP: "2023-11-14T22:12:50Z"}  # 30 s before NOW
    build.put(Kind.NODE, "a", msgspec.structs.replace(node, annotations=stamped))
    assert passed(build).command is not None


def test_a_provisioner_does_not_call_a_node_empty_for_its_pods_low_cost() -> None:
    build = Builder()
    build.pool("provisioner/default", policy="WhenEmpty", after=30.0, budgets=())
    build.node("a", pool="provisioner/default")
    build.pod("cheap", "a", deletion_cost=-(2**31))
    outcome = passed(build)
    assert outcome.command is None
    assert rules(outcome) == {"a": Rule.POLICY}


# --- gates ----------------------------------------------------------------------------------------------------------
GATED: Mapping[Rule, Any] = {
    Rule.NO_CLAIM: lambda b: b.put(Kind.NODE_CLAIM, "a-c", None),
    Rule.NO_POOL: lambda b: b.put(Kind.POOL, "default", None),
    Rule.STATIC_POOL: lambda b: b.pool(replicas=3),
    Rule.NOT_INITIALIZED: lambda b: b.node("a", initialized=False),
    Rule.DELETING: lambda b: b.node("a", deleted_at=NOW),
    Rule.NODE_DO_NOT_DISRUPT: lambda b: b.node("a", annotations={keys.DO_NOT_DISRUPT: "true"}),
    Rule.POD_DO_NOT_DISRUPT: lambda b: b.pod("p", "a", do_not_disrupt="true"),
    Rule.PDB: lambda b: (b.pod("p", "a"), b.pdb("guard", 0)),
    Rule.SEVERAL_PDBS: lambda b: (b.pod("p", "a"), b.pdb("one", 5), b.pdb("two", 5)),
}


@pytest.mark.parametrize("rule", GATED)
def test_each_gate_keeps_a_node_and_says_so(rule: Rule) -> None:
    build = Builder()
    build.pool()
    build.node("a")
    build.node("b", "m5.4xlarge", annotations={keys.DO_NOT_DISRUPT: "true"})
    GATED[rule](build)
    outcome = passed(build)
    assert outcome.command is None
    assert rules(outcome)["a"] is rule


def test_nominated_nodes_and_nodes_of_commands_stay() -> None:
    build = Builder()
    build.pool()
    build.node("a")
    build.node("b")
    outcome = passed(build, nominated=frozenset({"a"}), in_command=frozenset({"b"}))
    assert rules(outcome) == {"a": Rule.NOMINATED, "b": Rule.IN_COMMAND}
    assert not outcome.quiet


@pytest.mark.parametrize(
    ("protection", "started", "kept"),
    [("10m", NOW - 599, True), ("10m", NOW - 601, False), ("10m", 0.0, True), ("soon", NOW, False)],
)
def test_do_not_disrupt_may_be_a_time_from_the_pods_start(
    protection: str, started: float, kept: bool
) -> None:
    build = Builder()
    two_half_empty(build)
    build.pod("a-pod", "a", do_not_disrupt=protection, started_at=started)
    outcome = passed(build)
    assert (rules(outcome)["a"] is Rule.POD_DO_NOT_DISRUPT) is kept
    if kept and started:
        build.pod("b-pod", "b", do_not_disrupt="true")
        assert passed(build).recheck_at == started + 600.0


@pytest.mark.parametrize(
    ("budget", "tolerations", "kept"), [(0, (), True), (1, (), False), (0, TOLERATES_ALL, False)]
)
def test_a_budget_over_daemons_keeps_the_node_where_a_drain_would_have_to_evict_them(
    budget: int, tolerations: tuple[Toleration, ...], kept: bool
) -> None:
    build = Builder()
    build.pool()
    build.shape("agent", 100, labels={"app": "agent"}, tolerations=tolerations)
    build.node("a")
    build.pod("agent", "a", shape="agent", owner_kind="DaemonSet")
    build.pdb("guard", budget, {"app": "agent"})
    assert rules(passed(build)) == {"a": Rule.PDB if kept else None}


@pytest.mark.parametrize(("grace_s", "kept"), [(None, False), (29.0, True), (31.0, False)])
def test_no_drain_is_begun_for_money_that_would_have_to_be_ended_by_force(
    grace_s: float | None, kept: bool
) -> None:
    build = Builder()
    build.pool()
    build.node("a", claim={"termination_grace_period_s": grace_s})
    build.pod("a-pod", "a", grace_period_s=30.0)
    build.node("b", annotations={keys.DO_NOT_DISRUPT: "true"})
    build.pod("b-pod", "b")
    assert rules(passed(build))["a"] is (Rule.DRAIN if kept else None)


def test_a_budget_over_pods_that_no_drain_evicts_keeps_no_node() -> None:
    build = Builder()
    two_half_empty(build)
    build.shape("tolerant", 500, labels={"app": "web"}, tolerations=TOLERATES_ALL)
    for node in ("a", "b"):
        build.pod(f"{node}-pod", node, shape="tolerant")
    build.pdb("guard", 0)
    assert Rule.PDB not in rules(passed(build)).values()
    assert passed(build).command is not None


def test_a_budget_that_lets_unhealthy_pods_go_does_not_keep_the_node() -> None:
    build = Builder()
    two_half_empty(build)
    build.pod("a-pod", "a", ready=False)
    build.pod("b-pod", "b", do_not_disrupt="true")
    build.pdb("guard", 0, unhealthy_pod_eviction_policy="AlwaysAllow")
    assert rules(passed(build))["a"] is None


# --- replacing ------------------------------------------------------------------------------------------------------
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


# --- the second look ------------------------------------------------------------------------------------------------
def decided(build: Builder) -> Command:
    command = passed(build).command
    assert command is not None
    return command


def again(command: Command, view: View) -> Command | Block:
    return validate(command, view, first_fit, clock)


def test_only_the_empty_node_that_a_pod_came_to_drops_out() -> None:
    build = Builder()
    build.pool()
    for name in ("a", "b", "c"):
        build.node(name)
    command = decided(build)
    build.pod("late", "b")
    survivors = again(command, build.view())
    assert isinstance(survivors, Command)
    assert survivors.nodes == ("a", "c")


def test_a_replacement_is_given_up_when_a_pod_came_that_its_types_do_not_hold() -> None:
    build = Builder()
    build.pool()
    build.node("a", "m5.4xlarge")
    build.pod("p", "a")
    command = decided(build)
    build.shape("big", 3000)
    build.pod("late", "a", shape="big")
    stopped = again(command, build.view())
    assert isinstance(stopped, Block)
    assert stopped.rule is Rule.CHANGED


def test_a_command_is_given_up_when_its_node_was_nominated_meanwhile() -> None:
    build = Builder()
    two_half_empty(build)
    command = decided(build)
    stopped = again(command, build.view(nominated=frozenset(command.nodes)))
    assert isinstance(stopped, Block)
    assert stopped.rule is Rule.NOMINATED


def test_a_command_is_given_up_when_the_budget_closed_meanwhile() -> None:
    build = Builder()
    two_half_empty(build)
    command = decided(build)
    build.pool(budgets=(Budget("0"),))
    stopped = again(command, build.view())
    assert isinstance(stopped, Block)
    assert stopped.rule is Rule.BUDGET


def test_a_command_that_still_holds_goes_on_unchanged_in_what_it_does() -> None:
    build = Builder()
    two_half_empty(build)
    command = decided(build)
    same = again(command, build.view())
    assert isinstance(same, Command)
    assert (same.id, same.nodes, same.replacements) == (command.id, command.nodes, command.replacements)
    assert still_open(same, build.view()) is None
    build.pod("later", command.nodes[0])
    assert still_open(same, build.view()) is not None


def test_a_node_of_the_same_name_with_another_claim_is_not_touched() -> None:
    build = Builder()
    build.pool()
    build.node("a")
    command = decided(build)
    build.node("a", claim={"uid": "another"})
    assert isinstance(again(command, build.view()), Block)


def test_a_claim_condition_since_counts_as_the_start_of_quiet() -> None:
    build = Builder()
    build.pool(after=60.0)
    build.node("a", age=59.0)
    assert rules(passed(build)) == {"a": Rule.CONSOLIDATE_AFTER}
    claim = build.snapshot.claims["a-c"]
    assert Condition("Initialized", "True", "Initialized", "", NOW - 59.0) in claim.conditions

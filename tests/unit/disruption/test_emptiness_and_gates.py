"""Passes: which nodes are empty, and which no pass may touch."""

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from nodeyard.api import labels as keys
from nodeyard.api.cluster import PersistentVolume, PersistentVolumeClaim
from nodeyard.api.pool import Budget
from nodeyard.api.selectors import NodeSelector, NodeSelectorTerm, Requirement, Toleration
from nodeyard.disruption.burdens import Burdens
from nodeyard.disruption.candidates import candidates, stops
from nodeyard.disruption.model import Reason, Rule
from nodeyard.state.cluster import Kind
from tests.support.disruption import NOW, TOLERATES_ALL, Builder, passed, rules, two_half_empty


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


def pod_with_data_on_its_node(b: Builder, node: str = "a", *, local: bool = True) -> None:
    """A pod with a volume that is reached from its node alone; not `local`: from its zone."""
    key = keys.HOSTNAME if local else keys.ZONE
    term = NodeSelectorTerm((Requirement(key, "In", (node if local else "eu-west-1a",)),))
    b.put(Kind.PV, "pv", PersistentVolume("pv", "", NodeSelector((term,)), local=local))
    claim = PersistentVolumeClaim("default", "data", volume_name="pv", phase="Bound", bind_completed=True)
    b.put(Kind.PVC, "default/data", claim)
    b.shape("db", volume_claims=("data",))
    b.pod("db", node, shape="db")


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
    Rule.LOCAL_VOLUME: lambda b: pod_with_data_on_its_node(b),
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


def test_data_on_a_node_keeps_it_from_the_moment_its_volume_is_known() -> None:
    """Also where nothing else about the node has changed since it was looked at."""
    build, burdens = Builder(), Burdens()
    build.pool()
    build.node("a")
    pod_with_data_on_its_node(build, local=False)
    assert not candidates(build.view(), burdens)[0].blocks
    pod_with_data_on_its_node(build)
    assert [b.rule for b in candidates(build.view(), burdens)[0].blocks] == [Rule.LOCAL_VOLUME]


def test_what_has_to_happen_does_not_wait_for_data_to_leave_the_node() -> None:
    build = Builder()
    build.pool()
    build.node("a")
    pod_with_data_on_its_node(build)
    view = build.view()
    (candidate,) = candidates(view)
    assert stops(view, candidate, Reason.UNDERUTILIZED)
    assert not stops(view, candidate, Reason.DRIFTED)
    assert not stops(view, candidate, Reason.EXPIRED)


def test_nominated_nodes_and_nodes_of_commands_stay() -> None:
    build = Builder()
    build.pool()
    build.node("a")
    build.node("b")
    outcome = passed(build, nominated=frozenset({"a"}), in_command=frozenset({"b"}))
    assert rules(outcome) == {"a": Rule.NOMINATED, "b": Rule.IN_COMMAND}
    assert not outcome.quiet


@pytest.mark.parametrize(
    ("since_s", "bound", "stops"),
    [(29.0, False, Rule.NOMINATED), (31.0, False, None), (29.0, True, None)],
    ids=["on their way", "they never came", "placed elsewhere"],
)
def test_a_node_stays_while_the_pods_that_it_was_made_for_are_on_their_way(
    since_s: float, bound: bool, stops: Rule | None
) -> None:
    build = Builder()
    build.pool()
    planned = {keys.PLANNED_PODS: '["default/p"]'}
    build.node("a", annotations={keys.DO_NOT_DISRUPT: "true"})
    build.node("b", age=since_s, claim={"annotations": planned})
    build.pod("p", "a" if bound else "")
    assert rules(passed(build))["b"] is stops


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

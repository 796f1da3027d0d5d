"""Several nodes for fewer: found where no single node could go, within budgets and the ceiling, and looked at twice."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import msgspec
import pytest

from nodeyard.api import labels as keys
from nodeyard.api.pool import Budget
from nodeyard.disruption.commands import MARK
from nodeyard.disruption.judgement import Pass
from nodeyard.disruption.methods import WITHOUT_COURSES, at_once, decide
from nodeyard.disruption.model import Block, Command, Fate, Move, Outcome, Reason, Rule, View
from nodeyard.disruption.several import Exchange, judge_group
from nodeyard.disruption.validation import validate
from nodeyard.provisioning.model import Options, Plan, PlannedNode, Problem
from nodeyard.provisioning.planner import plan
from tests.support.disruption import ZONE, Builder, catalogue


def ticking() -> Iterator[float]:
    return (n * 0.002 for n in itertools.count())


def planner(problem: Problem) -> Plan:
    clock = ticking()
    return plan(problem, Options(deadline_s=1.0, bound=False), lambda: next(clock))


def look(view: View) -> Outcome:
    clock = ticking()
    return decide(view, planner, lambda: next(clock))


def three_quarters_full(
    budget: str = "100%", others: int = 24, *, policy: str = "WhenEmptyOrUnderutilized", dear: int = 0
) -> Builder:
    """Three nodes of four cores with two pods of one and a half each, on spot, and others that stay, whose pods have this
    deletion cost.
    """
    made = Builder()
    made.pool(budgets=(Budget(budget),), policy=policy)
    made.shape("big", 1500)
    for n in range(3):
        made.node(f"n{n}", capacity_type=keys.SPOT)
        for p in range(2):
            made.pod(f"p{n}-{p}", f"n{n}", shape="big")
    made.shape("whole", 3900)
    for n in range(others):
        made.node(f"busy{n}", capacity_type=keys.SPOT)
        made.pod(f"busy{n}", f"busy{n}", shape="whole", do_not_disrupt="true", deletion_cost=dear)
    return made


def seen(made: Builder) -> View:
    view = made.view()
    return made.view(options=msgspec.structs.replace(view.options, spot_to_spot=True))


def test_three_nodes_become_two_where_none_can_go_by_itself() -> None:
    command = look(seen(three_quarters_full())).command
    assert command is not None
    assert sorted(command.nodes) == ["n0", "n1", "n2"]
    assert command.reason is Reason.UNDERUTILIZED
    assert command.replacements
    assert command.saves_per_hour > 0
    paid = sum(c.price_per_hour or 0.0 for c in command.candidates)
    assert sum(n.price_per_hour for n in command.replacements) < paid


def test_whatever_is_launched_of_the_alternatives_is_cheaper() -> None:
    command = look(seen(three_quarters_full())).command
    assert command is not None
    dearest = sum(
        max([n.price_per_hour, *(a.price_per_hour for a in n.alternatives)]) for n in command.replacements
    )
    assert dearest < sum(c.price_per_hour or 0.0 for c in command.candidates)


@pytest.mark.parametrize(("dear", "goes"), [(0, False), (2**31 - 1, True)])
def test_a_balanced_pool_agrees_only_where_the_saving_is_worth_what_is_moved(dear: int, goes: bool) -> None:
    outcome = look(seen(three_quarters_full(policy="Balanced", dear=dear)))
    assert (outcome.command is not None) is goes


def test_a_balanced_pool_that_does_not_agree_holds_up_no_other() -> None:
    made = three_quarters_full(others=60)
    made.pool("strict", policy="Balanced")
    for n in range(2):
        made.node(f"strict{n}", "m5.large", pool="strict", capacity_type=keys.SPOT)
        made.pod(f"s{n}", f"strict{n}", shape="big")
    group = [c for c in Pass(seen(made), planner, lambda: 0.0).found if not c.blocks]
    assert len(group) == 5
    found = judge_group(Pass(seen(made), planner, lambda: 0.0), group)
    assert isinstance(found, Exchange)
    assert {c.pool for c in found.gone} == {"default"}


def test_a_node_that_would_be_made_again_as_it_is_stays() -> None:
    """Three go for one like them and a small one: two go for the small one."""

    def made_of(*types: str) -> tuple[PlannedNode, ...]:
        price = {name: catalogue().offering(name, ZONE, keys.SPOT) for name in types}
        return tuple(
            PlannedNode(f"new-{n}", "default", t, ZONE, keys.SPOT, o.price, ())
            for n, t in enumerate(types)
            if (o := price[t]) is not None
        )

    def offered(problem: Problem) -> Plan:
        return Plan(
            nodes=made_of(*(("m5.xlarge", "m5.large") if len(problem.without_nodes) > 2 else ("m5.large",)))
        )

    run = Pass(seen(three_quarters_full()), offered, lambda: 0.0)
    found = judge_group(run, [c for c in run.found if not c.blocks])
    assert isinstance(found, Exchange)
    assert [c.node for c in found.gone] == ["n1", "n2"]
    assert [n.instance_type for n in found.nodes] == ["m5.large"]


def test_a_budget_of_one_leaves_nothing_to_several() -> None:
    assert look(seen(three_quarters_full("1"))).command is None


def test_what_would_cost_more_than_a_tenth_meanwhile_is_not_made() -> None:
    assert look(seen(three_quarters_full(others=2))).command is None


def test_spot_for_spot_waits_for_its_setting() -> None:
    assert look(three_quarters_full().view()).command is None


def test_the_second_look_confirms_what_holds() -> None:
    made = three_quarters_full()
    command = look(seen(made)).command
    assert command is not None
    clock = ticking()
    again = validate(command, seen(made), planner, lambda: next(clock))
    assert isinstance(again, Command)
    assert again.nodes == command.nodes


def test_the_second_look_refuses_when_pods_have_come() -> None:
    made = three_quarters_full()
    command = look(seen(made)).command
    assert command is not None
    made.shape("rest", 900)
    for n in range(3):
        made.pod(f"late{n}", f"n{n}", shape="rest")
    clock = ticking()
    assert isinstance(validate(command, seen(made), planner, lambda: next(clock)), Block)


def test_groups_have_their_turn_where_single_nodes_took_the_whole_deadline() -> None:
    made = three_quarters_full()
    view = seen(made)
    step_s = view.options.deadline_s / 9
    clock = itertools.count(0.0, step_s)
    outcome = decide(view, planner, lambda: next(clock))
    assert any(b.rule is Rule.DEADLINE for p in outcome.proposals for b in p.blocks)
    assert outcome.command is not None
    assert sorted(outcome.command.nodes) == ["n0", "n1", "n2"]


def test_a_look_without_any_time_tries_no_group() -> None:
    view = seen(three_quarters_full())
    none = msgspec.structs.replace(view, options=msgspec.structs.replace(view.options, deadline_s=0.0))
    assert look(none).command is None


def test_groups_that_budgets_keep_equal_are_asked_about_once() -> None:
    asked: list[frozenset[str]] = []

    def noting(problem: Problem) -> Plan:
        asked.append(problem.without_nodes)
        return planner(problem)

    clock = ticking()
    decide(seen(three_quarters_full("2")), noting, lambda: next(clock))
    groups = [gone for gone in asked if len(gone) > 1]
    assert groups
    assert len(groups) == len(set(groups))


def first_look(view: View) -> Outcome:
    clock = ticking()
    return decide(view, planner, lambda: next(clock), methods=WITHOUT_COURSES)


def hardly_used(nodes: int = 12, budget: str = "100%") -> Builder:
    """Nodes of four cores with a pod of a quarter core each: any of them could go by itself."""
    made = Builder()
    made.pool(budgets=(Budget(budget),))
    made.shape("small", 250)
    for n in range(nodes):
        made.node(f"n{n:02}", capacity_type=keys.SPOT)
        made.pod(f"p{n}", f"n{n:02}", shape="small")
    return made


def test_nodes_that_waste_most_go_in_one_command_though_each_could_by_itself() -> None:
    outcome = first_look(hardly_used().view())
    assert outcome.command is not None
    assert list(outcome.judged)[-1] == "at_once"
    assert len(outcome.command.candidates) >= 6


@pytest.mark.parametrize("again", [True, False])
def test_a_node_that_had_to_be_bought_again_is_in_no_group(again: bool) -> None:
    made, own = hardly_used(), f"m5.xlarge/{keys.SPOT}"
    made.node("n00", capacity_type=keys.SPOT, age=900.0)
    moves = (Move("m/default", "default", Reason.UNDERUTILIZED, (own,), (), made.now - 1000, Fate.DONE),)
    asked: list[frozenset[str]] = []

    def noting(problem: Problem) -> Plan:
        asked.append(problem.without_nodes)
        return planner(problem)

    at_once(Pass(made.view(moves=moves if again else ()), noting, lambda: 0.0))
    assert asked
    assert any("n00" in gone for gone in asked) is not again


@pytest.mark.parametrize(("budget", "most"), [("4", 4), ("50%", 6)])
def test_a_first_group_is_no_larger_than_budgets_let_go(budget: str, most: int) -> None:
    command = first_look(hardly_used(budget=budget).view()).command
    assert command is not None
    assert 1 < len(command.candidates) <= most


def test_few_nodes_are_looked_at_one_by_one() -> None:
    outcome = first_look(hardly_used(3).view())
    assert outcome.command is not None
    assert len(outcome.command.candidates) == 1


def test_well_filled_nodes_are_in_no_first_group() -> None:
    """Larger nodes would hold the same pods for as much, charges for nodes aside."""
    made = Builder()
    made.pool()
    made.shape("whole", 3900)
    for n in range(12):
        made.node(f"n{n}", capacity_type=keys.SPOT)
        made.pod(f"p{n}", f"n{n}", shape="whole")
    asked: list[Problem] = []

    def noting(problem: Problem) -> Plan:
        asked.append(problem)
        return planner(problem)

    view = made.view()
    free = msgspec.structs.replace(view.options, node_charge_usd_per_hour=0.0)
    assert at_once(Pass(made.view(options=free), noting, lambda: 0.0)).command is None
    assert not asked


def planned(type_: str, capacity_type: str = keys.SPOT) -> PlannedNode:
    offer = catalogue().offering(type_, ZONE, capacity_type)
    assert offer is not None
    return PlannedNode("new", "default", type_, ZONE, capacity_type, offer.price, ())


def test_one_new_node_like_one_that_goes_leaves_that_one_where_it_is() -> None:
    """Three go for one like them: one stays, and the others go to it."""

    def offered(problem: Problem) -> Plan:
        return Plan(nodes=(planned("m5.xlarge"),)) if len(problem.without_nodes) > 2 else Plan()

    run = Pass(seen(hardly_used(3)), offered, lambda: 0.0)
    found = judge_group(run, run.found)
    assert isinstance(found, Exchange)
    assert [c.node for c in found.gone] == ["n01", "n02"]
    assert not found.nodes


def test_a_node_that_may_not_go_back_yet_holds_up_no_other() -> None:
    """It was made for one that was left ten minutes ago, of the type that would be made now."""
    made = hardly_used(3)
    made.node("back", "m5.2xlarge", capacity_type=keys.SPOT, claim={"annotations": {MARK: "m"}})
    made.pod("q", "back", shape="small")
    spot = f"/{keys.SPOT}"
    move = Move(
        "m", "default", Reason.UNDERUTILIZED, ("m5.large" + spot,), ("m5.2xlarge" + spot,), made.now - 600,
        Fate.DONE, made.now - 500,
    )  # fmt: skip
    view = seen(made)
    run = Pass(
        msgspec.structs.replace(view, moves=(move,)),
        lambda problem: Plan(nodes=(planned("m5.large"),)),
        lambda: 0.0,
    )
    found = judge_group(run, run.found)
    assert isinstance(found, Exchange)
    assert [c.node for c in found.gone] == ["n00", "n01", "n02"]

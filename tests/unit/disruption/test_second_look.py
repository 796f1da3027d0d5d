"""The second look at a command, when its wait is over: what it lets through."""

from nodeyard.api.node import Condition
from nodeyard.api.pool import Budget
from nodeyard.disruption.model import Block, Command, Rule, View
from nodeyard.disruption.validation import still_open, validate
from tests.support.disruption import NOW, Builder, clock, first_fit, passed, rules, two_half_empty


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

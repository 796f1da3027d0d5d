"""Which nodes a pass plans about, of how many others it asks, and what it asks again after a change."""

import msgspec

from nodeyard.api import labels as keys
from nodeyard.disruption.judgement import Pass, judge_nearby
from nodeyard.disruption.methods import decide, underutilization
from nodeyard.disruption.model import Rule, View
from nodeyard.disruption.simulation import effort_s
from nodeyard.disruption.vicinity import MOST, Answers
from nodeyard.provisioning.model import Options, Plan, PlannedNode, Problem
from nodeyard.provisioning.planner import plan
from nodeyard.state.cluster import Kind
from tests.support.disruption import Builder, catalogue, clock

DEAR = catalogue(spot=99.0)


class Asked:
    """The planner, and which single nodes it was asked about."""

    def __init__(self) -> None:
        self.problems: dict[str, Problem] = {}

    def __call__(self, problem: Problem) -> Plan:
        if len(problem.without_nodes) == 1:
            self.problems[next(iter(problem.without_nodes))] = problem
        return plan(problem, Options(bound=False, search_s=0.05), clock)


def seen(build: Builder) -> View:
    return build.view(catalogues={"default": DEAR})


def filled(build: Builder, name: str, shapes: str, **fields: str) -> None:
    """A node of 4 cores with pods of these shapes, by their first letters."""
    build.node(name, labels={keys.INSTANCE_TYPE: "m5.xlarge", keys.ZONE: "us-west-2a",
                             keys.CAPACITY_TYPE: keys.ON_DEMAND, keys.NODEPOOL: "default",
                             keys.REGISTERED: "true", keys.INITIALIZED: "true", **fields})  # fmt: skip
    for i, letter in enumerate(shapes):
        build.pod(f"{name}-{i}", name, shape={"l": "large", "h": "half", "s": "small"}[letter])


def made() -> Builder:
    build = Builder()
    for id_, cpu in (("large", 1900), ("half", 2000), ("small", 150)):
        build.shape(id_, cpu)
    build.pool()
    return build


def test_nodes_whose_pods_no_other_node_and_no_cheaper_one_holds_are_not_planned_about() -> None:
    build, asked = made(), Asked()
    for name in "abcd":
        filled(build, name, "hh")
    outcome = decide(seen(build), asked, clock)
    assert {p.blocks[0].rule for p in outcome.proposals} == {Rule.NOT_CHEAPER}
    assert outcome.proposals[0].blocks[0].facts["cheapestPerHour"] == 0.2
    assert not asked.problems


def test_a_pod_that_no_node_could_hold_is_named_by_the_planner() -> None:
    build, asked = made(), Asked()
    build.shape("vast", 64_000)
    filled(build, "a", "")
    build.pod("p", "a", shape="vast")
    outcome = decide(seen(build), asked, clock)
    assert outcome.proposals[0].blocks[0].rule is Rule.UNPLACED
    assert asked.problems


def test_after_one_change_only_nodes_that_it_touches_are_planned_about_again() -> None:
    build, answers = made(), Answers()
    for zone in "12":  # pods of a zone can't go to the other's nodes; each node's small pod fits on its mate
        build.shape(f"in{zone}", 1900, node_selector={"side": zone})
        build.shape(f"small{zone}", 150, node_selector={"side": zone})
        for name in "ab":
            filled(build, name + zone, "", side=zone)
            for i, shape in enumerate((f"in{zone}", f"in{zone}", f"small{zone}")):
                build.pod(f"{name}{zone}-{i}", name + zone, shape=shape)
    first, unchanged, changed = Asked(), Asked(), Asked()
    decide(seen(build), first, clock, answers=answers)
    decide(seen(build), unchanged, clock, answers=answers)
    node = build.snapshot.nodes["a1"]
    build.put(Kind.NODE, "a1", msgspec.structs.replace(node, labels={**node.labels, "changed": "yes"}))
    decide(seen(build), changed, clock, answers=answers)
    assert not unchanged.problems
    assert set(changed.problems) <= {"a1", "b1"} & set(first.problems)


def test_a_question_among_many_nodes_with_room_is_asked_of_few_and_of_all_before_it_is_acted_upon() -> None:
    build, asked = made(), Asked()
    filled(build, "a", "ss")
    for i in range(MOST + 20):
        filled(build, f"n{i:02}", "ll")
    run = Pass(seen(build), asked, clock)
    proposal = judge_nearby(run, next(c for c in run.found if c.node == "a"))
    assert not proposal.blocks
    assert len(asked.problems["a"].snapshot.nodes) == MOST
    outcome = decide(seen(build), asked, clock)
    assert outcome.command is not None
    assert any(len(p.snapshot.nodes) == MOST + 20 for p in asked.problems.values())


def test_limits_count_nodes_that_a_question_leaves_out() -> None:
    build, asked = made(), Asked()
    filled(build, "a", "hh")
    build.node("big", "m5.4xlarge")
    for i in range(8):
        build.pod(f"big-{i}", "big", shape="half")
    build.pool(limits={"cpu": 20_000})
    build.node("dear", "m5.2xlarge")
    build.pod("p", "dear", shape="half")
    build.pod("q", "dear", shape="half")
    decide(seen(build), asked, clock)
    assert asked.problems["dear"].snapshot.pools["default"].limits == {"cpu": 0}


def test_effort_grows_with_the_pods_that_a_question_is_about() -> None:
    build = made()
    filled(build, "a", "ssss")
    few = Problem(build.snapshot, ("default/a-0",), {}, 0.0)
    many = Problem(build.snapshot, tuple(build.snapshot.pods), {}, 0.0)
    assert (
        0.0 < effort_s(few) < effort_s(many) < effort_s(msgspec.structs.replace(many, pods=many.pods * 5_000))
    )


def half_empty() -> Builder:
    """Nodes that could go by what room and prices tell, if a plan were found."""
    build = made()
    for name in "abcdef":
        filled(build, name, "s")
    return build


def only_if_thorough(problem: Problem) -> Plan:
    """A planner whose first plans are bad."""
    found = plan(problem, Options(bound=False, search_s=0.0), clock)
    if problem.thorough:
        return found
    twice = tuple(
        PlannedNode(f"n{i}", "default", "m5.xlarge", "us-west-2a", keys.ON_DEMAND, 0.2, ()) for i in "12"
    )
    return msgspec.structs.replace(found, nodes=twice)


def test_where_first_plans_let_nothing_go_a_loop_that_remembers_looks_again() -> None:
    found = decide(seen(half_empty()), only_if_thorough, clock, answers=Answers(), methods=[underutilization])
    assert found.command is not None
    assert not found.quiet


def test_thorough_looks_that_a_pass_has_no_time_for_are_left_to_the_next_and_keep_it_from_being_quiet() -> (
    None
):
    def never(problem: Problem) -> Plan:
        return only_if_thorough(msgspec.structs.replace(problem, thorough=False))

    seconds = iter(range(10_000))
    view, answers = seen(half_empty()), Answers()
    slow = decide(view, never, lambda: float(next(seconds)), answers=answers, methods=[underutilization])
    assert slow.complete
    assert not slow.quiet
    assert decide(view, never, clock, answers=answers, methods=[underutilization]).quiet

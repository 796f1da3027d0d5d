"""What spares planning changes no decision: a first look, a question about few nodes, and answers kept between passes."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nodeyard.api import labels as keys
from nodeyard.api.selectors import (
    HostPort,
    LabelSelector,
    PodAffinity,
    PodAffinityTerm,
    TopologySpreadConstraint,
)
from nodeyard.cloudprovider.model import Catalogue
from nodeyard.disruption.burdens import Burdens
from nodeyard.disruption.judgement import Pass, judge, judge_nearby
from nodeyard.disruption.methods import decide
from nodeyard.disruption.model import Block, Proposal, View
from nodeyard.disruption.vicinity import Answers
from nodeyard.provisioning.model import Options, Plan, Problem
from nodeyard.provisioning.planner import plan
from nodeyard.state.cluster import Kind
from tests.support.disruption import NOW, TYPES, Builder, catalogue, clock

CPU = {"s": 250, "m": 900, "l": 1900, "apart": 400, "zonal": 400, "even": 400, "together": 300, "port": 300}
CHANGES = (
    "pod goes",
    "pod comes",
    "pod waits",
    "node goes",
    "node comes",
    "cordon",
    "label",
    "limit",
    "price",
    "wait",
    "vpa",
)
TIGHT = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def real(problem: Problem) -> Plan:
    return plan(problem, Options(bound=False, search_s=0.05 if problem.thorough else 0.0), clock)


def terms_of(id_: str) -> dict[str, Any]:
    own = LabelSelector({"app": id_})
    match id_:
        case "apart" | "zonal":
            key = keys.HOSTNAME if id_ == "apart" else keys.ZONE
            return {"pod_anti_affinity": PodAffinity(required=(PodAffinityTerm(key, own),))}
        case "together":
            return {"pod_affinity": PodAffinity(required=(PodAffinityTerm(keys.HOSTNAME, own),))}
        case "even":
            even = TopologySpreadConstraint(1, keys.HOSTNAME, "DoNotSchedule", own)
            return {"topology_spread_constraints": (even,)}
        case "port":
            return {"host_ports": (HostPort(80),)}
        case _:
            return {}


@st.composite
def clusters(draw: st.DrawFn) -> Builder:
    build = Builder()
    for id_, cpu in CPU.items():
        build.shape(id_, cpu, labels={"app": id_}, **terms_of(id_))
    build.pool(limits=draw(st.sampled_from([{}, {}, {"cpu": 40_000}, {"nodes": 4}])))
    for i in range(draw(st.integers(2, 6))):
        type_ = draw(st.sampled_from(sorted(TYPES)))
        build.node(f"n{i}", type_, capacity_type=draw(st.sampled_from([keys.ON_DEMAND, keys.SPOT])))
        filled(draw, build, i, TYPES[type_][0], CPU)
    return build


def filled(draw: st.DrawFn, build: Builder, number: int, room: int, sizes: Mapping[str, int]) -> int:
    """Some pods on the node of that number; the CPU that is left of its room."""
    for j in range(draw(st.integers(0, 6))):
        size = draw(st.sampled_from(sorted(sizes)))
        if sizes[size] <= room:
            room -= sizes[size]
            build.pod(f"p{number}-{j}", f"n{number}", shape=size)
    return room


def seen(build: Builder, price: float = 1 / 3) -> View:
    return build.view(catalogues={"default": sold(price)})


@cache
def sold(spot: float) -> Catalogue:
    """The same prices are the same catalogue, as those from pricing are."""
    return catalogue(spot=spot)


def is_to_go(proposal: Proposal) -> bool:
    return not proposal.blocks


@TIGHT
@given(clusters())
def test_a_first_look_keeps_no_node_that_planning_lets_go(build: Builder) -> None:
    run = Pass(seen(build), real, clock)
    for candidate in run.found:
        if candidate.pods and isinstance(run.simulation.nearby(candidate), Block):
            assert judge(run, candidate).blocks


@TIGHT
@given(clusters())
def test_a_question_about_all_nodes_with_room_is_answered_as_one_about_the_whole_cluster(
    build: Builder,
) -> None:
    run = Pass(seen(build), real, clock)
    for candidate in run.found:
        if candidate.pods:
            near = judge_nearby(run, candidate, thorough=True)
            whole = run.simulation.without([candidate])
            asked = run.simulation.nearby(candidate, thorough=True)
            if isinstance(asked, Plan):
                assert len(asked.nodes) == len(whole.nodes)
                assert abs(asked.cost.objective_per_hour - whole.cost.objective_per_hour) < 1e-9
            assert is_to_go(judge(run, candidate)) or not is_to_go(near)


def change(build: Builder, what: str, number: int) -> None:
    nodes, pods = sorted(build.snapshot.nodes), sorted(build.snapshot.pods)
    name = nodes[number % len(nodes)] if nodes else ""
    node = build.store.get(Kind.NODE, name)
    match what:
        case "pod goes" if pods:
            build.put(Kind.POD, pods[number % len(pods)], None)
        case "pod comes" if name:
            build.pod(f"new-{len(pods)}-{number}", name, shape=sorted(CPU)[number % len(CPU)])
        case "vpa":
            build.vpa("rs", [None, 100, 700, 1500][number % 4])
        case "pod waits":
            build.pod(f"new-{len(pods)}-{number}", shape=sorted(CPU)[number % len(CPU)])
        case "node goes" if name:
            for key in build.snapshot.pods_on.get(name, ()):
                build.put(Kind.POD, key, None)
            build.put(Kind.NODE_CLAIM, f"{name}-c", None)
            build.put(Kind.NODE, name, None)
        case "node comes":
            build.node(f"m{len(nodes)}-{number}", sorted(TYPES)[number % len(TYPES)])
        case "cordon" if node is not None:
            build.put(Kind.NODE, name, msgspec.structs.replace(node, unschedulable=not node.unschedulable))
        case "label" if node is not None:
            labels = {**node.labels, "changed": str(number)}
            build.put(Kind.NODE, name, msgspec.structs.replace(node, labels=labels))
        case "limit":
            build.pool(limits=({}, {"cpu": 30_000}, {"nodes": 5})[number % 3])
        case _:
            pass


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(clusters(), st.lists(st.tuples(st.sampled_from(CHANGES), st.integers(0, 50)), max_size=6))
def test_remembered_answers_are_those_of_a_pass_that_remembers_nothing(
    build: Builder, changes: Sequence[tuple[str, int]]
) -> None:
    answers, burdens, price, later = Answers(), Burdens(), 1 / 3, 0.0
    for what, number in [("", 0), *changes, ("", 0)]:
        change(build, what, number)
        price = (0.2, 1 / 3, 0.9)[number % 3] if what == "price" else price
        later += 30.0 if what == "wait" else 0.0
        view = msgspec.structs.replace(seen(build, price), now=NOW + later)
        kept = decide(view, real, clock, burdens=burdens, answers=answers)
        assert kept == decide(view, real, clock, answers=Answers())

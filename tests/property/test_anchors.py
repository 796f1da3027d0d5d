"""Pods with terms over zones are asked about among few nodes, and the answer holds in the whole cluster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nodeyard.api import labels as keys
from nodeyard.api.selectors import LabelSelector, PodAffinity, PodAffinityTerm, TopologySpreadConstraint
from nodeyard.cloudprovider.model import Catalogue, InstanceType, Offering
from nodeyard.disruption.judgement import Pass
from nodeyard.disruption.methods import decide
from nodeyard.disruption.model import Candidate, View
from nodeyard.disruption.vicinity import Answers
from nodeyard.provisioning.model import Options, Plan, Problem
from nodeyard.provisioning.planner import plan
from tests.property.test_nearby import change, filled
from tests.support.disruption import TYPES, Builder, clock

ZONES = ("a", "b", "c")
SIZES = {"even": 400, "apart": 300, "together": 300, "plain": 700}
CHANGES = ("pod goes", "pod comes", "pod waits", "node goes", "cordon", "label", "limit")


def market() -> Catalogue:
    made = []
    for name, (cpu, price) in TYPES.items():
        room = {"cpu": cpu, "memory": cpu * 4 * 2**20, "pods": 110}
        offers = tuple(Offering(zone, keys.ON_DEMAND, price) for zone in ZONES)
        made.append(InstanceType(name, {keys.INSTANCE_TYPE: (name,)}, room, room, offers))
    return Catalogue(made, "1")


SOLD: Mapping[str, Catalogue] = {"default": market()}


def planned(problem: Problem) -> Plan:
    return plan(problem, Options(bound=False, search_s=0.05 if problem.thorough else 0.0), clock)


@st.composite
def clusters(draw: st.DrawFn) -> Builder:
    build = Builder()
    for id_, cpu in SIZES.items():
        own = LabelSelector({"app": id_})
        term = PodAffinity(required=(PodAffinityTerm(keys.ZONE, own),))
        even = (TopologySpreadConstraint(1, keys.ZONE, "DoNotSchedule", own),)
        build.shape(
            id_, cpu, labels={"app": id_},
            topology_spread_constraints=even if id_ == "even" else (),
            pod_anti_affinity=term if id_ == "apart" else None,
            pod_affinity=term if id_ == "together" else None,
        )  # fmt: skip
    for id_, cpu in (("s", 250), ("m", 900), ("l", 1900), ("zonal", 400), ("port", 300)):
        build.shape(id_, cpu, labels={"app": id_})
    build.pool(limits=draw(st.sampled_from([{}, {}, {"nodes": 7}])))
    for i in range(draw(st.integers(2, 7))):
        type_ = draw(st.sampled_from(sorted(TYPES)))
        node, _ = build.node(f"n{i}", type_)
        labels = {**node.labels, keys.ZONE: draw(st.sampled_from(ZONES))}
        build.node(f"n{i}", type_, labels=labels, claim={"labels": labels})
        room = filled(draw, build, i, TYPES[type_][0], SIZES)
        if room and draw(st.booleans()):  # full: nobody goes there, and its pods count all the same
            build.shape(f"rest{i}", room)
            build.pod(f"rest{i}", f"n{i}", shape=f"rest{i}")
    return build


def seen(build: Builder) -> View:
    return build.view(catalogues=SOLD)


def zones_after(view: View, gone: Candidate, plan: Plan) -> dict[str, str]:
    """Pod -> its zone once the plan is carried out."""
    snapshot = view.snapshot
    zone = {name: node.labels[keys.ZONE] for name, node in snapshot.nodes.items()}
    after = {key: zone[pod.node] for key, pod in snapshot.pods.items() if pod.node and pod.node != gone.node}
    after |= {key: zone[placed.node] for placed in plan.existing for key in placed.pods}
    return after | {key: node.zone for node in plan.nodes for key in node.pods}


def broken(view: View, gone: Candidate, plan: Plan) -> list[str]:
    """Pods of the node that came to a zone where their own term does not let them be; every zone can have nodes."""
    after = zones_after(view, gone, plan)
    shape_of = {key: view.snapshot.pods[key].shape for key in after}
    out = []
    for key in gone.pods:
        mates = Counter(zone for pod, zone in after.items() if shape_of[pod] == shape_of[key])
        match shape_of[key]:
            case "even":
                wrong = mates[after[key]] - min(mates[zone] for zone in ZONES) > 1
            case "apart":
                wrong = mates[after[key]] > 1
            case "together":
                wrong = mates[after[key]] == 1 and mates.total() > 1
            case _:
                wrong = False
        if wrong:
            out.append(key)
    return out


TIGHT = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@TIGHT
@given(clusters())
def test_an_answer_among_few_nodes_breaks_no_term_in_the_whole_cluster(build: Builder) -> None:
    run = Pass(seen(build), planned, clock)
    for candidate in run.found:
        found = run.simulation.nearby(candidate) if candidate.pods else None
        if isinstance(found, Plan) and not found.unschedulable:
            assert not broken(run.view, candidate, found)


@TIGHT
@given(clusters())
def test_an_answer_among_few_nodes_costs_what_one_of_the_whole_cluster_does(build: Builder) -> None:
    run = Pass(seen(build), planned, clock)
    for candidate in run.found:
        found = run.simulation.nearby(candidate, thorough=True) if candidate.pods else None
        if isinstance(found, Plan):
            whole = run.simulation.without([candidate])
            assert {u.pod for u in found.unschedulable} == {u.pod for u in whole.unschedulable}
            assert abs(found.cost.objective_per_hour - whole.cost.objective_per_hour) < 1e-9


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(clusters(), st.lists(st.tuples(st.sampled_from(CHANGES), st.integers(0, 50)), max_size=5))
def test_what_is_remembered_of_pods_with_terms_is_what_would_be_found_anew(
    build: Builder, changes: Sequence[tuple[str, int]]
) -> None:
    answers = Answers()
    for what, number in [("", 0), *changes, ("", 0)]:
        change(build, what, number)
        kept = decide(seen(build), planned, clock, answers=answers)
        assert kept == decide(seen(build), planned, clock, answers=Answers())

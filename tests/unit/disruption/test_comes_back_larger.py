"""Pods whose autoscaler gives their successors more: they are moved only where there is room for these."""

from __future__ import annotations

import time

import pytest

from nodeyard.api import labels as keys
from nodeyard.api.selectors import Requirement
from nodeyard.disruption.arrangement import Arrangement, place_of
from nodeyard.disruption.asking import Remove, asked
from nodeyard.disruption.candidates import candidates
from nodeyard.disruption.consolidation import Play, Settings
from nodeyard.disruption.course import best_course, still_holds
from nodeyard.disruption.evictability import PodGuard
from nodeyard.disruption.judgement import Pass
from nodeyard.disruption.methods import decide
from nodeyard.disruption.model import Course, Outcome, View
from nodeyard.disruption.neighbours import TopologyGuard
from nodeyard.disruption.parts import Parts
from nodeyard.disruption.reaction import react
from nodeyard.disruption.unfolding import Pace, Unfolding
from nodeyard.disruption.whatif import without_nodes
from nodeyard.provisioning.model import Options, Plan, Problem
from nodeyard.provisioning.planner import plan
from nodeyard.state.cluster import Snapshot
from tests.support.disruption import NOW, Builder, catalogue, clock, first_fit


def planner(problem: Problem) -> Plan:
    return plan(problem, Options(bound=False, search_s=0.05), clock)


def only(key: str, value: str) -> Requirement:
    return Requirement(key, "In", (value,))


def two_nodes(cpu: int | None, kind: str = "ReplicaSet", *, own: int = 1500) -> Builder:
    """Two nodes of four cores; on each a pod of 1.5, so that one node would do, and an autoscaler of both pods."""
    made = Builder()
    made.pool(requirements=(only(keys.CAPACITY_TYPE, keys.ON_DEMAND),))
    made.shape("web", own, labels={"app": "web"})
    for name in ("n0", "n1"):
        made.node(name)
        made.pod(f"p-{name}", name, owner_uid="rs")
    made.vpa("rs", cpu, kind)
    return made


def decided(made: Builder) -> Outcome:
    return decide(made.view(), planner, clock)


def test_a_node_goes_that_would_go_by_what_its_pods_ask_for_now() -> None:
    command = decided(two_nodes(None)).command
    assert command is not None
    assert not command.replacements


def test_it_stays_where_what_comes_back_would_need_as_large_a_node() -> None:
    assert decided(two_nodes(3000)).command is None


def test_what_comes_back_goes_where_there_is_room_for_it_beside_pods_as_they_are() -> None:
    """2.5 cores go beside a pod of 1.5 that would itself come back with 2.5, but need not move."""
    assert decided(two_nodes(2500)).command is not None
    assert decided(two_nodes(2600)).command is None


def test_an_autoscaler_of_somebody_else_changes_nothing() -> None:
    made = two_nodes(3000, "StatefulSet")
    assert decided(made).command is not None


def test_a_replacement_is_as_large_as_what_comes_back() -> None:
    made = Builder()
    made.pool()
    made.shape("web", 500, labels={"app": "web"})
    made.node("big", "m5.4xlarge")
    made.pod("p", "big")
    before = decided(made).command
    made.vpa("rs", 3000)
    after = decided(made).command
    assert before is not None
    assert after is not None
    assert {n.instance_type for n in before.replacements} == {"m5.large"}
    assert {n.instance_type for n in after.replacements} == {"m5.xlarge"}
    assert after.replacements[0].requests["cpu"] == 3000


@pytest.mark.parametrize(("cpu", "moved_to"), [(2500, "n1"), (2600, None)])
def test_a_what_if_says_so_too(cpu: int, moved_to: str | None) -> None:
    answer = without_nodes(two_nodes(cpu).view(), ["n0"], planner)
    assert [to for _, _, to in answer.moves if to == "n1"] == ([moved_to] if moved_to else [])
    assert len(answer.plan.nodes) == (0 if moved_to else 1)
    told = asked(two_nodes(cpu).view(), Remove(("n0",)), planner, clock)
    assert len(told["launch"]) == len(answer.plan.nodes)


@pytest.mark.parametrize("cpu", [1400, 1600])
def test_a_pod_of_a_node_that_is_going_is_settled_as_it_comes_back(cpu: int) -> None:
    """Beside a pod of one core there is room for two of 1.4, and for one of 1.6, but not for two of these."""
    made = two_nodes(cpu, own=1000)
    made.node("going", claim={"deleted_at": made.now - 1})
    made.pod("p-going", "going")
    alone, beside = (without_nodes(m.view(), ["n0"], planner) for m in (two_nodes(cpu, own=1000), made))
    assert not alone.plan.nodes
    assert len(beside.plan.nodes) == (1 if cpu == 1600 else 0)


def moved_once() -> Arrangement:
    """The pods of both nodes on n1, as if n0 were gone; a third node has none."""
    made = two_nodes(2000)
    made.node("n2")
    view = made.view()
    places = {c.node: place_of(c, view.snapshot.nodes[c.node], True) for c in candidates(view)}
    held = {name: tuple(sorted(view.snapshot.pods_on.get(name, ()))) for name in places}
    now = Arrangement(view.snapshot, places, held)
    now.replace(["n0"], [], {"n1": held["n0"]})
    return now


def cpu_of(snapshot: Snapshot) -> dict[str, int]:
    return {key: snapshot.shape(pod).requests["cpu"] for key, pod in snapshot.pods.items()}


def test_a_pod_that_moved_counts_as_it_came_back_from_then_on() -> None:
    now = moved_once()
    assert cpu_of(now.snapshot()) == {"default/p-n0": 2000, "default/p-n1": 1500}
    parts = Parts(now.base, TopologyGuard(now.base), NOW)
    beside = parts.part(now, ["n2"], ["n1"], {"": catalogue()}, beside=True)
    assert cpu_of(beside.snapshot) == {"default/p-n0": 2000, "default/p-n1": 1500}
    moving = parts.part(now, ["n1"], ["n2"], {"": catalogue()}, beside=True)
    assert cpu_of(moving.snapshot) == {"default/p-n0": 2000, "default/p-n1": 2000}


def played(view: View) -> dict[str, int]:
    """Node of the end -> the millicores that its pods hold there: those that moved, as they came back."""
    done = Play(view, Options(), Settings(disruption_usd=0.0, seconds=2.0), time.monotonic).run()
    after, base = done.after, view.snapshot
    out = {}
    for name, held in after.held.items():
        stay = [base.pods[key] for key in held if base.pods[key].node == name]
        came = [base.pods[key] for key in held if base.pods[key].node != name]
        ids = [p.shape for p in stay] + [base.successor(p) for p in came]
        out[name] = sum(base.shapes[id_].requests["cpu"] for id_ in ids)
    return out


def full(count: int, cpu: int | None) -> Builder:
    """Nodes of four cores, the only ones there are, with a pod of 0.9 each."""
    made = Builder()
    made.pool(requirements=(only(keys.CAPACITY_TYPE, keys.ON_DEMAND), only(keys.INSTANCE_TYPE, "m5.xlarge")))
    made.shape("web", 900, labels={"app": "web"})
    for number in range(count):
        made.node(f"n{number}")
        made.pod(f"p{number}", f"n{number}")
    made.vpa("rs", cpu)
    return made


def test_a_consolidation_that_fits_by_what_pods_are_now_is_shaped_by_what_they_will_be() -> None:
    """Eight pods of 0.9 fit on two nodes of four cores. Where those that move come back with 1.9, a node holds one that
    stays and one that comes, or two that come.
    """
    now, then = played(full(8, None).view()), played(full(8, 1900).view())
    assert (len(now), len(then)) == (2, 4)
    assert all(cpu <= 4000 for cpu in (*now.values(), *then.values()))


def test_pods_that_are_alike_now_and_will_not_be_do_not_change_places() -> None:
    """Of two pods that look the same, one comes back larger: each goes where the target wants it."""
    made = two_nodes(3000)
    made.pod("p-n1", "n1", owner_name="other")
    for name in ("a", "b"):
        made.node(name)
    view = made.view()
    places = {c.node: place_of(c, view.snapshot.nodes[c.node], True) for c in candidates(view)}
    held = {name: tuple(view.snapshot.pods_on.get(name, ())) for name in places}
    start = Arrangement(view.snapshot, places, held)
    target = start.copy()
    target.replace(["n0", "n1"], [], {"a": held["n1"], "b": held["n0"]})
    guards = TopologyGuard(view.snapshot), PodGuard(view.snapshot, NOW)
    steps, after = Unfolding(start, target, *guards, Pace(lambda *_: None, 10.0), lambda *_: None).run(())
    assert [set(step.remove) for step in steps] == [{"n0", "n1"}]
    assert (after.held["a"], after.held["b"]) == (held["n1"], held["n0"])


def test_steps_at_other_prices_count_pods_as_they_came_back() -> None:
    view = full(6, 1900).view()
    end = react("price", view, view, planner, clock, 2.0)
    arrived = [to for step in end.steps for _, _, to in step.moves]
    assert all(arrived.count(node) <= 1 for node in arrived if node.startswith("n"))
    assert end.steps


def test_no_place_is_kept_for_a_pod_that_comes_back_as_another() -> None:
    """Places are kept by owner and shape: the node is left to commands that keep none."""
    made = full(6, None)
    for number in range(6):
        made.pod(f"p{number}", f"n{number}", owner_uid="rs")
    course = best_course(Pass(made.view(), planner, clock))[0]
    assert isinstance(course, Course)
    assert still_holds(course, made.view()) is None
    made.vpa("rs", 1000)
    assert not isinstance(best_course(Pass(made.view(), planner, clock))[0], Course)
    block = still_holds(course, made.view())
    assert block is not None
    assert "would come back as another" in block.message


def test_the_plain_planner_of_these_tests_looks_for_room_for_successors_too() -> None:
    assert len(without_nodes(two_nodes(2600).view(), ["n0"], first_fit).plan.nodes) == 1

"""The cluster compiled in parts, pass after pass, is the cluster compiled as a whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nodeyard.api import labels as keys
from nodeyard.api.cluster import DaemonSet
from nodeyard.api.node import Node, NodeClaim
from nodeyard.api.pod import PodKey
from nodeyard.api.selectors import Taint, Toleration
from nodeyard.disruption.candidates import candidates
from nodeyard.disruption.model import Candidate, View
from nodeyard.disruption.screening import Screen
from nodeyard.disruption.simulation import closed_targets, leaving, pods_of
from nodeyard.disruption.vicinity import Answers
from nodeyard.provisioning.classes import PodClass
from nodeyard.provisioning.compiling import compile_problem
from nodeyard.provisioning.model import Options, Problem
from nodeyard.provisioning.setting import Setting
from nodeyard.state.cluster import Kind
from tests.property.test_nearby import CHANGES, CPU, change, clusters, seen
from tests.support.disruption import NOW, Builder, shape

MORE = (
    *CHANGES, "taint", "new shape", "shape goes", "promise", "daemons", "window", "extended", "leaves",
)  # fmt: skip
OPTIONS = Options()
BY_SIZE = sorted(CPU)


def node_changed(build: Builder, what: str, number: int, node: Node, claim: NodeClaim) -> None:
    match what:
        case "taint":
            taints = () if node.taints else (Taint("team", "NoSchedule", "a"),)
            build.put(Kind.NODE, node.name, msgspec.structs.replace(node, taints=taints))
        case "promise":
            key = build.pod(f"promised-{number}", shape="s").key
            annotations = {keys.PLANNED_PODS: msgspec.json.encode([key]).decode()}
            build.put(Kind.NODE_CLAIM, claim.name, msgspec.structs.replace(claim, annotations=annotations))
        case "extended":
            room = {**node.allocatable, "example.com/gpu": number % 3}
            build.put(Kind.NODE, node.name, msgspec.structs.replace(node, allocatable=room))
            requests = {"cpu": 100, "pods": 1, "example.com/gpu": 1}
            build.put(Kind.SHAPE, "gpu", msgspec.structs.replace(shape("gpu"), requests=requests))
            build.pod(f"gpu-{number}", node.name, shape="gpu")
        case "leaves":
            gone = 0.0 if claim.deleted_at else NOW - 1.0
            build.put(Kind.NODE_CLAIM, claim.name, msgspec.structs.replace(claim, deleted_at=gone))


def changed(build: Builder, what: str, number: int) -> None:
    nodes = sorted(build.snapshot.nodes)
    name = nodes[number % len(nodes)] if nodes else ""
    match what:
        case "taint" | "promise" | "extended" | "leaves" if name:
            claim = build.store.get(Kind.NODE_CLAIM, f"{name}-c")
            assert claim is not None
            node_changed(build, what, number, build.snapshot.nodes[name], claim)
        case "new shape" if name:
            tolerations = (Toleration("team", "Exists"),) if number % 2 else ()
            build.shape(f"s{number}", 100 + 50 * number, labels={"app": "s"}, tolerations=tolerations)
            build.pod(f"of-s{number}", name, shape=f"s{number}")
        case "shape goes":
            id_ = BY_SIZE[number % len(BY_SIZE)]
            for key in [key for key, pod in build.snapshot.pods.items() if pod.shape == id_]:
                build.put(Kind.POD, key, None)
        case "daemons":
            agent = shape(f"agent{number}", 50 + number, tolerations=(Toleration(operator="Exists"),))
            build.put(Kind.SHAPE, agent.id, agent)
            build.put(Kind.DAEMON_SET, "default/agent", DaemonSet("default", "agent", "", agent))
            if name and number % 2:
                owner = {"owner_kind": "DaemonSet", "owner_name": "agent"}
                build.pod(f"agent-{name}", name, shape=agent.id, **owner)
        case "window":
            build.pool(after=30.0 * (number % 3))
        case _:
            change(build, what, number)


class Plain:
    """What the whole compile says: the oracle."""

    def __init__(self, problem: Problem, found: Sequence[Candidate]) -> None:
        found = [c for c in found if c.node not in problem.without_nodes]
        problem = msgspec.structs.replace(problem, pods=pods_of(found))
        self.setting: Setting = compile_problem(problem, OPTIONS)[0]
        self.class_of = _class_of(self.setting)
        as_they_are = msgspec.structs.replace(problem.snapshot, successors={})
        there = _class_of(compile_problem(msgspec.structs.replace(problem, snapshot=as_they_are), OPTIONS)[0])
        self.room = self.setting.hosts.room.copy()
        at = {host.name: i for i, host in enumerate(self.setting.hosts.hosts)}
        for c in found:
            for key in c.pods if c.node in at else ():
                self.room[at[c.node]] -= there[key].request

    def takes(self, one: PodClass) -> Mapping[str, int]:
        """Node -> how many more pods of a class."""
        needed = one.request > 0
        admitted = self.setting.rules.on_hosts(one.rule)
        fit = np.floor((self.room[:, needed] / one.request[needed]).min(axis=1) + 1e-9)
        return {
            host.name: int(max(fit[i], 0.0)) if admitted[i] else 0
            for i, host in enumerate(self.setting.hosts.hosts)
            if not host.claim
        }


def _class_of(setting: Setting) -> dict[PodKey, PodClass]:
    return {key: c for c in setting.classes.classes for key in c.pods}


def question(view: View, found: Sequence[Candidate]) -> Problem:
    return Problem(
        view.snapshot, (), view.catalogues, view.now, without_nodes=leaving(view.snapshot),
        uninitialized_targets=False, closed_nodes=closed_targets(view, found),
    )  # fmt: skip


def follow(answers: Answers, problem: Problem, found: Sequence[Candidate]) -> Screen:
    answers.begin(problem.snapshot, problem.catalogues, default_spread=False)
    answers.resident.follow(problem, OPTIONS, found, answers.terms)
    return Screen(answers.resident, found, problem.snapshot.shapes)


def told_of(one: PodClass, setting: Any) -> tuple[object, ...]:
    """A class without the numbers of its terms, which are given in the order of asking."""
    terms = setting.terms if hasattr(setting, "terms") else setting.classes.terms
    carried, matched = ({terms[n] for n in ns} for ns in (one.carried, one.matched))
    return one.rule, one.request.tobytes(), frozenset(carried), frozenset(matched), one.ports


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(clusters(), st.lists(st.tuples(st.sampled_from(MORE), st.integers(0, 50)), max_size=8))
def test_what_was_compiled_in_parts_is_what_the_whole_compiles_to(
    build: Builder, changes: Sequence[tuple[str, int]]
) -> None:
    kept = Answers()
    for what, number in [("", 0), *changes, ("", 0)]:
        changed(build, what, number)
        view = seen(build, price=0.2 if what == "price" else 1 / 3)
        found = candidates(view)
        problem = question(view, found)
        screen, anew = follow(kept, problem, found), follow(Answers(), problem, found)
        plain, resident = Plain(problem, found), kept.resident
        by_number = {c.number: c for c in resident.classes.classes}
        for key, one in plain.class_of.items():
            pod = view.snapshot.pods[key]
            if pod.node not in resident.at:
                continue
            own = by_number[resident.class_of[view.snapshot.successor(pod)]]
            assert told_of(own, resident.classes) == told_of(one, plain.setting)
            column = resident.takes[resident.kind_of[own.number]]
            assert dict(zip(resident.names, column.tolist(), strict=True)) == plain.takes(one)
            assert resident.total[resident.kind_of[own.number]] == column.sum()
        columns = (resident.columns.price, resident.columns.room)
        for one_side, other in zip(
            columns, (plain.setting.columns.price, plain.setting.columns.room), strict=True
        ):
            assert np.array_equal(one_side, other)
        for c in found:
            assert screen.refusal(c) == anew.refusal(c)
            assert screen.near(c) == anew.near(c)
            for resource in ("cpu", "nodes"):
                assert screen.used_outside("default", resource, frozenset((c.node,))) == anew.used_outside(
                    "default", resource, frozenset((c.node,))
                )


def test_a_promise_that_comes_to_nothing_leaves_its_room_to_others() -> None:
    build, answers = Builder(), Answers()
    build.pool()
    build.shape("s", 250)
    build.node("a")
    build.pod("there", "a", shape="s")

    def room() -> int:
        view = seen(build)
        found = candidates(view)
        follow(answers, question(view, found), found)
        return int(answers.resident.total[answers.resident.kind_of[0]])

    before = room()
    changed(build, "promise", 0)
    assert room() == before - 1
    build.put(Kind.POD, "default/promised-0", None)
    assert room() == before


def test_what_a_pod_would_come_back_as_is_followed_though_the_pod_did_not_change() -> None:
    build, answers = Builder(), Answers()
    build.pool()
    build.shape("s", 250)
    build.node("a")
    build.pod("there", "a", shape="s")

    def asked() -> float:
        view = seen(build)
        found = candidates(view)
        follow(answers, question(view, found), found)
        held = answers.resident.held("a")
        assert held is not None
        return float(answers.resident.request[held[0]][0, 0])

    for cpu, wanted in ((None, 250.0), (900, 900.0), (1100, 1100.0), (None, 250.0)):
        build.vpa("rs", cpu)
        assert asked() == wanted


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(clusters(), st.integers(0, 50))
def test_only_nodes_that_changed_are_compiled_again(build: Builder, number: int) -> None:
    answers = Answers()

    def look() -> int:
        view = seen(build)
        found = candidates(view)
        follow(answers, question(view, found), found)
        return answers.resident.compiled

    assert look() == len(build.snapshot.nodes)
    assert look() == 0
    change(build, "label", number)
    assert look() == min(1, len(build.snapshot.nodes))
    change(build, "pod goes", number)
    assert look() <= 1
    build.pool(limits={"cpu": 77_000})
    assert look() == 0

"""The table of a claim's steps, what a node gets at registration, and when it is initialized."""

from typing import Any

import pytest

from nodeyard.api import labels as keys
from nodeyard.api.node import INITIALIZED, LAUNCHED, READY, REGISTERED, Condition, Node, NodeClaim
from nodeyard.api.selectors import Taint
from nodeyard.provisioning.lifecycle import (
    Deadlines,
    Step,
    next_step,
    not_initialized,
    registration,
    with_condition,
)

NODE = Node("n", provider_id="id")


def claim(*true: str, since: float = 100.0, **fields: Any) -> NodeClaim:
    given = {"created_at": 100.0, "finalizers": (keys.TERMINATION_FINALIZER,), **fields}
    return NodeClaim("c", conditions=tuple(Condition(kind, "True", since=since) for kind in true), **given)


@pytest.mark.parametrize(
    ("state", "node", "now", "step"),
    [
        (claim(), None, 101, Step.LAUNCH),
        (claim(), None, 401, Step.GIVE_UP_LAUNCH),
        (claim(LAUNCHED, provider_id="id"), None, 500, Step.WAIT),
        (claim(LAUNCHED, provider_id="id"), NODE, 500, Step.REGISTER),
        (claim(LAUNCHED, provider_id="id"), None, 1001, Step.GIVE_UP_REGISTRATION),
        (claim(LAUNCHED, provider_id="id"), NODE, 1001, Step.REGISTER),
        (claim(LAUNCHED, REGISTERED, provider_id="id"), NODE, 99999, Step.INITIALIZE),
        (claim(LAUNCHED, REGISTERED, provider_id="id"), None, 99999, Step.WAIT),
        (claim(LAUNCHED, REGISTERED, INITIALIZED, provider_id="id"), NODE, 99999, Step.WAIT),
        (claim(deleted_at=5.0), None, 101, Step.FINALIZE),
        (claim(deleted_at=5.0, finalizers=()), None, 101, Step.WAIT),
        (claim(LAUNCHED, deleted_at=5.0, provider_id="id"), NODE, 101, Step.WAIT),
    ],
)
def test_the_step_that_is_due(state: NodeClaim, node: Node | None, now: float, step: Step) -> None:
    assert next_step(state, node, now, Deadlines()) == step


def test_registration_takes_the_claims_labels_annotations_and_taints() -> None:
    node = Node(
        "n", labels={"a": "1", "b": "old"}, annotations={"kubelet": "x"}, finalizers=("other",),
        taints=(Taint(keys.TAINT_UNREGISTERED, "NoExecute"), Taint(keys.TAINT_NOT_READY, "NoSchedule")),
    )  # fmt: skip
    made = registration(
        node,
        claim(
            labels={"b": "new"}, annotations={"note": "y", keys.PLANNED_PODS: "[]"},
            taints=(Taint("team", "NoSchedule"),), startup_taints=(Taint("cni", "NoExecute"),),
        ),
    )  # fmt: skip
    assert made.labels == {"a": "1", "b": "new", keys.REGISTERED: "true"}
    assert made.annotations == {"kubelet": "x", "note": "y"}
    assert {t.key for t in made.taints} == {keys.TAINT_NOT_READY, "team", "cni"}
    assert made.finalizers == ("other", keys.TERMINATION_FINALIZER)
    assert not made.unregistered_missing


def test_taints_are_left_alone_where_the_user_says_so() -> None:
    asked = claim(taints=(Taint("team", "NoSchedule"),), annotations={keys.DO_NOT_SYNC_TAINTS: "true"})
    made = registration(Node("n", taints=(Taint(keys.TAINT_UNREGISTERED, "NoExecute"),)), asked)
    assert made.taints == ()


def test_a_hold_comes_with_its_deadline_in_the_same_write() -> None:
    made = registration(Node("n"), claim(), hold_until="2026-01-01T00:00:10Z")
    assert [t.key for t in made.taints] == [keys.BIND_HOLD]
    assert made.annotations[keys.BIND_HOLD_DEADLINE] == "2026-01-01T00:00:10Z"
    assert made.unregistered_missing


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        ({}, None),
        ({"conditions": (Condition(READY, "False"),)}, "NodeNotReady"),
        ({"taints": (Taint("cni", "NoExecute"),)}, "StartupTaintsExist"),
        ({"taints": (Taint("team", "NoSchedule"),)}, None),
        ({"taints": (Taint(keys.TAINT_NOT_READY, "NoSchedule"),)}, "EphemeralTaintsExist"),
        ({"taints": (Taint(keys.TAINT_CLOUD_UNINITIALIZED, "NoSchedule"),)}, "EphemeralTaintsExist"),
        ({"taints": (Taint("readiness.k8s.io/network", "NoSchedule"),)}, "EphemeralTaintsExist"),
        ({"taints": (Taint(keys.BIND_HOLD, "NoSchedule"),)}, "HeldForPods"),
        ({"allocatable": {"cpu": 1000}}, "ResourceNotRegistered"),
        ({"allocatable": {"cpu": 1000, "nvidia.com/gpu": 0}}, "ResourceNotRegistered"),
    ],
)
def test_when_a_node_is_initialized(node: dict[str, Any], reason: str | None) -> None:
    fields = {
        "conditions": (Condition(READY, "True"),), "allocatable": {"cpu": 1000, "nvidia.com/gpu": 1}, **node,
    }  # fmt: skip
    asked = claim(
        requests={"cpu": 1, "nvidia.com/gpu": 1, "memory": 0}, startup_taints=(Taint("cni", "NoExecute"),)
    )
    said = not_initialized(Node("n", **fields), asked)
    assert (said[0] if said else None) == reason


def test_a_node_that_keeps_places_is_initialized_under_its_hold() -> None:
    node = Node(
        "n", conditions=(Condition(READY, "True"),), taints=(Taint(keys.BIND_HOLD, "NoSchedule"),)
    )  # fmt: skip
    assert not_initialized(node, claim(annotations={keys.KEPT_PLACES: "{}"})) is None


def test_a_conditions_time_moves_with_its_status_only() -> None:
    first = with_condition(NodeClaim("c"), Condition(LAUNCHED, "Unknown", "Throttled", "x" * 999), 10.0)
    state = NodeClaim("c", conditions=first)
    launched = state.condition(LAUNCHED)
    assert launched is not None
    assert (launched.since, len(launched.message)) == (10.0, 300)
    again = with_condition(state, Condition(LAUNCHED, "Unknown", "Unreachable"), 20.0)
    assert next(c for c in again if c.type == LAUNCHED).since == 10.0
    done = with_condition(state, Condition(LAUNCHED, "True", LAUNCHED), 20.0)
    assert next(c for c in done if c.type == LAUNCHED).since == 20.0


def test_ready_is_true_only_when_all_three_are() -> None:
    state = NodeClaim("c")
    for number, kind in enumerate((LAUNCHED, REGISTERED, INITIALIZED)):
        assert not state.is_true(READY)
        state = NodeClaim("c", conditions=with_condition(state, Condition(kind, "True", kind), float(number)))
    assert state.is_true(READY)
    failed = with_condition(NodeClaim("c"), Condition(REGISTERED, "False", "MultipleNodesFound"), 1.0)
    assert next(c for c in failed if c.type == READY).status == "False"

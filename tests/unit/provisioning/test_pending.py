"""Which pods need a place: refused ones nobody promised a place to, and those of nodes going away."""

from typing import Any

import msgspec
import pytest

from nodeyard.api import labels as keys
from nodeyard.api.cluster import PodDisruptionBudget
from nodeyard.api.node import INITIALIZED, Condition, Node, NodeClaim
from nodeyard.api.pod import PodRecord, PodShape
from nodeyard.api.selectors import LabelSelector, NodeAffinity, NodeSelector, NodeSelectorTerm, Requirement
from nodeyard.provisioning.pending import Pending, next_landing, pending
from nodeyard.state.cluster import Change, Kind, snapshot_of

NOW = 1_000_000.0


def pod(name: str = "p", **fields: Any) -> PodRecord:
    given = {"unschedulable": True, "owner_kind": "ReplicaSet", **fields}
    return PodRecord("ns", name, f"uid-{name}", "s", **given)


def claim(name: str = "c", pods: str = '["ns/p"]', **fields: Any) -> NodeClaim:
    return NodeClaim(name, provider_id=f"id-{name}", annotations={keys.PLANNED_PODS: pods}, **fields)


def needed(*objects: Any, now: float = NOW) -> Pending:
    kinds = {PodRecord: Kind.POD, Node: Kind.NODE, NodeClaim: Kind.NODE_CLAIM, PodDisruptionBudget: Kind.PDB}
    changes = [Change(Kind.SHAPE, "s", PodShape("s", "ns", labels={"app": "web"}))]
    for item in objects:
        changes.append(Change(kinds[type(item)], getattr(item, "key", None) or item.name, item))
    return pending(snapshot_of(changes), now)


@pytest.mark.parametrize(
    ("fields", "counts"),
    [
        ({}, True),
        ({"unschedulable": False}, False),
        ({"node": "n"}, False),
        ({"phase": "Failed"}, False),
        ({"deleted_at": 5.0}, False),
        ({"owner_kind": "DaemonSet"}, False),
        ({"owner_kind": "Node"}, False),
        ({"owner_kind": ""}, True),
    ],
)
def test_who_is_pending(fields: dict[str, Any], counts: bool) -> None:
    assert bool(needed(pod(**fields)).pods) is counts


def never(*others: Requirement) -> NodeSelectorTerm:
    return NodeSelectorTerm((Requirement(keys.NODEPOOL, "DoesNotExist"), *others))


@pytest.mark.parametrize(
    ("terms", "counts"),
    [
        ((never(),), False),
        ((never(Requirement("disk", "Exists")), never()), False),
        ((never(), NodeSelectorTerm((Requirement("disk", "Exists"),))), True),
        ((NodeSelectorTerm((Requirement(keys.NODEPOOL, "Exists"),)),), True),
    ],
)
def test_a_pod_that_keeps_off_every_pool_is_nobodys_business(
    terms: tuple[NodeSelectorTerm, ...], counts: bool
) -> None:
    """It waits for other nodes, and is not told again and again that no pool takes it."""
    shape = PodShape("s", "ns", node_affinity=NodeAffinity(NodeSelector(terms)))
    snapshot = snapshot_of([Change(Kind.SHAPE, "s", shape), Change(Kind.POD, "ns/p", pod())])
    assert bool(pending(snapshot, NOW).pods) is counts


def test_a_pod_is_promised_to_its_claim_until_the_claim_goes() -> None:
    assert needed(pod(), claim()).promised == {"ns/p": "c"}
    assert needed(pod(), claim()).pods == ()
    assert needed(pod(), claim(deleted_at=5.0)).pods == ("ns/p",)


def test_a_promise_ends_half_a_minute_after_the_node_was_initialized() -> None:
    done = claim(conditions=(Condition(INITIALIZED, "True", since=NOW - 20),))
    assert needed(pod(), done).pods == ()
    assert needed(pod(), done, now=NOW + 11).pods == ("ns/p",)
    changes = [
        Change(Kind.SHAPE, "s", PodShape("s", "ns")),
        Change(Kind.POD, "ns/p", pod()),
        Change(Kind.NODE_CLAIM, "c", done),
    ]
    assert next_landing(snapshot_of(changes), NOW) == pytest.approx(10.0)


def test_a_pod_for_which_somebody_else_made_room_is_left_alone() -> None:
    node = Node("n", provider_id="id-c")
    waiting = pod(nominated_node="n")
    assert needed(waiting, node).pods == ()
    assert needed(waiting).pods == ("ns/p",), "that node does not exist (any more)"
    assert needed(waiting, msgspec.structs.replace(node, deleted_at=5.0)).pods == ("ns/p",)


def test_our_own_nomination_does_not_make_a_pod_look_like_preempting() -> None:
    done = claim(conditions=(Condition(INITIALIZED, "True", since=NOW - 100),))
    assert needed(pod(nominated_node="n"), Node("n", provider_id="id-c"), done).pods == ("ns/p",)


def going(**fields: Any) -> Node:
    return Node("n", deleted_at=NOW, **fields)


def bound(name: str = "b", **fields: Any) -> PodRecord:
    return pod(
        name, **{"unschedulable": False, "node": "n", "phase": "Running", "started_at": NOW - 60, **fields}
    )


def test_pods_of_a_deleted_node_count_before_they_are_evicted() -> None:
    need = needed(bound(), going())
    assert need.moving == ("ns/b",)
    assert need.leaving == frozenset({"n"})
    assert needed(bound(), Node("n", provider_id="id-c"), claim(pods="[]", deleted_at=NOW)).moving == (
        "ns/b",
    )


def test_a_node_that_is_only_to_be_disrupted_keeps_its_pods() -> None:
    assert needed(bound(), Node("n")).moving == ()


@pytest.mark.parametrize(
    ("fields", "moves"),
    [
        ({}, True),
        ({"owner_kind": "DaemonSet"}, False),
        ({"owner_kind": ""}, False),
        ({"phase": "Succeeded"}, False),
        ({"deleted_at": NOW}, False),
        ({"deleted_at": NOW, "owner_kind": "StatefulSet"}, True),
        ({"do_not_disrupt": "true"}, False),
        ({"do_not_disrupt": "10m"}, False),
        ({"do_not_disrupt": "30s"}, True),
        ({"do_not_disrupt": "soon"}, True),
    ],
)
def test_which_pods_of_a_leaving_node_move(fields: dict[str, Any], moves: bool) -> None:
    assert bool(needed(bound(**fields), going()).moving) is moves


@pytest.mark.parametrize(
    ("fields", "moves"),
    [
        ({"max_unavailable": "0"}, False),
        ({"max_unavailable": "0%"}, False),
        ({"min_available": "100%"}, False),
        ({"max_unavailable": "1"}, True),
        ({"min_available": "50%", "disruptions_allowed": 0}, True),
    ],
)
def test_a_budget_that_never_lets_go_keeps_its_pods(fields: dict[str, Any], moves: bool) -> None:
    budget = PodDisruptionBudget("ns", "b", selector=LabelSelector({"app": "web"}), **fields)
    assert bool(needed(bound(), going(), budget).moving) is moves


def test_a_budget_of_others_does_not_count() -> None:
    budget = PodDisruptionBudget("ns", "b", selector=LabelSelector({"app": "db"}), max_unavailable="0")
    assert needed(bound(), going(), budget).moving == ("ns/b",)

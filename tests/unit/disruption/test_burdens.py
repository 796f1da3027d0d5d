"""What is remembered of nodes from pass to pass is what a first look would find."""

from __future__ import annotations

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nodeyard.disruption.burdens import Burdens
from nodeyard.disruption.candidates import candidates
from nodeyard.disruption.outlook import Outlook
from nodeyard.state.cluster import Kind
from tests.support.disruption import NOW, Builder

CHANGES = (
    {"ready": False},
    {"do_not_disrupt": "true"},
    {"do_not_disrupt": "10m"},
    {"deleted_at": NOW + 20.0},
    {"phase": "Succeeded"},
    {"grace_period_s": 90.0},
    {"owner_kind": "DaemonSet", "owner_name": "logs"},
    {"owner_kind": "ReplicaSet", "owner_name": "web"},
    {"node": "n1"},
    {"deletion_cost": 2**26},
    None,
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 2), st.sampled_from(CHANGES), st.booleans()), max_size=8
    )
)
def test_remembering_changes_no_answer(
    changes: list[tuple[int, int, dict[str, object] | None, bool]],
) -> None:
    made, burdens = Builder(), Burdens()
    made.pool()
    for n in range(3):
        made.node(f"n{n}")
        for p in range(3):
            made.pod(f"p{n}-{p}", f"n{n}")
    for n, p, change, budget in changes:
        key = f"default/p{n}-{p}"
        old = made.store.get(Kind.POD, key)
        if old is not None:
            made.put(Kind.POD, key, msgspec.structs.replace(old, **change) if change else None)
        if budget:
            made.pdb("web", n, {"app": "web"})
        view = made.view()
        assert candidates(view, burdens) == candidates(view)
        before, now = Outlook(view.snapshot, NOW, burdens), Outlook(view.snapshot, NOW)
        for found in candidates(view):
            assert before.alone_on(found.node) == now.singletons(found.pods)


def test_a_node_without_protection_is_estimated_as_among_others() -> None:
    made = Builder()
    made.pool()
    made.node("a")
    made.node("empty")
    made.pod("one", "a", grace_period_s=40.0)
    made.pod("two", "a", grace_period_s=90.0)
    outlook = Outlook(made.snapshot, NOW)
    assert outlook.drain(("a",)).seconds == outlook.drain(("a", "empty")).seconds == 90.0
    assert outlook.drain(("empty",)).seconds == 5.0


def test_nodes_that_are_gone_are_forgotten() -> None:
    made, burdens = Builder(), Burdens()
    made.pool()
    for name in ("a", "b"):
        made.node(name)
        made.pod(f"on-{name}", name)
    candidates(made.view(), burdens)
    made.put(Kind.NODE, "b", None)
    made.put(Kind.NODE_CLAIM, "b-c", None)
    candidates(made.view(), burdens)
    assert burdens.nodes == {"a"}

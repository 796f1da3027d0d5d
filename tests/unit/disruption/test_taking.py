"""Whether a node that runs takes the pods that a new one of its offering would."""

from __future__ import annotations

import msgspec
import pytest

from nodeyard.api import labels as keys
from nodeyard.api.selectors import Taint
from nodeyard.disruption.taking import takes
from nodeyard.state.cluster import Kind
from tests.support.disruption import ZONE, Builder


def built(**node: object) -> Builder:
    made = Builder()
    made.pool()
    made.node("n0", **node)  # type: ignore[arg-type]
    made.shape("zonal", 500, node_selector={keys.ZONE: ZONE})
    return made


def asked(made: Builder, **pods: int) -> bool:
    return takes(made.snapshot, made.snapshot.nodes["n0"], pods)


def test_pods_that_fit_are_taken() -> None:
    assert asked(built(), web=4, zonal=4)


def test_pods_beyond_its_room_are_not() -> None:
    assert not asked(built(), web=4, zonal=5)


def test_its_daemons_take_their_part() -> None:
    made = built()
    made.pod("agent", "n0", owner_kind="DaemonSet")
    assert asked(made, web=7)
    assert not asked(made, web=8)


@pytest.mark.parametrize(
    "spoiled",
    [
        {"unschedulable": True},
        {"deleted_at": 1.0},
        {"taints": (Taint(key="team", value="red", effect="NoSchedule"),)},
        {"labels": {}},
    ],
)
def test_a_node_that_was_changed_by_hand_takes_nothing_of_what_asks(spoiled: dict[str, object]) -> None:
    made = built()
    node = made.snapshot.nodes["n0"]
    made.put(Kind.NODE, "n0", msgspec.structs.replace(node, **spoiled))
    assert not asked(made, zonal=1)

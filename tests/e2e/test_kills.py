"""`kill -9` before and after every outside write: nothing is launched twice, nothing leaks, the job gets done.

For each point the doomed replica is the only one of its service, so that it is the one to pass the point; when it is
dead another takes over. What was launched is counted in the account.
"""

from __future__ import annotations

import signal

import pytest

from tests.support.yard import (
    DEPLOYMENTS,
    Yard,
    apart,
    around,
    doomed,
)

pytestmark = pytest.mark.cluster

STARTING = [
    *around("allocator", "create-claim", "annotate-claim", "create-fleet", "status-claim"),
    *around("allocator", "register-node", "nominate-pods", "initialize-node"),
    "allocator.after-plan",
]
ENDING = [
    *around("reallocator", "disrupt-node", "delete-claim", "mark-node", "terminate"),
    *around("reallocator", "drop-node-finalizer", "remove-finalizer-claim"),
]


@pytest.mark.parametrize("point", STARTING)
def test_an_allocator_killed_on_the_way_up_is_taken_over(lone_yard: Yard, point: str) -> None:
    app, before, claims = point.replace(".", "-"), lone_yard.launched(), len(lone_yard.claims())
    with doomed(lone_yard, point):
        lone_yard.apply(apart(app, 2))
    lone_yard.wait_running(app, 2)
    lone_yard.wait_settled()
    assert lone_yard.launched() - before == len(lone_yard.claims()) - claims == 2


def test_what_they_made_goes_again(lone_yard: Yard) -> None:
    lone_yard.kube.delete(DEPLOYMENTS)
    lone_yard.wait_gone()


@pytest.mark.parametrize("point", ENDING)
def test_a_reallocator_killed_on_the_way_down_is_taken_over(lone_yard: Yard, point: str) -> None:
    lone_yard.apply(apart("web", 2))
    lone_yard.wait_running("web", 2)
    with doomed(lone_yard, point):
        lone_yard.scale("web", 0)
    lone_yard.wait_gone()


@pytest.mark.parametrize("service", ["watcher", "pricing", "admin"])
def test_a_reader_killed_in_the_middle_comes_back_to_the_same_state(lone_yard: Yard, service: str) -> None:
    before = lone_yard.launched()
    lone_yard.apply(apart("web", 4))
    lone_yard.stand.kill_service(service, 0, signal.SIGKILL)
    lone_yard.stand.start_service(service, 0)
    lone_yard.wait_running("web", 4)
    lone_yard.wait_settled()
    assert lone_yard.launched() - before == len(lone_yard.claims()) == 4
    lone_yard.scale("web", 0)
    lone_yard.wait_gone()

"""`kill -9` before and after every outside write: nothing is launched twice, nothing leaks, the job gets done.

For each point the doomed replica is the only one of its service, so that it is the one to pass the point; when it is
dead another takes over. What was launched is counted in the account.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.e2e.conftest import YardFactory
from tests.support.cluster import eventually
from tests.support.yard import DEPLOYMENTS, Yard, deployment, node_class, node_pool

pytestmark = pytest.mark.cluster

STARTING = [
    f"allocator.{when}-{write}"
    for write in ("create-claim", "annotate-claim", "create-fleet", "status-claim", "register-node", "nominate-pods", "initialize-node")
    for when in ("before", "after")
] + ["allocator.after-plan"]  # fmt: skip
ENDING = [
    f"reallocator.{when}-{write}"
    for write in ("disrupt-node", "delete-claim", "mark-node", "terminate", "drop-node-finalizer", "remove-finalizer-claim")
    for when in ("before", "after")
]  # fmt: skip


@pytest.fixture(scope="module")
def yard(make_yard: YardFactory) -> Yard:
    yard = make_yard(
        replicas=1,
        settings={
            "NODEYARD_VALIDATION_WAIT": "500ms",
            "NODEYARD_DISRUPTION_POLL": "1s",
            "NODEYARD_BATCH_MAX_DURATION": "3s",
            "NODEYARD_LEASE_TTL": "2s",
        },
    )
    yard.apply(node_class(), node_pool())
    return yard


@contextmanager
def doomed(yard: Yard, point: str) -> Iterator[None]:
    """Its service's only replica dies at `point`; afterwards another has taken its place.

    Nothing may be under way when it begins, else it dies of that, before the test has given it anything to do.
    """
    service = point.partition(".")[0]
    yard.wait_initialized()
    yard.stand.kill_service(service, 0, signal.SIGTERM)
    try:
        yard.stand.start_service(service, 0, {"NODEYARD_KILL_POINT": point})
        eventually(lambda: yard.stand.ready(service), within_s=30)
        yield
        yard.stand.processes.wait_gone(f"{service}-0", timeout_s=60)
    finally:  # whatever came of it: the tests after this one need the service
        yard.stand.processes.stop([f"{service}-0"])
        yard.stand.start_service(service, 0)


ONE_TO_A_NODE = [{"containerPort": 8080, "hostPort": 8080}]
"""A host port that every pod of these tests wants: none fits on a node that another is on."""


@pytest.mark.parametrize("point", STARTING)
def test_an_allocator_killed_on_the_way_up_is_taken_over(yard: Yard, point: str) -> None:
    app, before, claims = point.replace(".", "-"), yard.launched(), len(yard.claims())
    pods = deployment(app, 2)
    pods["spec"]["template"]["spec"]["containers"][0]["ports"] = ONE_TO_A_NODE
    with doomed(yard, point):
        yard.apply(pods)
    yard.wait_running(app, 2, within_s=90)
    yard.wait_settled()
    assert yard.launched() - before == len(yard.claims()) - claims == 2


def test_what_they_made_goes_again(yard: Yard) -> None:
    yard.kube.delete(DEPLOYMENTS)
    yard.wait_gone(within_s=120)


@pytest.mark.parametrize("point", ENDING)
def test_a_reallocator_killed_on_the_way_down_is_taken_over(yard: Yard, point: str) -> None:
    yard.apply(deployment("web", 3))
    yard.wait_running("web", 3, within_s=60)
    with doomed(yard, point):
        yard.scale("web", 0)
    yard.wait_gone(within_s=90)


@pytest.mark.parametrize("service", ["watcher", "pricing", "admin"])
def test_a_reader_killed_in_the_middle_comes_back_to_the_same_state(yard: Yard, service: str) -> None:
    before = yard.launched()
    yard.apply(deployment("web", 4, {"cpu": "1500m", "memory": "1Gi"}))
    yard.stand.kill_service(service, 0, signal.SIGKILL)
    yard.stand.start_service(service, 0)
    yard.wait_running("web", 4, within_s=60)
    yard.wait_settled()
    assert yard.launched() - before == len(yard.claims())
    yard.scale("web", 0)
    yard.wait_gone(within_s=90)

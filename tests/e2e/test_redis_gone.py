"""Redis restarted with all its data gone: nothing is launched twice, nothing leaks, planning resumes."""

from __future__ import annotations

import time

import pytest

from tests.e2e.conftest import YardFactory
from tests.support.yard import Yard, deployment, node_class, node_pool

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def yard(make_yard: YardFactory) -> Yard:
    yard = make_yard(
        settings={
            "NODEYARD_VALIDATION_WAIT": "1s",
            "NODEYARD_DISRUPTION_POLL": "1s",
            "NODEYARD_BATCH_MAX_DURATION": "3s",
        }
    )
    yard.apply(node_class(), node_pool())
    return yard


def epoch(yard: Yard, lease: str) -> int:
    """The lease's last epoch, as Kubernetes keeps it."""
    leases = yard.items("/apis/coordination.k8s.io/v1/leases")
    (found,) = [item for item in leases if item["metadata"]["name"] == lease]
    return int(found["metadata"]["annotations"]["nodeyard.dev/epoch"])


def test_redis_restarted_empty_in_the_middle_of_a_scale_up(yard: Yard) -> None:
    yard.apply(deployment("first", 4))
    yard.wait_running("first", 4)
    before = epoch(yard, "nodeyard-planning-all")
    yard.apply(deployment("web", 8, {"cpu": "1500m", "memory": "1Gi"}))
    yard.stand.restart_redis()
    returned = time.monotonic()
    yard.wait_running("web", 8, within_s=60)
    assert time.monotonic() - returned < 30
    yard.wait_settled()
    assert yard.launched() == len(yard.claims())
    assert epoch(yard, "nodeyard-planning-all") > before


def test_nodes_still_go_after_redis_lost_everything(yard: Yard) -> None:
    for name in ("first", "web"):
        yard.scale(name, 0)
    yard.stand.restart_redis()
    yard.wait_gone(within_s=90)

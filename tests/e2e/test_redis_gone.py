"""Redis away, and restarted with all its data gone: nothing is launched twice, nothing leaks, planning resumes.

While it is away nothing new is planned; what is under way and what a user asks for by a claim goes on.
"""

from __future__ import annotations

import pytest

from tests.e2e.conftest import YardFactory
from tests.support.cluster import eventually
from tests.support.yard import (
    CLAIMS,
    Json,
    Yard,
    apart,
    deployment,
    node_class,
    node_pool,
    own_claim,
)

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
    yard.apply(apart("first", 2))
    yard.wait_running("first", 2)
    before = epoch(yard, "nodeyard-planning-all")
    yard.apply(apart("web", 6))
    yard.stand.restart_redis()
    yard.wait_running("web", 6)
    yard.wait_settled()
    assert yard.launched() == len(yard.claims()) == 8
    eventually(lambda: epoch(yard, "nodeyard-planning-all") > before)


def test_nodes_still_go_after_redis_lost_everything(yard: Yard) -> None:
    for name in ("first", "web"):
        yard.scale(name, 0)
    yard.stand.restart_redis()
    yard.wait_gone()


def alone(name: str) -> Json:
    """A pod that fits on no m5.large, nor beside another of its kind."""
    made = deployment(name, 1, {"cpu": "3", "memory": "1Gi"})
    made["spec"]["template"]["spec"]["containers"][0]["ports"] = [{"containerPort": 80, "hostPort": 80}]
    return made


def test_while_redis_is_away_only_what_is_under_way_goes_on(yard: Yard) -> None:
    yard.clear()
    launched_before = yard.launched()
    yard.apply(own_claim("leaving", "m5.large"))
    eventually(lambda: len(yard.nodes()) == 1, within_s=120)
    yard.wait_initialized()
    yard.dial("PUT", "machines", {"register_seconds": 8})
    yard.apply(alone("coming"))
    eventually(lambda: len(yard.instances()) == 2, within_s=120)
    yard.stand.redis.kill()
    yard.apply(own_claim("asked-for", "m5.large"))
    yard.kube.delete(f"{CLAIMS}/leaving")
    yard.wait_running("coming", 1)
    yard.apply(alone("new"))
    eventually(lambda: yard.refused_for_s("new", 1) > 6.0, within_s=120)
    eventually(lambda: "leaving" not in {c["metadata"]["name"] for c in yard.claims()}, within_s=120)
    yard.wait_initialized()
    yard.wait_settled()
    assert {c["metadata"]["name"] for c in yard.claims()} > {"asked-for"}
    assert len(yard.claims()) == 2, "nothing was planned for the new pod"
    yard.dial("DELETE", "")
    yard.stand.restart_redis()
    yard.wait_running("new", 1)
    yard.wait_settled()
    assert yard.launched() == launched_before + 4
    yard.clear()

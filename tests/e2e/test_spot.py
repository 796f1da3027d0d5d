"""Spot on a real control plane: an instance that is taken back is drained in time, and a price that moves is followed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.conftest import YardFactory
from tests.support.cluster import eventually
from tests.support.yard import CLAIMS, NODEPOOLS, Yard, deployment, doomed, node_class, node_pool

pytestmark = pytest.mark.cluster

WARNING_S = 120.0
SPOT = [
    # so large that pods which come in a second batch find room beside the first
    {"key": "karpenter.k8s.aws/instance-size", "operator": "In", "values": ["xlarge"]},
    {"key": "kubernetes.io/arch", "operator": "In", "values": ["amd64"]},
    {"key": "karpenter.sh/capacity-type", "operator": "In", "values": ["spot"]},
    {"key": "karpenter.k8s.aws/instance-category", "operator": "In", "values": ["m"]},
    {"key": "karpenter.k8s.aws/instance-generation", "operator": "Gt", "values": ["4"]},
]
EITHER = [
    {**r, "values": ["spot", "on-demand"]} if r["key"] == "karpenter.sh/capacity-type" else r for r in SPOT
]
SETTINGS = {
    "NODEYARD_BATCH_MAX_DURATION": "3s",
    "NODEYARD_VALIDATION_WAIT": "1s",
    "NODEYARD_DISRUPTION_POLL": "5m",  # nothing here may have to wait for it
}
UNDERUTILIZED = {
    "consolidationPolicy": "WhenEmptyOrUnderutilized",
    "consolidateAfter": "1s",
    "budgets": [{"nodes": "100%"}],
}
DEAR_USD = 40.0
FROZEN = {"consolidationPolicy": "WhenEmpty", "consolidateAfter": "Never", "budgets": [{"nodes": "0"}]}


@pytest.fixture(scope="module")
def yard(make_yard: YardFactory) -> Yard:
    yard = make_yard(replicas=1, settings=SETTINGS)
    yard.apply(node_class())
    return yard


@pytest.fixture(autouse=True)
def _leave_nothing(yard: Yard) -> object:
    yield None
    yard.dial("DELETE", "spot/prices")
    yard.kube.delete("/apis/apps/v1/namespaces/default/deployments")
    yard.kube.delete(CLAIMS)
    yard.wait_gone()
    yard.kube.delete(NODEPOOLS)


def on_spot(yard: Yard, replicas: int = 3) -> tuple[dict[str, Any], str]:
    """Pods on one spot node, which no budget lets go; its claim and the instance's id."""
    yard.apply(node_pool(requirements=SPOT, disruption=FROZEN))
    yard.apply(deployment("web", replicas))
    yard.wait_running("web", replicas)
    yard.wait_settled()
    (claim,) = yard.claims()
    return claim, str(claim["status"]["providerID"].rpartition("/")[2])


def pool_of(claim: dict[str, Any]) -> tuple[str, str]:
    labels = claim["metadata"]["labels"]
    return labels["node.kubernetes.io/instance-type"], labels["topology.kubernetes.io/zone"]


def offering(yard: Yard, pool: tuple[str, str]) -> dict[str, Any]:
    query = {"type": pool[0], "zone": pool[1], "capacity_type": "spot"}
    answer = yard.web.get(f"{yard.stand.endpoint('pricing').url}/v1/offerings", params=query)
    (found,) = answer.raise_for_status().json()["offerings"]
    return dict(found)


def gone(yard: Yard, claim: dict[str, Any]) -> bool:
    return claim["metadata"]["uid"] not in {c["metadata"]["uid"] for c in yard.claims()}


def test_an_interrupted_node_is_drained_before_its_two_minutes_and_its_pods_run_elsewhere(yard: Yard) -> None:
    claim, instance = on_spot(yard)
    queue = yard.aws.of("sqs").get_queue_url(QueueName="nodeyard")["QueueUrl"]
    yard.aws.of("sqs").send_message(QueueUrl=queue, MessageBody="none of EC2's notices")
    assert offering(yard, pool_of(claim))["available"]
    yard.dial("POST", "interrupt", {"instance_id": instance, "kind": "spot", "delay_seconds": WARNING_S})
    eventually(lambda: gone(yard, claim), within_s=WARNING_S)
    yard.wait_running("web", 3)
    (fresh,) = yard.claims()
    assert pool_of(fresh) != pool_of(claim)
    assert not offering(yard, pool_of(claim))["available"]
    (reservation,) = yard.aws.ec2.describe_instances(InstanceIds=[instance])["Reservations"]
    assert reservation["Instances"][0]["StateReason"]["Code"] == "Client.UserInitiatedShutdown"

    def told() -> bool:
        events = {e["reason"] for e in yard.items("/api/v1/namespaces/default/events")}
        return events >= {"SpotInterrupted", "TerminatingOnInterruption"}

    eventually(told)
    assert [d["reason"] for d in eventually(lambda: yard.decisions(kind="interrupted"))] == [
        "SpotInterrupted"
    ]


def test_a_rebalance_recommendation_leaves_the_node_where_it_is(yard: Yard) -> None:
    claim, instance = on_spot(yard, 1)
    yard.dial("POST", "interrupt", {"instance_id": instance, "kind": "rebalance", "delay_seconds": 0})

    def said() -> bool:
        events = yard.items("/api/v1/namespaces/default/events")
        return any(e["reason"] == "SpotRebalanceRecommendation" for e in events)

    eventually(said, within_s=120)
    assert not gone(yard, claim)
    assert not any("deletionTimestamp" in c["metadata"] for c in yard.claims())


def test_an_interruption_is_acted_on_by_the_next_replica_when_one_dies_over_it(yard: Yard) -> None:
    claim, instance = on_spot(yard, 1)
    with doomed(yard, "reallocator.before-interrupt"):
        yard.dial("POST", "interrupt", {"instance_id": instance, "kind": "spot", "delay_seconds": 600})
    eventually(lambda: gone(yard, claim), within_s=300)
    (reservation,) = yard.aws.ec2.describe_instances(InstanceIds=[instance])["Reservations"]
    assert reservation["Instances"][0]["StateReason"]["Code"] == "Client.UserInitiatedShutdown"
    yard.wait_running("web", 1)


def test_a_spot_price_that_falls_is_followed_long_before_the_next_poll(yard: Yard) -> None:
    yard.dial("POST", "spot/prices", {"instance_type": "*", "zone": "*", "price_usd_per_hour": DEAR_USD})
    pool = ("m5.large", "eu-west-1a")
    eventually(lambda: offering(yard, pool)["priceUsdPerHour"] == DEAR_USD, within_s=120)
    yard.apply(node_pool(requirements=EITHER, disruption=UNDERUTILIZED))
    yard.apply(deployment("web", 1))
    yard.wait_running("web", 1)
    yard.wait_settled()
    (claim,) = yard.claims()
    assert claim["metadata"]["labels"]["karpenter.sh/capacity-type"] == "on-demand"
    yard.dial("DELETE", "spot/prices")

    def on_spot_instead() -> bool:
        return any(c["metadata"]["labels"].get("karpenter.sh/capacity-type") == "spot" for c in yard.claims())

    eventually(on_spot_instead, within_s=120)
    eventually(lambda: gone(yard, claim), within_s=120)
    yard.wait_running("web", 1)

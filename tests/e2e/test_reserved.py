"""Capacity reservations end to end: the last place, the fall-back, and what a node is called once its place is gone."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import YardFactory
from tests.support.cluster import eventually
from tests.support.yard import Yard, deployment, node_class, node_pool

pytestmark = pytest.mark.cluster
CLASSES = "/apis/karpenter.k8s.aws/v1/ec2nodeclasses"
FROZEN = {"consolidationPolicy": "WhenEmpty", "consolidateAfter": "Never", "budgets": [{"nodes": "0"}]}
TYPE, ID = "karpenter.sh/capacity-type", "karpenter.k8s.aws/capacity-reservation-id"


@pytest.fixture(scope="module")
def yard(make_yard: YardFactory) -> Yard:
    return make_yard(
        replicas=1, settings={"NODEYARD_RESERVATION_INTERVAL": "2s", "NODEYARD_BATCH_MAX_DURATION": "3s"}
    )


def told(yard: Yard) -> list[tuple[str, str]]:
    """(capacity type, reservation) of every node, where its claim says the same."""
    claims = {c["status"].get("nodeName"): c["metadata"]["labels"] for c in yard.claims()}
    out = []
    for node in yard.nodes():
        labels = node["metadata"]["labels"]
        said = (labels.get(TYPE, ""), labels.get(ID, ""))
        of_claim = claims.get(node["metadata"]["name"], {})
        if said == (of_claim.get(TYPE, ""), of_claim.get(ID, "")):
            out.append(said)
    return sorted(out)


def test_the_last_place_is_used_and_a_node_whose_reservation_ends_turns_on_demand(yard: Yard) -> None:
    wish = {"instance_type": "m5.large", "zone": "eu-west-1a", "tags": {"team": "a"}}
    reservation = yard.dial("POST", "reservations", wish)["CapacityReservationId"]
    terms = [{"tags": {"team": "a"}}]
    bought = [
        {"key": TYPE, "operator": "In", "values": ["reserved", "on-demand"]},
        {"key": "kubernetes.io/arch", "operator": "In", "values": ["amd64"]},
        {"key": "karpenter.k8s.aws/instance-category", "operator": "In", "values": ["m"]},
    ]
    yard.apply(
        node_class(capacityReservationSelectorTerms=terms), node_pool(requirements=bought, disruption=FROZEN)
    )

    def listed() -> list[str]:
        found = yard.kube.get(f"{CLASSES}/general").get("status", {})
        return [one["id"] for one in found.get("capacityReservations", [])]

    assert eventually(listed, within_s=60) == [reservation]
    yard.apply(deployment("web", 2, {"cpu": "1500m", "memory": "1Gi"}))
    yard.wait_running("web", 2)
    wanted = [("on-demand", ""), ("reserved", reservation)]
    eventually(lambda: told(yard) == wanted, within_s=60)
    yard.dial("DELETE", f"reservations/{reservation}")
    eventually(lambda: told(yard) == [("on-demand", "")] * 2, within_s=90)
    yard.check_nothing_leaked()

"""Capacity reservations end to end: the last place, the fall-back, and what a node is called once its place is gone."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import YardFactory
from tests.support.cluster import eventually
from tests.support.yard import CLASSES, Yard, deployment, node_class, node_pool

pytestmark = pytest.mark.cluster
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


def wait_listed(yard: Yard, node_class: str, *reservations: str) -> None:
    """Until the class's status lists exactly these reservations. The service that writes it plans by the same count, so
    that from then on a plan knows them; one made before would buy what is not reserved, and keep it.
    """

    def listed() -> list[str]:
        found = yard.kube.get(f"{CLASSES}/{node_class}").get("status", {})
        return sorted(one["id"] for one in found.get("capacityReservations", []))

    eventually(lambda: listed() == sorted(reservations), within_s=120)


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
    wait_listed(yard, "general", reservation)
    yard.apply(deployment("web", 2, {"cpu": "1500m", "memory": "1Gi"}))
    yard.wait_running("web", 2)
    wanted = [("on-demand", ""), ("reserved", reservation)]
    eventually(lambda: told(yard) == wanted, within_s=90)
    yard.dial("DELETE", f"reservations/{reservation}")
    eventually(lambda: told(yard) == [("on-demand", "")] * 2, within_s=120)
    yard.wait_settled()


def test_nodes_of_a_capacity_block_are_drained_before_it_ends(yard: Yard) -> None:
    wish = {
        "instance_type": "m5.xlarge", "zone": "eu-west-1b", "tags": {"team": "b"}, "kind": "capacity-block",
        "ends_in_seconds": 7200,
    }  # fmt: skip
    block = yard.dial("POST", "reservations", wish)["CapacityReservationId"]
    bought = [
        {"key": TYPE, "operator": "In", "values": ["reserved", "on-demand"]},
        {"key": "node.kubernetes.io/instance-type", "operator": "In", "values": ["m5.xlarge"]},
    ]
    named = {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "blocks"}
    yard.apply(
        node_class("blocks", capacityReservationSelectorTerms=[{"tags": {"team": "b"}}]),
        node_pool("blocks", requirements=bought, disruption=FROZEN, nodeClassRef=named),
    )
    wait_listed(yard, "blocks", block)
    chosen = {"karpenter.sh/nodepool": "blocks"}
    yard.apply(deployment("training", 1, {"cpu": "3", "memory": "1Gi"}, nodeSelector=chosen))
    yard.wait_running("training", 1, within_s=90)

    def places() -> list[tuple[str, str]]:
        labels = [node["metadata"]["labels"] for node in yard.nodes()]
        of_pool = [found for found in labels if found.get("karpenter.sh/nodepool") == "blocks"]
        return [(found.get(TYPE, ""), found.get(ID, "")) for found in of_pool]

    eventually(lambda: places() == [("reserved", block)], within_s=60)
    yard.dial("PUT", f"reservations/{block}", {"ends_in_seconds": 2390})
    eventually(lambda: places() == [("on-demand", "")], within_s=150)
    yard.wait_running("training", 1)
    yard.wait_settled()
    (left,) = (r for r in yard.dial("GET", "reservations") if r["CapacityReservationId"] == block)
    assert (left["State"], left["AvailableInstanceCount"]) == ("active", 1), "gone before the block was"

"""The admin API: what people get, and what they are told when a service is away."""

from collections.abc import Sequence
from typing import Any

import grpc
import msgspec
import pytest
from fastapi.testclient import TestClient

from nodeyard.api.decision import Decision
from nodeyard.api.node import INITIALIZED, LAUNCHED, Condition, Node, NodeClaim
from nodeyard.api.nodeclass import NodeClass
from nodeyard.api.pod import PodRecord, PodShape
from nodeyard.api.pool import Pool
from nodeyard.cloudprovider.model import Catalogue, InstanceType, Offering
from nodeyard.rpc.calls import ServiceError
from nodeyard.rpc.v1 import disruption_pb2, planning_pb2
from nodeyard.state.cluster import Change, Kind, Snapshot, snapshot_of
from services.admin.app import build_app

LABELS = {
    "karpenter.sh/nodepool": "general",
    "node.kubernetes.io/instance-type": "m7i.large",
    "topology.kubernetes.io/zone": "eu-west-1a",
    "karpenter.sh/capacity-type": "spot",
}


class World:
    """The five sources, honest and small."""

    def __init__(self, *changes: Change) -> None:
        self.synced = True
        self.ready = True
        self.away: ServiceError | None = None
        self.requests: list[Any] = []
        self.decisions = [Decision(1.0, "allocator", "a-0", "planned", "pod/default/x", "Planned")]
        self._snapshot = snapshot_of(changes)

    def snapshot(self) -> Snapshot:
        return self._snapshot

    def catalogue_for(self, node_class: NodeClass) -> Catalogue:
        return Catalogue([InstanceType("m7i.large", offerings=(Offering("eu-west-1a", "spot", 0.04),))])

    async def recent(self, limit: int, kind: str = "", subject: str = "") -> Sequence[Decision]:
        return [d for d in self.decisions if kind in ("", d.kind)][:limit]

    async def call(self, method: str, request: Any, timeout_s: float) -> Any:
        if self.away:
            raise self.away
        self.requests.append(request)
        if method == "Plan":
            return planning_pb2.PlanResponse(plan_json=b'{"nodes":[]}')
        if method == "Simulate":
            return disruption_pb2.SimulateResponse(answer_json=b'{"moves":[]}')
        return disruption_pb2.ListProposalsResponse(proposals_json=b"[]")

    def client(self) -> TestClient:
        return TestClient(
            build_app(cluster=self, prices=self, allocator=self, reallocator=self, journal=self)
        )


def cluster() -> list[Change]:
    shape = PodShape("s1", "default", requests={"cpu": 500, "pods": 1})
    pod = PodRecord("default", "x", "u1", "s1", node="ip-1", phase="Running")
    node = Node("ip-1", labels=LABELS, provider_id="aws:///a/i-1", conditions=(Condition("Ready", "True"),))
    ready = NodeClaim(
        "general-1", labels=LABELS, provider_id="aws:///a/i-1", conditions=(Condition(INITIALIZED, "True"),)
    )
    coming = NodeClaim(
        "general-2", labels=LABELS, provider_id="aws:///a/i-2", conditions=(Condition(LAUNCHED, "True"),)
    )
    return [
        Change(Kind.SHAPE, "s1", shape),
        Change(Kind.POD, pod.key, pod),
        Change(Kind.NODE, node.name, node),
        Change(Kind.NODE_CLAIM, ready.name, ready),
        Change(Kind.NODE_CLAIM, coming.name, coming),
        Change(Kind.POOL, "general", Pool("general")),
        Change(Kind.NODE_CLASS, "", NodeClass("")),
    ]


def test_nodes_show_what_they_cost_hold_and_are_doing() -> None:
    body = World(*cluster()).client().get("/v1/nodes").json()
    by_claim = {node["nodeClaim"]: node for node in body["nodes"]}
    assert by_claim["general-1"]["phase"] == "Ready"
    assert by_claim["general-1"]["requested"] == {"cpu": "500m", "pods": "1"}
    assert by_claim["general-2"]["phase"] == "Launched"
    assert body["pricePerHour"] == pytest.approx(0.08)


def test_nodes_of_one_pool() -> None:
    assert World(*cluster()).client().get("/v1/nodes", params={"pool": "other"}).json()["nodes"] == []


def test_nodes_without_a_price_are_counted_not_guessed() -> None:
    world = World(*cluster())
    world.ready = False
    body = world.client().get("/v1/nodes").json()
    assert (body["pricePerHour"], body["unpriced"]) == (0.0, 2)


def test_an_unsynced_cluster_answers_503_with_the_services_name() -> None:
    world = World()
    world.synced = False
    answer = world.client().get("/v1/nodes")
    assert answer.status_code == 503
    assert answer.json()["error"]["message"].startswith("watcher: ")


def test_a_plan_without_objects_is_of_what_is_pending() -> None:
    world = World()
    assert world.client().post("/v1/plan", json={}).json() == {"nodes": []}
    assert world.requests[0].include_pending


def test_a_plan_of_given_objects_leaves_the_pending_ones_out_unless_asked() -> None:
    world = World()
    pod = {"kind": "Pod", "metadata": {"name": "x"}}
    world.client().post("/v1/plan", json={"objects": [pod], "options": {"deadline": 2}})
    world.client().post("/v1/plan", json={"objects": [pod], "pending": True})
    assert [r.include_pending for r in world.requests] == [False, True]
    assert msgspec.json.decode(world.requests[0].objects_json) == [pod]


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, 400),
        (grpc.StatusCode.UNAVAILABLE, 503),
        (grpc.StatusCode.DEADLINE_EXCEEDED, 504),
    ],
)
def test_a_refusal_keeps_its_reason_and_message(code: grpc.StatusCode, status: int) -> None:
    world = World()
    world.away = ServiceError("allocator", code, "Pod x: metadata.name: is missing")
    answer = world.client().post("/v1/plan", json={})
    assert answer.status_code == status
    assert answer.json()["error"] == {
        "reason": code.name,
        "message": "allocator: Pod x: metadata.name: is missing",
    }


def test_decisions_are_filtered_and_limits_checked() -> None:
    client = World().client()
    assert [d["kind"] for d in client.get("/v1/decisions", params={"kind": "planned"}).json()] == ["planned"]
    assert client.get("/v1/decisions", params={"kind": "launched"}).json() == []
    assert client.get("/v1/decisions", params={"limit": 0}).status_code == 422


def test_proposals_come_from_the_reallocator() -> None:
    assert World().client().get("/v1/proposals").json() == []


def test_a_what_if_is_the_reallocators_and_its_action_is_the_paths() -> None:
    world = World()
    body = {"nodes": ["ip-1"], "action": "replace"}
    assert world.client().post("/v1/simulate/remove", json=body).json() == {"moves": []}
    assert msgspec.json.decode(world.requests[0].question_json) == {"action": "remove", "nodes": ["ip-1"]}


def test_a_what_if_of_no_known_kind_is_refused_before_anybody_is_asked() -> None:
    world = World()
    assert world.client().post("/v1/simulate/explode", json={}).status_code == 422
    assert world.requests == []

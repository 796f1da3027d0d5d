"""The reallocator on a real control plane: replacement first, roll back, drains, expiry, garbage both ways."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.e2e.conftest import YardFactory
from tests.support.cluster import condition, eventually
from tests.support.yard import (
    CLAIMS,
    NEVER,
    NODEPOOLS,
    ON_DEMAND,
    PROVISIONERS,
    UNDERUTILIZED,
    Yard,
    deployment,
    doomed,
    node_class,
    node_pool,
    provisioner,
)

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def yard(make_yard: YardFactory) -> Yard:
    yard = make_yard(
        settings={
            "NODEYARD_VALIDATION_WAIT": "1s",
            "NODEYARD_DISRUPTION_POLL": "1s",
            "NODEYARD_GC_INTERVAL": "5s",
            "NODEYARD_INTERRUPTION_QUEUE": "",  # garbage collection has to find out by itself what is gone
            "NODEYARD_BATCH_MAX_DURATION": "3s",
            "NODEYARD_NO_RETURN": "0s",  # each test begins with the node that the one before it gave up
        }
    )
    yard.apply(node_class())
    return yard


@pytest.fixture(autouse=True)
def _leave_nothing(yard: Yard) -> object:
    yield None
    yard.dial("DELETE", "capacity")
    yard.kube.delete("/apis/apps/v1/namespaces/default/deployments")
    yard.kube.delete("/apis/policy/v1/namespaces/default/poddisruptionbudgets")
    yard.kube.delete(CLAIMS)
    yard.wait_gone()
    yard.kube.delete(NODEPOOLS)
    yard.kube.delete(PROVISIONERS)


def pool(yard: Yard, **spec: Any) -> None:
    yard.apply(node_pool(**{"requirements": ON_DEMAND, "disruption": NEVER, **spec}))


def node_of(yard: Yard, app: str) -> str:
    """The node that the app's pods run on, once they do."""

    def found() -> set[str]:
        alive = [p for p in yard.pods(app) if "deletionTimestamp" not in p["metadata"]]
        return {p["spec"]["nodeName"] for p in alive if p["status"]["phase"] == "Running"}

    (name,) = eventually(found)
    return str(name)


def oversized(yard: Yard) -> str:
    """A small pod on a node that was bought when the pool allowed only large ones; the node's name."""
    large = {"key": "karpenter.k8s.aws/instance-size", "operator": "In", "values": ["4xlarge"]}
    pool(yard, requirements=[*ON_DEMAND, large])
    yard.apply(deployment("web", 1, {"cpu": "500m", "memory": "512Mi"}))
    yard.wait_running("web", 1)
    yard.wait_settled()
    return node_of(yard, "web")


def tainted(yard: Yard, node: str) -> bool:
    """Whether the node is being disrupted, or gone by now."""
    found = [n for n in yard.nodes() if n["metadata"]["name"] == node]
    taints = found[0]["spec"].get("taints") or [] if found else []
    return not found or any(t["key"] == "karpenter.sh/disrupted" for t in taints)


def deadline_of(yard: Yard, claim: str) -> datetime | None:
    """When the claim's termination grace period ends, as soon as that is written."""
    found = [c["metadata"] for c in yard.claims() if c["metadata"]["name"] == claim]
    text = (
        found[0].get("annotations", {}).get("karpenter.sh/nodeclaim-termination-timestamp") if found else ""
    )
    return datetime.fromisoformat(text) if text else None


def wait_held_until(yard: Yard, app: str, uid: str, end: datetime, grace_s: float) -> None:
    """Until this pod is gone, which must not be before it has its grace left to the end."""
    eventually(lambda: uid not in {p["metadata"]["uid"] for p in yard.pods(app)}, within_s=180)
    assert datetime.now(UTC) > end - timedelta(seconds=grace_s + 1.0), "gone before its time"


def test_an_oversized_node_is_replaced_by_a_cheaper_one_that_is_there_first(yard: Yard) -> None:
    old = oversized(yard)
    before, (pod,) = yard.launched(), yard.pods("web")
    pool(yard, disruption=UNDERUTILIZED)
    eventually(lambda: tainted(yard, old), within_s=120)

    def replacement_initialized() -> bool:
        fresh = [
            c for c in yard.claims() if c["metadata"].get("annotations", {}).get("nodeyard.dev/replaces")
        ]
        return bool(fresh) and condition(fresh[0], "Initialized").get("status") == "True"

    def moved() -> bool:
        return {p["metadata"]["uid"] for p in yard.pods("web")} != {pod["metadata"]["uid"]}

    eventually(moved, within_s=120)
    assert replacement_initialized(), "moved before its new place was there"
    eventually(lambda: old not in {n["metadata"]["name"] for n in yard.nodes()}, within_s=120)
    yard.wait_running("web", 1)
    yard.wait_settled()
    assert len(yard.nodes()) == 1
    assert yard.launched() - before == 1, "one replacement and nothing beside it"


@pytest.mark.parametrize("point", ["before-create-claim", "after-create-claim", "before-delete-claim"])
def test_a_replacement_under_way_survives_the_replica_that_began_it(yard: Yard, point: str) -> None:
    old = oversized(yard)
    before = yard.launched()
    with doomed(yard, f"reallocator.{point}"):
        pool(yard, disruption=UNDERUTILIZED)
    eventually(lambda: old not in {n["metadata"]["name"] for n in yard.nodes()}, within_s=120)
    yard.wait_running("web", 1)
    yard.wait_settled()
    assert yard.launched() - before == 1


def test_a_replacement_that_cannot_be_had_leaves_everything_as_it_was(yard: Yard) -> None:
    old = oversized(yard)
    yard.dial("POST", "capacity", {"instance_type": "*", "zone": "*", "capacity_type": "*"})
    pool(yard, disruption=UNDERUTILIZED)

    def left() -> bool:
        said = yard.decisions(kind="disrupting", subject=f"node/{old}")
        return any(d["facts"].get("undone") for d in said)

    eventually(left, within_s=180)
    pool(yard)

    def as_it_was() -> bool:
        (claim,) = [c for c in yard.claims() if c.get("status", {}).get("nodeName") == old]
        return not tainted(yard, old) and not condition(claim, "DisruptionReason")

    eventually(as_it_was, within_s=120)
    assert node_of(yard, "web") == old


def test_a_protected_pod_holds_its_node_until_the_grace_period_ends(yard: Yard) -> None:
    pool(yard, terminationGracePeriod="20s")
    kept = deployment("kept", 1)
    kept["spec"]["template"]["metadata"]["annotations"] = {"karpenter.sh/do-not-disrupt": "true"}
    kept["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 2
    yard.apply(kept)
    yard.wait_running("kept", 1)
    yard.wait_settled()
    (claim,) = yard.claims()
    uid = yard.pods("kept")[0]["metadata"]["uid"]
    name = claim["metadata"]["name"]
    yard.kube.delete(f"{CLAIMS}/{name}")
    end = eventually(lambda: deadline_of(yard, name))
    assert end is not None
    wait_held_until(yard, "kept", uid, end, grace_s=2)
    eventually(lambda: name not in {c["metadata"]["name"] for c in yard.claims()}, within_s=120)


def test_an_expired_node_goes_and_its_pods_get_another(yard: Yard) -> None:
    pool(yard, expireAfter="15s")
    yard.apply(deployment("web", 1))
    yard.wait_running("web", 1)
    first = node_of(yard, "web")
    pool(yard)
    eventually(lambda: first not in {n["metadata"]["name"] for n in yard.nodes()}, within_s=120)
    yard.wait_running("web", 1)
    assert node_of(yard, "web") != first


def half_empty(yard: Yard) -> None:
    """Eight nodes of four cores that were full: each has one small pod left. The large pods come first, one to a node
    however they are batched; then each node has room for one of the small ones.
    """
    xlarge = {"key": "karpenter.k8s.aws/instance-size", "operator": "In", "values": ["xlarge"]}
    pool(yard, requirements=[*ON_DEMAND, xlarge])
    yard.apply(deployment("away", 8, {"cpu": "2500m", "memory": "512Mi"}))
    yard.wait_running("away", 8)
    yard.wait_initialized()
    yard.apply(*(deployment(name, 4, {"cpu": "1", "memory": "512Mi"}) for name in ("one", "two")))
    for name in ("one", "two"):
        yard.wait_running(name, 4)
    yard.wait_settled()
    yard.scale("away", 0)
    yard.wait_running("away", 0)


def places_kept(yard: Yard) -> dict[str, dict[str, int]]:
    """Node name -> owner's UID -> pods that it is to hold, as claims say now."""
    found: dict[str, dict[str, int]] = {}
    for claim in yard.claims():
        text = claim["metadata"].get("annotations", {}).get("nodeyard.dev/kept-places")
        if text and (node := claim.get("status", {}).get("nodeName")):
            places = json.loads(text)["places"]
            found[node] = {p["owner"]: p["pods"] for p in places}
    return found


def placed(yard: Yard) -> dict[str, dict[str, int]]:
    """The same as it is."""
    found: dict[str, dict[str, int]] = {}
    for pod in [*yard.pods("one"), *yard.pods("two")]:
        owner = pod["metadata"]["ownerReferences"][0]["uid"]
        on = found.setdefault(pod["spec"].get("nodeName", ""), {})
        on[owner] = on.get(owner, 0) + 1
    return found


def test_pods_come_back_to_the_places_kept_for_them_while_many_nodes_go(yard: Yard) -> None:
    half_empty(yard)
    began = len(yard.nodes())
    seen: dict[str, dict[str, int]] = {}
    before = {p["metadata"]["uid"] for p in [*yard.pods("one"), *yard.pods("two")]}
    pool(yard, disruption=UNDERUTILIZED)

    def over() -> bool:
        kept = places_kept(yard)
        seen.update(kept)
        return bool(seen) and not kept

    eventually(over, within_s=240, every_s=0.2)
    pool(yard)
    eventually(lambda: placed(yard) == seen)  # every node holds what it was to hold
    yard.wait_settled()
    assert len(yard.nodes()) == len(seen) < began - 2
    eventually(lambda: not any(n["spec"].get("taints") for n in yard.nodes()))  # all is open again
    for name in ("one", "two"):
        yard.wait_running(name, 4)
    assert len([*yard.pods("one"), *yard.pods("two")]) == len(before)


def test_somebody_elses_pod_does_not_wait_for_a_course_nor_ends_it(yard: Yard) -> None:
    half_empty(yard)
    began = len(yard.nodes())
    seen: dict[str, dict[str, int]] = {}
    pool(yard, disruption=UNDERUTILIZED)
    seen.update(eventually(lambda: places_kept(yard), within_s=240, every_s=0.2))
    yard.apply(deployment("guest", 1, {"cpu": "100m", "memory": "64Mi"}))

    def over() -> bool:
        kept = places_kept(yard)
        seen.update(kept)
        return not kept

    eventually(over, within_s=240, every_s=0.2)
    pool(yard)
    yard.wait_running("guest", 1)
    yard.wait_settled()
    eventually(lambda: placed(yard) == seen)  # every node holds what it was to hold
    assert len(yard.nodes()) == len(seen) < began - 2, "none was bought for the guest"


def test_a_provisioners_empty_node_goes_after_its_seconds(yard: Yard) -> None:
    yard.apply(provisioner(ttlSecondsAfterEmpty=15))
    yard.apply(deployment("old", 1, nodeSelector={"karpenter.sh/provisioner-name": "default"}))
    yard.wait_running("old", 1)
    yard.scale("old", 0)

    def stamped() -> bool:
        return any(
            "karpenter.sh/emptiness-timestamp" in n["metadata"].get("annotations", {}) for n in yard.nodes()
        )

    eventually(stamped, within_s=120)
    yard.wait_gone()


def test_an_instance_that_no_claim_stands_for_is_terminated(yard: Yard) -> None:
    uid = yard.kube.get("/api/v1/namespaces/kube-system")["metadata"]["uid"]
    tags = [{"Key": "nodeyard.dev/cluster-uid", "Value": uid}]
    foreign = [{"Key": "nodeyard.dev/cluster-uid", "Value": "another"}]
    made = []
    for each in (tags, foreign):
        answer = yard.aws.ec2.run_instances(
            ImageId=yard.aws.ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"],
            InstanceType="m5.large", MinCount=1, MaxCount=1,
            TagSpecifications=[{"ResourceType": "instance", "Tags": each}],
        )  # fmt: skip
        made.append(answer["Instances"][0]["InstanceId"])

    def state(id_: str) -> str:
        (reservation,) = yard.aws.ec2.describe_instances(InstanceIds=[id_])["Reservations"]
        return str(reservation["Instances"][0]["State"]["Name"])

    eventually(lambda: state(made[0]) in ("shutting-down", "terminated"), within_s=120)
    assert state(made[1]) in ("pending", "running")
    yard.aws.ec2.terminate_instances(InstanceIds=[made[1]])


def test_a_claim_whose_instance_vanished_goes_and_its_pods_get_another(yard: Yard) -> None:
    pool(yard)
    yard.apply(deployment("web", 1))
    yard.wait_running("web", 1)
    yard.wait_settled()
    (claim,) = yard.claims()
    yard.aws.ec2.terminate_instances(InstanceIds=[claim["status"]["providerID"].rpartition("/")[2]])
    name = claim["metadata"]["name"]
    eventually(lambda: name not in {c["metadata"]["name"] for c in yard.claims()}, within_s=120)
    yard.wait_running("web", 1)


def test_proposals_say_what_would_be_replaced_and_what_stops_it(yard: Yard) -> None:
    old = oversized(yard)
    pool(yard, disruption={**UNDERUTILIZED, "budgets": [{"nodes": "0"}]})

    def told() -> dict[str, Any]:
        proposal = yard.proposal(old)
        stops = [b["rule"] for b in proposal.get("blocks", [])]
        return proposal if "Budget" in stops and proposal["action"] == "Replace" else {}

    proposal = eventually(told, within_s=120)
    assert proposal["savesPerHour"] > 0
    assert proposal["replacement"]["pricePerHour"] < proposal["pricePerHour"]
    assert not tainted(yard, old)


OTHER_CATEGORY = [
    {**r, "values": ["c"]} if r["key"].endswith("instance-category") else r for r in ON_DEMAND
]  # fmt: skip


def guarded(yard: Yard, **spec: Any) -> tuple[str, dict[str, Any]]:
    """A node that has drifted, with a pod that a budget never lets go; the node's name and its claim."""
    pool(yard, **spec)
    yard.apply(deployment("web", 1, terminationGracePeriodSeconds=2))
    yard.apply(
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": {"name": "guard", "namespace": "default"},
            "spec": {"maxUnavailable": 0, "selector": {"matchLabels": {"app": "web"}}},
        }
    )
    yard.wait_running("web", 1)
    yard.wait_settled()
    (claim,) = yard.claims()
    old = node_of(yard, "web")
    pool(yard, requirements=OTHER_CATEGORY, **spec)
    path = f"{CLAIMS}/{claim['metadata']['name']}"
    eventually(lambda: condition(yard.kube.get(path), "Drifted").get("status") == "True", within_s=120)
    return old, claim


def test_drift_waits_for_a_blocking_budget_where_nothing_bounds_the_drain(yard: Yard) -> None:
    old, claim = guarded(yard)

    def held_by_the_budget() -> bool:
        proposal = yard.proposal(old)
        stops = [b["rule"] for b in proposal.get("blocks", [])]
        return proposal.get("reason") == "Drifted" and "PodDisruptionBudget" in stops

    eventually(held_by_the_budget, within_s=120)
    assert not tainted(yard, old)
    assert [c["metadata"]["uid"] for c in yard.claims()] == [claim["metadata"]["uid"]]


def test_drift_passes_a_blocking_budget_where_a_grace_period_ends_the_drain(yard: Yard) -> None:
    old, claim = guarded(yard, terminationGracePeriod="20s")
    uid = yard.pods("web")[0]["metadata"]["uid"]
    end = eventually(lambda: deadline_of(yard, claim["metadata"]["name"]), within_s=120)
    assert end is not None
    wait_held_until(yard, "web", uid, end, grace_s=2)  # the budget holds until the deadline
    eventually(lambda: old not in {n["metadata"]["name"] for n in yard.nodes()}, within_s=120)
    yard.wait_running("web", 1)
    assert node_of(yard, "web") != old

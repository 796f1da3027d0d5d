"""`kill -9` before and after every outside write: nothing is launched twice, nothing leaks, the job gets done.

For each point the doomed replica is the only one of its service, so that it is the one to pass the point; when it is
dead another takes over. What was launched is counted in the account.
"""

from __future__ import annotations

import signal

import pytest

from tests.e2e.conftest import YardFactory
from tests.support.cluster import condition, eventually
from tests.support.yard import (
    CLAIMS,
    CLASSES,
    CLUSTER_UID,
    DEPLOYMENTS,
    NODEPOOLS,
    Yard,
    around,
    deployment,
    doomed,
    node_class,
    node_pool,
    own_claim,
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


@pytest.fixture(scope="module")
def yard(make_yard: YardFactory) -> Yard:
    yard = make_yard(
        replicas=1,
        settings={
            "NODEYARD_VALIDATION_WAIT": "500ms",
            "NODEYARD_DISRUPTION_POLL": "1s",
            "NODEYARD_BATCH_MAX_DURATION": "3s",
            "NODEYARD_LEASE_TTL": "2s",
            "NODEYARD_REFUSAL_TTL": "2s",
            "NODEYARD_NO_RETURN": "0s",
        },
    )
    yard.apply(node_class(), node_pool())
    return yard


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


# --- writes that the way up and the way down don't come by -------------------------------------------------------------
@pytest.mark.parametrize("point", around("allocator", "add-finalizer-claim"))
def test_a_users_claim_becomes_a_node_though_the_allocator_dies_over_it(yard: Yard, point: str) -> None:
    before = yard.launched()
    with doomed(yard, point):
        yard.apply(own_claim("mine", "m5.large"))
    yard.wait_initialized()
    yard.wait_settled()
    assert yard.launched() - before == 1
    yard.kube.delete(f"{CLAIMS}/mine")
    yard.wait_gone(within_s=90)


@pytest.mark.parametrize("point", around("allocator", "delete-claim", "remove-finalizer-claim"))
def test_a_claim_that_cannot_be_had_ends_though_the_allocator_dies_over_it(yard: Yard, point: str) -> None:
    before = yard.launched()
    yard.dial("POST", "capacity", {"instance_type": "m5.24xlarge"})
    with doomed(yard, point):
        yard.apply(own_claim("mine", "m5.24xlarge"))
    yard.wait_gone(within_s=90)
    yard.dial("DELETE", "capacity")
    assert yard.launched() == before


@pytest.mark.parametrize(
    "point", around("allocator", "instance-profile", "profile-role", "launch-template", "pool-status")
)
def test_a_new_pool_and_its_class_become_usable_though_the_allocator_dies_over_them(
    yard: Yard, point: str
) -> None:
    name, before = point.replace(".", "-"), yard.launched()
    reference = {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": name}
    taints = [{"key": name, "effect": "NoSchedule"}]
    with doomed(yard, point):
        yard.apply(node_class(name), node_pool(name, nodeClassRef=reference, taints=taints))
    eventually(
        lambda: condition(yard.kube.get(f"{NODEPOOLS}/{name}"), "Ready").get("status") == "True", within_s=60
    )
    tolerant = {"nodeSelector": {"karpenter.sh/nodepool": name}, "tolerations": [{"operator": "Exists"}]}
    yard.apply(deployment("web", 1, **tolerant))
    yard.wait_running("web", 1, within_s=90)
    yard.wait_settled()
    assert yard.launched() - before == 1
    yard.kube.delete(DEPLOYMENTS)
    yard.wait_gone(within_s=90)
    for path in (f"{NODEPOOLS}/{name}", f"{CLASSES}/{name}"):
        yard.kube.delete(path)


@pytest.mark.parametrize("point", around("allocator", "create-tags"))
def test_instances_launched_together_are_tagged_in_the_end(yard: Yard, point: str) -> None:
    pods = deployment("web", 2)
    pods["spec"]["template"]["spec"]["containers"][0]["ports"] = ONE_TO_A_NODE
    with doomed(yard, point):
        yard.apply(pods)
    yard.wait_running("web", 2, within_s=90)
    ids = [instance["instance_id"] for instance in yard.instances()]
    assert len(ids) == 2

    def of_claims() -> set[str]:
        found = yard.ec2().describe_tags(
            Filters=[
                {"Name": "resource-id", "Values": ids},
                {"Name": "key", "Values": ["karpenter.sh/nodeclaim"]},
            ]
        )
        return {tag["Value"] for tag in found["Tags"]}

    names = {claim["metadata"]["name"] for claim in yard.claims()}
    eventually(lambda: of_claims() == names, within_s=90)
    yard.kube.delete(DEPLOYMENTS)
    yard.wait_gone(within_s=90)


@pytest.mark.parametrize("point", around("reallocator", "evict"))
def test_pods_of_a_deleted_claim_move_though_the_reallocator_dies_over_them(yard: Yard, point: str) -> None:
    yard.apply(deployment("web", 3))
    yard.wait_running("web", 3, within_s=60)
    old = {claim["metadata"]["name"] for claim in yard.claims()}
    with doomed(yard, point):
        yard.kube.delete(CLAIMS)
    eventually(lambda: not old & {claim["metadata"]["name"] for claim in yard.claims()}, within_s=90)
    yard.wait_running("web", 3, within_s=90)
    yard.wait_settled()
    yard.kube.delete(DEPLOYMENTS)
    yard.wait_gone(within_s=90)


@pytest.mark.parametrize("point", around("reallocator", "annotate-claim", "delete-pod"))
def test_a_grace_period_ends_a_drain_though_the_reallocator_dies_over_it(yard: Yard, point: str) -> None:
    yard.apply(node_pool("brief", terminationGracePeriod="8s"))
    kept = deployment(
        "kept", 1, nodeSelector={"karpenter.sh/nodepool": "brief"}, terminationGracePeriodSeconds=2
    )
    kept["spec"]["template"]["metadata"]["annotations"] = {"karpenter.sh/do-not-disrupt": "true"}
    yard.apply(kept)
    yard.wait_running("kept", 1, within_s=60)
    (old,) = (claim["metadata"]["name"] for claim in yard.claims())
    with doomed(yard, point):
        yard.kube.delete(CLAIMS)
    eventually(lambda: old not in {claim["metadata"]["name"] for claim in yard.claims()}, within_s=90)
    yard.wait_running("kept", 1, within_s=90)
    yard.wait_settled()
    yard.kube.delete(DEPLOYMENTS)
    yard.wait_gone(within_s=90)
    yard.kube.delete(f"{NODEPOOLS}/brief")


@pytest.mark.parametrize("point", around("reallocator", "collect"))
def test_an_instance_of_nobody_is_collected_though_the_reallocator_dies_over_it(
    yard: Yard, point: str
) -> None:
    uid = yard.kube.get("/api/v1/namespaces/kube-system")["metadata"]["uid"]
    ec2 = yard.ec2()
    with doomed(yard, point):
        made = ec2.run_instances(
            ImageId=ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"],
            InstanceType="m5.large", MinCount=1, MaxCount=1,
            TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": CLUSTER_UID, "Value": uid}]}],
        )  # fmt: skip
    (instance,) = made["Instances"]

    def state() -> str:
        (reservation,) = ec2.describe_instances(InstanceIds=[instance["InstanceId"]])["Reservations"]
        return str(reservation["Instances"][0]["State"]["Name"])

    eventually(lambda: state() in ("shutting-down", "terminated"), within_s=90)
    yard.wait_gone(within_s=60)


@pytest.mark.parametrize("point", around("reallocator", "restore-node"))
def test_a_node_that_stays_after_all_is_made_usable_though_the_reallocator_dies_over_it(
    yard: Yard, point: str
) -> None:
    large = {"key": "karpenter.k8s.aws/instance-size", "operator": "In", "values": ["4xlarge"]}
    bought = [{"key": "karpenter.sh/capacity-type", "operator": "In", "values": ["on-demand"]}]
    frozen = {"consolidationPolicy": "WhenEmpty", "consolidateAfter": "Never"}
    eager = {
        "consolidationPolicy": "WhenEmptyOrUnderutilized",
        "consolidateAfter": "1s",
        "budgets": [{"nodes": "100%"}],
    }
    yard.apply(node_pool("roomy", requirements=[*bought, large], disruption=frozen))
    yard.apply(deployment("web", 1, nodeSelector={"karpenter.sh/nodepool": "roomy"}))
    yard.wait_running("web", 1, within_s=120)
    yard.wait_settled()
    (name,) = (node["metadata"]["name"] for node in yard.nodes())
    yard.dial("POST", "capacity", {})
    with doomed(yard, point):
        yard.apply(node_pool("roomy", requirements=bought, disruption=eager))

    def disrupted() -> bool:
        taints = yard.kube.get(f"/api/v1/nodes/{name}")["spec"].get("taints") or []
        return any(taint["key"] == "karpenter.sh/disrupted" for taint in taints)

    yard.apply(node_pool("roomy", requirements=bought, disruption=frozen))
    eventually(lambda: not disrupted(), within_s=60)
    yard.wait_running("web", 1)
    assert [claim["status"]["nodeName"] for claim in yard.claims()] == [name]
    yard.dial("DELETE", "capacity")
    yard.kube.delete(DEPLOYMENTS)
    yard.kube.delete(CLAIMS)
    yard.wait_gone(within_s=120)
    yard.kube.delete(f"{NODEPOOLS}/roomy")

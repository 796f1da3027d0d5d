"""`kill -9` before and after the writes that a plain scale-up and scale-down don't come by: the job gets done all the same.

Neighbour: `test_kills`.
"""

from __future__ import annotations

import pytest

from tests.support.cluster import condition, eventually
from tests.support.yard import (
    CLAIMS,
    CLASSES,
    CLUSTER_UID,
    NODEPOOLS,
    Yard,
    apart,
    around,
    deployment,
    doomed,
    node_class,
    node_pool,
    own_claim,
)

pytestmark = pytest.mark.cluster


@pytest.mark.parametrize("point", around("allocator", "add-finalizer-claim"))
def test_a_users_claim_becomes_a_node_though_the_allocator_dies_over_it(lone_yard: Yard, point: str) -> None:
    before = lone_yard.launched()
    with doomed(lone_yard, point):
        lone_yard.apply(own_claim("mine", "m5.large"))
    lone_yard.wait_initialized()
    lone_yard.wait_settled()
    assert lone_yard.launched() - before == 1
    lone_yard.kube.delete(f"{CLAIMS}/mine")
    lone_yard.wait_gone()


@pytest.mark.parametrize("point", around("allocator", "delete-claim", "remove-finalizer-claim"))
def test_a_claim_that_cannot_be_had_ends_though_the_allocator_dies_over_it(
    lone_yard: Yard, point: str
) -> None:
    before = lone_yard.launched()
    lone_yard.dial("POST", "capacity", {"instance_type": "m5.24xlarge"})
    with doomed(lone_yard, point):
        lone_yard.apply(own_claim("mine", "m5.24xlarge"))
    lone_yard.wait_gone()
    lone_yard.dial("DELETE", "capacity")
    assert lone_yard.launched() == before


@pytest.mark.parametrize(
    "point", around("allocator", "instance-profile", "profile-role", "launch-template", "pool-status")
)
def test_a_new_pool_and_its_class_become_usable_though_the_allocator_dies_over_them(
    lone_yard: Yard, point: str
) -> None:
    name, before = point.replace(".", "-"), lone_yard.launched()
    reference = {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": name}
    taints = [{"key": name, "effect": "NoSchedule"}]
    with doomed(lone_yard, point):
        lone_yard.apply(node_class(name), node_pool(name, nodeClassRef=reference, taints=taints))
    eventually(
        lambda: condition(lone_yard.kube.get(f"{NODEPOOLS}/{name}"), "Ready").get("status") == "True",
        within_s=150,
    )
    tolerant = {"nodeSelector": {"karpenter.sh/nodepool": name}, "tolerations": [{"operator": "Exists"}]}
    lone_yard.apply(deployment("web", 1, **tolerant))
    lone_yard.wait_running("web", 1)
    lone_yard.wait_settled()
    assert lone_yard.launched() - before == 1
    lone_yard.clear()
    for path in (f"{NODEPOOLS}/{name}", f"{CLASSES}/{name}"):
        lone_yard.kube.delete(path)


@pytest.mark.parametrize("point", around("allocator", "create-tags"))
def test_instances_launched_together_are_tagged_in_the_end(lone_yard: Yard, point: str) -> None:
    with doomed(lone_yard, point):
        lone_yard.apply(apart("web", 5))  # so many that two at least come in one batch
    lone_yard.wait_running("web", 5)
    lone_yard.wait_settled()
    ids = [instance["instance_id"] for instance in lone_yard.instances()]
    assert len(ids) == 5

    def of_claims() -> set[str]:
        found = lone_yard.aws.ec2.describe_tags(
            Filters=[
                {"Name": "resource-id", "Values": ids},
                {"Name": "key", "Values": ["karpenter.sh/nodeclaim"]},
            ]
        )
        return {tag["Value"] for tag in found["Tags"]}

    names = {claim["metadata"]["name"] for claim in lone_yard.claims()}
    eventually(lambda: of_claims() == names, within_s=150)
    lone_yard.clear()


@pytest.mark.parametrize("point", around("reallocator", "evict"))
def test_pods_of_a_deleted_claim_move_though_the_reallocator_dies_over_them(
    lone_yard: Yard, point: str
) -> None:
    lone_yard.apply(deployment("web", 3))
    lone_yard.wait_running("web", 3)
    old = {claim["metadata"]["name"] for claim in lone_yard.claims()}
    with doomed(lone_yard, point):
        lone_yard.kube.delete(CLAIMS)
    eventually(lambda: not old & {claim["metadata"]["name"] for claim in lone_yard.claims()}, within_s=150)
    lone_yard.wait_running("web", 3)
    lone_yard.wait_settled()
    lone_yard.clear()


@pytest.mark.parametrize("point", around("reallocator", "annotate-claim", "delete-pod"))
def test_a_grace_period_ends_a_drain_though_the_reallocator_dies_over_it(lone_yard: Yard, point: str) -> None:
    lone_yard.apply(node_pool("brief", terminationGracePeriod="8s"))
    kept = deployment(
        "kept", 1, nodeSelector={"karpenter.sh/nodepool": "brief"}, terminationGracePeriodSeconds=2
    )
    kept["spec"]["template"]["metadata"]["annotations"] = {"karpenter.sh/do-not-disrupt": "true"}
    lone_yard.apply(kept)
    lone_yard.wait_running("kept", 1)
    (old,) = (claim["metadata"]["name"] for claim in lone_yard.claims())
    with doomed(lone_yard, point):
        lone_yard.kube.delete(CLAIMS)
    eventually(lambda: old not in {claim["metadata"]["name"] for claim in lone_yard.claims()}, within_s=150)
    lone_yard.wait_running("kept", 1)
    lone_yard.wait_settled()
    lone_yard.clear()
    lone_yard.kube.delete(f"{NODEPOOLS}/brief")


@pytest.mark.parametrize("point", around("reallocator", "collect"))
def test_an_instance_of_nobody_is_collected_though_the_reallocator_dies_over_it(
    lone_yard: Yard, point: str
) -> None:
    uid = lone_yard.kube.get("/api/v1/namespaces/kube-system")["metadata"]["uid"]
    ec2 = lone_yard.aws.ec2
    with doomed(lone_yard, point):
        made = ec2.run_instances(
            ImageId=ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"],
            InstanceType="m5.large", MinCount=1, MaxCount=1,
            TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": CLUSTER_UID, "Value": uid}]}],
        )  # fmt: skip
    (instance,) = made["Instances"]

    def state() -> str:
        (reservation,) = ec2.describe_instances(InstanceIds=[instance["InstanceId"]])["Reservations"]
        return str(reservation["Instances"][0]["State"]["Name"])

    eventually(lambda: state() in ("shutting-down", "terminated"), within_s=150)
    lone_yard.wait_gone()


@pytest.mark.parametrize("point", around("reallocator", "restore-node"))
def test_a_node_that_stays_after_all_is_made_usable_though_the_reallocator_dies_over_it(
    lone_yard: Yard, point: str
) -> None:
    large = {"key": "karpenter.k8s.aws/instance-size", "operator": "In", "values": ["4xlarge"]}
    bought = [{"key": "karpenter.sh/capacity-type", "operator": "In", "values": ["on-demand"]}]
    frozen = {"consolidationPolicy": "WhenEmpty", "consolidateAfter": "Never"}
    eager = {
        "consolidationPolicy": "WhenEmptyOrUnderutilized",
        "consolidateAfter": "1s",
        "budgets": [{"nodes": "100%"}],
    }
    lone_yard.apply(node_pool("roomy", requirements=[*bought, large], disruption=frozen))
    lone_yard.apply(deployment("web", 1, nodeSelector={"karpenter.sh/nodepool": "roomy"}))
    lone_yard.wait_running("web", 1)
    lone_yard.wait_settled()
    (name,) = (node["metadata"]["name"] for node in lone_yard.nodes())
    lone_yard.dial("POST", "capacity", {})
    with doomed(lone_yard, point):
        lone_yard.apply(node_pool("roomy", requirements=bought, disruption=eager))

    def disrupted() -> bool:
        taints = lone_yard.kube.get(f"/api/v1/nodes/{name}")["spec"].get("taints") or []
        return any(taint["key"] == "karpenter.sh/disrupted" for taint in taints)

    lone_yard.apply(node_pool("roomy", requirements=bought, disruption=frozen))
    eventually(lambda: not disrupted(), within_s=150)
    lone_yard.wait_running("web", 1)

    def nodes_of_claims() -> list[str]:
        return [claim.get("status", {}).get("nodeName", "") for claim in lone_yard.claims()]

    eventually(
        lambda: nodes_of_claims() == [name], within_s=90
    )  # the replacement that failed may still be going
    lone_yard.dial("DELETE", "capacity")
    lone_yard.clear()
    lone_yard.kube.delete(f"{NODEPOOLS}/roomy")

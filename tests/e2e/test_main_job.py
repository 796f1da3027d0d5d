"""The main job: pending pods get machines, run, and the machines go when they are no longer needed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from tests.e2e.conftest import YardFactory
from tests.support.cluster import condition, eventually
from tests.support.yard import (
    CLAIMS,
    CLASSES,
    CLUSTER_UID,
    DEPLOYMENTS,
    NODEPOOLS,
    PROVISIONERS,
    TEMPLATES,
    Json,
    Yard,
    apart,
    deployment,
    node_class,
    node_pool,
    node_template,
    own_claim,
    provisioner,
)

pytestmark = pytest.mark.cluster
SERVICES = [
    f"{name}-{n}" for name in ("watcher", "pricing", "allocator", "reallocator", "admin") for n in (0, 1)
]


@pytest.fixture(scope="module")
def yard(make_yard: YardFactory) -> Yard:
    yard = make_yard(
        settings={
            "NODEYARD_VALIDATION_WAIT": "1s",
            "NODEYARD_DISRUPTION_POLL": "1s",
            "NODEYARD_BATCH_MAX_DURATION": "3s",
        }
    )
    yard.apply(node_class(), node_pool(), provisioner(ttlSecondsAfterEmpty=1))
    return yard


@pytest.fixture(autouse=True)
def _leave_nothing(yard: Yard) -> object:
    yield None
    yard.clear()


def test_pending_pods_get_nodes_and_run_and_the_nodes_go_with_them(yard: Yard) -> None:
    yard.apply(deployment("web", 20, nodeSelector={"karpenter.sh/nodepool": "general"}))
    yard.wait_running("web", 20)
    yard.wait_settled()
    yard.wait_initialized()
    for node in yard.nodes():
        labels = node["metadata"]["labels"]
        assert labels["karpenter.sh/nodepool"] == "general"
        assert labels["karpenter.sh/registered"] == labels["karpenter.sh/initialized"] == "true"
        assert not any(t["key"] == "karpenter.sh/unregistered" for t in node["spec"].get("taints") or [])
    yard.kube.delete(DEPLOYMENTS)
    yard.wait_gone()


def test_a_provisioners_pods_get_on_demand_nodes_of_its_own(yard: Yard) -> None:
    yard.apply(deployment("old", 3, nodeSelector={"karpenter.sh/provisioner-name": "default"}))
    yard.wait_running("old", 3)
    yard.wait_settled()
    yard.wait_initialized()
    for node in yard.nodes():
        labels = node["metadata"]["labels"]
        assert labels["karpenter.sh/provisioner-name"] == "default"
        assert labels["karpenter.sh/capacity-type"] == "on-demand"
        assert labels["kubernetes.io/arch"] == "amd64"
    for claim in yard.claims():
        reference = claim["spec"]["nodeClassRef"]
        assert (reference["group"], reference["kind"], reference["name"]) == (
            "karpenter.sh",
            "Provisioner",
            "default",
        )


def test_a_provisioner_gets_its_nodes_by_the_node_template_it_refers_to(yard: Yard) -> None:
    old = provisioner("templated", labels={"made": "by-template"})
    del old["spec"]["provider"]
    old["spec"]["providerRef"] = {"name": "shared"}
    yard.apply(node_template("shared", tags={"team": "shop"}), old)
    try:
        yard.apply(deployment("templated", 2, nodeSelector={"made": "by-template"}))
        yard.wait_running("templated", 2)
        yard.wait_settled()
        for claim in yard.claims():
            assert claim["spec"]["nodeClassRef"] == {
                "group": "karpenter.k8s.aws", "kind": "AWSNodeTemplate", "name": "shared",
            }  # fmt: skip
        tagged = yard.aws.ec2.describe_instances(
            Filters=[
                {"Name": "tag:team", "Values": ["shop"]},
                {"Name": "instance-state-name", "Values": ["pending", "running"]},
            ]
        )
        made = {i["InstanceId"] for reservation in tagged["Reservations"] for i in reservation["Instances"]}
        assert made == {i["instance_id"] for i in yard.instances()}
        found = yard.kube.get(f"{TEMPLATES}/shared")["status"]
        assert condition({"status": found}, "Ready")["status"] == "True"
        assert found["amis"]
    finally:
        yard.kube.delete(f"{PROVISIONERS}/templated")


def test_a_pod_that_no_pool_admits_is_told_why_and_others_go_on(yard: Yard) -> None:
    yard.apply(deployment("giant", 1, {"memory": "60Ti"}), deployment("small", 2))
    yard.wait_running("small", 2)

    def told() -> list[str]:
        events = yard.items("/api/v1/namespaces/default/events")
        return [
            e["message"]
            for e in events
            if e["reason"] == "FailedScheduling"
            and e["involvedObject"]["name"].startswith("giant-")
            and "default-scheduler" not in (e.get("reportingComponent"), e.get("source", {}).get("component"))
        ]

    (message, *_) = eventually(told, within_s=120)
    assert "memory" in message


def test_a_dry_run_says_what_would_be_launched_and_launches_nothing(yard: Yard) -> None:
    before = yard.launched()
    template = deployment("asked", 1, {"cpu": "6", "memory": "8Gi"})["spec"]["template"]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "asked", "namespace": "default"}, "spec": template["spec"]}  # fmt: skip

    def nodes() -> list[dict[str, Any]]:
        url = f"{yard.stand.endpoint('admin').url}/v1/plan"
        answer = yard.web.post(url, json={"objects": [pod]})
        return list(answer.json()["nodes"]) if answer.is_success else []

    (planned,) = eventually(nodes, within_s=120)  # a class that was just made is looked up first
    assert planned["pods"] == ["default/asked"]
    assert planned["pricePerHour"] > 0
    assert (yard.claims(), yard.launched()) == ([], before)


def test_unusable_pools_and_missing_classes_are_named_and_hinder_nobody(yard: Yard) -> None:
    homeless = node_pool(
        "homeless", nodeClassRef={"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "nowhere"}
    )
    foreign = node_pool(
        "foreign", nodeClassRef={"group": "karpenter.azure.com", "kind": "AKSNodeClass", "name": "x"}
    )
    odd = provisioner("odd", provider={"instanceProfile": "p", "instanceTypes": ["m5.large"]})
    yard.apply(homeless, foreign, odd)
    yard.apply(deployment("web", 2))
    yard.wait_running("web", 2)

    def unready(path: str) -> dict[str, object]:
        found = condition(yard.kube.get(path), "Ready")
        return dict(found) if found.get("status") == "False" else {}

    for path, said in (
        (f"{NODEPOOLS}/homeless", "nowhere"),
        (f"{NODEPOOLS}/foreign", "AKSNodeClass"),
        (f"{PROVISIONERS}/odd", "instanceTypes"),
    ):
        assert said in str(eventually(lambda at=path: unready(at), within_s=120)["message"])  # type: ignore[misc]
        yard.kube.delete(path)


def test_an_account_that_refuses_is_told_on_the_claim_and_asked_again(yard: Yard) -> None:
    before = yard.launched()
    fault = {
        "kind": "fail",
        "service": "ec2",
        "action": "CreateFleet",
        "code": "InternalError",
        "times": 10_000,
    }
    yard.dial("POST", "faults", fault)
    yard.apply(apart("web", 2))

    def told() -> bool:
        said = [condition(claim, "Launched") for claim in yard.claims()]
        return len(said) == 2 and all(
            c.get("status") == "Unknown" and "InternalError" in c.get("message", "") for c in said
        )

    eventually(told, within_s=120)
    yard.dial("DELETE", "faults")
    yard.wait_running("web", 2)
    yard.wait_settled()
    assert yard.launched() - before == len(yard.claims()) == 2


def test_an_api_server_that_goes_away_in_the_middle_is_waited_for(yard: Yard) -> None:
    before = yard.launched()
    yard.dial("PUT", "machines", {"register_seconds": 4})
    yard.apply(apart("web", 4))
    eventually(lambda: yard.launched() > before, within_s=120)
    yard.stand.restart_apiserver()
    eventually(yard.kube.ready, within_s=120)
    yard.wait_running("web", 4)
    yard.wait_settled()
    yard.dial("DELETE", "")
    assert yard.launched() - before == len(yard.claims()) == 4
    assert all(yard.stand.processes.running(name) for name in SERVICES), "no service ended over it"


def test_instances_carry_the_clusters_uid(yard: Yard) -> None:
    yard.apply(deployment("web", 1))
    yard.wait_running("web", 1)
    uid = yard.kube.get("/api/v1/namespaces/kube-system")["metadata"]["uid"]
    (reservation,) = yard.aws.ec2.describe_instances(
        Filters=[
            {"Name": f"tag:{CLUSTER_UID}", "Values": [uid]},
            {"Name": "instance-state-name", "Values": ["running"]},
        ]
    )["Reservations"]
    (instance,) = reservation["Instances"]
    assert instance["InstanceId"] == yard.instances()[0]["instance_id"]


def test_a_drain_waits_for_the_disruption_budget(yard: Yard) -> None:
    budget = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}},
    }
    path = "/apis/policy/v1/namespaces/default/poddisruptionbudgets/web"
    yard.apply(deployment("web", 1), budget)
    yard.wait_running("web", 1)
    (node,) = yard.nodes()
    name = node["metadata"]["name"]
    eventually(lambda: yard.kube.get(path)["status"].get("currentHealthy") == 1)
    yard.kube.delete(f"/api/v1/nodes/{name}")
    eventually(
        lambda: any(
            t["key"] == "karpenter.sh/disrupted"
            for t in yard.kube.get(f"/api/v1/nodes/{name}")["spec"].get("taints", [])
        )
    )
    # its replacement comes before the drain ends
    eventually(lambda: len(yard.instances()) == 2, within_s=120)
    assert yard.phases("web")["Running"] == 1
    yard.scale("web", 2)
    yard.wait_running("web", 2)
    eventually(lambda: name not in {n["metadata"]["name"] for n in yard.nodes()}, within_s=120)
    yard.wait_running("web", 2)
    yard.kube.delete(path)


def test_nothing_is_done_beside_a_karpenter_that_works(yard: Yard) -> None:
    path = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"
    renewed = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    spec = {"holderIdentity": "karpenter-7d9f", "leaseDurationSeconds": 600, "renewTime": renewed}
    metadata = {"name": "karpenter-leader-election", "namespace": "kube-system"}
    yard.apply({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec})

    def refusals() -> list[str]:
        replicas = [(s, r) for s in ("allocator", "reallocator") for r in range(2)]
        answers = [yard.web.get(f"{yard.stand.endpoint(s, r).url}/readyz") for s, r in replicas]
        return [a.text for a in answers if a.status_code == 503 and "Karpenter (karpenter-7d9f" in a.text]

    eventually(lambda: len(refusals()) == 4, within_s=120)
    before = yard.launched()
    theirs = {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "theirs"}
    yard.apply(node_class("theirs"), node_pool("theirs", nodeClassRef=theirs), deployment("web", 2))
    eventually(lambda: yard.refused_for_s("web", 2) > 5.0, within_s=120)
    assert yard.launched() == before
    assert yard.claims() == []
    node_class_now, pool_now = yard.kube.get(f"{CLASSES}/theirs"), yard.kube.get(f"{NODEPOOLS}/theirs")
    assert "finalizers" not in node_class_now["metadata"]
    assert not node_class_now.get("status")
    assert not pool_now.get("status")
    yard.kube.delete(f"{path}/karpenter-leader-election")
    yard.wait_running("web", 2)
    eventually(lambda: condition(yard.kube.get(f"{NODEPOOLS}/theirs"), "Ready").get("status") == "True")
    for each in (f"{NODEPOOLS}/theirs", f"{CLASSES}/theirs"):
        yard.kube.delete(each)


# --- Redis away, and back with nothing in it: nothing is launched twice, nothing leaks, planning resumes -----------------
def epoch(yard: Yard, lease: str) -> int:
    """The lease's last epoch, as Kubernetes keeps it."""
    leases = yard.items("/apis/coordination.k8s.io/v1/leases")
    (found,) = [item for item in leases if item["metadata"]["name"] == lease]
    return int(found["metadata"]["annotations"]["nodeyard.dev/epoch"])


def test_redis_restarted_empty_in_the_middle_of_a_scale_up_and_of_a_scale_down(yard: Yard) -> None:
    launched = yard.launched()
    yard.apply(apart("first", 2))
    yard.wait_running("first", 2)
    before = epoch(yard, "nodeyard-planning-all")
    yard.apply(apart("web", 6))
    yard.stand.restart_redis()
    yard.wait_running("web", 6)
    yard.wait_settled()
    assert yard.launched() - launched == len(yard.claims()) == 8
    eventually(lambda: epoch(yard, "nodeyard-planning-all") > before)
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

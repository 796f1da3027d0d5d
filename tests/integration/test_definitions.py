"""The custom resource definitions on a real API server: what users write is taken, what makes no sense is refused."""

import itertools
from typing import Any

import pytest

from nodeyard.local.kubeapi import KubeApi, KubeError

pytestmark = pytest.mark.cluster
_numbers = itertools.count(1)
PATHS = {
    "NodePool": "/apis/karpenter.sh/v1/nodepools",
    "NodeClaim": "/apis/karpenter.sh/v1/nodeclaims",
    "EC2NodeClass": "/apis/karpenter.k8s.aws/v1/ec2nodeclasses",
    "Provisioner": "/apis/karpenter.sh/v1alpha5/provisioners",
    "AWSNodeTemplate": "/apis/karpenter.k8s.aws/v1alpha1/awsnodetemplates",
}
REF = {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "default"}
ARCH = {"key": "kubernetes.io/arch", "operator": "In", "values": ["amd64"]}


def thing(kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    version = PATHS[kind].removeprefix("/apis/").rpartition("/")[0]
    return {"apiVersion": version, "kind": kind, "metadata": {"name": f"d{next(_numbers)}"}, "spec": spec}


def nodepool(node: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    template = {"spec": {"nodeClassRef": REF, "requirements": [ARCH], **(node or {})}}
    return thing("NodePool", {"template": template, **spec})


def nodeclass(**spec: Any) -> dict[str, Any]:
    whole = {
        "amiSelectorTerms": [{"alias": "al2023@latest"}],
        "subnetSelectorTerms": [{"tags": {"karpenter.sh/discovery": "demo"}}],
        "securityGroupSelectorTerms": [{"tags": {"karpenter.sh/discovery": "demo"}}],
        "role": "KarpenterNodeRole-demo",
        **spec,
    }
    return thing("EC2NodeClass", {key: value for key, value in whole.items() if value is not None})


def provisioner(**spec: Any) -> dict[str, Any]:
    return thing("Provisioner", {"provider": {"instanceProfile": "p"}, **spec})


def nodeclaim(**spec: Any) -> dict[str, Any]:
    return thing("NodeClaim", {"nodeClassRef": REF, "requirements": [ARCH], **spec})


def req(key: str, operator: str, *values: str, **more: Any) -> dict[str, Any]:
    return {"key": key, "operator": operator, **({"values": list(values)} if values else {}), **more}


def create(kube: KubeApi, body: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = kube.create(PATHS[body["kind"]], body)
    kube.delete(f"{PATHS[body['kind']]}/{body['metadata']['name']}")
    return made


GOOD = {
    "a plain pool": nodepool(),
    "a pool with everything": nodepool(
        {
            "requirements": [
                req("karpenter.k8s.aws/instance-category", "In", "c", "m", "r", minValues=2),
                req("karpenter.k8s.aws/instance-generation", "Gt", "2"),
                req("karpenter.k8s.aws/instance-cpu", "Lte", "64"),
                req("karpenter.sh/capacity-type", "In", "spot", "on-demand"),
                req("topology.kubernetes.io/zone", "NotIn", "eu-west-1c"),
                req("node.kubernetes.io/instance-type", "Exists"),
                req("kops.k8s.io/instancegroup", "In", "a"),
                req("example.com/team", "DoesNotExist"),
            ],
            "taints": [{"key": "example.com/special", "value": "true", "effect": "NoSchedule"}],
            "startupTaints": [{"key": "example.com/agent", "effect": "NoExecute"}],
            "expireAfter": "Never",
            "terminationGracePeriod": "48h",
        },
        weight=10,
        limits={"cpu": 1000, "memory": "1000Gi", "nvidia.com/gpu": "2", "nodes": 10},
        disruption={
            "consolidationPolicy": "WhenEmpty",
            "consolidateAfter": "30s",
            "budgets": [
                {"nodes": "20%", "reasons": ["Empty", "Drifted"]},
                {"nodes": "0", "schedule": "@daily", "duration": "10m"},
                {"nodes": "5", "schedule": "0 9 * * mon-fri", "duration": "8h30m", "reasons": ["Underutilized"]},
                {"nodes": "0", "schedule": "0 9 * * *", "duration": "8h", "timeZone": "America/New_York"},
                {"nodes": "0", "start": "2026-12-24T12:00:00+01:00", "end": "2026-12-27T00:00:00Z"},
            ],
        },
    ),
    "a balanced pool": nodepool(disruption={"consolidationPolicy": "Balanced", "consolidateAfter": "1m30s"}),
    "a static pool": nodepool(replicas=3, limits={"nodes": 5}),
    "a plain class": nodeclass(),
    "a class with much of everything": nodeclass(
        amiFamily="Bottlerocket",
        amiSelectorTerms=[{"id": "ami-123"}, {"name": "mine", "owner": "self"}, {"tags": {"a": "*"}}, {"ssmParameter": "/a/b"}],
        subnetSelectorTerms=[{"id": "subnet-0a"}, {"tags": {"a": "b"}}],
        securityGroupSelectorTerms=[{"name": "g"}, {"id": "sg-0a"}],
        role=None, instanceProfile="p", userData="[settings]", tags={"team": "a"}, detailedMonitoring=True,
        associatePublicIPAddress=False, instanceStorePolicy="RAID0", context="c",
        metadataOptions={"httpTokens": "optional", "httpPutResponseHopLimit": 2},
        blockDeviceMappings=[{"deviceName": "/dev/xvda", "rootVolume": True, "ebs": {
            "volumeSize": "100Gi", "volumeType": "gp3", "iops": 10000, "throughput": 125, "encrypted": True,
            "kmsKeyID": "k", "deleteOnTermination": True, "snapshotID": "snap-1", "volumeInitializationRate": 100}}],
        kubelet={"maxPods": 42, "podsPerCore": 2, "systemReserved": {"cpu": "100m"}, "kubeReserved": {"cpu": "200m"},
                 "evictionHard": {"memory.available": "5%"}, "evictionSoft": {"memory.available": "500Mi"},
                 "evictionSoftGracePeriod": {"memory.available": "1m"}, "imageGCHighThresholdPercent": 85,
                 "imageGCLowThresholdPercent": 80, "cpuCFSQuota": True, "clusterDNS": ["10.0.1.100"],
                 "topologyManagerPolicy": "restricted"},
        ipPrefixCount=1, connectionTracking={"tcpEstablishedTimeout": 350, "udpStreamTimeout": 120, "udpTimeout": 60},
        networkInterfaces=[{"networkCardIndex": 0, "deviceIndex": 0, "interfaceType": "interface"},
                           {"networkCardIndex": 1, "deviceIndex": 0, "interfaceType": "efa-only"}],
        capacityReservationSelectorTerms=[
            {"id": "cr-1"}, {"tags": {"team": "*"}, "ownerID": "123456789012", "instanceMatchCriteria": "targeted"}],
        someLaterField={"kept": True},
    ),
    "nested virtualization": nodeclass(cpuOptions={"nestedVirtualization": "enabled"}),
    "a placement group by id": nodeclass(placementGroupSelector={"id": "pg-0a1"}),
    "a placement group by name": nodeclass(placementGroupSelector={"name": "training"}),
    "a custom family with an alias": nodeclass(amiFamily="Custom"),
    "the getting-started provisioner": provisioner(
        requirements=[req("karpenter.sh/capacity-type", "In", "spot")],
        limits={"resources": {"cpu": 1000}}, ttlSecondsAfterEmpty=30,
        provider={"apiVersion": "extensions.karpenter.sh/v1alpha1", "kind": "AWS", "instanceProfile": "p",
                  "subnetSelector": {"karpenter.sh/discovery": "demo"}},
    ),
    "a later provisioner": provisioner(
        labels={"team": "a"}, annotations={"a": "b"}, weight=5, consolidation={"enabled": True},
        ttlSecondsUntilExpired=2592000, kubeletConfiguration={"clusterDNS": ["10.0.1.100"], "anything": 1},
        requirements=[req("karpenter.k8s.aws/instance-cpu", "Gt", "4"), req("team", "Exists")],
        taints=[{"key": "a"}], startupTaints=[{"key": "b", "effect": ""}],
    ),
    "a node template": thing("AWSNodeTemplate", {
        "amiFamily": "Bottlerocket", "instanceProfile": "p", "userData": "[settings]", "detailedMonitoring": True,
        "subnetSelector": {"karpenter.sh/discovery": "demo"}, "securityGroupSelector": {"aws-ids": "sg-1,sg-2"},
        "amiSelector": {"aws::name": "mine-*"}, "tags": {"team": "a"}, "metadataOptions": {"httpTokens": "optional"},
        "blockDeviceMappings": [{"deviceName": "/dev/xvda", "ebs": {"volumeSize": "100Gi", "volumeType": "gp3"}}],
    }),
    "an empty provisioner": thing("Provisioner", {}),
    "a claim": nodeclaim(
        resources={"requests": {"cpu": "1500m", "pods": 5}}, expireAfter="720h",
        requirements=[req("karpenter.sh/nodepool", "In", "default"), req("kubernetes.io/hostname", "In", "x")],
    ),
    "a claim of a provisioner": nodeclaim(nodeClassRef={"group": "karpenter.sh", "kind": "Provisioner", "name": "d"}),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_what_users_write_is_taken_and_kept(kube: KubeApi, name: str) -> None:
    body = GOOD[name]
    made = create(kube, body)
    assert contains(made["spec"], body["spec"])


def contains(whole: Any, part: Any) -> bool:
    """Whether `part` is in `whole`, which may have defaults besides."""
    if isinstance(part, dict):
        return all(key in whole and contains(whole[key], value) for key, value in part.items())
    if isinstance(part, list):
        return len(part) == len(whole) and all(map(contains, whole, part))
    return bool(whole == part)


BAD = {
    "no class": (thing("NodePool", {"template": {"spec": {"requirements": [ARCH]}}}), "nodeClassRef"),
    "weight 0": (nodepool(weight=0), "weight"),
    "a bad quantity": (nodepool(limits={"cpu": "many"}), "limits"),
    "a bad policy": (nodepool(disruption={"consolidationPolicy": "Always"}), "consolidationPolicy"),
    "a bad duration": (nodepool(disruption={"consolidateAfter": "soon"}), "consolidateAfter"),
    "a budget over 100 %": (nodepool(disruption={"budgets": [{"nodes": "101%"}]}), "nodes"),
    "a schedule without a duration": (
        nodepool(disruption={"budgets": [{"nodes": "1", "schedule": "@daily"}]}),
        "schedule and duration must be set together",
    ),
    "a schedule of four fields": (
        nodepool(disruption={"budgets": [{"nodes": "1", "schedule": "0 9 * *", "duration": "1h"}]}),
        "schedule",
    ),
    "a time zone without a schedule": (
        nodepool(disruption={"budgets": [{"nodes": "1", "timeZone": "Europe/Berlin"}]}),
        "timeZone goes with a schedule",
    ),
    "a budget that ends before it starts": (
        nodepool(
            disruption={
                "budgets": [{"nodes": "1", "start": "2026-12-24T12:00:00Z", "end": "2026-12-24T11:00:00Z"}]
            }
        ),
        "start must come before end",
    ),
    "a window that is always open": (
        nodepool(disruption={"allowWindows": [{"reasons": ["Drifted"]}]}),
        "a window needs a schedule",
    ),
    "a reason nobody has": (nodepool(disruption={"budgets": [{"nodes": "1", "reasons": ["Rain"]}]}), "reasons"),
    "a weight beside replicas": (nodepool(replicas=1, weight=1), "weight means nothing"),
    "limits of cpu beside replicas": (nodepool(replicas=1, limits={"cpu": 1}), "may only limit nodes"),
    "a taint without effect": (nodepool({"taints": [{"key": "a"}]}), "effect"),
    "an unknown operator": (nodepool({"requirements": [req("a", "Near", "b")]}), "operator"),
    "In without values": (nodepool({"requirements": [req("a", "In")]}), "needs at least one value"),
    "Exists with values": (nodepool({"requirements": [req("a", "Exists", "b")]}), "take no values"),
    "Gt a word": (nodepool({"requirements": [req("a", "Gt", "b")]}), "whole number"),
    "Gt two numbers": (nodepool({"requirements": [req("a", "Gt", "1", "2")]}), "whole number"),
    "minValues over the values": (nodepool({"requirements": [req("a", "In", "b", minValues=2)]}), "minValues"),
    "a restricted domain": (nodepool({"requirements": [req("x.kubernetes.io/a", "Exists")]}), "kubernetes.io"),
    "another restricted domain": (nodepool({"requirements": [req("k8s.io/a", "Exists")]}), "k8s.io"),
    "a karpenter label": (nodepool({"requirements": [req("karpenter.sh/nodepool", "Exists")]}), "karpenter.sh"),
    "a hostname label": (
        thing("NodePool", {"template": {"metadata": {"labels": {"kubernetes.io/hostname": "a"}}, "spec": {"nodeClassRef": REF, "requirements": []}}}),
        "kubernetes.io/hostname",
    ),
    "a class without identity": (nodeclass(role=None), "exactly one of role and instanceProfile"),
    "a class with both identities": (nodeclass(instanceProfile="p"), "exactly one of role and instanceProfile"),
    "a class without a family": (nodeclass(amiSelectorTerms=[{"id": "ami-1"}]), "amiFamily is needed"),
    "a family against its alias": (nodeclass(amiFamily="AL2"), "different families"),
    "an alias among others": (nodeclass(amiSelectorTerms=[{"alias": "al2023@latest"}, {"alias": "al2@latest"}]), "only term"),
    "an alias of nothing": (nodeclass(amiSelectorTerms=[{"alias": "plan9@latest"}]), "alias"),
    "a term with id and tags": (nodeclass(subnetSelectorTerms=[{"id": "subnet-1", "tags": {"a": "b"}}]), "id stands alone"),
    "an empty term": (nodeclass(subnetSelectorTerms=[{}]), "needs tags or id"),
    "no terms": (nodeclass(securityGroupSelectorTerms=[]), "securityGroupSelectorTerms"),
    "an empty tag": (nodeclass(subnetSelectorTerms=[{"tags": {"a": ""}}]), "empty tag keys or values"),
    "a managed tag": (nodeclass(tags={"karpenter.sh/nodepool": "x"}), "set for you"),
    "a cluster tag": (nodeclass(tags={"kubernetes.io/cluster/demo": "x"}), "set for you"),
    "two root disks": (nodeclass(blockDeviceMappings=[{"rootVolume": True, "ebs": {"volumeSize": "1Gi"}}] * 2), "rootVolume"),
    "a disk of no size": (nodeclass(blockDeviceMappings=[{"ebs": {"volumeType": "gp3"}}]), "volumeSize or snapshotID"),
    "a rate without a snapshot": (
        nodeclass(blockDeviceMappings=[{"ebs": {"volumeSize": "1Gi", "volumeInitializationRate": 100}}]), "needs a snapshotID"),
    "no primary interface": (
        nodeclass(networkInterfaces=[{"networkCardIndex": 0, "deviceIndex": 0, "interfaceType": "efa-only"}]), "networkCardIndex 0"),
    "one interface twice": (
        nodeclass(networkInterfaces=[{"networkCardIndex": 0, "deviceIndex": 0, "interfaceType": "interface"}] * 2), "networkCardIndex"),
    "a public address on several interfaces": (
        nodeclass(associatePublicIPAddress=True, networkInterfaces=[
            {"networkCardIndex": 0, "deviceIndex": n, "interfaceType": "interface"} for n in (0, 1)]), "more than one"),
    "a timeout out of range": (nodeclass(connectionTracking={"udpTimeout": 29}), "udpTimeout"),
    "a reservation by id and tag": (
        nodeclass(capacityReservationSelectorTerms=[{"id": "cr-1", "tags": {"a": "b"}}]), "id stands alone"),
    "reservations by owner only": (
        nodeclass(capacityReservationSelectorTerms=[{"ownerID": "123456789012"}]), "needs tags, id or instanceMatchCriteria"),
    "a reservation of no account": (
        nodeclass(capacityReservationSelectorTerms=[{"tags": {"a": "b"}, "ownerID": "me"}]), "ownerID"),
    "a reservation that matches oddly": (
        nodeclass(capacityReservationSelectorTerms=[{"instanceMatchCriteria": "some"}]), "instanceMatchCriteria"),
    "nested virtualization by halves": (nodeclass(cpuOptions={"nestedVirtualization": "some"}), "nestedVirtualization"),
    "a placement group named twice": (nodeclass(placementGroupSelector={"name": "a", "id": "pg-0"}), "exactly one of name and id"),
    "a placement group without a name": (nodeclass(placementGroupSelector={}), "exactly one of name and id"),
    "a placement group by a wrong id": (nodeclass(placementGroupSelector={"id": "sg-0"}), "placementGroupSelector.id"),
    "soft eviction without grace": (nodeclass(kubelet={"evictionSoft": {"memory.available": "1Gi"}}), "evictionSoftGracePeriod"),
    "thresholds the wrong way": (
        nodeclass(kubelet={"imageGCHighThresholdPercent": 50, "imageGCLowThresholdPercent": 60}), "imageGCHighThresholdPercent"),
    "a negative ttl": (provisioner(ttlSecondsAfterEmpty=-1), "ttlSecondsAfterEmpty"),
    "ttl beside consolidation": (provisioner(ttlSecondsAfterEmpty=1, consolidation={"enabled": True}), "can't both be set"),
    "provider beside providerRef": (provisioner(providerRef={"name": "x"}), "can't both be set"),
    "a later operator": (provisioner(requirements=[req("a", "Gte", "1")]), "operator"),
    "a provisioner's restricted label": (provisioner(labels={"karpenter.sh/provisioner-name": "x"}), "set for you"),
    "a node template with an empty tag": (
        thing("AWSNodeTemplate", {"subnetSelector": {"a": ""}}), "empty keys or values"),
    "a node template of two minds": (
        thing("AWSNodeTemplate", {"launchTemplate": "a", "userData": "b"}), "can't both be set"),
    "a custom node template without an image": (thing("AWSNodeTemplate", {"amiFamily": "Custom"}), "needs an amiSelector"),
    "a claim without a class": (thing("NodeClaim", {"requirements": []}), "nodeClassRef"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_makes_no_sense_is_refused_with_a_reason(kube: KubeApi, name: str) -> None:
    body, says = BAD[name]
    with pytest.raises(KubeError) as refused:
        create(kube, body)
    assert refused.value.status == 422
    assert says in str(refused.value)


def test_what_is_left_out_has_its_default(kube: KubeApi) -> None:
    pool = create(kube, nodepool())["spec"]
    assert pool["disruption"] == {
        "consolidationPolicy": "WhenEmptyOrUnderutilized",
        "consolidateAfter": "0s",
        "budgets": [{"nodes": "10%"}],
    }
    assert pool["template"]["spec"]["expireAfter"] == "720h"
    options = create(kube, nodeclass())["spec"]["metadataOptions"]
    assert options == {
        "httpEndpoint": "enabled",
        "httpProtocolIPv6": "disabled",
        "httpPutResponseHopLimit": 1,
        "httpTokens": "required",
    }
    assert create(kube, provisioner())["spec"] == {"provider": {"instanceProfile": "p"}}


def test_the_spec_of_a_claim_never_changes_but_its_status_does(kube: KubeApi) -> None:
    made = kube.create(PATHS["NodeClaim"], nodeclaim())
    path = f"{PATHS['NodeClaim']}/{made['metadata']['name']}"
    with pytest.raises(KubeError, match="can't be changed"):
        kube.patch(path, {"spec": {"expireAfter": "1h"}})
    status = {"providerID": "aws:///a/i-1", "capacity": {"cpu": "4"}, "conditions": [
        {"type": "Launched", "status": "True", "reason": "Launched", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}  # fmt: skip
    after = kube.patch(f"{path}/status", {"status": status})
    assert contains(after["status"], status)
    kube.delete(path)


def test_the_kind_of_a_pools_class_never_changes(kube: KubeApi) -> None:
    made = kube.create(PATHS["NodePool"], nodepool())
    path = f"{PATHS['NodePool']}/{made['metadata']['name']}"
    reference = {"template": {"spec": {"nodeClassRef": {"kind": "Other"}}}}
    with pytest.raises(KubeError, match="kind can't be changed"):
        kube.patch(path, {"spec": reference})
    with pytest.raises(KubeError, match="can't change between"):
        kube.patch(path, {"spec": {"replicas": 1}})
    kube.delete(path)


@pytest.mark.parametrize(
    ("kind", "columns"),
    [
        ("NodePool", ["Name", "NodeClass", "Nodes", "Ready", "Age", "Weight", "CPU", "Memory"]),
        ("NodeClaim", ["Name", "Type", "Capacity", "Zone", "Node", "Ready", "Age"]),
        ("EC2NodeClass", ["Name", "Ready", "Age"]),
        ("Provisioner", ["Name", "Nodes", "Ready", "Age"]),
        ("AWSNodeTemplate", ["Name", "Ready", "Age"]),
    ],
)
def test_kubectl_get_shows_what_matters(kube: KubeApi, kind: str, columns: list[str]) -> None:
    accept = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}
    table = kube._client.get(PATHS[kind], headers=accept).json()
    assert [column["name"] for column in table["columnDefinitions"]][: len(columns)] == columns

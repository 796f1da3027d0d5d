"""A stand with all services, as the end-to-end tests use it: apply, scale, look, and check that nothing leaks.

`Yard` reads the API server and the simulated account only; what our services say of themselves is not evidence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from nodeyard.local.kubeapi import KubeError
from nodeyard.local.stand import Stand
from tests.support.account import AwsClients
from tests.support.cluster import condition, eventually

Json = dict[str, Any]
CLAIMS = "/apis/karpenter.sh/v1/nodeclaims"
PROVISIONERS = "/apis/karpenter.sh/v1alpha5/provisioners"
TEMPLATES = "/apis/karpenter.k8s.aws/v1alpha1/awsnodetemplates"
NODEPOOLS = "/apis/karpenter.sh/v1/nodepools"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
PODS = "/api/v1/namespaces/default/pods"
EVENTS = "/api/v1/namespaces/default/events"
CLASSES = "/apis/karpenter.k8s.aws/v1/ec2nodeclasses"
ONE_TO_A_NODE = [{"containerPort": 8080, "hostPort": 8080}]
"""A host port: none of the pods that want it fits on a node that another is on."""
CLUSTER_UID = "nodeyard.dev/cluster-uid"


# --- what pools say of disruption and of nodes, in several files
NEVER = {"consolidationPolicy": "WhenEmpty", "consolidateAfter": "Never"}
UNDERUTILIZED = {
    "consolidationPolicy": "WhenEmptyOrUnderutilized",
    "consolidateAfter": "1s",
    "budgets": [{"nodes": "100%"}],
}
ON_DEMAND = [
    {"key": "kubernetes.io/arch", "operator": "In", "values": ["amd64"]},
    {"key": "karpenter.sh/capacity-type", "operator": "In", "values": ["on-demand"]},
    {"key": "karpenter.k8s.aws/instance-category", "operator": "In", "values": ["m"]},
    {"key": "karpenter.k8s.aws/instance-generation", "operator": "Gt", "values": ["4"]},
]


def node_pool(name: str = "general", **spec: Any) -> Json:
    """A NodePool of common families in both architectures, spot and on demand; `spec` overrides template.spec's
    fields, but `disruption`, `limits` and `weight`, which go to the pool's spec.
    """
    template = {
        "requirements": [
            {"key": "kubernetes.io/arch", "operator": "In", "values": ["amd64", "arm64"]},
            {"key": "karpenter.sh/capacity-type", "operator": "In", "values": ["spot", "on-demand"]},
            {"key": "karpenter.k8s.aws/instance-category", "operator": "In", "values": ["c", "m", "r"]},
            {"key": "karpenter.k8s.aws/instance-generation", "operator": "Gt", "values": ["4"]},
        ],
        "nodeClassRef": {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "general"},
    }
    outer = {key: spec.pop(key) for key in ("disruption", "limits", "weight") if key in spec}
    outer.setdefault(
        "disruption",
        {"consolidationPolicy": "WhenEmpty", "consolidateAfter": "1s", "budgets": [{"nodes": "100%"}]},
    )
    return {
        "apiVersion": "karpenter.sh/v1",
        "kind": "NodePool",
        "metadata": {"name": name},
        "spec": {"template": {"spec": {**template, **spec}}, **outer},
    }


def node_class(name: str = "general", **spec: Any) -> Json:
    found_by = [{"tags": {"karpenter.sh/discovery": "nodeyard"}}]
    body = {
        "amiSelectorTerms": [{"alias": "al2023@latest"}],
        "role": "KarpenterNodeRole-nodeyard",
        "subnetSelectorTerms": found_by,
        "securityGroupSelectorTerms": found_by,
    }
    return {
        "apiVersion": "karpenter.k8s.aws/v1",
        "kind": "EC2NodeClass",
        "metadata": {"name": name},
        "spec": {**body, **spec},
    }


def provisioner(name: str = "default", **spec: Any) -> Json:
    """A v1alpha5 Provisioner as small as the getting-started guide had it."""
    body = {"provider": {"instanceProfile": "KarpenterNodeInstanceProfile-nodeyard"}}
    return {
        "apiVersion": "karpenter.sh/v1alpha5",
        "kind": "Provisioner",
        "metadata": {"name": name},
        "spec": {**body, **spec},
    }


def node_template(name: str = "default", **spec: Any) -> Json:
    """A v1alpha1 AWSNodeTemplate, which Provisioners refer to."""
    body = {"instanceProfile": "KarpenterNodeInstanceProfile-nodeyard", "amiFamily": "Bottlerocket"}
    return {
        "apiVersion": "karpenter.k8s.aws/v1alpha1",
        "kind": "AWSNodeTemplate",
        "metadata": {"name": name},
        "spec": {**body, **spec},
    }


def own_claim(name: str, instance_type: str) -> Json:
    """A claim that a user wrote: no pool, no finalizer, no epoch."""
    return {
        "apiVersion": "karpenter.sh/v1",
        "kind": "NodeClaim",
        "metadata": {"name": name},
        "spec": {
            "nodeClassRef": {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "general"},
            "requirements": [
                {"key": "node.kubernetes.io/instance-type", "operator": "In", "values": [instance_type]},
                {"key": "karpenter.sh/capacity-type", "operator": "In", "values": ["on-demand"]},
            ],
        },
    }


def deployment(name: str, replicas: int, requests: Mapping[str, str] | None = None, **spec: Any) -> Json:
    """Pods labelled app=<name> of one container; `spec` goes into the pod's spec."""
    resources = {"requests": dict(requests or {"cpu": "500m", "memory": "512Mi"})}
    labels = {"app": name}
    containers = [{"name": "main", "image": "registry.example/app", "resources": resources}]
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": containers, **spec}},
        },
    }


def apart(name: str, replicas: int, requests: Mapping[str, str] | None = None, **spec: Any) -> Json:
    """Pods of which each needs a node of its own, beside no other such pod. However they come to be batched, as many
    nodes are bought as there are pods, and none is left empty because the kube-scheduler found room on another.
    """
    made = deployment(name, replicas, requests, **spec)
    made["spec"]["template"]["spec"]["containers"][0]["ports"] = ONE_TO_A_NODE
    return made


class Yard:
    """What tests do with a stand. Waits end as soon as what they wait for is there, and are long enough for a machine
    that has others to serve. `kill_point` is the file that the stand's services are told of (`doomed`).
    """

    def __init__(self, stand: Stand, kill_point: Path) -> None:
        self.stand = stand
        self.kill_point = kill_point
        self.kube = stand.api()
        self.aws = AwsClients(stand.account_url, retries=4)
        # No connection is kept: whoever is at its other end may have died since.
        none_kept = httpx.Limits(max_keepalive_connections=0)
        self.web = httpx.Client(timeout=60.0, trust_env=False, limits=none_kept)

    def close(self) -> None:
        self.kube.close()
        self.web.close()

    # --- doing ---
    def apply(self, *manifests: Json) -> None:
        self.kube.apply(manifests)

    def scale(self, name: str, replicas: int) -> None:
        self.kube.patch(f"{DEPLOYMENTS}/{name}", {"spec": {"replicas": replicas}})

    def dial(self, method: str, path: str, body: Json | None = None) -> Any:
        """Turns a dial of the simulated account, e.g. dial("POST", "capacity", {...})."""
        answer = self.web.request(method, f"{self.stand.account_url}/dials/{path}", json=body)
        assert answer.is_success, answer.text
        return answer.json()

    def clear(self) -> None:
        """Takes away what runs and then the nodes that it ran on, which need not be found empty first."""
        self.kube.delete(DEPLOYMENTS)
        eventually(lambda: not self.items(PODS), within_s=120)
        self.kube.delete(CLAIMS)
        self.wait_gone()

    # --- looking ---
    def items(self, path: str) -> list[Json]:
        found: list[Json] = self.kube.get(path)["items"]
        return found

    def pods(self, app: str) -> list[Json]:
        return [p for p in self.items(PODS) if p["metadata"].get("labels", {}).get("app") == app]

    def phases(self, app: str) -> Counter[str]:
        return Counter(
            p["status"].get("phase", "Pending")
            for p in self.pods(app)
            if "deletionTimestamp" not in p["metadata"]
        )

    def claims(self) -> list[Json]:
        return self.items(CLAIMS)

    def nodes(self) -> list[Json]:
        """Nodes that are machines of the account."""
        return [
            n for n in self.items("/api/v1/nodes") if n["spec"].get("providerID", "").startswith("aws:///")
        ]

    def instances(self) -> list[Json]:
        """Instances that cost money now: pending or running."""
        lines: list[Json] = self.dial("GET", "cost")["instances"]
        return [line for line in lines if line["state"] in ("pending", "running")]

    def launched(self) -> int:
        """Instances ever launched."""
        return int(self.dial("GET", "cost")["launched"])

    def calls(self, action: str) -> list[Json]:
        """The newest calls of one API action."""
        found: list[Json] = self.dial("GET", f"calls?action={action}")["calls"]
        return found

    def decisions(self, **query: Any) -> list[Json]:
        url = f"{self.stand.endpoint('admin').url}/v1/decisions"
        answer = self.web.get(url, params={"limit": 1000, **query}).raise_for_status()
        found: list[Json] = answer.json()
        return found

    def proposal(self, node: str) -> Json:
        """What would be done with the node; nothing where nobody can say now."""
        answer = self.web.get(f"{self.stand.endpoint('admin').url}/v1/proposals")
        found: dict[str, Json] = {p["node"]: p for p in answer.json()} if answer.is_success else {}
        return found.get(node, {})

    def refused_for_s(self, app: str, count: int) -> float:
        """How long the kube-scheduler has had no place for all of the app's pods; 0 before it says so of each."""
        found = [condition(pod, "PodScheduled") for pod in self.pods(app)]
        since = [c["lastTransitionTime"] for c in found if c.get("reason") == "Unschedulable"]
        if len(since) < count:
            return 0.0
        return min((datetime.now(UTC) - datetime.fromisoformat(at)).total_seconds() for at in since)

    # --- waiting and checking ---
    def wait_running(self, app: str, count: int, within_s: float = 120.0) -> None:
        eventually(lambda: self.phases(app) == Counter(Running=count), within_s=within_s)

    def wait_ready(self, within_s: float = 180.0) -> None:
        for service in self.stand.options.services:
            for replica in range(self.stand.options.replicas):
                eventually(lambda s=service, r=replica: self.stand.ready(s, r), within_s=within_s)  # type: ignore[misc]

    def wait_gone(self, within_s: float = 150.0) -> None:
        """No claim, no node and no instance is left. A drain takes five seconds, so it is not asked all the time."""

        def gone() -> bool:
            return not self.claims() and not self.nodes() and not self.instances()

        eventually(gone, within_s=within_s, every_s=0.25)

    def check_nothing_leaked(self) -> None:
        """Every instance has exactly one claim, every launched claim exactly one instance, every node both."""
        of_claims = Counter(
            c.get("status", {}).get("providerID", "").rpartition("/")[2] for c in self.claims()
        )
        of_account = Counter(i["instance_id"] for i in self.instances())
        of_nodes = Counter(n["spec"]["providerID"].rpartition("/")[2] for n in self.nodes())
        assert of_claims == of_account
        assert of_nodes <= of_account

    def wait_initialized(self, within_s: float = 120.0) -> None:
        """Every claim has come to its end: its node is Initialized."""

        def done() -> bool:
            return all(condition(claim, "Initialized").get("status") == "True" for claim in self.claims())

        eventually(done, within_s=within_s)

    def wait_settled(self, within_s: float = 120.0) -> None:
        """Until instances, claims and nodes agree one to one (see check_nothing_leaked)."""

        def settled() -> bool:
            with suppress(AssertionError, KubeError):
                self.check_nothing_leaked()
                return len(self.nodes()) == len(self.instances())
            return False

        eventually(settled, within_s=within_s)


# --- deaths -----------------------------------------------------------------------------------------------------------
def around(service: str, *writes: str) -> list[str]:
    """The kill points before and after these writes."""
    return [f"{service}.{when}-{write}" for write in writes for when in ("before", "after")]


@contextmanager
def doomed(yard: Yard, point: str) -> Iterator[None]:
    """A replica of the point's service, the first to pass it, dies there; afterwards another has taken its place.

    Nothing may be under way when it begins, else it dies of that, before the test has given it anything to do.
    """
    service, stand = point.partition(".")[0], yard.stand
    eventually(lambda: not any("deletionTimestamp" in c["metadata"] for c in yard.claims()), within_s=120)
    yard.wait_initialized()
    yard.wait_settled()

    def dead() -> list[int]:
        replicas = range(stand.options.replicas)
        return [r for r in replicas if not stand.processes.running(f"{service}-{r}")]

    yard.kill_point.write_text(point)
    try:
        yield
        eventually(dead, within_s=150)
    finally:  # whatever came of it: the tests after this one need the service
        yard.kill_point.unlink(missing_ok=True)
        for replica in dead():
            stand.start_service(service, replica)

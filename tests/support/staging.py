"""A plan put onto a real API server, for the kube-scheduler to judge.

Every node of the plan becomes a KWOK node with the labels, taints and room that it would have; every placed pod is
pinned to its node and created in the plan's order. `Pin.FIELDS` pins by a matchFields affinity, as DaemonSets do;
topology spread then looks at that node alone, so `Pin.TAINTS` pins by a taint per node, which spread looks through.
Names and namespaces get the run's prefix, and pods a selector of the run's nodes, so that runs don't meet.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from copy import deepcopy
from typing import Any

from nodeyard.local.kubeapi import KubeApi
from tests.support.cluster import eventually, make_namespace, plain_node
from tests.support.judge_hosts import Host, Scene, existing_hosts, new_host
from tests.support.kube_rules import HOST, REQUIRED, Json, finished, labels_of
from tests.support.problems import PlanningProblem

RUN = "test.nodeyard.dev/run"
PIN = "test.nodeyard.dev/pin"


class Pin(enum.StrEnum):
    FIELDS = "matchFields"
    TAINTS = "taints"


class Stage:
    """One plan on the server. `put` it there, ask `unplaced`, and `clear` it away."""

    def __init__(self, api: KubeApi, run: str, given: PlanningProblem, plan: Json, pin: Pin) -> None:
        self.api, self.run, self.pin = api, run, pin
        self.scene, self.plan, self.market = Scene.of(given.objects), plan, given.market
        self.expected: dict[str, str] = {}
        """Path of each placed pod -> the node it is pinned to."""
        self._made: list[str] = []

    # --- putting ---------------------------------------------------------------------------------------------------
    def put(self) -> None:
        for name in sorted({p["metadata"]["namespace"] for p in self.scene.by_kind["Pod"].values()} | set(self.scene.by_kind["Namespace"])):  # fmt: skip
            self._namespace(name)
        standing = existing_hosts(self.scene, self.market)
        for host in standing.values():
            node = self.scene.by_kind["Node"].get(host.name)
            if node is None:  # a claim whose node will have joined by then
                self._node(host, _quantities(host), None)
            else:
                self._node(host, node["status"]["allocatable"], (node.get("spec") or {}).get("unschedulable"))
        self._volumes()
        for pod in self.scene.by_kind["Pod"].values():
            if pod["spec"].get("nodeName") and not finished(pod):
                self._create_pod(pod, pod["spec"]["nodeName"], bound=True)
        for planned in self.plan["nodes"]:
            made = new_host(self.scene, self.market, planned, [])
            assert made is not None, planned
            self._node(made, _quantities(made), None)
        pods = self.scene.plannable()
        for entry in [*self.plan["existing"], *self.plan["nodes"]]:
            for name in entry["pods"]:
                self._create_pod(pods[name], entry.get("node") or entry["name"], bound=False)

    def _name(self, name: str) -> str:
        return f"{self.run}-{name}"

    def _node_name(self, name: str) -> str:
        return f"kwok-{self._name(name)}".replace("/", "-").replace("_", "-").lower()

    def _create(self, collection: str, body: Json) -> None:
        self.api.create(collection, body)
        self._made.append(f"{collection}/{body['metadata']['name']}")

    def _namespace(self, name: str) -> None:
        made = make_namespace(self.api, self._name(name))
        labels = labels_of(self.scene.by_kind["Namespace"].get(name, {"metadata": {}}))
        self.api.patch(f"/api/v1/namespaces/{made}", {"metadata": {"labels": labels}})
        self._made.append(f"/api/v1/namespaces/{made}")

    def _node(self, host: Host, allocatable: Json, cordoned: bool | None) -> None:
        name = self._node_name(host.name)
        node = plain_node(
            name.removeprefix("kwok-"),
            allocatable=allocatable,
            labels={**host.labels, HOST: name, RUN: self.run},
        )
        taints = [{k: v for k, v in t.items() if v} for t in host.taints if "unschedulable" not in t["key"]]
        if self.pin is Pin.TAINTS:
            taints.append({"key": PIN, "value": name[-63:], "effect": "NoSchedule"})
        node["spec"] = {"taints": taints, **({"unschedulable": True} if cordoned else {})}
        self._create("/api/v1/nodes", node)
        drivers = ((self.scene.by_kind["CSINode"].get(host.name) or {}).get("spec") or {}).get("drivers")
        if drivers:
            body = {"apiVersion": "storage.k8s.io/v1", "kind": "CSINode", "metadata": {"name": name},
                    "spec": {"drivers": [{**d, "nodeID": name} for d in drivers]}}  # fmt: skip
            self._create("/apis/storage.k8s.io/v1/csinodes", body)

    def _create_pod(self, pod: Json, host: str, *, bound: bool) -> None:
        node = self._node_name(host)
        spec = self._local(deepcopy(pod["spec"]))
        spec.pop("priority", None)  # only a PriorityClass may set it
        spec.pop("nodeName", None)
        if bound:
            spec["nodeName"] = node
        else:
            spec["nodeSelector"] = {**(spec.get("nodeSelector") or {}), RUN: self.run}
            self._pin(spec, node)
        namespace = self._name(pod["metadata"]["namespace"])
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": pod["metadata"]["name"], "namespace": namespace, "labels": labels_of(pod)},
            "spec": spec,
        }
        path = f"/api/v1/namespaces/{namespace}/pods"
        self._create(path, body)
        if not bound:
            self.expected[f"{namespace}/{pod['metadata']['name']}"] = node

    def _local(self, spec: Json) -> Json:
        """Terms name the run's namespaces."""
        for kind in ("podAffinity", "podAntiAffinity"):
            for term in ((spec.get("affinity") or {}).get(kind) or {}).get(REQUIRED) or []:
                if term.get("namespaces"):
                    term["namespaces"] = [self._name(n) for n in term["namespaces"]]
        return spec

    def _pin(self, spec: Json, node: str) -> None:
        everything = [t for t in spec.get("tolerations") or [] if not t.get("key")]
        if self.pin is Pin.TAINTS and not everything:
            own = {"key": PIN, "operator": "Equal", "value": node[-63:], "effect": "NoSchedule"}
            spec["tolerations"] = [*(spec.get("tolerations") or []), own]
            return
        for constraint in spec.get("topologySpreadConstraints") or []:
            constraint.pop("minDomains", None)  # pinned like this, a pod sees one domain only
        field = {"key": "metadata.name", "operator": "In", "values": [node]}
        affinity = spec.setdefault("affinity", {}).setdefault("nodeAffinity", {})
        terms = affinity.setdefault(REQUIRED, {}).get("nodeSelectorTerms") or [{}]
        affinity[REQUIRED]["nodeSelectorTerms"] = [{**t, "matchFields": [field]} for t in terms]

    def _volumes(self) -> None:
        """Claims bound to volumes that reach as far as their class lets one be made: nobody provisions here."""
        classes = self.scene.by_kind["StorageClass"]
        for key, claim in self.scene.by_kind["PersistentVolumeClaim"].items():
            spec = claim["spec"]
            if bound := spec.get("volumeName"):
                reach = self.scene.by_kind["PersistentVolume"][bound]["spec"].get("nodeAffinity")
            else:
                zones = classes[spec["storageClassName"]].get("allowedTopologies") or []
                terms = [{"matchExpressions": [{**e, "operator": "In"} for e in z["matchLabelExpressions"]]} for z in zones]  # fmt: skip
                reach = {"required": {"nodeSelectorTerms": terms}} if terms else None
            name, namespace = claim["metadata"]["name"], self._name(claim["metadata"]["namespace"])
            volume = self._name(key.replace("/", "-"))
            body: Json = {
                "capacity": {"storage": "10Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "",
                "csi": {"driver": "ebs.csi.aws.com", "volumeHandle": volume},
                "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": namespace, "name": name},
                **({"nodeAffinity": reach} if reach else {}),
            }  # fmt: skip
            self._create("/api/v1/persistentvolumes", {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": volume}, "spec": body})  # fmt: skip
            wanted = {"accessModes": ["ReadWriteOnce"], "storageClassName": "", "volumeName": volume,
                      "resources": {"requests": {"storage": "10Gi"}}}  # fmt: skip
            path = f"/api/v1/namespaces/{namespace}/persistentvolumeclaims"
            self._create(path, {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name, "namespace": namespace}, "spec": wanted})  # fmt: skip
            eventually(lambda at=f"{path}/{name}": self.api.get(at)["status"]["phase"] == "Bound")  # type: ignore[misc]

    # --- asking --------------------------------------------------------------------------------------------------------
    def unplaced(self, within_s: float = 180.0) -> list[str]:
        """Pods that the scheduler has not put on their nodes, with its words, once all are placed or time is up."""
        state: dict[str, Json] = {}

        def all_placed() -> bool:
            state.update({f"{self._space(p)}/{p['metadata']['name']}": p for p in self._pods()})
            return all(state[k]["spec"].get("nodeName") == node for k, node in self.expected.items())

        try:
            eventually(all_placed, within_s=within_s, every_s=0.25)
        except BaseException as error:
            if type(error).__name__ != "Failed":
                raise
        return [
            f"{key} on {node}: {_why(state[key])}"
            for key, node in self.expected.items()
            if state[key]["spec"].get("nodeName") != node
        ]

    def _space(self, pod: Json) -> str:
        return str(pod["metadata"]["namespace"])

    def _pods(self) -> Iterable[Json]:
        for namespace in {key.partition("/")[0] for key in self.expected}:
            yield from self.api.get(f"/api/v1/namespaces/{namespace}/pods")["items"]

    def clear(self) -> None:
        """Away with it; pods at once, so that nobody counts them."""
        for path in reversed(self._made):
            grace = {"gracePeriodSeconds": "0"} if "/pods/" in path else {}
            self.api.delete(path, **grace)


def _quantities(host: Host) -> dict[str, str]:
    """The host's room as quantities: what daemons take is off already."""
    return {name: f"{value}m" if name == "cpu" else str(max(value, 0)) for name, value in host.room.items()}


def _why(pod: Json) -> Any:
    conditions = pod.get("status", {}).get("conditions") or []
    return next((c.get("message") for c in conditions if c["type"] == "PodScheduled"), "not looked at yet")


def placed_keys(plan: Json) -> set[str]:
    """Keys of the pods that a plan places."""
    return {p for entry in [*plan["existing"], *plan["nodes"]] for p in entry["pods"]}

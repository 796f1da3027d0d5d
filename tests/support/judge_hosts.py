"""The judge's hosts: nodes that stand, claims on their way, nodes that a plan would make; and a pod put on one.

Each host has the labels, taints, room and ports that kube-scheduler will see, worked out from manifests and the
catalogue alone. Neighbours: `judge`, which puts whole plans on them; `kube_rules` for the rules of one pod and node.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import product

from tests.support.judge_topology import Site
from tests.support.kube_rules import (
    CAPACITY_TYPE,
    HOST,
    INSTANCE_TYPE,
    NODEPOOL,
    ZONE,
    ZONE_ID,
    Json,
    amounts,
    expression_holds,
    finished,
    host_ports,
    key_of,
    labels_of,
    node_admits,
    pod_requests,
    ports_clash,
    selector_matches,
    terms_hold,
    tolerated,
)

Catalogue = dict[str, Json]
PASSING_TAINTS = {
    "node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable",
    "node.cloudprovider.kubernetes.io/uninitialized", "karpenter.sh/unregistered",
}  # fmt: skip
"""Taints that a node which is still starting will lose."""


@dataclass
class Host:
    """A node as the plan leaves it."""

    name: str
    labels: dict[str, str]
    taints: list[Json]
    room: Counter[str]
    pods: list[Json] = field(default_factory=list)
    ports: list[tuple[str, str, int]] = field(default_factory=list)
    attach_limits: dict[str, int] = field(default_factory=dict)


def site_of(host: Host) -> Site:
    """The host as topology sees it."""
    return Site(host.name, host.labels, host.taints)


@dataclass
class Scene:
    """The objects by kind, then by key."""

    by_kind: dict[str, dict[str, Json]]

    @staticmethod
    def of(objects: Iterable[Json]) -> Scene:
        by_kind: dict[str, dict[str, Json]] = defaultdict(dict)
        for item in objects:
            by_kind[item["kind"]][key_of(item)] = item
        return Scene(by_kind)

    def namespaces(self, term: Json, own: str) -> frozenset[str]:
        """The namespaces a term looks at: those named and those selected by label, else the pod's own."""
        named = set(term.get("namespaces") or [])
        selector = term.get("namespaceSelector")
        if selector is None:
            return frozenset(named or {own})
        known = {p["metadata"]["namespace"] for p in self.by_kind["Pod"].values()}
        for name in known | set(self.by_kind["Namespace"]):
            labels = labels_of(self.by_kind["Namespace"].get(name, {"metadata": {}}))
            if selector_matches(selector, {**labels, "kubernetes.io/metadata.name": name}):
                named.add(name)
        return frozenset(named)

    def plannable(self) -> dict[str, Json]:
        """Pods without a node, but for finished ones, daemons' and mirrors."""
        return {
            key: pod
            for key, pod in self.by_kind["Pod"].items()
            if not pod["spec"].get("nodeName")
            and not finished(pod)
            and not any(
                o["kind"] in ("DaemonSet", "Node") for o in pod["metadata"].get("ownerReferences") or []
            )
        }


# --- hosts --------------------------------------------------------------------------------------------------------
def existing_hosts(scene: Scene, catalogue: Catalogue) -> dict[str, Host]:
    """Nodes with the pods they have, and claims without a node."""
    hosts: dict[str, Host] = {}
    for name, node in scene.by_kind["Node"].items():
        limits = {
            d["name"]: d["allocatable"]["count"]
            for d in ((scene.by_kind["CSINode"].get(name) or {}).get("spec") or {}).get("drivers") or []
            if (d.get("allocatable") or {}).get("count") is not None
        }
        labels = {HOST: name, **labels_of(node)}
        room = amounts(node["status"]["allocatable"])
        hosts[name] = Host(name, labels, lasting_taints(scene, node), room, attach_limits=limits)
    for pod in scene.by_kind["Pod"].values():
        host = hosts.get(pod["spec"].get("nodeName") or "")
        if host and not finished(pod):
            host.pods.append(pod)
            host.room.subtract(pod_requests(pod["spec"]))
            host.ports += host_ports(pod["spec"])
    providers = {(node.get("spec") or {}).get("providerID") for node in scene.by_kind["Node"].values()}
    for name, claim in scene.by_kind["NodeClaim"].items():
        if (claim.get("status") or {}).get("providerID") not in providers - {None, ""}:
            hosts[f"nodeclaim/{name}"] = claim_host(scene, catalogue, name, claim)
    return hosts


def lasting_taints(scene: Scene, node: Json) -> list[Json]:
    """A node's taints without those that it loses when it is ready; a cordon is one."""
    spec = node.get("spec") or {}
    taints = [t for t in spec.get("taints") or [] if t["key"] != "node.kubernetes.io/unschedulable"]
    if NODEPOOL in labels_of(node) and labels_of(node).get("karpenter.sh/initialized") != "true":
        claims = scene.by_kind["NodeClaim"].values()
        mine = [c for c in claims if (c.get("status") or {}).get("providerID") == spec.get("providerID", "-")]
        passing = {t["key"] for c in mine for t in c["spec"].get("startupTaints") or []} | PASSING_TAINTS
        taints = [
            t for t in taints if t["key"] not in passing and not t["key"].startswith("readiness.k8s.io/")
        ]
    if spec.get("unschedulable"):
        taints.append({"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"})
    return taints


def claim_host(scene: Scene, catalogue: Catalogue, name: str, claim: Json) -> Host:
    """A node that is on its way: the least room that any type it may still become would give."""
    spec, labels = claim["spec"], dict(labels_of(claim))
    for requirement in spec.get("requirements") or []:
        if requirement["operator"] == "In" and len(requirement["values"]) == 1:
            labels.setdefault(requirement["key"], requirement["values"][0])
    if told := (claim.get("status") or {}).get("allocatable"):
        rooms = [amounts(told)]
    else:
        types = [e for e in catalogue.values() if all(_may_be(r, e) for r in spec.get("requirements") or [])]
        rooms = [amounts(e["allocatable"]) for e in types] or [Counter()]
    room = Counter({resource: min(r[resource] for r in rooms) for resource in set().union(*rooms)})
    host = Host(f"nodeclaim/{name}", labels, spec.get("taints") or [], room)
    add_daemons(scene, host)
    return host


def _may_be(requirement: Json, entry: Json) -> bool:
    key = requirement["key"]
    if key not in entry["requirements"]:
        return True
    return any(expression_holds(requirement, {key: value}) for value in entry["requirements"][key])


def add_daemons(scene: Scene, host: Host) -> None:
    """Take off what the daemons that will run there ask for."""
    labels = {**host.labels, "karpenter.sh/registered": "true", "karpenter.sh/initialized": "true"}
    for daemon in scene.by_kind["DaemonSet"].values():
        spec = daemon["spec"]["template"]["spec"]
        if node_admits(spec, labels, host.name) and tolerated(spec, host.taints):
            host.room.subtract(pod_requests(spec))
            host.ports += host_ports(spec)


def new_host(scene: Scene, catalogue: Catalogue, node: Json, errors: list[str]) -> Host | None:
    """The node the plan would make, with its daemons' requests taken off."""
    entry, pool = catalogue.get(node["instanceType"]), scene.by_kind["NodePool"].get(node["nodePool"])
    if entry is None or pool is None:
        errors.append(f"{node['name']}: no such type or pool: {node['instanceType']}, {node['nodePool']}")
        return None
    wanted = (node["zone"], node["capacityType"], True)
    sold = [o for o in entry["offerings"] if (o["zone"], o["capacityType"], o["available"]) == wanted]
    if not sold:
        errors.append(f"{node['name']}: {node['instanceType']} is not sold {wanted[1]} in {wanted[0]}")
        return None
    if abs(sold[0]["price"] - node["pricePerHour"]) > 1e-9:
        errors.append(f"{node['name']}: {node['pricePerHour']} is not the catalogue's {sold[0]['price']}")
    template = pool["spec"]["template"]
    labels = {key: values[0] for key, values in entry["requirements"].items() if len(values) == 1}
    labels |= {
        INSTANCE_TYPE: node["instanceType"],
        ZONE: node["zone"],
        CAPACITY_TYPE: node["capacityType"],
        HOST: node["name"],
        NODEPOOL: node["nodePool"],
        ZONE_ID: sold[0].get("zoneId", ""),
        **((template.get("metadata") or {}).get("labels") or {}),
    }
    for key, value in (node.get("labels") or {}).items():
        if labels.setdefault(key, value) != value:
            errors.append(f"{node['name']}: says {key}={value} but will be {labels[key]}")
    for requirement in template["spec"].get("requirements") or []:
        if not expression_holds(requirement, labels):
            errors.append(f"{node['name']}: breaks its pool's requirement {requirement}")
    host = Host(
        node["name"], labels, list(template["spec"].get("taints") or []), amounts(entry["allocatable"])
    )
    add_daemons(scene, host)
    return host


def possible_hosts(scene: Scene, catalogue: Catalogue) -> list[Host]:
    """One empty node of every kind that the pools could add, as far as any pod can tell them apart: spread counts
    their domains too. A new host is always possible, so that each has a hostname of its own.
    """
    told_apart = _keys_in_use(scene)
    out: dict[tuple[object, ...], Host] = {}
    for name, pool in scene.by_kind["NodePool"].items():
        for entry in catalogue.values():
            for offer in entry["offerings"]:
                for labels in _open_labels(pool, entry):
                    node = {"name": f"possible-{len(out)}", "nodePool": name, "instanceType": entry["name"],
                            "zone": offer["zone"], "capacityType": offer["capacityType"],
                            "pricePerHour": offer["price"], "labels": labels}  # fmt: skip
                    errors: list[str] = []
                    host = new_host(scene, catalogue, node, errors)
                    if host is not None and not errors:
                        out.setdefault((name, *(host.labels.get(k) for k in told_apart)), host)
    return list(out.values())


def _keys_in_use(scene: Scene) -> list[str]:
    """Label keys that pods' selectors and topology terms name."""
    found: set[str] = set()

    def walk(value: object) -> None:
        if isinstance(value, dict):
            found.update(str(value[k]) for k in ("key", "topologyKey") if k in value)
            found.update(value.get("nodeSelector") or ())
            for each in value.values():
                walk(each)
        elif isinstance(value, list):
            for each in value:
                walk(each)

    for pod in scene.by_kind["Pod"].values():
        walk({"spec": pod["spec"]})
    return sorted(found - {HOST})


def _open_labels(pool: Json, entry: Json) -> Iterator[dict[str, str]]:
    """Each way to fill in the labels that a pool leaves open."""
    choices: list[list[tuple[str, str]]] = [
        [(r["key"], value) for value in r["values"]]
        for r in pool["spec"]["template"]["spec"].get("requirements") or []
        if r["operator"] == "In"
        and r["key"] not in entry["requirements"]
        and r["key"] not in (ZONE, ZONE_ID, CAPACITY_TYPE, NODEPOOL, INSTANCE_TYPE)
    ]
    for each in product(*choices):
        yield dict(each)


# --- one pod on one host --------------------------------------------------------------------------------------------
def volumes_of(scene: Scene, pod: Json) -> Iterator[tuple[str, str, list[Json]]]:
    """(volume identity, driver, node selector terms) of each claim of the pod."""
    namespace = pod["metadata"]["namespace"]
    for volume in pod["spec"].get("volumes") or []:
        name = (volume.get("persistentVolumeClaim") or {}).get("claimName")
        spec = (volume.get("ephemeral") or {}).get("volumeClaimTemplate", {}).get("spec")
        if spec is not None:
            name = f"{pod['metadata']['name']}-{volume['name']}"
        if name is None:
            continue
        claim = scene.by_kind["PersistentVolumeClaim"].get(f"{namespace}/{name}")
        if spec is None and claim is None:
            continue
        spec = claim["spec"] if claim else spec
        if bound := spec.get("volumeName"):
            volume_spec = scene.by_kind["PersistentVolume"][bound]["spec"]
            terms = ((volume_spec.get("nodeAffinity") or {}).get("required") or {}).get(
                "nodeSelectorTerms", []
            )
            yield bound, (volume_spec.get("csi") or {}).get("driver", ""), terms
        elif made_by := scene.by_kind["StorageClass"].get(spec.get("storageClassName", "")):
            terms = [
                {"matchExpressions": [{**e, "operator": "In"} for e in t["matchLabelExpressions"]]}
                for t in made_by.get("allowedTopologies") or []
            ]
            yield f"{namespace}/{name}", made_by.get("provisioner", ""), terms


def misfits(scene: Scene, host: Host, pod: Json) -> Iterator[str]:
    """What concerns the pod and the host alone, room aside."""
    spec = pod["spec"]
    if not node_admits(spec, host.labels, host.name):
        yield "node selector or affinity"
    if not tolerated(spec, host.taints):
        yield "taint not tolerated"
    for port in host_ports(spec):
        if any(ports_clash(port, taken) for taken in host.ports):
            yield f"host port {port}"
    for _, _, terms in volumes_of(scene, pod):
        if terms and not terms_hold(terms, host.labels, host.name):
            yield "volume out of reach"


def settle(scene: Scene, host: Host, pod: Json, errors: list[str]) -> None:
    errors += [f"{key_of(pod)} on {host.name}: {misfit}" for misfit in misfits(scene, host, pod)]
    host.ports += host_ports(pod["spec"])
    host.room.subtract(pod_requests(pod["spec"]))
    host.pods.append(pod)


def overfull(scene: Scene, host: Host) -> Iterator[str]:
    over = {name: -value for name, value in host.room.items() if value < 0}
    if over:
        yield f"{host.name}: over by {over}"
    attached: dict[str, set[str]] = defaultdict(set)
    for pod in host.pods:
        for identity, driver, _ in volumes_of(scene, pod):
            attached[driver].add(identity)
    for driver, limit in host.attach_limits.items():
        if len(attached[driver]) > limit:
            yield f"{host.name}: {len(attached[driver])} volumes of {driver}, limit {limit}"

"""What Kubernetes says of one pod and one node: requests, selectors, taints, host ports. On plain dicts.

Written from the Kubernetes API reference with none of the project's code, so that the judge of plans that is built
on it shares no mistake with the planner. Slow and plain on purpose. Neighbours: `judge` (hosts, limits, cost) and
`judge_topology` (what depends on other pods).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from decimal import Decimal
from math import ceil
from typing import Any

Json = dict[str, Any]

ZONE = "topology.kubernetes.io/zone"
ZONE_ID = "topology.k8s.aws/zone-id"
HOST = "kubernetes.io/hostname"
CAPACITY_TYPE = "karpenter.sh/capacity-type"
INSTANCE_TYPE = "node.kubernetes.io/instance-type"
NODEPOOL = "karpenter.sh/nodepool"
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
BLOCKING = ("NoSchedule", "NoExecute")
UNITS: dict[str, Decimal | int] = {
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60,
    "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15, "E": 10**18, "m": Decimal("0.001"),
}  # fmt: skip


def amount(resource: str, text: object) -> int:
    """Millicores for cpu, whole units rounded up for the rest."""
    string = str(text)
    scale: Decimal | int = 1
    for suffix, unit in UNITS.items():
        if string.endswith(suffix):
            string, scale = string[: -len(suffix)], unit
            break
    value = Decimal(string) * scale * (1000 if resource == "cpu" else 1)
    return ceil(value)


def amounts(quantities: Json | None) -> Counter[str]:
    return Counter({name: amount(name, text) for name, text in (quantities or {}).items()})


def container_requests(container: Json) -> Counter[str]:
    """Requests; a limit without a request counts as one, as the API server's defaulting makes it."""
    resources = container.get("resources") or {}
    return amounts({**(resources.get("limits") or {}), **(resources.get("requests") or {})})


def pod_requests(spec: Json) -> Counter[str]:
    """Kubernetes' rule for what a pod asks for."""
    running: Counter[str] = Counter()
    for container in spec["containers"]:
        running.update(container_requests(container))
    sidecars: Counter[str] = Counter()
    peak: Counter[str] = Counter()
    for container in spec.get("initContainers") or []:
        if container.get("restartPolicy") == "Always":
            sidecars.update(container_requests(container))
            peak |= sidecars
        else:
            peak |= container_requests(container) + sidecars
    running.update(sidecars)
    out = running | peak
    for name, value in container_requests(spec).items():
        out[name] = value
    out.update(amounts(spec.get("overhead")))
    out["pods"] = 1
    return out


def expression_holds(expression: Json, labels: dict[str, str]) -> bool:
    key, operator, values = expression["key"], expression["operator"], expression.get("values") or []
    present = key in labels
    if operator == "In":
        return present and labels[key] in values
    if operator == "NotIn":
        return not present or labels[key] not in values
    if operator in ("Exists", "DoesNotExist"):
        return bool(present == (operator == "Exists"))
    if not present:
        return False
    try:
        have, want = int(labels[key]), int(values[0])
    except ValueError:
        return False
    return bool({"Gt": have > want, "Lt": have < want, "Gte": have >= want, "Lte": have <= want}[operator])


def selector_matches(selector: Json | None, labels: dict[str, str]) -> bool:
    """None selects nothing, {} everything."""
    if selector is None:
        return False
    return all(labels.get(k) == v for k, v in (selector.get("matchLabels") or {}).items()) and all(
        expression_holds(e, labels) for e in selector.get("matchExpressions") or []
    )


def terms_hold(terms: Iterable[Json], labels: dict[str, str], name: str = "") -> bool:
    """Node selector terms are ORed; one without any expression selects nothing. `name`: the node's, for matchFields."""
    fields = {"metadata.name": name}
    return any(
        (t.get("matchExpressions") or t.get("matchFields"))
        and all(expression_holds(e, labels) for e in t.get("matchExpressions") or [])
        and all(expression_holds(e, fields) for e in t.get("matchFields") or [])
        for t in terms
    )


def node_admits(spec: Json, labels: dict[str, str], name: str = "") -> bool:
    """Node selector and required node affinity."""
    if any(labels.get(k) != v for k, v in (spec.get("nodeSelector") or {}).items()):
        return False
    required = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(REQUIRED)
    return not required or terms_hold(required["nodeSelectorTerms"], labels, name)


def tolerated(spec: Json, taints: Iterable[Json], effects: tuple[str, ...] = BLOCKING) -> bool:
    def by(toleration: Json, taint: Json) -> bool:
        if toleration.get("effect") not in (None, "", taint["effect"]):
            return False
        if toleration.get("key") and toleration["key"] != taint["key"]:
            return False
        if toleration.get("operator", "Equal") == "Exists":
            return True
        return bool(toleration.get("key")) and toleration.get("value", "") == taint.get("value", "")

    return all(
        any(by(toleration, taint) for toleration in spec.get("tolerations") or [])
        for taint in taints
        if taint["effect"] in effects
    )


def host_ports(spec: Json) -> Iterator[tuple[str, str, int]]:
    """(ip, protocol, port) of every host port that is held while the pod runs."""
    sidecars = [c for c in spec.get("initContainers") or [] if c.get("restartPolicy") == "Always"]
    for container in [*spec["containers"], *sidecars]:
        for port in container.get("ports") or []:
            if port.get("hostPort"):
                yield port.get("hostIP") or "0.0.0.0", port.get("protocol", "TCP"), port["hostPort"]


def ports_clash(first: tuple[str, str, int], second: tuple[str, str, int]) -> bool:
    same_ip = first[0] == second[0] or "0.0.0.0" in (first[0], second[0])
    return same_ip and first[1:] == second[1:]


def keyed_selector(term: Json, labels: dict[str, str]) -> Json | None:
    """The selector with matchLabelKeys and mismatchLabelKeys folded in from the pod's own labels."""
    selector: Json | None = term.get("labelSelector")
    if selector is None:
        return None
    extra = [
        {"key": key, "operator": operator, "values": [labels[key]]}
        for field, operator in (("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn"))
        for key in term.get(field) or []
        if key in labels
    ]
    return {**selector, "matchExpressions": [*(selector.get("matchExpressions") or []), *extra]}


def key_of(item: Json) -> str:
    """namespace/name, or the name alone."""
    meta = item["metadata"]
    return f"{meta['namespace']}/{meta['name']}" if "namespace" in meta else str(meta["name"])


def labels_of(item: Json) -> dict[str, str]:
    return item["metadata"].get("labels") or {}


def finished(pod: Json) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")

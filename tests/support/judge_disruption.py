"""What the judge of consolidations allows to be taken away: protections of nodes and pods, budgets of pools and pods.

From manifests alone, with none of the project's code. Budgets without a schedule are held against the nodes of their
pool that stand when a step begins; those that are not ready or on their way out count as disrupted. Sources: Karpenter
documentation, "Disruption" (budgets, do-not-disrupt, policies); Kubernetes documentation, "Specifying a Disruption Budget".
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil

from tests.support.judge_hosts import Scene
from tests.support.kube_rules import Json, finished, key_of, labels_of, selector_matches

DO_NOT_DISRUPT = "karpenter.sh/do-not-disrupt"
DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
PodsOn = dict[str, list[Json]]


class Protections:
    """What the objects forbid. Pods of a step are those on a node when the step begins."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.pools = scene.by_kind["NodePool"]

    def broken(
        self, step: Json, remove: set[str], pods_on: PodsOn, nodes_of: dict[str, set[str]]
    ) -> Iterator[str]:
        """What the step breaks."""
        for name in sorted(remove):
            pool = next(p for p, nodes in nodes_of.items() if name in nodes)
            yield from self._node(name, pool, pods_on.get(name, []))
        for pool, nodes in nodes_of.items():
            gone = remove & nodes
            if gone and pool in self.pools:
                yield from self._budgets(step, pool, gone, nodes, pods_on)
        yield from self._pod_budgets(remove, pods_on)

    # --- one node ------------------------------------------------------------------------------------------------------
    def _node(self, name: str, pool: str, pods: list[Json]) -> Iterator[str]:
        node = self.scene.by_kind["Node"].get(name)
        annotations = (node["metadata"].get("annotations") or {}) if node else {}
        if annotations.get(DO_NOT_DISRUPT) == "true":
            yield f"{name} asks not to be disrupted"
        if pool not in self.pools:
            yield f"{name} belongs to no pool"
            return
        spec = self.pools[pool]["spec"]
        wanted = spec.get("disruption") or {}
        costs = sum(max(0.0, _eviction_cost(p)) for p in pods if not _leaving(p))
        if wanted.get("consolidateAfter") == "Never":
            yield f"{name}: its pool never consolidates"
        if wanted.get("consolidationPolicy") == "WhenEmpty" and costs > 0:
            yield f"{name} is not empty, as its pool asks"
        if spec.get("replicas") is not None:
            yield f"{name}: its pool is static"
        for pod in pods:
            told = (pod["metadata"].get("annotations") or {}).get(DO_NOT_DISRUPT)
            if told == "true" and not _leaving(pod):
                yield f"{key_of(pod)} asks not to be disrupted"

    def _budgets(
        self, step: Json, pool: str, gone: set[str], nodes: set[str], pods_on: PodsOn
    ) -> Iterator[str]:
        disruption = self.pools[pool]["spec"].get("disruption") or {}
        busy = {n for n in nodes if self._busy(n)}
        for budget in disruption.get("budgets", [{"nodes": "10%"}]):
            if "schedule" in budget:
                continue
            for reason in budget.get("reasons") or ["Underutilized", "Empty"]:
                mine = {n for n in gone if ("Underutilized" if pods_on.get(n) else "Empty") == reason}
                mine = gone if reason == step["reason"] and "reasons" not in budget else mine
                text = str(budget.get("nodes", "10%"))
                most = ceil(len(nodes) * int(text[:-1]) / 100) if text.endswith("%") else int(text)
                if len(mine) > max(0, most - len(busy)):
                    yield f"budget {text} of {pool}: {len(mine)} of {len(nodes)} go, {len(busy)} are gone"

    def _busy(self, name: str) -> bool:
        node = self.scene.by_kind["Node"].get(name)
        if node is None:
            return False
        conditions = {c["type"]: c["status"] for c in node["status"].get("conditions") or []}
        return conditions.get("Ready", "True") != "True" or bool(node["metadata"].get("deletionTimestamp"))

    # --- budgets of pods -----------------------------------------------------------------------------------------------
    def _pod_budgets(self, remove: set[str], pods_on: PodsOn) -> Iterator[str]:
        evicted = [p for name in remove for p in pods_on.get(name, []) if not _leaving(p)]
        for pod in evicted:
            mine = [b for b in self.scene.by_kind["PodDisruptionBudget"].values() if _covers(b, pod)]
            if len(mine) > 1:
                yield f"{key_of(pod)} is covered by several budgets, so that nothing evicts it"
        for key, pdb in self.scene.by_kind["PodDisruptionBudget"].items():
            mine = [p for p in evicted if _covers(pdb, p)]
            allowed = self._allowed(pdb)
            if mine and (allowed == 0 or (len(remove) > 1 and len(mine) > allowed)):
                yield f"budget {key} allows {allowed} evictions, {len(mine)} are made"

    def _allowed(self, pdb: Json) -> int:
        told = (pdb.get("status") or {}).get("disruptionsAllowed")
        if told is not None:
            return int(told)
        pods = [p for p in self.scene.by_kind["Pod"].values() if _covers(pdb, p) and not finished(p)]
        healthy = sum(bool(p["spec"].get("nodeName")) and not _leaving(p) for p in pods)
        spec = pdb["spec"]
        if spec.get("maxUnavailable") is not None:
            desired = len(pods) - _share(spec["maxUnavailable"], len(pods))
        else:
            desired = _share(spec.get("minAvailable", 0), len(pods))
        return max(0, healthy - max(0, desired))


def _covers(pdb: Json, pod: Json) -> bool:
    same = pdb["metadata"]["namespace"] == pod["metadata"]["namespace"]
    return same and selector_matches(pdb["spec"].get("selector"), labels_of(pod))


def _share(value: object, of: int) -> int:
    text = str(value)
    return ceil(of * int(text[:-1]) / 100) if text.endswith("%") else int(text)


def _leaving(pod: Json) -> bool:
    return bool(pod["metadata"].get("deletionTimestamp"))


def _eviction_cost(pod: Json) -> float:
    annotations = pod["metadata"].get("annotations") or {}
    cost = 1 + int(annotations.get(DELETION_COST, "0")) / 2**27 + pod["spec"].get("priority", 0) / 2**25
    return float(max(-10.0, min(10.0, cost)))

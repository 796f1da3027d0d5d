"""An independent judge of plans: re-derives every hard constraint from manifests, with none of the project's code.

`judge(objects, catalogue, plan)` takes Kubernetes objects as dicts, the catalogue as {name: entry} of the JSON Lines
format and a plan as `nodeyard plan --output json` prints it, and returns what the plan breaks, as sentences. An empty
list means that kube-scheduler would accept every placement, and that spread counts the domains of nodes that could
still be made, as Karpenter does. `overlooked` names pods left out that a node could take.
It is slow and plain on purpose: it is the oracle. Neighbours: `kube_rules` (one pod, one node), `judge_hosts` (what
stands and what would), `judge_topology` (other pods), `judge_market` (limits, alternatives, cost).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from copy import deepcopy

from tests.support.judge_hosts import (
    Catalogue,
    Host,
    Scene,
    existing_hosts,
    misfits,
    new_host,
    overfull,
    possible_hosts,
    settle,
    site_of,
)
from tests.support.judge_market import (
    alternative_errors,
    cost_errors,
    limit_errors,
    reason_errors,
    taken_at,
    weight_errors,
)
from tests.support.judge_topology import Replay
from tests.support.kube_rules import Json, labels_of

__all__ = ["Catalogue", "judge", "overlooked", "taken_at"]


class Trial:
    """A plan put onto its hosts; `errors` is what it breaks."""

    def __init__(self, objects: Iterable[Json], catalogue: Catalogue, plan: Json) -> None:
        self.scene, self.catalogue, self.plan = Scene.of(objects), catalogue, plan
        self.pods = self.scene.plannable()
        self.errors: list[str] = []
        self.hosts = existing_hosts(self.scene, catalogue)
        before = [(pod, host.name) for host in self.hosts.values() for pod in host.pods]
        moves = self._moves()
        for pod, name in moves:
            settle(self.scene, self.hosts[name], pod, self.errors)
        for host in self.hosts.values():
            if any(name == host.name for _, name in moves):
                self.errors += overfull(self.scene, host)
        self._each_once()
        self.replay = Replay(
            map(site_of, [*self.hosts.values(), *possible_hosts(self.scene, catalogue)]),
            self.scene.namespaces,
        )
        for pod, name in before:
            self.replay.settle(pod, name)
        self.errors += self.replay.run(moves)

    def _moves(self) -> list[tuple[Json, str]]:
        """(pod, host name) in the plan's order; new hosts are made on the way."""
        out: list[tuple[Json, str]] = []
        for entry in self.plan["existing"]:
            if entry["node"] in self.hosts:
                out += [(self.pods[p], entry["node"]) for p in entry["pods"] if p in self.pods]
            else:
                self.errors.append(f"no such node {entry['node']}")
        for node in self.plan["nodes"]:
            made = new_host(self.scene, self.catalogue, node, self.errors)
            if made is not None:
                if made.name in self.hosts:
                    self.errors.append(f"{made.name}: two nodes of that name")
                self.hosts[made.name] = made
                out += [(self.pods[p], made.name) for p in node["pods"] if p in self.pods]
        return out

    def _each_once(self) -> None:
        seen: Counter[str] = Counter(u["pod"] for u in self.plan["unschedulable"])
        for entry in [*self.plan["existing"], *self.plan["nodes"]]:
            seen.update(entry["pods"])
        self.errors += [
            f"{name} appears {seen[name]} times"
            for name in sorted(self.pods.keys() | seen.keys())
            if seen[name] != (name in self.pods)
        ]

    def takes(self, host: Host, pod: Json) -> bool:
        """Whether the host could take the pod on top of everything that the plan puts anywhere."""
        tried = deepcopy(host)
        if any(misfits(self.scene, tried, pod)):
            return False
        settle(self.scene, tried, pod, [])
        if any(overfull(self.scene, tried)):
            return False
        new = host.name not in self.replay.sites
        if new:
            self.replay.sites[host.name] = site_of(host)
        try:
            return not self.replay.refusal(pod, host.name)
        finally:
            if new:
                del self.replay.sites[host.name]


def judge(objects: list[Json], catalogue: Catalogue, plan: Json, *, weights: bool = True) -> list[str]:
    """What the plan breaks; empty if nothing. `weights` False: don't ask that heavier pools go first."""
    trial = Trial(objects, catalogue, plan)
    scene = trial.scene.by_kind
    errors = trial.errors + limit_errors(scene, catalogue, plan) + alternative_errors(scene, catalogue, plan)
    if weights:

        def holds(node: Json, pods: list[str]) -> bool:
            host = new_host(trial.scene, catalogue, node, [])
            if host is None:
                return False
            broken: list[str] = []
            for pod in pods:
                settle(trial.scene, host, trial.pods[pod], broken)
            return not broken and not any(overfull(trial.scene, host))

        errors += weight_errors(scene, catalogue, plan, holds)
    return errors + cost_errors(plan) + reason_errors(plan)


def overlooked(objects: list[Json], catalogue: Catalogue, plan: Json) -> list[str]:
    """Pods left out, one of each kind, that a node of the plan, or one more new node, could take after all."""
    trial = Trial(objects, catalogue, plan)
    out, known = [], set()
    for left in plan["unschedulable"]:
        pod = trial.pods[left["pod"]]
        kind = repr((pod["spec"], labels_of(pod)))
        if kind in known or left["reason"] in ("Unsupported", "InvalidPod", "VolumeClaimInvalid"):
            continue
        known.add(kind)
        for host in [*trial.hosts.values(), *_possible(trial)]:
            if trial.takes(host, pod):
                out.append(f"{left['pod']} ({left['reason']}) fits {host.name}")
                break
    return out


def _possible(trial: Trial) -> Iterator[Host]:
    """Every node that could be made on top of the plan within the limits."""
    scene = trial.scene.by_kind
    for pool in scene["NodePool"].values():
        if any(r.get("minValues") for r in pool["spec"]["template"]["spec"].get("requirements") or []):
            continue
        for entry in trial.catalogue.values():
            for offer in entry["offerings"]:
                node = {
                    "name": f"more/{pool['metadata']['name']}/{entry['name']}/{offer['zone']}/{offer['capacityType']}",
                    "nodePool": pool["metadata"]["name"],
                    "instanceType": entry["name"],
                    "zone": offer["zone"],
                    "capacityType": offer["capacityType"],
                    "pricePerHour": offer["price"],
                    "pods": [],
                }  # fmt: skip
                errors: list[str] = []
                host = new_host(trial.scene, trial.catalogue, node, errors)
                with_it = {**trial.plan, "nodes": [*trial.plan["nodes"], node]}
                if host is not None and not errors and not limit_errors(scene, trial.catalogue, with_it):
                    yield host

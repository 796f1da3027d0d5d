"""An independent judge of played consolidations: replays every step on manifests, with none of the project's code.

`judge_consolidation(objects, catalogue, report)` takes the Kubernetes objects that were given, the catalogue as {name:
entry} of the JSON Lines form and what `nodeyard simulate consolidate --output json` printed, and returns what is wrong
with it, as sentences. Each step is replayed as the cluster would live through it: new nodes join, nodes that go leave
with their pods, and kube-scheduler's filters are asked whether each pod may come to where the report sends it. Spread
counts the domains of nodes that stand, as kube-scheduler does, and where the cluster begins in keeping with it also those
of nodes that could be made, as Karpenter does.
Neighbours: `judge` for plans, whose hosts and filters are used; `judge_disruption` for what may be taken away, and when.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from tests.support.judge_disruption import Protections
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
from tests.support.judge_market import limit_errors
from tests.support.judge_topology import Replay
from tests.support.kube_rules import (
    CAPACITY_TYPE,
    INSTANCE_TYPE,
    NODEPOOL,
    ZONE,
    Json,
    finished,
    key_of,
    labels_of,
)

CENT = 1e-6
CHARGE = 0.01


def judge_consolidation(objects: list[Json], catalogue: Catalogue, report: Json) -> list[str]:
    """What is wrong with the report; empty if nothing."""
    trial = _Trial(objects, catalogue)
    trial.money("before", report["before"])
    for number, step in enumerate(report["steps"], 1):
        trial.take(f"step {number}", step)
    trial.end(report)
    return trial.errors


class _Trial:
    """The cluster as it stands after the steps taken so far."""

    def __init__(self, objects: list[Json], catalogue: Catalogue) -> None:
        self.scene, self.catalogue = Scene.of(objects), catalogue
        self.errors: list[str] = []
        self.protections = Protections(self.scene)
        self.at: dict[str, str] = {}
        """Pod -> the node it is on; daemons and finished pods are not looked at."""
        for key, pod in self.scene.by_kind["Pod"].items():
            if pod["spec"].get("nodeName") and not finished(pod) and not _stays_with_its_node(pod):
                self.at[key] = pod["spec"]["nodeName"]
        self.made: dict[str, Json] = {}
        self.standing = set(self.scene.by_kind["Node"])
        self.before = self.cost
        self.unplaced = set(self.scene.plannable())
        self.possible = possible_hosts(self.scene, catalogue)
        self.even = self._begins_even()

    # --- money ---------------------------------------------------------------------------------------------------------
    def price(self, name: str) -> float:
        """Of one node, USD per hour; what is not in the catalogue is taken for free."""
        if name in self.made:
            return float(self.made[name]["pricePerHour"])
        labels = labels_of(self.scene.by_kind["Node"][name])
        wanted = labels.get(ZONE), labels.get(CAPACITY_TYPE)
        entry = self.catalogue.get(labels.get(INSTANCE_TYPE, ""), {"offerings": []})
        found = (o["price"] for o in entry["offerings"] if (o["zone"], o["capacityType"]) == wanted)
        return float(next(found, 0.0))

    @property
    def rent(self) -> float:
        return sum(map(self.price, self.standing))

    @property
    def cost(self) -> float:
        return self.rent + CHARGE * len(self.standing)

    def money(self, when: str, told: Json) -> None:
        for field, amount in (("pricePerHour", self.rent), ("objectivePerHour", self.cost)):
            if abs(told[field] - amount) > CENT:
                self.errors.append(f"{when}: {field} {told[field]} is {amount}")

    # --- a step --------------------------------------------------------------------------------------------------------
    def take(self, name: str, step: Json) -> None:
        cost, remove = self.cost, set(step["remove"])
        if len(remove) < len(step["remove"]) or remove & set(step["add"]):
            self.errors.append(f"{name}: nodes named twice")
        if strangers := remove - self.standing:
            self.errors.append(f"{name}: removes {sorted(strangers)}, not there")
        remove &= self.standing
        self._launch(name, step)
        evicted = {pod for pod, node in self.at.items() if node in remove}
        self.errors += [
            f"{name}: {e}" for e in self.protections.broken(step, remove, self._pods_on(), self._nodes_of())
        ]
        self.standing |= set(self.made) & set(step["add"])
        self._limits(name, step)
        self._move(name, step, remove, evicted)
        self.standing -= remove
        if abs(step["savesPerHour"] - (cost - self.cost)) > CENT:
            self.errors.append(f"{name}: savesPerHour {step['savesPerHour']} is {cost - self.cost}")
        if step["evictions"] != len(evicted):
            self.errors.append(f"{name}: {step['evictions']} evictions are {len(evicted)}")
        if not step["reason"]:
            self.errors.append(f"{name}: no reason")

    def _launch(self, name: str, step: Json) -> None:
        if sorted(step["add"]) != sorted(n["name"] for n in step["launch"]):
            self.errors.append(f"{name}: adds {step['add']}, describes {[n['name'] for n in step['launch']]}")
        for node in step["launch"]:
            if node["name"] in self.made or node["name"] in self.scene.by_kind["Node"]:
                self.errors.append(f"{name}: {node['name']} was there before")
            if new_host(self.scene, self.catalogue, node, self.errors) is not None:
                self.made[node["name"]] = node

    def _pods_on(self) -> dict[str, list[Json]]:
        out: dict[str, list[Json]] = defaultdict(list)
        for pod, node in self.at.items():
            out[node].append(self.scene.by_kind["Pod"][pod])
        return out

    def _nodes_of(self) -> dict[str, set[str]]:
        """Pool -> its nodes that stand."""
        out: dict[str, set[str]] = defaultdict(set)
        for node in self.standing:
            made = self.made.get(node)
            out[made["nodePool"] if made else self._pool_of(node)].add(node)
        return out

    def _pool_of(self, node: str) -> str:
        return labels_of(self.scene.by_kind["Node"][node]).get(NODEPOOL, "")

    def _limits(self, name: str, step: Json) -> None:
        """Pools' limits with new nodes beside old ones."""
        nodes = {n: o for n, o in self.scene.by_kind["Node"].items() if n in self.standing}
        made = [
            {**self.made[n], "alternatives": []}
            for n in sorted(self.standing & set(self.made))
            if step["launch"]
        ]
        new = {n["nodePool"] for n in step["launch"]}
        scene = defaultdict(dict, {**self.scene.by_kind, "Node": nodes})
        for error in limit_errors(scene, self.catalogue, {"nodes": made}):
            if any(error.startswith(f"pool {pool}:") for pool in new):
                self.errors.append(f"{name}: {error}")

    def _move(self, name: str, step: Json, remove: set[str], evicted: set[str]) -> None:
        moves = {}
        for move in step["moves"]:
            pod, source, to = move["pod"], move["from"], move["to"]
            if pod in moves or pod not in evicted | self.unplaced:
                self.errors.append(f"{name}: moves {pod}, which it does not evict, or twice")
            if source != self.at.get(pod, ""):
                self.errors.append(f"{name}: {pod} is on {self.at.get(pod)}, not on {source}")
            if to not in self.standing - remove:
                self.errors.append(f"{name}: {pod} goes to {to}, not there")
                continue
            moves[pod] = to
        leaving = {p for p in evicted if _comes_back(self.scene.by_kind["Pod"][p])}
        if lost := leaving - moves.keys():
            self.errors.append(f"{name}: no place for {sorted(lost)}")
        for pod in evicted:
            del self.at[pod]
        self._settle(name, remove, moves)
        self.at |= moves
        self.unplaced -= moves.keys()

    def _settle(self, name: str, remove: set[str], moves: dict[str, str]) -> None:
        """kube-scheduler's filters, once the nodes that go have gone."""
        hosts = self._hosts(self.standing - remove)
        pods = self.scene.by_kind["Pod"]
        for pod, node in self.at.items():
            settle(self.scene, hosts[node], pods[pod], [])
        for pod, node in moves.items():
            self.errors += [
                f"{name}: {pod} on {node}: {e}" for e in misfits(self.scene, hosts[node], pods[pod])
            ]
            settle(self.scene, hosts[node], pods[pod], [])
        for node in sorted(set(moves.values())):
            self.errors += [f"{name}: {e}" for e in overfull(self.scene, hosts[node])]
        for more in [[], self.possible] if self.even else [[]]:
            replay = Replay(map(site_of, [*hosts.values(), *more]), self.scene.namespaces)
            for pod, node in self.at.items():
                replay.settle(pods[pod], node)
            self.errors += [f"{name}: {e}" for e in replay.run([(pods[p], n) for p, n in moves.items()])]

    def _begins_even(self) -> bool:
        """Whether the pods stand as the filters want them even where spread counts domains that have no node yet."""
        hosts = self._hosts(self.standing)
        replay = Replay(map(site_of, [*hosts.values(), *self.possible]), self.scene.namespaces)
        return not replay.run([(self.scene.by_kind["Pod"][pod], node) for pod, node in self.at.items()])

    def _hosts(self, names: set[str]) -> dict[str, Host]:
        """Nodes that stand, with their daemons and nothing else."""
        out = {}
        kept = existing_hosts(_without_movable(self.scene), self.catalogue)
        for name in names:
            if name in self.made:
                host = new_host(self.scene, self.catalogue, self.made[name], [])
                assert host is not None
                out[name] = host
            else:
                out[name] = kept[name]
        return out

    # --- the end -------------------------------------------------------------------------------------------------------
    def end(self, report: Json) -> None:
        after = report["after"]
        self.money("after", after)
        named = {n["name"]: n for n in after["nodes"]}
        if named.keys() != self.standing or len(named) < len(after["nodes"]):
            self.errors.append(f"the end has {sorted(named)}, the steps lead to {sorted(self.standing)}")
        pods_on = self._pods_on()
        for name, node in named.items():
            if node["existing"] != (name in self.scene.by_kind["Node"]):
                self.errors.append(f"{name}: existing is {node['existing']}")
            if sorted(node["pods"]) != sorted(map(key_of, pods_on[name])):
                self.errors.append(f"{name}: has {node['pods']}, the steps put {pods_on[name]} there")
            if abs(node["pricePerHour"] - self.price(name)) > CENT:
                self.errors.append(f"{name}: pricePerHour {node['pricePerHour']} is {self.price(name)}")
        self.errors += self._said(report, named)
        left = {u["pod"] for u in report["unschedulable"]}
        if left != self.unplaced:
            self.errors.append(f"without a place {sorted(self.unplaced)}, said are {sorted(left)}")

    def _said(self, report: Json, named: dict[str, Json]) -> Iterator[str]:
        after = report["after"]["objectivePerHour"]
        if report["lowerBound"] > after + CENT:
            yield f"lowerBound {report['lowerBound']} is above {after}"
        if after > self.before + CENT and not self.scene.plannable():
            yield f"ends at {after}, dearer than {self.before}"
        saved = sum(step["savesPerHour"] for step in report["steps"])
        if abs(self.before - after - saved) > CENT:
            yield f"steps save {saved}, the whole {self.before - after}"
        reasons = {k["node"]: k["reason"] for k in report["kept"]}
        stays = {n for n in named if n in self.scene.by_kind["Node"]}
        if reasons.keys() != stays or not all(reasons.values()):
            yield f"kept are {sorted(stays)}, reasons are for {sorted(n for n, r in reasons.items() if r)}"


def _stays_with_its_node(pod: Json) -> bool:
    return any(o["kind"] in ("DaemonSet", "Node") for o in pod["metadata"].get("ownerReferences") or [])


def _comes_back(pod: Json) -> bool:
    """Whether the pod is made anew elsewhere; one on its way out is only where a StatefulSet waits for that."""
    owners = {o["kind"] for o in pod["metadata"].get("ownerReferences") or []}
    return not pod["metadata"].get("deletionTimestamp") or "StatefulSet" in owners


def _without_movable(scene: Scene) -> Scene:
    pods = {k: p for k, p in scene.by_kind["Pod"].items() if _stays_with_its_node(p)}
    return Scene(defaultdict(dict, {**scene.by_kind, "Pod": pods}))

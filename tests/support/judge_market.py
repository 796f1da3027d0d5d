"""The part of the judge that is about money and choice: limits, weights, alternatives, cost, reasons.

On the plan's JSON and the manifests alone. The limits are held against the largest of each node's choices, since any
combination of choices must be a valid plan. Neighbour: `judge`, which asks.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator

from tests.support.kube_rules import (
    CAPACITY_TYPE,
    INSTANCE_TYPE,
    NODEPOOL,
    ZONE,
    Json,
    amount,
    amounts,
    expression_holds,
    labels_of,
)

ByKind = dict[str, dict[str, Json]]
TOLERANCE = 0.10
MOST_ALTERNATIVES = 60
REASONS = {
    "NoPool", "PoolNotReady", "UntoleratedTaints", "IncompatibleRequirements", "InsufficientResources",
    "NoOffering", "LimitsExceeded", "MinValuesUnmet", "TopologyUnsatisfiable", "PodAffinityUnsatisfiable",
    "PodAntiAffinityUnsatisfiable", "HostPortConflict", "VolumeUnreachable", "VolumeClaimInvalid",
    "Unsupported", "InvalidPod", "DeadlineExceeded",
}  # fmt: skip
BY_TYPE = ("kubernetes.io/", "node.kubernetes.io/", "topology.", "karpenter.", "karpenter.k8s.aws")
"""Prefixes of labels that follow from the offering."""


def choices(node: Json) -> list[Json]:
    """The first choice and the alternatives."""
    return [node, *(node.get("alternatives") or [])]


def offering_price(catalogue: dict[str, Json], choice: Json) -> float | None:
    """What the catalogue asks for a choice; None where it is not to be had."""
    wanted = (choice["zone"], choice["capacityType"], True)
    for offer in catalogue.get(choice["instanceType"], {"offerings": []})["offerings"]:
        if (offer["zone"], offer["capacityType"], offer["available"]) == wanted:
            return float(offer["price"])
    return None


def limit_errors(scene: ByKind, catalogue: dict[str, Json], plan: Json) -> list[str]:
    """Pools whose limits could be exceeded, whichever choice each node takes."""
    used = _used(scene)
    for node in plan["nodes"]:
        sizes = [amounts(catalogue[c["instanceType"]]["capacity"]) for c in choices(node)
                 if c["instanceType"] in catalogue]  # fmt: skip
        largest: Counter[str] = Counter()
        for size in sizes:
            largest |= size
        used[node["nodePool"]] += largest + Counter(nodes=1)
    errors = []
    for name, pool in scene["NodePool"].items():
        made = any(n["nodePool"] == name for n in plan["nodes"])
        for resource, limit in (pool["spec"].get("limits") or {}).items():
            if made and used[name][resource] > amount(resource, limit):
                errors.append(f"pool {name}: limit {resource} {limit} exceeded: {used[name][resource]}")
    return errors


def _used(scene: ByKind) -> dict[str, Counter[str]]:
    """What stands of each pool: its nodes, and its claims that have no node yet."""
    used: dict[str, Counter[str]] = defaultdict(Counter)
    for node in scene["Node"].values():
        if pool := labels_of(node).get(NODEPOOL):
            used[pool] += amounts(node["status"]["capacity"]) + Counter(nodes=1)
    providers = {(node.get("spec") or {}).get("providerID") for node in scene["Node"].values()}
    for claim in scene["NodeClaim"].values():
        status, pool = claim.get("status") or {}, labels_of(claim).get(NODEPOOL)
        if pool and (not status.get("providerID") or status["providerID"] not in providers):
            used[pool] += amounts(status.get("capacity")) + Counter(nodes=1)
    return used


def alternative_errors(scene: ByKind, catalogue: dict[str, Json], plan: Json) -> list[str]:
    """Alternatives that are not to be had, too dear, too many, out of order or twice there; minValues not met."""
    return [f"{node['name']}: {e}" for node in plan["nodes"] for e in _choice_errors(scene, catalogue, node)]


def _choice_errors(scene: ByKind, catalogue: dict[str, Json], node: Json) -> Iterator[str]:
    all_of_it = choices(node)
    named = [(c["instanceType"], c["zone"], c["capacityType"]) for c in all_of_it]
    prices = [offering_price(catalogue, c) for c in all_of_it]
    for choice, price in zip(all_of_it[1:], prices[1:], strict=True):
        if price is None or abs(price - choice["pricePerHour"]) > 1e-9:
            yield f"alternative {choice} is not in the catalogue"
    if len(set(named)) < len(named):
        yield "a choice is there twice"
    known = [p for p in prices if p is not None]
    if known[1:] != sorted(known[1:]):
        yield "alternatives are not cheapest first"
    pool = scene["NodePool"].get(node["nodePool"])
    requirements = pool["spec"]["template"]["spec"].get("requirements") or [] if pool else []
    least = [r for r in requirements if r.get("minValues")]
    if not least and len(all_of_it) - 1 > MOST_ALTERNATIVES:
        yield f"{len(all_of_it) - 1} alternatives"
    if not least and known and max(known) > known[0] * (1 + TOLERANCE) + 1e-9:
        yield f"an alternative at {max(known)} beside {known[0]}"
    for requirement in least:
        values = {v for c in all_of_it for v in _values(catalogue, c, requirement["key"])}
        if len(values) < requirement["minValues"] and not node.get("taken"):
            yield f"{len(values)} values of {requirement['key']}, minValues {requirement['minValues']}"


def _values(catalogue: dict[str, Json], choice: Json, key: str) -> list[str]:
    by_offering = {
        INSTANCE_TYPE: choice["instanceType"],
        ZONE: choice["zone"],
        CAPACITY_TYPE: choice["capacityType"],
    }
    if key in by_offering:
        return [by_offering[key]]
    return list((catalogue.get(choice["instanceType"]) or {"requirements": {}})["requirements"].get(key, []))


def weight_errors(
    scene: ByKind, catalogue: dict[str, Json], plan: Json, holds: Callable[[Json, list[str]], bool]
) -> list[str]:
    """Nodes all of whose pods one node of a heavier pool could have held, within that pool's limits."""
    errors = []
    weights = {name: pool["spec"].get("weight") or 0 for name, pool in scene["NodePool"].items()}
    if len(set(weights.values())) < 2:
        return []
    for node in plan["nodes"]:
        heavier = [n for n, w in weights.items() if w > weights.get(node["nodePool"], 0)]
        for pool in heavier:
            wanted = scene["NodePool"][pool]["spec"]["template"]["spec"].get("requirements") or []
            for entry in catalogue.values():
                if found := _instead(scene, catalogue, plan, node, pool, entry, wanted, holds):
                    errors.append(f"{node['name']} of {node['nodePool']}: heavier {pool} could: {found}")
                    break
    return errors


def _instead(
    scene: ByKind, catalogue: dict[str, Json], plan: Json, node: Json, pool: str, entry: Json,
    wanted: list[Json], holds: Callable[[Json, list[str]], bool],
) -> str:  # fmt: skip
    fixed = {k: v[0] for k, v in entry["requirements"].items() if len(v) == 1}
    if any(r["key"] in fixed and not expression_holds(r, fixed) for r in wanted):
        return ""
    for offer in entry["offerings"]:
        where = {
            "instanceType": entry["name"],
            "zone": offer["zone"],
            "capacityType": offer["capacityType"],
            "pricePerHour": offer["price"],
        }
        labels = {**fixed, ZONE: offer["zone"], CAPACITY_TYPE: offer["capacityType"]}
        admitted = all(expression_holds(r, labels) for r in wanted)
        other = {**node, **where, "nodePool": pool, "labels": {}, "alternatives": []}
        others = {**plan, "nodes": [*(n for n in plan["nodes"] if n is not node), other]}
        if not (offer["available"] and admitted and holds(other, node["pods"])):
            continue
        if not limit_errors(scene, catalogue, others):
            return f"{entry['name']} {offer['zone']} {offer['capacityType']}"
    return ""


def cost_errors(plan: Json) -> list[str]:
    """Sums that are not sums, a bound above the objective, a gap that is not one."""
    cost, errors = plan["cost"], []
    rent = sum(n["pricePerHour"] for n in plan["nodes"])
    dearest = sum(max(c["pricePerHour"] for c in choices(n)) for n in plan["nodes"])
    if abs(rent - cost["pricePerHour"]) > 1e-6:
        errors.append(f"pricePerHour {cost['pricePerHour']} is not the nodes' {rent}")
    if abs(cost["pricePerHour"] + cost["nodeChargePerHour"] - cost["objectivePerHour"]) > 1e-6:
        errors.append("objectivePerHour is not rent and charge")
    if "dearestPerHour" in cost and abs(dearest - cost["dearestPerHour"]) > 1e-6:
        errors.append(f"dearestPerHour {cost['dearestPerHour']} is not the choices' {dearest}")
    low, objective = cost["lowerBound"], cost["objectivePerHour"]
    if low is None:
        return errors
    if low > objective + 1e-6:
        errors.append(f"lowerBound {low} above the objective {objective}")
    gap = 0.0 if objective == low == 0 else objective / low - 1 if low else None
    if gap is not None and abs(gap - (cost["gap"] or 0.0)) > 1e-6:
        errors.append(f"gap {cost['gap']} is not {gap}")
    return errors


def reason_errors(plan: Json) -> list[str]:
    """Pods left out without a reason of the documented set, or without a sentence."""
    return [
        f"{left['pod']}: reason {left['reason']!r}, message {left['message']!r}"
        for left in plan["unschedulable"]
        if left["reason"] not in REASONS or not left["message"]
    ]


def taken_at(plan: Json, rng: random.Random) -> Json:
    """The same plan with every node at one of its choices, picked at random; its cost is recomputed. minValues, which
    asks for choices, is not judged any more.
    """
    nodes = []
    for node in plan["nodes"]:
        choice = rng.choice(choices(node))
        custom = {k: v for k, v in (node.get("labels") or {}).items() if not k.startswith(BY_TYPE)}
        made = node if choice is node else {**node, **choice, "labels": custom}
        nodes.append({**made, "alternatives": [], "taken": True})
    rent = sum(n["pricePerHour"] for n in nodes)
    objective = rent + plan["cost"]["nodeChargePerHour"]
    cost = {**plan["cost"], "pricePerHour": rent, "objectivePerHour": objective, "lowerBound": None,
            "dearestPerHour": rent}  # fmt: skip
    return {**plan, "nodes": nodes, "cost": cost}

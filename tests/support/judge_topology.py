"""The part of the judge that depends on other pods: a kube-scheduler's filters, replayed in a plan's order.

All hosts stand from the beginning, as the nodes of a plan do when their pods are bound. Pods are tried in the plan's
order on the host that the plan names; one that is refused is tried again after the others, as the scheduler does,
until nobody moves any more. Whoever is left then is what the plan breaks. Source: kubernetes.io, "Pod Topology Spread
Constraints" and "Assigning Pods to Nodes"; kube-scheduler's InterPodAffinity and PodTopologySpread filters.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tests.support.kube_rules import (
    REQUIRED,
    Json,
    key_of,
    keyed_selector,
    labels_of,
    node_admits,
    selector_matches,
    tolerated,
)


@dataclass
class Site:
    """A host as topology sees it."""

    name: str
    labels: dict[str, str]
    taints: list[Json]


@dataclass
class Group:
    """The pods that all of some selectors (with their namespaces) select, counted per host."""

    parts: list[tuple[frozenset[str], Json | None]]
    on: Counter[str] = field(default_factory=Counter)

    def selects(self, pod: Json) -> bool:
        return all(
            pod["metadata"]["namespace"] in spaces and selector_matches(selector, labels_of(pod))
            for spaces, selector in self.parts
        )


class Replay:
    """Who is where, and who may come where. `namespaces_of(term, own namespace)` resolves a term's namespaces."""

    def __init__(self, sites: Iterable[Site], namespaces_of: Callable[[Json, str], frozenset[str]]) -> None:
        self.sites = {site.name: site for site in sites}
        self._namespaces_of = namespaces_of
        self._groups: dict[str, Group] = {}
        self._keepers: dict[str, tuple[str, Group, Counter[str]]] = {}
        """Anti-affinity terms in force: (topology key, whom they keep off, domain -> carriers)."""
        self._settled: list[tuple[Json, str]] = []

    # --- who is counted ------------------------------------------------------------------------------------------
    def _part(self, term: Json, pod: Json) -> tuple[frozenset[str], Json | None]:
        spaces = self._namespaces_of(term, pod["metadata"]["namespace"])
        return spaces, keyed_selector(term, labels_of(pod))

    def _group(self, terms: list[Json], pod: Json) -> Group:
        parts = [self._part(term, pod) for term in terms]
        signature = json.dumps([[sorted(spaces), selector] for spaces, selector in parts], sort_keys=True)
        if signature not in self._groups:
            group = Group(parts)
            group.on.update(host for other, host in self._settled if group.selects(other))
            self._groups[signature] = group
        return self._groups[signature]

    def _in_domain(self, group: Group, key: str, value: str) -> int:
        return sum(n for host, n in group.on.items() if self.sites[host].labels.get(key) == value)

    # --- moving in -----------------------------------------------------------------------------------------------
    def settle(self, pod: Json, host: str) -> None:
        """Count the pod as being there, whatever the filters say."""
        self._settled.append((pod, host))
        for group in self._groups.values():
            if group.selects(pod):
                group.on[host] += 1
        for term in _terms(pod, "podAntiAffinity"):
            key = term["topologyKey"]
            domain = self.sites[host].labels.get(key)
            if domain is None:
                continue
            parts = [self._part(term, pod)]
            signature = json.dumps([key, sorted(parts[0][0]), parts[0][1]], sort_keys=True)
            self._keepers.setdefault(signature, (key, Group(parts), Counter()))[2][domain] += 1

    def refusal(self, pod: Json, host: str) -> str:
        """Why the pod may not come to the host now; empty if it may."""
        site = self.sites[host]
        return self._kept_off(pod, site) or self._affinity(pod, site) or self._spread(pod, site)

    def run(self, moves: Iterable[tuple[Json, str]]) -> list[str]:
        """Settle (pod, host) in order, with second chances; what could not be settled, as sentences."""
        waiting = list(moves)
        while waiting:
            refused = []
            for pod, host in waiting:
                if self.refusal(pod, host):
                    refused.append((pod, host))
                else:
                    self.settle(pod, host)
            if len(refused) == len(waiting):
                return [f"{key_of(pod)} on {host}: {self.refusal(pod, host)}" for pod, host in refused]
            waiting = refused
        return []

    # --- the filters ---------------------------------------------------------------------------------------------
    def _kept_off(self, pod: Json, site: Site) -> str:
        for key, group, carriers in self._keepers.values():
            if carriers[site.labels.get(key, "")] and group.selects(pod):
                return f"anti-affinity {key} of a pod that is there"
        for term in _terms(pod, "podAntiAffinity"):
            key = term["topologyKey"]
            if key in site.labels and self._in_domain(self._group([term], pod), key, site.labels[key]):
                return f"anti-affinity {key}"
        return ""

    def _affinity(self, pod: Json, site: Site) -> str:
        terms = _terms(pod, "podAffinity")
        if not terms:
            return ""
        group = self._group(terms, pod)
        for term in terms:
            key = term["topologyKey"]
            if key not in site.labels:
                return f"affinity to a domain {key} that the host has not"
            first_of_its_kind = not +group.on and group.selects(pod)
            if not first_of_its_kind and not self._in_domain(group, key, site.labels[key]):
                return f"affinity {key} unmet"
        return ""

    def _spread(self, pod: Json, site: Site) -> str:
        constraints = [
            c
            for c in pod["spec"].get("topologySpreadConstraints") or []
            if c["whenUnsatisfiable"] == "DoNotSchedule"
        ]
        keys = [c["topologyKey"] for c in constraints]
        for constraint in constraints:
            key = constraint["topologyKey"]
            if key not in site.labels:
                return f"spread over {key}, which the host has not"
            own_namespace = {**constraint, "namespaces": [pod["metadata"]["namespace"]]}
            group = self._group([own_namespace], pod)
            counts: Counter[str] = Counter()
            domains: set[str] = set()
            for other in self.sites.values():
                if all(k in other.labels for k in keys) and _counted(pod, constraint, other):
                    domains.add(other.labels[key])
                    counts[other.labels[key]] += group.on[other.name]
            low = min((counts[d] for d in domains), default=0)
            if len(domains) < (constraint.get("minDomains") or 1):
                low = 0
            after = counts[site.labels[key]] + group.selects(pod)
            if after - low > constraint["maxSkew"]:
                return (
                    f"spread {key}: {after} in {site.labels[key]}, least {low}, skew {constraint['maxSkew']}"
                )
        return ""


def _terms(pod: Json, kind: str) -> list[Json]:
    return ((pod["spec"].get("affinity") or {}).get(kind) or {}).get(REQUIRED) or []


def _counted(pod: Json, constraint: Json, site: Site) -> bool:
    """Whether the constraint looks at this host, by its node inclusion policies."""
    spec = pod["spec"]
    if constraint.get("nodeAffinityPolicy", "Honor") == "Honor" and not node_admits(
        spec, site.labels, site.name
    ):
        return False
    return constraint.get("nodeTaintsPolicy", "Ignore") != "Honor" or tolerated(spec, site.taints)

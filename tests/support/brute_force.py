"""The cheapest plan of a small problem by trying every plan there is, with the judge's rules and no cleverness.

Pods are shared out over the nodes that stand and new ones in every possible way, and the new ones are bought at every
offering that holds their pods. Good for five pods and a handful of offerings. Limits, minValues and weights are left
out. Neighbour: `judge_hosts`, whose rules decide what holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.support.judge_hosts import (
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
from tests.support.judge_topology import Replay
from tests.support.kube_rules import Json
from tests.support.problems import PlanningProblem

Share = tuple[tuple[str, ...], ...]


@dataclass
class Search:
    """One search. `best`: the least objective of a plan that places every pod; infinite while none is known."""

    given: PlanningProblem
    node_charge: float
    best: float = float("inf")
    _offers: dict[tuple[str, ...], list[tuple[float, Json]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.scene = Scene.of(self.given.objects)
        self.pods = self.scene.plannable()
        self.standing = existing_hosts(self.scene, self.given.market)
        self.possible = possible_hosts(self.scene, self.given.market)

    def run(self) -> float:
        """The least objective."""
        names = list(self.pods)
        for share in _shares(names, len(self.standing)):
            old, new = share[: len(self.standing)], share[len(self.standing) :]
            offers = [self._offers_for(block) for block in new]
            if all(offers) and sum(o[0][0] for o in offers) < self.best - 1e-9 and self._hold(old):
                self._buy(old, new, offers, [], 0.0)
        return self.best

    def _hold(self, old: Share) -> bool:
        return all(
            self._fits(host, block) for host, block in zip(self.standing.values(), old, strict=True) if block
        )

    def _fits(self, host: Host, block: tuple[str, ...]) -> bool:
        tried = Host(
            host.name, host.labels, host.taints, host.room.copy(), list(host.pods), list(host.ports),
            dict(host.attach_limits),
        )  # fmt: skip
        for name in block:
            if any(misfits(self.scene, tried, self.pods[name])):
                return False
            settle(self.scene, tried, self.pods[name], [])
        return not any(overfull(self.scene, tried))

    def _offers_for(self, block: tuple[str, ...]) -> list[tuple[float, Json]]:
        """Ways to buy a node that holds these pods, the cheapest of each zone and capacity type, cheapest first."""
        if block not in self._offers:
            cheapest: dict[tuple[str, str, str], tuple[float, Json]] = {}
            for node in self._nodes():
                errors: list[str] = []
                host = new_host(self.scene, self.given.market, node, errors)
                where = (node["nodePool"], node["zone"], node["capacityType"])
                price = node["pricePerHour"] + self.node_charge
                if host is None or errors or (where in cheapest and cheapest[where][0] <= price):
                    continue
                if self._fits(host, block):
                    cheapest[where] = (price, node)
            self._offers[block] = sorted(cheapest.values(), key=lambda o: o[0])
        return self._offers[block]

    def _nodes(self) -> Iterator[Json]:
        for pool in self.scene.by_kind["NodePool"]:
            for entry in self.given.market.values():
                for o in entry["offerings"]:
                    if o["available"]:
                        yield {"name": "new", "nodePool": pool, "instanceType": entry["name"], "zone": o["zone"],
                               "capacityType": o["capacityType"], "pricePerHour": o["price"]}  # fmt: skip

    def _buy(
        self, old: Share, new: Share, offers: list[list[tuple[float, Json]]], bought: list[Json], cost: float
    ) -> None:
        if cost + sum(o[0][0] for o in offers[len(bought) :]) >= self.best - 1e-9:
            return
        if len(bought) == len(new):
            if self._stands(old, new, bought):
                self.best = cost
            return
        for price, node in offers[len(bought)]:
            self._buy(old, new, offers, [*bought, node], cost + price)

    def _stands(self, old: Share, new: Share, bought: list[Json]) -> bool:
        """Whether the pods can be put there one after another, in one order or its reverse."""
        hosts = list(self.standing.values())
        for index, node in enumerate(bought):
            made = new_host(self.scene, self.given.market, {**node, "name": f"new-{index}"}, [])
            assert made is not None
            hosts.append(made)
        at = {name: host.name for host, block in zip(hosts, (*old, *new), strict=True) for name in block}
        moves = [(pod, at[name]) for name, pod in self.pods.items()]
        for order in (moves, moves[::-1]):
            replay = Replay(map(site_of, [*hosts, *self.possible]), self.scene.namespaces)
            for host in self.standing.values():
                for pod in host.pods:
                    replay.settle(pod, host.name)
            if not replay.run(order):
                return True
        return False


def optimum(given: PlanningProblem, node_charge: float) -> float:
    """The least objective in USD per hour of a plan that places all pods; infinite where none does."""
    return Search(given, node_charge).run()


def _shares(names: list[str], fixed: int) -> Iterator[Share]:
    """Every way to share names out over `fixed` places that have a name and any number that have none."""
    if not names:
        yield ((),) * fixed
        return
    for share in _shares(names[1:], fixed):
        for index, block in enumerate(share):
            yield (*share[:index], (names[0], *block), *share[index + 1 :])
        yield (*share, (names[0],))

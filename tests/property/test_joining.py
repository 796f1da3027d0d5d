"""Pods that must join others over zones come only to zones that kube-scheduler would let them into.

The oracle is the judge's replay of kube-scheduler's filters: pods that moved leave first, then each comes to where it is
sent, again and again until nobody more gets in. Nobody knows in which order they come.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from nodeyard.disruption.arrangement import Arrangement, Place
from nodeyard.disruption.neighbours import TopologyGuard
from nodeyard.state.manifests import snapshot_from
from tests.support.judge_topology import Replay, Site
from tests.support.kube_rules import REQUIRED, ZONE

ZONES = {"n1": "a", "n2": "a", "n3": "b", "n4": "c"}
ROOM = {"cpu": "16", "memory": "64Gi", "pods": "110"}
SEEK_WEB = {
    "podAffinity": {REQUIRED: [{"topologyKey": ZONE, "labelSelector": {"matchLabels": {"app": "web"}}}]}
}
KINDS = {"seeker": ("web", SEEK_WEB), "guest": ("other", SEEK_WEB), "anchor": ("web", {})}
"""Name -> (what it is labelled, what it seeks)."""


def pod(name: str, kind: str, node: str) -> dict[str, Any]:
    label, affinity = KINDS[kind]
    return {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": label}},
        "spec": {"nodeName": node, "containers": [{"name": "c"}], "affinity": affinity},
        "status": {"phase": "Running"},
    }  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(list(KINDS)), st.sampled_from(list(ZONES))), min_size=1, max_size=4),
    st.data(),
)
def test_what_the_scheduler_would_refuse_is_told(
    standing: list[tuple[str, str]], data: st.DataObject
) -> None:
    pods = {f"default/p{i}": pod(f"p{i}", kind, node) for i, (kind, node) in enumerate(standing)}
    moves = data.draw(st.dictionaries(st.sampled_from(sorted(pods)), st.sampled_from(list(ZONES))))
    nodes = [
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": n, "labels": {ZONE: z}},
         "status": {"allocatable": ROOM, "capacity": ROOM}}
        for n, z in ZONES.items()
    ]  # fmt: skip
    snapshot = snapshot_from([*nodes, *pods.values()])
    where = {key: moves.get(key, value["spec"]["nodeName"]) for key, value in pods.items()}
    held = {n: tuple(k for k, at in where.items() if at == n) for n in ZONES}
    after = Arrangement(snapshot, {n: Place(snapshot.nodes[n]) for n in ZONES}, held)
    guard = TopologyGuard(snapshot, set(ZONES.values()))
    told = guard.parted(after, moves) or guard.strains(
        guard.excess(after), {key: snapshot.nodes[node] for key, node in moves.items()}
    )

    def refused(order: Sequence[tuple[str, str]]) -> bool:
        sites = [Site(n, {ZONE: z}, []) for n, z in ZONES.items()]
        replay = Replay(sites, lambda *_: frozenset({"default"}))
        for key in pods.keys() - moves.keys():
            replay.settle(pods[key], where[key])
        return bool(replay.run([(pods[key], node) for key, node in order]))

    may_fail = any(map(refused, itertools.permutations(moves.items())))
    assert told or not may_fail
    if all(kind != "guest" for kind, _ in standing):
        assert told == may_fail

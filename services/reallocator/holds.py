"""The hold on nodes that keep places: a taint of ours that keeps the kube-scheduler off, put on and taken off.

Written with the node's resourceVersion, and tried again where the node has moved on meanwhile. Neighbours: `courses`
(which nodes), `guests` (which of them are open for a moment).
"""

from typing import Final

from nodeyard.api.node import Node, NodeClaim
from nodeyard.provisioning.lifecycle import held
from nodeyard.runtime.clock import Clock
from nodeyard.state.cluster import Change, Kind
from services.reallocator.execution import LostLead
from services.reallocator.ports import Cluster, Nodes

_TRIES: Final = 4
_PAUSE_S: Final = 0.25


class Holds:
    def __init__(self, cluster: Cluster, nodes: Nodes, clock: Clock) -> None:
        self._cluster = cluster
        self._nodes = nodes
        self._clock = clock

    async def hold(self, claim: NodeClaim, until: float) -> None:
        """Holds the claim's node, where it is up. Raises KubernetesError; LostLead where it can't be held."""
        for _ in range(_TRIES):
            node = self._cluster.snapshot().node_of(claim)
            if node is None or held(node) or self._show(await self._nodes.hold(node, until)):
                return
            await self._clock.sleep(_PAUSE_S)
        raise LostLead(f"node {claim.node_name} can't be held")

    async def lift(self, claim: NodeClaim) -> None:
        """Opens the claim's node to everybody, as far as it can be reached now. Raises KubernetesError."""
        for _ in range(_TRIES):
            node = self._cluster.snapshot().node_of(claim)
            if node is None or not held(node) or self._show(await self._nodes.lift(node)):
                return
            await self._clock.sleep(_PAUSE_S)

    def _show(self, node: Node | None) -> bool:
        if node is not None:
            self._cluster.overlay(Change(Kind.NODE, node.name, node, node.resource_version))
        return node is not None

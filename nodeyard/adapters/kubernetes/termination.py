"""Writes to Nodes that are to go, or that were to go and stay after all.

Each write names the resourceVersion of the node it was decided on and touches single list items, so that what others
write at the same time is neither lost nor overwritten; where the node has moved on the answer is None, and the caller
looks again. Neighbour: `registration`, which writes Nodes that come.
Source: RFC 6902 (JSON Patch); Kubernetes documentation, "Node", "Taints and Tolerations".
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from nodeyard.adapters.kubernetes import paths
from nodeyard.adapters.kubernetes.client import KubernetesClient
from nodeyard.adapters.kubernetes.errors import Conflict, Invalid, NotFound
from nodeyard.api import labels as keys
from nodeyard.api.convert import node_of
from nodeyard.api.node import Node
from nodeyard.api.reading import render_time
from nodeyard.disruption.commands import MARK
from nodeyard.runtime.lifecycle import kill_point

BALANCER_VALUE: Final = "karpenter"
Operation = dict[str, Any]


class _Source(msgspec.Struct, rename="camel"):
    persistent_volume_name: str | None = None


class _AttachmentSpec(msgspec.Struct, rename="camel"):
    node_name: str = ""
    source: _Source = msgspec.field(default_factory=_Source)


class _Attachment(msgspec.Struct):
    spec: _AttachmentSpec = msgspec.field(default_factory=_AttachmentSpec)


class NodeTermination:
    """Every method raises KubernetesError for what is neither a lost race nor an absence."""

    def __init__(self, client: KubernetesClient) -> None:
        self._client = client

    async def disrupt(self, node: Node, mark: str) -> Node | None:
        """The disrupted taint and the command's mark, in one patch; None where the node has moved on."""
        operations = _tainted(node) + _set(node.annotations, "annotations", MARK, mark)
        return await self._patch(node, operations)

    async def restore(self, node: Node) -> Node | None:
        """Takes the disrupted taint and the mark off again."""
        operations = _untaint(node)
        if MARK in node.annotations:
            operations.append({"op": "remove", "path": f"/metadata/annotations/{_escaped(MARK)}"})
        return await self._patch(node, operations)

    async def prepare_drain(self, node: Node) -> Node | None:
        """The disrupted taint, and the label that takes the node out of external load balancers."""
        operations = _tainted(node)
        return await self._patch(
            node, operations + _set(node.labels, "labels", keys.EXCLUDE_BALANCERS, BALANCER_VALUE)
        )

    async def stamp(self, node: Node, empty_since: str | None) -> Node | None:
        """Writes the emptiness timestamp, or takes it off."""
        if empty_since is not None:
            return await self._patch(
                node, _set(node.annotations, "annotations", keys.EMPTINESS_TIMESTAMP, empty_since)
            )
        path = f"/metadata/annotations/{_escaped(keys.EMPTINESS_TIMESTAMP)}"
        return await self._patch(node, [{"op": "remove", "path": path}])

    async def relabel(self, node: Node, labels: Mapping[str, str | None]) -> Node | None:
        """Sets labels, and takes off those that are None."""
        operations: list[Operation] = []
        for key, value in labels.items():
            if value is not None:
                operations += _set(node.labels, "labels", key, value)
            elif key in node.labels:
                operations.append({"op": "remove", "path": f"/metadata/labels/{_escaped(key)}"})
        return await self._patch(node, operations)

    async def hold(self, node: Node, until: float) -> Node | None:
        """The taint that keeps the kube-scheduler off while places are kept, and when that ends by itself (seconds since
        the epoch); None where the node has moved on.
        """
        kill_point("reallocator.before-hold-node")
        operations = _tainted(node, keys.BIND_HOLD)
        operations += _set(node.annotations, "annotations", keys.BIND_HOLD_DEADLINE, render_time(until) or "")
        held = await self._patch(node, operations)
        kill_point("reallocator.after-hold-node")
        return held

    async def lift(self, node: Node) -> Node | None:
        """Takes that taint and its end off again."""
        kill_point("reallocator.before-lift-hold")
        operations = _untaint(node, keys.BIND_HOLD)
        if keys.BIND_HOLD_DEADLINE in node.annotations:
            path = f"/metadata/annotations/{_escaped(keys.BIND_HOLD_DEADLINE)}"
            operations.append({"op": "remove", "path": path})
        lifted = await self._patch(node, operations)
        kill_point("reallocator.after-lift-hold")
        return lifted

    async def delete(self, node: Node) -> None:
        """Asks for the Node's deletion; one that is gone or another of the same name is left alone."""
        try:
            await self._client.delete(paths.node(node.name), uid=node.uid)
        except (NotFound, Conflict):
            return

    async def drop_finalizer(self, node: Node) -> bool:
        """Takes our finalizer off; False where the node has moved on."""
        index = node.finalizers.index(keys.TERMINATION_FINALIZER)
        path = f"/metadata/finalizers/{index}"
        operations: list[Operation] = [
            {"op": "test", "path": path, "value": keys.TERMINATION_FINALIZER},
            {"op": "remove", "path": path},
        ]
        return await self._patch(node, operations) is not None

    async def attached(self) -> Mapping[str, frozenset[str]]:
        """Node -> names of the PersistentVolumes attached to it."""
        found: defaultdict[str, set[str]] = defaultdict(set)
        async for page in self._client.list_pages(paths.volume_attachments()):
            for item in page.items or ():
                spec = msgspec.json.decode(item, type=_Attachment).spec
                if spec.source.persistent_volume_name:
                    found[spec.node_name].add(spec.source.persistent_volume_name)
        return {node: frozenset(names) for node, names in found.items()}

    async def _patch(self, node: Node, operations: list[Operation]) -> Node | None:
        if not operations:
            return node
        guard: Operation = {"op": "test", "path": "/metadata/resourceVersion", "value": node.resource_version}
        try:
            return node_of(await self._client.json_patch(paths.node(node.name), [guard, *operations]))
        except (NotFound, Conflict, Invalid):
            return None


def _tainted(node: Node, key: str = keys.TAINT_DISRUPTED) -> list[Operation]:
    taint = {"key": key, "effect": keys.NO_SCHEDULE}
    if any(t.key == key for t in node.taints):
        return []
    if node.taints:
        return [{"op": "add", "path": "/spec/taints/-", "value": taint}]
    return [{"op": "add", "path": "/spec/taints", "value": [taint]}]


def _untaint(node: Node, key: str = keys.TAINT_DISRUPTED) -> list[Operation]:
    operations: list[Operation] = []
    for index in reversed(range(len(node.taints))):
        if node.taints[index].key == key:
            path = f"/spec/taints/{index}"
            operations.append({"op": "test", "path": f"{path}/key", "value": key})
            operations.append({"op": "remove", "path": path})
    return operations


def _set(present: Mapping[str, str], field: str, key: str, value: str) -> list[Operation]:
    if present.get(key) == value:
        return []
    if not present:
        return [{"op": "add", "path": f"/metadata/{field}", "value": {key: value}}]
    return [{"op": "add", "path": f"/metadata/{field}/{_escaped(key)}", "value": value}]


def _escaped(key: str) -> str:
    """A map key in a JSON pointer (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1")

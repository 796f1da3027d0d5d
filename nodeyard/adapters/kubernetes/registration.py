"""A new node made ours: labels, annotations, taints, owner and finalizer in one write; later, its initialized label.

All writes carry the node's resourceVersion and are worked out again on a newer node when it changed meanwhile (a
kubelet starting up writes often). Answers None where the node is gone. What is written is decided in
`nodeyard.provisioning.lifecycle`.
"""

from collections.abc import Callable
from typing import Any, Final

from nodeyard.adapters.kubernetes import paths
from nodeyard.adapters.kubernetes.client import KubernetesClient
from nodeyard.adapters.kubernetes.errors import Conflict, NotFound
from nodeyard.api import labels as keys
from nodeyard.api.convert import node_of
from nodeyard.api.node import Node, NodeClaim
from nodeyard.api.selectors import Taint
from nodeyard.provisioning.lifecycle import registration, without_taint
from nodeyard.runtime.lifecycle import kill_point

_TRIES: Final = 8
Body = Callable[[Node], dict[str, Any] | None]


class Registration:
    """Writes Nodes on the allocator's behalf. Raises KubernetesError."""

    def __init__(self, client: KubernetesClient) -> None:
        self._client = client

    async def register(self, node: Node, claim: NodeClaim, *, hold_until: str = "") -> Node | None:
        """Makes `node` the claim's: see `lifecycle.registration`. `hold_until` (RFC 3339): with the bind-hold taint."""

        def body(now: Node) -> dict[str, Any]:
            wanted = registration(now, claim, hold_until=hold_until)
            return {
                "metadata": {
                    "labels": _new(now.labels, wanted.labels),
                    "annotations": _new(now.annotations, wanted.annotations),
                    "finalizers": list(wanted.finalizers),
                    "ownerReferences": [claim_owner(claim)],
                },
                "spec": {"taints": taints_manifest(wanted.taints)},
            }

        return await self._write(node, body, "register-node")

    async def initialized(self, node: Node) -> Node | None:
        """Labels the node `karpenter.sh/initialized=true`."""

        def body(now: Node) -> dict[str, Any] | None:
            return None if now.initialized else {"metadata": {"labels": {keys.INITIALIZED: "true"}}}

        return await self._write(node, body, "initialize-node")

    async def lift_hold(self, node: Node) -> Node | None:
        """Takes the bind-hold taint and its deadline away."""

        def body(now: Node) -> dict[str, Any] | None:
            if (
                all(t.key != keys.BIND_HOLD for t in now.taints)
                and keys.BIND_HOLD_DEADLINE not in now.annotations
            ):
                return None
            return {
                "metadata": {"annotations": {keys.BIND_HOLD_DEADLINE: None}},
                "spec": {"taints": taints_manifest(without_taint(now.taints, keys.BIND_HOLD))},
            }

        return await self._write(node, body, "lift-hold")

    async def get(self, name: str) -> Node | None:
        """The node as the API server has it now."""
        try:
            return node_of(await self._client.get(paths.node(name)))
        except NotFound:
            return None

    async def _write(self, node: Node, body: Body, what: str) -> Node | None:
        now: Node | None = node
        for attempt in range(_TRIES):
            if now is None or (node.uid and now.uid != node.uid):
                return None
            patch = body(now)
            if patch is None:
                return now
            patch["metadata"] = {**patch["metadata"], "uid": now.uid, "resourceVersion": now.resource_version}
            kill_point(f"allocator.before-{what}")
            try:
                answer = await self._client.merge_patch(paths.node(now.name), patch)
            except NotFound:
                return None
            except Conflict:
                if attempt == _TRIES - 1:
                    raise
                now = await self.get(now.name)
                continue
            kill_point(f"allocator.after-{what}")
            return node_of(answer)
        return now


def claim_owner(claim: NodeClaim) -> dict[str, Any]:
    """The owner reference of a claim's node."""
    return {
        "apiVersion": "karpenter.sh/v1",
        "kind": "NodeClaim",
        "name": claim.name,
        "uid": claim.uid,
        "blockOwnerDeletion": True,
    }


def taints_manifest(taints: tuple[Taint, ...]) -> list[dict[str, str]]:
    """Taints as a Node's spec has them."""
    return [{"key": t.key, "effect": t.effect, **({"value": t.value} if t.value else {})} for t in taints]


def _new(have: dict[str, str], wanted: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in wanted.items() if have.get(key) != value}

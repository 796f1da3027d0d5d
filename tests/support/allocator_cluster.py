"""A cluster for the allocator's tests: optimistic concurrency, finalizers and UIDs, and streams that show what the API has,
unless they are held back.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from nodeyard.adapters.kubernetes.errors import AlreadyExists
from nodeyard.api import labels as keys
from nodeyard.api.node import Condition, Node, NodeClaim
from nodeyard.api.pod import PodKey, PodRecord
from nodeyard.api.pool import Pool
from nodeyard.provisioning.lifecycle import registration, with_condition, without_taint
from nodeyard.state.cluster import Change, ClusterStore, Kind, Snapshot
from tests.support.clock import FakeClock


class Stream:
    """The watcher's stream of one replica. `paused`: what the API does is not shown (own writes are)."""

    def __init__(self) -> None:
        self.store = ClusterStore()
        self.synced = True
        self.lag_s = 0.0
        self.paused = False
        self._missed: list[Change] = []
        self._revision = 0

    def show(self, *changes: Change) -> None:
        if self.paused:
            self._missed += changes
            return
        self._revision += 1
        self.store.apply(changes, revision=self._revision)

    def resume(self) -> None:
        self.paused = False
        missed, self._missed = self._missed, []
        self.show(*missed)

    def snapshot(self) -> Snapshot:
        return self.store.snapshot()

    def overlay(self, change: Change) -> None:
        self.store.apply((change,))

    async def wait_changed(self, after_revision: int, timeout_s: float) -> int:
        return self._revision


class Api:
    """Claims, nodes and pods as the API server keeps them; implements Claims, Nodes and Pods."""

    def __init__(self, clock: FakeClock) -> None:
        self.stale_writes = 0
        self.stale_claims = 0
        """Writes on a claim that had changed since the writer saw it: an API server refuses them once."""
        self.takes_back = 0
        """Nominations that the kube-scheduler takes back at once."""
        self.streams: list[Stream] = []
        self.claims: dict[str, NodeClaim] = {}
        self.nodes: dict[str, Node] = {}
        self.pods: dict[PodKey, PodRecord] = {}
        self.writes: list[str] = []
        self.fail: dict[str, Exception] = {}
        """What the next write of a kind ("create", "status", ...) raises instead."""
        self._clock = clock
        self._versions = itertools.count(1)

    def put(self, kind: Kind, key: str, value: Any) -> Any:
        """Stores an object as changed now, and shows it."""
        if value is not None and hasattr(value, "resource_version"):
            value = msgspec.structs.replace(value, resource_version=str(next(self._versions)))
        kept: dict[str, Any] | None = {
            Kind.NODE_CLAIM: self.claims, Kind.NODE: self.nodes, Kind.POD: self.pods,
        }.get(kind)  # type: ignore[assignment]  # fmt: skip
        if kept is not None:
            kept.pop(key, None) if value is None else kept.__setitem__(key, value)
        for stream in self.streams:
            stream.show(Change(kind, key, value, getattr(value, "resource_version", "")))
        return value

    def put_away(self, claim: str) -> None:
        """Somebody removed the claim's finalizer by hand, too."""
        self.put(Kind.NODE_CLAIM, claim, None)

    def _may(self, what: str) -> None:
        if error := self.fail.pop(what, None):
            raise error
        self.writes.append(what)

    # Claims
    async def create(self, claim: NodeClaim, owner: Pool | None = None) -> NodeClaim:
        self._may("create")
        if claim.name in self.claims:
            raise AlreadyExists(409, "AlreadyExists", claim.name)
        made = msgspec.structs.replace(
            claim, uid=f"uid-{claim.name}", created_at=float(int(self._clock.now()))
        )
        return self.put(Kind.NODE_CLAIM, claim.name, made)  # type: ignore[no-any-return]

    async def get(self, name: str) -> NodeClaim | None:
        return self.claims.get(name)

    async def list(self) -> list[NodeClaim]:
        return list(self.claims.values())

    async def _change(
        self, claim: NodeClaim, what: str, change: Callable[[NodeClaim], NodeClaim]
    ) -> NodeClaim | None:
        now = self.claims.get(claim.name)
        if now is None or (claim.uid and claim.uid != now.uid):
            return None
        self.stale_claims += claim.resource_version != now.resource_version
        changed = change(now)
        if changed == now:
            return now
        self._may(what)
        if changed.deleting and not changed.finalizers:
            self.put(Kind.NODE_CLAIM, claim.name, None)
            return None
        return self.put(Kind.NODE_CLAIM, claim.name, changed)  # type: ignore[no-any-return]

    async def patch_status(
        self, claim: NodeClaim, change: Callable[[NodeClaim], NodeClaim]
    ) -> NodeClaim | None:
        return await self._change(claim, "status", change)

    async def set_conditions(
        self, claim: NodeClaim, conditions: Sequence[Condition], now: float
    ) -> NodeClaim | None:
        def change(claim: NodeClaim) -> NodeClaim:
            for condition in conditions:
                claim = msgspec.structs.replace(claim, conditions=with_condition(claim, condition, now))
            return claim

        return await self._change(claim, "status", change)

    async def annotate(
        self,
        claim: NodeClaim,
        annotations: Mapping[str, str | None] = {},
        labels: Mapping[str, str | None] = {},
        *,
        unless: str = "",
        replacing: str = "",
    ) -> NodeClaim | None:
        def change(now: NodeClaim) -> NodeClaim:
            if unless and now.annotations.get(unless, replacing) != replacing:
                return now
            return msgspec.structs.replace(
                now, annotations=_merged(now.annotations, annotations), labels=_merged(now.labels, labels)
            )

        return await self._change(claim, "annotate", change)

    async def add_finalizer(self, claim: NodeClaim) -> NodeClaim | None:
        finalizers = (*claim.finalizers, keys.TERMINATION_FINALIZER)
        return await self._change(
            claim, "add-finalizer", lambda now: msgspec.structs.replace(now, finalizers=finalizers)
        )

    async def remove_finalizer(self, claim: NodeClaim) -> NodeClaim | None:
        return await self._change(
            claim, "remove-finalizer", lambda now: msgspec.structs.replace(now, finalizers=())
        )

    async def delete(self, name: str, uid: str = "") -> bool:
        now = self.claims.get(name)
        if now is None or (uid and uid != now.uid):
            return False
        self._may("delete")
        if not now.finalizers:
            self.put(Kind.NODE_CLAIM, name, None)
        elif not now.deleting:
            self.put(Kind.NODE_CLAIM, name, msgspec.structs.replace(now, deleted_at=self._clock.now()))
        return True

    # Nodes
    async def register(self, node: Node, claim: NodeClaim, *, hold_until: str = "") -> Node | None:
        now = self.nodes.get(node.name)
        if now is None:
            return None
        self._may("register")
        self.stale_writes += node.resource_version != now.resource_version
        wanted = registration(now, claim, hold_until=hold_until)
        return self.put(  # type: ignore[no-any-return]
            Kind.NODE,
            node.name,
            msgspec.structs.replace(
                now,
                labels=wanted.labels,
                annotations=wanted.annotations,
                taints=wanted.taints,
                finalizers=wanted.finalizers,
            ),
        )

    async def initialized(self, node: Node) -> Node | None:
        now = self.nodes[node.name]
        self._may("initialize")
        return self.put(  # type: ignore[no-any-return]
            Kind.NODE,
            node.name,
            msgspec.structs.replace(now, labels={**now.labels, keys.INITIALIZED: "true"}),
        )

    async def lift_hold(self, node: Node) -> Node | None:
        now = self.nodes[node.name]
        self._may("lift")
        return self.put(  # type: ignore[no-any-return]
            Kind.NODE,
            node.name,
            msgspec.structs.replace(now, taints=without_taint(now.taints, keys.BIND_HOLD)),
        )

    # Pods
    async def nominate(self, pods: Sequence[PodRecord], node: str) -> dict[PodKey, str]:
        self._may("nominate")
        if self.takes_back:
            self.takes_back -= 1
            return {}
        for pod in pods:
            self.put(Kind.POD, pod.key, msgspec.structs.replace(self.pods[pod.key], nominated_node=node))
        return {}

    async def bind(self, pods: Sequence[PodRecord], node: str) -> dict[PodKey, str]:
        self._may("bind")
        for pod in pods:
            self.put(
                Kind.POD, pod.key, msgspec.structs.replace(self.pods[pod.key], node=node, unschedulable=False)
            )
        return {}


def _merged(have: dict[str, str], changes: Mapping[str, str | None]) -> dict[str, str]:
    merged = {**have, **changes}
    return {key: value for key, value in merged.items() if value is not None}

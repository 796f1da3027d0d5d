"""Plans begun while a batch is still open, so that they are ready when it closes.

A batch stays open for a while after its last pod; that time is enough to plan. A draft counts only if, at the end,
nothing that planning depends on has changed since it was begun; otherwise it is thrown away and planned anew.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec

from nodeyard.api.node import Node
from nodeyard.cloudprovider.model import Catalogue
from nodeyard.provisioning.model import Plan
from nodeyard.provisioning.pending import Pending
from nodeyard.state.cluster import Snapshot

_WHOLE = (
    "daemon_sets", "pvs", "pvcs", "storage_classes", "csi_nodes", "namespaces", "priority_classes", "selecting", "pods_on",
)  # fmt: skip
_BUT: Final[Mapping[str, dict[str, Any]]] = {
    "pools": {"resource_version": "", "conditions": (), "resources": {}},
    "claims": {"resource_version": "", "last_pod_event_at": 0.0},
}
"""What of a pool and a claim is written every few seconds and means nothing to a plan."""
_OF_A_NODE = ("labels", "taints", "allocatable", "unschedulable", "deleted_at", "provider_id", "ready")


class Inputs(msgspec.Struct, frozen=True):
    """What a plan is made from, but for the clock."""

    snapshot: Snapshot
    need: Pending
    catalogues: Mapping[str, Catalogue]


class Drafts:
    """At most one draft at a time."""

    def __init__(self) -> None:
        self._inputs: Inputs | None = None
        self._task: asyncio.Task[Plan] | None = None

    @property
    def busy(self) -> bool:
        """Whether a draft is being made."""
        return self._task is not None and not self._task.done()

    def begin(self, inputs: Inputs, make: Callable[[Inputs], Awaitable[Plan]]) -> None:
        """Starts planning, unless that very plan is there already or one is being made."""
        if self.busy or (self._inputs is not None and same(self._inputs, inputs)):
            return

        async def run() -> Plan:
            return await make(inputs)

        self._inputs = inputs
        self._task = asyncio.create_task(run(), name="draft")

    async def settled(self) -> None:
        """Waits until no draft is being made, whatever comes of it."""
        if self._task is not None and not self._task.done():
            await asyncio.wait([self._task])

    async def take(self, inputs: Inputs) -> Plan | None:
        """The draft for exactly these inputs, waited for if need be; None where there is none. Raises what planning
        raised.
        """
        made_for, task = self._inputs, self._task
        self._inputs = None
        if task is None or made_for is None or not same(made_for, inputs):
            if task is not None and task.done() and not task.cancelled():
                task.exception()  # seen; planning anew will raise it again where it still applies
            return None
        return await task


def same(one: Inputs, other: Inputs) -> bool:
    """Whether a plan for `one` is a plan for `other`."""
    if one.need.all != other.need.all or one.need.leaving != other.need.leaving:
        return False
    if one.snapshot is not other.snapshot and not _same_cluster(one, other):
        return False
    return one.catalogues.keys() == other.catalogues.keys() and all(
        one.catalogues[key] is other.catalogues[key] for key in one.catalogues
    )


def _same_cluster(one: Inputs, other: Inputs) -> bool:
    before, now = one.snapshot, other.snapshot
    if any(getattr(before, name) != getattr(now, name) for name in _WHOLE):
        return False
    if not all(_same_but(getattr(before, name), getattr(now, name), less) for name, less in _BUT.items()):
        return False
    if any(before.successor(before.pods[key]) != now.successor(now.pods[key]) for key in one.need.all):
        return False
    return before.nodes.keys() == now.nodes.keys() and all(
        _same_node(before.nodes[name], now.nodes[name]) for name in now.nodes
    )


def _same_but(
    one: Mapping[str, msgspec.Struct], other: Mapping[str, msgspec.Struct], less: dict[str, Any]
) -> bool:
    return one.keys() == other.keys() and all(
        one[key] is other[key]
        or msgspec.structs.replace(one[key], **less) == msgspec.structs.replace(other[key], **less)
        for key in one
    )


def _same_node(one: Node, other: Node) -> bool:
    """Heartbeats aside."""
    return one is other or all(getattr(one, name) == getattr(other, name) for name in _OF_A_NODE)

"""What we say about pools and node classes: counted resources, what was found in the account, and conditions.

Written only where it differs from what the cluster shows; an object that is gone is no error. A Provisioner
describes its own class, so what was found for it goes to its `status.nodeClass`.
Source: Karpenter documentation, "NodePools" and "NodeClasses" (status).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from nodeyard.adapters.kubernetes import paths
from nodeyard.adapters.kubernetes.client import KubernetesClient
from nodeyard.adapters.kubernetes.errors import Conflict, NotFound
from nodeyard.api.convert import condition_manifest
from nodeyard.api.node import Condition
from nodeyard.api.nodeclass import NodeClass
from nodeyard.api.placement import PlacementGroup
from nodeyard.api.quantity import render_all
from nodeyard.api.selectors import Requirement
from nodeyard.runtime.lifecycle import kill_point

CLASS_FINALIZER: Final = "karpenter.k8s.aws/termination"


class PoolStatus:
    """Writes the status of pools and classes. Raises KubernetesError but for objects that are gone or changed."""

    def __init__(self, client: KubernetesClient) -> None:
        self._client = client

    async def write_pool(
        self, key: str, resources: Mapping[str, int], conditions: Sequence[Condition]
    ) -> bool:
        """`resources`: what the pool's nodes have in all, `nodes` included. False if the pool is gone."""
        status = {
            "resources": render_all(resources),
            "conditions": [condition_manifest(c) for c in conditions],
        }
        return await self._patch(paths.pool(key), {"status": status}, "status")

    async def write_class(self, found: NodeClass) -> bool:
        """What was found for a class, and its conditions. False if the class is gone."""
        status = class_status(found)
        kind, _, name = found.key.rpartition("/")
        if kind == "provisioner":
            return await self._patch(paths.provisioner(name), {"status": {"nodeClass": status}}, "status")
        return await self._patch(paths.node_class(found.key), {"status": status}, "status")

    async def hold_class(self, node_class: NodeClass) -> bool:
        """Puts our finalizer on a class, so that it outlives its nodes."""
        finalizers = [*node_class.finalizers, CLASS_FINALIZER]
        return await self._finalizers(node_class, finalizers)

    async def release_class(self, node_class: NodeClass) -> bool:
        """Lets a deleted class go."""
        return await self._finalizers(node_class, [f for f in node_class.finalizers if f != CLASS_FINALIZER])

    async def _finalizers(self, node_class: NodeClass, finalizers: list[str]) -> bool:
        metadata: dict[str, Any] = {"finalizers": finalizers, "resourceVersion": node_class.resource_version}
        return await self._patch(paths.ec2nodeclass(node_class.key), {"metadata": metadata}, "")

    async def _patch(self, path: str, body: dict[str, Any], subresource: str) -> bool:
        kill_point("allocator.before-pool-status")
        try:
            await self._client.merge_patch(path, body, subresource=subresource)
        except (NotFound, Conflict):
            return False
        kill_point("allocator.after-pool-status")
        return True


def class_status(found: NodeClass) -> dict[str, Any]:
    """An EC2NodeClass's status."""
    return {
        "subnets": [{"id": s.id, "zone": s.zone, "zoneID": s.zone_id} for s in found.subnets],
        "securityGroups": [{"id": g.id, "name": g.name} for g in found.security_groups],
        "amis": [
            {"id": i.id, "name": i.name, "requirements": [_requirement(r) for r in i.requirements]}
            for i in found.images
        ],
        "capacityReservations": [msgspec.to_builtins(r) for r in found.capacity_reservations],
        "instanceProfile": found.resolved_profile,
        "placementGroup": _placement_group(found.placement_group),
        "conditions": [condition_manifest(c) for c in found.conditions],
    }


def _placement_group(group: PlacementGroup | None) -> dict[str, Any] | None:
    """Every field, so that nothing of another group stays; without a group the whole goes."""
    if group is None:
        return None
    count = group.partition_count or None
    return {"id": group.id, "name": group.name, "strategy": group.strategy, "partitionCount": count}


def _requirement(requirement: Requirement) -> dict[str, Any]:
    out: dict[str, Any] = {"key": requirement.key, "operator": requirement.operator}
    return {**out, "values": list(requirement.values)} if requirement.values else out

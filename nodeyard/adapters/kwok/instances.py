"""The instances of this cluster on KWOK: which nodes there are, what became of some, and their end.

A node that is terminated is marked as ended and deleted; it stays visible as ended while its finalizers hold it.
Neighbours: `fleet`, which makes them; the reallocator, which decides about them.
"""

from collections.abc import Iterable

import msgspec

from nodeyard.adapters.kwok.fleet import (
    BATCH,
    CLAIM,
    CLAIM_UID,
    ENDED,
    TAGS,
    alive,
    created_at,
    launched,
    node_name,
)
from nodeyard.adapters.kwok.objects import CLUSTER, Manifest, Objects
from nodeyard.api import labels as keys
from nodeyard.cloudprovider.errors import NotFound
from nodeyard.disruption.collection import Instance


class KwokInstances:
    """Nodes made for `cluster_uid`. Every method raises CloudError."""

    def __init__(self, objects: Objects, *, cluster_uid: str) -> None:
        self._objects = objects
        self.cluster_uid = cluster_uid

    async def list_ours(self) -> list[Instance]:
        """Every instance of this cluster that is not terminated."""
        found = map(_instance, await self._objects.nodes(**{CLUSTER: self.cluster_uid}))
        return [instance for instance in found if instance.alive]

    async def describe(self, ids: Iterable[str]) -> dict[str, Instance]:
        """The instances with these ids, whoever's they are; ids without a node are absent."""
        found = [await self._objects.node(node_name(one)) for one in sorted(set(ids))]
        return {i.id: i for i in (_instance(node) for node in found if node is not None)}

    async def terminate(self, ids: Iterable[str]) -> None:
        """Ends the instances; ids without a node are skipped."""
        for name in sorted({node_name(one) for one in ids}):
            try:
                await self._objects.annotate_node(name, {ENDED: "true"})
            except NotFound:
                continue
            await self._objects.delete_node(name)


def _instance(node: Manifest) -> Instance:
    made, metadata = launched(node), node["metadata"]
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    tags = msgspec.json.decode(annotations.get(TAGS, "{}"), type=dict[str, str])
    return Instance(
        id=made.instance_id,
        state="running" if alive(node) else "terminated",
        launched_at=created_at(node),
        zone=made.zone,
        cluster_uid=labels.get(CLUSTER, ""),
        claim=annotations.get(CLAIM, ""),
        claim_uid=annotations.get(CLAIM_UID, ""),
        batch=labels.get(BATCH, ""),
        pool=tags.get(keys.NODEPOOL_TAG, ""),
        instance_type=made.instance_type,
        capacity_type=made.capacity_type,
    )

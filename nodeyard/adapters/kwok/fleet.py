"""Launching on KWOK: an instance is a Node object that KWOK keeps alive, a launch template a config map.

A batch's answer is decided once and kept in a config map of the batch's name before any node is made, so that every
replica that repeats the launch makes and reports the same nodes, and none that has ended comes back; it is kept for an
hour. What can't be had is told as on any cloud: `room` says how many nodes of a (type, zone) there may be.
Neighbours: `instances` (what became of them), the allocator's `batches` (when to launch).
"""

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import Mapping, Set
from datetime import datetime
from typing import Any, Final

import msgspec

from nodeyard.adapters.kwok.objects import CLUSTER, Manifest, Objects
from nodeyard.api import labels as keys
from nodeyard.api.nodeclass import Image, NodeClass
from nodeyard.api.quantity import render_all
from nodeyard.cloudprovider.boot import Boot
from nodeyard.cloudprovider.description import TypeDescription
from nodeyard.cloudprovider.errors import IdempotencyMismatch
from nodeyard.cloudprovider.market import TypeTable
from nodeyard.cloudprovider.refusals import Refusal
from nodeyard.provisioning.batches import Answer, Batch, Found
from nodeyard.provisioning.claims import LaunchRecord, ReservationRef
from nodeyard.provisioning.launches import Launched

CLOUD: Final = "kwok"
BATCH: Final = "kwok.nodeyard.dev/batch"
"""Label of a node: the launch that it came of."""
TAGS: Final = "kwok.nodeyard.dev/tags"
"""Annotation of a node: JSON of what other clouds have as tags."""
CLAIM, CLAIM_UID = "kwok.nodeyard.dev/claim", "kwok.nodeyard.dev/claim-uid"
ENDED: Final = "kwok.nodeyard.dev/ended"
"""Annotation of a node that was terminated and waits for its finalizers."""
CAPACITY_CODE: Final = "NoRoom"
_PLAYED: Final = {"kwok.x-k8s.io/node": "fake"}
_KIND: Final = "kwok.nodeyard.dev/kind"
_CLASS: Final = "node-class"
_REMEMBERED_S: Final = 3600.0
_MIB: Final = 2**20
_PODS: Final = 110
Room = Mapping[tuple[str, str], int]


class _Decided(msgspec.Struct, frozen=True):
    """A launch's answer as it is kept."""

    made: tuple[Launched, ...]
    refusals: tuple[Refusal, ...]
    boot: Boot


def node_name(instance_id: str) -> str:
    """The Node object that an instance is."""
    return instance_id.removeprefix("i-")


def launched(node: Manifest) -> Launched:
    """A node as an instance."""
    labels: dict[str, str] = node["metadata"].get("labels") or {}
    return Launched(
        f"i-{node['metadata']['name']}",
        labels.get(keys.INSTANCE_TYPE, ""),
        labels.get(keys.ZONE, ""),
        labels.get(keys.CAPACITY_TYPE, ""),
        f"kwok-{labels.get(keys.ARCH, '')}",
        cloud=CLOUD,
    )


def alive(node: Manifest) -> bool:
    """Whether the instance has not been terminated."""
    return ENDED not in (node["metadata"].get("annotations") or {})


class KwokFleet:
    """Launches for one cluster, and finds and names what was launched. Methods raise CloudError."""

    def __init__(
        self, objects: Objects, table: TypeTable, *, cluster_uid: str, room: Room | None = None
    ) -> None:
        self._objects = objects
        self._table = table
        self._types = {described.name: described for described in table.types}
        self._cluster_uid = cluster_uid
        self._room = room if room is not None else {}

    @property
    def region(self) -> str:
        return self._table.region

    def stamp(self, record: LaunchRecord, members: tuple[tuple[str, str], ...]) -> str:
        """The id of the batch of these claims: a hash of what is launched, the same in every replica."""
        asked = msgspec.structs.replace(record, prices={})
        text = msgspec.json.encode([asked, members], order="deterministic")
        return hashlib.blake2b(text, digest_size=16).hexdigest()

    async def launch(self, record: LaunchRecord, batch: Batch) -> Answer:
        """A node for each claim, or what was refused. Repeating it is safe."""
        if self.stamp(record, batch.members) != batch.id:
            raise IdempotencyMismatch("the batch was written by another version", operation="kwok:Launch")
        name = f"kwok-launch-{batch.id}"
        template = await self._objects.kept(record.choices[0].template)
        boot = msgspec.json.decode(template["data"]["boot"], type=Boot)
        decided = await self._decide(record, batch, boot)
        labels = {CLUSTER: self._cluster_uid, _KIND: "launch"}
        if not await self._objects.keep(name, labels, {"answer": msgspec.json.encode(decided).decode()}):
            kept = (await self._objects.kept(name))["data"]
            decided = msgspec.json.decode(kept["answer"], type=_Decided)
            if kept.get("made") == "true":
                return _answer(decided)
        for made in decided.made:
            await self._objects.make_node(self._node(made, record, batch, decided.boot))
        await self._objects.amend(name, {"made": "true"})
        await self._forget_old(time.time())
        return _answer(decided)

    async def find(self, batch: Batch) -> list[Found]:
        """The instances that were made for the batch and still have a node."""
        found = await self._objects.nodes(**{CLUSTER: self._cluster_uid, BATCH: batch.id})
        return [Found(launched(node), _annotation(node, CLAIM_UID), alive(node)) for node in found]

    async def unnamed(self) -> dict[str, str]:
        """Live instances of this cluster that carry no claim's name yet: id -> batch id."""
        return {
            launched(node).instance_id: node["metadata"]["labels"].get(BATCH, "")
            for node in await self._objects.nodes(**{CLUSTER: self._cluster_uid})
            if alive(node) and not _annotation(node, CLAIM_UID)
        }

    async def name(self, instance_id: str, claim: str, uid: str, *, named: bool) -> None:
        """Marks an instance as its claim's."""
        await self._objects.annotate_node(node_name(instance_id), {CLAIM: claim, CLAIM_UID: uid})

    async def _decide(self, record: LaunchRecord, batch: Batch, boot: Boot) -> _Decided:
        """Which nodes it will be: pool by pool in the record's order, as far as there is room."""
        there = Counter(
            (one.instance_type, one.zone)
            for one in map(launched, await self._objects.nodes(**{CLUSTER: self._cluster_uid}))
        )
        made: list[Launched] = []
        refusals: list[Refusal] = []
        for choice in record.choices:
            for kind, zone, subnet in choice.overrides:
                missing = len(batch.members) - len(made)
                room = self._room.get((kind, zone))
                count = missing if room is None else min(missing, max(0, room - there[kind, zone]))
                for _ in range(count):
                    id_ = f"i-kwok-{batch.id}-{len(made)}"
                    made.append(
                        Launched(id_, kind, zone, record.capacity_type, choice.image_id, subnet, CLOUD)
                    )
                there[kind, zone] += count
                if count < missing:
                    refusals.append(Refusal(kind, zone, record.capacity_type, CAPACITY_CODE))
        return _Decided(tuple(made), tuple(refusals), boot)

    def _node(self, made: Launched, record: LaunchRecord, batch: Batch, boot: Boot) -> Manifest:
        described, name = self._types[made.instance_type], node_name(made.instance_id)
        annotations = {**_PLAYED, TAGS: msgspec.json.encode(record.tags).decode()}
        if len(batch.members) == 1:
            annotations |= dict(zip((CLAIM, CLAIM_UID), batch.members[0], strict=True))
        labels = {
            **boot.labels, keys.INSTANCE_TYPE: made.instance_type, keys.ZONE: made.zone,
            keys.REGION: self.region, keys.CAPACITY_TYPE: made.capacity_type, keys.ARCH: described.arch,
            keys.OS: "linux", keys.HOSTNAME: name, CLUSTER: self._cluster_uid, BATCH: batch.id,
        }  # fmt: skip
        room = _room_of(described)
        return {
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": labels, "annotations": annotations},
            "spec": {
                "providerID": made.provider_id,
                "taints": [{"key": t.key, "value": t.value, "effect": t.effect} for t in boot.taints],
            },
            "status": {"capacity": room, "allocatable": room},
        }  # fmt: skip

    async def _forget_old(self, now: float) -> None:
        """Answers that nobody will ask for again."""
        for kept in await self._objects.all_kept(**{CLUSTER: self._cluster_uid, _KIND: "launch"}):
            if now - created_at(kept) > _REMEMBERED_S:
                await self._objects.drop(kept["metadata"]["name"])


class KwokTemplates:
    """What nodes are told at boot, kept by name; one template per content."""

    def __init__(self, objects: Objects, *, cluster_uid: str) -> None:
        self._objects = objects
        self._labels = {CLUSTER: cluster_uid, _KIND: "template"}
        self._known: set[str] = set()

    async def ensure(
        self, node_class: NodeClass, image: Image, boot: Boot, into: ReservationRef | None = None
    ) -> str:
        """The name of the template, which exists when this returns. Raises CloudError."""
        text = msgspec.json.encode(boot, order="deterministic")
        digest = hashlib.blake2b(text + image.id.encode() + node_class.key.encode(), digest_size=10)
        name = f"kwok-template-{digest.hexdigest()}"
        if name not in self._known:
            data = {_CLASS: node_class.key, "boot": text.decode()}
            await self._objects.keep(name, self._labels, data)
            self._known.add(name)
        return name

    def forget(self, names: list[str]) -> None:
        """These turned out not to exist any more: the next `ensure` makes them again."""
        self._known.difference_update(names)

    async def delete_of(self, node_class_key: str) -> int:
        """Deletes the templates made for a class that goes away; returns how many. Raises CloudError."""
        return await self._delete(
            [kept for kept in await self._ours() if kept["data"][_CLASS] == node_class_key]
        )

    async def prune(self, keep: Set[str], classes: Set[str], now: float) -> int:
        """Deletes templates of these classes that are an hour old and none of `keep`; returns how many."""
        return await self._delete(
            [
                kept
                for kept in await self._ours()
                if kept["metadata"]["name"] not in keep
                and kept["data"][_CLASS] in classes
                and now - created_at(kept) > _REMEMBERED_S
            ]
        )

    async def _ours(self) -> list[Manifest]:
        return await self._objects.all_kept(**self._labels)

    async def _delete(self, found: list[Manifest]) -> int:
        names = [kept["metadata"]["name"] for kept in found]
        await asyncio.gather(*(self._objects.drop(name) for name in names))
        self.forget(names)
        return len(names)


def created_at(thing: Manifest) -> float:
    """When an object was made, Unix seconds."""
    return datetime.fromisoformat(str(thing["metadata"]["creationTimestamp"])).timestamp()


def _answer(decided: _Decided) -> Answer:
    message = "" if not decided.refusals else f"no room in {len(decided.refusals)} offerings"
    return Answer(decided.made, decided.refusals, message)


def _annotation(node: Manifest, key: str) -> str:
    annotations: dict[str, Any] = node["metadata"].get("annotations") or {}
    return str(annotations.get(key, ""))


def _room_of(described: TypeDescription) -> dict[str, str]:
    return render_all({"cpu": described.vcpus * 1000, "memory": described.memory_mib * _MIB, "pods": _PODS})

"""How much memory real nodes turned out to have, in place of the estimate.

What a type has under one image and one kubelet configuration is known once a node of it has registered; the smallest
figure ever seen counts, since pods must fit on any. It is kept for sixty days after it was last seen. A figure that
can't be (more than EC2 sells, or not even half) is refused, so that one sick node doesn't make a type useless.
Neighbours: `capacity` (the estimate), `resolve` (which puts this in its place), services/pricing (which keeps it).
"""

from collections.abc import Iterable, Mapping
from functools import cached_property
from hashlib import blake2b
from typing import Final

import msgspec

from nodeyard.api.nodeclass import NodeClass
from nodeyard.api.selectors import Value
from nodeyard.cloudprovider.capacity import MIB
from nodeyard.cloudprovider.description import TypeDescription

KEPT_S: Final = 60 * 86_400.0
_LEAST_SHARE: Final = 0.5

Key = tuple[str, str, str]


class LearnedMemory(Value, frozen=True):
    """Memory that a node reported as capacity, in bytes. `settings` is from `settings_of` its class."""

    instance_type: str
    image: str
    settings: str
    memory_bytes: int
    at: float = 0.0
    """When it was last seen; Unix seconds."""

    @property
    def key(self) -> Key:
        return (self.instance_type, self.image, self.settings)


class Learned:
    """All that is known, in a fixed order. Immutable; equal content but for the times has an equal `digest`."""

    def __init__(self, entries: Iterable[LearnedMemory] = ()) -> None:
        self.entries = tuple(sorted(entries, key=lambda entry: entry.key))

    @cached_property
    def digest(self) -> str:
        figures = [(*entry.key, entry.memory_bytes) for entry in self.entries]
        return blake2b(msgspec.json.encode(figures), digest_size=8).hexdigest()

    @cached_property
    def _by_settings(self) -> Mapping[str, list[LearnedMemory]]:
        out: dict[str, list[LearnedMemory]] = {}
        for entry in self.entries:
            out.setdefault(entry.settings, []).append(entry)
        return out

    def memory_of(self, node_class: NodeClass) -> dict[str, int]:
        """Instance type -> bytes, for what nodes of the class's images and settings have shown."""
        images = {image.id for image in node_class.images}
        out: dict[str, int] = {}
        for entry in self._by_settings.get(settings_of(node_class), ()) if images else ():
            if entry.image in images:
                known = out.get(entry.instance_type, entry.memory_bytes)
                out[entry.instance_type] = min(known, entry.memory_bytes)
        return out


NOTHING: Final = Learned()


def merged(known: Learned, observations: Iterable[LearnedMemory], now: float) -> Learned:
    """What is known after these; of two figures the smaller, of two times the later; what is too old is dropped."""
    by_key = {entry.key: entry for entry in known.entries}
    for seen in observations:
        before = by_key.get(seen.key)
        if before is not None and now - before.at <= KEPT_S:
            smaller = min(before.memory_bytes, seen.memory_bytes)
            seen = LearnedMemory(*seen.key, smaller, max(before.at, seen.at))
        by_key[seen.key] = seen
    return Learned(entry for entry in by_key.values() if now - entry.at <= KEPT_S)


def settings_of(node_class: NodeClass) -> str:
    """Digest of the image family and kubelet configuration."""
    parts = (node_class.ami_family, node_class.kubelet)
    return blake2b(msgspec.json.encode(parts), digest_size=8).hexdigest()


def problem_of(seen: LearnedMemory, described: TypeDescription | None) -> str:
    """Why an observation can't be true; empty: it may be."""
    if described is None:
        return f"{seen.instance_type}: no such type here"
    sold = described.memory_mib * MIB
    if not sold * _LEAST_SHARE <= seen.memory_bytes <= sold:
        return f"{seen.instance_type}: {seen.memory_bytes} bytes of memory, where EC2 sells {sold}"
    return ""

"""Objects laid over a snapshot: the cluster as it would be with more of them, or with other versions of some.

Dry runs and what-ifs use it for what a person hands in with a question; nothing is written anywhere. Neighbour:
`manifests`, which reads the objects.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from nodeyard.state.cluster import Change, Kind, Snapshot, with_successors

Json = dict[str, Any]


def objects_of(text: bytes) -> list[Json]:
    """The objects of a request: a JSON list of Kubernetes objects, or nothing. Raises ValueError."""
    if not text:
        return []
    try:
        objects: list[Json] = msgspec.json.decode(text, type=list[dict[str, Any]])
    except msgspec.DecodeError as error:
        raise ValueError(f"objects: {error}") from None
    return flattened(objects)


def flattened(objects: Iterable[Json]) -> list[Json]:
    """The objects, those of Lists one by one."""
    return [
        item
        for o in objects
        for item in (o.get("items") or [] if str(o.get("kind")).endswith("List") else [o])
    ]


def laid_over(live: Snapshot, added: Iterable[Change]) -> Snapshot:
    """The snapshot with more objects in it, or other versions of some."""
    added = list(added)
    if not added:
        return live
    fields: dict[str, dict[str, Any]] = {}
    for change in added:
        fields.setdefault(change.kind.value, dict(getattr(live, change.kind.value)))[change.key] = (
            change.value
        )
    pods_on = dict(live.pods_on)
    for change in added:
        if change.kind is Kind.POD:
            _moved(pods_on, live, change)
    laid = msgspec.structs.replace(
        live,
        pods_on=pods_on,
        claim_of_provider=_indexed(live.claim_of_provider, added, Kind.NODE_CLAIM),
        node_of_provider=_indexed(live.node_of_provider, added, Kind.NODE),
        **fields,
    )
    return with_successors(laid)


def _moved(pods_on: dict[str, frozenset[str]], live: Snapshot, change: Change) -> None:
    old, new = live.pods.get(change.key), change.value
    if old is not None and old.node:
        pods_on[old.node] = pods_on.get(old.node, frozenset()) - {change.key}
    if new is not None and new.node and not new.finished:
        pods_on[new.node] = pods_on.get(new.node, frozenset()) | {change.key}


def _indexed(known: Any, added: Iterable[Change], kind: Kind) -> dict[str, str]:
    """Provider id -> key, with those of the added objects."""
    values = ((c.key, c.value) for c in added if c.kind is kind and c.value is not None)
    return {**known, **{value.provider_id: key for key, value in values if value.provider_id}}

"""Changes of the cluster as messages, and back.

Pods travel as messages with fields, everything else as the JSON of its value. Decoding refuses what it does not
know: a kind that this version has no value for means that watcher and subscriber don't fit together.
"""

from types import MappingProxyType
from typing import Any, Final

import msgspec

from nodeyard.api.pod import PodRecord
from nodeyard.rpc.v1 import cluster_pb2
from nodeyard.state.cluster import VALUE_OF, Change, Kind

_encoder: Final = msgspec.json.Encoder()
_decoders: Final = MappingProxyType({kind: msgspec.json.Decoder(value) for kind, value in VALUE_OF.items()})
_POD_FIELDS: Final = tuple(cluster_pb2.Pod.DESCRIPTOR.fields_by_name)


class CodecError(Exception):
    """A message that can't be understood."""


def encode_change(change: Change) -> cluster_pb2.Change:
    """The message of a change."""
    if change.value is None:
        return cluster_pb2.Change(
            kind=change.kind.value, key=change.key, deleted=True, resource_version=change.resource_version
        )
    if change.kind is Kind.POD:
        return cluster_pb2.Change(
            kind=change.kind.value,
            key=change.key,
            resource_version=change.resource_version,
            pod=_encode_pod(change.value),
        )
    return cluster_pb2.Change(
        kind=change.kind.value,
        key=change.key,
        resource_version=change.resource_version,
        json=_encoder.encode(change.value),
    )


def _encode_pod(pod: PodRecord) -> cluster_pb2.Pod:
    return cluster_pb2.Pod(
        namespace=pod.namespace,
        name=pod.name,
        uid=pod.uid,
        shape=pod.shape,
        node=pod.node,
        phase=pod.phase,
        unschedulable=pod.unschedulable,
        unschedulable_since=pod.unschedulable_since,
        scheduled_at=pod.scheduled_at,
        nominated_node=pod.nominated_node,
        created_at=pod.created_at,
        started_at=pod.started_at,
        deleted_at=pod.deleted_at,
        grace_period_s=pod.grace_period_s,
        ready=pod.ready,
        owner_kind=pod.owner_kind,
        owner_name=pod.owner_name,
        owner_uid=pod.owner_uid,
        do_not_disrupt=pod.do_not_disrupt,
        deletion_cost=pod.deletion_cost,
        surge=pod.surge,
    )


def decode_change(message: cluster_pb2.Change) -> Change:
    """The change of a message. Raises CodecError."""
    try:
        kind = Kind(message.kind)
    except ValueError:
        raise CodecError(f"the watcher sends {message.kind!r}, which this version does not know") from None
    if message.deleted:
        return Change(kind, message.key, None, message.resource_version)
    value: Any
    if kind is Kind.POD:
        value = _decode_pod(message.pod, message.resource_version)
    else:
        try:
            value = _decoders[kind].decode(message.json)
        except msgspec.DecodeError as error:
            raise CodecError(f"{kind.value} {message.key}: {error}") from error
    return Change(kind, message.key, value, message.resource_version)


def _decode_pod(pod: cluster_pb2.Pod, resource_version: str) -> PodRecord:
    fields: dict[str, Any] = {name: getattr(pod, name) for name in _POD_FIELDS}
    return PodRecord(resource_version=resource_version, **fields)

"""Claims that share one CreateFleet: who is in it, what came of it, and which instance is whose.

A batch is written on every one of its claims before the call, with the same launch record, so that any replica can
send the same request again; its id is a hash of that request and is EC2's client token and a tag of every instance.
Which instance belongs to which claim follows from the two sorted lists alone, so replicas never disagree. A batch may
be called only while all its claims carry it; one that made nothing is struck from them and the attempt counted up.
Pure. Neighbours: `adapters/ec2/launch` makes the call, the allocator's `batches` decides when.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from nodeyard.api.node import NodeClaim
from nodeyard.api.selectors import Value
from nodeyard.cloudprovider.errors import CloudError
from nodeyard.cloudprovider.refusals import Refusal
from nodeyard.provisioning.claims import LaunchRecord, read_annotation
from nodeyard.provisioning.launches import Launched

LAUNCH_BATCH: Final = "nodeyard.dev/launch-batch"
"""On a NodeClaim, written before its CreateFleet: JSON of Batch. On an EC2 instance, as a tag: the batch's id."""
MOST_CLAIMS: Final = 100
"""Claims in one batch: each carries all their names and UIDs, and an object may have 256 KiB of annotations."""


class Batch(Value, frozen=True):
    """`members` are (name, UID) of the claims, by UID."""

    id: str
    members: tuple[tuple[str, str], ...]


class Answer(msgspec.Struct, frozen=True):
    """What a CreateFleet made and what it refused. `error`: why nothing was made, where it was not for capacity."""

    made: tuple[Launched, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    message: str = ""
    error: CloudError | None = None


class Found(Value, frozen=True):
    """An instance of a batch as EC2 describes it; `claim_uid` is its tag, empty before it is assigned."""

    made: Launched
    claim_uid: str = ""
    alive: bool = True


def batch_of(claim: NodeClaim) -> Batch | None:
    """The batch that the claim is in, if any."""
    found: Batch | None = read_annotation(claim, LAUNCH_BATCH, Batch)
    return found


def encode_batch(batch: Batch) -> str:
    """As LAUNCH_BATCH holds it."""
    return msgspec.json.encode(batch).decode()


def members_of(claims: Iterable[NodeClaim]) -> tuple[tuple[str, str], ...]:
    """The claims as a batch lists them."""
    return tuple(sorted(((c.name, c.uid) for c in claims), key=lambda member: member[1]))


def merge_key(record: LaunchRecord) -> bytes:
    """Equal for records that make the same request but for whose and how many instances."""
    return msgspec.json.encode(msgspec.structs.replace(record, prices={}), order="deterministic")


def assigned(batch: Batch, made: Iterable[Launched]) -> dict[str, Launched]:
    """Claim UID -> its instance: the sorted ids against the sorted UIDs, the last claims getting none."""
    ordered = sorted(made, key=lambda one: one.instance_id)
    return {uid: one for (_, uid), one in zip(batch.members, ordered, strict=False)}


def assigned_by_description(batch: Batch, found: Sequence[Found]) -> dict[str, Launched]:
    """The same from all the instances that EC2 shows of the batch, ended ones too: tags first, then in order."""
    tagged = {f.claim_uid: f for f in found if f.claim_uid}
    free = sorted((f for f in found if not f.claim_uid), key=lambda f: f.made.instance_id)
    waiting = [uid for _, uid in batch.members if uid not in tagged]
    pairs = {**tagged, **dict(zip(waiting, free, strict=False))}
    return {uid: f.made for uid, f in pairs.items() if f.alive}

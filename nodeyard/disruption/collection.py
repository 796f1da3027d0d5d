"""Garbage both ways: instances that no claim stands for, and claims whose instance is gone.

Only instances tagged with this cluster's UID are looked at. Where more than a tenth of them (three or more) would go
at once, nothing goes: something is wrong with what we see, and a person is asked. Neighbours: the reallocator, which
checks each orphan against the API server once more before it acts.
Source: Karpenter documentation, "NodeClaims", garbage collection.
"""

import hashlib
from collections.abc import Iterable
from typing import Final

from nodeyard.api.node import REGISTERED, NodeClaim
from nodeyard.api.selectors import Value
from nodeyard.provisioning.batches import batch_of
from nodeyard.state.cluster import Snapshot

MIN_AGE_S: Final = 30.0
"""A younger instance may belong to a claim that is being written right now."""
HOLD_SHARE: Final = 0.1
HOLD_LEAST: Final = 3


class Instance(Value, frozen=True):
    """An EC2 instance as far as it matters here. `state` is EC2's; a terminated one is as good as gone."""

    id: str
    state: str
    launched_at: float = 0.0
    zone: str = ""
    cluster_uid: str = ""
    claim: str = ""
    claim_uid: str = ""
    batch: str = ""
    """Id of the launch that it came of together with others; its claim's tags come once it is known whose it is."""
    pool: str = ""
    instance_type: str = ""
    capacity_type: str = ""
    reservation: str = ""
    """Id of the capacity reservation that it is in."""

    @property
    def alive(self) -> bool:
        return self.state in ("pending", "running", "stopping", "stopped")


class Collection(Value, frozen=True):
    """What is garbage. `held`: why nothing is to be collected now, with `digest` naming exactly this garbage."""

    orphans: tuple[Instance, ...] = ()
    lost: tuple[NodeClaim, ...] = ()
    held: str = ""
    digest: str = ""


def instance_id(provider_id: str) -> str:
    """The instance id in a provider id ("aws:///us-west-2a/i-0123"); empty where there is none."""
    last = provider_id.rpartition("/")[2]
    return last if last.startswith("i-") else ""


def collect(
    instances: Iterable[Instance], snapshot: Snapshot, now: float, *, claims_due: bool, approved: str = ""
) -> Collection:
    """The garbage of this cluster. `claims_due`: look for claims without an instance too. `approved`: a digest that a
    person has let through.
    """
    alive = {i.id: i for i in instances if i.alive}
    by_uid = {claim.uid: claim for claim in snapshot.claims.values() if claim.uid}
    known = {instance_id(claim.provider_id) for claim in snapshot.claims.values()}
    unanswered = {
        b.id for c in snapshot.claims.values() if not c.provider_id and (b := batch_of(c)) is not None
    }
    orphans = tuple(
        i
        for i in sorted(alive.values(), key=lambda i: i.id)
        if i.id not in known
        and now - i.launched_at > MIN_AGE_S
        and not _being_launched(i, by_uid, unanswered, snapshot)
    )
    lost = tuple(_lost(snapshot, alive, now)) if claims_due else ()
    digest = _digest(orphans, lost)
    held = ""
    if approved != digest:
        held = _held(len(orphans), len(alive), "instances would be terminated that no NodeClaim stands for")
        standing = sum(1 for claim in snapshot.claims.values() if claim.provider_id)
        held = held or _held(len(lost), standing, "NodeClaims would be deleted whose instance is gone")
    return Collection(orphans, lost, held, digest if held else "")


def _being_launched(
    instance: Instance, by_uid: dict[str, NodeClaim], unanswered: set[str], snapshot: Snapshot
) -> bool:
    """Whether a claim may still be about to write down this instance."""
    if instance.batch and not instance.claim_uid:
        return instance.batch in unanswered
    claim = by_uid.get(instance.claim_uid) if instance.claim_uid else snapshot.claims.get(instance.claim)
    return claim is not None and not claim.provider_id


def _lost(snapshot: Snapshot, alive: dict[str, Instance], now: float) -> Iterable[NodeClaim]:
    for claim in sorted(snapshot.claims.values(), key=lambda claim: claim.name):
        id_ = instance_id(claim.provider_id)
        if not id_ or id_ in alive or claim.deleting or not claim.is_true(REGISTERED):
            continue
        registered = claim.condition(REGISTERED)
        if registered is not None and now - registered.since < MIN_AGE_S:
            continue
        node = snapshot.node_of(claim)
        if node is None or not node.ready:
            yield claim


def _held(going: int, all_: int, what: str) -> str:
    if going < HOLD_LEAST or going <= HOLD_SHARE * all_:
        return ""
    return f"{going} of {all_} {what}"


def _digest(orphans: tuple[Instance, ...], lost: tuple[NodeClaim, ...]) -> str:
    if not orphans and not lost:
        return ""
    digest = hashlib.blake2b(digest_size=6)
    for name in (*(i.id for i in orphans), *(c.uid or c.name for c in lost)):
        digest.update(name.encode() + b"\0")
    return digest.hexdigest()

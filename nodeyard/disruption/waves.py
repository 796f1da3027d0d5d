"""Drift in waves: one replacement, then two, then four, and no next wave before the one before is healthy.

What a change of template, image or network breaks shows on the first node made by it, so that one goes alone. All is
read from the cluster: replacements carry why they were made, the condition Drifted says since when a change is under
way. Nodes whose pods fit elsewhere need no replacement and no wave. Neighbour: `renewal`, which asks.
"""

import math
from typing import Final

import msgspec

from nodeyard.api import labels as keys
from nodeyard.api.node import INITIALIZED, NodeClaim
from nodeyard.api.pod import PodRecord
from nodeyard.disruption.drift import DRIFTED, drifted_since
from nodeyard.disruption.model import Block, Reason, Rule, View
from nodeyard.state.cluster import Snapshot

_LOOK_AGAIN_S: Final = 30.0
_SETTLED_S: Final = 120.0
"""A pod that is not ready this long after it was bound counts as broken."""


class Wave(msgspec.Struct, frozen=True):
    """How far a pool's change has come: replacements made and, of those, found healthy."""

    made: int
    healthy: int

    @property
    def most(self) -> int:
        """How many replacements may have been made by the end of the wave that is under way."""
        return int(2 ** (math.floor(math.log2(self.healthy + 1)) + 1) - 1)


def wave_block(view: View, pool: str, replacements: int) -> Block | None:
    """Whether so many more replacements have to wait for the wave before."""
    found = view.snapshot.pools.get(pool)
    if found is None or not found.disruption.renewal.waves or not replacements:
        return None
    wave = wave_of(view.snapshot, pool, view.now, found.disruption.renewal.wave_pause_s)
    if wave.made + replacements <= wave.most or wave.made == wave.healthy:
        return None
    facts: dict[str, str | int | float | bool]
    message = f"the drift of pool {pool} waits until its replacements so far are healthy"
    facts = {"made": wave.made, "healthy": wave.healthy, "wave": wave.most, "until": view.now + _LOOK_AGAIN_S}
    return Block(Rule.WAVE, message, facts)


def wave_of(snapshot: Snapshot, pool: str, now: float, pause_s: float) -> Wave:
    """The wave of the change that the pool's drifted nodes are of."""
    claims = [c for c in snapshot.claims.values() if c.pool == pool]
    began = min((drifted_since(c, now) for c in claims if c.is_true(DRIFTED)), default=now)
    made = [
        c
        for c in claims
        if c.annotations.get(keys.DISRUPTION_REASON) == Reason.DRIFTED.value
        and c.created_at >= began
        and not c.deleting
        and not c.is_true(DRIFTED)
    ]
    return Wave(len(made), sum(healthy(snapshot, c, now, pause_s) for c in made))


def healthy(snapshot: Snapshot, claim: NodeClaim, now: float, pause_s: float) -> bool:
    """Whether a new node has been up for `pause_s` seconds and breaks no more than half of its pods."""
    initialized, node = claim.condition(INITIALIZED), snapshot.node_of(claim)
    if initialized is None or initialized.status != "True" or node is None or not node.ready:
        return False
    if now < initialized.since + pause_s:
        return False
    pods = [p for p in snapshot.pods_of_node(node.name) if not (p.daemon or p.finished or p.terminating)]
    waiting = [p for p in pods if not p.ready and now >= p.scheduled_at + _SETTLED_S]
    return 2 * len(waiting) <= len(pods) or 2 * _broken_here(snapshot, waiting) <= len(pods)


def _broken_here(snapshot: Snapshot, waiting: list[PodRecord]) -> int:
    """How many are not ready though others of the same owner are, elsewhere: what runs nowhere tells nothing."""
    owners = {(p.namespace, p.owner_kind, p.owner_name) for p in waiting if p.owner_name}
    here = {p.node for p in waiting}
    fine = {
        owner
        for p in snapshot.pods.values()
        if p.ready and p.node not in here and (owner := (p.namespace, p.owner_kind, p.owner_name)) in owners
    }
    return sum((p.namespace, p.owner_kind, p.owner_name) in fine for p in waiting)

"""Commands under way, read back from the objects they have changed, so that any replica can go on with them.

A node that a command takes away carries the disrupted taint and a mark (annotation) with the command's id and how
many replacements it makes; the replacements carry the same id. No mark without a taint and no replacement without a
marked node means anything, so undoing a command is: untaint, unmark. Nothing is kept elsewhere.
Source: Karpenter documentation, "Disruption", "Disruption Controller".
"""

import enum
import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Final

import msgspec

from nodeyard.api import labels as keys
from nodeyard.api.node import INITIALIZED, Node, NodeClaim
from nodeyard.api.selectors import Taint, Value
from nodeyard.disruption.model import Candidate, Command, Reason
from nodeyard.provisioning.model import PlannedNode
from nodeyard.state.cluster import Snapshot

MARK: Final = "nodeyard.dev/disruption-command"
"""On a Node that a command takes away: a Mark as JSON. On a replacement NodeClaim: the command's id."""
DISRUPTED_TAINT: Final = Taint(keys.TAINT_DISRUPTED, keys.NO_SCHEDULE)
DISRUPTION_REASON: Final = "DisruptionReason"
_PER_COMMAND_S: Final = 0.08
_LEAST_S: Final = 600.0
_MOST_S: Final = 3600.0


class Mark(Value, frozen=True):
    """What a node says about the command that takes it away."""

    id: str
    reason: Reason
    replacements: int = 0
    at: float = 0.0
    saves: float = 0.0
    """USD per hour, once the nodes are gone."""


class Running(Value, frozen=True):
    """A command under way, as the objects tell it. `nodes` and `claims` are those still to be deleted."""

    mark: Mark
    nodes: tuple[str, ...]
    claims: tuple[str, ...]
    replacements: tuple[str, ...] = ()


class Verdict(enum.StrEnum):
    WAIT = "Wait"
    READY = "Ready"
    LOST = "Lost"
    LATE = "Late"


def command_of(
    now: float,
    reason: Reason,
    going: Sequence[Candidate],
    saves_per_hour: float,
    replacements: Sequence[PlannedNode] = (),
) -> Command:
    """The command to take these nodes away, named after when and whom."""
    digest = hashlib.blake2b(digest_size=5)
    for part in (reason.value, repr(now), *(c.claim_uid or c.node for c in going)):
        digest.update(part.encode() + b"\0")
    return Command(
        id=digest.hexdigest(),
        reason=reason,
        candidates=tuple(going),
        replacements=tuple(replacements),
        saves_per_hour=saves_per_hour,
        decided_at=now,
    )


def mark_of(command: Command, now: float) -> Mark:
    return Mark(command.id, command.reason, len(command.replacements), now, command.saves_per_hour)


def marked(node: Node) -> Mark | None:
    """The node's mark, None where there is none that can be read."""
    text = node.annotations.get(MARK)
    if not text:
        return None
    try:
        return msgspec.json.decode(text, type=Mark)
    except msgspec.DecodeError:
        return None


def disrupted(node: Node) -> bool:
    """Whether the node carries the disrupted taint."""
    return any(t.key == keys.TAINT_DISRUPTED for t in node.taints)


def running(snapshot: Snapshot) -> tuple[Running, ...]:
    """Every command that still has nodes to delete."""
    nodes: defaultdict[str, list[tuple[Node, NodeClaim, Mark]]] = defaultdict(list)
    for node in snapshot.nodes.values():
        claim = snapshot.claim_of(node)
        mark = marked(node)
        if mark and claim and not claim.deleting and not node.deleted_at and disrupted(node):
            nodes[mark.id].append((node, claim, mark))
    replacements: defaultdict[str, list[str]] = defaultdict(list)
    for claim in snapshot.claims.values():
        if (id_ := claim.annotations.get(MARK, "")) in nodes:
            replacements[id_].append(claim.name)
    return tuple(
        Running(
            mark=found[0][2],
            nodes=tuple(node.name for node, _, _ in found),
            claims=tuple(claim.name for _, claim, _ in found),
            replacements=tuple(sorted(replacements[id_])),
        )
        for id_, found in sorted(nodes.items())
    )


def concerned(snapshot: Snapshot, under_way: tuple[Running, ...]) -> frozenset[str]:
    """The nodes that commands are about: those that go and those that come for them."""
    found = {node for command in under_way for node in command.nodes}
    for command in under_way:
        for name in command.replacements:
            claim = snapshot.claims.get(name)
            node = snapshot.node_of(claim) if claim is not None else None
            if node is not None:
                found.add(node.name)
    return frozenset(found)


def progress(command: Running, snapshot: Snapshot, now: float, commands: int) -> tuple[Verdict, str]:
    """Whether the old nodes may be deleted now, and why not yet or never. `commands`: how many are under way."""
    mark = command.mark
    claims = [snapshot.claims[name] for name in command.replacements]
    if mark.replacements == 0:
        return Verdict.LOST, "it was interrupted before its nodes were deleted"
    if len(claims) < mark.replacements:
        return Verdict.LOST, "a replacement is gone"
    gone = next((c for c in claims if c.deleting), None)
    if gone is not None:
        return Verdict.LOST, f"replacement {gone.name} is being deleted"
    if all(c.is_true(INITIALIZED) for c in claims):
        return Verdict.READY, ""
    if now - mark.at > patience_s(commands):
        return Verdict.LATE, "its replacements did not become initialized in time"
    return Verdict.WAIT, ""


def patience_s(commands: int) -> float:
    """How long replacements may take, in seconds."""
    return min(_MOST_S, max(_LEAST_S, _PER_COMMAND_S * commands))


def stale(snapshot: Snapshot, under_way: tuple[Running, ...], starting: frozenset[str]) -> tuple[str, ...]:
    """Nodes of ours with a taint, a mark or a condition that no command stands behind (any more)."""
    owned = starting | {node for command in under_way for node in command.nodes}
    found = []
    for node in snapshot.nodes.values():
        claim = snapshot.claim_of(node)
        if claim is None or claim.deleting or node.deleted_at or node.name in owned:
            continue
        if disrupted(node) or MARK in node.annotations or claim.is_true(DISRUPTION_REASON):
            found.append(node.name)
    return tuple(sorted(found))


def reasons(under_way: tuple[Running, ...]) -> Counter[str]:
    """How many commands are under way, by reason."""
    return Counter(command.mark.reason.value for command in under_way)

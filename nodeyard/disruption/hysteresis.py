"""Why a move that saves money is not made all the same: it saves too little, or it was made the other way just now.

A pool says what a move must be worth (USD per hour, a share of what goes, a time in which it pays for its evictions).
Moves of late say the rest: a type that was left is not gone back to for a while, a type that could not be had is not
tried again before a time that doubles with every failure, and a type that had to be bought again right after it was
given up is kept. Only moves made for money are held back here, never emptiness, drift or expiry.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Final

from nodeyard.api import labels as keys
from nodeyard.api.pool import Steadiness
from nodeyard.disruption.commands import MARK
from nodeyard.disruption.model import Block, Candidate, Fate, Move, Reason, Rule, View
from nodeyard.disruption.replacement import choices, narrowed
from nodeyard.provisioning.model import OfferingRef, PlannedNode

REMEMBERED_S: Final = 24 * 3600.0
"""How long moves are worth remembering."""
_FIRST_S: Final = 600.0
_LONGEST_S: Final = 4 * 3600.0
_BOUGHT_AGAIN_S: Final = 300.0
"""A node made this soon after one of its type went was made for that one's pods."""
_POOL_FIRST_S: Final = 60.0
_POOL_LONGEST_S: Final = 3600.0
Facts = dict[str, str | int | float | bool]


def steadied(
    view: View, gone: Sequence[Candidate], new: Sequence[PlannedNode]
) -> tuple[PlannedNode, ...] | Block:
    """The new nodes without the offerings that would undo or repeat a recent move, or why the move is not made."""
    again = next((block for c in gone if (block := bought_again(view, c)) is not None), None)
    if again is not None:
        return again
    kept: list[PlannedNode] = []
    for node in new:
        left = _without_barred(view, gone, node)
        if isinstance(left, Block):
            return left
        kept.append(left)
    return _too_little(view, gone, kept) or tuple(kept)


def offering_of(candidate: Candidate) -> str:
    """How moves name what a node is."""
    return f"{candidate.instance_type}/{candidate.capacity_type}"


# --- worth ----------------------------------------------------------------------------------------------------------
def _too_little(view: View, gone: Sequence[Candidate], new: Sequence[PlannedNode]) -> Block | None:
    cost = sum((c.price_per_hour or 0.0) + c.node_charge_per_hour for c in gone)
    saves = cost - sum(n.price_per_hour + n.node_charge_per_hour for n in new)
    disruption = view.options.eviction_usd * sum(c.eviction_cost for c in gone)
    for pool in sorted({c.pool for c in gone}):
        wants = steadiness_of(view, pool)
        least = max(wants.min_saving_usd_per_hour, wants.min_saving_share * cost)
        facts: Facts = {"savesPerHour": round(saves, 6), "pool": pool}
        if saves < least - 1e-9:
            message = f"it would save {saves:.4f} USD/h, and pool {pool} wants {least:.4f} at least"
            return Block(Rule.MIN_SAVING, message, facts | {"leastPerHour": round(least, 6)})
        most_s = view.options.max_payback_s if wants.max_payback_s is None else wants.max_payback_s
        payback_s = disruption / saves * 3600.0 if saves > 0 else float("inf")
        if disruption > 0 and payback_s > most_s:
            message = f"it would pay for its evictions only after {payback_s / 3600:.1f} h"
            numbers: Facts = {"paybackSeconds": round(min(payback_s, 1e12), 1), "mostSeconds": most_s}
            return Block(Rule.PAYBACK, message, facts | numbers | {"disruptionUsd": round(disruption, 6)})
    return None


def steadiness_of(view: View, pool: str) -> Steadiness:
    """What the pool wants of moves; the defaults where there is no such pool."""
    found = view.snapshot.pools.get(pool)
    return found.disruption.steadiness if found is not None else Steadiness()


# --- back and forth -------------------------------------------------------------------------------------------------
def no_return_s(view: View, pool: str) -> float:
    """How long a type that was left is not gone back to, in seconds."""
    wanted = steadiness_of(view, pool).no_return_s
    return view.options.no_return_s if wanted is None else wanted


def _without_barred(view: View, gone: Sequence[Candidate], node: PlannedNode) -> PlannedNode | Block:
    returning = _left_for(view, gone)
    failing = _failing(view, gone)
    offered = choices(node)
    left = [r for r in offered if (name := _name(r)) not in returning and name not in failing]
    if len(left) == len(offered):
        return node
    kept = narrowed(node, left) if left else None
    if kept is not None:
        return kept
    names = {_name(r) for r in offered}
    facts: Facts = {"offerings": len(offered), "left": len(left)}
    if back := {name: until for name, until in returning.items() if name in names}:
        message = f"it would go back to {_named(back)}, which was left a short while ago"
        return Block(Rule.RETURN, message, facts | {"until": min(back.values())})
    again = {name: until for name, until in failing.items() if name in names}
    message = f"the same move to {_named(again)} failed a short while ago"
    return Block(Rule.FAILED_BEFORE, message, facts | {"until": min(again.values())})


def _name(ref: OfferingRef) -> str:
    return f"{ref.instance_type}/{ref.capacity_type}"


def _left_for(view: View, gone: Sequence[Candidate]) -> dict[str, float]:
    """Offerings that were left for what now would go, and until when they are not gone back to."""
    came_of = {_came_of(view, c) for c in gone} - {""}
    barred: dict[str, float] = {}
    for move in view.moves if came_of else ():
        if command_of_move(move) not in came_of or move.fate is Fate.UNDONE:
            continue
        until = move.at + no_return_s(view, move.pool)
        if view.now >= until:
            continue
        for left in move.left:
            if left not in move.came:
                barred[left] = max(until, barred.get(left, until))
    return barred


def _came_of(view: View, candidate: Candidate) -> str:
    """The command that the node was made by, empty where it was none."""
    claim = view.snapshot.claims.get(candidate.claim)
    return claim.annotations.get(MARK, "") if claim is not None else ""


def command_of_move(move: Move) -> str:
    """The id of the command that the move was a part of."""
    return move.id.partition("/")[0]


def _failing(view: View, gone: Sequence[Candidate]) -> dict[str, float]:
    """Offerings that what now would go was to be exchanged for in vain, and when that may be tried again."""
    own = {(c.pool, offering_of(c)) for c in gone}
    failures: dict[str, list[float]] = {}
    for move in view.moves:
        if move.fate is Fate.UNDONE and not own.isdisjoint((move.pool, left) for left in move.left):
            for came in move.came:
                failures.setdefault(came, []).append(move.ended_at)
    until = {came: max(at) + doubling(len(at), _FIRST_S, _LONGEST_S) for came, at in failures.items()}
    return {came: when for came, when in until.items() if view.now < when}


def doubling(failures: int, first_s: float, longest_s: float) -> float:
    """How long to wait after so many failures, in seconds."""
    return min(longest_s, first_s * 2.0 ** min(failures - 1, 40)) if failures > 0 else 0.0


def bought_again(view: View, candidate: Candidate) -> Block | None:
    """Why a node stays for a while that was made for pods which one of its own type had to give up; None: it may go."""
    claim = view.snapshot.claims.get(candidate.claim)
    if claim is None or keys.REPLACES in claim.annotations:
        return None
    own, kept_s = offering_of(candidate), no_return_s(view, candidate.pool)
    if view.now >= claim.created_at + kept_s:
        return None
    for move in view.moves:
        if not (move.at < claim.created_at <= move.at + _BOUGHT_AGAIN_S and view.now < move.at + kept_s):
            continue
        given_up = move.pool == candidate.pool and own in move.left and own not in move.came
        if given_up and move.reason is Reason.UNDERUTILIZED:
            message = f"one like it was given up and had to be bought again: {own}"
            return Block(Rule.RETURN, message, {"command": move.id, "until": move.at + kept_s})
    return None


def _named(offerings: Collection[str]) -> str:
    names = sorted(offerings)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


# --- a pool whose replacements fail -----------------------------------------------------------------------------------
def pool_backoff(moves: Iterable[Move], pool: str, reason: Reason, now: float) -> Block | None:
    """Whether the pool has to wait because its last replacements for this reason came to nothing."""
    ended = sorted(
        (m for m in moves if m.pool == pool and m.reason is reason and m.fate is not Fate.STARTED),
        key=lambda m: m.ended_at,
    )
    failures = 0
    for move in reversed(ended):
        if move.fate is not Fate.UNDONE:
            break
        failures += 1
    if not failures:
        return None
    until = ended[-1].ended_at + doubling(failures, _POOL_FIRST_S, _POOL_LONGEST_S)
    if now >= until:
        return None
    message = f"the last {failures} replacements of pool {pool} failed; the next is tried later"
    return Block(Rule.BACKOFF, message, {"failures": failures, "until": until})

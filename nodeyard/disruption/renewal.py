"""Drift and graceful expiry: nodes that have to be made anew, whatever it costs.

Empty ones go first, together; then one at a time, the pool with the fewest under way first and of a pool the oldest.
Any number of replacements, dearer ones too, and always before the old node goes; pods without another place keep it.
A pool whose replacements fail waits longer every time, so that it takes nothing from the others; drift goes in waves.
Source: Karpenter documentation, "Disruption", "Drift" and "Expiration".
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import msgspec

from nodeyard.api.node import NodeClaim
from nodeyard.disruption.candidates import stops
from nodeyard.disruption.commands import command_of, marked
from nodeyard.disruption.drift import Drift, drift_of, drifted_since, types_are_judged
from nodeyard.disruption.expiry import expiring
from nodeyard.disruption.hysteresis import pool_backoff
from nodeyard.disruption.judgement import Found, Pass, blocked, kept, proposal_of
from nodeyard.disruption.model import Action, Block, Candidate, Command, Proposal, Reason, Rule
from nodeyard.disruption.waves import wave_block
from nodeyard.provisioning.model import Plan

_MOST_S: Final = 20.0
"""Seconds of a pass, so that consolidation has some too."""
Due = Mapping[str, float]
"""Node name -> since when it has been due."""


def drift(run: Pass) -> Found:
    """Nodes that are not what their pool and class ask for any more."""
    return _renew(run, Reason.DRIFTED, due_for(run, Reason.DRIFTED))


def expiration(run: Pass) -> Found:
    """Nodes past their age, of pools that let them wait for budgets and replacements."""
    return _renew(run, Reason.EXPIRED, due_for(run, Reason.EXPIRED))


def due_for(run: Pass, reason: Reason) -> Due:
    """The nodes to be made anew for this reason."""
    snapshot, now = run.view.snapshot, run.view.now
    if reason is Reason.EXPIRED:
        since = expiring(snapshot, now)
        return {c.node: since[c.claim] for c in run.found if c.claim in since}
    due = {}
    for candidate in run.found:
        claim = snapshot.claims.get(candidate.claim)
        if claim is not None and _drift(run, claim) is not None:
            due[candidate.node] = drifted_since(claim, now)
    return due


def _drift(run: Pass, claim: NodeClaim) -> Drift | None:
    """What drifted, as it was found last time where nothing it hangs on has changed."""
    snapshot, catalogues, now = run.view.snapshot, run.view.catalogues, run.view.now
    hangs_on = (
        claim, snapshot.node_of(claim), run.burdens.pool(snapshot, claim.pool),
        snapshot.node_classes.get(claim.node_class.key),
        catalogues.get(claim.node_class.key) or catalogues.get(""),
    )  # fmt: skip
    return run.burdens.drifts.of(
        claim.name,
        hangs_on,
        (types_are_judged(claim, now),),
        lambda: drift_of(claim, snapshot, catalogues, now),
    )


def renewed_again(run: Pass, command: Command, same: Sequence[Candidate]) -> Command | Block:
    """The second look: the command with the nodes that are still due and the replacements it would take now."""
    due = due_for(run, command.reason)
    left: list[Candidate] = []
    why = Block(Rule.CHANGED, "the nodes of the command are gone")
    for candidate in same:
        if candidate.node not in due:
            why = Block(Rule.CHANGED, f"node {candidate.node} does not have to be made anew any more")
        elif block := _closed(run, candidate, command.reason):
            why = block
        else:
            left.append(candidate)
    if not left:
        return why
    if not any(c.pods for c in command.candidates):
        return _those_still_empty(run, command, left)
    proposal, plan = _judge(run, left[0], command.reason, due)
    if proposal.blocks:
        return proposal.blocks[0]
    return msgspec.structs.replace(
        command, candidates=(left[0],), replacements=plan.nodes, saves_per_hour=proposal.saves_per_hour
    )


# --- the method -----------------------------------------------------------------------------------------------------
def _renew(run: Pass, reason: Reason, due: Due) -> Found:
    proposals: list[Proposal] = []
    empty: list[Candidate] = []
    full: list[Candidate] = []
    for candidate in sorted((c for c in run.found if c.node in due), key=lambda c: (due[c.node], c.node)):
        gates = _gates(run, candidate, reason)
        if gates:
            proposals.append(_kept(run, candidate, reason, gates))
        elif not candidate.pods:
            empty.append(candidate)
        else:
            full.append(candidate)
    going = [c for c in empty if run.room.take(c.pool, reason)]
    for candidate in empty:
        proposal = proposal_of(run, candidate, Action.DELETE, reason)
        closed = () if candidate in going else (run.room.block(candidate, reason),)
        proposals.append(blocked(proposal, *closed))
    if going:
        saves = sum(p.saves_per_hour for p in proposals if not p.blocks)
        return Found(tuple(proposals), command_of(run.view.now, reason, going, saves))
    for candidate in _fairly(run, full, reason):
        proposal, command = _try(run, candidate, reason, due)
        proposals.append(proposal)
        if command is not None:
            return Found(tuple(proposals), command)
    return Found(tuple(proposals))


def _fairly(run: Pass, full: Sequence[Candidate], reason: Reason) -> Iterator[Candidate]:
    """One of each pool in turn, those with the fewest under way first, each pool's in the order given."""
    nodes = run.view.snapshot.nodes.values()
    under_way = Counter(node.pool for node in nodes if (mark := marked(node)) and mark.reason is reason)
    queues: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in full:
        queues[candidate.pool].append(candidate)
    order = sorted(queues, key=lambda pool: under_way[pool])
    for place in range(max(map(len, queues.values()), default=0)):
        for pool in order:
            if place < len(queues[pool]):
                yield queues[pool][place]


def _try(run: Pass, candidate: Candidate, reason: Reason, due: Due) -> tuple[Proposal, Command | None]:
    closed = _closed(run, candidate, reason)
    if closed is None and run.elapsed_s > _MOST_S:
        run.complete = False
        closed = Block(Rule.DEADLINE, "the pass ran out of time before this node")
    if closed is not None:
        return _kept(run, candidate, reason, (closed,)), None
    proposal, plan = _judge(run, candidate, reason, due)
    if proposal.blocks:
        return proposal, None
    run.room.take(candidate.pool, reason)
    command = command_of(run.view.now, reason, [candidate], proposal.saves_per_hour, plan.nodes)
    return proposal, command


def _gates(run: Pass, candidate: Candidate, reason: Reason) -> tuple[Block, ...]:
    gates = stops(run.view, candidate, reason)
    if not gates and (coming := run.simulation.receiving.get(candidate.node, 0)):
        return (Block(Rule.PENDING_PODS, "pods without a place would land here", {"pods": coming}),)
    return gates


def _closed(run: Pass, candidate: Candidate, reason: Reason) -> Block | None:
    """What keeps the node before anything is simulated."""
    if gates := _gates(run, candidate, reason):
        return gates[0]
    if run.room.left(candidate.pool, reason) == 0:
        return run.room.block(candidate, reason)
    return pool_backoff(run.view.moves, candidate.pool, reason, run.view.now)


def _judge(run: Pass, candidate: Candidate, reason: Reason, due: Due) -> tuple[Proposal, Plan]:
    """What would become of the node. Its pods go where they can stay; only where that is not possible do they go to
    others that are due themselves.
    """
    plan = run.simulation.without([candidate], frozenset(due), windows=False)
    if _refused(plan, candidate) is not None:
        plan = run.simulation.without([candidate], windows=False)
    refused = _refused(plan, candidate)
    if refused is not None:
        block = Block(
            Rule.UNPLACED, f"pod {refused[0]} would find no place: {refused[1]}", {"pod": refused[0]}
        )
        return _kept(run, candidate, reason, (block,)), plan
    if not plan.complete:
        block = Block(Rule.DEADLINE, "the planner ran out of time")
        return _kept(run, candidate, reason, (block,)), plan
    action = Action.REPLACE if plan.nodes else Action.DELETE
    saves = (candidate.price_per_hour or 0.0) + candidate.node_charge_per_hour
    saves -= sum(node.price_per_hour + node.node_charge_per_hour for node in plan.nodes)
    proposal = msgspec.structs.replace(
        proposal_of(run, candidate, action, reason),
        moves=plan.existing,
        replacement=plan.nodes[0] if plan.nodes else None,
        saves_per_hour=saves,
    )
    if reason is Reason.DRIFTED and (wave := wave_block(run.view, candidate.pool, len(plan.nodes))):
        proposal = blocked(proposal, wave)
    return proposal, plan


def _refused(plan: Plan, candidate: Candidate) -> tuple[str, str] | None:
    own = frozenset(candidate.pods)
    return next(((u.pod, u.message) for u in plan.unschedulable if u.pod in own), None)


def _those_still_empty(run: Pass, command: Command, left: Sequence[Candidate]) -> Command | Block:
    why = Block(Rule.CHANGED, "pods came to the nodes of the command")
    going: list[Candidate] = []
    for candidate in left:
        if candidate.pods:
            continue
        if run.room.take(candidate.pool, command.reason):
            going.append(candidate)
        else:
            why = run.room.block(candidate, command.reason)
    saves = sum((c.price_per_hour or 0.0) + c.node_charge_per_hour for c in going)
    return msgspec.structs.replace(command, candidates=tuple(going), saves_per_hour=saves) if going else why


def _kept(run: Pass, candidate: Candidate, reason: Reason, blocks: tuple[Block, ...]) -> Proposal:
    return msgspec.structs.replace(kept(run, candidate, blocks), reason=reason)

"""The second look at a command, after the wait: does it still hold, and for which of its nodes.

Empty nodes that have stayed empty go on without the others; a replacement is simulated again and must still allow
every instance type it was decided with. `still_open` is the third look, right before the first write.
Source: Karpenter documentation, "Disruption", "Disruption Controller".
"""

from collections.abc import Sequence

import msgspec

from nodeyard.disruption.burdens import Burdens
from nodeyard.disruption.candidates import EVENTUAL, candidates, stops
from nodeyard.disruption.judgement import (
    Clock,
    Pass,
    consolidation_blocks,
    is_empty,
    judge_empty,
    judgements,
)
from nodeyard.disruption.model import Block, Candidate, Command, Planner, Proposal, Reason, Rule, View
from nodeyard.disruption.renewal import renewed_again
from nodeyard.disruption.replacement import same_or_wider
from nodeyard.disruption.several import still_worth_it


def validate(
    command: Command, view: View, planner: Planner, clock: Clock, *, burdens: Burdens | None = None
) -> Command | Block:
    """The command as it still holds, or what has changed since it was decided."""
    run = Pass(view, planner, clock, burdens)
    now = {c.node: c for c in run.found}
    same = [now[c.node] for c in command.candidates if c.node in now and now[c.node].claim_uid == c.claim_uid]
    if command.reason is Reason.EMPTY:
        return _still_empty(run, command, same)
    if command.reason in EVENTUAL:
        return renewed_again(run, command, same)
    if len(same) < len(command.candidates):
        return Block(Rule.CHANGED, "a node of the command is gone")
    for candidate in same:
        if is_empty(run, candidate):
            return Block(Rule.CHANGED, f"node {candidate.node} has become empty")
        blocks = candidate.blocks + tuple(consolidation_blocks(run, candidate, command.reason))
        if blocks:
            return blocks[0]
        if not run.room.take(candidate.pool, command.reason):
            return run.room.block(candidate, command.reason)
    if len(same) > 1:
        return still_worth_it(run, command, same)
    return _still_worth_it(run, command, same[0])


def _still_empty(run: Pass, command: Command, same: Sequence[Candidate]) -> Command | Block:
    survivors: list[Candidate] = []
    stopped: Block | None = None
    for candidate in same:
        if not is_empty(run, candidate):
            stopped = Block(Rule.CHANGED, f"pods came to node {candidate.node}")
            continue
        proposal = judge_empty(run, candidate)
        if proposal.blocks:
            stopped = proposal.blocks[0]
        elif run.room.take(candidate.pool, Reason.EMPTY):
            survivors.append(candidate)
        else:
            stopped = run.room.block(candidate, Reason.EMPTY)
    if not survivors:
        return stopped or Block(Rule.CHANGED, "the nodes of the command are gone")
    saves = sum((c.price_per_hour or 0.0) + c.node_charge_per_hour for c in survivors)
    return msgspec.structs.replace(command, candidates=tuple(survivors), saves_per_hour=saves)


def _still_worth_it(run: Pass, command: Command, candidate: Candidate) -> Command | Block:
    for proposal in judgements(run, candidate):
        found = _as_decided(command, candidate, proposal)
        if isinstance(found, Command):
            break
    return found


def _as_decided(command: Command, candidate: Candidate, proposal: Proposal) -> Command | Block:
    if proposal.blocks:
        return proposal.blocks[0]
    again, before = proposal.replacement, command.replacements
    if (again is None) != (not before):
        return Block(Rule.CHANGED, "the pods would now go elsewhere than decided")
    if again is not None and not same_or_wider(before[0], again):
        return Block(Rule.CHANGED, "an instance type of the replacement is no longer good enough")
    return msgspec.structs.replace(command, candidates=(candidate,))


def still_open(command: Command, view: View) -> Block | None:
    """The last look before acting: whether the gates are still open for every node of the command."""
    now = {c.node: c for c in candidates(view)}
    for candidate in command.candidates:
        again = now.get(candidate.node)
        if again is None or again.claim_uid != candidate.claim_uid:
            return Block(Rule.CHANGED, f"node {candidate.node} is gone")
        if gates := stops(view, again, command.reason):
            return gates[0]
        if not frozenset(again.pods) <= frozenset(candidate.pods):
            return Block(Rule.CHANGED, f"pods came to node {candidate.node}")
    return None

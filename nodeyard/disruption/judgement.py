"""What would become of one node: the judges that methods and validation share.

`Pass` is one look at one view; a judge gives the proposal for a candidate, with whatever stops it in its `blocks`.
Source: Karpenter documentation, "Disruption", "Consolidation" and "Balanced consolidation".
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Final

import msgspec

from nodeyard.api import labels as keys
from nodeyard.api.pool import BALANCED, WHEN_UNDERUTILIZED, Pool
from nodeyard.api.pool_disruption import POLICIES
from nodeyard.disruption.budgets import Room
from nodeyard.disruption.burdens import Burdens
from nodeyard.disruption.candidates import candidates
from nodeyard.disruption.hysteresis import steadied
from nodeyard.disruption.model import (
    Action,
    Block,
    Candidate,
    Command,
    Course,
    Distance,
    Planner,
    Proposal,
    Reason,
    Rule,
    View,
)
from nodeyard.disruption.outlook import Outlook
from nodeyard.disruption.replacement import cheaper
from nodeyard.disruption.simulation import Simulation
from nodeyard.disruption.vicinity import Answers
from nodeyard.disruption.worth import Appraisal
from nodeyard.provisioning.model import Plan
from nodeyard.state.cluster import Snapshot

Clock = Callable[[], float]
_BALANCE: Final = 0.5
"""Balanced: a node's share of its pool's savings must be at least half its share of the pool's disruption."""


class Found(msgspec.Struct, frozen=True):
    """What a method found: its judgement of nodes, and at most one command or one course."""

    proposals: tuple[Proposal, ...] = ()
    command: Command | None = None
    course: Course | None = None
    no_course: Block | None = None
    distance: Distance | None = None


class Pass:
    """One look at one view. `burdens` and `answers`: what passes before it remembered of nodes."""

    def __init__(
        self, view: View, planner: Planner, clock: Clock, burdens: Burdens | None = None,
        answers: Answers | None = None,
    ) -> None:  # fmt: skip
        self.burdens = burdens = burdens or Burdens()
        self.view = view
        self.clock = clock
        self.started = clock()
        self.found = candidates(view, burdens)
        self.room = Room(view.snapshot, view.in_command, view.now)
        self.outlook = Outlook(view.snapshot, view.now, burdens, surge=view.options.surge)
        self.simulation = Simulation(view, planner, self.found, answers)
        self.remembers = answers is not None
        self.appraisal = answers.appraisal if answers is not None else Appraisal()
        self.complete = True
        self.thorough = True
        """Whether every node that could be planned about was, as well as that is done at all."""

    def pool(self, candidate: Candidate) -> Pool | None:
        return self.view.snapshot.pools.get(candidate.pool)

    @property
    def elapsed_s(self) -> float:
        return self.clock() - self.started


def is_empty(run: Pass, candidate: Candidate) -> bool:
    """Whether the node counts as empty: by cost, or for a Provisioner's node by there being no pod to move."""
    if candidate.pool.startswith("provisioner/"):
        return not candidate.pods
    return candidate.empty


def quiet_since(run: Pass, candidate: Candidate) -> float:
    """What consolidateAfter counts from; a Provisioner's empty node has its own timestamp (inf until written)."""
    if candidate.pool.startswith("provisioner/"):
        node = run.view.snapshot.nodes[candidate.node]
        return emptiness_timestamp(node.annotations.get(keys.EMPTINESS_TIMESTAMP, ""))
    return candidate.quiet_since


def emptiness_timestamp(text: str) -> float:
    """Seconds since the epoch of an emptiness timestamp; inf where there is none or it can't be read."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return float("inf")


def consolidation_blocks(run: Pass, candidate: Candidate, reason: Reason) -> Iterator[Block]:
    """What the pool's own policy says against consolidating this node now."""
    pool = run.pool(candidate)
    if pool is None:
        return
    if pool.disruption.policy not in POLICIES:
        yield Block(Rule.POLICY, f"pool {pool.key} has a policy that is not known: {pool.disruption.policy}")
    elif reason is Reason.UNDERUTILIZED and pool.disruption.policy not in (WHEN_UNDERUTILIZED, BALANCED):
        yield Block(Rule.POLICY, f"pool {pool.key} consolidates only empty nodes")
    window = pool.disruption.consolidate_after_s
    if window is None:
        yield Block(Rule.NEVER, f"pool {pool.key} never consolidates")
        return
    left = quiet_since(run, candidate) + window - run.view.now
    if left > 0:
        seconds = left if left != float("inf") else window
        facts: dict[str, str | int | float | bool] = {
            "windowSeconds": window,
            "leftSeconds": round(seconds, 1),
        }
        yield Block(Rule.CONSOLIDATE_AFTER, "pods came or went less than consolidateAfter ago", facts)
    if reason is Reason.UNDERUTILIZED:
        block = cut_short(run.view.snapshot, run.outlook, candidate)
        if block is not None:
            yield block


def cut_short(snapshot: Snapshot, outlook: Outlook, candidate: Candidate) -> Block | None:
    """No drain is begun for money that would have to be ended by force."""
    claim = snapshot.claims.get(candidate.claim)
    if claim is None or claim.termination_grace_period_s is None:
        return None
    if not outlook.drain([candidate.node]).cut_short:
        return None
    message = "its pods are not expected to be gone by the end of its termination grace period"
    return Block(Rule.DRAIN, message, {"gracePeriodSeconds": claim.termination_grace_period_s})


def judge_empty(run: Pass, candidate: Candidate) -> Proposal:
    """The proposal for an empty node: to delete it."""
    blocks = list(candidate.blocks) + list(consolidation_blocks(run, candidate, Reason.EMPTY))
    if not blocks and (coming := run.simulation.receiving.get(candidate.node, 0)):
        blocks.append(Block(Rule.PENDING_PODS, "pods without a place would land here", {"pods": coming}))
    return proposal_of(run, candidate, Action.DELETE, Reason.EMPTY, blocks=tuple(blocks))


def judge(run: Pass, candidate: Candidate) -> Proposal:
    """Whether the node's pods fit on the others, or on one cheaper node, at today's prices."""
    for proposal in judgements(run, candidate):
        if not proposal.blocks:
            break
    return proposal


def judgements(run: Pass, candidate: Candidate) -> Iterator[Proposal]:
    """The same by the first plan found, and by one that was searched for where the first stops it or does not suit."""
    if candidate.price_per_hour is None:
        yield _unpriced(run, candidate)
        return
    for thorough in (False, True):
        yield _judged(run, candidate, run.simulation.alone(candidate, thorough=thorough))


def judge_nearby(run: Pass, candidate: Candidate, *, thorough: bool = False) -> Proposal:
    """The same, asked of as few nodes as will do; `judge` has the last word on what it lets go."""
    if candidate.price_per_hour is None:
        return _unpriced(run, candidate)
    found = run.simulation.nearby(candidate, thorough=thorough)
    return kept(run, candidate, (found,)) if isinstance(found, Block) else _judged(run, candidate, found)


def _unpriced(run: Pass, candidate: Candidate) -> Proposal:
    block = Block(Rule.NO_PRICE, "no price is known for its offering", {"type": candidate.instance_type})
    return kept(run, candidate, (block,))


def _judged(run: Pass, candidate: Candidate, plan: Plan) -> Proposal:
    own = frozenset(candidate.pods)
    refused = next((u for u in plan.unschedulable if u.pod in own), None)
    if refused is not None:
        message = f"pod {refused.pod} would find no place: {refused.message}"
        return kept(run, candidate, (Block(Rule.UNPLACED, message, {"pod": refused.pod}),))
    if not plan.complete:
        return kept(run, candidate, (Block(Rule.DEADLINE, "the planner ran out of time"),))
    if len(plan.nodes) > 1:
        message = "its pods would need several new nodes"
        return kept(run, candidate, (Block(Rule.SEVERAL_NODES, message, {"nodes": len(plan.nodes)}),))
    if not plan.nodes:
        held = steadied(run.view, [candidate], ())
        if isinstance(held, Block):
            return kept(run, candidate, (held,))
        return _balanced(
            run,
            candidate,
            proposal_of(run, candidate, Action.DELETE, Reason.UNDERUTILIZED, moves=plan.existing),
        )
    node = cheaper(plan.nodes[0], [candidate], run.view.options)
    if isinstance(node, Block):
        return kept(run, candidate, (node,))
    steady = steadied(run.view, [candidate], (node,))
    if isinstance(steady, Block):
        return kept(run, candidate, (steady,))
    node = steady[0]
    saves = (candidate.price_per_hour or 0.0) + candidate.node_charge_per_hour
    saves -= node.price_per_hour + node.node_charge_per_hour
    proposal = proposal_of(run, candidate, Action.REPLACE, Reason.UNDERUTILIZED, moves=plan.existing)
    return _balanced(
        run, candidate, msgspec.structs.replace(proposal, replacement=node, saves_per_hour=saves)
    )


def _balanced(run: Pass, candidate: Candidate, proposal: Proposal) -> Proposal:
    block = unbalanced(run, [candidate], proposal.saves_per_hour)
    return proposal if block is None else blocked(proposal, block)


def unbalanced(run: Pass, gone: Sequence[Candidate], saves_per_hour: float) -> Block | None:
    """Why a pool of policy Balanced does not agree: its nodes' part of the saving, split by price, is a smaller share of
    what the pool costs than half their share of the pool's disruption. The pool is among the facts.
    """
    paid = sum(c.price_per_hour or 0.0 for c in gone)
    for key in sorted({c.pool for c in gone}):
        pool = run.view.snapshot.pools.get(key)
        if pool is None or pool.disruption.policy != BALANCED:
            continue
        own, mates = ([c for c in each if c.pool == key] for each in (gone, run.found))
        part = sum(c.price_per_hour or 0.0 for c in own) / paid if len(own) < len(gone) and paid else 1.0
        cost = sum(c.price_per_hour or 0.0 for c in mates)
        saved_share = saves_per_hour * part / cost if cost else 0.0
        moved_share = sum(1.0 + c.eviction_cost for c in own) / sum(1.0 + c.eviction_cost for c in mates)
        if saved_share >= _BALANCE * moved_share:
            continue
        facts: dict[str, str | int | float | bool] = {
            "pool": key,
            "savedShare": round(saved_share, 4),
            "movedShare": round(moved_share, 4),
        }
        return Block(Rule.POLICY, "it would move more than the saving is worth (Balanced)", facts)
    return None


def blocked(proposal: Proposal, *blocks: Block) -> Proposal:
    """The proposal with more that stops it, first."""
    return msgspec.structs.replace(proposal, blocks=blocks + proposal.blocks) if blocks else proposal


def proposal_of(
    run: Pass, candidate: Candidate, action: Action, reason: Reason | None, **more: object
) -> Proposal:
    saves = (candidate.price_per_hour or 0.0) + candidate.node_charge_per_hour
    proposal = Proposal(
        node=candidate.node,
        claim=candidate.claim,
        pool=candidate.pool,
        action=action,
        reason=reason,
        instance_type=candidate.instance_type,
        zone=candidate.zone,
        capacity_type=candidate.capacity_type,
        price_per_hour=candidate.price_per_hour,
        saves_per_hour=saves if action is Action.DELETE else 0.0,
        evictions=len(candidate.pods),
        eviction_cost=candidate.eviction_cost,
        drain=run.outlook.drain([candidate.node]),
        singletons=run.outlook.alone_on(candidate.node),
        at=run.view.now,
    )
    return msgspec.structs.replace(proposal, **more) if more else proposal


def kept(run: Pass, candidate: Candidate, blocks: tuple[Block, ...]) -> Proposal:
    return proposal_of(run, candidate, Action.KEEP, None, blocks=blocks)

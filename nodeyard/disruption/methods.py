"""The ways to find nodes to disrupt, in order; the first that finds a command ends the pass.

A method gets the pass (view, candidates, budgets, simulation, deadline) and gives proposals for the nodes it judged
and at most one command. Adding a way adds one line to METHODS. Validation asks the same judges a second time.
Source: Karpenter documentation, "Disruption", "Automated Graceful Methods".
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import msgspec

from nodeyard.api.pool import PoolKey
from nodeyard.disruption.burdens import Burdens
from nodeyard.disruption.candidates import EVENTUAL
from nodeyard.disruption.commands import command_of
from nodeyard.disruption.course import best_course
from nodeyard.disruption.judgement import (
    Clock,
    Found,
    Pass,
    blocked,
    consolidation_blocks,
    is_empty,
    judge,
    judge_empty,
    judge_nearby,
    kept,
    proposal_of,
    quiet_since,
)
from nodeyard.disruption.model import (
    Block,
    Candidate,
    Command,
    Outcome,
    Planner,
    Proposal,
    Reason,
    Rule,
    View,
)
from nodeyard.disruption.renewal import drift, expiration
from nodeyard.disruption.several import Exchange, best_exchange, first_exchange, proposals_of
from nodeyard.disruption.vicinity import Answers

PASSING = frozenset({Rule.BUDGET, Rule.NOMINATED, Rule.IN_COMMAND, Rule.DEADLINE, Rule.PENDING_PODS})
"""Rules that may stop holding without the cluster or a price changing, nobody knows when. Where it is known, a block
has it among its facts as `until`.
"""
UNTOUCHABLE = frozenset(
    {
        Rule.NO_CLAIM,
        Rule.NO_POOL,
        Rule.STATIC_POOL,
        Rule.NOT_INITIALIZED,
        Rule.DELETING,
        Rule.IN_COMMAND,
        Rule.NO_PRICE,
    }
)
"""Nodes that these hold for are not simulated: the answer would mean nothing."""
_BLOCKED_SHARE_S = 0.2
"""Seconds of a pass that may go into nodes that can't be disrupted anyway, to tell what it would save."""
_AGAIN_SHARE_S = 2.0
"""Seconds of a pass that may go into second, thorough looks at nodes; what was found is remembered, so passes go on."""
_HANGS_ON_PLANS = frozenset({Rule.NOT_CHEAPER, Rule.SEVERAL_NODES})
"""What a better plan may overcome."""


_COMING_S = 30.0
"""How long a new claim keeps everybody else busy."""

Method = Callable[[Pass], Found]


def decide(
    view: View,
    planner: Planner,
    clock: Clock,
    *,
    burdens: Burdens | None = None,
    answers: Answers | None = None,
    methods: Sequence[Method] | None = None,
) -> Outcome:
    """What to do now, and what would be done with every node and why not. `burdens`: kept from pass to pass, it saves
    looking at pods of nodes that have not changed, and `answers` asking about nodes near which nothing has. `methods`:
    METHODS, or others in its place.
    """
    run = Pass(view, planner, clock, burdens, answers)
    allowed = {key: {r: _allowed(run, key, r) for r in Reason} for key in view.snapshot.pools}
    proposals: dict[str, Proposal] = {}
    judged: dict[str, tuple[Proposal, ...]] = {}
    command, way, no_course, distance = None, None, None, None
    for method in METHODS if methods is None else methods:
        found = method(run)
        proposals |= {p.node: p for p in found.proposals if _tells_more(p, proposals.get(p.node))}
        judged[method.__name__] = found.proposals
        command, way, no_course = found.command, found.course, no_course or found.no_course
        distance = distance or found.distance
        if command is not None or way is not None:
            break
    blocks = [block for p in proposals.values() for block in p.blocks]
    return Outcome(
        proposals=tuple(proposals[node] for node in sorted(proposals)),
        command=command,
        course=way,
        no_course=no_course,
        distance=distance,
        quiet=command is None
        and way is None
        and run.complete
        and run.thorough
        and not any(b.rule in PASSING for b in blocks),
        recheck_at=_recheck_at(run, blocks),
        complete=run.complete,
        allowed=allowed,
        judged=judged,
        cost=_sums(run, lambda c: (c.price_per_hour or 0.0) + c.node_charge_per_hour),
        rent=_sums(run, lambda c: c.price_per_hour or 0.0),
        overdue=_overdue(judged[name]) if (name := underutilization.__name__) in judged else view.overdue,
    )


def _overdue(proposals: Iterable[Proposal]) -> frozenset[PoolKey]:
    """Pools whose turn never came before time was up."""
    late: dict[PoolKey, bool] = {}
    for p in proposals:
        late[p.pool] = late.get(p.pool, True) and any(b.rule is Rule.DEADLINE for b in p.blocks)
    return frozenset(pool for pool, never in late.items() if never)


def _sums(run: Pass, of: Callable[[Candidate], float]) -> dict[PoolKey, float]:
    sums = dict.fromkeys(run.view.snapshot.pools, 0.0)
    for c in run.found:
        sums[c.pool] = sums.get(c.pool, 0.0) + of(c)
    return sums


def _tells_more(later: Proposal, before: Proposal | None) -> bool:
    """Whether a later method's proposal stands: one that nothing stops, or where none has to be made anew."""
    return before is None or before.reason not in EVENTUAL or not later.blocks


def _allowed(run: Pass, pool: PoolKey, reason: Reason) -> int:
    left = run.room.left(pool, reason)
    return run.room.nodes[pool] if left is None else left


def _recheck_at(run: Pass, blocks: Iterable[Block]) -> float | None:
    """When the next consolidateAfter window, or whatever else stops a node for a known time, ends."""
    ends = [float(until) for block in blocks if isinstance(until := block.facts.get("until"), float)]
    for candidate in run.found:
        pool = run.pool(candidate)
        window = pool.disruption.consolidate_after_s if pool is not None else None
        if window is not None and (end := quiet_since(run, candidate) + window) > run.view.now:
            ends.append(end)
    return min(ends, default=None)


def emptiness(run: Pass) -> Found:
    """All nodes without pods that matter, together, as far as the budgets go."""
    proposals, going = [], []
    for candidate in by_savings(c for c in run.found if is_empty(run, c)):
        proposal = judge_empty(run, candidate)
        if not proposal.blocks:
            if run.room.take(candidate.pool, Reason.EMPTY):
                going.append(candidate)
            else:
                proposal = blocked(proposal, run.room.block(candidate, Reason.EMPTY))
        proposals.append(proposal)
    saves = sum(p.saves_per_hour for p in proposals if not p.blocks)
    command = command_of(run.view.now, Reason.EMPTY, going, saves) if going else None
    return Found(tuple(proposals), command)


def course(run: Pass) -> Found:
    """All nodes that can go for a cheaper cluster, in commands that follow one another."""
    found, distance = best_course(run)
    if isinstance(found, Block):
        return Found(no_course=found, distance=distance)
    proposals = []
    for command in found.commands:
        paid = sum(c.price_per_hour or 0.0 for c in command.candidates)
        action = command.action
        for candidate in command.candidates:
            share = (candidate.price_per_hour or 0.0) / paid if paid else 0.0
            proposals.append(
                proposal_of(
                    run, candidate, action, command.reason, saves_per_hour=command.saves_per_hour * share
                )
            )
    return Found(tuple(proposals), course=found, distance=distance)


def underutilization(run: Pass) -> Found:
    """The first node, dearest per disruption first and pools in turn, whose pods fit elsewhere for less."""
    proposals: list[Proposal] = []
    command: Command | None = None
    spent_s = 0.0
    busy = _machines_coming(run.view)
    for candidate in in_turn(run.found, run.view.overdue):
        if is_empty(run, candidate):
            continue
        stops = candidate.blocks + tuple(consolidation_blocks(run, candidate, Reason.UNDERUTILIZED))
        if run.elapsed_s > run.view.options.deadline_s:
            run.complete = False
            stops += (Block(Rule.DEADLINE, "the pass ran out of time before this node"),)
        began = run.elapsed_s
        idle_look = bool(stops) or command is not None
        if any(b.rule in UNTOUCHABLE or b.rule is Rule.DEADLINE for b in stops) or (idle_look and busy):
            proposals.append(kept(run, candidate, stops))
            continue
        if idle_look and spent_s > _BLOCKED_SHARE_S:
            refusal = run.simulation.screen().refusal(candidate)
            proposals.append(kept(run, candidate, (*stops, refusal) if refusal else stops))
            continue
        found = judge_nearby(run, candidate)
        if not (idle_look or found.blocks):
            found = judge(run, candidate)
        proposal = blocked(found, *stops)
        spent_s += (run.elapsed_s - began) if idle_look else 0.0
        if command is None and not proposal.blocks:
            proposal, command = _taken(run, candidate, proposal)
        proposals.append(proposal)
    if command is None and run.remembers and not busy:
        again, command = _looked_again(run, {p.node: p for p in proposals})
        proposals = [again if again is not None and again.node == p.node else p for p in proposals]
    return Found(tuple(proposals), command)


def _taken(run: Pass, candidate: Candidate, proposal: Proposal) -> tuple[Proposal, Command | None]:
    """The command that a proposal comes to, within the budgets."""
    if run.room.take(candidate.pool, Reason.UNDERUTILIZED):
        return proposal, _command_of(run, candidate, proposal)
    return blocked(proposal, run.room.block(candidate, Reason.UNDERUTILIZED)), None


def _looked_again(run: Pass, first: Mapping[str, Proposal]) -> tuple[Proposal | None, Command | None]:
    """The first node that only a plan worth searching for lets go, as far as the time for such looks reaches."""
    began = run.elapsed_s
    for candidate in in_turn(run.found, run.view.overdue):
        blocks = first[candidate.node].blocks if candidate.node in first else ()
        if not blocks or blocks[0].rule not in _HANGS_ON_PLANS or run.simulation.screen().refusal(candidate):
            continue
        if run.elapsed_s - began > _AGAIN_SHARE_S:
            run.thorough = False
            break
        if judge_nearby(run, candidate, thorough=True).blocks:
            continue
        found = judge(run, candidate)
        if not found.blocks:
            found, command = _taken(run, candidate, found)
            if command is not None:
                return found, command
    return None, None


def at_once(run: Pass) -> Found:
    """The most wasteful nodes, as many as may go, for fewer or cheaper ones."""
    return _exchanged(run, first_exchange(run))


def together(run: Pass) -> Found:
    """Several nodes for fewer or cheaper ones, where no node could go by itself."""
    return _exchanged(run, best_exchange(run))


def _exchanged(run: Pass, exchange: Exchange | None) -> Found:
    """The command that an exchange comes to, its budgets spent."""
    if exchange is None:
        return Found()
    for candidate in exchange.gone:
        run.room.take(candidate.pool, Reason.UNDERUTILIZED)
    command = command_of(run.view.now, Reason.UNDERUTILIZED, exchange.gone, exchange.saves_per_hour)
    return Found(proposals_of(run, exchange), msgspec.structs.replace(command, replacements=exchange.nodes))


def _machines_coming(view: View) -> bool:
    """Whether nodes were made just now: then what blocked nodes might save is not worth the processor's time."""
    return any(view.now - claim.created_at < _COMING_S for claim in view.snapshot.claims.values())


METHODS: tuple[Method, ...] = (emptiness, drift, expiration, underutilization, together)
LIVE: tuple[Method, ...] = (course, *METHODS)
"""For whoever can carry out a course; it takes empty nodes along."""
WITHOUT_COURSES: tuple[Method, ...] = (emptiness, drift, expiration, at_once, underutilization, together)
"""For whoever can't."""
URGENT: tuple[Method, ...] = (emptiness, drift, expiration)
"""What does not wait until the cluster is calm enough for a course."""


def by_savings(found: Iterable[Candidate]) -> list[Candidate]:
    """Dearest per unit of disruption first."""
    return sorted(found, key=lambda c: (-c.savings_ratio, c.node))


def in_turn(found: Iterable[Candidate], overdue: frozenset[PoolKey] = frozenset()) -> Iterator[Candidate]:
    """One of each pool in turn, those that may go before those that may not, dearest per disruption first. Pools that
    are overdue begin.
    """
    for free in (True, False):
        queues: dict[str, list[Candidate]] = defaultdict(list)
        for candidate in by_savings(c for c in found if (not c.blocks) is free):
            queues[candidate.pool].append(candidate)
        for place in range(max(map(len, queues.values()), default=0)):
            for pool in sorted(queues, key=lambda pool: pool not in overdue):
                if place < len(queues[pool]):
                    yield queues[pool][place]


def _command_of(run: Pass, candidate: Candidate, proposal: Proposal) -> Command:
    command = command_of(run.view.now, Reason.UNDERUTILIZED, [candidate], proposal.saves_per_hour)
    if proposal.replacement is None:
        return command
    return msgspec.structs.replace(command, replacements=(proposal.replacement,))

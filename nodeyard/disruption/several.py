"""Several nodes at once: m nodes away for n new ones.

The nodes that waste most, by what their pods are worth, are tried together: first as many as budgets let go, by the first
plan found (`first_exchange`); and where no single node can go for less, in growing groups with plans that were searched
for, of which the one that saves most is taken (`best_exchange`). Either becomes one command. What is made for it stays
within a tenth of the running rent, since it is paid beside what goes.
Neighbours: `worth` for the waste, `replacement` and `hysteresis` for what makes an exchange worth it. One node for
several is judged as Karpenter does. Source: Karpenter documentation, "Consolidation" (price and spot rules).
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from nodeyard.api import labels as keys
from nodeyard.disruption.hysteresis import bought_again, steadied
from nodeyard.disruption.judgement import Pass, consolidation_blocks, is_empty, proposal_of, unbalanced
from nodeyard.disruption.model import Action, Block, Candidate, Command, Proposal, Reason, Rule
from nodeyard.disruption.replacement import cheaper, choices, narrowed, same_or_wider
from nodeyard.disruption.unfolding import RISE
from nodeyard.provisioning.model import Options, Placement, PlannedNode, Problem

_SIZES: Final = (2, 3, 4, 6, 8, 12, 16, 24, 36, 54, 81, 120)
_OWN_SHARE: Final = 0.25
"""Of a pass's time, what groups have to themselves where single nodes took all of it."""
_HURRIED_S: Final = 2.0
"""What they have while thorough looks at single nodes are still to come: the next passes ask about larger ones."""
_AT_ONCE: Final = 32
"""Most nodes of a first group: more are asked about for longer than a pass after a small change should take."""
_FEW: Final = 4
"""Fewer are left to looks at single nodes and to thorough ones at groups."""
_WASTEFUL: Final = 0.05
"""Of what a node costs: one that wastes less is in no first group."""
_LITTLE: Final = 0.001
"""Of what all nodes cost: a first group that could save less is not asked about in parts; single nodes have their turn."""
_SMALL_FIRST: Final = 0.75
"""Nodes are ranked by their waste over this power of their cost. Of nine hours of a replayed day, first groups saved as much
so as by the square root, in three quarters of the time, and twice as much as by the share that is wasted.
"""
_EPSILON: Final = 1e-9


class Exchange(msgspec.Struct, frozen=True):
    """Nodes that go together, those made for them, and what that saves in USD per hour."""

    gone: tuple[Candidate, ...]
    nodes: tuple[PlannedNode, ...]
    moves: tuple[Placement, ...]
    saves_per_hour: float


def first_exchange(run: Pass) -> Exchange | None:
    """The most wasteful nodes that can go for less by the first plan found: as many as budgets allow, half of these, and so
    on down to a few.
    """
    free = _free(run)
    if run.view.options.deadline_s <= 0 or len(free) < _FEW:
        return None
    group = _within_budgets(run, [c for c, waste in _wasted(run, free) if waste > _WASTEFUL * _cost(c)])
    group, least = group[:_AT_ONCE], _LITTLE * sum(map(_cost, run.found))
    while len(group) >= _FEW:
        found = judge_group(run, group, thorough=False, least=least)
        if isinstance(found, Exchange):
            return found
        group = group[: len(group) // 2]
    return None


def best_exchange(run: Pass) -> Exchange | None:
    """The group that saves most, or None where none saves anything."""
    deadline_s = run.view.options.deadline_s
    until_s = max(deadline_s, run.elapsed_s + _OWN_SHARE * deadline_s)
    if not run.thorough:
        until_s = min(until_s, run.elapsed_s + _HURRIED_S)
    if deadline_s <= 0:
        return None
    ranked = [c for c, _ in _wasted(run, _free(run))]
    best: Exchange | None = None
    tried = 1
    for size in _SIZES:
        group = _within_budgets(run, ranked[:size])
        if len(group) <= tried:
            if size > len(ranked):
                break
            continue
        if run.elapsed_s > until_s:
            run.complete = run.complete and not run.thorough
            break
        tried = len(group)
        found = judge_group(run, group)
        if isinstance(found, Block) and found.rule is Rule.DEADLINE:
            break  # larger groups take longer still
        if isinstance(found, Exchange) and (best is None or found.saves_per_hour > best.saves_per_hour):
            best = found
    return best


def _free(run: Pass) -> list[Candidate]:
    """Nodes that nothing keeps."""
    out = []
    for candidate in run.found:
        pool = run.pool(candidate)
        if candidate.blocks or candidate.price_per_hour is None or pool is None or is_empty(run, candidate):
            continue
        if bought_again(run.view, candidate) is not None:
            continue
        if any(consolidation_blocks(run, candidate, Reason.UNDERUTILIZED)):
            continue
        out.append(candidate)
    return out


def _wasted(run: Pass, free: Sequence[Candidate]) -> list[tuple[Candidate, float]]:
    """Nodes with what they cost beyond what their pods are worth, USD per hour. Of two that waste as much the smaller comes
    first: its pods are fewer, and fit in more places.
    """
    if len(free) < 2:
        return [(c, 0.0) for c in free]
    view = run.view
    pods = tuple(sorted({pod for c in free for pod in c.pods}))
    gone = frozenset(c.node for c in free)
    problem = Problem(view.snapshot, pods, view.catalogues, view.now, without_nodes=gone)
    options = Options(node_charge_usd_per_hour=view.options.node_charge_usd_per_hour)
    worth = run.appraisal.of(problem, options)
    shape = {pod: view.snapshot.successor(view.snapshot.pods[pod]) for pod in pods}
    held = {c.node: sum(worth.get(shape[pod], 0.0) for pod in c.pods) for c in free}
    wasted = [(c, _cost(c) - held[c.node]) for c in free]
    return sorted(
        wasted, key=lambda one: (-one[1] / max(_cost(one[0]), _EPSILON) ** _SMALL_FIRST, one[0].node)
    )


def _cost(candidate: Candidate) -> float:
    """Rent and node charge."""
    return (candidate.price_per_hour or 0.0) + candidate.node_charge_per_hour


def _within_budgets(run: Pass, group: Sequence[Candidate]) -> list[Candidate]:
    out: list[Candidate] = []
    taken: dict[str, int] = {}
    for candidate in group:
        left = run.room.left(candidate.pool, Reason.UNDERUTILIZED)
        if left is None or taken.get(candidate.pool, 0) < left:
            taken[candidate.pool] = taken.get(candidate.pool, 0) + 1
            out.append(candidate)
    return out


def judge_group(
    run: Pass, group: Sequence[Candidate], *, thorough: bool = True, least: float = 0.0
) -> Exchange | Block:
    """What would become of the group's pods, if that is worth it, or what stops it. `thorough` False: by the first plan;
    `least`: a part of the group is asked about where the plan for all of it saves more, USD per hour.
    """
    plan = run.simulation.without(group, thorough=thorough)
    bought = sum(n.price_per_hour + n.node_charge_per_hour for n in plan.nodes)
    hopeful = sum(map(_cost, group)) - bought >= least

    def for_the_rest(staying: frozenset[str], why: Block) -> Exchange | Block:
        """The same for those of the group that are left, which single nodes are not: they are judged by themselves."""
        rest = [c for c in group if c.node not in staying]
        if not hopeful or not 1 < len(rest) < len(group):
            return why
        return judge_group(run, rest, thorough=thorough, least=least)

    if twins := made_again(plan.nodes, group):
        why = Block(Rule.NOT_CHEAPER, "nodes like those that go would be made again", {"nodes": len(twins)})
        return for_the_rest(twins, why)
    own = {pod for c in group for pod in c.pods}
    refused = next((u for u in plan.unschedulable if u.pod in own), None)
    if refused is not None:
        message = f"pod {refused.pod} would find no place: {refused.message}"
        return Block(Rule.UNPLACED, message, {"pod": refused.pod})
    if not plan.complete:
        return Block(Rule.DEADLINE, "the planner ran out of time")
    priced_nodes = priced(run, plan.nodes, group)
    nodes = priced_nodes if isinstance(priced_nodes, Block) else _below_ceiling(run, priced_nodes)
    if isinstance(nodes, Block):
        return for_the_rest(_twins(plan.nodes, group), nodes)
    steady = steadied(run.view, list(group), nodes)
    if isinstance(steady, Block):
        return for_the_rest(_going_back(run, group, nodes), steady)
    return _agreed(run, group, steady, plan.existing, for_the_rest)


def _agreed(
    run: Pass, group: Sequence[Candidate], nodes: tuple[PlannedNode, ...], moves: tuple[Placement, ...],
    for_the_rest: Callable[[frozenset[str], Block], Exchange | Block],
) -> Exchange | Block:  # fmt: skip
    """The exchange, if it saves anything and the group's pools agree to it."""
    saves = sum(map(_cost, group)) - sum(n.price_per_hour + n.node_charge_per_hour for n in nodes)
    if saves <= _EPSILON:
        return Block(Rule.NOT_CHEAPER, "the nodes made would cost as much")
    if (block := unbalanced(run, group, saves)) is not None:
        return for_the_rest(frozenset(c.node for c in group if c.pool == block.facts["pool"]), block)
    return Exchange(tuple(group), nodes, moves, saves)


def made_again(nodes: Sequence[PlannedNode], group: Sequence[Candidate]) -> frozenset[str]:
    """Nodes of the group in whose place one of the same offering would be made: they may as well stay, with what they
    hold. One new node for several is held to more (`cheaper`).
    """
    return _twins(nodes, group) if len(nodes) > 1 else frozenset()


def _twins(nodes: Sequence[PlannedNode], group: Sequence[Candidate]) -> frozenset[str]:
    """One node of the group for each new one of the same offering, where there is one."""
    made = Counter((n.pool, n.instance_type, n.zone, n.capacity_type) for n in nodes)
    twins = set()
    for c in group:
        offering = (c.pool, c.instance_type, c.zone, c.capacity_type)
        if made[offering] > 0:
            made[offering] -= 1
            twins.add(c.node)
    return frozenset(twins)


def _going_back(run: Pass, group: Sequence[Candidate], nodes: Sequence[PlannedNode]) -> frozenset[str]:
    """Nodes of the group that may not be exchanged for these because they came, or were bought again, a short while ago."""
    held = ((c.node, steadied(run.view, [c], nodes)) for c in group)
    return frozenset(node for node, block in held if isinstance(block, Block) and block.rule is Rule.RETURN)


def priced(
    run: Pass, nodes: Sequence[PlannedNode], group: Sequence[Candidate]
) -> tuple[PlannedNode, ...] | Block:
    """The nodes with only offerings that keep the whole cheaper than what goes, whichever of them are launched."""
    if not nodes:
        return ()
    if len(nodes) == 1:
        one = cheaper(nodes[0], group, run.view.options)
        return one if isinstance(one, Block) else (one,)
    paid = sum(c.price_per_hour or 0.0 for c in group)
    total = sum(n.price_per_hour for n in nodes)
    if total >= paid - _EPSILON:
        return Block(
            Rule.NOT_CHEAPER,
            "no nodes that hold their pods are cheaper than they are",
            {"pricePerHour": paid},
        )
    spot = any(n.capacity_type == keys.SPOT for n in nodes)
    if spot and not run.view.options.spot_to_spot and all(c.capacity_type == keys.SPOT for c in group):
        return Block(Rule.SPOT_TO_SPOT, "spot nodes are not exchanged for cheaper spot nodes")
    out = []
    for node in nodes:
        most = node.price_per_hour * paid / total
        left = [
            ref
            for ref in choices(node)
            if ref.price_per_hour < most - _EPSILON and ref.capacity_type == node.capacity_type
        ]
        kept = narrowed(node, left) if left else None
        if kept is None:
            return Block(Rule.NOT_CHEAPER, "too few cheaper instance types are left for the pool's minValues")
        out.append(kept)
    return tuple(out)


def _below_ceiling(run: Pass, nodes: tuple[PlannedNode, ...]) -> tuple[PlannedNode, ...] | Block:
    """What is made is paid beside what goes for a while: no more than a tenth of the running rent."""
    rent = sum(c.price_per_hour or 0.0 for c in run.found)
    more = sum(n.price_per_hour for n in nodes)
    if more > RISE * rent + _EPSILON:
        message = "what would be made for it costs more than a tenth of all that runs"
        return Block(Rule.NOT_CHEAPER, message, {"pricePerHour": more, "rentPerHour": rent})
    return nodes


def proposals_of(run: Pass, exchange: Exchange) -> tuple[Proposal, ...]:
    """One proposal per node that goes; each is said to save its share, by price."""
    action = Action.REPLACE if exchange.nodes else Action.DELETE
    paid = sum(c.price_per_hour or 0.0 for c in exchange.gone)
    return tuple(
        msgspec.structs.replace(
            proposal_of(run, c, action, Reason.UNDERUTILIZED, moves=exchange.moves),
            saves_per_hour=exchange.saves_per_hour * (c.price_per_hour or 0.0) / max(paid, _EPSILON),
            replacement=exchange.nodes[0] if len(exchange.nodes) == 1 else None,
        )
        for c in exchange.gone
    )


def still_worth_it(run: Pass, command: Command, same: Sequence[Candidate]) -> Command | Block:
    """The second look: the group still goes for as many nodes, each of which still may become what was decided."""
    again = judge_group(run, same, thorough=False)
    found = _as_decided(command, same, again)
    return found if isinstance(found, Command) else _as_decided(command, same, judge_group(run, same))


def _as_decided(command: Command, same: Sequence[Candidate], again: Exchange | Block) -> Command | Block:
    if isinstance(again, Block):
        return again
    if len(again.gone) < len(same):
        return Block(Rule.CHANGED, "fewer of its nodes would go now than decided")
    left = list(again.nodes)
    for node in command.replacements:
        like = next((n for n in left if n.pool == node.pool and same_or_wider(node, n)), None)
        if like is None:
            return Block(Rule.CHANGED, "the pods would now go elsewhere than decided")
        left.remove(like)
    if left:
        return Block(Rule.CHANGED, "more nodes would be needed than decided")
    return msgspec.structs.replace(command, candidates=tuple(same))

"""What the reallocator would do of itself in a changed world: at other prices, or with a pool as it would be.

The live loop's own decisions (`methods.decide`) are taken one after the other, each as if carried out at once, until
none is left: gates, budgets, windows and hysteresis hold as they do live, waves of drift and the memory of moves do
not. Pods that look for a place get one first, from the planner. What a person wants to know of each step is in it.
Neighbours: `whatif` (nodes that go or come), `asking` (questions and answers as JSON).
"""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from nodeyard.api import labels as keys
from nodeyard.api.node import (
    INITIALIZED,
    LAUNCHED,
    REGISTERED,
    Condition,
    Node,
    NodeClaim,
    NodeClassRef,
    pool_labels,
)
from nodeyard.api.pod import PodKey
from nodeyard.api.pool import Pool
from nodeyard.api.selectors import Value
from nodeyard.cloudprovider.model import Catalogue
from nodeyard.disruption.arrangement import Names, place_to_make
from nodeyard.disruption.candidates import candidates
from nodeyard.disruption.drift import drift_of
from nodeyard.disruption.judgement import Clock
from nodeyard.disruption.methods import decide
from nodeyard.disruption.model import Block, DrainEstimate, Outcome, Planner, View
from nodeyard.disruption.outlook import Outlook
from nodeyard.disruption.simulation import homeless, leaving
from nodeyard.disruption.whatif import UnusableQuestion, moves_of
from nodeyard.provisioning.claims import HASH_VERSION
from nodeyard.provisioning.model import Plan, PlannedNode, Problem, Unschedulable
from nodeyard.state.cluster import Snapshot

_MOST_STEPS: Final = 500
PENDING: Final = "Pending"
"""The reason of the first step, where pods look for a place."""


class Price(Value, frozen=True, forbid_unknown_fields=True):
    """USD per hour of an instance type's offerings; an empty zone or capacity type stands for all."""

    instance_type: str
    price_per_hour: float
    zone: str = ""
    capacity_type: str = ""


class ReactionStep(msgspec.Struct, frozen=True):
    """Nodes that go, nodes that come, pods that move (pod, from, to), and what it saves in USD per hour."""

    reason: str
    remove: tuple[str, ...]
    launch: tuple[PlannedNode, ...]
    moves: tuple[tuple[str, str, str], ...]
    saves_per_hour: float = 0.0
    drain: DrainEstimate = DrainEstimate()
    singletons: tuple[PodKey, ...] = ()


class Reaction(msgspec.Struct, frozen=True):
    """What would be done. Money is USD per hour as (rent, rent and charges): now, the same nodes in the changed world,
    and in the end.
    """

    action: str
    before: tuple[float, float]
    unchanged: tuple[float, float]
    after: tuple[float, float]
    steps: tuple[ReactionStep, ...]
    kept: tuple[tuple[str, Block], ...]
    unschedulable: tuple[Unschedulable, ...] = ()
    drifted: tuple[str, ...] = ()
    """Nodes that are not what their pool asks for, in the changed world only."""
    complete: bool = True
    """False: time was up before the end."""


def react(
    action: str, before: View, changed: View, planner: Planner, clock: Clock, patience_s: float
) -> Reaction:
    """The reallocator's steps in the changed world. `patience_s`: seconds after which no further step is looked for."""
    began = clock()
    names = Names(changed.snapshot.nodes)
    view = msgspec.structs.replace(
        changed, options=msgspec.structs.replace(changed.options, deadline_s=patience_s)
    )
    steps: list[ReactionStep] = []
    first = _provisioned(view, planner)
    if first is not None and (first.nodes or first.existing):
        view, step = _carried_out(view, PENDING, (), first, names)
        steps.append(step)
    outcome = decide(view, planner, clock)
    while outcome.command is not None and clock() - began < patience_s and len(steps) < _MOST_STEPS:
        view, step = _carried_out(
            view, outcome.command.reason.value, outcome.command.nodes, _plan_of(outcome), names
        )
        steps.append(msgspec.structs.replace(step, saves_per_hour=outcome.command.saves_per_hour))
        outcome = decide(view, planner, clock)
    return Reaction(
        action=action,
        before=_cost(before),
        unchanged=_cost(changed),
        after=_cost(view),
        steps=tuple(steps),
        kept=tuple((p.node, p.blocks[0]) for p in outcome.proposals if p.blocks),
        unschedulable=first.unschedulable if first is not None else (),
        drifted=_newly_drifted(before, changed),
        complete=outcome.command is None and outcome.complete,
    )


def at_prices(catalogues: Mapping[str, Catalogue], prices: Sequence[Price]) -> dict[str, Catalogue]:
    """What is on sale, at these prices. Raises UnusableQuestion for one that no offering has."""
    for price in prices:
        if price.price_per_hour <= 0:
            raise UnusableQuestion(
                f"price of {_named(price)}: {price.price_per_hour:g} is not above 0 USD per hour"
            )
        if not any(
            _concerns(price, t.name, o.zone, o.capacity_type)
            for c in catalogues.values()
            for t in c.types
            for o in t.offerings
        ):
            raise UnusableQuestion(f"price of {_named(price)}: nothing on sale is that")
    return {key: _repriced(catalogue, prices) for key, catalogue in catalogues.items()}


def with_pool(snapshot: Snapshot, pool: Pool) -> Snapshot:
    """The cluster with the pool as it would be. Its nodes count as made from the pool as it is, unless they say so."""
    old = snapshot.pools.get(pool.key)
    if old is None:
        return msgspec.structs.replace(snapshot, pools={**snapshot.pools, pool.key: pool})
    stamp = {keys.NODEPOOL_HASH: old.hash, keys.NODEPOOL_HASH_VERSION: HASH_VERSION}
    claims = dict(snapshot.claims)
    for name, claim in snapshot.claims.items():
        if claim.pool == pool.key and claim.annotations.get(keys.NODEPOOL_HASH_VERSION) != HASH_VERSION:
            claims[name] = msgspec.structs.replace(claim, annotations={**claim.annotations, **stamp})
    kept = msgspec.structs.replace(pool, uid=old.uid, conditions=old.conditions, resources=old.resources)
    return msgspec.structs.replace(snapshot, pools={**snapshot.pools, pool.key: kept}, claims=claims)


def _concerns(price: Price, type_: str, zone: str, capacity_type: str) -> bool:
    return (
        price.instance_type == type_
        and price.zone in ("", zone)
        and price.capacity_type in ("", capacity_type)
    )


def _repriced(catalogue: Catalogue, prices: Sequence[Price]) -> Catalogue:
    types = list(catalogue.types)
    for at, kind in enumerate(types):
        for price in prices:
            if price.instance_type != kind.name:
                continue
            offerings = tuple(
                msgspec.structs.replace(o, price=price.price_per_hour, list_price=None, release=None)
                if _concerns(price, kind.name, o.zone, o.capacity_type)
                else o
                for o in kind.offerings
            )
            kind = msgspec.structs.replace(kind, offerings=offerings)
        types[at] = kind
    return Catalogue(types, f"{catalogue.revision} at other prices")


def _named(price: Price) -> str:
    return "/".join(part for part in (price.instance_type, price.zone, price.capacity_type) if part)


def _newly_drifted(before: View, changed: View) -> tuple[str, ...]:
    found = []
    for name, claim in changed.snapshot.claims.items():
        node = changed.snapshot.node_of(claim)
        if node is None or drift_of(claim, changed.snapshot, changed.catalogues, changed.now) is None:
            continue
        was = before.snapshot.claims.get(name)
        if was is None or drift_of(was, before.snapshot, before.catalogues, before.now) is None:
            found.append(node.name)
    return tuple(sorted(found))


def _provisioned(view: View, planner: Planner) -> Plan | None:
    pods = homeless(view)
    if not pods:
        return None
    return planner(
        Problem(view.snapshot, pods, view.catalogues, view.now, without_nodes=leaving(view.snapshot))
    )


def _plan_of(outcome: Outcome) -> Plan:
    """Where a command puts the pods."""
    command = outcome.command
    assert command is not None
    going = frozenset(command.nodes)
    moves = {m.node: m for p in outcome.proposals if p.node in going for m in p.moves}
    return Plan(nodes=command.replacements, existing=tuple(moves[node] for node in sorted(moves)))


def _carried_out(
    view: View, reason: str, gone: Sequence[str], plan: Plan, names: Names
) -> tuple[View, ReactionStep]:
    """The view once the nodes are away and the pods where the plan puts them, and the step that led there."""
    old = view.snapshot
    outlook = Outlook(old, view.now, surge=view.options.surge)
    fresh = tuple(msgspec.structs.replace(n, name=names.fresh(n.pool)) for n in plan.nodes)
    named = msgspec.structs.replace(plan, nodes=fresh)
    moves = moves_of(named, old)
    step = ReactionStep(
        reason=reason,
        remove=tuple(sorted(gone)),
        launch=fresh,
        moves=moves,
        drain=outlook.drain(gone),
        singletons=outlook.singletons(pod for pod, node, _ in moves if node),
    )
    return msgspec.structs.replace(view, snapshot=_after(view, frozenset(gone), fresh, moves)), step


def _after(
    view: View,
    gone: frozenset[str],
    fresh: Sequence[PlannedNode],
    moves: Sequence[tuple[str, str, str]],
) -> Snapshot:
    old = view.snapshot
    ended = {claim.name for name in gone if (claim := old.claim_of(old.nodes[name])) is not None}
    nodes = {name: node for name, node in old.nodes.items() if name not in gone}
    claims = {name: claim for name, claim in old.claims.items() if name not in ended}
    for planned in fresh:
        nodes[planned.name], claims[planned.name] = _made(view, planned)
    to = {pod: node for pod, _, node in moves if node in nodes}
    pods, pods_on = dict(old.pods), {name: set(old.pods_on.get(name, ())) for name in nodes}
    for name in gone:
        for key in old.pods_on.get(name, ()):
            if key not in to:
                del pods[key]
    for key, node in to.items():
        was = pods[key].node
        if was in pods_on:
            pods_on[was].discard(key)
        pods[key] = msgspec.structs.replace(
            pods[key],
            shape=old.successor(pods[key]),
            node=node,
            phase="Running",
            unschedulable=False,
            ready=True,
        )
        pods_on[node].add(key)
    return msgspec.structs.replace(
        old,
        pods=pods,
        nodes=nodes,
        claims=claims,
        pods_on={name: frozenset(held) for name, held in pods_on.items() if held},
        claim_of_provider={c.provider_id: name for name, c in claims.items() if c.provider_id},
        node_of_provider={n.provider_id: name for name, n in nodes.items() if n.provider_id},
    )


def _made(view: View, planned: PlannedNode) -> tuple[Node, NodeClaim]:
    """A planned node as it will be once it is up, with its claim."""
    pool = view.snapshot.pools.get(planned.pool)
    node_class = pool.node_class if pool is not None else NodeClassRef("")
    catalogue = view.catalogues.get(node_class.key) or view.catalogues.get("")
    node = place_to_make(planned, planned.name, catalogue).node
    offering = {
        keys.INSTANCE_TYPE: planned.instance_type,
        keys.ZONE: planned.zone,
        keys.CAPACITY_TYPE: planned.capacity_type,
    }
    labels = {**node.labels, **offering, **pool_labels(planned.pool)}
    claim = NodeClaim(
        planned.name,
        uid=planned.name,
        labels=labels,
        node_class=node_class,
        provider_id=node.provider_id,
        node_name=planned.name,
        termination_grace_period_s=pool.termination_grace_period_s if pool is not None else None,
        conditions=tuple(Condition(kind, "True", kind) for kind in (LAUNCHED, REGISTERED, INITIALIZED)),
    )
    return msgspec.structs.replace(node, labels=labels), claim


def _cost(view: View) -> tuple[float, float]:
    found = candidates(view)
    rent = sum(c.price_per_hour or 0.0 for c in found)
    return rent, rent + sum(c.node_charge_per_hour for c in found)

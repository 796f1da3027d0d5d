"""A consolidation for the live loop: where the cluster could be in one go, and the commands that lead there.

The search and its steps are a play's (`consolidation`), but under the rules of this moment: windows and budgets as they
are now, no more nodes in all than budgets let go at once, no pod moved twice, nothing dearer on the way than a tenth above
the start. Pods come back under other names and would go wherever there is room, so a course says what each node is to hold
by owner and shape, and only pods that may be bound to such a place take part. It is for calm clusters only, and where
several nodes can go for a gain that is worth the quiet; everything else is left to single commands. `still_holds` looks
again before each of its commands.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from itertools import accumulate
from typing import Final

import msgspec

from nodeyard.api.node import INITIALIZED
from nodeyard.api.pod import PodKey
from nodeyard.api.pool import BALANCED, PoolKey
from nodeyard.api.quantity import fits, total
from nodeyard.disruption.arrangement import Arrangement, Place
from nodeyard.disruption.budgets import limit
from nodeyard.disruption.candidates import candidates, price
from nodeyard.disruption.commands import command_of
from nodeyard.disruption.consolidation import AT_ONCE, Play, Settings, Way, reached
from nodeyard.disruption.evictability import must_move
from nodeyard.disruption.hysteresis import steadied
from nodeyard.disruption.judgement import Pass, consolidation_blocks
from nodeyard.disruption.model import Block, Candidate, Course, Distance, Reason, Rule, View
from nodeyard.disruption.replacement import narrowed
from nodeyard.disruption.search import Search, Target
from nodeyard.disruption.several import priced
from nodeyard.disruption.simulation import homeless, leaving
from nodeyard.disruption.unfolding import RISE, Pace
from nodeyard.disruption.worth import cheap_ones
from nodeyard.provisioning.keeping import (
    Kept,
    Kind,
    homes,
    kept_of,
    kind_of,
    load_with_places,
    open_places,
    present,
)
from nodeyard.provisioning.landing import bindable
from nodeyard.provisioning.lifecycle import needs_daemon
from nodeyard.provisioning.model import OfferingRef, Options, Plan, PlannedNode
from nodeyard.state.cluster import Snapshot

_LEAST_NODES: Final = 3
"""Fewer can be taken by single commands, without closing any node."""
_LEAST_SHARE: Final = 0.02
"""Of what the nodes cost that may go: a course keeps places closed while it lasts, which less is not worth."""
_SECONDS: Final = 6.0
_SECONDS_PER_NODE: Final = 0.01
_EPSILON: Final = 1e-9
Facts = dict[str, str | int | float | bool]


def best_course(run: Pass) -> tuple[Course | Block, Distance | None]:
    """The way to the cheapest nodes that can be reached now, or why there is none; and how far the cluster stands from
    the cheapest, where that was searched for. Ask in a calm cluster.
    """
    play = _Ahead(run)
    found = _sought(run, play)
    return found, play.distance


def _sought(run: Pass, play: "_Ahead") -> Course | Block:
    movable = [p for p in play.start.places.values() if p.movable]
    if len(movable) < _LEAST_NODES:
        return Block(Rule.SEVERAL_NODES, "too few nodes may go to be worth a course", {"nodes": len(movable)})
    way = play.way()
    gone = sum(len(step.remove) for step in way.steps)
    saves, least = play.start.cost - way.after.cost, _LEAST_SHARE * sum(p.cost for p in movable)
    if gone < _LEAST_NODES or saves < least:
        facts: Facts = {"nodes": gone, "savesPerHour": round(saves, 6), "leastPerHour": round(least, 6)}
        return Block(Rule.NOT_CHEAPER, "what could go is not worth a course", facts)
    if (block := play.beyond_budgets(way)) is not None:
        return block
    if any(saved < -_EPSILON for saved in accumulate(step.saves_per_hour for step in way.steps)):
        return Block(Rule.NOT_CHEAPER, "it would cost more on the way, were it given up there")
    return _course_of(run, play.start, way)


def calm(view: View) -> bool:
    """Whether nothing is under way that would have to be guessed at: nodes that come, pods that look for a place or are
    about to land.
    """
    snapshot = view.snapshot
    joined = all(c.is_true(INITIALIZED) for c in snapshot.claims.values() if not c.deleting)
    if not joined or view.nominated & snapshot.nodes.keys() or homeless(view):
        return False
    going = view.in_command | leaving(snapshot)
    return not any(must_move(pod) for name in going for pod in snapshot.pods_of_node(name))


class _Ahead(Play):
    """A play that goes only as far as can be gone now."""

    def __init__(self, run: Pass) -> None:
        self.live = run
        options = run.view.options
        nodes = len(run.view.snapshot.nodes)
        super().__init__(
            run.view,
            Options(node_charge_usd_per_hour=options.node_charge_usd_per_hour, bound=False),
            Settings(
                disruption_usd=max(1e-6, options.eviction_usd * 3600.0 / max(1.0, options.max_payback_s)),
                spot_to_spot=options.spot_to_spot,
                seconds=_SECONDS + _SECONDS_PER_NODE * nodes,
            ),
            run.clock,
        )

        self.distance: Distance | None = None

    def way(self) -> Way:
        """Steps to the cheapest nodes found, or as far towards them as can be gone."""
        begun = Way([], self.start, ())
        self._rise_to(self.start.rent * (1 + RISE))
        search = self.search(begun)
        target = search.first(0.6 * self.settings.seconds, prove=True)
        self.distance = Distance(self.start.cost, target.bound)
        there = self.towards(begun, target)
        if reached(there, target):
            return self._searched_on(begun, there, search, target)
        smaller = self.search(begun, cheap_ones(self.view.catalogues, RISE * self.start.rent / AT_ONCE))
        small = smaller.first(0.3 * self.settings.seconds, prove=True)
        other = self.towards(begun, small)
        if reached(other, small) and other.after.cost < self.start.cost - _EPSILON:
            return self._searched_on(begun, other, smaller, small)
        return self.towards(begun, target) if self._rise_by_a_node(target) else there

    def _searched_on(self, begun: Way, there: Way, search: Search, target: Target) -> Way:
        """The same after a little more searching, with no more room than there is."""
        better = search.improved(target, self.clock() + 0.3 * self.settings.seconds)
        improved = self.towards(begun, better)
        return min(there, improved, key=lambda w: (len(w.homeless), w.after.cost))

    def _rise_to(self, ceiling: float) -> None:
        self.ceiling = ceiling
        self.pace = Pace(self.allowed, ceiling, self.settings.spot_to_spot)

    def _rise_by_a_node(self, target: Target) -> bool:
        """Room for one new node, as single commands have, where a tenth of the rent pays for none; whether that is more."""
        made = [p.price for name, p in target.arrangement.places.items() if name not in self.start.places]
        ceiling = self.start.rent + max(made, default=0.0)
        if ceiling <= self.ceiling + _EPSILON:
            return False
        self._rise_to(ceiling)
        return True

    def block(self, candidate: Candidate) -> Block | None:
        """The first rule that keeps the node from going, or that leaves it to other methods."""
        run = self.live
        if candidate.blocks:
            return candidate.blocks[0]
        if candidate.price_per_hour is None:
            return Block(Rule.NO_PRICE, "no price is known for its offering")
        pool = self.view.snapshot.pools[candidate.pool]
        if pool.disruption.policy == BALANCED:
            return Block(Rule.POLICY, f"pool {pool.key} weighs each node by itself")
        reason = Reason.UNDERUTILIZED if candidate.pods else Reason.EMPTY
        if (found := next(consolidation_blocks(run, candidate, reason), None)) is not None:
            return found
        if stays := next((pod for pod in candidate.pods if not self._may_be_bound(pod)), None):
            return Block(Rule.UNPLACED, f"no place can be kept for pod {stays}", {"pod": stays})
        if run.room.left(candidate.pool, reason) == 0:
            return run.room.block(candidate, reason)
        return None

    def _may_be_bound(self, key: PodKey) -> bool:
        """Whether the pod comes back, and may then be bound by us to any place kept for its kind: where terms over zones
        count it, which of them it gets matters.
        """
        snapshot = self.view.snapshot
        pod = snapshot.pods[key]
        shape = snapshot.shape(pod)
        if not pod.owner_uid or pod.shape in self.guard.involved or key in snapshot.successors:
            return False
        return bindable(snapshot, pod) and not needs_daemon(shape.requests, shape.volume_claims)

    def allowed(self, key: PoolKey, reason: Reason, nodes: int) -> int | None:
        """How many nodes may go at once now, if the pool has so many."""
        pool = self.view.snapshot.pools.get(key)
        most = limit(pool, reason, nodes, self.view.now) if pool is not None else 0
        return None if most is None else max(0, most - self.live.room.busy[key])

    def beyond_budgets(self, way: Way) -> Block | None:
        """The pool whose budgets let fewer nodes go at once than all the steps take: a course taints them together."""
        pool_of = {name: place.pool for name, place in self.start.places.items()}
        nodes = Counter(pool_of.values())
        going = Counter(pool_of[name] for step in way.steps for name in step.remove)
        reasons = {Reason(step.reason) for step in way.steps}
        for key, many in sorted(going.items()):
            for reason in sorted(reasons):
                most = self.allowed(key, reason, nodes[key])
                if most is not None and many > most:
                    facts: Facts = {"nodes": many, "allowed": most, "reason": reason.value}
                    return Block(Rule.BUDGET, f"the budgets of pool {key} let fewer nodes go at once", facts)
        return None

    def park(self, now: Arrangement, name: str, closed: object) -> dict[PodKey, str] | None:
        """Never: a pod that is parked moves twice."""
        return None


# --- from steps to commands -------------------------------------------------------------------------------------------
def _course_of(run: Pass, start: Arrangement, way: Way) -> Course | Block:
    """The way as commands, at offerings that keep it worth it whichever are launched, or what stops that."""
    by_name = {c.node: c for c in run.found}
    gone = [by_name[name] for step in way.steps for name in step.remove]
    new = [_planned(way.made[name], way.after, run.view.snapshot) for step in way.steps for name in step.add]
    if any(node is None for node in new):
        return Block(Rule.UNPLACED, "a node to be made can't be asked for as it is planned")
    nodes = priced(run, [node for node in new if node is not None], gone)
    steady = nodes if isinstance(nodes, Block) else steadied(run.view, gone, nodes)
    if isinstance(steady, Block):
        return steady
    made = iter(steady)
    commands = []
    for step in way.steps:
        going = [by_name[name] for name in step.remove]
        command = command_of(run.view.now, Reason(step.reason), going, step.saves_per_hour)
        held = tuple(_kept(way.after, run.view.snapshot, name) for name in step.add)
        commands.append(
            msgspec.structs.replace(command, replacements=tuple(next(made) for _ in step.add), keeps=held)
        )
    kept = _receiving(run.view.snapshot, start, way.after)
    return Course(commands[0].id, tuple(commands), kept, start.cost - way.after.cost)


def _kept(after: Arrangement, snapshot: Snapshot, name: str) -> tuple[Kept, ...]:
    return kept_of(snapshot.pods[key] for key in after.held.get(name, ()))


def _receiving(snapshot: Snapshot, start: Arrangement, after: Arrangement) -> dict[str, tuple[Kept, ...]]:
    """What nodes that run and take pods hold in the end; a node without a claim takes pods unkept."""
    taking = [n for n in after.places if n in start.places and set(after.held[n]) - set(start.held[n])]
    return {n: _kept(after, snapshot, n) for n in taking if snapshot.claim_of(snapshot.nodes[n]) is not None}


def _planned(place: Place, after: Arrangement, snapshot: Snapshot) -> PlannedNode | None:
    """The node as it is to be made. Where it got other pods than it was first planned for, only as what it was placed
    as: nobody has asked whether the alternatives hold them.
    """
    node = place.planned
    held = after.held.get(place.name, ())
    if node is None or set(held) == set(node.pods):
        return node
    first = OfferingRef(node.instance_type, node.zone, node.capacity_type, node.price_per_hour)
    more = _difference(snapshot, held, node.pods)
    requests = {r: node.requests.get(r, 0) + more.get(r, 0) for r in node.requests.keys() | more.keys()}
    exact = narrowed(node, [first])
    return msgspec.structs.replace(exact, pods=tuple(held), requests=requests) if exact is not None else None


def _difference(snapshot: Snapshot, now: Iterable[PodKey], before: Iterable[PodKey]) -> Counter[str]:
    """Resource -> how much more the pods of `now` ask for."""
    more: Counter[str] = Counter(total(snapshot.shape(snapshot.pods[key]).requests for key in now))
    more.subtract(total(snapshot.shape(snapshot.pods[key]).requests for key in before))
    return more


# --- the look before each command -------------------------------------------------------------------------------------
def still_holds(course: Course, view: View) -> Block | None:
    """What keeps the first command from beginning as it was decided, the rest of the course behind it; None: nothing.
    `course`: what is left of it; `view.in_command`: without its own nodes.
    """
    looks: tuple[Callable[[Course, View], Block | None], ...] = (
        _same_nodes,
        _open_gates,
        _room_for_all,
        _same_prices,
    )
    return next((block for look in looks if (block := look(course, view)) is not None), None)


def _same_nodes(course: Course, view: View) -> Block | None:
    """Nodes that go are there with no pod that was not, those that stay are there."""
    now = {c.node: c for c in candidates(view)}
    for before in (c for command in course.commands for c in command.candidates):
        again = now.get(before.node)
        if again is None or again.claim_uid != before.claim_uid:
            return Block(Rule.CHANGED, f"node {before.node} is gone")
        if not frozenset(again.pods) <= frozenset(before.pods):
            return Block(Rule.CHANGED, f"pods came to node {before.node}")
        if other := next((pod for pod in again.pods if pod in view.snapshot.successors), None):
            return Block(Rule.CHANGED, f"pod {other} would come back as another", {"pod": other})
    for name in course.kept:
        node = view.snapshot.nodes.get(name)
        claim = view.snapshot.claim_of(node) if node is not None else None
        if node is None or claim is None or claim.deleting or node.deleted_at or not node.ready:
            return Block(Rule.CHANGED, f"node {name} can't take pods any more")
    return None


def _open_gates(course: Course, view: View) -> Block | None:
    """Gates, windows and budgets let the first command's nodes go."""
    run = Pass(view, _ask_nobody, lambda: 0.0)
    now = {c.node: c for c in run.found}
    for name in course.commands[0].nodes:
        again = now[name]
        reason = Reason.UNDERUTILIZED if again.pods else Reason.EMPTY
        blocks = again.blocks + tuple(consolidation_blocks(run, again, reason))
        if blocks:
            return blocks[0]
        if not run.room.take(again.pool, reason):
            return run.room.block(again, reason)
    return None


def _ask_nobody(problem: object) -> Plan:
    raise AssertionError("the gates ask no planner")


def _room_for_all(course: Course, view: View) -> Block | None:
    """Every pod that is to move has a place kept for it, and every place has room."""
    snapshot = view.snapshot
    looking = homes(snapshot, view.now).of
    if any(key not in looking for key in homeless(view)):
        return Block(Rule.PENDING_PODS, "other pods look for a place")
    up = _places(course, view)
    coming = [_counted(kept) for command in course.commands for kept in command.keeps]
    first = [_counted(kept) for kept in course.commands[0].keeps]
    for commands, made in ((course.commands[:1], first), (course.commands, coming)):
        need = Counter(kind_of(snapshot.pods[key]) for key in looking)
        need.update(_kinds(snapshot, (c for command in commands for c in command.candidates)))
        if missing := need - sum([*up.values(), *made], Counter()):
            return Block(Rule.CHANGED, "pods went elsewhere than planned", {"pods": missing.total()})
    for name, places in up.items():
        if not _has_room(snapshot, name, places):
            return Block(Rule.CHANGED, f"node {name} has no room for the pods that are to come")
    return None


def _counted(kept: Iterable[Kept]) -> Counter[Kind]:
    return Counter({(k.owner, k.shape): k.pods for k in kept})


def _kinds(snapshot: Snapshot, gone: Iterable[Candidate]) -> Counter[Kind]:
    keys_ = {key for c in gone for key in c.pods}
    return Counter(kind_of(pod) for key in keys_ if (pod := snapshot.pods.get(key)) is not None)


def _places(course: Course, view: View) -> dict[str, Counter[Kind]]:
    """Node that is up -> the places on it that nobody has taken."""
    snapshot = view.snapshot
    found = {n: _counted(kept) - present(snapshot, snapshot.nodes[n]) for n, kept in course.kept.items()}
    for name, places in open_places(snapshot, view.now).items():
        node = snapshot.node_of(snapshot.claims[name])
        if node is not None:
            found[node.name] = places
    return found


def _has_room(snapshot: Snapshot, name: str, places: Counter[Kind]) -> bool:
    node = snapshot.nodes[name]
    return fits(load_with_places(snapshot, node, places), node.allocatable)


def _same_prices(course: Course, view: View) -> Block | None:
    """What is to be made first can be had, for no more than it was to cost."""
    for node in course.commands[0].replacements:
        pool = view.snapshot.pools.get(node.pool)
        if pool is None:
            return Block(Rule.CHANGED, f"pool {node.pool} is gone")
        cost = price(view, pool.node_class.key, node.instance_type, node.zone, node.capacity_type)
        if cost is None or cost > node.price_per_hour + _EPSILON:
            return Block(Rule.CHANGED, f"{node.instance_type} costs more than when it was chosen")
    return None

"""A consolidation played to its end: search for the cheapest cluster, step towards it, and again from there.

`Play` takes one view of a cluster and says what it would become, in which steps, which nodes stay and why, and how
far the end is from the least possible. Waits are skipped (consolidateAfter, windows of budgets); gates are not. The
live loop plays only what can be done in one go (`course`). Neighbours: `search`, `unfolding`, `candidates` for the
gates.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from nodeyard.api import labels as keys
from nodeyard.api.node import Node
from nodeyard.api.pod import PodKey
from nodeyard.api.pool import BALANCED, WHEN_UNDERUTILIZED, PoolKey
from nodeyard.cloudprovider.model import Catalogue
from nodeyard.disruption.arrangement import Arrangement, Names, Place, place_of, problem_of
from nodeyard.disruption.budgets import limit
from nodeyard.disruption.candidates import candidates, price
from nodeyard.disruption.evictability import PodGuard, eviction_cost
from nodeyard.disruption.judgement import cut_short
from nodeyard.disruption.model import Block, Candidate, Reason, Rule, View
from nodeyard.disruption.neighbours import TopologyGuard
from nodeyard.disruption.outlook import Outlook
from nodeyard.disruption.permission import Permission
from nodeyard.disruption.search import Clock, Ground, Search, Target
from nodeyard.disruption.unfolding import RISE, Pace, Step, Unfolding
from nodeyard.disruption.worth import cheap_ones
from nodeyard.provisioning.model import Options
from nodeyard.provisioning.planner import plan
from nodeyard.scheduling.requirements import canonical_key, states_of

_ANY_NODE = (WHEN_UNDERUTILIZED, BALANCED)
_LEAST_GAIN = 5e-4
_WEEK_H = 168
_MOST_ROUNDS = 6
_TRYING = 0.1
"""Of the time that is left: what one more look for a way to the same nodes may take."""
_WAYS = 5
"""Looks for a way to the same nodes that time is kept for while nodes are searched."""
_PARKING = 0.05
"""Of the time that is left: what finding room for one node's pods may take."""
_PROVING = 0.3
"""Of the time that is left: what a better proof of the bound may take."""
AT_ONCE = 4
"""How many nodes should find room below the ceiling at once."""


class Settings(msgspec.Struct, frozen=True):
    """`disruption_usd`: USD per hour that one unit of eviction cost (a pod of no priority) must save to be worth it.
    `seconds`: for the whole play. `rise`: how far rent may rise on the way, further only once nothing more is gained so.
    """

    disruption_usd: float = 1e-5
    spot_to_spot: bool = True
    seconds: float = 20.0
    rise: float = RISE


class Played(msgspec.Struct, frozen=True):
    """`kept`: node that stays -> the rule that keeps it. `made`: every node that some step makes. Money is USD per hour."""

    before: Arrangement
    after: Arrangement
    steps: tuple[Step, ...]
    kept: Mapping[str, Block]
    bound: float
    unplaced: tuple[PodKey, ...] = ()
    made: Mapping[str, Place] = {}
    seconds: float = 0.0


class Way(msgspec.Struct, frozen=True):
    """Steps, what they lead to, and pods that still have no node then."""

    steps: list[Step]
    after: Arrangement
    homeless: tuple[PodKey, ...]
    made: dict[str, Place] = {}


class Play:
    """One consolidation of one view."""

    def __init__(self, view: View, options: Options, settings: Settings, clock: Clock) -> None:
        self.view, self.options, self.settings, self.clock = view, options, settings, clock
        self.began = clock()
        self.until = self.began + settings.seconds
        snapshot = view.snapshot
        self.found = candidates(view)
        self.guard, self.pods = (
            TopologyGuard(snapshot, _zones(view)),
            PodGuard(snapshot, view.now, surge=view.options.surge),
        )
        self.outlook = Outlook(snapshot, view.now, surge=view.options.surge)
        self.homeless = tuple(
            sorted(
                key
                for key, pod in snapshot.pods.items()
                if not (pod.node or pod.finished or pod.daemon or pod.terminating)
            )
        )
        self.unfolding_s = 0.0
        """How long it took at most to make steps of a target."""
        self.names = Names(snapshot.nodes.keys())
        self._allowed: dict[tuple[PoolKey, Reason, int], int | None] = {}
        self._nodes = Counter(c.pool for c in self.found)
        self._busy = Counter(c.pool for c in self.found if Place(snapshot.nodes[c.node]).busy)
        self.kept = {c.node: block for c in self.found if (block := self.block(c)) is not None}
        self.start = self._start()

    # --- what may move ------------------------------------------------------------------------------------------------
    def _start(self) -> Arrangement:
        snapshot = self.view.snapshot
        places: dict[str, Place] = {}
        held: dict[str, tuple[PodKey, ...]] = {}
        for candidate in self.found:
            node = snapshot.nodes[candidate.node]
            places[candidate.node] = place_of(candidate, node, candidate.node not in self.kept)
        for name, node in snapshot.nodes.items():
            if name not in places:
                places[name] = self._foreign(node)
                self.kept[name] = Block(Rule.NO_POOL, "it belongs to no NodePool")
            held[name] = tuple(
                sorted(k for k in snapshot.pods_on.get(name, ()) if not snapshot.pods[k].daemon)
            )
        return Arrangement(snapshot, places, held)

    def _foreign(self, node: Node) -> Place:
        """A node of no pool: it stays, and costs what it costs."""
        kind, zone, capacity_type = (
            node.labels.get(key, "") for key in (keys.INSTANCE_TYPE, keys.ZONE, keys.CAPACITY_TYPE)
        )
        known = (price(self.view, key, kind, zone, capacity_type) for key in self.view.catalogues)
        cost = next((usd for usd in known if usd is not None), 0.0)
        charge = self.view.options.node_charge_usd_per_hour
        return Place(
            node, instance_type=kind, zone=zone, capacity_type=capacity_type, price=cost, charge=charge
        )

    def block(self, candidate: Candidate) -> Block | None:
        """The first rule that keeps the node for good."""
        if candidate.blocks:
            return candidate.blocks[0]
        if candidate.price_per_hour is None:
            return Block(
                Rule.NO_PRICE, "no price is known for its offering", {"type": candidate.instance_type}
            )
        pool = self.view.snapshot.pools[candidate.pool]
        reason = Reason.UNDERUTILIZED if candidate.pods else Reason.EMPTY
        if pool.disruption.consolidate_after_s is None:
            return Block(Rule.NEVER, f"pool {pool.key} never consolidates")
        if not self.may_go(candidate.pool, candidate.pods):
            return Block(Rule.POLICY, f"pool {pool.key} consolidates only empty nodes")
        shut = self._shut(candidate.pool, reason, self._nodes[candidate.pool], self._busy[candidate.pool])
        if shut is not None:
            return shut
        return cut_short(self.view.snapshot, self.outlook, candidate) if candidate.pods else None

    def _shut(self, key: PoolKey, reason: Reason, nodes: int, busy: int) -> Block | None:
        """Whether the budgets of a pool with so many nodes, so many of them not ready or on their way out, let none go."""
        most = self.allowed(key, reason, nodes)
        if most is None or most > busy:
            return None
        return Block(Rule.BUDGET, f"the budgets of pool {key} let no node go", {"reason": reason.value})

    def may_go(self, key: PoolKey, pods: Sequence[PodKey]) -> bool:
        """Whether the pool's policy lets a node go that holds these pods: any, none ever, or only such that cost nothing
        to evict.
        """
        snapshot = self.view.snapshot
        if key not in snapshot.pools:
            return True
        wanted = snapshot.pools[key].disruption
        if wanted.consolidate_after_s is None or wanted.policy in _ANY_NODE:
            return wanted.consolidate_after_s is not None
        return all(
            eviction_cost(pod, snapshot.shape(pod)) <= 0 for pod in map(snapshot.pods.__getitem__, pods)
        )

    def _settled(self, now: Arrangement) -> Arrangement:
        """The same, where nodes that were made or hold pods by now stay if their pool's policy says so."""
        stays = [
            p for n, p in now.places.items() if p.movable and not self.may_go(p.pool, now.held.get(n, ()))
        ]
        if not stays:
            return now
        held = now.copy()
        held.places |= {p.name: msgspec.structs.replace(p, movable=False) for p in stays}
        return held

    def allowed(self, key: PoolKey, reason: Reason, nodes: int) -> int | None:
        """How many nodes may go at once, now or in the first hour of the week that lets any go; None: no limit."""
        known = (key, reason, nodes)
        if known not in self._allowed:
            pool = self.view.snapshot.pools[key]
            most: int | None = 0
            scheduled = any(b.schedule for b in pool.disruption.budgets)
            for hour in range(_WEEK_H if scheduled else 1):
                most = limit(pool, reason, nodes, self.view.now + hour * 3600.0)
                if most != 0:
                    break
            self._allowed[known] = most
        return self._allowed[known]

    # --- the play -------------------------------------------------------------------------------------------------------
    def run(self) -> Played:
        """Search and step until nothing more is gained."""
        until = self.until
        self.ceiling = self.start.rent * (1 + self.settings.rise)
        self.pace = Pace(self.allowed, self.ceiling, self.settings.spot_to_spot)
        way, bound = Way([], self.start, self.homeless), 0.0
        for number in range(_MOST_ROUNDS):
            before = way.after.cost
            search = self.search(way)
            target = search.first((until - self.clock()) * (0.2 if number else 0.6), prove=number == 0)
            if number == 0:
                if target.arrangement.cost > target.bound * (1 + _LEAST_GAIN):
                    target = search.proved(target, self._share(until, _PROVING))
                bound = target.bound
                self._note(target)
            way, arrived = self._round(way, search, target, until, first=number == 0)
            if arrived or self.clock() > until:
                break
            if before - way.after.cost < _LEAST_GAIN * before and not self._widen(way, target):
                break
        if way.after.cost > bound * (1 + _LEAST_GAIN) and self.clock() < until:
            way = self._onwards(way, until, sweep=False)
        now = way.after
        self._tell(now)
        least = min(bound, now.cost)
        return Played(
            self.start, now, tuple(way.steps), self.kept, least, way.homeless, way.made,
            self.clock() - self.began,
        )  # fmt: skip

    def _tell(self, end: Arrangement) -> None:
        """Why each node stays that could have gone."""
        nodes = Counter(p.pool for p in end.places.values())
        busy = Counter(p.pool for p in end.places.values() if p.busy)
        for name in end.places.keys() & self.start.places.keys() - self.kept.keys():
            pool, reason = end.places[name].pool, Reason.UNDERUTILIZED if end.held[name] else Reason.EMPTY
            self.kept[name] = self._shut(pool, reason, nodes[pool], busy[pool]) or Block(
                Rule.NOT_CHEAPER, "no set of nodes found that holds its pods costs less"
            )

    def _widen(self, way: "Way", target: Target, *, fully: bool = False) -> bool:
        """More room: for one new node at a time where a share of the rent pays for none, else twice as much as there was,
        up to all new nodes beside all old ones (`fully`: at once); whether that is more than there was.
        """
        rent = way.after.rent
        made = [p.price for name, p in target.arrangement.places.items() if name not in way.after.places]
        most = sum(made)
        ceiling = rent + (most if fully else min(most, max([2 * (self.ceiling - rent), *made])))
        if ceiling <= self.ceiling + 1e-9:
            return False
        self.ceiling = ceiling
        self.pace = Pace(self.allowed, ceiling, self.settings.spot_to_spot)
        return True

    def _wider(
        self, way: "Way", there: "Way", target: Target, until: float, *, share: float = _TRYING
    ) -> "Way":
        """The same with as much room as it takes, a little more with each try; with all there can be where a try takes
        more than that share of the time.
        """
        while not reached(there, target) and self.unfolding_s < (left := until - self.clock()):
            if not self._widen(way, target, fully=self.unfolding_s > share * left):
                break
            there = self.towards(way, target)
        return there

    def _share(self, until: float, share: float) -> float:
        now = self.clock()
        return now + max(0.3, (until - now) * share)

    def _round(
        self, way: "Way", search: Search, target: Target, until: float, *, first: bool
    ) -> tuple["Way", bool]:
        """As near to the cheapest as can be reached in one go; and whether that was the cheapest. Where nodes of any size
        can't be reached below the ceiling, groups of nodes at a time; then ones small enough to be made a few at a time.
        """
        there = self.towards(way, target)
        if first:
            there = self._wider(way, there, target, until)
        if reached(there, target):
            return self._further(way, there, search, target, until), True
        others = [there]
        if not first:
            most = (self.ceiling - way.after.rent) / AT_ONCE
            smaller = self.search(way, cheap_ones(self.view.catalogues, most))
            target = smaller.first(0.2 * (until - self.clock()), prove=False)
            other = self.towards(way, target)
            if reached(other, target) and other.after.cost < way.after.cost * (1 - _LEAST_GAIN):
                others.append(self._further(way, other, smaller, target, self._share(until, 0.4)))
        if len(others) == 1:
            until = self._share(until, 0.5)
            others.append(self._onwards(self._housed(way, search), until, sweep=True))
        return min(others, key=lambda w: (len(w.homeless), w.after.cost)), False

    def _housed(self, way: "Way", search: Search) -> "Way":
        """The same, once pods without a node have one: exchanges are about pods that run."""
        settled = search.settled() if way.homeless else None
        return way if settled is None else self.towards(way, Target(settled, 0.0))

    def _further(self, way: "Way", there: "Way", search: Search, target: Target, until: float) -> "Way":
        """The same, after more searching."""
        better = search.improved(target, until - _WAYS * self.unfolding_s)
        improved = self._wider(way, self.towards(way, better), better, until, share=1.0)
        return min(there, improved, key=lambda w: (len(w.homeless), w.after.cost))

    def towards(self, way: "Way", target: Target) -> "Way":
        began = self.clock()
        unfolding = Unfolding(way.after, target.arrangement, self.guard, self.pods, self.pace, self.park)
        steps, after = unfolding.run(way.homeless)
        steps, after = self._worthwhile(way.after, steps, after)
        placed = {key for held in after.held.values() for key in held}
        homeless = tuple(key for key in way.homeless if key not in placed)
        self.unfolding_s = max(self.unfolding_s, self.clock() - began)
        made = {name: target.arrangement.places[name] for step in steps for name in step.add}
        return Way([*way.steps, *steps], after, homeless, way.made | made)

    def _onwards(self, way: "Way", until: float, *, sweep: bool) -> "Way":
        """Exchanges each of which may be made as it is: every node once in large groups, or here and there."""
        search = self.search(way)
        moves = search.stepwise(until, Permission(self), sweep=sweep)
        steps, now = list(way.steps), way.after
        for move in moves:
            before, evicted = now, [key for name in move.gone for key in now.held[name]]
            now = now.copy()
            arriving: dict[str, list[PodKey]] = {}
            for key, node in move.moves.items():
                arriving.setdefault(node, []).append(key)
            now.replace(move.gone, move.made, arriving)
            reason = Reason.UNDERUTILIZED if evicted else Reason.EMPTY
            steps.append(
                Step(
                    move.gone, tuple(p.name for p in move.made), len(evicted), before.cost - now.cost,
                    reason.value, move.moves,
                )
            )  # fmt: skip
        made = {place.name: place for move in moves for place in move.made}
        return Way(steps, now, way.homeless, way.made | made)

    def search(self, way: "Way", catalogues: Mapping[str, Catalogue] | None = None) -> Search:
        pods, now = self.view.snapshot.pods, self._settled(way.after)
        moving = [key for held in now.held.values() for key in held]
        cost = {
            key: max(0.0, eviction_cost(pods[key], self.view.snapshot.shape(pods[key]))) for key in moving
        }
        ground = Ground(
            catalogues or self.view.catalogues,
            self.options,
            self.view.now,
            cost,
            self.settings.disruption_usd,
        )
        return Search(ground, now, way.homeless, self.guard, self.names, self.clock)

    def _note(self, target: Target) -> None:
        for name, why in target.stuck.items():
            self.kept[name] = Block(Rule.UNPLACED, why)

    def park(self, now: Arrangement, name: str, closed: object) -> dict[PodKey, str] | None:
        """Room for one node's pods on nodes that go later."""
        assert isinstance(closed, (set, frozenset))
        problem = problem_of(
            now,
            self.view.catalogues,
            self.view.now,
            {name},
            now.held[name],
            closed=closed,
            allow_new_nodes=False,
        )
        left = self.until - self.clock()
        if left <= 0:
            return None
        effort = msgspec.structs.replace(self.options, bound=False, deadline_s=min(1.0, _PARKING * left))
        made = plan(problem, effort, self.clock)
        if made.unschedulable:
            return None
        return {key: placement.node for placement in made.existing for key in placement.pods}

    def _worthwhile(
        self, start: Arrangement, steps: list[Step], after: Arrangement
    ) -> tuple[list[Step], Arrangement]:
        """The steps up to the cheapest moment: what comes after it was cut short and does not pay."""
        if not steps:
            return steps, start
        saved, best, at = 0.0, 0.0, 0
        for number, step in enumerate(steps, 1):
            saved += step.saves_per_hour - self.settings.disruption_usd * step.evictions
            if saved > best + 1e-9 or step.reason == "Pending":
                best, at = saved, number
        if at == len(steps):
            return steps, after
        return steps[:at], replayed(start, steps[:at], after)


def reached(way: Way, target: Target) -> bool:
    return way.after.cost <= target.arrangement.cost * (1 + _LEAST_GAIN)


def _zones(view: View) -> set[str]:
    """Where some pool could buy a node now."""
    sold: set[str] = set()
    for pool in view.snapshot.pools.values():
        catalogue = view.catalogues.get(pool.node_class.key) or view.catalogues.get("")
        wanted = [states_of(r) for r in pool.requirements if canonical_key(r.key) == keys.ZONE]
        zones = {o.zone for t in (catalogue.types if catalogue else ()) for o in t.offerings if o.available}
        sold |= {zone for zone in zones if all(states.allows(zone) for states in wanted)}
    return sold


def replayed(start: Arrangement, steps: list[Step], known: Arrangement) -> Arrangement:
    """The arrangement after these steps; `known` has the nodes that are made."""
    now = start.copy()
    made = dict(known.places)
    for step in steps:
        moves: dict[str, list[PodKey]] = {}
        for key, node in step.moves.items():
            moves.setdefault(node, []).append(key)
        now.replace(step.remove, [made[n] for n in step.add], moves)
    return now

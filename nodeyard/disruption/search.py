"""The search for the cheapest nodes that hold all pods: what to take away, what to make, where the pods go.

First the planner is asked what it would build if every movable node were gone, and if only the most wasteful ones
were; the cheapest answer is then improved node by node: a few wasteful nodes are emptied, and their pods planned anew
beside their neighbours, as small problems of their own. Pods that have terms over zones stay in theirs there, so that
those terms can't notice and no problem ever needs the whole cluster. Disruption counts once per pod
that leaves a node that runs. Neighbours: `worth` says what is wasteful, `unfolding` makes steps of the answer.
"""

from collections.abc import Callable, Collection, Mapping, Sequence

import msgspec
import numpy as np

from nodeyard.api.pod import PodKey, ShapeId
from nodeyard.cloudprovider.model import Catalogue
from nodeyard.disruption.arrangement import Arrangement, Names, Place, applied, problem_of
from nodeyard.disruption.neighbours import Excess, TopologyGuard
from nodeyard.disruption.parts import Parts
from nodeyard.disruption.worth import Worth, only, worth_of
from nodeyard.disruption.yard import Permit, Yard
from nodeyard.provisioning.model import Options, Plan, Problem
from nodeyard.provisioning.planner import least, plan

Clock = Callable[[], float]
_PATIENCE = 0.2
"""Of the time there is: after so much of it, parts of the cluster are not tried any more."""
_WHOLE_S, _PART_S = 0.7, 0.05
"""Of the time there is: the planner's deadline for the cluster without any of its nodes, and without some."""
_MIXING = 0.6
"""Of the planner's deadline for the whole: what finding the best mix of fillings may take."""
_SHARES = (0.25, 0.5, 0.75)
_CLOSE = 1.0005
_FEW_SHAPES = 60
_EFFORT = 0.06
"""The planner's deadline in seconds for a first try, of which it uses a part to improve; more as tries fail."""
_TRIES_PER_NODE = 12
_LEAST_TRIES = 150


class Ground(msgspec.Struct, frozen=True):
    """What every question of a search shares. `disruption_usd`: USD per hour that one unit of eviction cost must save."""

    catalogues: Mapping[str, Catalogue]
    options: Options
    now: float
    eviction_cost: Mapping[PodKey, float]
    disruption_usd: float = 0.0


class Target(msgspec.Struct, frozen=True):
    """The cheapest arrangement found, and the least any could cost."""

    arrangement: Arrangement
    bound: float
    stuck: Mapping[str, str] = {}
    """Node -> why its pods could go nowhere."""


class Move(msgspec.Struct, frozen=True):
    """One exchange: nodes that go, nodes that are made for it, and where each pod goes."""

    gone: tuple[str, ...]
    made: tuple[Place, ...]
    moves: Mapping[PodKey, str]


class Search:
    """One search over one arrangement. `homeless`: pods to be placed that are on no node."""

    def __init__(
        self,
        ground: Ground,
        start: Arrangement,
        homeless: Sequence[PodKey],
        guard: TopologyGuard,
        names: Names,
        clock: Clock,
    ) -> None:
        self.ground, self.start, self.guard, self.clock = ground, start, guard, clock
        self.homeless = tuple(homeless)
        self.names = names
        self.rng = np.random.default_rng(1)
        self.stuck: dict[str, str] = {}
        self.bound = 0.0
        self._asked: tuple[Problem, float] | None = None
        """What the bound is of, and what nodes that stay cost beside it."""
        self.before: Excess = {}
        self.worth = Worth({}, frozenset(), frozenset())
        self.small: Mapping[str, Catalogue] = ground.catalogues
        self.shape_of: dict[PodKey, ShapeId] = {
            key: start.base.successor(start.base.pods[key])
            for held in (*start.held.values(), self.homeless)
            for key in held
        }
        self.parts = Parts(start.base, guard, ground.now)
        self.trail: list[Move] = []
        """Every exchange that `stepwise` has accepted, in order."""

    # --- the whole --------------------------------------------------------------------------------------------------
    def first(self, seconds: float, *, prove: bool) -> Target:
        """The planner's answer for the cluster without its movable nodes, or without the most wasteful of them;
        `prove`: with the bound.
        """
        self.before = self.guard.excess(self.start)
        movable = self._movable()
        everything = self._pods(self.start, movable)
        self.worth = worth_of(self._problem(self.start, movable, everything), self.ground.options)
        self.small = only(self.ground.catalogues, self.worth.types | self._types())
        best = self.settled()
        began = self.clock()
        for number, gone in enumerate(self._first_sets(movable)):
            if number and self.clock() - began > _PATIENCE * seconds:
                break
            made = self._without(
                gone, seconds * (_PART_S if number else _WHOLE_S), bound=prove and not number, mix=not number
            )
            if made is None or self.guard.worse(self.before, self.guard.excess(made)):
                continue
            if best is None or self._better(made, best):
                best = made
        return self._target(best or self.start)

    def _better(self, one: Arrangement, other: Arrangement) -> bool:
        """More pods placed, or as many for less."""
        more = sum(map(len, one.held.values())) - sum(map(len, other.held.values()))
        return more > 0 or (more == 0 and self.objective(one) < self.objective(other) - 1e-9)

    def proved(self, target: Target, until: float) -> Target:
        """The target with a bound that had more time, where pods are of few enough shapes for that to be worth it."""
        if self._asked is None or len({*self.shape_of.values()}) > _FEW_SHAPES:
            return target
        problem, staying = self._asked
        aim = target.arrangement.cost - staying
        low = least(problem, self.ground.options, aim, until - self.clock(), self.clock)
        self.bound = max(self.bound, low + staying)
        return self._target(target.arrangement)

    def improved(self, target: Target, until: float) -> Target:
        """The target made cheaper until the clock says so, or nothing better is found."""
        best = self._improved(target.arrangement, until)
        return target if self.guard.worse(self.before, self.guard.excess(best)) else self._target(best)

    def _target(self, arrangement: Arrangement) -> Target:
        return Target(arrangement, min(self.bound, arrangement.cost), self.stuck)

    def stepwise(self, until: float, permit: Permit, *, sweep: bool) -> list[Move]:
        """Only exchanges that may be made one after the other as they are; each saves by itself. `sweep`: every node
        once, in groups as large as may go together.
        """
        movable = self._movable()
        self.worth = worth_of(
            self._problem(self.start, movable, self._pods(self.start, movable)), self.ground.options
        )
        self.small = only(self.ground.catalogues, self.worth.types | self._types())
        now = self.start.copy()
        if sweep:
            self._swept(now, until, permit)
        else:
            self._improved(now, until, permit)
        return self.trail

    def _swept(self, now: Arrangement, until: float, permit: Permit) -> None:
        """Every node that runs once, in groups as large as may go together: no pod moves twice."""
        yard = Yard(self, now, permit)
        waiting = {n for n in self.start.places if n not in yard.fixed}
        while waiting and self.clock() < until:
            gone, hosts = yard.group(waiting)
            waiting -= set(gone)
            left = sum(now.places[n].cost for n in waiting) / max(1e-9, sum(now.places[n].cost for n in gone))
            effort = min(self.ground.options.deadline_s, 2 * (until - self.clock()) / (1 + left))
            problem = self.parts.part(now, gone, hosts, self.small, beside=True)
            self._tried(now, yard, gone, problem, max(0.2, effort), permit)

    def objective(self, arrangement: Arrangement) -> float:
        """Rent, node charges, and the price of the evictions on the way there."""
        return arrangement.cost + self._disruption(self.start.places.keys() - arrangement.places.keys())

    def _disruption(self, gone: Collection[str]) -> float:
        if self.ground.disruption_usd <= 0:
            return 0.0
        cost = self.ground.eviction_cost
        pods = (key for name in gone for key in self.start.held.get(name, ()))
        return self.ground.disruption_usd * sum(cost.get(key, 0.0) for key in pods)

    def _movable(self) -> frozenset[str]:
        return frozenset(n for n, p in self.start.places.items() if p.movable and n not in self.stuck)

    def _types(self) -> frozenset[str]:
        return frozenset(p.instance_type for p in self.start.places.values())

    def _pods(self, arrangement: Arrangement, gone: Collection[str]) -> tuple[PodKey, ...]:
        moving = [key for name in gone for key in arrangement.held.get(name, ())]
        return tuple(sorted([*moving, *self.homeless]))

    def _problem(self, arrangement: Arrangement, gone: Collection[str], pods: tuple[PodKey, ...]) -> Problem:
        return problem_of(arrangement, self.ground.catalogues, self.ground.now, gone, pods)

    # --- first answers ------------------------------------------------------------------------------------------------
    def settled(self) -> Arrangement | None:
        """As it is, with the homeless pods placed; None where some find no place so."""
        return self._without(frozenset(), 5.0, bound=False) if self.homeless else self.start

    def _first_sets(self, movable: frozenset[str]) -> list[frozenset[str]]:
        """Everything, and the most wasteful parts of it."""
        waste = {n: self.waste(self.start, n) for n in movable}
        order = sorted(movable, key=lambda n: (-waste[n], n))
        parts = [frozenset(order[: max(1, round(len(order) * share))]) for share in _SHARES]
        return [movable, *(p for p in parts if p and len(p) < len(movable))]

    def waste(self, arrangement: Arrangement, name: str) -> float:
        """USD per hour that the node costs beyond what its pods are worth."""
        worth = self.worth.of_shape
        held = sum(worth.get(self.shape_of[key], 0.0) for key in arrangement.held.get(name, ()))
        return arrangement.places[name].cost - held

    def _without(
        self, gone: frozenset[str], seconds: float, *, bound: bool, mix: bool = False
    ) -> Arrangement | None:
        """The start without these nodes; ones whose pods can't go anywhere stay. None where that leads nowhere."""
        for _ in range(4):
            gone = gone - self.stuck.keys()
            problem = self._problem(self.start, gone, self._pods(self.start, gone))
            made = self._plan(problem, seconds, bound=bound, mix=mix)
            refused = {u.pod: u.message for u in made.unschedulable if u.pod not in self.homeless}
            if bound:
                self._take_bound(made, gone)
            if not refused:
                return applied(self.start, made, gone, self.names, self.ground.catalogues)
            for name in gone:
                held = next((key for key in self.start.held.get(name, ()) if key in refused), None)
                if held is not None:
                    self.stuck[name] = f"pod {held} would find no place: {refused[held]}"
        return None

    def _plan(self, problem: Problem, seconds: float, *, bound: bool, mix: bool = False) -> Plan:
        left = max(0.2, min(seconds, self.ground.options.deadline_s))
        options = msgspec.structs.replace(
            self.ground.options, bound=bound, deadline_s=left, mixing_s=left * _MIXING if mix else 0.0
        )
        return plan(problem, options, self.clock)

    def _take_bound(self, made: Plan, gone: Collection[str]) -> None:
        """The planner's bound, with the nodes that stay at what they cost. A node that could not be bought again as it
        is counts as there for nothing, and pods that would come back larger as they are, so that keeping what there is
        can't beat the bound.
        """
        unlike = [n for n in gone if self.start.places[n].offering not in self.worth.offered]
        bound = made.cost.lower_bound or 0.0
        problem = self._problem(self.start, gone, self._pods(self.start, gone))
        if unlike or self.start.base.successors:
            rest = frozenset(gone) - frozenset(unlike)
            bare = self.start.copy()
            for name in unlike:
                bare.held[name] = ()
            problem = self._problem(bare, rest, problem.pods)
            as_they_are = msgspec.structs.replace(problem.snapshot, successors={})
            problem = msgspec.structs.replace(problem, snapshot=as_they_are)
            again = self._plan(problem, 5.0, bound=True)
            bound, made = again.cost.lower_bound or 0.0, again
        staying = sum(p.cost for n, p in self.start.places.items() if n not in gone)
        self.bound = bound + staying
        self._asked = None if made.unschedulable else (problem, staying)

    # --- improvement --------------------------------------------------------------------------------------------------
    def _improved(self, now: Arrangement, until: float, permit: Permit | None = None) -> Arrangement:
        """Empties a few wasteful nodes at a time while that pays and time is left."""
        now = now if permit else now.copy()
        failures = 0
        patience = _LEAST_TRIES + _TRIES_PER_NODE * len(now.places)
        yard = Yard(self, now, permit)
        while self.clock() < until and failures < patience and now.cost > self.bound * _CLOSE:
            gone, hosts = yard.pick()
            if not gone:
                break
            effort = _EFFORT * (1 + failures / 5) * float(0.5 + self.rng.random())
            effort = max(_EFFORT, min(effort, until - self.clock()))
            problem = self.parts.part(now, gone, hosts, self.small, beside=permit is not None)
            better = self._tried(now, yard, gone, problem, effort, permit)
            failures = 0 if better else failures + 1
        return now

    def _tried(
        self, now: Arrangement, yard: Yard, gone: list[str], problem: Problem, effort: float,
        permit: Permit | None,
    ) -> bool:  # fmt: skip
        options = msgspec.structs.replace(self.ground.options, bound=False, deadline_s=effort)
        made = plan(problem, options, self.clock)
        if made.unschedulable:
            return False
        leaving = gone if permit else [n for n in gone if n in self.start.places]
        before = sum(now.places[n].cost for n in gone)
        after = made.cost.objective_per_hour + self._disruption(leaving)
        if after >= before - 1e-7 or (permit is not None and not permit.allows(now, gone, made)):
            return False
        changed = applied(now, made, gone, self.names, self.ground.catalogues)
        if permit is not None:
            move = _move(now, changed, gone)
            if self.guard.parted(changed, move.moves):
                return False
            self.trail.append(move)
        now.places, now.held = changed.places, changed.held
        yard.update(gone, [p.node for p in made.existing])
        return True


def _move(before: Arrangement, after: Arrangement, gone: Sequence[str]) -> Move:
    leaving = {key for name in gone for key in before.held[name]}
    moves = {
        key: name
        for name in after.places
        if name not in before.places or len(after.held[name]) > len(before.held[name])
        for key in after.held[name]
        if key in leaving
    }
    return Move(tuple(gone), tuple(p for n, p in after.places.items() if n not in before.places), moves)

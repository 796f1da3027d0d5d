"""One replay: a queue of moments, the world, and the two deciders wired to it.

Moments at the same time happen in the order in which they were asked for; pods of one second arrive together. After
each moment the deciders are told that something may have changed and say for themselves when they want to look.
"""

import heapq
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import numpy as np

from nodeyard.disruption.model import Options as DisruptionOptions
from nodeyard.disruption.simulation import effort_s
from nodeyard.provisioning.labelled import Floats
from nodeyard.provisioning.landing import Planner
from nodeyard.provisioning.model import Options, Plan, Problem
from nodeyard.provisioning.planner import plan
from nodeyard.replay.allocating import Allocating
from nodeyard.replay.baseline import largest_fit
from nodeyard.replay.bill import by_hour
from nodeyard.replay.kube_scheduler import unknown_terms
from nodeyard.replay.market import Market
from nodeyard.replay.policy import Kind, Policy, applied
from nodeyard.replay.reallocating import EVICTIONS, Reallocating
from nodeyard.replay.result import Hour, Result, waits_of
from nodeyard.replay.trace import Trace, TraceError, TracePod
from nodeyard.replay.work_clock import WorkClock
from nodeyard.replay.world import USUAL, State, Timing, World
from nodeyard.state.cluster import Change
from nodeyard.state.cluster import Kind as Of

_HOUR_S: Final = 3600.0
_STEP_S: Final = 0.002
"""What one look at the clock costs the planner of its time to improve a plan."""
_PLAN_SEARCH_S: Final = 0.05
"""Counted work for a cheaper plan of the allocator's; a live one has five times that."""
_WHAT_IF_SEARCH_S: Final = 0.02
"""The most for one question of the reallocator's, of which there are many."""
_PASS_STEP_S: Final = 4.0
"""What one look at the clock costs a pass of its deadline: some fifteen nodes are judged, the most promising first."""


class Agenda:
    """Moments to come, by time and then by order of asking."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._number = itertools.count()

    def at(self, at_s: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (at_s, next(self._number), what))

    @property
    def next_s(self) -> float:
        return self._heap[0][0] if self._heap else math.inf

    def take(self) -> Callable[[], None]:
        return heapq.heappop(self._heap)[2]


class Replay:
    """One policy over one trace, step by step (`run` does them all)."""

    def __init__(
        self,
        trace: Trace,
        market: Market,
        objects: Sequence[Change],
        policy: Policy,
        timing: Timing = USUAL,
    ) -> None:
        _check(trace)
        self.trace, self.market, self.policy = trace, market, policy
        self.agenda = Agenda()
        shaped = [_with_policy(change, policy) for change in objects]
        self.world = World(trace, shaped, timing, packed=policy.packed, schedule=self.agenda.at)
        options = planner_options(policy)
        clock = WorkClock(_STEP_S)
        planner: Planner = largest_fit if policy.kind is Kind.BASELINE else plan

        def what_if(problem: Problem) -> Plan:
            asked = msgspec.structs.replace(options, search_s=min(effort_s(problem), _WHAT_IF_SEARCH_S))
            return planner(problem, asked, WorkClock(_STEP_S))

        self.allocating = Allocating(self.world, policy, planner, options, clock, self.agenda.at)
        self.reallocating = Reallocating(
            self.world, policy, what_if,
            disruption_options(policy),
            self.allocating.nominated, WorkClock(_PASS_STEP_S), self.agenda.at,
        )  # fmt: skip
        self._arrivals = 0
        self._hours: list[Hour] = []
        self._before: tuple[int, int, int] = (0, 0, 0)
        self._agree()

    def _agree(self) -> None:
        """Puts down what is known from the start: prices, reclaims, hours."""
        world = self.world
        for at_s, catalogue in self.market.catalogues:
            self.agenda.at(at_s, lambda catalogue=catalogue: world.reprice(catalogue))  # type: ignore[misc]
        for each in self.market.reclaims:
            self.agenda.at(each.at_s, lambda r=each: world.reclaim(r.instance_type, r.zone))  # type: ignore[misc]
        for hour in range(1, math.ceil(self.trace.length_s / _HOUR_S)):
            self.agenda.at(hour * _HOUR_S, self._hour)

    def run(self) -> None:
        """To the end of the trace."""
        while self.step():
            pass
        self.world.now_s = self.trace.length_s
        self._hour()

    def step(self) -> bool:
        """The next moment and all that happens in it; False where the trace has ended."""
        pods = self.trace.pods
        arrives_s = pods[self._arrivals].arrives_s if self._arrivals < len(pods) else math.inf
        now_s = min(arrives_s, self.agenda.next_s)
        if now_s >= self.trace.length_s:
            return False
        self.world.now_s = now_s
        while self.agenda.next_s <= now_s:
            self.agenda.take()()
        while self._arrivals < len(pods) and pods[self._arrivals].arrives_s <= now_s:
            self.world.arrive(pods[self._arrivals])
            self._arrivals += 1
        self.allocating.noticed()
        self.reallocating.changed()
        return True

    @property
    def to_come(self) -> int:
        """Pods of the trace that have not arrived yet."""
        return len(self.trace.pods) - self._arrivals

    def _hour(self) -> None:
        world = self.world
        world.bill.settle(world.now_s)
        states = world.states()
        now = (len(self.reallocating.moves), world.counts[EVICTIONS], world.counts["interruptions"])
        moves, evictions, interruptions = (a - b for a, b in zip(now, self._before, strict=True))
        self._before = now
        self._hours.append(
            Hour(
                nodes=len(world.machines), pods=states[State.RUNNING], pending=states[State.PENDING],
                moves=moves, evictions=evictions, interruptions=interruptions,
            )
        )  # fmt: skip

    def result(self, bound: Floats | None = None) -> Result:
        """What it came to. `bound`: USD of each hour."""
        world, lines = self.world, self.world.bill.lines
        rent, charge = by_hour(lines, len(self._hours), self.policy.node_charge_usd_per_hour)
        low = np.zeros(len(self._hours)) if bound is None else bound
        hours = tuple(
            Hour(
                float(rent[i]), float(charge[i]), float(low[i]), h.nodes, h.pods, h.pending, h.moves,
                h.evictions, h.interruptions,
            )
            for i, h in enumerate(self._hours)
        )  # fmt: skip
        states, counts = world.states(), world.counts
        moves = [command for _, command in self.reallocating.moves]
        return Result(
            policy=self.policy, length_s=self.trace.length_s, rent=sum(line.usd for line in lines),
            charge=float(charge.sum()), bound=float(low.sum()), node_hours=sum(line.hours for line in lines),
            spot_node_hours=sum(line.hours for line in lines if line.capacity_type == "spot"),
            launches=counts["launches"], moves=len(moves), removed=sum(len(c.candidates) for c in moves),
            evictions=counts[EVICTIONS], interruptions=counts["interruptions"], reclaimed=counts["reclaimed"],
            waits=waits_of(world.waits_s), done=states[State.DONE], running=states[State.RUNNING],
            pending=states[State.PENDING], plans=self.allocating.plans, passes=self.reallocating.passes,
            hours=hours,
            unplaced={k: v for k, v in sorted(self.allocating.unplaced.items()) if k in world.waiting},
        )  # fmt: skip


def replay(
    trace: Trace, market: Market, objects: Sequence[Change], policy: Policy, *, bound: Floats | None = None,
    timing: Timing = USUAL,
) -> Result:  # fmt: skip
    """Plays the policy over the trace. `objects`: pools, node classes and daemon sets. Raises TraceError."""
    one = Replay(trace, market, objects, policy, timing)
    one.run()
    return one.result(bound)


def planner_options(policy: Policy) -> Options:
    """The allocator's options under a policy."""
    return Options(
        node_charge_usd_per_hour=policy.node_charge_usd_per_hour,
        deadline_s=2.0,
        search_s=_PLAN_SEARCH_S,
        bound=False,
    )


def disruption_options(policy: Policy) -> DisruptionOptions:
    """The reallocator's options under a policy."""
    return DisruptionOptions(
        node_charge_usd_per_hour=policy.node_charge_usd_per_hour, spot_to_spot=policy.spot_to_spot
    )


def _check(trace: Trace) -> None:
    for pod in _one_of_each_shape(trace):
        if terms := unknown_terms(trace.shapes[pod.shape]):
            raise TraceError(f"pod {pod.key}: {', '.join(terms)}: a replay can't honour these yet")


def _one_of_each_shape(trace: Trace) -> list[TracePod]:
    return list({pod.shape: pod for pod in reversed(trace.pods)}.values())


def _with_policy(change: Change, policy: Policy) -> Change:
    if change.kind is not Of.POOL or change.value is None:
        return change
    return Change(Of.POOL, change.key, applied(policy, change.value), change.resource_version)

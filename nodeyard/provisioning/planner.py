"""The planner: a problem and options in, a plan out. The allocator, the dry run and every what-if call `plan`.

Pods become classes, pools become columns, nodes become hosts; attempts with different preferences honoured are made
and the best is written down with its proof and the reasons for what was left out. Pure: the clock comes in as an
argument, and the same problem gives the same plan as long as time suffices. docs/planner.md explains how it works.
"""

from collections.abc import Callable, Sequence

import msgspec

from nodeyard.api.pod import PodKey
from nodeyard.provisioning.attempt import Attempt
from nodeyard.provisioning.bounding import Bound, bound_of, relaxed_bound
from nodeyard.provisioning.choices import Choice, Chooser
from nodeyard.provisioning.compiling import compile_problem
from nodeyard.provisioning.domains import ANYWHERE, cells_of, stays_together
from nodeyard.provisioning.effort import Effort
from nodeyard.provisioning.explaining import Explainer, Skipped
from nodeyard.provisioning.field import Field
from nodeyard.provisioning.joint import Joint
from nodeyard.provisioning.launching import Writer, dearest, names
from nodeyard.provisioning.limits import Limits
from nodeyard.provisioning.mending import Mender
from nodeyard.provisioning.mixing import mixed
from nodeyard.provisioning.model import (
    Cost,
    Options,
    Plan,
    Problem,
    Reason,
    Unschedulable,
)
from nodeyard.provisioning.preferring import programmes, unkept
from nodeyard.provisioning.proving import Proof
from nodeyard.provisioning.reserving import kept_waiting
from nodeyard.provisioning.reworking import reworked
from nodeyard.provisioning.setting import Draft, Honour, Setting

_IMPROVE_S = 0.6
_EXACT_S = 1.5
_JOINT_S = 4.5
_REWORK_S = 1.5
"""Seconds of work for improving, exact patterns and the joint program, less of each where they must share a shorter search;
and for reworking what came of them."""
_LONG_SEARCH_S = 3.0
"""In a shorter search, packing makes more of its time than the joint program where pools are all there is to choose."""
_REWORK_FULL, _REWORK_PODS = 1_000, 2_000
"""Pods of which a plan is reworked for the whole time, and at all."""
_REWORK_PART = 0.25
"""As much again as this part of the search is what reworking may take at most."""
_REWORK_LEAST_S = 0.02
"""Less than this is gone before reworking or mixing has begun."""
_MIX_S, _MIX_PART = 3.0, 0.5
_MIX_PODS, _MIX_NODES, _MIX_GAP = 10_000, 20, 1.015
"""Seconds, and part of the search, that packing a plan anew as one mix takes at most; of how many pods at most, nodes at
least, and how far above the relaxation plans are that it is tried for."""
_MIX_FEW, _MIX_WIDE, _MIX_WIDE_S = 2_500, 1.05, 6.0
"""With more pods and a gap as wide, the whole search may go into it, and so many seconds."""
_PROVED = 1.001
_SEARCH_SHARE = 0.6
"""Of the deadline, what may be searched where the options don't say."""
_MANY_PODS = 5_000
_MOST_HOMES = 8
_HOMES_PODS = 300
"""With more pods, homes share less of the time for improving before one is chosen: with many, dealing decides more."""
_HOMES_LEAVE = 0.5
"""Of the search, what trying homes leaves to what follows."""
_BOUND_SHARE = 0.15
_BOUND_MOST_S = 1.5
_BOUND_BESIDE_JOINT_S = 2.5
"""Where the joint program left a gap, problems are small and worth more."""


def plan(problem: Problem, options: Options, clock: Callable[[], float]) -> Plan:
    """The cheapest plan found for the problem's pods. `clock`: seconds, monotonic."""
    started = clock()
    waiting: dict[PodKey, str] = {}
    while True:
        setting, skipped = compile_problem(problem, options)
        draft, complete, proved = _best_draft(setting, clock, started)
        choices = _choices(setting, draft, lambda: started + options.deadline_s * 0.95 - clock())
        found = kept_waiting(setting, draft, choices) if options.strict_reservations else {}
        if not found:
            break
        waiting |= found
        left = tuple(key for key in problem.pods if key not in found)
        problem = msgspec.structs.replace(problem, pods=left)
    planned_s = clock() - started
    bound: Bound | None = None
    if options.bound:
        placed = [(c, c.demand - draft.left.get(c.number, 0)) for c in setting.classes.classes]
        begin = clock()
        most = _BOUND_BESIDE_JOINT_S if proved else _BOUND_MOST_S
        seconds = min(most, options.deadline_s * _BOUND_SHARE * most / _BOUND_MOST_S)
        objective = sum(float(setting.columns.cost[c.columns[0]]) for c in choices)
        stop = max(started + options.deadline_s, begin + seconds)
        setting.effort = Effort(lambda: stop - clock())
        known = None if draft.unplaced else proved
        bound = bound_of(setting, placed, objective, setting.effort.budget(seconds), known)
    bound_s = clock() - started - planned_s
    made = _written(setting, draft, choices, skipped, bound, complete, (planned_s, bound_s))
    if not waiting:
        return made
    left_out = [Unschedulable(key, Reason.RESERVATION, message) for key, message in waiting.items()]
    return msgspec.structs.replace(made, unschedulable=(*made.unschedulable, *left_out))


def least(
    problem: Problem, options: Options, objective: float, seconds: float, clock: Callable[[], float]
) -> float:
    """The objective that no plan of all the problem's pods is below. `objective`: what a plan costs that is known;
    `seconds`: how long to look for more than `plan` proves.
    """
    setting, _ = compile_problem(problem, options)
    placed = [(one, one.demand) for one in setting.classes.classes]
    begin = clock()
    return bound_of(setting, placed, objective, lambda: seconds - (clock() - begin)).value


# --- attempts -----------------------------------------------------------------------------------------------------------
def _best_draft(setting: Setting, clock: Callable[[], float], started: float) -> tuple[Draft, bool, float]:
    """(the best draft, whether time sufficed, what no plan of all pods is below as far as it was proved on the way)."""
    deadline = started + setting.options.deadline_s * 0.9

    def total() -> float:
        return deadline - clock()

    effort = setting.effort = Effort(total)
    searched = _search_s(setting.options) > 0
    whole = Joint.of(setting, [(c, c.demand) for c in setting.classes.classes]) if searched else None
    joint = whole if whole is not None and _worthwhile(setting, whole) else None
    most, exact, together = _shares(setting.options, joint is not None)
    most *= min(1.0, max(_MANY_PODS / max(len(setting.problem.pods), 1), 0.25))  # spread thin over many pods

    def attempt(stages: Sequence[Honour], share: float, home: int = ANYWHERE) -> Draft:
        improving, later = effort.budget(most * share), effort.budget((most + exact) * share)
        return Attempt(setting, stages, improving, total, later, home).run()

    ways = programmes(setting)
    if len(ways) == 1:
        pods, search = len(setting.problem.pods), effort.budget(_search_s(setting.options))
        proof = Proof.of(setting, _search_s(setting.options), small=whole is not None)
        setting.near = proof.near
        homes = _homes(setting)
        if pods > _HOMES_PODS:
            homes = [_likeliest(setting, ways[0], homes, total)]
        draft, proved = _cheapest(attempt, ways[0], homes, pods, search), None
        if joint is not None and (draft.unplaced or not proof.near(draft.cost)):
            draft, proved = joint.improve(draft, effort.budget(together))
        proved = max(proved or 0.0, proof.least)
        if draft.unplaced or (draft.cost > proved * _PROVED and not proof.near(draft.cost)):
            draft = _reworked(setting, draft)
        return draft, total() > 0, proved
    best: tuple[int, float] | None = None
    chosen = ways[0]
    for way in ways:
        draft = attempt(way, 0.0)
        worth = (draft.unplaced, draft.cost + unkept(setting, draft))
        if best is None or worth < best:
            best, chosen = worth, way
        if total() < setting.options.deadline_s * 0.5:
            break
    draft = attempt(chosen, 1.0)
    return _reworked(setting, draft), total() > 0, 0.0


def _reworked(setting: Setting, draft: Draft) -> Draft:
    """The draft, or what comes of packing it anew as a whole and then a few of its nodes at a time, where that is cheaper,
    preferences included.
    """
    pods = len(setting.problem.pods)
    if seconds := _mixing_s(setting, draft):
        draft = _better(setting, mixed(setting, draft, setting.effort.budget(seconds)), draft)
    if not 0 < pods <= _REWORK_PODS:
        return draft
    most = min(_REWORK_S, _search_s(setting.options) * _REWORK_PART)
    seconds = most * min(1.0, _REWORK_FULL / pods)
    if seconds < _REWORK_LEAST_S:
        return draft
    return _better(setting, reworked(setting, draft, setting.effort.budget(seconds)), draft)


def _mixing_s(setting: Setting, draft: Draft) -> float:
    """Seconds for packing the plan anew as one mix: as asked for, else where the plan has many nodes and a wide gap."""
    options = setting.options
    if options.mixing_s > 0:
        return options.mixing_s
    pods, nodes = len(setting.problem.pods), draft.state.count - setting.hosts.count
    seconds = min(_MIX_S, _search_s(options) * _MIX_PART)
    if draft.unplaced or pods > _MIX_PODS or nodes < _MIX_NODES or seconds < _REWORK_LEAST_S:
        return 0.0
    least = relaxed_bound(setting, [(c, c.demand) for c in setting.classes.classes], draft.cost)
    if draft.cost <= least * _MIX_GAP:
        return 0.0
    wide = pods > _MIX_FEW and draft.cost > least * _MIX_WIDE
    return min(_MIX_WIDE_S, _search_s(options)) if wide else seconds


def _better(setting: Setting, one: Draft, other: Draft) -> Draft:
    """The cheaper one, unkept preferences included; the other where they are equal."""
    worth = [draft.cost + unkept(setting, draft) for draft in (one, other)]
    return one if worth[0] < worth[1] else other


def _shares(options: Options, jointly: bool) -> tuple[float, float, float]:
    """Seconds of work for (improving, exact patterns, the joint program)."""
    whole = (_IMPROVE_S, _EXACT_S, _JOINT_S) if jointly else (_IMPROVE_S, _EXACT_S, 0.0)
    part = min(1.0, _search_s(options) / sum(whole))
    return whole[0] * part, whole[1] * part, whole[2] * part


def _search_s(options: Options) -> float:
    return options.deadline_s * _SEARCH_SHARE if options.search_s is None else options.search_s


def _cheapest(
    attempt: Callable[[Sequence[Honour], float, int], Draft],
    stages: Sequence[Honour], homes: Sequence[int], pods: int, spare: Callable[[], float],
) -> Draft:  # fmt: skip
    """The best attempt of all homes: each has a part of the time for improving, the most promising then all of it."""
    if len(homes) == 1:
        return attempt(stages, 1.0, homes[0])
    share = min(1.0, _HOMES_PODS / pods)
    begin, longest = spare(), 0.0
    tried: list[tuple[tuple[int, float], int, Draft]] = []
    for home in homes:
        before = spare()
        if tried and before - longest < begin * _HOMES_LEAVE:
            break
        draft = attempt(stages, share / len(homes), home)
        longest = max(longest, before - spare())
        tried.append((_worth(draft), home, draft))
    worth, home, best = min(tried, key=lambda one: one[0])
    if spare() - longest < begin * _HOMES_LEAVE:
        return best
    again = attempt(stages, 1.0, home)
    return again if _worth(again) < worth else best


def _likeliest(
    setting: Setting, stages: Sequence[Honour], homes: Sequence[int], total: Callable[[], float]
) -> int:
    """The home that leaves most room for a cheap plan, as far as the relaxation of what is dealt so can tell."""
    if len(homes) == 1:
        return homes[0]
    none = setting.effort.budget(0.0)
    return min(homes, key=lambda home: Attempt(setting, stages, none, total, none, home).floor())


def _worth(draft: Draft) -> tuple[int, float]:
    """Less is better."""
    return draft.unplaced, draft.cost


def _homes(setting: Setting) -> list[int]:
    """Cells to try as the home of several groups of pods that each stay in one domain: apart, they can't share nodes."""
    classes = setting.classes.classes
    many = len(setting.problem.pods) > _MANY_PODS
    if many or sum(bool({*c.carried} & {*c.matched}) for c in classes) < 2:
        return [ANYWHERE]
    field = Field(setting.problem, setting.classes, setting.columns, setting.hosts, setting.rules)
    groups = {n for c in classes if stays_together(field.by_domain, c.carried, c.matched) for n in c.carried}
    cells = cells_of(field).count
    return [ANYWHERE, *range(cells)] if len(groups) > 1 and 2 <= cells <= _MOST_HOMES else [ANYWHERE]


def _worthwhile(setting: Setting, joint: Joint) -> bool:
    """Whether the program that decides all at once has more to decide than packing, and knows all there is."""
    limited = Limits(setting.columns, setting.hosts).any
    tied = any(k.by_domain or k.whole or k.joins for k in joint.kinds)
    pools = joint.shares_pools() and _search_s(setting.options) >= _LONG_SEARCH_S
    return bool(limited or joint.host_groups or tied or pools) and joint.knows_all()


# --- writing ------------------------------------------------------------------------------------------------------------
def _choices(setting: Setting, draft: Draft, spare: Callable[[], float]) -> list[Choice]:
    _use_freed_limits(setting, draft, spare)
    chooser = Chooser(setting, draft)
    out: list[Choice] = []
    for node in range(setting.hosts.count, draft.state.count):
        contents = draft.state.contents[node]
        if not contents:
            continue
        choice = chooser.of(node)
        if choice.relaxed and _strict(setting, choice):
            for number, many in contents.items():
                draft.left[number] = draft.left.get(number, 0) + many
            contents.clear()
            continue
        out.append(choice)
    return out


def _use_freed_limits(setting: Setting, draft: Draft, spare: Callable[[], float]) -> None:
    """Nodes of the right size may leave room under the limits for pods that had none."""
    if not draft.limits.any or not draft.left:
        return
    chooser = Chooser(setting, draft)
    for node in range(setting.hosts.count, draft.state.count):
        if draft.state.contents[node]:
            chooser.of(node)
    mender = Mender(draft.state, draft.limits, spare, new_nodes=setting.problem.allow_new_nodes)
    for number in sorted(draft.left, key=lambda n: (-setting.classes.classes[n].priority, n)):
        one = setting.classes.classes[number]
        draft.left[number] = mender.place(one, one.carried, draft.left[number])
    for number in [n for n, many in draft.left.items() if not many]:
        del draft.left[number]


def _strict(setting: Setting, choice: Choice) -> bool:
    """Too few values for the pool's minValues are a refusal, not something to note and go on."""
    policies = (
        setting.columns.pool_of(int(choice.columns[0])).min_values_policy,
        setting.options.min_values_policy,
    )
    return "BestEffort" not in policies


def _written(
    setting: Setting, draft: Draft, choices: list[Choice], skipped: list[Skipped], bound: Bound | None,
    complete: bool, seconds: tuple[float, float],
) -> Plan:  # fmt: skip
    writer = Writer(setting, draft)
    existing = writer.existing()
    columns = setting.columns
    order = sorted(
        choices,
        key=lambda c: (columns.pool_of(int(c.columns[0])).key, -float(columns.price[c.columns[0]]), c.node),
    )
    labels = names([columns.pool_of(int(c.columns[0])).key for c in order])
    nodes = tuple(writer.node(c, name) for c, name in zip(order, labels, strict=True))
    rent = float(sum(n.price_per_hour for n in nodes))
    charge = float(sum(n.node_charge_per_hour for n in nodes))
    objective = rent + charge
    risk = float(sum(columns.risk[c.columns[0]] for c in choices))
    low = None if bound is None else min(bound.value, objective + risk)
    cost = Cost(
        price_per_hour=rent,
        node_charge_per_hour=charge,
        objective_per_hour=objective,
        preferences_per_hour=unkept(setting, draft),
        risk_per_hour=risk,
        dearest_per_hour=dearest(order, columns.price),
        lower_bound=low,
        gap=_gap(objective + risk, low),
        bound_ignores=bound.ignores if bound else (),
    )
    return Plan(
        nodes, existing, _left_out(setting, draft, writer, skipped, complete), cost, complete, *seconds
    )


def _gap(objective: float, low: float | None) -> float | None:
    if low is None:
        return None
    if low <= 0:
        return 0.0 if objective <= 0 else None
    return objective / low - 1.0


def _left_out(
    setting: Setting, draft: Draft, writer: Writer, skipped: Sequence[Skipped], complete: bool
) -> tuple[Unschedulable, ...]:
    out = [Unschedulable(key, reason, message) for key, reason, message in setting.classes.refused]
    explainer = Explainer(setting, draft, skipped, not complete)
    for number in sorted(draft.left):
        reason, message, details = explainer.of(setting.classes.classes[number])
        out += [Unschedulable(pod, reason, message, details) for pod in writer.left_over(number)]
    return tuple(out)

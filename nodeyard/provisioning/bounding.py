"""The lower bound on the objective of any plan that places the same pods, and what it leaves out.

First one relaxation over all classes: room summed per column, standing nodes as columns that cost nothing and exist
once, limits as rows, an even part of every spread class tied to each of its domains. Where that leaves a gap and kinds
are few, patterns close it. Constraints the bound does not know can only make plans dearer, so leaving them out keeps it
valid; they are named. Neighbours: `linear`, `patterns`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from nodeyard.provisioning.classes import PodClass
from nodeyard.provisioning.columns import cheapest
from nodeyard.provisioning.company import bearers_and_counted, company_of
from nodeyard.provisioning.field import Field
from nodeyard.provisioning.joint import Joint
from nodeyard.provisioning.kinds import (
    Kind,
    Shares,
    kinds_of,
    open_to,
    shares_of,
    whole_room,
)
from nodeyard.provisioning.labelled import Bools, Floats, Ints
from nodeyard.provisioning.limits import Limits
from nodeyard.provisioning.linear import Kinds, Market, relax
from nodeyard.provisioning.setting import Setting
from nodeyard.provisioning.tiers import Case, cases
from nodeyard.scheduling.topology import TermKind

CLOSE = 1.0031
"""A plan within so much of what is proved is not worth proving more of."""
_CLOSE_OF_MANY = 1.02
_FEW_PODS = 1_500
_MOST_SHARES = 24
_MOST_GROUPS = 60
"""Of standing nodes, that are all in a relaxation from the start."""
_DEAR = 10.0
"""What a largest node's worth of a limit costs beyond what is left, against the whole plan."""


@dataclass(slots=True)
class Bound:
    value: float
    ignores: tuple[str, ...]


def bound_of(
    setting: Setting,
    placed: Sequence[tuple[PodClass, int]],
    objective: float,
    spare: Callable[[], float],
    proved: float | None = None,
) -> Bound:
    """The bound for placing so many pods of each class. `objective`: what the plan costs; nearer than that it stops.
    `proved`: what the joint program has proved already, if it was asked.
    """
    placed = [(one, many) for one, many in placed if many > 0]
    if not placed or not setting.columns.count or objective <= 0:
        return Bound(0.0, _ignored(setting, placed, set(), set()))
    first = Field(setting.problem, setting.classes, setting.columns, setting.hosts, setting.rules)
    company = company_of(setting, first)
    kinds = kinds_of(setting, first, placed, company)
    shares = shares_of(setting, first, kinds, _MOST_SHARES)
    value = _relaxation(setting, placed, first, (kinds, shares), objective)
    settled: set[object] = set(shares.names)
    joint, asked = Joint.of(setting, placed), False
    if proved is not None and proved > value and joint is not None:
        value, asked = proved, True
    if objective > value * _close_enough(placed) and joint is not None and spare() > 0:
        value, asked = max(value, joint.bound(objective, spare)), True
    known = company.known - company.over_domains - {*company.joining, *company.keeping}
    if joint is not None and asked:
        settled |= joint.spread_terms
        known = joint.tied.known
    return Bound(value, _ignored(setting, placed, settled, known))


def relaxed_bound(setting: Setting, placed: Sequence[tuple[PodClass, int]], objective: float) -> float:
    """The relaxation's bound alone, which takes least time."""
    placed = [(one, many) for one, many in placed if many > 0]
    if (known := setting.relaxed.get(_counts(placed))) is not None:
        return known
    first = Field(setting.problem, setting.classes, setting.columns, setting.hosts, setting.rules)
    kinds = kinds_of(setting, first, placed)
    shares = shares_of(setting, first, kinds, _MOST_SHARES)
    return _relaxation(setting, placed, first, (kinds, shares), objective)


def _counts(placed: Sequence[tuple[PodClass, int]]) -> tuple[int, ...]:
    return tuple(number for one, many in placed for number in (one.number, many))


def _close_enough(placed: Sequence[tuple[PodClass, int]]) -> float:
    """How near the relaxation must be for no more to be asked; of many pods it is near by itself."""
    return CLOSE if sum(many for _, many in placed) <= _FEW_PODS else _CLOSE_OF_MANY


# --- the relaxation ---------------------------------------------------------------------------------------------------
def _relaxation(
    setting: Setting, placed: Sequence[tuple[PodClass, int]], first: Field, pods: tuple[list[Kind], Shares],
    objective: float,
) -> float:  # fmt: skip
    """What no plan is below, the least of all cases; remembered, since it is asked for several times on the way."""
    counts = _counts(placed)
    if counts not in setting.relaxed:
        found = (_relaxed(setting, first, *pods, case, objective) for case in cases(setting, first))
        setting.relaxed[counts] = min(found)
    return setting.relaxed[counts]


def _relaxed(
    setting: Setting, first: Field, kinds: list[Kind], shares: Shares, case: Case, objective: float
) -> float:
    """What no plan of the case is below."""
    request: list[Floats] = []
    demand: list[float] = []
    allowed: list[Bools] = []
    on_hosts: list[Bools] = []
    of: list[int] = []
    for i, kind in enumerate(kinds):
        hosts, columns = open_to(setting, first, kind)
        columns &= case.bought
        tied, key, codes = _tied(first, kind)
        if tied > 0:
            for code in codes:
                demand.append(tied)
                allowed.append(columns & (first.column_domain[key] == code))
                on_hosts.append(hosts & (first.domain[key][: setting.hosts.count] == code))
        rest = kind.demand - tied * len(codes)
        if rest > 1e-9:
            demand.append(rest)
            allowed.append(columns)
            on_hosts.append(hosts)
        request += [kind.request] * (len(demand) - len(request))
        of += [i] * (len(demand) - len(of))
    wide = np.concatenate([np.array(request), shares.units[of]], axis=1)
    return _least(setting, wide, np.array(demand), allowed, on_hosts, shares, case, objective)


def _tied(first: Field, kind: Kind) -> tuple[float, str, list[int]]:
    """(pods that each eligible domain must take, key, domains): counts that differ by the skew at most leave no
    domain with fewer. Only where the kind is all that the term counts.
    """
    for number in kind.spread:
        term = first.by_domain[number]
        if term.matched.any():
            continue
        bearers = [c for c in first.classes.classes if number in c.carried]
        if len(bearers) != 1:
            continue
        codes = np.nonzero(term.eligible)[0].tolist()
        if len(codes) < max(term.term.min_domains, 2):
            continue
        least = (kind.demand - term.term.max_skew * (len(codes) - 1)) / len(codes)
        if least > 0:
            return float(np.ceil(least - 1e-9)), term.term.key, codes
    return 0.0, "", []


def _least(
    setting: Setting,
    request: Floats,
    demand: Floats,
    masks: list[Bools],
    host_masks: list[Bools],
    shares: Shares,
    case: Case,
    objective: float,
) -> float:
    columns, limits = setting.columns, Limits(setting.columns, setting.hosts)
    plain = request[:, : len(columns.resources)]
    unique = {m.tobytes(): m for m in masks}
    place = {name: i for i, name in enumerate(unique)}
    rows = np.array([place[m.tobytes()] for m in masks], np.int64)
    each_mask = np.array(list(unique.values()))
    chosen = np.nonzero(each_mask.any(axis=0))[0]
    chosen = chosen[cheapest(setting.columns, each_mask[:, chosen], chosen)]
    allowed = _fitting(each_mask[:, chosen][rows], plain, columns.room[chosen])
    open_ = np.nonzero(setting.hosts.open)[0]
    on_hosts = np.zeros((len(plain), setting.hosts.count), np.bool_)
    if len(open_):
        on_hosts[:, open_] = _fitting(np.array(host_masks)[:, open_], plain, setting.hosts.room[open_])
    there = whole_room(plain, setting.hosts.room)
    groups, host_room = _host_groups(np.concatenate([there, shares.hosts], axis=1), on_hosts)
    bought, left = _limit_rows(limits, chosen, case)
    n_col, n_group, n_lim = len(chosen), len(host_room), len(left)
    n_spare = n_lim  # something that pays for breaking a limit, so that a case nobody can be in is only dear
    use = np.zeros((n_col + n_group + n_spare, n_lim + n_group))
    use[:n_col, :n_lim] = bought
    use[n_col : n_col + n_group, n_lim:] = np.eye(n_group)
    use[n_col + n_group :, :n_lim] = -np.eye(n_spare)
    fresh = np.repeat(shares.fresh[None], n_col, axis=0)
    room = np.concatenate(
        [np.concatenate([whole_room(plain, columns.room[chosen]), fresh], axis=1), host_room]
    )
    market = Market(
        np.concatenate([room, np.zeros((n_spare, room.shape[1]))]),
        np.concatenate([columns.cost[chosen], np.zeros(n_group), np.full(n_spare, _DEAR * objective)]),
        use,
        np.concatenate([left, np.ones(n_group)]),
    )
    nobody = np.zeros((len(allowed), n_spare), np.bool_)
    usable = np.concatenate([allowed, on_hosts[:, groups[0]], nobody], axis=1)
    if not usable.any(axis=1).all():
        return objective if case.full else 0.0
    extra = np.arange(n_col if n_group <= _MOST_GROUPS else n_col + n_group, n_col + n_group + n_spare)
    found = relax(Kinds(request, demand, usable), market, extra=extra)
    return found.bound if found.solved else 0.0


def _limit_rows(limits: Limits, chosen: Ints, case: Case) -> tuple[Floats, Floats]:
    """(use per chosen column, what is left), each row in parts of the largest node: limits, and what is in full use as a
    limit to how little of it may be.
    """
    if not limits.any:
        return np.zeros((len(chosen), 0)), np.zeros(0)
    rows = np.nonzero(limits.inclusive)[0].tolist()
    size = np.maximum(limits.use.max(axis=0), 1.0)
    use = limits.use[chosen] / size
    full, least = [row for row, _ in case.full], [least / size[row] for row, least in case.full]
    left = np.concatenate([np.maximum(limits.left[rows], 0.0) / size[rows], -np.array(least)])
    return np.concatenate([use[:, rows], -use[:, full]], axis=1), left


def _fitting(masks: Bools, request: Floats, room: Floats) -> Bools:
    """The masks less what a single pod does not fit; equal requests are looked at once."""
    rows, member = np.unique(request, axis=0, return_inverse=True)
    fits = np.array([(room >= row).all(axis=1) for row in rows])
    out: Bools = masks & fits[member.reshape(-1)]
    return out


def _host_groups(host_room: Floats, on_hosts: Bools) -> tuple[tuple[Ints, Ints], Floats]:
    """Standing nodes that admit the same kinds, their room summed: ((one node of each group, group of each), room)."""
    useful = np.nonzero(on_hosts.any(axis=0))[0]
    if not len(useful):
        empty = np.zeros(0, np.int64)
        return (empty, empty), np.zeros((0, host_room.shape[1]))
    signs, first, which = np.unique(
        np.packbits(on_hosts[:, useful], axis=0).T, axis=0, return_index=True, return_inverse=True
    )
    which = which.reshape(-1)
    room = np.zeros((len(signs), host_room.shape[1]))
    np.add.at(room, which, np.maximum(host_room[useful], 0.0))
    return (useful[first], which), room


def _ignored(
    setting: Setting, placed: Sequence[tuple[PodClass, int]], settled: set[object], known: set[int]
) -> tuple[str, ...]:
    """Constraints in play that the bound leaves out or knows in part. `settled`: terms and ports that it knows of pods that
    bear them and are counted; `known`: terms that it knows of whomever they bind.
    """
    out: dict[str, None] = {}
    names = {
        TermKind.SPREAD: "topologySpreadConstraints",
        TermKind.AFFINITY: "podAffinity",
        TermKind.ANTI_AFFINITY: "podAntiAffinity",
    }
    bearers, counted = bearers_and_counted(setting)
    for one, _ in placed:
        for number in {*one.carried, *one.matched} - known:
            full = number in settled and bearers.get(number) == counted.get(number)
            if not full and (
                number in one.carried or setting.classes.terms[number].kind is TermKind.ANTI_AFFINITY
            ):
                out[names[setting.classes.terms[number].kind]] = None
        if any((p.protocol, p.port) not in settled for p in one.ports):
            out["hostPorts"] = None
    if len(setting.columns.tiers) > 1:
        out["weights"] = None
    if any(r.min_values for v in setting.columns.variants for r in v.pool.requirements):
        out["minValues"] = None
    if setting.options.max_share_per_node is not None:
        out["maxSharePerNode"] = None
    return tuple(out)

"""The lower bound on the objective of any plan that places the same pods, and what it leaves out.

First one relaxation over all classes: room summed per column, standing nodes as columns that cost nothing and exist
once, limits as rows, an even part of every spread class tied to each of its domains. Where that leaves a gap and kinds
are few, patterns close it. Constraints the bound does not know can only make plans dearer, so leaving them out keeps it
valid; they are named. Neighbours: `linear`, `patterns`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from nodeyard.provisioning.attempt import Setting
from nodeyard.provisioning.classes import PodClass
from nodeyard.provisioning.domains import cells_of
from nodeyard.provisioning.field import Field
from nodeyard.provisioning.labelled import Bools, Floats, Ints
from nodeyard.provisioning.limits import Limits
from nodeyard.provisioning.linear import Kinds, Market, relax
from nodeyard.provisioning.patterns import Model, PatternSolver, Spread
from nodeyard.scheduling.topology import TermKind

_MOST_KINDS = 24
_MOST_LOTS = 60
_MOST_HOSTS = 40
_CLOSE = 1.003


@dataclass(slots=True)
class Bound:
    value: float
    ignores: tuple[str, ...]


@dataclass(slots=True)
class _Kind:
    """Classes of equal request, rule, exclusions and spread, together. `spread`: settled terms over domains."""

    one: PodClass
    demand: float
    exclusive: tuple[object, ...]
    spread: tuple[int, ...]


def bound_of(
    setting: Setting,
    state: Field,
    placed: Sequence[tuple[PodClass, int]],
    objective: float,
    spare: Callable[[], float],
) -> Bound:
    """The bound for placing so many pods of each class. `objective`: what the plan costs; nearer than that it stops."""
    ignores = _ignored(setting, placed)
    placed = [(one, many) for one, many in placed if many > 0]
    if not placed or not setting.columns.count or objective <= 0:
        return Bound(0.0, ignores)
    settled = _settled(setting, state)
    kinds = _kinds(setting, placed, settled)
    first = Field(setting.problem, setting.classes, setting.columns, setting.hosts, setting.rules)
    value = _relaxed(setting, first, kinds)
    lots = sum(_cells_used(first, k) for k in kinds)
    if objective > value * _CLOSE and len(kinds) <= _MOST_KINDS and lots <= _MOST_LOTS and spare() > 0:
        value = max(value, _sharpened(setting, first, kinds, objective, spare))
    return Bound(value, ignores)


def _settled(setting: Setting, state: Field) -> frozenset[int]:
    """Hard spread terms over domains whose every counted pod in the problem bears them too: final counts must obey."""
    bearers: dict[int, set[int]] = {}
    counted: dict[int, set[int]] = {}
    for one in setting.classes.classes:
        for number in one.carried:
            bearers.setdefault(number, set()).add(one.number)
        for number in one.matched:
            counted.setdefault(number, set()).add(one.number)
    return frozenset(
        n
        for n, term in state.by_domain.items()
        if term.term.kind is TermKind.SPREAD
        and not term.term.soft
        and bearers.get(n)
        and bearers[n] == counted.get(n, set())
    )


def _kinds(setting: Setting, placed: Sequence[tuple[PodClass, int]], settled: frozenset[int]) -> list[_Kind]:
    terms = setting.classes.terms
    found: dict[tuple[object, ...], _Kind] = {}
    for one, many in placed:
        exclusive: list[object] = [
            n
            for n in one.carried
            if terms[n].per_host and terms[n].kind is TermKind.ANTI_AFFINITY and n in one.matched
        ]
        exclusive += [(p.protocol, p.port) for p in one.ports if p.host_ip in ("", "0.0.0.0")]
        spread = tuple(n for n in one.carried if n in settled)
        key = (one.rule, one.ports, one.request.tobytes(), tuple(exclusive), spread)
        kind = found.get(key)
        if kind is None:
            found[key] = _Kind(one, float(many), tuple(exclusive), spread)
        else:
            kind.demand += many
    return list(found.values())


def _allowed(setting: Setting, kind: _Kind) -> Bools:
    one = kind.one
    return setting.rules.on_columns(one) & (setting.columns.room >= one.request).all(axis=1)


def _on_hosts(setting: Setting, kind: _Kind) -> Bools:
    one = kind.one
    return setting.rules.on_hosts(one.rule) & (setting.hosts.room >= one.request).all(axis=1)


# --- the relaxation ---------------------------------------------------------------------------------------------------
def _relaxed(setting: Setting, first: Field, kinds: list[_Kind]) -> float:
    request, demand, allowed, on_hosts = [], [], [], []
    for kind in kinds:
        columns, hosts = setting.rules.on_columns(kind.one), setting.rules.on_hosts(kind.one.rule)
        tied, key, codes = _tied(first, kind)
        if tied > 0:
            for code in codes:
                request.append(kind.one.request)
                demand.append(tied)
                allowed.append(columns & (first.column_domain[key] == code))
                on_hosts.append(hosts & (first.domain[key][: setting.hosts.count] == code))
        rest = kind.demand - tied * len(codes)
        if rest > 1e-9:
            request.append(kind.one.request)
            demand.append(rest)
            allowed.append(columns)
            on_hosts.append(hosts)
    exclusive, units = _exclusive(kinds, 3)
    wide = np.array(request)
    if exclusive:  # tied parts repeat their kind's exclusions
        rows = [i for i, kind in enumerate(kinds) for _ in range(_parts(first, kind))]
        wide = np.concatenate([wide, units[rows]], axis=1)
    return _least(setting, wide, np.array(demand), allowed, on_hosts, len(exclusive))


def _parts(first: Field, kind: _Kind) -> int:
    tied, _, codes = _tied(first, kind)
    return (len(codes) if tied > 0 else 0) + int(kind.demand - tied * len(codes) > 1e-9)


def _tied(first: Field, kind: _Kind) -> tuple[float, str, list[int]]:
    """(pods that each eligible domain must take, key, domains): counts that differ by the skew at most leave no
    domain with fewer. Only where the kind is all that the term counts.
    """
    for number in kind.spread:
        term = first.by_domain[number]
        if term.matched.any() or first.classes.counted[number] is not None:
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


def _exclusive(kinds: list[_Kind], most: int) -> tuple[list[object], Floats]:
    """The exclusions with most pods, as units per kind: one such pod per node."""
    pods: dict[object, float] = {}
    for kind in kinds:
        for name in kind.exclusive:
            pods[name] = pods.get(name, 0.0) + kind.demand
    names = sorted(pods, key=lambda n: -pods[n])[:most]
    units = np.array([[float(n in k.exclusive) for n in names] for k in kinds]).reshape(
        len(kinds), len(names)
    )
    return names, units


def _least(
    setting: Setting,
    request: Floats,
    demand: Floats,
    masks: list[Bools],
    host_masks: list[Bools],
    exclusive: int,
) -> float:
    columns, limits = setting.columns, Limits(setting.columns, setting.hosts)
    plain = request[:, : len(columns.resources)]
    unique = {m.tobytes(): m for m in masks}
    place = {name: i for i, name in enumerate(unique)}
    rows = np.array([place[m.tobytes()] for m in masks], np.int64)
    each_mask = np.array(list(unique.values()))
    chosen = np.nonzero(each_mask.any(axis=0))[0]
    chosen = chosen[_cheapest(setting, each_mask[:, chosen], chosen)]
    allowed = _fitting(each_mask[:, chosen][rows], plain, columns.room[chosen])
    open_ = np.nonzero(setting.hosts.open)[0]
    on_hosts = np.zeros((len(plain), setting.hosts.count), np.bool_)
    if len(open_):
        on_hosts[:, open_] = _fitting(np.array(host_masks)[:, open_], plain, setting.hosts.room[open_])
    groups, host_room = _host_groups(setting, on_hosts)
    per_host = np.bincount(groups[1], minlength=len(host_room)).astype(np.float64)
    limited = limits.inclusive if limits.any else np.zeros(0, np.bool_)
    n_col, n_group, n_lim = len(chosen), len(host_room), int(limited.sum())
    use = np.zeros((n_col + n_group, n_lim + n_group))
    if n_lim:
        use[:n_col, :n_lim] = limits.use[chosen][:, limited]
    use[n_col:, n_lim:] = np.eye(n_group)
    room = np.concatenate([columns.room[chosen], host_room])
    if exclusive:
        each = np.concatenate([np.ones(n_col), per_host])
        room = np.concatenate([room, np.repeat(each[:, None], exclusive, axis=1)], axis=1)
    left = limits.left[limited] if n_lim else np.zeros(0)
    market = Market(
        room,
        np.concatenate([columns.cost[chosen], np.zeros(n_group)]),
        use,
        np.concatenate([np.maximum(left, 0.0), np.ones(n_group)]),
    )
    usable = np.concatenate([allowed, on_hosts[:, groups[0]]], axis=1)
    if not usable.any(axis=1).all():
        return 0.0
    extra = np.arange(n_col, n_col + n_group)
    found = relax(Kinds(request, demand, usable), market, extra=extra if n_group <= 60 else None)
    return found.bound if found.solved else 0.0


def _fitting(masks: Bools, request: Floats, room: Floats) -> Bools:
    """The masks less what a single pod does not fit; equal requests are looked at once."""
    rows, member = np.unique(request, axis=0, return_inverse=True)
    fits = np.array([(room >= row).all(axis=1) for row in rows])
    out: Bools = masks & fits[member.reshape(-1)]
    return out


def _cheapest(setting: Setting, allowed: Bools, used: Ints) -> Ints:
    """Of columns of one type and pool with the same users and room, the cheapest."""
    columns = setting.columns
    marks = [np.packbits(allowed, axis=0).T]
    if columns.daemon_of:
        marks.append(np.packbits(np.array([m[used] for _, m in columns.daemon_of]), axis=0).T)
    _, sign = np.unique(np.concatenate(marks, axis=1), axis=0, return_inverse=True)
    key = np.column_stack([sign.reshape(-1), columns.variant[used], columns.type[used]])
    order = np.lexsort((columns.cost[used], key[:, 2], key[:, 1], key[:, 0]))
    ordered = key[order]
    first: Bools = np.ones(len(order), np.bool_)
    first[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    out: Ints = order[first]
    return out


def _host_groups(setting: Setting, on_hosts: Bools) -> tuple[tuple[Ints, Ints], Floats]:
    """Standing nodes that admit the same kinds, their room summed: ((one node of each group, group of each), room)."""
    n_res = setting.hosts.room.shape[1]
    useful = np.nonzero(on_hosts.any(axis=0))[0]
    if not len(useful):
        empty = np.zeros(0, np.int64)
        return (empty, empty), np.zeros((0, n_res))
    signs, first, which = np.unique(
        np.packbits(on_hosts[:, useful], axis=0).T, axis=0, return_index=True, return_inverse=True
    )
    which = which.reshape(-1)
    room = np.zeros((len(signs), n_res))
    np.add.at(room, which, np.maximum(setting.hosts.room[useful], 0.0))
    return (useful[first], which), room


# --- patterns -----------------------------------------------------------------------------------------------------------
def _cells_used(first: Field, kind: _Kind) -> int:
    return cells_of(first).count if kind.spread else 1


def _sharpened(
    setting: Setting, first: Field, kinds: list[_Kind], objective: float, spare: Callable[[], float]
) -> float:
    """The bound by patterns; 0.0 where it can't be asked."""
    cells = cells_of(first)
    columns, hosts = setting.columns, setting.hosts
    on_hosts = np.array([_on_hosts(setting, k) for k in kinds])
    host_of, host_times = _host_columns(setting, on_hosts, cells.of_host)
    if len(host_of) > _MOST_HOSTS:
        return 0.0
    limits = Limits(columns, hosts)
    limited = limits.inclusive if limits.any else np.zeros(0, np.bool_)
    names, units = _exclusive(kinds, 6)
    lots: list[tuple[int, int]] = []
    for i, kind in enumerate(kinds):
        lots += [(i, cell) for cell in range(cells.count)] if kind.spread else [(i, -1)]
    allowed = []
    for i, cell in lots:
        both = np.concatenate([_allowed(setting, kinds[i]), on_hosts[i][host_of]])
        if cell >= 0:
            both = both & (np.concatenate([cells.of_column, cells.of_host[host_of]]) == cell)
        allowed.append(both)
    kind_of = np.array([i for i, _ in lots])
    request = np.concatenate([np.array([kinds[i].one.request for i, _ in lots]), units[kind_of]], axis=1)
    able = np.array(allowed)
    chosen = np.nonzero(able[:, : columns.count].any(axis=0))[0]
    chosen = chosen[_cheapest(setting, able[:, chosen], chosen)]
    pick = np.concatenate([chosen, columns.count + np.arange(len(host_of))])
    room = np.concatenate([columns.room, hosts.room[host_of]])[pick]
    use = np.zeros((len(pick), int(limited.sum())))
    if limited.any():
        use[: len(chosen)] = limits.use[chosen][:, limited]
    model = Model(
        request, kind_of, np.array([k.demand for k in kinds]), np.full(len(lots), np.inf), able[:, pick],
        np.concatenate([room, np.ones((len(pick), len(names)))], axis=1),
        np.concatenate([columns.cost[chosen], np.zeros(len(host_of))]),
        np.concatenate([np.full(len(chosen), np.inf), host_times]), use,
        np.maximum(limits.left[limited], 0.0) if limited.any() else np.zeros(0),
        _spreads(first, kinds, lots, cells.codes, cells.keys),
    )  # fmt: skip
    answer = PatternSolver(model, spare).solve(objective, integer_s=spare() * 0.6)
    return answer.bound


def _host_columns(setting: Setting, on_hosts: Bools, cell: Ints) -> tuple[Ints, Floats]:
    """Standing nodes of equal room, users and cell: (one of each, how many)."""
    useful = np.nonzero(on_hosts.any(axis=0))[0]
    if not len(useful):
        return np.zeros(0, np.int64), np.zeros(0)
    key = np.concatenate([setting.hosts.room[useful], on_hosts[:, useful].T, cell[useful, None]], axis=1)
    _, first, times = np.unique(key, axis=0, return_index=True, return_counts=True)
    return useful[first], times.astype(np.float64)


def _spreads(
    first: Field, kinds: list[_Kind], lots: list[tuple[int, int]], codes: Ints, keys: list[str]
) -> list[Spread]:
    """The settled spread terms as rows over lots; domains that stand too high already are left free."""
    out = []
    for number in sorted({n for k in kinds for n in k.spread}):
        term = first.by_domain[number]
        if first.classes.counted[number] is not None:
            continue
        at = keys.index(term.term.key)
        eligible = np.nonzero(term.eligible)[0].tolist()
        standing = [int(term.matched[d]) for d in eligible]
        if not eligible or max(standing) - min(standing) > term.term.max_skew:
            continue
        members = [
            [lot for lot, (i, cell) in enumerate(lots) if cell >= 0 and number in kinds[i].spread and codes[cell, at] == d]
            for d in eligible
        ]  # fmt: skip
        out.append(Spread(term.term.max_skew, members, standing, len(eligible) < term.term.min_domains))
    return out


def _ignored(setting: Setting, placed: Sequence[tuple[PodClass, int]]) -> tuple[str, ...]:
    """Constraints in play that the bound leaves out or knows in part."""
    out: dict[str, None] = {}
    names = {
        TermKind.SPREAD: "topologySpreadConstraints",
        TermKind.AFFINITY: "podAffinity",
        TermKind.ANTI_AFFINITY: "podAntiAffinity",
    }
    for one, _ in placed:
        for number in one.carried:
            out[names[setting.classes.terms[number].kind]] = None
        if one.ports:
            out["hostPorts"] = None
    if len(setting.columns.tiers) > 1:
        out["weights"] = None
    if any(r.min_values for v in setting.columns.variants for r in v.pool.requirements):
        out["minValues"] = None
    if setting.options.max_share_per_node is not None:
        out["maxSharePerNode"] = None
    return tuple(out)

"""The linear relaxation: the least any plan could cost if nodes could be bought in fractions.

Pods are counted per kind (request and the columns it may use), nodes per column, and room is summed per column. The
solver only guides: the bound is worked out again from its prices so that it holds whatever the solver's tolerance.
For any prices w >= 0 of a column's resources with room·w <= cost, a kind may be charged at most the least request·w
over the columns it may use; demand times charge can't exceed the cost of any plan. Columns enter a few at a time; one
that none of the prices at hand could make profitable never enters.
"""

from dataclasses import dataclass

import numpy as np

from nodeyard.provisioning.labelled import Bools, Floats, Ints
from nodeyard.provisioning.solver import INF, Program, solved_linear

_EPS = 1e-9
_ROUNDS = 20
_ENTERING = 10
"""Most columns that enter at once: nearly all that could are worth nothing beside the best of them."""
_MOST_KINDS = 260


@dataclass(slots=True)
class Kinds:
    """What is to be placed. `allowed`: [kind, column], the kind fits the column alone and may use it."""

    request: Floats
    demand: Floats
    allowed: Bools


@dataclass(slots=True)
class Market:
    """What can be bought: [column, resource] room, cost, and use of each pool limit: [column, limit]. Use and what is left
    are negative where a limit is on how little may be used.
    """

    room: Floats
    cost: Floats
    use: Floats
    left: Floats


@dataclass(slots=True)
class Relaxation:
    """`value`: what one pod of each kind is charged at; `price`: [column in `chosen`, resource]. `count`, `flow`: nodes
    per chosen column, pods per kind and chosen column.
    """

    bound: float
    value: Floats
    chosen: Ints
    price: Floats
    count: Floats
    flow: Floats
    toll: Floats
    solved: bool = True


def relax(kinds: Kinds, market: Market, *, rounds: int = _ROUNDS, extra: Ints | None = None) -> Relaxation:
    """Solve the relaxation. Every kind must have a column; limits may make it infeasible (`solved` False)."""
    scale = np.maximum(market.room.max(axis=0), 1.0) if len(market.room) else np.ones(kinds.request.shape[1])
    request, room = kinds.request / scale, market.room / scale
    merged, member = _merged(request, kinds.demand, kinds.allowed)
    chosen = _first_columns(merged, room, market)
    if extra is not None and len(extra):
        chosen = np.unique(np.concatenate([chosen, extra]))
    out = None
    for _ in range(rounds):
        out = _solve(merged, room, market, chosen)
        if not out.solved:
            break
        fresh = _profitable(merged, room, market, out)
        if not len(fresh):
            break
        chosen = np.concatenate([chosen, fresh])
    assert out is not None
    scaled = Kinds(request, kinds.demand, kinds.allowed)
    out.toll = _within_cost(merged, market, out.toll)
    value = charges(scaled, merged, room, market, out) if out.solved else np.zeros(len(request))
    bound = float(value @ kinds.demand - out.toll @ market.left) if out.solved else 0.0
    flow = out.flow[member] * (kinds.demand / np.maximum(merged.demand[member], 1e-300))[:, None]
    return Relaxation(
        max(bound, 0.0), value, out.chosen, out.price / scale, out.count, flow, out.toll, out.solved
    )


def _merged(request: Floats, demand: Floats, allowed: Bools) -> tuple[Kinds, Ints]:
    """Fewer kinds where there are very many: like requests with like columns become one of their mean."""
    count = len(request)
    if count <= _MOST_KINDS:
        return Kinds(request, demand, allowed), np.arange(count)
    bits = np.packbits(allowed, axis=1)
    _, group = np.unique(bits, axis=0, return_inverse=True)
    step = 0.04
    while True:
        with np.errstate(divide="ignore"):
            level = np.round(np.log(np.maximum(request, 1e-12)) / step)
        _, first, member = np.unique(
            np.column_stack([group.reshape(-1).astype(np.float64), level]),
            axis=0,
            return_index=True,
            return_inverse=True,
        )
        member = member.reshape(-1)
        if len(first) <= _MOST_KINDS or step > 0.3:
            break
        step *= 1.5
    total: Floats = np.bincount(member, demand, len(first)).astype(np.float64)
    mean: Floats = np.column_stack(
        [np.bincount(member, demand * request[:, j], len(first)) / total for j in range(request.shape[1])]
    )
    return Kinds(mean, total, allowed[first]), member


def _first_columns(kinds: Kinds, room: Floats, market: Market) -> Ints:
    """A handful of columns that are good for something: cheapest per unit of room in several mixes, for all. Of what costs
    nothing there is only so much, so that it is no reason to do without the others.
    """
    mixes, bought = _mixes(kinds, room), market.cost > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        worth = (room @ mixes.T) / market.cost[:, None]
    sets, which = np.unique(np.packbits(kinds.allowed, axis=1), axis=0, return_index=True)
    picked: set[int] = set()
    several = 3 if len(sets) <= 8 else 1
    for row in which:
        usable = np.nonzero(kinds.allowed[row] & bought)[0]
        if not len(usable):
            picked.update(np.nonzero(kinds.allowed[row])[0].tolist())
        else:
            best = np.argsort(-worth[usable, : len(mixes)], axis=0, kind="stable")[:several]
            picked.update(usable[best].ravel().tolist())
        if len(picked) > 400:
            several = 1
            mixes = mixes[:2]
    chosen = np.array(sorted(picked), np.int64)
    bare = ~(kinds.allowed & bought)[:, chosen].any(axis=1) & (kinds.allowed & bought).any(axis=1)
    for kind in np.nonzero(bare)[0]:
        usable = np.nonzero(kinds.allowed[kind] & bought)[0]
        picked.add(int(usable[np.argmin(market.cost[usable])]))
    return np.array(sorted(picked), np.int64)


def _mixes(kinds: Kinds, room: Floats) -> Floats:
    """Ways to weigh resources: each alone, by total demand, and in between."""
    total = np.maximum(kinds.request.T @ kinds.demand, 1e-12)
    base = 1.0 / total
    rows = [base]
    main = min(3, len(base))
    for one in range(main):
        for part in (0.3, 3.0, 20.0):
            mix = base.copy()
            mix[one] *= part
            rows.append(mix)
    return np.array(rows)


def _solve(kinds: Kinds, room: Floats, market: Market, chosen: Ints) -> Relaxation:
    """One linear program over the chosen columns."""
    n_kind, n_res, n_col = len(kinds.demand), room.shape[1], len(chosen)
    n_lim = len(market.left)
    pair_kind, pair_col = np.nonzero(kinds.allowed[:, chosen])
    n_pair = len(pair_kind)
    mine = kinds.request[pair_kind]
    rows_per_pair = (mine > 0).sum(axis=1) + 1
    start_pair = np.concatenate([[0], np.cumsum(rows_per_pair)])
    index = np.empty(int(start_pair[-1]), np.int64)
    value = np.empty(int(start_pair[-1]))
    index[start_pair[:-1]] = pair_kind
    value[start_pair[:-1]] = 1.0
    at_pair, at_res = np.nonzero(mine > 0)
    position = _positions(start_pair, at_pair)
    index[position] = n_kind + pair_col[at_pair] * n_res + at_res
    value[position] = -mine[at_pair, at_res]
    col_index, col_value, col_start = _node_columns(room, market, chosen, n_kind, n_res, n_lim)
    solver = solved_linear(
        Program.of(
            np.concatenate([np.zeros(n_pair), market.cost[chosen]]),
            np.full(n_pair + n_col, INF),
            np.concatenate([kinds.demand, np.zeros(n_col * n_res), np.full(n_lim, -INF)]),
            np.concatenate([np.full(n_kind + n_col * n_res, INF), market.left]),
            np.concatenate([start_pair, start_pair[-1] + col_start[1:]]),
            np.concatenate([index, col_index]),
            np.concatenate([value, col_value]),
        )
    )
    if solver is None:
        empty = np.zeros((n_kind, n_col))
        return Relaxation(
            0.0,
            np.zeros(n_kind),
            chosen,
            np.zeros((n_col, n_res)),
            np.zeros(n_col),
            empty,
            np.zeros(n_lim),
            False,
        )
    solution = solver.getSolution()
    primal, dual = np.array(solution.col_value), np.array(solution.row_dual)
    flow = np.zeros((n_kind, n_col))
    flow[pair_kind, pair_col] = np.maximum(primal[:n_pair], 0.0)
    price = np.maximum(dual[n_kind : n_kind + n_col * n_res].reshape(n_col, n_res), 0.0)
    toll = np.maximum(-dual[n_kind + n_col * n_res :], 0.0)
    return Relaxation(
        0.0, np.maximum(dual[:n_kind], 0.0), chosen, price, np.maximum(primal[n_pair:], 0.0), flow, toll
    )


def _positions(start: Ints, at_pair: Ints) -> Ints:
    """Where each further entry of a pair's column goes: after the first, in order."""
    if not len(at_pair):
        return np.zeros(0, np.int64)
    first = np.concatenate([[True], at_pair[1:] != at_pair[:-1]])
    begin = np.nonzero(first)[0]
    run = np.arange(len(at_pair)) - np.repeat(begin, np.diff(np.append(begin, len(at_pair))))
    out: Ints = start[at_pair] + 1 + run
    return out


def _node_columns(
    room: Floats, market: Market, chosen: Ints, n_kind: int, n_res: int, n_lim: int
) -> tuple[Ints, Floats, Ints]:
    """The matrix part of the node counts: room gained per resource, limits used."""
    part = np.hstack([room[chosen], market.use[chosen]]) if n_lim else room[chosen]
    offset = np.arange(n_kind, n_kind + len(chosen) * n_res, n_res)[:, None]
    row = offset + np.arange(n_res)
    if n_lim:
        limits = n_kind + len(chosen) * n_res + np.arange(n_lim)
        row = np.hstack([row, np.broadcast_to(limits, (len(chosen), n_lim))])
    held = np.hstack([part[:, :n_res] > 0, part[:, n_res:] != 0])
    start = np.concatenate([[0], np.cumsum(held.sum(axis=1))])
    return row[held], part[held], start


def _fair_cost(market: Market, toll: Floats) -> Floats:
    """Cost of a column with what its use of limits is worth."""
    out: Floats = market.cost + (market.use @ toll if len(toll) else 0.0)
    return out


def _within_cost(kinds: Kinds, market: Market, toll: Floats) -> Floats:
    """The tolls, those that pay for use no higher than what the cheapest of it costs: no column may cost less than nothing."""
    usable = kinds.allowed.any(axis=0)
    use, out = market.use[usable], toll.copy()
    paying = np.nonzero((use < 0).any(axis=0))[0]
    out[paying] = 0.0
    cost = market.cost[usable] + (use @ out if len(out) else 0.0)
    for row in paying.tolist():
        paid = use[:, row] < 0
        out[row] = min(float(toll[row]), float((cost[paid] / -use[paid, row]).min()))
        cost = np.maximum(cost + use[:, row] * out[row], 0.0)
    return out


def _profitable(kinds: Kinds, room: Floats, market: Market, now: Relaxation) -> Ints:
    """Columns that could still lower the cost: no price at hand shows that they can't."""
    cost = _fair_cost(market, now.toll)
    worth = room @ now.price.T  # [column, chosen]
    short = (kinds.request @ now.price.T) < now.value[:, None] - _EPS * (1 + now.value[:, None])
    wrong = kinds.allowed.T.astype(np.float32) @ short.astype(np.float32) > 0
    ratio = np.where(wrong, np.inf, worth / np.maximum(cost, 1e-300)[:, None]).min(axis=1)
    ratio[cost < 0] = np.inf
    ratio[now.chosen] = 0.0
    ratio[~kinds.allowed.any(axis=0)] = 0.0
    bad = np.nonzero(ratio > 1 + 1e-7)[0]
    if len(bad) <= _ENTERING:
        return bad
    ratio = np.where(np.isinf(ratio), 1e6 + room @ np.ones(room.shape[1]), ratio)
    worst: Ints = bad[np.argsort(-ratio[bad], kind="stable")[:_ENTERING]]
    return worst


def charges(kinds: Kinds, merged: Kinds, room: Floats, market: Market, now: Relaxation) -> Floats:
    """What each kind may be charged at so that no column, chosen or not, is worth more than it costs.

    Every column is given one of the prices at hand, scaled down to its cost if need be; a kind's charge is the least
    that any column it may use asks of it. `kinds.request` and `room` are scaled alike.
    """
    cost = _fair_cost(market, now.toll)
    worth = room @ now.price.T  # [column, chosen]
    short = (merged.request @ now.price.T) < now.value[:, None] * (1 - 1e-7) - 1e-12
    wrong = merged.allowed.T.astype(np.float32) @ short.astype(np.float32)
    ratio = worth / np.maximum(cost, 1e-300)[:, None]
    rank = np.maximum(ratio, 1.0) * (1.0 + wrong)
    given = rank.argmin(axis=1)
    scale = 1.0 / np.maximum(ratio[np.arange(len(room)), given], 1.0)
    due = kinds.request @ now.price.T  # [kind, chosen]
    out = np.full(len(kinds.demand), np.inf)
    usable = kinds.allowed.any(axis=0)
    exact = usable & (scale >= 1.0)
    for price in np.unique(given[exact]):
        users = kinds.allowed[:, exact & (given == price)].any(axis=1)
        out[users] = np.minimum(out[users], due[users, price])
    for column in np.nonzero(usable & ~exact)[0]:
        users = kinds.allowed[:, column]
        out[users] = np.minimum(out[users], due[users, given[column]] * scale[column])
    return np.where(np.isinf(out), 0.0, out)

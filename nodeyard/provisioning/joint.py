"""Small problems as one integer program: which domain, which node and which column, all decided together.

Kinds that bear a settled spread, or are tied to others by domain, have one lot per cell, others one in all; standing nodes are columns that cost nothing
and exist so many times. The program's value bounds every plan (`bounding`); where it knows every constraint there is,
its solution is a plan as well, and better than dealing first and packing then. Neighbours: `kinds`, `patterns`.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nodeyard.provisioning.aggregate import Aggregate, aggregate
from nodeyard.provisioning.classes import PodClass
from nodeyard.provisioning.columns import cheapest
from nodeyard.provisioning.company import Company, bearers_and_counted, company_of
from nodeyard.provisioning.covering import covering
from nodeyard.provisioning.domains import cells_of
from nodeyard.provisioning.field import Field
from nodeyard.provisioning.kinds import (
    Attachments,
    Kind,
    Shares,
    kinds_of,
    open_to,
    own_volumes,
    shares_of,
    whole_room,
)
from nodeyard.provisioning.labelled import Ints
from nodeyard.provisioning.limits import Limits
from nodeyard.provisioning.pattern_program import Model, Spread
from nodeyard.provisioning.patterns import Answer, PatternSolver
from nodeyard.provisioning.setting import Draft, Setting
from nodeyard.provisioning.tiers import buyable
from nodeyard.provisioning.tying import Tied
from nodeyard.scheduling.topology import TermKind

_MOST_CLASSES = 400
_MOST_KINDS = 60
_MOST_LOTS = 60
_MOST_HOSTS = 40
_MOST_SHARES = 8
_CLOSE = 1.003
_COVERING = 0.85
"""Of the time for the bound, what whole nodes may take; patterns have the rest."""


@dataclass(slots=True)
class _Waiting:
    one: PodClass
    many: int


class Joint:
    """The program for placing so many pods of each class. `first`: the field with the standing pods only."""

    def __init__(self, setting: Setting, first: Field, kinds: list[Kind], company: Company) -> None:
        self.setting, self.first, self.kinds = setting, first, kinds
        self.cells = cells_of(first)
        self.lots: list[tuple[int, int]] = []
        for i, kind in enumerate(kinds):
            self.lots += [(i, cell) for cell in range(self.cells.count)] if kind.by_domain else [(i, -1)]
        both = [open_to(setting, first, k) for k in kinds]
        self.on_hosts = np.array([hosts for hosts, _ in both])
        bought = buyable(setting, first)
        self.on_columns = [columns & bought for _, columns in both]
        self.shares: Shares = shares_of(setting, first, kinds, _MOST_SHARES)
        self.tied = Tied(setting, first, self.cells, kinds, self.lots, company, self.shares.names)
        self.host_groups = self._host_groups()
        self.spread_terms: set[int] = set()
        self.spreads = self._spreads()

    @staticmethod
    def of(setting: Setting, placed: Sequence[tuple[PodClass, int]]) -> "Joint | None":
        """The program, unless it would be too large; without what ties pods to others by domain where that makes it so."""
        if len(placed) > _MOST_CLASSES or not setting.columns.count:
            return None
        first = Field(setting.problem, setting.classes, setting.columns, setting.hosts, setting.rules)
        company, cells = company_of(setting, first), cells_of(first).count
        for tied in (True, False):
            kinds = kinds_of(setting, first, placed, company, tied=tied)
            lots = sum(cells if k.by_domain else 1 for k in kinds)
            if kinds and len(kinds) <= _MOST_KINDS and lots <= _MOST_LOTS:
                made = Joint(setting, first, kinds, company)
                return made if len(made.host_groups) <= _MOST_HOSTS else None
        return None

    # --- the program ------------------------------------------------------------------------------------------------
    def _host_groups(self) -> list[Ints]:
        """Standing nodes of equal room, shares, users and cell."""
        hosts = self.setting.hosts
        useful = np.nonzero(self.on_hosts.any(axis=0))[0] if hosts.count else np.zeros(0, np.int64)
        if not len(useful):
            return []
        cell = self.cells.of_host[useful, None]
        held = self.tied.held(useful)
        key = np.concatenate(
            [hosts.room[useful], self.shares.hosts[useful], self.on_hosts[:, useful].T, cell, held], axis=1
        )
        _, group = np.unique(key, axis=0, return_inverse=True)
        group = group.reshape(-1)
        return [useful[group == g] for g in range(int(group.max()) + 1)]

    @property
    def host_of(self) -> Ints:
        """One standing node of each group."""
        return np.array([int(g[0]) for g in self.host_groups], np.int64)

    def model(self) -> Model:
        setting, columns, host_of = self.setting, self.setting.columns, self.host_of
        limits = Limits(columns, setting.hosts)
        limited = limits.inclusive if limits.any else np.zeros(0, np.bool_)
        allowed = []
        for i, cell in self.lots:
            fits = (columns.room >= self.kinds[i].request).all(axis=1)
            both = np.concatenate([self.on_columns[i] & fits, self.on_hosts[i][host_of]])
            if cell >= 0:
                both = both & (np.concatenate([self.cells.of_column, self.cells.of_host[host_of]]) == cell)
            allowed.append(both)
        kind_of = np.array([i for i, _ in self.lots])
        request = np.array([k.request for k in self.kinds])[kind_of]
        able = np.array(allowed)
        chosen = np.nonzero(able[:, : columns.count].any(axis=0))[0]
        chosen = chosen[cheapest(setting.columns, able[:, chosen], chosen)]
        self.pick: Ints = np.concatenate([chosen, columns.count + np.arange(len(host_of))])
        self.place = {int(c): i for i, c in enumerate(chosen)}
        room = whole_room(request, np.concatenate([columns.room, setting.hosts.room[host_of]])[self.pick])
        fresh = np.repeat(self.shares.fresh[None], len(chosen), axis=0)
        use = np.zeros((len(self.pick), int(limited.sum())))
        if limited.any():
            use[: len(chosen)] = limits.use[chosen][:, limited]
        return Model(
            np.concatenate([request, self.shares.units[kind_of]], axis=1),
            kind_of,
            np.array([k.demand for k in self.kinds]),
            np.full(len(self.lots), np.inf),
            able[:, self.pick],
            np.concatenate([room, np.concatenate([fresh, self.shares.hosts[host_of]])], axis=1),
            np.concatenate([columns.cost[chosen], np.zeros(len(host_of))]),
            np.concatenate([np.full(len(chosen), np.inf), [float(len(g)) for g in self.host_groups]]),
            use,
            np.maximum(limits.left[limited], 0.0) if limited.any() else np.zeros(0),
            self.spreads,
            self.tied.together(),
            self.tied.ceilings(),
            self.tied.joining(self.host_of, len(chosen)),
            self.tied.keeping(),
        )

    def _spreads(self) -> list[Spread]:
        """The settled spread terms as rows over lots; domains that stand too high already are left free."""
        out = []
        for number in sorted({n for k in self.kinds for n in k.spread}):
            term = self.first.by_domain[number]
            at = self.cells.keys.index(term.term.key)
            eligible = np.nonzero(term.eligible)[0].tolist()
            standing = [int(term.matched[d]) for d in eligible]
            if not eligible or max(standing) - min(standing) > term.term.max_skew:
                continue
            members = [
                [lot for lot, (i, cell) in enumerate(self.lots)
                 if cell >= 0 and number in self.kinds[i].spread and self.cells.codes[cell, at] == d]
                for d in eligible
            ]  # fmt: skip
            self.spread_terms.add(number)
            out.append(Spread(term.term.max_skew, members, standing, len(eligible) < term.term.min_domains))
        return out

    def bound(self, objective: float, spare: Callable[[], float]) -> float:
        """The bound by whole nodes, and by patterns where that leaves a gap."""
        model, work = self.model(), self.setting.effort
        if not len(model.cost):
            return 0.0
        bare = PatternSolver(model, lambda: 0.0, work=work)
        seconds = spare() * _COVERING
        low = covering(model, bare.columns, bare.fits, bare.most, objective, seconds, work, _CLOSE - 1)
        if objective <= low * _CLOSE or spare() <= 0:
            return low
        solver = PatternSolver(model, spare, work=work)
        share = 0.8 if solver.lists_all else 0.0 if solver.broad else 0.3
        return max(low, solver.solve(objective, integer_s=spare() * share).bound)

    def _aggregated(self, solver: PatternSolver, upper: float, seconds: float) -> Aggregate | None:
        work = self.setting.effort
        return aggregate(solver.model, solver.columns, solver.fits, upper, seconds, work, _CLOSE - 1)

    def shares_pools(self) -> bool:
        """Whether some pods may go to several pools and others only to some of these: who joins whom is then worth more
        than one look.
        """
        columns = self.setting.columns
        pools = [v.pool.key for v in columns.variants]
        open_ = {frozenset(pools[v] for v in np.unique(columns.variant[mask])) for mask in self.on_columns}
        return len(open_) > 1 and any(len(several) > 1 for several in open_)

    # --- the plan ---------------------------------------------------------------------------------------------------
    def knows_all(self) -> bool:
        """Whether the program has every constraint there is, so that its solution is a plan."""
        setting = self.setting
        if len(setting.columns.tiers) > 1 or not setting.columns.flexible.all():
            return False
        if setting.options.max_share_per_node is not None or self.first.daemon_matched:
            return False
        limits = Limits(setting.columns, setting.hosts)
        if not setting.problem.allow_new_nodes or not limits.inclusive.all():
            return False
        if self.first.attached and not self._knows_volumes():
            return False
        bearers, counted = bearers_and_counted(setting)
        return all(self._knows(one, bearers, counted) for k in self.kinds for one, _ in k.members)

    def _knows_volumes(self) -> bool:
        """Whether every volume takes an attachment that the program counts."""
        own = own_volumes(self.setting, self.first)
        used = {volume for k in self.kinds for one, _ in k.members for volume in one.attachments}
        return all(volume in own and Attachments(volume[0]) in self.shares.names for volume in used)

    def _knows(self, one: PodClass, bearers: dict[int, set[int]], counted: dict[int, set[int]]) -> bool:
        terms = self.setting.classes.terms
        if one.soft or one.preferred or len(one.ports) != sum(
            (p.protocol, p.port) in self.shares.names for p in one.ports
        ):  # fmt: skip
            return False
        for number in {*one.carried, *one.matched} - self.tied.known:
            if terms[number].kind is TermKind.AFFINITY or bearers.get(number) != counted.get(number):
                return False
            if number not in self.shares.names and number not in self.spread_terms:
                return False
        return True

    def improve(self, draft: Draft, spare: Callable[[], float]) -> tuple[Draft, float | None]:
        """(the better of the draft and the program's plan, the bound if all pods are placed)."""
        model = self.model()
        if not len(model.cost):
            return draft, None
        known = [] if draft.unplaced else self._incumbent(draft)
        upper = np.inf if draft.unplaced else draft.cost
        solver = PatternSolver(model, spare, (), known, work=self.setting.effort)
        low = 0.0
        if not solver.lists_all and (found := self._aggregated(solver, upper, spare() * 0.5)) is not None:
            low = found.bound
            solver.add(_seeds(solver.model, found))
        answer = solver.solve(upper, integer_s=spare() * 0.95)
        if answer.nodes and answer.cost < upper - 1e-9:
            better = self._drafted(answer, draft)
            if better is not None and better.cost < upper - 1e-9:
                draft = better
        return draft, None if draft.unplaced else max(low, answer.bound)

    def _incumbent(self, draft: Draft) -> list[tuple[int, Ints, int]]:
        """The draft as the program would write it; nothing where it can't."""
        state, hosts = draft.state, self.setting.hosts.count
        place = {lot: i for i, lot in enumerate(self.lots)}
        kind_of = {one.number: i for i, k in enumerate(self.kinds) for one, _ in k.members}
        group_of = {int(h): g for g, members in enumerate(self.host_groups) for h in members}
        out = []
        for node, held in enumerate(state.contents):
            if not held:
                continue
            counts = np.zeros(len(self.lots), np.int64)
            column = int(state.column[node])
            cell = int(self.cells.of_host[node] if node < hosts else self.cells.of_column[column])
            for number, many in held.items():
                kind = kind_of[number]
                lot = place[(kind, cell if self.kinds[kind].by_domain else -1)]
                counts[lot] = 1 if self.kinds[kind].whole else counts[lot] + many
            at = len(self.place) + group_of[node] if node < hosts else self.place.get(column)
            if at is None:  # a twin of the column is cheaper
                at = self._twin(column)
            out.append((at, counts, 1))
        return out

    def _twin(self, column: int) -> int:
        """The column in the program that stands for this one: same type, pool, reservation and cell, no dearer."""
        columns = self.setting.columns
        same = [
            (float(columns.cost[c]), i)
            for c, i in self.place.items()
            if columns.type[c] == columns.type[column]
            and columns.variant[c] == columns.variant[column]
            and columns.reservation[c] == columns.reservation[column]
            and self.cells.of_column[c] == self.cells.of_column[column]
        ]
        return min(same)[1] if same else 0

    def _drafted(self, answer: Answer, draft: Draft) -> Draft | None:
        """The program's plan as a draft; None if anything in it turns out not to hold."""
        setting = self.setting
        state = Field(setting.problem, setting.classes, setting.columns, setting.hosts, setting.rules)
        limits = Limits(setting.columns, setting.hosts)
        queues = [[_Waiting(one, many) for one, many in k.members] for k in self.kinds]
        wanted = answer.delivered.copy()
        free_hosts = [list(map(int, g)) for g in self.host_groups]
        bought: list[int] = []
        plan: list[tuple[int, Ints]] = []
        for column, counts, times in sorted(answer.nodes, key=lambda n: -int(n[1].sum())):
            for _ in range(times):
                held = np.minimum(counts, wanted)
                if not held.any():
                    continue
                wanted -= held
                real = int(self.pick[column])
                if real >= setting.columns.count:
                    plan.append((free_hosts[real - setting.columns.count].pop(), held))
                else:
                    plan.append((setting.hosts.count + len(bought), held))
                    bought.append(real)
        if bought:
            state.add_nodes(np.array(bought, np.int64))
            limits.spend_all(np.array(bought, np.int64))
        if wanted.any() or not all(self._settle(state, node, held, queues) for node, held in plan):
            return None
        if (
            not self._holds(state)
            or (limits.left < -1e-6).any()
            or any(w.many for queue in queues for w in queue)
        ):
            return None
        cost = float(setting.columns.cost[bought].sum()) if bought else 0.0
        return replace(draft, state=state, limits=limits, left={}, cost=cost)

    def _settle(self, state: Field, node: int, held: Ints, queues: list[list[_Waiting]]) -> bool:
        """Put a node's pods on it, judged as ever."""
        given: dict[int, int] = defaultdict(int)
        for lot in np.nonzero(held)[0].tolist():
            kind, many = self.lots[lot][0], int(held[lot])
            if self.kinds[kind].whole:
                many = sum(one.many for one in queues[kind])
            for waiting in queues[kind]:
                part = min(many, waiting.many)
                given[waiting.one.number] += part
                waiting.many -= part
                many -= part
            if many:
                return False
        classes, to_come = self.setting.classes.classes, [n for n, many in given.items() if many]
        while to_come:
            later = []
            for number in to_come:
                one, many = classes[number], given[number]
                if int(state.capacity(one, one.carried)[node]) < many:
                    later.append(number)
                else:
                    state.place(one, one.carried, np.array([node]), np.array([many]))
            if len(later) == len(to_come):
                return False
            to_come = later
        return True

    def _holds(self, state: Field) -> bool:
        """Whether every term over domains holds in the end."""
        for number in self.tied.apart:
            if state.by_domain[number].matched.max() > 1:
                return False
        for number in self.spread_terms:
            term = state.by_domain[number]
            if int(term.matched[term.eligible].max()) - term.lowest() > term.term.max_skew:
                return False
        return self.tied.order_exists(state)


def _seeds(model: Model, found: Aggregate) -> list[tuple[int, Ints]]:
    """The program's nodes with its pods dealt to them, large pods first, to the emptiest that has room."""
    out: list[tuple[int, Ints]] = []
    for place, column in enumerate(found.columns.tolist()):
        many = int(found.nodes[place])
        if not many:
            continue
        room = model.room[column]
        free = np.repeat(room[None], many, axis=0)
        counts = np.zeros((many, model.lots), np.int64)
        share = (model.request / np.maximum(room, 1e-9)).max(axis=1)
        for lot in np.argsort(-share, kind="stable").tolist():
            for _ in range(int(found.pods[lot, place])):
                able = np.nonzero((free >= model.request[lot] - 1e-9).all(axis=1))[0]
                if not len(able):
                    break
                node = able[np.argmax((free[able] / np.maximum(room, 1e-9)).sum(axis=1))]
                free[node] -= model.request[lot]
                counts[node, lot] += 1
        out += [(column, one) for one in counts]
    return out

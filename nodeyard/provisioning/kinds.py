"""Pods that a bound or an exact program need not tell apart, and what each takes of a node besides room.

A kind is classes of equal request, rule, node shares and settled spread, or classes whose pods all share one host: these
are one lot that asks for all they do. A node share is anything of which a node has a whole number: of an anti-affinity
whose carriers exclude each other one, of a spread over hosts its skew, of a host port one, of a volume driver the
attachments left. Neighbours: `company` says who shares what, `bounding` proves with kinds, `joint` plans with them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from nodeyard.provisioning.classes import PodClass
from nodeyard.provisioning.company import Company, bearers_and_counted, company_of
from nodeyard.provisioning.field import Field
from nodeyard.provisioning.labelled import Bools, Floats
from nodeyard.provisioning.setting import Setting
from nodeyard.scheduling.topology import TermKind

PLENTY = 1e6
"""Of a node share where a node sets no limit."""
_EXACT = 2.0**53
"""Below this, every whole number is a float of its own."""
_ANY_ADDRESS = ("", "0.0.0.0")


@dataclass(frozen=True, slots=True)
class Attachments:
    """The node share of a volume driver. Only standing nodes that count its volumes set a limit."""

    driver: str


@dataclass(slots=True)
class Kind:
    """`request`, `takes` (node share -> units): of a pod, or of all pods of the kind where they are one lot (`whole`).
    `spread`: settled spread terms over domains; `ties`: other terms over domains that say where its pods are beside
    others, `joins`: terms over hosts that do; `anchored`: affinity terms that only standing pods fulfil.
    """

    request: Floats
    takes: dict[object, int]
    spread: tuple[int, ...] = ()
    ties: tuple[int, ...] = ()
    anchored: tuple[int, ...] = ()
    joins: tuple[int, ...] = ()
    whole: bool = False
    members: list[tuple[PodClass, int]] = field(default_factory=list)

    @property
    def demand(self) -> float:
        return 1.0 if self.whole else float(sum(many for _, many in self.members))

    @property
    def by_domain(self) -> bool:
        """Whether it matters in which domain its pods are."""
        return bool(self.spread or self.ties)


def kinds_of(
    setting: Setting,
    state: Field,
    placed: Sequence[tuple[PodClass, int]],
    company: Company | None = None,
    *,
    tied: bool = False,
) -> list[Kind]:
    """The kinds of so many pods of each class; classes without pods are left out. `tied`: keep apart what terms tie to
    others.
    """
    settled = settled_spreads(setting, state)
    own = own_volumes(setting, state)
    company = company_of(setting, state) if company is None else company
    found: dict[tuple[object, ...], Kind] = {}
    whole = {c: at for at, together in enumerate(company.whole) for c in together}
    for one, many in placed:
        if many <= 0:
            continue
        takes = _takes(setting, one, own)
        anchored = tuple(n for n in one.carried if n in company.anchored)
        ties = company.ties(one.number) if tied else ()
        joins = company.joins(one.number) if tied else ()
        if one.number in whole:
            kind = found.setdefault((whole[one.number],), Kind(np.zeros(len(one.request)), {}, whole=True))
            kind.request = kind.request + one.request * many
            kind.ties, kind.joins = (*kind.ties, *ties), (*kind.joins, *joins)
            kind.anchored = (*kind.anchored, *anchored)
            for name, each in takes.items():
                kind.takes[name] = kind.takes.get(name, 0) + each * many
        else:
            spread = tuple(n for n in one.carried if n in settled)
            key = (
                one.rule, one.ports, one.request.tobytes(), tuple(takes.items()), spread, anchored, ties, joins,
            )  # fmt: skip
            kind = found.setdefault(key, Kind(one.request, takes, spread, ties, anchored, joins))
        kind.members.append((one, many))
    return list(found.values())


def settled_spreads(setting: Setting, state: Field) -> frozenset[int]:
    """Hard spread terms over domains whose every counted pod in the problem bears them too: final counts must obey."""
    bearers, counted = bearers_and_counted(setting)
    return frozenset(
        n
        for n, term in state.by_domain.items()
        if term.term.kind is TermKind.SPREAD
        and not term.term.soft
        and bearers.get(n)
        and bearers[n] == counted.get(n, set())
    )


def own_volumes(setting: Setting, state: Field) -> frozenset[tuple[str, str]]:
    """Volumes that one pod of the problem uses alone: each takes an attachment wherever its pod goes. `state`: with the
    standing pods only.
    """
    there = {(driver, v) for held in state.attached.values() for driver, vs in held.items() for v in vs}
    uses: dict[tuple[str, str], int] = {}
    for one in setting.classes.classes:
        for volume in one.attachments:
            uses[volume] = uses.get(volume, 0) + one.demand
    return frozenset(volume for volume, many in uses.items() if many == 1) - there


def _takes(setting: Setting, one: PodClass, own: frozenset[tuple[str, str]]) -> dict[object, int]:
    terms = setting.classes.terms
    takes: dict[object, int] = {
        n: 1
        for n in one.carried
        if terms[n].per_host and terms[n].kind is not TermKind.AFFINITY and n in one.matched
    }
    takes |= {(p.protocol, p.port): 1 for p in one.ports if p.host_ip in _ANY_ADDRESS}
    for driver, volume in one.attachments:
        if (driver, volume) in own:
            takes[Attachments(driver)] = takes.get(Attachments(driver), 0) + 1
    return takes


@dataclass(slots=True)
class Shares:
    """The node shares a program knows. `units`: [kind, share]; `fresh`: of a new node; `hosts`: [host, share] left."""

    names: list[object]
    units: Floats
    fresh: Floats
    hosts: Floats


def shares_of(setting: Setting, state: Field, kinds: Sequence[Kind], most: int) -> Shares:
    """The shares that need most nodes. `state`: with the standing pods counted only."""
    need: dict[object, float] = {}
    for kind in kinds:
        for name, each in kind.takes.items():
            need[name] = need.get(name, 0.0) + each * kind.demand / _fresh(setting, name)
    names = sorted(need, key=lambda n: -need[n])[:most]
    units: Floats = np.array([[float(k.takes.get(n, 0)) for n in names] for k in kinds]).reshape(
        len(kinds), len(names)
    )
    fresh = np.array([_fresh(setting, n) for n in names])
    count = setting.hosts.count
    hosts: Floats = np.array([_left_on_hosts(setting, state, n) for n in names]).reshape(len(names), count).T
    return Shares(names, units, fresh, hosts)


def _fresh(setting: Setting, name: object) -> float:
    if isinstance(name, int):
        term = setting.classes.terms[name]
        return 1.0 if term.kind is TermKind.ANTI_AFFINITY else float(term.max_skew)
    return PLENTY if isinstance(name, Attachments) else 1.0


def _left_on_hosts(setting: Setting, state: Field, name: object) -> Floats:
    count = setting.hosts.count
    out = np.full(count, _fresh(setting, name))
    if isinstance(name, int):
        at = state.at[name]
        return np.maximum(out - state.matched[:count, at], 0.0)
    if isinstance(name, Attachments):
        left: Floats = np.minimum(out, attachments_left(setting, state, name.driver))
        return left
    for node, ports in state.ports.items():
        if any((p.protocol, p.port) == name for p in ports):
            out[node] = 0.0
    return out


def attachments_left(setting: Setting, state: Field, driver: str) -> Floats:
    """[host]: how many more volumes of the driver each standing node may attach; infinite where it does not count them."""
    out: Floats = np.full(setting.hosts.count, np.inf)
    for node, held in state.attached.items():
        limits = setting.problem.snapshot.csi_nodes[setting.hosts.hosts[node].name].limits
        if driver in limits:
            out[node] = max(limits[driver] - len(held.get(driver, ())), 0)
    return out


def open_to(setting: Setting, first: Field, kind: Kind) -> tuple[Bools, Bools]:
    """(hosts, columns) that the pods standing there leave open to the kind; whatever else is placed only closes more.

    Whom a pod wants to join may still come, unless nobody but standing pods can be what it asks for.
    """
    alike = kind.members if kind.whole else kind.members[:1]
    each = [_open_to(setting, first, one) for one, _ in alike]
    hosts = np.logical_and.reduce([hosts for hosts, _ in each])
    columns = np.logical_and.reduce([columns for _, columns in each])
    for number in kind.anchored:
        if number in first.at:
            hosts &= first.matched[: first.count, first.at[number]] > 0
            columns[:] = False
            continue
        state = first.by_domain[number]
        held = state.matched > 0
        hosts &= held[first.domain[state.term.key][: first.count]]
        columns &= held[first.column_domain[state.term.key]]
    return hosts, columns


def _open_to(setting: Setting, first: Field, one: PodClass) -> tuple[Bools, Bools]:
    """The same for one class, affinity aside."""
    terms = setting.classes.terms
    carried = tuple(n for n in one.carried if terms[n].kind is not TermKind.AFFINITY)
    hosts = first.capacity(one, carried) > 0 if first.count else np.zeros(0, np.bool_)
    columns = setting.rules.on_columns(one).copy()
    for number, state in first.by_domain.items():
        if state.term.kind is not TermKind.ANTI_AFFINITY or state.term.soft:
            continue
        free = np.ones(len(state.matched), np.bool_)
        if number in one.carried:
            free &= state.matched == 0
        if number in one.matched:
            free &= state.carried == 0
        free[0] = True
        hosts = hosts & free[first.domain[state.term.key][: first.count]]
        columns &= free[first.column_domain[state.term.key]]
    return hosts, columns


def whole_room(request: Floats, room: Floats) -> Floats:
    """The room that loads can use: requests that are all multiples of something leave the rest of it empty. `request`: of
    all that may come, [pod, resource]; `room`: [node, resource].
    """
    out = room.copy()
    for resource in range(request.shape[1]):
        asked = np.unique(request[:, resource])
        asked = asked[asked > 0]
        if len(asked) and asked[-1] < _EXACT and (asked == np.rint(asked)).all():
            step = float(np.gcd.reduce(asked.astype(np.int64)))
            out[:, resource] = np.floor(room[:, resource] / step + 1e-9) * step
    return out

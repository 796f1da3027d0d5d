"""Who must be where whom: pods that required terms tie to one host, to one domain, to where others are, or keep apart.

Only what follows from a term in every order in which pods may come is told: a term is left alone where its bearers carry
a further required affinity, where daemons are counted by it, or where who bears it and who is counted overlap in part.
Pods that stand count: where they are what a term asks for, its bearers go nowhere else. Neighbours: `kinds` makes lots
of it, `joint` rows.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from nodeyard.provisioning.field import Field
from nodeyard.provisioning.setting import Setting
from nodeyard.scheduling.topology import TermKind

Members = frozenset[int]
"""Numbers of classes."""
Both = tuple[Members, Members]
"""Who bears a term, and who is counted by it."""


@dataclass(slots=True)
class Company:
    """`whole`: classes all of whose pods share one host. By term over hosts: `joining`: (bearers, those one of whom must be on
    their host), `keeping`: (bearers, those whom they keep off it), where these are not the same. By term over domains: `together`, whose pods share one domain;
    `beside`: (bearers, those that must be in their domain); `apart`, of which a domain takes one pod. `anchored`: terms
    whose bearers go only where standing pods are that they ask for. `known`: terms that all this says everything about,
    but that nobody may wait for who waits for him.
    """

    whole: list[Members] = field(default_factory=list)
    joining: dict[int, Both] = field(default_factory=dict)
    keeping: dict[int, Both] = field(default_factory=dict)
    together: dict[int, Members] = field(default_factory=dict)
    beside: dict[int, Both] = field(default_factory=dict)
    apart: dict[int, Members] = field(default_factory=dict)
    anchored: set[int] = field(default_factory=set)
    known: set[int] = field(default_factory=set)

    @property
    def over_domains(self) -> set[int]:
        """Terms that tie pods to others by domain."""
        return {*self.together, *self.beside, *self.apart}

    def ties(self, number: int) -> tuple[int, ...]:
        """Terms over domains that say something about where the class's pods are beside others."""
        found = [n for n, m in (*self.together.items(), *self.apart.items()) if number in m]
        found += [n for n, (bearers, others) in self.beside.items() if number in bearers | others]
        return tuple(sorted(found))

    def joins(self, number: int) -> tuple[int, ...]:
        """Terms over hosts by which the class asks for others or keeps them off, or others do so with it."""
        found = (*self.joining.items(), *self.keeping.items())
        return tuple(sorted(n for n, (mine, others) in found if number in mine | others))


def company_of(setting: Setting, first: Field) -> Company:
    """What required terms say about the problem's pods. `first`: with the standing pods only."""
    out = Company()
    bearers, counted = bearers_and_counted(setting)
    terms = setting.classes.terms
    asking = [n for n in bearers if terms[n].kind is not TermKind.SPREAD]
    if not asking:
        return out
    unclear = _one_of_several(setting) | _counted_daemons(setting)
    on_hosts: dict[int, Both] = {}
    for n in sorted(set(asking) - unclear):
        mine, others = frozenset(bearers[n]), frozenset(counted.get(n, ()))
        if terms[n].kind is TermKind.ANTI_AFFINITY:
            if n in first.by_domain and mine == others:
                out.apart[n] = mine
            elif n in first.at and others and mine != others:
                out.keeping[n] = mine, others
        elif others <= mine and _standing(first, n):
            out.anchored.add(n)
        elif others and n in first.at:
            on_hosts[n] = mine, others
        elif others and others <= mine:
            out.together[n] = mine
        elif others and not others & mine:
            out.beside[n] = mine, others
    _share_hosts(setting, first, on_hosts, out)
    out.known |= {*out.joining, *out.keeping} | out.over_domains | out.anchored
    return out


def bearers_and_counted(setting: Setting) -> tuple[dict[int, set[int]], dict[int, set[int]]]:
    """Per term, the classes that carry it as a requirement, and those that it counts."""
    bearers: dict[int, set[int]] = {}
    counted: dict[int, set[int]] = {}
    for one in setting.classes.classes:
        for number in one.carried:
            bearers.setdefault(number, set()).add(one.number)
        for number in one.matched:
            counted.setdefault(number, set()).add(one.number)
    return bearers, counted


def _one_of_several(setting: Setting) -> set[int]:
    """Affinity terms that some pod bears beside another: together they ask for less, or more, than each by itself."""
    terms, out = setting.classes.terms, set[int]()
    for one in setting.classes.classes:
        near = [n for n in one.carried if terms[n].kind is TermKind.AFFINITY]
        if len(near) > 1:
            out.update(near)
    return out


def _counted_daemons(setting: Setting) -> set[int]:
    """Terms that count some daemon."""
    shapes = [shape for shape, _ in setting.columns.daemon_of]
    if not shapes:
        return set()
    matching = setting.classes.matching([setting.classes.tag(shape) for shape in shapes])
    return set(np.nonzero(matching.any(axis=1))[0].tolist())


def _standing(first: Field, number: int) -> bool:
    """Whether pods that stand are counted by the term."""
    if number in first.at:
        return bool(first.matched[: first.count, first.at[number]].any())
    return bool(first.by_domain[number].matched.any())


def _share_hosts(setting: Setting, first: Field, on_hosts: dict[int, Both], out: Company) -> None:
    """Bearers that are all that a term counts share one host, and so do those that follow one pod or such a host; others
    follow several.
    """
    classes = setting.classes.classes
    sealed: list[Members] = []
    todo = {n: both for n, both in on_hosts.items() if not _standing(first, n)}
    settled: list[int] = []
    while True:
        found = [
            n
            for n, (mine, others) in todo.items()
            if others <= mine
            or sum(classes[c].demand for c in others) == 1
            or any(others <= one for one in sealed)
        ]
        if not found:
            break
        for n in found:
            mine, others = todo.pop(n)
            settled.append(n)
            sealed = _joined(sealed, mine | others)
    spread = {n for n, t in first.by_domain.items() if t.term.kind is TermKind.SPREAD and not t.term.soft}
    out.whole = [
        one for one in sealed if not any({*classes[c].carried, *classes[c].matched} & spread for c in one)
    ]
    kept = frozenset().union(*out.whole)
    told = {n for n in settled if on_hosts[n][0] <= kept}
    out.known |= told
    out.joining = {n: both for n, both in on_hosts.items() if n not in told and not both[0] & both[1]}


def _joined(sets: Iterable[Members], more: Members) -> list[Members]:
    """The sets with another one, those that meet it being one with it."""
    apart = [one for one in sets if not one & more]
    return [*apart, more.union(*(one for one in sets if one & more))]

"""Drafts of plans as tests make them: the first that comes to hand, one spread out over far too many nodes, what one holds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from nodeyard.provisioning.attempt import Attempt
from nodeyard.provisioning.classes import PodClass
from nodeyard.provisioning.compiling import compile_problem
from nodeyard.provisioning.field import Field
from nodeyard.provisioning.limits import Limits
from nodeyard.provisioning.model import Options
from nodeyard.provisioning.setting import NONE, Draft, Setting
from nodeyard.scheduling.topology import TermKind
from tests.support.planning import posed
from tests.support.problems import KINDS


def setting_of(kind: str, seed: int) -> Setting:
    """A kind of problem, compiled."""
    return compile_problem(posed(KINDS[kind](seed)), Options())[0]


def hasty(setting: Setting) -> Draft:
    """A draft by the first rule of thumb, nothing improved."""
    return Attempt(setting, [NONE], lambda: 0.0, lambda: 60.0).run()


def split(setting: Setting, draft: Draft) -> Draft:
    """The same with every new node made several of the same column, with two pods of one class on each at most."""
    state = Field(setting.problem, setting.classes, setting.columns, setting.hosts, setting.rules)
    limits = Limits(setting.columns, setting.hosts)
    columns: list[int] = []
    for node, held in enumerate(draft.state.contents):
        for number, many in held.items():
            one, at, counts = setting.classes.classes[number], np.array([node]), np.array([many])
            if node >= setting.hosts.count:
                counts = np.minimum(2, many - np.arange(0, many, 2))
                fresh = np.repeat(draft.state.column[node], len(counts))
                at = state.add_nodes(fresh)
                limits.spend_all(fresh)
                columns += fresh.tolist()
            state.place(one, draft.carried_of(one), at, counts)
    return replace(draft, state=state, limits=limits, cost=float(setting.columns.cost[columns].sum()))


def placed(draft: Draft) -> dict[int, int]:
    """Pods of each class that are on some node."""
    out: dict[int, int] = {}
    for held in draft.state.contents:
        for number, many in held.items():
            out[number] = out.get(number, 0) + many
    return out


def broken(setting: Setting, draft: Draft) -> list[str]:
    """What the nodes of a draft break, each pod taken off its node and asked about anew; without those that a spread over
    hosts which the pod bears only counts, since it binds nobody who comes after the pod.
    """
    state, out = draft.state, []
    for node, held in enumerate(state.contents):
        if (state.room[node] < -1e-6).any():
            out.append(f"node {node} is too full")
        for number in list(held):
            one = setting.classes.classes[number]
            carried = draft.carried_of(one)
            later = [m for m in held if _only_counted(draft, one, setting.classes.classes[m])]
            off = [(number, 1), *((m, held[m]) for m in later)]
            _shift(setting, draft, node, off, -1)
            if not one.ports and not state.capacity(one, carried)[node]:
                out.append(f"node {node} does not take {number}")
            _shift(setting, draft, node, off, 1)
    return out


def _only_counted(draft: Draft, one: PodClass, other: PodClass) -> bool:
    """Whether pods of the other class are counted by a spread over hosts that the one bears, and bear none such."""
    state = draft.state
    spreads = {
        n for n in draft.carried_of(one) if n in state.at and state.classes.terms[n].kind is TermKind.SPREAD
    }
    return bool(spreads & {*other.matched}) and not spreads & {*draft.carried_of(other)}


def _shift(setting: Setting, draft: Draft, node: int, what: list[tuple[int, int]], sign: int) -> None:
    for number, many in what:
        one = setting.classes.classes[number]
        draft.state.place(one, draft.carried_of(one), np.array([node]), np.array([sign * many]))

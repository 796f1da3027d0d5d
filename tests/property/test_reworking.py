"""Plans spread out over far too many nodes, and what reworking makes of them: cheaper, whole, and within every rule."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nodeyard.provisioning.attempt import Attempt
from nodeyard.provisioning.field import Field
from nodeyard.provisioning.limits import Limits
from nodeyard.provisioning.model import Options
from nodeyard.provisioning.planner import compile_problem, plan
from nodeyard.provisioning.reworking import reworked
from nodeyard.provisioning.setting import NONE, Draft, Setting
from tests.support.planning import posed
from tests.support.problems import KINDS

SEARCH_S = 3.0


def setting_of(kind: str, seed: int) -> Setting:
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
    out: dict[int, int] = {}
    for held in draft.state.contents:
        for number, many in held.items():
            out[number] = out.get(number, 0) + many
    return out


def broken(setting: Setting, draft: Draft) -> list[str]:
    """What the nodes of a draft break, each pod taken off its node and asked about anew."""
    state, out = draft.state, []
    for node, held in enumerate(state.contents):
        if (state.room[node] < -1e-6).any():
            out.append(f"node {node} is too full")
        for number in held:
            one = setting.classes.classes[number]
            carried = draft.carried_of(one)
            state.place(one, carried, np.array([node]), np.array([-1]))
            if not one.ports and not state.capacity(one, carried)[node]:
                out.append(f"node {node} does not take {number}")
            state.place(one, carried, np.array([node]), np.array([1]))
    return out


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("preferring", "all different")])
def test_reworking_places_the_same_pods_for_no_more_and_breaks_nothing(kind: str) -> None:
    setting = setting_of(kind, 2)
    before = hasty(setting)
    domains = {n: t.matched.copy() for n, t in before.state.by_domain.items()}
    after = reworked(setting, before, setting.effort.budget(0.3))
    assert after.cost <= before.cost
    assert placed(after) == placed(before)
    assert broken(setting, after) == []
    for number, was in domains.items():
        now = after.state.by_domain[number]
        level = int(now.matched[now.eligible].max(initial=0)) - now.lowest() <= now.term.max_skew
        assert level or (now.matched == was).all()


@pytest.mark.parametrize(
    "kind", ["plain deployments", "tainted pools", "zone spread", "existing nodes", "node affinities"]
)
def test_a_plan_spread_out_over_too_many_nodes_comes_near_the_planners_own(kind: str) -> None:
    setting = setting_of(kind, 1)
    poor = split(setting, hasty(setting))
    own = plan(setting.problem, Options(), lambda: 0.0).cost
    after = reworked(setting, poor, setting.effort.budget(SEARCH_S))
    assert poor.cost > 1.5 * own.objective_per_hour
    assert after.cost <= 1.06 * own.objective_per_hour


def test_no_time_left_leaves_the_plan_alone() -> None:
    setting = setting_of("plain deployments", 1)
    draft = hasty(setting)
    assert reworked(setting, draft, lambda: 0.0) is draft

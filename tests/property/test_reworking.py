"""Plans spread out over far too many nodes, and what reworking makes of them: cheaper, whole, and within every rule."""

from __future__ import annotations

import pytest

from nodeyard.provisioning.model import Options
from nodeyard.provisioning.planner import plan
from nodeyard.provisioning.reworking import reworked
from tests.support.drafts import broken, hasty, placed, setting_of, split
from tests.support.problems import KINDS

SEARCH_S = 3.0


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

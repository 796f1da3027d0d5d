"""Pods that may go to several pools beside others that may not: who joins whom is decided as a whole."""

from __future__ import annotations

from typing import Any

import pytest

from nodeyard.provisioning.compiling import compile_problem
from nodeyard.provisioning.joint import Joint
from nodeyard.provisioning.model import Options
from tests.support.invented_market import invented
from tests.support.manifests import pods, pool
from tests.support.planning import posed, solve
from tests.support.problems import PlanningProblem

Json = dict[str, Any]
TAINT = {"key": "team", "value": "a", "effect": "NoSchedule"}
POOLS = [pool(), pool("team-a", taints=[TAINT], labels={"team": "a"})]
TOLERANT: Json = {"tolerations": [{"operator": "Exists"}]}
BOUND: Json = {**TOLERANT, "nodeSelector": {"team": "a"}}
MARKET = invented(40, 4)


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        (TOLERANT, {}, True),
        (TOLERANT, BOUND, True),
        (TOLERANT, TOLERANT, False),
        (BOUND, {}, False),
    ],
    ids=["one has a choice", "one has a choice beside the tainted", "both have the same", "apart"],
)
def test_pools_are_shared_where_some_pods_have_a_choice_that_others_have_not(
    one: Json, other: Json, shared: bool
) -> None:
    made = [*pods("one", 5, 700, 900, **one), *pods("other", 5, 500, 2000, **other)]
    setting, _ = compile_problem(posed(PlanningProblem("", [*POOLS, *made], MARKET)), Options())
    joint = Joint.of(setting, [(c, c.demand) for c in setting.classes.classes])
    assert joint is not None
    assert joint.shares_pools() is shared


def test_pods_with_a_choice_fill_what_those_without_leave() -> None:
    made = [
        *pods("open", 7, 1900, 2000),
        *pods("bound", 5, 1900, 6000, **BOUND),
        *pods("any", 9, 700, 900, **TOLERANT),
    ]
    cost = solve(
        PlanningProblem("", [*POOLS, *made], MARKET), Options(deadline_s=60.0, search_s=6.0)
    ).plan.cost
    assert cost.gap == pytest.approx(0.0, abs=0.06)

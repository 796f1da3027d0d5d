"""Pods that keep off others which don't mind them: several may share a node as long as none of those is there."""

from __future__ import annotations

from typing import Any

import pytest

from nodeyard.provisioning.model import Options
from tests.support.invented_market import invented
from tests.support.manifests import pods, pool
from tests.support.planning import solve
from tests.support.problems import PlanningProblem

Json = dict[str, Any]
HOST = "kubernetes.io/hostname"


def off(app: str) -> Json:
    terms = [{"topologyKey": HOST, "labelSelector": {"matchLabels": {"app": app}}}]
    return {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}}


@pytest.mark.parametrize(
    ("many", "lone", "shy"),
    [
        (4, (2000, 900), (500, 1700)),
        (6, (500, 1700), (500, 1700)),
        (4, (500, 1700), (2000, 900)),
        (6, (1000, 3500), (1500, 900)),
    ],
)
def test_pods_that_keep_off_lone_ones_share_nodes_with_each_other(
    many: int, lone: tuple[int, int], shy: tuple[int, int]
) -> None:
    made = [
        *pods("lone", many, *lone, **off("lone")),
        *pods("shy", 6, *shy, **off("lone")),
        *pods("any", 6, 1500, 900),
        *pods("few", 3, 200, 3500),
    ]
    problem = PlanningProblem("", [pool(), *made], invented(40, 4))
    plan = solve(problem, Options(deadline_s=60.0, search_s=6.0)).plan
    assert not plan.unschedulable
    assert plan.cost.gap is not None
    assert plan.cost.gap < 0.09
    together = [{p.rpartition("-")[0] for p in node.pods} for node in plan.nodes]
    assert not any({"default/shy", "default/lone"} <= apps for apps in together)

"""Which problems are small and known enough to be decided by one program, domain, node and column together."""

from __future__ import annotations

from typing import Any

import pytest

from nodeyard.provisioning.compiling import compile_problem
from nodeyard.provisioning.joint import Joint
from nodeyard.provisioning.model import Options
from tests.support.invented_market import invented
from tests.support.manifests import pods, pool
from tests.support.planning import posed
from tests.support.problems import PlanningProblem

Json = dict[str, Any]
ZONE, HOST = "topology.kubernetes.io/zone", "kubernetes.io/hostname"
MINE = {"matchLabels": {"app": "one"}}
OTHERS = {"matchLabels": {"app": "other"}}


def spread(key: str, selector: Json = MINE) -> Json:
    term = {
        "maxSkew": 1,
        "topologyKey": key,
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": selector,
    }
    return {"topologySpreadConstraints": [term]}


def required(kind: str, key: str) -> Json:
    terms = [{"topologyKey": key, "labelSelector": MINE}]
    return {"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": terms}}}


@pytest.mark.parametrize(
    ("rules", "known"),
    [
        ({}, True),
        (spread(ZONE), True),
        (spread(HOST), True),
        (required("podAntiAffinity", HOST), True),
        (required("podAffinity", ZONE), True),
        (spread(ZONE, OTHERS), False),
    ],
    ids=[
        "plain",
        "zone spread",
        "host spread",
        "host anti-affinity",
        "zone affinity",
        "spread by others' counts",
    ],
)
def test_a_program_of_the_whole_knows_at_once_what_it_can_decide(rules: Json, known: bool) -> None:
    made = [*pods("one", 6, 700, 900, **rules), *pods("other", 5, 500, 2000)]
    setting, _ = compile_problem(posed(PlanningProblem("", [pool(), *made], invented(40, 4))), Options())
    joint = Joint.of(setting, [(c, c.demand) for c in setting.classes.classes])
    assert joint is not None
    assert joint.knows_all() is known

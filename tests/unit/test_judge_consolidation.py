"""The judge of consolidations sees what is wrong: each report is right but for one thing."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import pytest

from tests.support.invented_market import ZONES, instance_type, offering
from tests.support.judge_consolidation import judge_consolidation
from tests.support.kube_rules import HOST, INSTANCE_TYPE
from tests.support.manifests import Json, node, pod, pool, required

MARKET = {
    name: instance_type(name, cpus, 4 * cpus, [offering(ZONES[0], "on-demand", 0.05 * cpus)])
    for name, cpus in (("m5.large", 2), ("m5.xlarge", 4))
}


def cluster() -> list[Json]:
    """Three nodes with a pod each, which fit one of them."""
    apart = required("podAntiAffinity", HOST, {"app": "c"})
    nodes = [node(f"n{i}", ZONES[0], labels={INSTANCE_TYPE: "m5.xlarge"}) for i in range(3)]
    of_all = pool()
    of_all["spec"]["disruption"] = {"budgets": [{"nodes": "2"}]}
    return [
        of_all,
        *nodes,
        pod("a-0", 500, 500, node="n0"),
        pod("b-0", 1500, 500, node="n1"),
        pod("c-0", 500, 500, node="n2", affinity=apart),
        pod("c-1", 500, 500, node="n0", affinity=apart),
    ]


def report() -> Json:
    """n0 goes: its pods to n1, but for one to a new node that is small."""
    new = {"name": "new-1", "nodePool": "default", "instanceType": "m5.large", "zone": ZONES[0],
           "capacityType": "on-demand", "pricePerHour": 0.1, "labels": {}}  # fmt: skip
    old = {"instanceType": "m5.xlarge", "pricePerHour": 0.2, "existing": True}
    return {
        "before": {"pricePerHour": 0.6, "objectivePerHour": 0.63},
        "after": {
            "pricePerHour": 0.5,
            "objectivePerHour": 0.53,
            "nodes": [
                {"name": "n1", "pods": ["default/a-0", "default/b-0"], **old},
                {"name": "n2", "pods": ["default/c-0"], **old},
                {**new, "pods": ["default/c-1"], "existing": False},
            ],
        },
        "lowerBound": 0.4,
        "steps": [
            {
                "remove": ["n0"], "add": ["new-1"], "evictions": 2, "savesPerHour": 0.1, "reason": "Underutilized",
                "launch": [new],
                "moves": [
                    {"pod": "default/a-0", "from": "n0", "to": "n1"},
                    {"pod": "default/c-1", "from": "n0", "to": "new-1"},
                ],
            }
        ],
        "kept": [{"node": "n1", "reason": "it pays"}, {"node": "n2", "reason": "it pays"}],
        "unschedulable": [],
    }  # fmt: skip


def protected(objects: list[Json], told: Json) -> None:
    objects[4]["metadata"]["annotations"] = {"karpenter.sh/do-not-disrupt": "true"}


def crowded(objects: list[Json], told: Json) -> None:
    objects[5]["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "3600m"


def together(objects: list[Json], told: Json) -> None:
    told["steps"][0]["moves"][1]["to"] = "n2"
    told["after"]["nodes"][1]["pods"].append(told["after"]["nodes"][2]["pods"].pop())


def tainted(objects: list[Json], told: Json) -> None:
    objects[2]["spec"]["taints"] = [{"key": "gone", "effect": "NoSchedule"}]


def over_budget(objects: list[Json], told: Json) -> None:
    objects[0]["spec"]["disruption"]["budgets"] = [{"nodes": "0"}]


def sick(objects: list[Json], told: Json) -> None:
    objects[0]["spec"]["disruption"]["budgets"] = [{"nodes": "1"}]
    objects[3]["status"]["conditions"] = [{"type": "Ready", "status": "False"}]


def guarded(objects: list[Json], told: Json) -> None:
    spec = {"maxUnavailable": 0, "selector": {"matchLabels": {"app": "a"}}}
    meta = {"name": "a", "namespace": "default"}
    objects.append({"kind": "PodDisruptionBudget", "metadata": meta, "spec": spec})


def limited(objects: list[Json], told: Json) -> None:
    objects[0]["spec"]["limits"] = {"nodes": "3"}


def lost(objects: list[Json], told: Json) -> None:
    told["steps"][0]["moves"].pop(0)


def unknown(objects: list[Json], told: Json) -> None:
    told["steps"][0]["remove"].append("n9")


def untold(objects: list[Json], told: Json) -> None:
    told["kept"].pop()


def dearer(objects: list[Json], told: Json) -> None:
    told["steps"][0]["savesPerHour"] = 0.2


def overstated(objects: list[Json], told: Json) -> None:
    told["lowerBound"] = 0.54


def uncharged(objects: list[Json], told: Json) -> None:
    told["after"]["objectivePerHour"] = 0.5


WRONG: list[tuple[Callable[[list[Json], Json], None], str]] = [
    (protected, "asks not to be disrupted"), (crowded, "over by"), (together, "anti-affinity"),
    (tainted, "taint not tolerated"), (over_budget, "budget 0 of default"), (sick, "1 are gone"),
    (guarded, "allows 0 evictions"), (limited, "limit nodes 3 exceeded"), (lost, "no place for"),
    (unknown, "not there"), (untold, "reasons are for"), (dearer, "savesPerHour"), (overstated, "is above"),
    (uncharged, "objectivePerHour"),
]  # fmt: skip


def test_a_report_that_holds_passes() -> None:
    assert judge_consolidation(cluster(), MARKET, report()) == []


@pytest.mark.parametrize(("spoil", "found"), WRONG, ids=[spoil.__name__ for spoil, _ in WRONG])
def test_what_is_wrong_is_seen(spoil: Callable[[list[Json], Json], None], found: str) -> None:
    objects, told = deepcopy(cluster()), report()
    spoil(objects, told)
    assert any(found in error for error in judge_consolidation(objects, MARKET, told))

"""What is preferred: given up in Karpenter's order where preferences are respected, priced otherwise; soft taints too."""

from __future__ import annotations

from typing import Any

import pytest

from nodeyard.provisioning.model import Options, PreferencePolicy
from tests.support.invented_market import ZONES
from tests.support.kube_rules import CAPACITY_TYPE, HOST, ZONE
from tests.support.manifests import node, pod, pods, pool
from tests.unit.provisioning.test_pods_beside_pods import PREFERRED, per, planned
from tests.unit.provisioning.test_what_nodes_offer import expression, reasons

Json = dict[str, Any]
RESPECT = Options(preference_policy=PreferencePolicy.RESPECT)
IGNORE = Options(preference_policy=PreferencePolicy.IGNORE)
SOFT: Json = {"key": "team", "value": "a", "effect": "PreferNoSchedule"}


def term(weight: int, key: str, app: str) -> Json:
    chosen = {"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": key}
    return {"weight": weight, "podAffinityTerm": chosen}


def wishing(*expressions: Json) -> Json:
    """Preferred node affinity: the first weighs most."""
    terms = [
        {"weight": 90 - i, "preference": {"matchExpressions": [e]}} for i, e in enumerate(expressions)
    ]  # fmt: skip
    return {"nodeAffinity": {PREFERRED: terms}}


def soft_spread(key: str, app: str) -> Json:
    return {
        "maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {"app": app}},
    }  # fmt: skip


# --- the order in which respected preferences go -------------------------------------------------------------------
def test_affinity_to_pods_goes_before_anti_affinity() -> None:
    """Where both can't be kept, pods end up away from those they avoid, not beside those they like."""
    both = {
        "podAffinity": {PREFERRED: [term(1, ZONE, "db")]},
        "podAntiAffinity": {PREFERRED: [term(1, ZONE, "noise")]},
    }
    there = [pod(f"{app}-0", nodeSelector={ZONE: ZONES[0]}) for app in ("db", "noise")]
    solved = planned(*there, pod("web-0", affinity=both), options=RESPECT)
    assert set(per(solved, "zone", "web")) == {ZONES[1]}


def test_anti_affinity_to_pods_goes_before_node_affinity() -> None:
    wants = {
        **wishing(expression(ZONE, "In", ZONES[0])),
        "podAntiAffinity": {PREFERRED: [term(1, ZONE, "db")]},
    }
    there = pod("db-0", nodeSelector={ZONE: ZONES[0]})
    solved = planned(there, pod("web-0", affinity=wants), options=RESPECT)
    assert set(per(solved, "zone", "web")) == {ZONES[0]}


def test_node_affinity_goes_before_a_soft_spread() -> None:
    """All would like one zone, and to be even: they end up even."""
    wants = wishing(expression(ZONE, "In", ZONES[0]))
    solved = planned(
        *pods("web", 4, affinity=wants, topologySpreadConstraints=[soft_spread(ZONE, "web")]), options=RESPECT
    )
    assert sorted(per(solved, "zone", "web").values()) == [2, 2]


def test_a_soft_spread_goes_before_soft_taints_are_put_up_with() -> None:
    """Only the pool with the soft taint reaches the second zone."""
    here = pool("here", requirements=[expression(ZONE, "In", ZONES[0])])
    there = pool("there", requirements=[expression(ZONE, "In", ZONES[1])], taints=[SOFT])
    solved = planned(
        *pods("web", 4, topologySpreadConstraints=[soft_spread(ZONE, "web")]), options=RESPECT, pools=(here, there)
    )  # fmt: skip
    assert per(solved, "nodePool", "web") == {"here": 4}


@pytest.mark.parametrize("kind", ["podAffinity", "podAntiAffinity"])
def test_of_several_terms_the_heaviest_goes_first_and_the_others_stay(kind: str) -> None:
    """db and queue are in different zones: the lighter of two terms that can't both be kept is kept."""
    there = [pod("db-0", nodeSelector={ZONE: ZONES[0]}), pod("queue-0", nodeSelector={ZONE: ZONES[1]})]
    both = {kind: {PREFERRED: [term(80, ZONE, "db"), term(20, ZONE, "queue")]}}
    solved = planned(*there, pod("web-0", affinity=both), options=RESPECT)
    assert set(per(solved, "zone", "web")) == {ZONES[1] if kind == "podAffinity" else ZONES[0]}


def test_of_several_node_terms_as_many_are_kept_as_there_is_a_node_for() -> None:
    wants = wishing(
        expression("kubernetes.io/arch", "In", "s390x"), expression(ZONE, "In", ZONES[1]),
        expression(CAPACITY_TYPE, "In", "on-demand"),
    )  # fmt: skip
    (made,) = planned(pod("web-0", affinity=wants), options=RESPECT).report["nodes"]
    assert (made["zone"], made["capacityType"]) == (ZONES[1], "on-demand")


# --- relaxing one pod is not relaxing for ever ----------------------------------------------------------------------
def test_a_preference_counts_though_what_it_names_is_placed_later() -> None:
    """The follower is the larger pod and would come first in a queue; it waits for whom it likes."""
    near = {"podAffinity": {PREFERRED: [term(1, ZONE, "db")]}}
    follower = pods("web", 2, 1800, 512, affinity=near)
    leader = pod("db-0", 100, 100, nodeSelector={ZONE: ZONES[1]})
    solved = planned(*follower, leader, options=RESPECT)
    assert set(per(solved, "zone", "web")) == {ZONES[1]}


def test_pods_that_give_up_a_preference_do_not_make_others_give_up_theirs() -> None:
    """Three avoid each other by zone and there are two zones; the fourth's wish has nothing to do with it."""
    apart = {"podAntiAffinity": {PREFERRED: [term(1, ZONE, "web")]}}
    wish = wishing(expression(ZONE, "In", ZONES[1]))
    solved = planned(*pods("web", 3, affinity=apart), pod("db-0", affinity=wish), options=RESPECT)
    assert not reasons(solved)
    assert len(per(solved, "zone", "web")) == 2
    assert set(per(solved, "zone", "db")) == {ZONES[1]}


# --- soft taints ----------------------------------------------------------------------------------------------------
def pools_with_a_soft_taint_on_the_cheaper() -> tuple[Json, Json]:
    return pool("cheap", categories="c", taints=[SOFT]), pool("dear", categories="r")


def test_a_soft_taint_is_kept_off_where_respected_put_up_with_where_nothing_else_is_there_or_ignored() -> (
    None
):
    both = pools_with_a_soft_taint_on_the_cheaper()
    assert per(planned(pod("a-0"), options=RESPECT, pools=both), "nodePool", "a") == {"dear": 1}
    assert per(planned(pod("a-0"), options=RESPECT, pools=both[:1]), "nodePool", "a") == {"cheap": 1}
    assert per(planned(pod("a-0"), options=IGNORE, pools=both), "nodePool", "a") == {"cheap": 1}
    tolerant = pod("a-0", tolerations=[{"key": "team", "operator": "Exists"}])
    assert per(planned(tolerant, options=RESPECT, pools=both), "nodePool", "a") == {"cheap": 1}


def test_a_soft_taint_has_the_price_of_a_full_weight() -> None:
    """0.01 USD per pod and hour by default: the dearer pool costs more than that, or not, by the rate of exchange."""
    both = pools_with_a_soft_taint_on_the_cheaper()
    put_up = planned(pod("a-0"), pools=both)
    assert per(put_up, "nodePool", "a") == {"cheap": 1}
    assert put_up.report["cost"]["preferencesPerHour"] == pytest.approx(0.01)
    kept = planned(pod("a-0"), pools=both, options=Options(preference_usd_per_weight_hour=0.1))
    assert per(kept, "nodePool", "a") == {"dear": 1}
    assert kept.report["cost"]["preferencesPerHour"] == 0


def test_a_node_with_a_soft_taint_is_passed_by_for_another_that_stands() -> None:
    tainted, clean = node("a", ZONES[0]), node("b", ZONES[0])
    tainted["spec"]["taints"] = [SOFT]
    for options in (RESPECT, Options()):
        solved = planned(tainted, clean, pod("web-0"), options=options)
        assert [e["node"] for e in solved.report["existing"]] == ["b"]
    alone = planned(tainted, pod("web-0"))
    assert [e["node"] for e in alone.report["existing"]] == [
        "a"
    ]  # a new node costs more than the wish is worth


# --- prices ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("spec", "weight"),
    [
        ({"affinity": {"podAntiAffinity": {PREFERRED: [term(7, HOST, "web")]}}}, 7 * 3),
        ({"affinity": {"podAffinity": {PREFERRED: [term(9, ZONE, "nobody")]}}}, 9 * 3),
        ({"affinity": wishing(expression("kubernetes.io/arch", "In", "s390x"))}, 90 * 3),
        ({"topologySpreadConstraints": [{**soft_spread(HOST, "web"), "maxSkew": 2}]}, 100),
    ],
)
def test_each_pod_whose_preference_is_not_kept_costs_its_weight(spec: Json, weight: int) -> None:
    """By default 0.0001 USD an hour per unit of weight; ScheduleAnyway has a hundred per pod beyond the skew."""
    solved = planned(*pods("web", 3, 100, 100, **spec))
    assert len(solved.report["nodes"]) == 1
    assert solved.report["cost"]["preferencesPerHour"] == pytest.approx(weight * 0.0001)

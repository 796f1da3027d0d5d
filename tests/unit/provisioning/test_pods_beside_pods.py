"""What a pod asks of other pods: spread, affinity and anti-affinity, and what preferences are worth."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from nodeyard.provisioning.model import Options, PreferencePolicy
from tests.support.invented_market import ZONES, invented
from tests.support.judge import judge
from tests.support.kube_rules import CAPACITY_TYPE, HOST, ZONE
from tests.support.manifests import node, pod, pods, pool, required, spread
from tests.support.planning import Solved, solve
from tests.support.problems import PlanningProblem
from tests.unit.provisioning.test_what_nodes_offer import MARKET, expression, reasons, wanting

Json = dict[str, Any]
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
BOTH = ("spot", "on-demand")


def planned(*objects: Json, options: Options | None = None, pools: tuple[Json, ...] = ()) -> Solved:
    """The plan, which must be valid to the judge."""
    given = PlanningProblem("", [*(pools or (pool(capacity_types=BOTH),)), *objects], MARKET)
    solved = solve(given, options)
    assert judge(given.objects, MARKET, solved.report) == []
    return solved


def per(solved: Solved, field: str, app: str) -> Counter[str]:
    """Pods of the app per zone, capacity type or name of the new nodes."""
    out: Counter[str] = Counter()
    for made in solved.report["nodes"]:
        where = made[field] if field in made else made["labels"][field]
        out[where] += sum(p.startswith(f"default/{app}-") for p in made["pods"])
    return +out


def liking(kind: str, key: str, app: str, weight: int) -> Json:
    term = {"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": key}
    return {kind: {PREFERRED: [{"weight": weight, "podAffinityTerm": term}]}}


# --- spread -----------------------------------------------------------------------------------------------------------
def test_domains_to_spread_over_are_those_that_pools_could_make_and_nodes_have() -> None:
    away = node("n", ZONES[2])
    solved = planned(away, *pods("web", 6, 200, 200, topologySpreadConstraints=[spread(ZONE, "web")]))
    assert per(solved, "zone", "web") == {ZONES[0]: 2, ZONES[1]: 2}
    assert [len(e["pods"]) for e in solved.report["existing"]] == [2]


def test_fewer_domains_than_demanded_let_each_have_the_skew_only() -> None:
    solved = planned(*pods("web", 5, topologySpreadConstraints=[spread(ZONE, "web", minDomains=3)]))
    assert per(solved, "zone", "web") == {ZONES[0]: 1, ZONES[1]: 1}
    assert set(reasons(solved).values()) == {"TopologyUnsatisfiable"}


def test_each_revision_is_spread_by_itself_where_match_label_keys_say_so() -> None:
    def revision(name: str, count: int) -> list[Json]:
        constraint = spread(ZONE, "web", matchLabelKeys=["rev"])
        return pods(name, count, labels={"app": "web", "rev": name}, topologySpreadConstraints=[constraint])

    solved = planned(*revision("old", 3), *revision("new", 2))
    for name in ("old", "new"):
        counts = per(solved, "zone", name)
        assert max(counts.values()) - min(counts.values()) <= 1


def test_zones_that_a_pods_own_affinity_excludes_are_not_looked_at_unless_it_says_so() -> None:
    narrow = {"nodeSelector": {ZONE: ZONES[0]}}
    honoured = planned(*pods("web", 3, topologySpreadConstraints=[spread(ZONE, "web")], **narrow))
    assert per(honoured, "zone", "web") == {ZONES[0]: 3}
    ignoring = [spread(ZONE, "web", nodeAffinityPolicy="Ignore")]
    ignored = planned(*pods("web", 3, topologySpreadConstraints=ignoring, **narrow))
    assert per(ignored, "zone", "web") == {ZONES[0]: 1}


def test_zones_only_tainted_nodes_have_are_left_out_where_taints_are_honoured() -> None:
    taint = {"key": "team", "value": "a", "effect": "NoSchedule"}
    closed = node("n", ZONES[2])
    closed["spec"]["taints"] = [taint]
    honoured = planned(closed, *pods("web", 4, topologySpreadConstraints=[spread(ZONE, "web", nodeTaintsPolicy="Honor")]))  # fmt: skip
    assert not reasons(honoured)
    ignored = planned(closed, *pods("web", 4, topologySpreadConstraints=[spread(ZONE, "web")]))
    assert len(reasons(ignored)) == 2


@pytest.mark.parametrize("key", [CAPACITY_TYPE, "example.com/rack"])
def test_any_label_can_be_spread_over(key: str) -> None:
    racked = pool(capacity_types=BOTH, requirements=[expression("example.com/rack", "In", "r1", "r2")])
    solved = planned(*pods("web", 6, topologySpreadConstraints=[spread(key, "web")]), pools=(racked,))
    assert sorted(per(solved, key, "web").values()) == [3, 3]


def test_over_hosts_the_least_count_is_zero_since_a_new_node_can_be_made() -> None:
    two = spread(HOST, "web", skew=2)
    solved = planned(node("n", ZONES[0]), *pods("web", 5, 100, 100, topologySpreadConstraints=[two]))
    assert [len(e["pods"]) for e in solved.report["existing"]] == [2]
    assert max(per(solved, "name", "web").values()) == 2
    assert solved.report["cost"]["gap"] == pytest.approx(0, abs=0.005)


def test_spread_over_zones_and_hosts_hold_together() -> None:
    both = [spread(ZONE, "web"), spread(HOST, "web")]
    solved = planned(*pods("web", 6, 100, 100, topologySpreadConstraints=both))
    assert sorted(per(solved, "zone", "web").values()) == [3, 3]
    assert set(per(solved, "name", "web").values()) == {1}


# --- affinity -----------------------------------------------------------------------------------------------------------
def test_pods_that_want_each_other_found_a_domain_and_stay_in_it() -> None:
    near = required("podAffinity", ZONE, {"app": "web"})
    assert len(per(planned(*pods("web", 8, 1500, affinity=near)), "zone", "web")) == 1


def test_groups_that_each_stay_in_one_zone_share_a_zone_and_its_nodes() -> None:
    """Each by itself would go where its own kind of node is cheapest, apart from most others (a gap of 25 % here)."""
    market, rng = invented(12, zones=3, seed=1), random.Random(1)
    groups = [
        one
        for n in range(20)
        for one in pods(
            f"g{n}", 4, rng.choice((50, 100, 250, 500, 1000)), rng.choice((128, 256, 512, 1024, 2048, 4096)),
            affinity=required("podAffinity", ZONE, {"app": f"g{n}"}),
        )
    ]  # fmt: skip
    given = PlanningProblem("", [pool(capacity_types=BOTH, arches=("amd64", "arm64")), *groups], market)
    solved = solve(given, Options(deadline_s=40.0))
    assert judge(given.objects, market, solved.report) == []
    assert solved.report["cost"]["gap"] < 0.12


def test_pods_follow_those_they_want_along_a_chain() -> None:
    solved = planned(
        *pods("db", 1, nodeSelector={ZONE: ZONES[1]}),
        *pods("web", 2, affinity=required("podAffinity", ZONE, {"app": "db"})),
        *pods("top", 2, affinity=required("podAffinity", HOST, {"app": "web"})),
    )
    assert not reasons(solved)
    assert set(per(solved, "zone", "top")) == {ZONES[1]}


def test_a_node_grows_for_pods_that_must_join_it() -> None:
    solved = planned(
        *pods("a", 1, 500), *pods("b", 2, 500, affinity=required("podAffinity", HOST, {"app": "a"})),
        *pods("c", 4, 900, affinity=required("podAffinity", HOST, {"app": "b"})),
    )  # fmt: skip
    assert not reasons(solved)


def test_two_affinity_terms_count_only_pods_that_match_both() -> None:
    terms = required("podAffinity", ZONE, {"app": "a"})
    terms["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] += required(
        "podAffinity", ZONE, {"tier": "x"}
    )["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    apart = planned(pod("a-0"), pod("x-0", labels={"tier": "x"}), pod("web-0", affinity=terms))
    assert reasons(apart) == {"web-0": "PodAffinityUnsatisfiable"}
    one = planned(pod("a-0", labels={"app": "a", "tier": "x"}), pod("web-0", affinity=terms))
    assert not reasons(one)


def test_pods_that_share_a_host_begin_where_all_of_them_have_room() -> None:
    """Once the first is on a standing node, nobody else of them may be elsewhere."""
    alike = pods("web", 3, 900, 900, affinity=required("podAffinity", HOST, {"app": "web"}))
    of_two_sizes = [
        pod("large", 900, 900, labels={"app": "web"}, affinity=required("podAffinity", HOST, {"app": "web"})),
        pod("small", 700, 900, labels={"app": "web"}, affinity=required("podAffinity", HOST, {"app": "web"})),
    ]
    for group in (alike, of_two_sizes):
        too_small, roomy = node("a", ZONES[0], cpus=1, memory_gib=4), node("b", ZONES[1], cpus=8)
        anew = planned(too_small, *group)
        assert anew.report["unschedulable"] == []
        assert (len(anew.report["nodes"]), anew.report["existing"]) == (1, [])
        assert [e["node"] for e in planned(too_small, roomy, *group).report["existing"]] == ["b"]


def test_nobody_to_join_is_a_refusal() -> None:
    solved = planned(pod("web-0", affinity=required("podAffinity", ZONE, {"app": "db"})), pod("other-0"))
    assert reasons(solved) == {"web-0": "PodAffinityUnsatisfiable"}


# --- anti-affinity ------------------------------------------------------------------------------------------------------
def test_pods_that_avoid_each_other_by_zone_get_a_zone_each_at_once() -> None:
    solved = planned(*pods("web", 3, affinity=required("podAntiAffinity", ZONE, {"app": "web"})))
    assert per(solved, "zone", "web") == {ZONES[0]: 1, ZONES[1]: 1}
    assert list(reasons(solved).values()) == ["PodAntiAffinityUnsatisfiable"]


def test_those_that_stand_keep_newcomers_off_that_their_anti_affinity_names() -> None:
    guard = pod("guard-0", node="n", affinity=required("podAntiAffinity", HOST, {"app": "web"}))
    solved = planned(node("n", ZONES[0]), guard, pod("web-0"), pod("other-0"))
    assert [e["pods"] for e in solved.report["existing"]] == [["default/other-0"]]
    assert per(solved, "zone", "web").total() == 1


def test_anti_affinity_over_hosts_holds_in_both_directions_and_across_namespaces() -> None:
    everywhere = required("podAntiAffinity", HOST, {"app": "web"}, namespaceSelector={})
    solved = planned(
        *pods("a", 3, 100, 100, affinity=everywhere), pod("web-0", 100, 100, namespace="other", labels={"app": "web"})
    )  # fmt: skip
    holding = [n["pods"] for n in solved.report["nodes"] if "other/web-0" in n["pods"]]
    assert holding == [["other/web-0"]]


@pytest.mark.parametrize("apart", ["anti-affinity", "spread"])
def test_deployments_of_equal_size_that_each_keep_their_own_pods_apart_share_nodes(apart: str) -> None:
    def kept(app: str) -> Json:
        if apart == "spread":
            return {"topologySpreadConstraints": [spread(HOST, app)]}
        return {"affinity": required("podAntiAffinity", HOST, {"app": app})}

    solved = planned(*pods("a", 6, 100, 100, **kept("a")), *pods("b", 6, 100, 100, **kept("b")))
    assert len(solved.report["nodes"]) == 6


def test_a_selector_of_namespaces_looks_at_their_labels() -> None:
    spaces = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": n, "labels": {"team": t}}}
        for n, t in (("x", "a"), ("y", "b"))
    ]
    near = required("podAffinity", ZONE, {"app": "db"}, namespaceSelector={"matchLabels": {"team": "a"}})
    dbs = [
        pod("db-0", namespace="x", nodeSelector={ZONE: ZONES[1]}),
        pod("db-0", namespace="y", nodeSelector={ZONE: ZONES[0]}),
    ]
    assert set(per(planned(*spaces, *dbs, pod("web-0", affinity=near)), "zone", "web")) == {ZONES[1]}


# --- preferences --------------------------------------------------------------------------------------------------------
def test_respected_preferences_are_kept_as_long_as_they_can_be_and_given_up_one_by_one() -> None:
    respect = Options(preference_policy=PreferencePolicy.RESPECT)
    kept = planned(
        *pods("web", 3, 100, 100, affinity=liking("podAntiAffinity", HOST, "web", 1)), options=respect
    )
    assert len(kept.report["nodes"]) == 3
    given_up = planned(
        *pods("web", 3, 100, 100, affinity=liking("podAntiAffinity", ZONE, "web", 1)), options=respect
    )
    assert not reasons(given_up)
    assert len(per(given_up, "zone", "web")) == 2


def test_ignored_preferences_change_nothing() -> None:
    ignore = Options(preference_policy=PreferencePolicy.IGNORE)
    solved = planned(
        *pods("web", 3, 100, 100, affinity=liking("podAntiAffinity", HOST, "web", 100)), options=ignore
    )
    assert len(solved.report["nodes"]) == 1
    assert solved.report["cost"]["preferencesPerHour"] == 0


def test_a_priced_preference_does_not_buy_a_node_per_pod_and_what_is_not_kept_is_shown_apart() -> None:
    solved = planned(*pods("web", 4, 100, 100, affinity=liking("podAntiAffinity", HOST, "web", 10)))
    cost = solved.report["cost"]
    assert len(solved.report["nodes"]) == 1
    assert cost["preferencesPerHour"] > 0
    assert cost["objectivePerHour"] == pytest.approx(cost["pricePerHour"] + cost["nodeChargePerHour"])
    eager = Options(preference_usd_per_weight_hour=0.1)
    dear = planned(
        *pods("web", 4, 100, 100, affinity=liking("podAntiAffinity", HOST, "web", 10)), options=eager
    )
    assert len(dear.report["nodes"]) == 4


def test_a_soft_spread_is_never_a_reason_to_leave_a_pod_out() -> None:
    soft = {**spread(ZONE, "web"), "whenUnsatisfiable": "ScheduleAnyway"}
    narrow = wanting([expression(ZONE, "In", ZONES[0])])
    solved = planned(*pods("web", 3, topologySpreadConstraints=[{**soft, "nodeAffinityPolicy": "Ignore"}], affinity=narrow))  # fmt: skip
    assert not reasons(solved)


def test_whom_others_must_join_is_not_moved_away_to_save_a_node() -> None:
    """A standing node elsewhere would hold the one pod of a; the pods of b must be in one certain zone, beside it."""
    joining = {**required("podAffinity", ZONE, {"app": "a"})}
    there = node("n", ZONES[0], cpus=4, memory_gib=8)
    apart = required("podAntiAffinity", HOST, {"app": "b"})
    solved = planned(
        there,
        pod("old-0", 300, 300, node="n", labels={"app": "a"}),
        pod("a-0", 200, 300, affinity=apart),
        *pods("b", 2, 3500, 3000, affinity=joining, nodeSelector={ZONE: ZONES[1]}),
    )
    assert solved.report["unschedulable"] == []
    assert per(solved, "zone", "b") == {ZONES[1]: 2}

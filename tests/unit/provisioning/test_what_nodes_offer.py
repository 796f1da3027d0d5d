"""What a pod asks of a node by itself: labels, taints, daemons, requests, ports, pools, limits, minValues, volumes."""

from __future__ import annotations

from typing import Any

import pytest

from nodeyard.provisioning.model import Options
from tests.support.invented_market import ZONES, instance_type, offering
from tests.support.kube_rules import CAPACITY_TYPE, REQUIRED, ZONE
from tests.support.manifests import claim, node, pod, pods, pool
from tests.support.planning import Solved, solve
from tests.support.problems import PlanningProblem

Json = dict[str, Any]


def everywhere(price: float) -> list[Json]:
    """On demand at the price and on spot at two fifths of it, in two zones."""
    kinds = (("on-demand", 1.0), ("spot", 0.4))
    return [offering(zone, kind, round(price * share, 5)) for zone in ZONES[:2] for kind, share in kinds]


MARKET = {
    name: instance_type(name, cpus, gib, everywhere(price), **more)
    for name, cpus, gib, price, more in (
        ("m5.large", 2, 8, 0.10, {"size": "large"}),
        ("m5.2xlarge", 8, 32, 0.41, {"size": "2xlarge"}),
        ("m6g.large", 2, 8, 0.08, {"size": "large", "arch": "arm64", "generation": 6}),
        ("c6.large", 2, 4, 0.09, {"size": "large", "category": "c", "generation": 6}),
        ("r7.4xlarge", 16, 128, 1.10, {"size": "4xlarge", "category": "r", "generation": 7}),
    )
}  # fmt: skip


def planned(*objects: Json, options: Options | None = None, pools: tuple[Json, ...] = ()) -> Solved:
    every = pools or (pool(arches=("amd64", "arm64")),)
    return solve(PlanningProblem("", [*every, *objects], MARKET), options)


def types(solved: Solved) -> set[str]:
    return {n["instanceType"] for n in solved.report["nodes"]}


def reasons(solved: Solved) -> dict[str, str]:
    return {u["pod"].partition("/")[2]: u["reason"] for u in solved.report["unschedulable"]}


def wanting(*terms: list[Json]) -> Json:
    each = [{"matchExpressions": term} for term in terms]
    return {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": each}}}


def expression(key: str, operator: str, *values: str) -> Json:
    return {"key": key, "operator": operator, **({"values": list(values)} if values else {})}


# --- order ------------------------------------------------------------------------------------------------------------
def test_nodes_that_stand_are_filled_before_any_is_made_initialized_ones_first() -> None:
    starting = node("a", ZONES[0])
    del starting["metadata"]["labels"]["karpenter.sh/initialized"]
    solved = planned(starting, node("b", ZONES[0]), *pods("web", 3, 1000, 1024))
    assert solved.report["nodes"] == []
    assert [e["node"] for e in solved.report["existing"]] == ["b"]


def test_when_room_is_short_the_more_important_pods_have_it() -> None:
    limited = pool(limits={"nodes": "1"})
    high = pods("high", 2, 7000, 1024, priority=100)
    low = pods("low", 3, 7000, 1024)
    solved = planned(*low, *high, pools=(limited,))
    assert {p for n in solved.report["nodes"] for p in n["pods"]} == {"default/high-0", "default/high-1"}
    assert set(reasons(solved).values()) == {"LimitsExceeded"}


def test_pools_of_equal_weight_are_chosen_by_cost_and_heavier_ones_first() -> None:
    dear, cheap = pool("dear", categories="r"), pool("cheap", categories="m")
    assert {n["nodePool"] for n in planned(pod("a"), pools=(dear, cheap)).report["nodes"]} == {"cheap"}
    heavy = pool("dear", categories="r", weight=100)
    assert {n["nodePool"] for n in planned(pod("a"), pools=(heavy, cheap)).report["nodes"]} == {"dear"}


# --- labels -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("asked", "placed"),
    [
        (expression("example.com/team", "In", "a"), False),
        (expression("example.com/team", "Exists"), False),
        (expression("example.com/team", "NotIn", "a"), True),
        (expression("example.com/team", "DoesNotExist"), True),
        (expression("karpenter.k8s.aws/instance-cpu", "Gt", "4"), True),
        (expression("karpenter.k8s.aws/instance-cpu", "Gte", "16"), True),
        (expression("karpenter.k8s.aws/instance-cpu", "Gt", "16"), False),
        (expression("karpenter.k8s.aws/instance-cpu", "Lt", "2"), False),
    ],
)
def test_a_label_that_no_node_has_keeps_out_whoever_needs_it(asked: Json, placed: bool) -> None:
    solved = planned(pod("a", affinity=wanting([asked])))
    assert (reasons(solved) == {}) is placed
    assert placed or set(reasons(solved).values()) == {"IncompatibleRequirements"}


def test_the_likely_typo_is_pointed_out() -> None:
    solved = planned(pod("a", nodeSelector={"topology.kubernetes.io/zome": ZONES[0]}))
    assert "did you mean 'topology.kubernetes.io/zone'" in solved.report["unschedulable"][0]["message"]


def test_a_host_asked_for_by_name_is_no_typo() -> None:
    refused = planned(pod("a", nodeSelector={"kubernetes.io/hostname": "gone"})).report["unschedulable"][0]
    assert refused["reason"] == "IncompatibleRequirements"
    assert "did you mean" not in refused["message"]


@pytest.mark.parametrize(
    ("old", "value"),
    [
        ("failure-domain.beta.kubernetes.io/zone", ZONES[1]),
        ("beta.kubernetes.io/arch", "arm64"),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/instance-type", "r7.4xlarge"),
    ],
)
def test_the_old_names_of_labels_mean_the_new_ones(old: str, value: str) -> None:
    solved = planned(pod("a", nodeSelector={old: value}))
    (made,) = solved.report["nodes"]
    assert value in {made["zone"], made["instanceType"], *made["labels"].values()}


def test_a_label_that_the_pool_leaves_open_gets_one_of_its_values_and_the_one_that_is_asked_for() -> None:
    open_ = pool(requirements=[expression("example.com/team", "In", "a", "b")])
    solved = planned(
        pod("x", 1500, nodeSelector={"example.com/team": "b"}), pod("y", 1500), pools=(open_,),
    )  # fmt: skip
    by_pod = {p: n["labels"]["example.com/team"] for n in solved.report["nodes"] for p in n["pods"]}
    assert by_pod["default/x"] == "b"
    assert by_pod["default/y"] in ("a", "b")


def test_any_of_several_affinity_terms_will_do() -> None:
    first = [expression(ZONE, "In", "nowhere")]
    second = [expression("kubernetes.io/arch", "In", "arm64")]
    assert types(planned(pod("a", affinity=wanting(first, second)))) == {"m6g.large"}


def test_match_fields_are_refused_as_not_supported() -> None:
    fields = {"matchFields": [expression("metadata.name", "In", "n1")]}
    affinity = {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [fields]}}}
    assert reasons(planned(pod("a", affinity=affinity), pod("b"))) == {"a": "Unsupported"}


# --- taints -------------------------------------------------------------------------------------------------------------
TEAM = {"key": "team", "value": "a", "effect": "NoSchedule"}


def test_a_pools_taints_must_be_tolerated_and_soft_ones_need_not() -> None:
    tainted = pool(taints=[TEAM])
    assert reasons(planned(pod("a"), pools=(tainted,))) == {"a": "UntoleratedTaints"}
    assert not reasons(planned(pod("a", tolerations=[{"operator": "Exists"}]), pools=(tainted,)))
    soft = pool(taints=[{**TEAM, "effect": "PreferNoSchedule"}])
    assert not reasons(planned(pod("a"), pools=(soft,)))


@pytest.mark.parametrize(
    "taint",
    [
        {"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"},
        {"key": "node.kubernetes.io/unreachable", "effect": "NoSchedule"},
        {"key": "node.cloudprovider.kubernetes.io/uninitialized", "value": "true", "effect": "NoSchedule"},
        {"key": "karpenter.sh/unregistered", "effect": "NoExecute"},
        {"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"},
        {"key": "readiness.k8s.io/anything", "effect": "NoSchedule"},
        {"key": "readiness.k8s.io/anything", "effect": "NoExecute"},
        {"key": "cilium", "effect": "NoSchedule"},
    ],
)
def test_a_starting_node_takes_pods_despite_the_taints_it_will_lose(taint: Json) -> None:
    starting = node("n", ZONES[0])
    del starting["metadata"]["labels"]["karpenter.sh/initialized"]
    starting["spec"]["taints"] = [taint]
    owner = claim("c", ZONES[0], startup_taints=[{"key": "cilium", "effect": "NoSchedule"}],
                  provider=starting["spec"]["providerID"])  # fmt: skip
    assert planned(starting, owner, pod("a")).report["nodes"] == []
    starting["metadata"]["labels"]["karpenter.sh/initialized"] = "true"
    assert planned(starting, owner, pod("a")).report["existing"] == []


@pytest.mark.parametrize(
    "taint",
    [
        {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"},
        {"key": "node.kubernetes.io/disk-pressure", "effect": "NoSchedule"},
        {"key": "cilium", "effect": "NoExecute"},
    ],
)
def test_a_starting_node_takes_no_pods_past_a_taint_that_it_may_keep(taint: Json) -> None:
    starting = node("n", ZONES[0])
    del starting["metadata"]["labels"]["karpenter.sh/initialized"]
    starting["spec"]["taints"] = [taint]
    owner = claim("c", ZONES[0], startup_taints=[{"key": "cilium", "effect": "NoSchedule"}],
                  provider=starting["spec"]["providerID"])  # fmt: skip
    assert planned(starting, owner, pod("a")).report["existing"] == []


# --- requests and ports -------------------------------------------------------------------------------------------------
def test_host_ports_clash_by_protocol_and_address() -> None:
    def holding(name: str, **more: Any) -> Json:
        return pod(name, 100, 100, ports=[{"containerPort": 1, "hostPort": 53, **more}])

    apart = planned(holding("a", protocol="TCP"), holding("b", protocol="TCP"))
    assert len(apart.report["nodes"]) == 2
    for other in ({"protocol": "UDP"}, {"hostIP": "10.0.0.2"}):
        first = {"hostIP": "10.0.0.1"} if "hostIP" in other else {}
        assert len(planned(holding("a", **first), holding("b", **other)).report["nodes"]) == 1


def test_init_containers_sidecars_pod_level_requests_and_overhead_count() -> None:
    big = {"name": "i", "image": "i", "resources": {"requests": {"cpu": "7"}}}
    for spec in (
        {"initContainers": [big]},
        {"initContainers": [{**big, "restartPolicy": "Always"}]},
        {"resources": {"requests": {"cpu": "7"}}},
        {"overhead": {"cpu": "7"}},
    ):
        assert types(planned(pod("a", 500, 100, **spec))) == {"m5.2xlarge"}


def test_the_nearest_miss_and_a_slip_of_the_unit_are_named() -> None:
    large = planned(pod("a", 100, 200 * 1024)).report["unschedulable"][0]
    assert large["reason"] == "InsufficientResources"
    assert "largest allowed is" in large["message"]
    assert "r7.4xlarge" in large["message"]
    giant = planned(pod("a", 100, 60 * 1024 * 1024)).report["unschedulable"][0]
    assert "needs 61440 GiB memory" in giant["message"]
    slip = pod("a")
    slip["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "100M"
    slipped = planned(slip).report["unschedulable"][0]["message"]
    assert "needs 100000000 cpu" in slipped
    assert '"m" (milli)' in slipped


# --- limits, minValues, choices -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("limits", "cores", "nodes"),
    [
        ({"cpu": "8"}, 8, 9),
        ({"memory": "33Gi"}, 16, 9),
        ({"nodes": "1"}, 16, 1),
        ({"cpu": "9", "nodes": "2"}, 9, 2),
    ],
)
def test_a_limit_holds_within_one_plan_whatever_the_alternatives(
    limits: Json, cores: int, nodes: int
) -> None:
    solved = planned(*pods("a", 8, 3000, 1024), pools=(pool(limits=limits),))
    made = solved.report["nodes"]
    worst = [
        max(int(MARKET[c["instanceType"]]["capacity"]["cpu"]) for c in [n, *n["alternatives"]]) for n in made
    ]
    assert 0 < sum(worst) <= cores
    assert len(made) <= nodes
    assert set(reasons(solved).values()) == {"LimitsExceeded"}


def test_a_pod_too_large_for_all_there_is_under_limits_is_refused_and_nothing_else_happens() -> None:
    solved = planned(pod("a", 64_000), pools=(pool(limits={"cpu": "4"}),))
    assert reasons(solved) == {"a": "InsufficientResources"}


def test_what_stands_counts_against_the_limits() -> None:
    solved = planned(node("n", ZONES[0]), *pods("a", 2, 3000, 1024), pools=(pool(limits={"cpu": "5"}),))
    assert [len(e["pods"]) for e in solved.report["existing"]] == [1]
    assert set(reasons(solved).values()) == {"LimitsExceeded"}


def test_a_node_grows_where_limits_allow_no_second_one() -> None:
    solved = planned(
        *pods("a", 2, 1500, 512), *pods("b", 2, 1500, 512, priority=5), pools=(pool(limits={"nodes": "1"}),)
    )
    assert not reasons(solved)
    assert len(solved.report["nodes"]) == 1


def test_too_few_values_for_min_values_refuse_strictly_and_are_noted_at_best_effort() -> None:
    several = pool(
        requirements=[{"key": "karpenter.k8s.aws/instance-family", "operator": "Exists", "minValues": 9}]
    )
    assert reasons(planned(pod("a"), pools=(several,))) == {"a": "MinValuesUnmet"}
    lenient = planned(pod("a"), pools=(several,), options=Options(min_values_policy="BestEffort"))
    assert [n.min_values_relaxed for n in lenient.plan.nodes] == [True]


def test_min_values_that_can_be_met_are_met_by_the_alternatives() -> None:
    several = pool(
        requirements=[{"key": "karpenter.k8s.aws/instance-family", "operator": "Exists", "minValues": 2}]
    )
    (made,) = planned(pod("a"), pools=(several,)).report["nodes"]
    assert len({c["instanceType"].partition(".")[0] for c in [made, *made["alternatives"]]}) >= 2


def test_a_claim_names_the_types_zones_and_capacity_types_it_may_become() -> None:
    solved = planned(
        pod("a"), options=Options(price_tolerance=10.0), pools=(pool(capacity_types=("spot", "on-demand")),)
    )
    (made,) = solved.plan.nodes
    stated = {r.key: set(r.values) for r in made.requirements}
    assert stated[CAPACITY_TYPE] == {"spot", "on-demand"}
    assert {made.instance_type} <= stated["node.kubernetes.io/instance-type"]
    assert len(made.alternatives) <= 60


# --- volumes ------------------------------------------------------------------------------------------------------------
def stored(*claims: tuple[str, Json, Json]) -> list[Json]:
    """(name, further spec, status and metadata) of claims, with the class they name."""
    out: list[Json] = [
        {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "late"},
         "provisioner": "ebs", "volumeBindingMode": "WaitForFirstConsumer"},
        {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "at-once"},
         "provisioner": "ebs", "volumeBindingMode": "Immediate"},
    ]  # fmt: skip
    for name, spec, more in claims:
        out.append(
            {"apiVersion": "v1", "kind": "PersistentVolumeClaim",
             "metadata": {"name": name, "namespace": "default", **more.get("metadata", {})},
             "spec": {"storageClassName": "late", **spec}, "status": more.get("status", {"phase": "Pending"})}
        )  # fmt: skip
    return out


def using(name: str, *claims: str, **more: Any) -> Json:
    volumes = [{"name": c, "persistentVolumeClaim": {"claimName": c}} for c in claims]
    return pod(name, 100, 100, volumes=volumes, **more)


@pytest.mark.parametrize(
    ("spec", "more"),
    [
        ({}, {"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
        ({}, {"status": {"phase": "Lost"}}),
        ({"storageClassName": ""}, {}),
        ({"storageClassName": "at-once"}, {}),
        ({"storageClassName": "unheard-of"}, {}),
        ({"volumeName": "disk"}, {}),
    ],
)
def test_a_claim_that_cant_be_used_refuses_its_pod_and_no_other(spec: Json, more: Json) -> None:
    solved = planned(*stored(("c", spec, more)), using("a", "c"), pod("b"))
    assert reasons(solved) == {"a": "VolumeClaimInvalid"}


def test_a_pod_goes_where_all_its_volumes_can_be_reached() -> None:
    def disk(name: str, *zones: str) -> Json:
        reach = {"required": {"nodeSelectorTerms": [{"matchExpressions": [expression(ZONE, "In", *zones)]}]}}
        return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
                "spec": {"csi": {"driver": "ebs", "volumeHandle": name}, "nodeAffinity": reach}}  # fmt: skip

    bound = {
        "metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}},
        "status": {"phase": "Bound"},
    }
    claims = stored(*((f"c{i}", {"volumeName": f"d{i}"}, bound) for i in range(3)))
    disks = [disk("d0", ZONES[0], ZONES[1]), disk("d1", ZONES[1]), disk("d2", ZONES[0])]
    solved = planned(*claims, *disks, using("a", "c0", "c1"), using("b", "c1", "c2"))
    assert [n["zone"] for n in solved.report["nodes"]] == [ZONES[1]]
    assert reasons(solved) == {"b": "VolumeUnreachable"}


def test_attachments_are_counted_on_nodes_that_stand_a_shared_volume_once() -> None:
    csi = {"apiVersion": "storage.k8s.io/v1", "kind": "CSINode", "metadata": {"name": "n"},
           "spec": {"drivers": [{"name": "ebs", "nodeID": "n", "topologyKeys": [], "allocatable": {"count": 2}}]}}  # fmt: skip
    claims = stored(*((f"c{i}", {}, {}) for i in range(3)))
    alone = planned(*claims, csi, node("n", ZONES[0]), *(using(f"p{i}", f"c{i}") for i in range(3)))
    assert [len(e["pods"]) for e in alone.report["existing"]] == [2]
    assert alone.report["cost"]["lowerBound"] > 0
    shared = planned(*claims, csi, node("n", ZONES[0]), *(using(f"p{i}", "c0") for i in range(3)))
    assert [len(e["pods"]) for e in shared.report["existing"]] == [3]

"""What daemons take of a node: on which types, as their pods really are, on nodes that come and nodes that stand."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.invented_market import ZONES
from tests.support.manifests import daemon, node, pod
from tests.unit.provisioning.test_what_nodes_offer import MARKET, expression, planned, reasons, types, wanting

Json = dict[str, Any]
DOOR: list[Json] = [{"containerPort": 80, "hostPort": 80}]


def running(name: str, of: str, cpu_m: int, *, born: str = "2026-11-01T00:00:00Z", **spec: Any) -> Json:
    """A pod of the DaemonSet on node n, tied to it by name as its controller does."""
    by_name = {"matchFields": [expression("metadata.name", "In", "n")]}
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [by_name]}}
    made = pod(
        name, cpu_m, 128, namespace="kube-system", node="n", affinity={"nodeAffinity": required}, **spec
    )
    made["metadata"]["ownerReferences"] = [
        {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": of, "uid": f"daemon-{of}", "controller": True}
    ]
    made["metadata"]["creationTimestamp"] = born
    return made


def taken(*objects: Json) -> int:
    """Milli-cores that the one planned node is asked for beside a pod of 100."""
    (made,) = planned(
        *objects, pod("a", 100, 128, nodeSelector={"karpenter.k8s.aws/instance-cpu": "8"})
    ).plan.nodes
    return made.requests["cpu"] - 100


def test_daemons_as_they_run_count_rather_than_their_template() -> None:
    template = daemon("agent", 100, 128)
    assert taken(template) == 100
    assert taken(template, node("n", ZONES[0]), running("agent-x", "agent", 900)) == 900


def test_of_several_running_daemon_pods_the_newest_is_believed() -> None:
    old = running("agent-a", "agent", 300, born="2026-10-01T00:00:00Z")
    new = running("agent-b", "agent", 700)
    done = {**running("agent-c", "agent", 2000, born="2026-11-20T00:00:00Z"), "status": {"phase": "Failed"}}
    assert taken(daemon("agent", 100, 128), node("n", ZONES[0]), old, new, done) == 700


def test_where_a_running_daemon_may_be_is_its_templates_word() -> None:
    """The affinity that ties a running pod to its node says nothing about others; that of the template does."""
    small_only = wanting([expression("karpenter.k8s.aws/instance-cpu", "In", "2")])
    there = node("n", ZONES[0])
    assert taken(daemon("agent", 100, 128), there, running("agent-x", "agent", 900)) == 900
    assert taken(daemon("agent", 100, 128, affinity=small_only), there, running("agent-x", "agent", 900)) == 0


def test_a_daemon_of_the_same_name_elsewhere_is_another() -> None:
    other = running("agent-x", "agent", 900)
    other["metadata"]["namespace"] = "default"
    assert taken(daemon("agent", 100, 128), node("n", ZONES[0]), other) == 100


def test_daemons_that_ask_for_devices_by_claims_are_left_out() -> None:
    assert taken(daemon("gpu", 1500, 128, resourceClaims=[{"name": "gpu"}])) == 0


@pytest.mark.parametrize(("asked", "size"), [(1500, "8"), (900, "2")])
def test_each_type_loses_only_what_the_daemons_that_run_on_it_take(asked: int, size: str) -> None:
    """One agent runs on small types alone and one everywhere: neither is taken off where it does not run."""
    small = daemon(
        "small", 700, 128, affinity=wanting([expression("karpenter.k8s.aws/instance-cpu", "In", "2")])
    )
    everywhere = daemon("all", 200, 128)
    solved = planned(small, everywhere, pod("a", asked, 128))
    (made,) = solved.plan.nodes
    assert MARKET[made.instance_type]["requirements"]["karpenter.k8s.aws/instance-cpu"] == [size]
    assert made.requests["cpu"] == asked + 200 + (700 if size == "2" else 0)


def test_a_host_port_is_held_where_its_daemon_runs_or_will_and_nowhere_else() -> None:
    web = daemon("web", 10, 10, affinity=wanting([expression("kubernetes.io/hostname", "In", "n")]))
    web["spec"]["template"]["spec"]["containers"][0]["ports"] = DOOR
    nodes = [node("m", ZONES[0]), node("n", ZONES[0])]
    solved = planned(web, *nodes, pod("a", ports=DOOR), pod("b", ports=DOOR))
    assert [e["node"] for e in solved.report["existing"]] == ["m"]
    assert len(solved.report["nodes"]) == 1
    assert not reasons(solved)
    assert types(solved)


def test_room_for_daemons_still_to_come_is_kept_on_a_node_that_stands() -> None:
    there = node("n", ZONES[0])  # 3,920 milli-cores
    agent = daemon("agent", 1000, 128)
    pods = [pod(f"a-{i}", 1400, 128) for i in range(2)]
    assert [len(e["pods"]) for e in planned(agent, there, *pods).report["existing"]] == [2]
    bigger = [pod(f"a-{i}", 1500, 128) for i in range(2)]
    assert [len(e["pods"]) for e in planned(agent, there, *bigger).report["existing"]] == [1]
    come = running("agent-x", "agent", 500)
    assert [len(e["pods"]) for e in planned(agent, there, come, *bigger).report["existing"]] == [2]


def test_daemons_that_wait_for_a_node_to_be_registered_count_as_well() -> None:
    late = daemon(
        "late",
        1500,
        512,
        nodeSelector={"karpenter.sh/registered": "true", "karpenter.sh/initialized": "true"},
    )
    solved = planned(late, pod("a", 1500, 512))
    assert types(solved) == {"m5.2xlarge"}
    assert "karpenter.sh/initialized" not in str(solved.plan.nodes[0].requirements)


def test_a_daemons_host_port_is_taken() -> None:
    port = [{"containerPort": 80, "hostPort": 80}]
    holding = daemon("web", 10, 10)
    holding["spec"]["template"]["spec"]["containers"][0]["ports"] = port
    solved = planned(holding, pod("a", ports=port), pod("b", ports=[{"containerPort": 80, "hostPort": 81}]))
    assert reasons(solved) == {"a": "HostPortConflict"}

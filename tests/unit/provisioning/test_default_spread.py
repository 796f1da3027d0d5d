"""The cluster's default spread: over the pods that Services and controllers select, as the kube-scheduler has it."""

from __future__ import annotations

from typing import Any

import pytest

from nodeyard.api.selectors import TopologySpreadConstraint
from nodeyard.provisioning.model import Options
from tests.support.invented_market import ZONES
from tests.support.kube_rules import ZONE
from tests.support.manifests import node, pod, pods, pool, spread
from tests.support.planning import Solved, solve
from tests.support.problems import PlanningProblem
from tests.unit.provisioning.test_pods_beside_pods import per
from tests.unit.provisioning.test_what_nodes_offer import MARKET, reasons

Json = dict[str, Any]
DEFAULT = Options(default_spread=(TopologySpreadConstraint(1, ZONE, "DoNotSchedule"),))


def service(name: str, namespace: str = "default", **selector: str) -> Json:
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace}, "spec": {"selector": selector}}  # fmt: skip


def workload(kind: str, name: str, replicas: int = 4) -> Json:
    selector = {"app": name}
    template = {"metadata": {"labels": selector}, "spec": pod(name, 500, 512)["spec"]}
    return {
        "apiVersion": "v1" if kind == "ReplicationController" else "apps/v1", "kind": kind,
        "metadata": {"name": name, "namespace": "default", "uid": f"uid-{name}"},
        "spec": {
            "replicas": replicas, "template": template,
            "selector": selector if kind == "ReplicationController" else {"matchLabels": selector},
        },
    }  # fmt: skip


def planned(*objects: Json) -> Solved:
    return solve(PlanningProblem("", [pool(), *objects], MARKET), DEFAULT)


def zones(solved: Solved, app: str) -> list[int]:
    """Pods of the app per zone; the one node that may stand is in the first."""
    counts = per(solved, "zone", app)
    for placed in solved.report["existing"]:
        counts[ZONES[0]] += sum(p.startswith(f"default/{app}-") for p in placed["pods"])
    return sorted(counts.values())


def test_pods_of_a_service_are_spread_with_all_that_it_selects() -> None:
    """Those of another deployment behind the same Service count; those behind none do not."""
    tier = {"tier": "front"}
    there = node("n", ZONES[0], cpus=2)
    running = [pod(f"old-{i}", 10, 10, node="n", labels={"app": "old", **tier}) for i in range(3)]
    solved = planned(
        there, *running, service("front", **tier), *pods("web", 3, labels={"app": "web", **tier})
    )
    assert per(solved, "zone", "web") == {ZONES[1]: 3}


@pytest.mark.parametrize("kind", ["Deployment", "ReplicaSet", "StatefulSet", "ReplicationController"])
def test_pods_of_a_controller_are_spread_by_its_selector(kind: str) -> None:
    assert zones(planned(workload(kind, "web")), "web") == [2, 2]


def test_pods_that_nothing_selects_have_no_default_spread() -> None:
    assert zones(planned(*pods("web", 4)), "web") == [4]
    assert zones(planned(*pods("web", 4), service("other", app="db")), "web") == [4]
    assert zones(planned(*pods("web", 4), service("web", "elsewhere", app="web")), "web") == [4]
    assert zones(planned(*pods("web", 4), service("web", app="web")), "web") == [2, 2]


def test_service_and_controller_select_together() -> None:
    """Only pods that both select are counted: of the Service's others, none."""
    there = node("n", ZONES[0], cpus=2)
    running = [pod(f"old-{i}", 10, 10, node="n", labels={"app": "old", "tier": "x"}) for i in range(3)]
    web = workload("Deployment", "web")
    web["spec"]["template"]["metadata"]["labels"] = {"app": "web", "tier": "x"}
    solved = planned(there, *running, service("front", tier="x"), web)
    assert zones(solved, "web") == [2, 2]


def test_each_replica_set_is_spread_by_itself() -> None:
    """Pods of two revisions, behind their ReplicaSets' selectors, are not counted together."""

    def revision(name: str, count: int, where: str = "") -> list[Json]:
        labels = {"app": "web", "pod-template-hash": name}
        owner = {
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "name": f"web-{name}",
            "uid": name,
            "controller": True,
        }
        made = [pod(f"web-{name}-{i}", 100, 100, labels=labels, node=where) for i in range(count)]
        for one in made:
            one["metadata"]["ownerReferences"] = [owner]
        template = {"metadata": {"labels": labels}, "spec": made[0]["spec"]}
        of = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": f"web-{name}", "namespace": "default"},
              "spec": {"replicas": count, "selector": {"matchLabels": labels}, "template": template}}  # fmt: skip
        return [of, *made]

    solved = planned(node("n", ZONES[0], cpus=2), *revision("a", 4, "n"), *revision("b", 2))
    assert zones(solved, "web-b") == [1, 1]


def test_a_spread_of_their_own_stands_instead_of_the_default() -> None:
    own = [spread(ZONE, "web", skew=4)]
    solved = planned(*pods("web", 4, topologySpreadConstraints=own), service("web", app="web"))
    assert zones(solved, "web") == [4]
    assert not reasons(solved)

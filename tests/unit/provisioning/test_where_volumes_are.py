"""Where a pod's volumes let it go: terms of which one must hold, classes' topologies, disks of nodes that went away."""

from __future__ import annotations

import time
from typing import Any

from nodeyard.provisioning.model import Options
from nodeyard.provisioning.planner import least
from tests.support.invented_market import ZONES
from tests.support.kube_rules import HOST, ZONE
from tests.support.manifests import node, pod, pool
from tests.support.planning import posed
from tests.support.problems import PlanningProblem
from tests.unit.provisioning.test_spread_with_volumes import BOUND
from tests.unit.provisioning.test_what_nodes_offer import MARKET, expression, planned, reasons, stored, using

Json = dict[str, Any]
EBS_ZONE = "topology.ebs.csi.aws.com/zone"


def disk(name: str, *terms: list[Json], **source: Any) -> Json:
    """A volume that can be reached where any of the terms holds."""
    reach = {"required": {"nodeSelectorTerms": [{"matchExpressions": term} for term in terms]}}
    spec = source or {"csi": {"driver": "ebs", "volumeHandle": name}}
    return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": {**spec, "nodeAffinity": reach}}  # fmt: skip


def bound(*names: str) -> list[Json]:
    return stored(*((f"c-{name}", {"volumeName": name}, BOUND) for name in names))


def zoned(name: str, key: str, *zones: str) -> Json:
    topology = [{"matchLabelExpressions": [{"key": key, "values": [zone]}]} for zone in zones]
    return {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name}, "provisioner": "ebs",
            "volumeBindingMode": "WaitForFirstConsumer", "allowedTopologies": topology}  # fmt: skip


def zones(solved: Any) -> list[str]:
    return [n["zone"] for n in solved.report["nodes"]]


def test_any_of_a_volumes_terms_will_do_and_several_volumes_must_agree() -> None:
    """Of the alternatives of two disks only one pair does not contradict itself."""
    first = disk(
        "a",
        [expression(ZONE, "In", "gone-1a")],
        [expression(ZONE, "In", ZONES[0])],
        [expression(ZONE, "In", ZONES[1])],
    )
    second = disk("b", [expression(ZONE, "In", ZONES[1])], [expression(ZONE, "In", "gone-1b")])
    assert zones(planned(*bound("a", "b"), first, second, using("web", "c-a", "c-b"))) == [ZONES[1]]


def test_a_volume_still_to_be_made_goes_where_its_class_may_make_it() -> None:
    for key in (ZONE, EBS_ZONE, "failure-domain.beta.kubernetes.io/zone"):
        claims = stored(("c", {"storageClassName": "zonal"}, {}))
        solved = planned(*claims, zoned("zonal", key, "gone-1a", ZONES[1]), using("web", "c"))
        assert zones(solved) == [ZONES[1]], key


def test_a_class_that_makes_volumes_in_no_zone_of_ours_is_a_refusal() -> None:
    claims = stored(("c", {"storageClassName": "zonal"}, {}))
    refused = planned(*claims, zoned("zonal", ZONE, "gone-1a"), using("web", "c"), using("other"))
    assert reasons(refused) == {"web": "VolumeUnreachable"}


def test_the_host_of_a_local_volume_does_not_bind_its_pod_and_its_zone_does() -> None:
    for source in ({"local": {"path": "/x"}}, {"hostPath": {"path": "/x"}}):
        term = [expression(HOST, "In", "gone"), expression(ZONE, "In", ZONES[1])]
        assert zones(planned(*bound("a"), disk("a", term, **source), using("web", "c-a"))) == [ZONES[1]]
        nothing_else = disk("a", [expression(HOST, "In", "gone")], **source)
        assert not reasons(planned(*bound("a"), nothing_else, using("web", "c-a")))
    elsewhere = disk("a", [expression(HOST, "In", "gone")])
    assert reasons(planned(*bound("a"), elsewhere, using("web", "c-a"))) == {"web": "VolumeUnreachable"}


def test_a_claim_that_is_not_there_refuses_its_pod_and_no_other() -> None:
    assert reasons(planned(using("web", "nothing"), using("other"))) == {"web": "VolumeClaimInvalid"}


def test_the_driver_s_own_zone_label_means_the_zone_to_pods_too() -> None:
    there = node("n", ZONES[1])
    assert zones(planned(using("web", nodeSelector={EBS_ZONE: ZONES[1]}))) == [ZONES[1]]
    assert [
        e["node"] for e in planned(there, using("web", nodeSelector={EBS_ZONE: ZONES[1]})).report["existing"]
    ] == ["n"]


def test_more_attachments_than_a_node_has_are_no_obstacle_to_a_new_node() -> None:
    """The limit is known of nodes that stand; one with none left is passed by."""
    csi = {"apiVersion": "storage.k8s.io/v1", "kind": "CSINode", "metadata": {"name": "n"},
           "spec": {"drivers": [{"name": "ebs", "nodeID": "n", "topologyKeys": [], "allocatable": {"count": 0}},
                                {"name": "nfs", "nodeID": "n", "topologyKeys": []}]}}  # fmt: skip
    claims = stored(*((f"c{i}", {}, {}) for i in range(40)))
    solved = planned(*claims, csi, node("n", ZONES[0]), using("web", *(f"c{i}" for i in range(40))))
    assert solved.report["existing"] == []
    assert len(solved.report["nodes"]) == 1


def test_pods_change_places_so_that_standing_nodes_attach_what_they_may_and_are_full() -> None:
    """Three nodes that attach one volume each; whoever has one and finds no room beside it makes a new node too many."""
    claims = stored(*((f"c{i}", {}, {}) for i in range(6)))
    standing = [
        each
        for i in range(3)
        for each in (node(f"n{i}", ZONES[i]), {
            "apiVersion": "storage.k8s.io/v1", "kind": "CSINode", "metadata": {"name": f"n{i}"},
            "spec": {"drivers": [{"name": "ebs", "nodeID": "n", "topologyKeys": [], "allocatable": {"count": 1}}]},
        })
    ]  # fmt: skip
    with_volumes = [
        pod(f"v{i}", 200, 3000, volumes=[{"name": "d", "persistentVolumeClaim": {"claimName": f"c{i}"}}])
        for i in range(6)
    ]
    large = [pod(f"m{i}", 80, 6000) for i in range(5)]
    busy = [pod(f"k{i}", 900, 500) for i in range(10)]
    solved = planned(*claims, *standing, *with_volumes, *large, *busy)
    assert solved.report["unschedulable"] == []
    assert len(solved.report["nodes"]) == 2
    assert solved.report["cost"]["gap"] < 1e-6


def test_a_volume_that_a_standing_node_has_attached_takes_no_further_attachment_in_the_bound() -> None:
    """The newcomer may join the pod that holds the node's only attachment, so nothing has to be bought."""
    csi = {"apiVersion": "storage.k8s.io/v1", "kind": "CSINode", "metadata": {"name": "n"},
           "spec": {"drivers": [{"name": "ebs", "nodeID": "n", "topologyKeys": [], "allocatable": {"count": 1}}]}}  # fmt: skip
    held = pod(
        "old", 100, 100, node="n", volumes=[{"name": "d", "persistentVolumeClaim": {"claimName": "c"}}]
    )
    objects = [pool(), *stored(("c", {}, {})), csi, node("n", ZONES[0]), held, using("new", "c")]
    problem = posed(PlanningProblem("", objects, MARKET))
    assert least(problem, Options(), 100.0, 1.0, time.process_time) == 0.0

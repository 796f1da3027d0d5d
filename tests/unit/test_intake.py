"""The intake: listings and events of every kind become the right changes, and nothing else."""

import json
from typing import Any

import pytest

from nodeyard.api import convert
from nodeyard.api.convert import node_claim_manifest, node_claim_of, node_claim_status
from nodeyard.api.node import Condition, NodeClaim, NodeClassRef
from nodeyard.api.selectors import Requirement, Taint
from nodeyard.state.cluster import ClusterStore, Kind
from nodeyard.state.intake import CONVERTERS, Intake, Taken, changes_of, converters, source_of, source_of_kind
from tests.support.pods import written_pod


def raw(body: dict[str, Any]) -> bytes:
    return json.dumps(body).encode()


def thing(name: str, version: int = 1, **more: Any) -> dict[str, Any]:
    namespace = more.pop("namespace", "")
    meta = {"name": name, "namespace": namespace, "uid": f"uid-{name}", "resourceVersion": str(version)}
    return {"metadata": {**meta, **more.pop("metadata", {})}, **more}


class World:
    """An intake and its store, fed with dictionaries."""

    def __init__(self) -> None:
        self.store = ClusterStore()
        self.intake = Intake(self.store)

    def listing(self, kind: str, *bodies: dict[str, Any], version: int = 50) -> list[tuple[str, str, bool]]:
        self.intake.begin(kind)
        taken = self.intake.page(kind, [raw(body) for body in bodies])
        return said(taken) + said(self.intake.end(kind, str(version)))

    def event(self, kind: str, happened: str, body: dict[str, Any]) -> list[tuple[str, str, bool]]:
        return said(self.intake.events(kind, [(happened, raw(body))]))


def said(taken: Taken) -> list[tuple[str, str, bool]]:
    return [(change.kind.value, change.key, change.value is not None) for change in taken.changes]


def test_a_pods_shape_comes_before_the_pod_and_only_once() -> None:
    world = World()
    first = world.listing("Pod", written_pod(0), written_pod(45))
    assert [kind for kind, _, _ in first] == ["shapes", "pods", "pods"]
    assert len(world.store.snapshot().pods) == 2


def test_a_listing_removes_what_it_does_not_show() -> None:
    world = World()
    world.listing("Node", thing("a"), thing("b"))
    assert world.listing("Node", thing("b"), thing("c")) == [("nodes", "c", True), ("nodes", "a", False)]


def test_an_object_that_did_not_change_is_no_change() -> None:
    world = World()
    world.listing("Namespace", thing("a", metadata={"labels": {"x": "y"}}))
    assert world.event("Namespace", "MODIFIED", thing("a", 9, metadata={"labels": {"x": "y"}})) == []
    assert world.event("Namespace", "MODIFIED", thing("a", 10)) == [("namespaces", "a", True)]


def test_a_new_resource_version_is_a_change_where_writers_need_it() -> None:
    world = World()
    world.listing("Node", thing("a", 1))
    assert world.event("Node", "MODIFIED", thing("a", 2)) == [("nodes", "a", True)]
    assert world.store.snapshot().nodes["a"].resource_version == "2"


def test_a_deletion_carries_its_resource_version() -> None:
    world = World()
    world.listing("NodeClaim", thing("c", 1))
    taken = world.intake.events("NodeClaim", [("DELETED", raw(thing("c", 77)))])
    assert [(c.kind, c.key, c.value, c.resource_version) for c in taken.changes] == [
        (Kind.NODE_CLAIM, "c", None, "77")
    ]
    assert world.event("NodeClaim", "DELETED", thing("c", 78)) == []


def test_an_unreadable_object_is_reported_and_stays_as_it_was() -> None:
    world = World()
    world.listing("Node", thing("a"))
    odd = thing("a", 2, spec={"taints": [{"key": 5}]})
    taken = world.intake.events("Node", [("MODIFIED", raw(odd))])
    assert taken.changes == []
    (report,) = taken.undecodable
    assert (report.kind, report.name) == ("Node", "a")
    assert "spec.taints" in report.why
    world.intake.begin("Node")
    world.intake.page("Node", [raw(odd)])
    assert world.intake.end("Node", "9").changes == []
    assert "a" in world.store.snapshot().nodes


def test_garbage_is_reported_without_a_name() -> None:
    world = World()
    taken = world.intake.events("Pod", [("ADDED", b"[1, 2]"), ("DELETED", b"7"), ("ADDED", b"{}")])
    assert [(report.kind, report.name) for report in taken.undecodable] == [("Pod", "")] * 3
    assert taken.changes == []


def test_a_provisioner_is_a_pool_and_a_class_and_takes_both_with_it() -> None:
    world = World()
    body = thing("default", 4, spec={"provider": {"instanceProfile": "p"}})
    assert sorted(world.listing("Provisioner", body)) == [
        ("node_classes", "provisioner/default", True),
        ("pools", "provisioner/default", True),
    ]
    assert sorted(world.event("Provisioner", "DELETED", thing("default", 5))) == [
        ("node_classes", "provisioner/default", False),
        ("pools", "provisioner/default", False),
    ]


def test_node_templates_and_node_classes_of_one_name_are_two_and_are_listed_apart() -> None:
    world = World()
    world.listing("EC2NodeClass", thing("default", spec={}))
    world.listing("AWSNodeTemplate", thing("default", spec={"instanceProfile": "p"}))
    assert set(world.store.snapshot().node_classes) == {"default", "awsnodetemplate/default"}
    world.listing("AWSNodeTemplate")
    assert set(world.store.snapshot().node_classes) == {"default"}


def test_a_nodepool_and_a_provisioner_of_one_name_are_two_pools() -> None:
    world = World()
    world.listing("NodePool", thing("default"))
    world.listing("Provisioner", thing("default", spec={"provider": {"instanceProfile": "p"}}))
    assert set(world.store.snapshot().pools) == {"default", "provisioner/default"}
    world.intake.gone("Provisioner")
    assert set(world.store.snapshot().pools) == {"default"}


def test_a_cluster_has_its_name_in_a_provisioners_default_selectors() -> None:
    body = raw(thing("default", spec={"provider": {"instanceProfile": "p"}}))
    from nodeyard.api.shape import Shapes

    (of_class, _) = converters("prod")["Provisioner"](body, Shapes())
    assert of_class.value is not None
    assert of_class.value.subnet_terms[0].tags == {"kubernetes.io/cluster/prod": "*"}


def test_replica_sets_of_the_past_are_left_out() -> None:
    world = World()
    selector = {"matchLabels": {"app": "a"}}
    spec = {"selector": selector, "replicas": 2}
    body = thing("rs", namespace="n", spec=spec)
    assert world.listing("ReplicaSet", body) == [("selecting", "ReplicaSet/n/rs", True)]
    past = thing("rs", namespace="n", spec={"selector": selector, "replicas": 0})
    assert world.event("ReplicaSet", "MODIFIED", past) == [("selecting", "ReplicaSet/n/rs", False)]
    assert world.event("ReplicaSet", "MODIFIED", body) == [("selecting", "ReplicaSet/n/rs", True)]


# --- shapes ---------------------------------------------------------------------------------------------------------
def test_a_shape_goes_some_time_after_its_last_pod() -> None:
    world = World()
    world.listing("Pod", written_pod(0), written_pod(1))
    name = written_pod(0)["metadata"]
    shape = world.store.snapshot().pods[f"{name['namespace']}/{name['name']}"].shape
    world.event("Pod", "DELETED", written_pod(0))
    assert world.intake.sweep() == []
    assert [(change.kind, change.key) for change in world.intake.sweep()] == [(Kind.SHAPE, shape)]
    assert len(world.store.snapshot().shapes) == 1
    again = world.event("Pod", "ADDED", written_pod(0))
    assert [kind for kind, _, _ in again] == ["shapes", "pods"]


def test_a_shape_that_is_used_again_in_time_stays() -> None:
    world = World()
    world.listing("Pod", written_pod(0))
    world.event("Pod", "DELETED", written_pod(0))
    world.intake.sweep()
    world.event("Pod", "ADDED", written_pod(45))
    assert world.intake.sweep() == []
    assert world.intake.sweep() == []


def test_a_pod_that_changes_its_shape_leaves_the_old_one() -> None:
    world = World()
    world.listing("Pod", written_pod(0))
    gated = written_pod(0, version=2)
    gated["spec"]["schedulingGates"] = [{"name": "hold"}]
    assert [kind for kind, _, _ in world.event("Pod", "MODIFIED", gated)] == ["shapes", "pods"]
    world.intake.sweep()
    assert len(world.intake.sweep()) == 1


def test_a_budget_that_names_an_own_label_asks_for_the_pods_again() -> None:
    world = World()
    key = "statefulset.kubernetes.io/pod-name"
    body = written_pod(0)
    body["metadata"]["labels"][key] = "db-0"
    world.listing("Pod", body)
    world.event(
        "PodDisruptionBudget",
        "ADDED",
        thing("p", namespace="n", spec={"selector": {"matchLabels": {"app": "a"}}}),
    )
    assert not world.intake.pods_outdated
    selector = {"matchExpressions": [{"key": key, "operator": "Exists"}]}
    world.event("PodDisruptionBudget", "ADDED", thing("q", namespace="n", spec={"selector": selector}))
    assert world.intake.pods_outdated
    world.listing("Pod", body)
    snapshot = world.store.snapshot()
    (record,) = snapshot.pods.values()
    assert snapshot.shape(record).labels[key] == "db-0"


# --- sources --------------------------------------------------------------------------------------------------------
def test_every_kind_that_is_read_has_a_source_that_its_changes_have_too() -> None:
    samples: dict[str, dict[str, Any]] = {
        "Pod": written_pod(0),
        "Provisioner": thing("x", spec={"provider": {"instanceProfile": "p"}}),
        "Service": thing("x", namespace="n", spec={"selector": {"a": "b"}}),
        "ReplicaSet": thing("x", namespace="n", spec={"replicas": 1}),
        "VerticalPodAutoscaler": thing(
            "x", namespace="n", spec={"targetRef": {"kind": "Deployment", "name": "d"}}
        ),
    }
    for kind in CONVERTERS:
        changes = changes_of(kind, samples.get(kind, thing("x", namespace="n")))
        sources = {source_of(change.kind, change.key) for change in changes} - {""}
        assert sources == {source_of_kind(kind)}, kind


def test_kinds_that_are_not_read_are_nothing() -> None:
    assert changes_of("ConfigMap", thing("x")) == ()


# --- the other kinds --------------------------------------------------------------------------------------------------
def test_volumes_and_their_classes_are_read() -> None:
    local = convert.pv_of(
        thing("v", spec={"local": {"path": "/x"}, "nodeAffinity": {"required": {"nodeSelectorTerms": []}}})
    )
    assert local.local
    assert convert.pv_of(thing("v", spec={"csi": {"driver": "ebs.csi.aws.com"}})).driver == "ebs.csi.aws.com"
    assert (
        convert.pv_of(thing("v", spec={"awsElasticBlockStore": {"volumeID": "x"}})).driver
        == "ebs.csi.aws.com"
    )
    claim = convert.pvc_of(
        thing("c", namespace="n", metadata={"annotations": {"pv.kubernetes.io/bind-completed": "yes"}})
    )
    assert (claim.bind_completed, claim.storage_class, claim.phase) == (True, None, "Pending")
    topology = [{"matchLabelExpressions": [{"key": "zone", "values": ["a", "b"]}]}]
    annotations = {"storageclass.kubernetes.io/is-default-class": "true"}
    stored = convert.storage_class_of(
        thing(
            "s",
            metadata={"annotations": annotations},
            provisioner="p",
            volumeBindingMode="WaitForFirstConsumer",
            allowedTopologies=topology,
        )
    )
    assert stored.default
    assert stored.allowed_topologies[0].match_expressions[0] == Requirement("zone", "In", ("a", "b"))
    drivers = [
        {"name": "ebs", "allocatable": {"count": 25}},
        {"name": "nfs"},
        {"name": "zero", "allocatable": {"count": 0}},
    ]
    assert convert.csi_node_of(thing("n", spec={"drivers": drivers})).limits == {"ebs": 25, "zero": 0}
    assert convert.csi_node_of(thing("n", spec={"drivers": None})).limits == {}


def test_a_budget_is_observed_once_its_controller_has_seen_the_newest_spec() -> None:
    body = thing(
        "p", namespace="n", metadata={"generation": 2}, spec={"maxUnavailable": 1, "minAvailable": "50%"}
    )
    assert not convert.pdb_of({**body, "status": {"observedGeneration": 1}}).observed
    seen = convert.pdb_of({**body, "status": {"observedGeneration": 2, "disruptionsAllowed": 3}})
    assert (seen.observed, seen.disruptions_allowed, seen.max_unavailable, seen.min_available) == (
        True,
        3,
        "1",
        "50%",
    )


def test_a_service_without_a_selector_selects_nothing() -> None:
    assert convert.selecting_of("Service", thing("s", namespace="n", spec={})).selector is None


def test_a_nodes_conditions_and_amounts_are_read() -> None:
    body = thing(
        "n",
        spec={"providerID": "aws:///a/i-1", "taints": [{"key": "k", "effect": "NoSchedule"}]},
        status={
            "allocatable": {"cpu": "3920m", "memory": "7Gi"},
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
        },
    )
    node = convert.node_of(body)
    assert node.ready
    assert node.allocatable == {"cpu": 3920, "memory": 7 * 2**30}
    assert (node.provider_id, node.taints) == ("aws:///a/i-1", (Taint("k", "NoSchedule"),))


# --- claims, there and back -------------------------------------------------------------------------------------------
CLAIM = NodeClaim(
    name="general-x7k2p",
    labels={"karpenter.sh/nodepool": "general"},
    annotations={"a": "b"},
    finalizers=("karpenter.sh/termination",),
    requirements=(Requirement("team", "In", ("a", "b"), 1), Requirement("gpu", "DoesNotExist")),
    requests={"cpu": 1500, "memory": 2**30, "pods": 3},
    taints=(Taint("team", "NoSchedule", "a"),),
    startup_taints=(Taint("cni", "NoExecute"),),
    node_class=NodeClassRef("default"),
    expire_after_s=720 * 3600.0,
    termination_grace_period_s=90.0,
)


def test_a_claim_reads_back_as_it_was_written() -> None:
    assert node_claim_of(node_claim_manifest(CLAIM)) == CLAIM


def test_a_claim_that_never_expires_says_so() -> None:
    import msgspec

    forever = msgspec.structs.replace(CLAIM, expire_after_s=None, termination_grace_period_s=None)
    manifest = node_claim_manifest(forever)
    assert manifest["spec"]["expireAfter"] == "Never"
    assert node_claim_of(manifest) == forever


def test_a_claims_status_reads_back_as_it_was_written() -> None:
    import msgspec

    launched = msgspec.structs.replace(
        CLAIM,
        provider_id="aws:///a/i-1",
        node_name="n",
        image_id="ami-1",
        capacity={"cpu": 4000},
        allocatable={"cpu": 3920},
        conditions=(Condition("Launched", "True", "Launched", "", 1_785_578_401.0, 1),),
        last_pod_event_at=1_785_578_402.0,
    )
    body = {**node_claim_manifest(launched), "status": node_claim_status(launched)}
    assert node_claim_of(body) == launched


@pytest.mark.parametrize("spec", [{"expireAfter": "soon"}, {"resources": {"requests": {"cpu": "x"}}}])
def test_a_claim_with_one_odd_field_is_read_without_it(spec: dict[str, Any]) -> None:
    claim = node_claim_of(thing("c", spec=spec, status={"providerID": "aws:///a/i-1"}))
    assert (claim.provider_id, claim.expire_after_s, claim.requests) == ("aws:///a/i-1", None, {})

"""Pod shapes: what counts, what does not, and that equal content has one id."""

import json
from typing import Any

import pytest

from nodeyard.api import objects
from nodeyard.api.convert import daemon_set_of, pod_of
from nodeyard.api.pod import PodShape
from nodeyard.api.reading import ConversionError, read
from nodeyard.api.selectors import HostPort
from nodeyard.api.shape import Shapes, shape_id, shape_of
from tests.support.pods import written_pod


def pod(number: int = 0, **spec: Any) -> dict[str, Any]:
    """A pod of deployment 0."""
    body = written_pod(number * 45)
    body["spec"].update(spec)
    return body


def shape(body: dict[str, Any], keep: frozenset[str] = frozenset()) -> PodShape:
    return shape_of(read(body, objects.Pod), keep=keep)


def test_pods_of_one_workload_share_a_shape_on_whatever_node_they_are() -> None:
    shapes = Shapes()
    first = shapes.shape_of(read(pod(1), objects.Pod))
    second = shapes.shape_of(read(pod(2, nodeName="n1", terminationGracePeriodSeconds=5), objects.Pod))
    assert first is second
    assert len(shapes) == 1


def test_a_cached_shape_is_the_shape_made_anew() -> None:
    shapes = Shapes()
    for number in (1, 2, 46, 47):
        body = written_pod(number)
        raw = read(json.dumps(body).encode(), objects.Pod)
        assert shapes.shape_of(raw) == shape_of(read(body, objects.Pod))


def test_the_id_is_of_the_content_and_not_of_the_order_it_was_written_in() -> None:
    one = shape(pod(nodeSelector={"a": "1", "b": "2"}))
    two = shape(pod(nodeSelector={"b": "2", "a": "1"}))
    assert one.id == two.id == shape_id(two)
    assert len(one.id) == 20
    assert set(one.id) <= set("0123456789abcdef")


@pytest.mark.parametrize(
    "spec",
    [
        {"nodeSelector": {"disk": "ssd"}},
        {"priority": 7},
        {"schedulerName": "other"},
        {"schedulingGates": [{"name": "wait"}]},
        {"resourceClaims": [{"name": "gpu"}]},
        {"schedulingGroup": {"podGroupName": "g"}},
        {"tolerations": []},
        {"hostNetwork": True, "containers": [{"ports": [{"containerPort": 80}]}]},
        {"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data-0"}}]},
        {"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule"}]},
    ],
)  # fmt: skip
def test_what_scheduling_depends_on_makes_another_shape(spec: dict[str, Any]) -> None:
    assert shape(pod(**spec)).id != shape(pod()).id


def test_namespace_and_labels_are_part_of_the_shape() -> None:
    other = pod()
    other["metadata"]["namespace"] = "elsewhere"
    labelled = pod()
    labelled["metadata"]["labels"]["tier"] = "web"
    assert len({shape(one).id for one in (pod(), other, labelled)}) == 3


def test_labels_that_are_each_pods_own_are_left_out() -> None:
    def of(name: str) -> PodShape:
        body = pod()
        body["metadata"]["labels"] |= {
            "statefulset.kubernetes.io/pod-name": name,
            "apps.kubernetes.io/pod-index": name[-1],
        }
        return shape(body)

    assert of("db-0").id == of("db-1").id
    assert "statefulset.kubernetes.io/pod-name" not in of("db-0").labels


def test_a_bound_pod_has_the_shape_of_its_successor() -> None:
    def of(zone: str) -> PodShape:
        body = pod()
        if zone:
            copied = {"topology.kubernetes.io/zone": zone, "topology.kubernetes.io/region": zone[:-1]}
            body["metadata"]["labels"] |= copied
        return shape(body)

    assert of("eu-west-1a").id == of("eu-west-1b").id == of("").id


def test_an_own_label_stays_where_the_pods_own_terms_name_it() -> None:
    key = "apps.kubernetes.io/pod-index"
    body = pod(
        topologySpreadConstraints=[
            {"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule", "matchLabelKeys": [key]}
        ]
    )
    body["metadata"]["labels"][key] = "0"
    assert shape(body).labels[key] == "0"


def test_an_own_label_stays_where_somebody_elses_selector_names_it() -> None:
    key = "statefulset.kubernetes.io/pod-name"
    shapes = Shapes()

    def made() -> PodShape:
        body = pod()
        body["metadata"]["labels"][key] = "db-0"
        return shapes.shape_of(read(body, objects.Pod))

    assert key not in made().labels
    assert not shapes.keep(["app"])
    assert shapes.keep([key])
    assert not shapes.keep([key])
    assert made().labels[key] == "db-0"


def test_daemon_pods_share_a_shape_though_each_is_tied_to_its_node_by_name() -> None:
    def of(node: str) -> PodShape:
        field = {"key": "metadata.name", "operator": "In", "values": [node]}
        linux = {"key": "kubernetes.io/os", "operator": "In", "values": ["linux"]}
        term = {"matchFields": [field], "matchExpressions": [linux]}
        required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
        body = pod(affinity={"nodeAffinity": required})
        body["metadata"]["ownerReferences"] = [{"kind": "DaemonSet", "name": "d", "controller": True}]
        return shapes.shape_of(read(body, objects.Pod))

    shapes = Shapes()
    assert of("n1") is of("n2")
    affinity = of("n1").node_affinity
    assert affinity is not None
    assert affinity.required is not None
    assert affinity.required.node_selector_terms[0].match_expressions[0].key == "kubernetes.io/os"


def test_other_pods_keep_their_match_fields_so_that_they_can_be_reported() -> None:
    field = {"key": "metadata.name", "operator": "In", "values": ["n1"]}
    required = {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchFields": [field]}]}
    }
    affinity = shape(pod(affinity={"nodeAffinity": required})).node_affinity
    assert affinity is not None
    assert affinity.required is not None
    assert affinity.required.node_selector_terms[0].match_fields[0].values == ("n1",)


def test_volumes_of_the_pod_itself_and_generic_ephemeral_ones_are_named_by_their_claims() -> None:
    body = pod(
        volumes=[
            {"name": "scratch", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}},
            {"name": "data", "persistentVolumeClaim": {"claimName": "data"}},
            {"name": "tmp", "emptyDir": {}},
        ]
    )
    name = body["metadata"]["name"]
    assert shape(body).volume_claims == (f"{name}-scratch", "data")


def test_pods_with_ephemeral_volumes_do_not_share_a_cached_shape() -> None:
    shapes = Shapes()
    volumes = [{"name": "scratch", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}}]
    one = shapes.shape_of(read(pod(1, volumes=volumes), objects.Pod))
    two = shapes.shape_of(read(pod(2, volumes=volumes), objects.Pod))
    assert one.volume_claims != two.volume_claims


def test_host_ports_of_containers_and_sidecars_count() -> None:
    body = pod(
        containers=[
            {
                "ports": [
                    {"containerPort": 80, "hostPort": 8080, "hostIP": "10.0.0.1"},
                    {"containerPort": 81},
                ]
            }
        ],
        initContainers=[
            {"restartPolicy": "Always", "ports": [{"hostPort": 53, "protocol": "UDP"}]},
            {"ports": [{"hostPort": 99}]},
        ],
    )
    assert shape(body).host_ports == (HostPort(53, "UDP"), HostPort(8080, "TCP", "10.0.0.1"))


def test_empty_affinities_are_none() -> None:
    bare = shape(pod(affinity={"podAffinity": {}, "nodeAffinity": {}, "podAntiAffinity": {}}))
    assert bare.id == shape(pod()).id


def test_a_quantity_that_is_none_is_an_error_that_names_it() -> None:
    body = pod(containers=[{"resources": {"requests": {"cpu": "lots"}}}])
    with pytest.raises(ValueError, match=r"cpu: 'lots' is not a quantity"):
        shape(body)


def test_a_daemon_sets_shape_bears_what_its_controller_adds() -> None:
    spec = {
        "containers": [{"resources": {"requests": {"cpu": "50m"}}, "ports": [{"containerPort": 9100}]}],
        "hostNetwork": True,
    }
    body = {
        "metadata": {"name": "agent", "namespace": "kube-system"},
        "spec": {"template": {"metadata": {"labels": {"app": "agent"}}, "spec": spec}},
    }
    made = daemon_set_of(body)
    tolerated = {toleration.key for toleration in made.shape.tolerations}
    assert {"node.kubernetes.io/unschedulable", "node.kubernetes.io/network-unavailable"} <= tolerated
    assert made.shape.host_ports == (HostPort(9100),)
    assert made.shape.requests == {"cpu": 50, "pods": 1}


# --- records --------------------------------------------------------------------------------------------------------
def test_an_unschedulable_pod_is_provisionable_since_its_condition_says_so() -> None:
    record = pod_of(pod(), "s")
    assert record.unschedulable
    assert record.provisionable
    assert record.unschedulable_since == 1785578401.0
    assert record.scheduled_at == 0.0
    assert (record.owner_kind, record.owner_name) == ("ReplicaSet", "app-0-7d4b9c")


def test_a_pod_on_a_node_is_scheduled() -> None:
    record = pod_of(written_pod(0, node="n1"), "s")
    assert (record.node, record.unschedulable, record.scheduled_at) == ("n1", False, 1785578401.0)


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ({}, ("", 0)),
        ({"karpenter.sh/do-not-disrupt": "30m"}, ("30m", 0)),
        ({"karpenter.sh/do-not-evict": "true"}, ("true", 0)),
        ({"karpenter.sh/do-not-evict": "false"}, ("", 0)),
        ({"controller.kubernetes.io/pod-deletion-cost": "-2147483648"}, ("", -(2**31))),
        ({"controller.kubernetes.io/pod-deletion-cost": "cheap"}, ("", 0)),
        ({"controller.kubernetes.io/pod-deletion-cost": "99999999999"}, ("", 0)),
    ],
)
def test_annotations_that_matter_to_disruption_are_read(
    annotations: dict[str, str], expected: tuple[str, int]
) -> None:
    body = pod()
    body["metadata"]["annotations"] = annotations
    record = pod_of(body, "s")
    assert (record.do_not_disrupt, record.deletion_cost) == expected


def test_nulls_read_as_absent() -> None:
    body = pod(nodeSelector=None, affinity=None, volumes=None)
    body["metadata"]["labels"] = None
    assert shape(body).labels == {}


def test_what_is_wrong_is_said_with_its_path() -> None:
    body = pod()
    body["metadata"]["labels"] = {"a": 1}
    with pytest.raises(ConversionError, match=r"metadata\.labels\[\.\.\.\]: Expected `str`, got `int`"):
        pod_of(body, "s")


# --- pods that are resized in place -------------------------------------------------------------------------------------
def resized(asked: str, allocated: str, running: str, reason: str = "") -> dict[str, Any]:
    """A pod of one container of so many CPUs by its spec, by what is set aside, and by what it runs with."""
    body = pod(containers=[{"name": "main", "resources": {"requests": {"cpu": asked}}}], initContainers=[])
    body["status"]["containerStatuses"] = [
        {
            "name": "main",
            "allocatedResources": {"cpu": allocated},
            "resources": {"requests": {"cpu": running}},
        }
    ]
    if reason:
        pending = {"type": "PodResizePending", "status": "True", "reason": reason}
        body["status"].setdefault("conditions", []).append(pending)
    return body


@pytest.mark.parametrize(
    ("body", "cpu"),
    [
        (resized("500m", "500m", "500m"), 500),
        (resized("0.5", "500m", "500m"), 500),
        (resized("2", "1", "1"), 2000),
        (resized("2", "1", "1", "Deferred"), 2000),
        (resized("64", "1", "1", "Infeasible"), 1000),
        (resized("500m", "2", "2"), 2000),
        (resized("500m", "500m", "1500m"), 1500),
    ],
)
def test_a_pod_that_is_resized_holds_the_most_of_what_it_asks_for_and_has(
    body: dict[str, Any], cpu: int
) -> None:
    assert shape(body).requests["cpu"] == cpu
    shapes = Shapes()
    assert shapes.shape_of(read(body, objects.Pod)).requests["cpu"] == cpu
    assert shapes.shape_of(read(resized("500m", "500m", "500m"), objects.Pod)).requests["cpu"] == 500


def test_a_sidecar_that_is_resized_counts_as_it_is_and_a_finished_init_container_does_not() -> None:
    body = resized("1", "1", "1")
    body["spec"]["initContainers"] = [
        {"name": "proxy", "restartPolicy": "Always", "resources": {"requests": {"cpu": "100m"}}},
        {"name": "setup", "resources": {"requests": {"cpu": "200m"}}},
    ]
    body["status"]["initContainerStatuses"] = [
        {"name": name, "allocatedResources": {"cpu": "4"}} for name in ("proxy", "setup")
    ]
    assert shape(body).requests["cpu"] == 5000

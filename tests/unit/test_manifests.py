"""Manifests become a snapshot of them alone, and what can't be read is named."""

from typing import Any

import pytest

from nodeyard.state.manifests import ManifestError, plannable, snapshot_from

Json = dict[str, Any]


def pod(name: str, **spec: Any) -> Json:
    container = {"name": "c", "resources": {"requests": {"cpu": "250m", "memory": "1Gi"}}}
    return {"kind": "Pod", "metadata": {"name": name}, "spec": {"containers": [container], **spec}}


def test_objects_without_a_namespace_are_in_default() -> None:
    assert set(snapshot_from([pod("a")]).pods) == {"default/a"}


def test_pods_alike_share_one_shape() -> None:
    snapshot = snapshot_from([pod("a"), pod("b"), pod("c", nodeSelector={"x": "y"})])
    assert len(snapshot.shapes) == 2
    assert snapshot.shape(snapshot.pods["default/a"]).requests == {"cpu": 250, "memory": 2**30, "pods": 1}


def test_a_pods_priority_comes_from_its_class_unless_it_has_one() -> None:
    high = {"kind": "PriorityClass", "metadata": {"name": "high"}, "value": 1000}
    snapshot = snapshot_from(
        [pod("a", priorityClassName="high"), pod("b", priorityClassName="high", priority=5), high]
    )
    assert [snapshot.shape(snapshot.pods[f"default/{n}"]).priority for n in "ab"] == [1000, 5]


def test_a_label_that_a_selector_names_tells_pods_apart() -> None:
    key = "statefulset.kubernetes.io/pod-name"
    term = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {key: "db-0"}}}
    affinity = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    named = [{**pod(n), "metadata": {"name": n, "labels": {key: n}}} for n in ("db-0", "db-1")]
    assert len(snapshot_from(named).shapes) == 1
    assert len(snapshot_from([*named, pod("far", affinity=affinity)]).shapes) == 3


def test_finished_bound_daemon_and_terminating_pods_are_not_planned() -> None:
    daemon = pod("d")
    daemon["metadata"]["ownerReferences"] = [{"kind": "DaemonSet", "name": "ds", "controller": True}]
    leaving = pod("t")
    leaving["metadata"]["deletionTimestamp"] = "2026-11-01T00:00:00Z"
    done = {**pod("s"), "status": {"phase": "Succeeded"}}
    snapshot = snapshot_from([pod("a"), pod("b", nodeName="n1"), done, daemon, leaving])
    assert plannable(snapshot) == ("default/a",)


def test_kinds_that_placement_does_not_depend_on_are_passed_over() -> None:
    assert not snapshot_from([{"kind": "ConfigMap", "metadata": {"name": "x"}}]).pods


@pytest.mark.parametrize(
    ("manifest", "says"),
    [
        ({"metadata": {"name": "x"}}, "object x: kind: is missing"),
        ({"kind": "Pod", "metadata": {}}, r"Pod \(without a name\): metadata.name: is missing"),
        ({"kind": "Pod", "metadata": {"name": "x"}, "spec": {"containers": [{"resources": {"requests": {"cpu": "1x"}}}]}}, r"Pod default/x: .*cpu: '1x' is not a quantity"),
        ({"kind": "Node", "metadata": {"name": "n", "labels": [1]}}, "Node n: metadata.labels: Expected `object`"),
    ],
)  # fmt: skip
def test_what_cant_be_read_is_named_with_its_field(manifest: Json, says: str) -> None:
    with pytest.raises(ManifestError, match=says):
        snapshot_from([manifest])

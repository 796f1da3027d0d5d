"""Workloads stand for the pods their controllers would make, less those already there."""

from typing import Any

import pytest

from nodeyard.api.workloads import WorkloadError, expand

Json = dict[str, Any]


def workload(kind: str, name: str = "web", **spec: Any) -> Json:
    template = {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c"}]}}
    return {
        "kind": kind,
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"template": template, **spec},
    }


def pod(name: str, owner: tuple[str, str], phase: str = "Pending") -> Json:
    owners = [{"kind": owner[0], "name": owner[1], "controller": True}]
    meta = {"name": name, "namespace": "shop", "ownerReferences": owners}
    return {"kind": "Pod", "metadata": meta, "spec": {"containers": []}, "status": {"phase": phase}}


def names(objects: list[Json], kind: str = "Pod") -> list[str]:
    return [o["metadata"]["name"] for o in objects if o["kind"] == kind]


def test_a_deployment_becomes_its_replicas_with_the_templates_labels() -> None:
    pods = expand([workload("Deployment", replicas=3)])
    assert names(pods) == ["web-0", "web-1", "web-2"]
    assert pods[0]["metadata"]["labels"] == {"app": "web"}
    assert pods[0]["metadata"]["namespace"] == "shop"


def test_replicas_default_to_one() -> None:
    assert names(expand([workload("StatefulSet")])) == ["web-0"]


def test_pods_already_in_the_input_count_against_the_replicas() -> None:
    there = [
        pod("web-5d9c-abcde", ("ReplicaSet", "web-5d9c")),
        pod("web-5d9c-done", ("ReplicaSet", "web-5d9c"), "Failed"),
    ]
    assert names(expand([workload("Deployment", replicas=3), *there])) == ["web-0", "web-1", *names(there)]


def test_a_replica_set_of_a_deployment_in_the_input_is_not_counted_twice() -> None:
    rs = workload("ReplicaSet", "web-5d9c", replicas=2)
    rs["metadata"]["ownerReferences"] = [{"kind": "Deployment", "name": "web", "controller": True}]
    assert names(expand([workload("Deployment", replicas=2), rs])) == ["web-0", "web-1"]


def test_a_job_makes_as_many_pods_as_run_at_once_and_are_still_needed() -> None:
    job = workload("Job", parallelism=5, completions=6)
    job["status"] = {"succeeded": 4}
    assert names(expand([job])) == ["web-0", "web-1"]
    assert expand([workload("Job", suspend=True)]) == []


def test_a_stateful_set_brings_the_volume_claims_that_are_missing() -> None:
    templates = [{"metadata": {"name": "data"}, "spec": {"storageClassName": "gp3"}}]
    existing = {
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data-web-0", "namespace": "shop"},
        "spec": {},
    }
    out = expand([existing, workload("StatefulSet", replicas=2, volumeClaimTemplates=templates)])
    assert names(out, "PersistentVolumeClaim") == ["data-web-0", "data-web-1"]
    volumes = next(o for o in out if o["metadata"]["name"] == "web-1")["spec"]["volumes"]
    assert volumes == [{"name": "data", "persistentVolumeClaim": {"claimName": "data-web-1"}}]


def test_generic_ephemeral_volumes_bring_the_claims_that_kubernetes_will_make_for_waiting_pods() -> None:
    volume = {"name": "scratch", "ephemeral": {"volumeClaimTemplate": {"spec": {"storageClassName": "gp3"}}}}
    spec: dict[str, object] = {"containers": [], "volumes": [volume]}
    deployment = workload("Deployment", replicas=2, template={"metadata": {}, "spec": spec})
    owner = ("Job", "batch")
    waiting, running = pod("lone", owner), pod("busy", owner)
    waiting["spec"], running["spec"] = spec, {**spec, "nodeName": "n1"}
    there = {
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "web-0-scratch", "namespace": "shop"},
        "spec": {},
    }
    out = expand([there, deployment, waiting, running])
    assert names(out, "PersistentVolumeClaim") == ["web-0-scratch", "web-1-scratch", "lone-scratch"]
    made = next(o for o in out if o["metadata"]["name"] == "web-1-scratch")
    assert made["spec"] == {"storageClassName": "gp3"}
    assert made["metadata"]["namespace"] == "shop"


def test_an_unusable_workload_is_named() -> None:
    broken = {"kind": "Deployment", "metadata": {"name": "web", "namespace": "shop"}, "spec": {"replicas": 1}}
    with pytest.raises(WorkloadError, match=r"Deployment shop/web: spec: .*`template`"):
        expand([broken])


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"replicas": 10**30}, "spec.replicas"),
        ({"replicas": -1}, "spec.replicas"),
        ({"replicas": "three"}, "spec.replicas"),
        ({"volumeClaimTemplates": [{}]}, r"spec.volumeClaimTemplates\[0\]"),
        ({"template": {"metadata": {"labels": ["a"]}}}, "spec.template.metadata.labels"),
        ({"template": {"spec": True}}, "spec.template.spec"),
    ],
)
def test_a_field_of_the_wrong_kind_or_size_is_named_before_anything_is_made(
    spec: dict[str, object], says: str
) -> None:
    whole = {"template": {"metadata": {}, "spec": {"containers": []}}, **spec}
    broken = {"kind": "StatefulSet", "metadata": {"name": "db", "namespace": "shop"}, "spec": whole}
    with pytest.raises(WorkloadError, match=f"StatefulSet shop/db: {says}"):
        expand([broken])

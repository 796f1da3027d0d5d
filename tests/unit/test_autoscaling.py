"""What a VerticalPodAutoscaler makes of pods that are created again: which it is for, what it gives, what it leaves."""

from __future__ import annotations

from typing import Any

import pytest

from nodeyard.api.autoscaling import ContainerTarget, VerticalPodAutoscaler, autoscaler_of, successor_of
from nodeyard.api.pod import PodShape
from nodeyard.api.reading import ConversionError
from nodeyard.rpc.cluster_codec import decode_change
from nodeyard.rpc.cluster_log import ClusterLog
from nodeyard.state.cluster import Change, ClusterStore, Kind, Snapshot
from nodeyard.state.laying import laid_over
from nodeyard.state.manifests import snapshot_from

Json = dict[str, Any]
GI = 2**30


def autoscaler(
    target: str = "Deployment/web",
    *,
    name: str = "web",
    mode: str | None = None,
    created: str = "",
    **more: Any,
) -> Json:
    """An autoscaler that recommends 2 CPUs and 4 GiB for the container `main`."""
    kind, _, of = target.partition("/")
    recommended = more.pop("recommended", {"main": {"cpu": "2", "memory": "4Gi"}})
    spec: Json = {"targetRef": {"apiVersion": "apps/v1", "kind": kind, "name": of}}
    if mode is not None:
        spec["updatePolicy"] = {"updateMode": mode}
    if policies := more.pop("policies", None):
        spec["resourcePolicy"] = {"containerPolicies": policies}
    meta = {"name": name, "namespace": "default", **({"creationTimestamp": created} if created else {})}
    found = [{"containerName": c, "target": t, "upperBound": {"cpu": "64"}} for c, t in recommended.items()]
    status = {"recommendation": {"containerRecommendations": found}} if found else {}
    return {"kind": "VerticalPodAutoscaler", "metadata": meta, "spec": spec, "status": status}


def pod(
    owner: str = "ReplicaSet/web-5d9c", *, node: str = "n", labels: Json | None = None, **spec: Any
) -> Json:
    kind, _, name = owner.partition("/")
    main = {"name": "main", "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}}}
    return {
        "kind": "Pod",
        "metadata": {
            "name": "p",
            "namespace": "default",
            "labels": {"pod-template-hash": "5d9c"} if labels is None else labels,
            "ownerReferences": [{"kind": kind, "name": name, "uid": "u", "controller": True}],
        },
        "spec": {"containers": [main], **({"nodeName": node} if node else {}), **spec},
        "status": {"phase": "Running" if node else "Pending"},
    }


def comes_back(*objects: Json) -> PodShape:
    """What the pod among the objects counts with when it is evicted."""
    snapshot = snapshot_from(objects)
    return snapshot.shapes[snapshot.successor(snapshot.pods["default/p"])]


def requests(*objects: Json) -> tuple[int, int]:
    """(millicores, GiB) of the same."""
    found = comes_back(*objects).requests
    return found["cpu"], found["memory"] // GI


# --- who is under which -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", [None, "Initial", "Recreate", "Auto", "InPlaceOrRecreate"])
def test_a_pod_comes_back_with_what_its_autoscaler_recommends(mode: str | None) -> None:
    assert requests(pod(), autoscaler(mode=mode)) == (2000, 4)


def test_one_that_only_recommends_changes_nothing() -> None:
    assert requests(pod(), autoscaler(mode="Off")) == (500, 1)
    assert requests(pod(), autoscaler(recommended={})) == (500, 1)


@pytest.mark.parametrize(
    ("owner", "labels", "target"),
    [
        ("ReplicaSet/web-5d9c", {"pod-template-hash": "5d9c"}, "Deployment/web"),
        ("ReplicaSet/web-5d9c", {}, "Deployment/web"),
        ("ReplicaSet/a-b-77", {"rollouts-pod-template-hash": "77"}, "Rollout/a-b"),
        ("ReplicaSet/alone", {}, "ReplicaSet/alone"),
        ("StatefulSet/db", {}, "StatefulSet/db"),
        ("Job/once", {}, "Job/once"),
        ("Job/nightly-29384400", {}, "CronJob/nightly"),
        ("CloneSet/game", {}, "CloneSet/game"),
    ],
)
def test_the_pods_of_a_target_are_known_by_their_owners(owner: str, labels: Json, target: str) -> None:
    assert requests(pod(owner, labels=labels), autoscaler(target)) == (2000, 4)


@pytest.mark.parametrize(
    ("owner", "labels", "target"),
    [
        ("ReplicaSet/web-canary", {"pod-template-hash": "5d9c"}, "Deployment/web"),
        ("ReplicaSet/web-5d9c", {"pod-template-hash": "5d9c"}, "StatefulSet/web"),
        ("Job/nightly-first", {}, "CronJob/nightly"),
        ("StatefulSet/db", {}, "StatefulSet/db2"),
    ],
)
def test_the_pods_of_others_are_left_as_they_are(owner: str, labels: Json, target: str) -> None:
    assert requests(pod(owner, labels=labels), autoscaler(target)) == (500, 1)


def test_an_autoscaler_of_another_namespace_has_no_say() -> None:
    other = autoscaler()
    other["metadata"]["namespace"] = "elsewhere"
    assert requests(pod(), other) == (500, 1)


def test_of_two_for_the_same_target_the_older_decides() -> None:
    older = autoscaler(name="z", created="2026-01-01T00:00:00Z", recommended={"main": {"cpu": "3"}})
    newer = autoscaler(name="a", created="2026-02-01T00:00:00Z", recommended={"main": {"cpu": "9"}})
    assert requests(pod(), newer, older) == (3000, 1)


def test_a_pod_that_waits_was_admitted_already() -> None:
    assert requests(pod(node=""), autoscaler()) == (500, 1)


def test_a_daemons_pod_is_not_moved() -> None:
    assert requests(pod("DaemonSet/agent", labels={}), autoscaler("DaemonSet/agent")) == (500, 1)


# --- what it gives ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("policy", "wanted"),
    [
        ({"containerName": "main", "mode": "Off"}, (500, 1)),
        ({"containerName": "*", "mode": "Off"}, (500, 1)),
        ({"containerName": "main", "maxAllowed": {"cpu": "1500m"}}, (1500, 4)),
        ({"containerName": "*", "maxAllowed": {"cpu": "1500m", "memory": "2Gi"}}, (1500, 2)),
        ({"containerName": "main", "minAllowed": {"cpu": "3", "memory": "1Gi"}}, (3000, 4)),
        ({"containerName": "main", "minAllowed": {"cpu": "3"}, "maxAllowed": {"cpu": "1"}}, (1000, 4)),
        ({"containerName": "main", "maxAllowed": {"cpu": "0"}}, (2000, 4)),
        ({"containerName": "main", "controlledResources": ["memory"]}, (500, 4)),
        ({"containerName": "other", "mode": "Off"}, (2000, 4)),
    ],
)
def test_the_policy_of_the_container_bounds_it(policy: Json, wanted: tuple[int, int]) -> None:
    assert requests(pod(), autoscaler(policies=[policy])) == wanted


def test_a_policy_for_the_container_comes_before_that_for_all() -> None:
    policies = [{"containerName": "*", "mode": "Off"}, {"containerName": "main", "maxAllowed": {"cpu": "1"}}]
    assert requests(pod(), autoscaler(policies=policies)) == (1000, 4)


def test_where_limits_stay_as_they_are_no_request_goes_beyond_them() -> None:
    main = {
        "name": "main",
        "resources": {"requests": {"cpu": "500m"}, "limits": {"cpu": "800m", "memory": "8Gi"}},
    }
    only = {"containerName": "main", "controlledValues": "RequestsOnly"}
    both = {"containerName": "main", "controlledValues": "RequestsAndLimits"}
    assert requests(pod(containers=[main]), autoscaler(policies=[only])) == (800, 8)
    assert requests(pod(containers=[main]), autoscaler(policies=[both])) == (2000, 8)


def test_less_than_it_has_is_no_less_room_for_it() -> None:
    less = autoscaler(recommended={"main": {"cpu": "100m", "memory": "4Gi"}})
    assert requests(pod(), less) == (500, 4)


def test_each_container_counts_and_init_containers_that_end_do_not() -> None:
    small = {"requests": {"cpu": "100m", "memory": "1Gi"}}
    body = pod(
        containers=[{"name": "main", "resources": small}, {"name": "other", "resources": small}],
        initContainers=[
            {"name": "proxy", "restartPolicy": "Always", "resources": small},
            {"name": "setup", "resources": small},
        ],
    )
    for name, cpu in (("main", 2200), ("other", 2200), ("proxy", 2200), ("setup", 300), ("unknown", 300)):
        assert comes_back(body, autoscaler(recommended={name: {"cpu": "2"}})).requests["cpu"] == cpu


def test_overhead_and_what_is_not_recommended_come_on_top() -> None:
    main = {"name": "main", "resources": {"requests": {"cpu": "1", "nvidia.com/gpu": 1}}}
    found = comes_back(pod(containers=[main], overhead={"cpu": "250m"}), autoscaler())
    assert found.requests == {"cpu": 2250, "memory": 4 * GI, "nvidia.com/gpu": 1, "pods": 1}


def test_requests_of_the_pod_itself_stay() -> None:
    body = pod(resources={"requests": {"cpu": "1", "memory": "2Gi"}})
    assert requests(body, autoscaler()) == (1000, 2)


def test_a_pod_that_is_resized_has_what_it_holds_or_what_it_will_be_given() -> None:
    body = pod()
    body["status"]["containerStatuses"] = [
        {"name": "main", "allocatedResources": {"cpu": "6", "memory": "1Gi"}}
    ]
    assert requests(body, autoscaler()) == (6000, 4)


def test_an_amount_that_is_none_is_told_with_its_container() -> None:
    with pytest.raises(ConversionError, match=r"main.*cpu.*much"):
        autoscaler_of(autoscaler(recommended={"main": {"cpu": "much"}}))


def test_a_shape_that_it_does_not_change_stays_the_same_object() -> None:
    shape = comes_back(pod())
    same = VerticalPodAutoscaler("default", "a", "Deployment", "web")
    assert successor_of(shape, same) is shape
    as_it_is = {"main": ContainerTarget({"cpu": 500, "memory": GI})}
    assert successor_of(shape, VerticalPodAutoscaler("default", "a", "D", "web", targets=as_it_is)) is shape


# --- from state to state ----------------------------------------------------------------------------------------------
class World:
    """A store with a pod on a node."""

    def __init__(self) -> None:
        self.store = ClusterStore()
        before = snapshot_from([pod()])
        for id_, shape in before.shapes.items():
            self.put(Kind.SHAPE, id_, shape)
        self.put(Kind.POD, "default/p", before.pods["default/p"])

    def put(self, kind: Kind, key: str, value: object) -> None:
        self.store.apply([Change(kind, key, value)])

    def autoscaled(self, body: Json | None) -> None:
        self.put(Kind.VPA, "default/web", autoscaler_of(body) if body is not None else None)

    @property
    def shape(self) -> PodShape:
        now = self.store.snapshot()
        return now.shapes[now.successor(now.pods["default/p"])]


def test_an_autoscaler_may_come_change_and_go() -> None:
    world = World()
    own = world.shape
    world.autoscaled(autoscaler())
    assert world.shape.requests["cpu"] == 2000
    world.autoscaled(autoscaler(recommended={"main": {"cpu": "3"}}))
    assert world.shape.requests["cpu"] == 3000
    world.autoscaled(None)
    assert world.shape is own
    assert not world.store.snapshot().successors


def test_what_did_not_change_stays_the_same_objects() -> None:
    world = World()
    world.autoscaled(autoscaler())
    before, shape = world.store.snapshot().successors, world.shape
    world.put(Kind.NAMESPACE, "x", None)
    assert world.store.snapshot().successors is before
    assert world.shape is shape


def test_the_shapes_of_successors_are_none_of_the_stores_and_are_sent_to_nobody() -> None:
    world = World()
    world.autoscaled(autoscaler())
    assert len(world.store.snapshot().shapes) == 2
    assert world.store.count(Kind.SHAPE) == 1
    (message,) = ClusterLog(world.store, "e").snapshot({})
    assert sorted(change.kind for change in message.changes) == ["pods", "shapes", "vpas"]
    reader = ClusterStore()
    reader.apply(map(decode_change, message.changes))
    assert reader.snapshot().successors == world.store.snapshot().successors


def test_an_autoscaler_that_is_laid_over_counts() -> None:
    live: Snapshot = World().store.snapshot()
    laid = laid_over(live, [Change(Kind.VPA, "default/web", autoscaler_of(autoscaler()))])
    assert laid.shapes[laid.successor(laid.pods["default/p"])].requests["cpu"] == 2000

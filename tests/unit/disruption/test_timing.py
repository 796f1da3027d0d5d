"""What time is counted from: pod events, emptiness timestamps, ages."""

import msgspec

from nodeyard.api import labels as keys
from nodeyard.api.node import Condition
from nodeyard.disruption.expiry import expired
from nodeyard.disruption.idleness import CONSOLIDATABLE, Stamp, consolidatable_changes, stamps
from nodeyard.disruption.pod_events import PodEvents
from nodeyard.state.cluster import Kind
from tests.support.disruption import NOW, Builder


def test_binding_terminating_finishing_and_vanishing_are_events_of_the_node() -> None:
    build, events = Builder(), PodEvents()
    build.node("a")
    build.pod("p", "a", scheduled_at=NOW - 500)
    events.observe(build.snapshot, NOW)
    assert events.last["a"] == NOW - 500
    build.pod("q", "a", scheduled_at=NOW - 3)
    events.observe(build.snapshot, NOW)
    assert events.last["a"] == NOW - 3
    build.pod("q", "a", scheduled_at=NOW - 3, deleted_at=NOW + 35, grace_period_s=30)
    events.observe(build.snapshot, NOW + 6)
    assert events.last["a"] == NOW + 5
    build.pod("p", "a", phase="Succeeded", scheduled_at=NOW - 500)
    events.observe(build.snapshot, NOW + 10)
    assert events.last["a"] == NOW + 10
    build.put(Kind.POD, "default/q", None)
    events.observe(build.snapshot, NOW + 20)
    assert events.last["a"] == NOW + 20


def test_daemons_are_no_events_and_status_changes_neither() -> None:
    build, events = Builder(), PodEvents()
    build.node("a")
    build.pod("p", "a", scheduled_at=NOW - 500)
    events.observe(build.snapshot, NOW)
    build.pod("d", "a", owner_kind="DaemonSet", scheduled_at=NOW)
    build.pod("p", "a", scheduled_at=NOW - 500, ready=False)
    events.observe(build.snapshot, NOW + 1)
    assert events.last["a"] == NOW - 500


def test_a_successor_of_the_same_name_is_an_event_of_the_node_it_left() -> None:
    build, events = Builder(), PodEvents()
    build.node("a")
    build.node("b")
    build.pod("set-0", "a", scheduled_at=NOW - 500)
    events.observe(build.snapshot, NOW)
    pod = build.pod("set-0", "b", scheduled_at=NOW + 5)
    build.put(Kind.POD, pod.key, msgspec.structs.replace(pod, uid="another"))
    events.observe(build.snapshot, NOW + 6)
    assert (events.last["a"], events.last["b"]) == (NOW + 6, NOW + 5)


def test_events_of_nodes_that_are_gone_are_forgotten() -> None:
    build, events = Builder(), PodEvents()
    build.node("a")
    build.pod("p", "a")
    events.observe(build.snapshot, NOW)
    build.put(Kind.NODE, "a", None)
    events.observe(build.snapshot, NOW + 1)
    assert dict(events.last) == {}


def test_an_empty_provisioner_node_is_stamped_and_a_pod_takes_the_stamp_off() -> None:
    build = Builder()
    build.pool("provisioner/default", policy="WhenEmpty", after=30.0)
    build.pool("default", policy="WhenEmpty", after=30.0)
    build.node("a", pool="provisioner/default")
    build.node("of-a-node-pool")
    assert stamps(build.snapshot) == (Stamp("a", True),)
    node = build.snapshot.nodes["a"]
    build.put(Kind.NODE, "a", msgspec.structs.replace(node, annotations={keys.EMPTINESS_TIMESTAMP: "x"}))
    assert stamps(build.snapshot) == ()
    build.pod("p", "a")
    assert stamps(build.snapshot) == (Stamp("a", False),)


def test_a_provisioner_without_a_ttl_stamps_nothing() -> None:
    build = Builder()
    build.pool("provisioner/default", policy="WhenEmpty", after=None)
    build.node("a", pool="provisioner/default")
    assert stamps(build.snapshot) == ()


def test_a_node_is_consolidatable_once_it_has_been_quiet_for_long_enough() -> None:
    build = Builder()
    build.pool(after=60.0)
    build.node("a", age=300.0)
    build.node("young", age=59.0)
    build.node("starting", initialized=False)
    snapshot = build.snapshot
    assert consolidatable_changes(snapshot, {"a": NOW - 59.0}, NOW) == {}
    assert consolidatable_changes(snapshot, {"a": NOW - 60.0}, NOW) == {"a-c": True}


def test_consolidatable_is_written_once_and_taken_off_when_a_pod_comes_or_the_pool_never_consolidates() -> (
    None
):
    build = Builder()
    build.pool(after=60.0)
    _, claim = build.node("a", age=300.0)
    said = Condition(CONSOLIDATABLE, "True", CONSOLIDATABLE, "", NOW - 10)
    build.put(Kind.NODE_CLAIM, "a-c", msgspec.structs.replace(claim, conditions=(*claim.conditions, said)))
    assert consolidatable_changes(build.snapshot, {}, NOW) == {}
    assert consolidatable_changes(build.snapshot, {"a": NOW - 1.0}, NOW) == {"a-c": False}
    build.pool(after=None)
    assert consolidatable_changes(build.snapshot, {}, NOW) == {"a-c": False}


def test_claims_expire_at_their_own_age_oldest_first() -> None:
    build = Builder()
    build.node("old", age=200, claim={"expire_after_s": 100.0})
    build.node("older", age=300, claim={"expire_after_s": 100.0})
    build.node("young", age=50, claim={"expire_after_s": 100.0})
    build.node("eternal", age=1e6)
    build.node("going", age=200, claim={"expire_after_s": 100.0, "deleted_at": NOW})
    assert [c.name for c in expired(build.snapshot, NOW)] == ["older-c", "old-c"]
    assert "young-c" in [c.name for c in expired(build.snapshot, NOW + 50)]

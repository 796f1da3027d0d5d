"""Places kept for pods that come back: who they are for, who has taken them, when they count no more."""

from collections import Counter
from typing import Any

from nodeyard.api import labels as keys
from nodeyard.provisioning.keeping import (
    Keeping,
    Kept,
    encoded,
    guest_rooms,
    homes,
    keeping_of,
    kept_of,
    load_with_places,
)
from nodeyard.provisioning.pending import pending
from nodeyard.state.cluster import Snapshot
from tests.support.disruption import NOW, Builder

LATER = NOW + 60.0


def keeping(build: Builder, name: str, pods: int, *, owner: str = "u", until: float = LATER) -> None:
    text = encoded(Keeping(until, (Kept(owner, "web", pods),)))
    build.node(name, claim={"annotations": {keys.KEPT_PLACES: text}})


def came_back(build: Builder, name: str, **fields: Any) -> None:
    build.pod(name, **{"owner_uid": "u", **fields})


def of(snapshot: Snapshot, now: float = NOW) -> dict[str, str]:
    return dict(homes(snapshot, now).of)


def test_a_pod_of_the_same_owner_and_shape_has_the_place_whatever_its_name() -> None:
    build = Builder()
    keeping(build, "a", 1)
    build.shape("other")
    came_back(build, "new-name")
    came_back(build, "of-another-owner", owner_uid="v")
    came_back(build, "of-another-shape", shape="other")
    assert of(build.snapshot) == {"default/new-name": "a-c"}


def test_no_more_pods_have_places_than_are_kept_and_what_is_there_takes_its_own() -> None:
    build = Builder()
    keeping(build, "a", 3)
    came_back(build, "there", node="a")
    came_back(build, "on-its-way-out", node="a", deleted_at=NOW + 30)
    for number in range(4):
        came_back(build, f"p{number}")
    assert of(build.snapshot) == {"default/p0": "a-c", "default/p1": "a-c"}


def test_places_that_nobody_stands_before_are_left_for_pods_that_are_still_to_go() -> None:
    build = Builder()
    keeping(build, "a", 2)
    keeping(build, "b", 1)
    came_back(build, "p")
    assert homes(build.snapshot, NOW).left == Counter({("u", "web"): 2})


def test_places_count_until_their_time_is_up_and_not_on_claims_that_go() -> None:
    build = Builder()
    keeping(build, "a", 1)
    came_back(build, "p")
    assert of(build.snapshot, LATER - 1)
    assert not of(build.snapshot, LATER)
    build.node("a", claim={"annotations": build.snapshot.claims["a-c"].annotations, "deleted_at": NOW})
    assert not of(build.snapshot)


def test_an_annotation_that_cannot_be_read_keeps_nothing() -> None:
    build = Builder()
    _, claim = build.node("a", claim={"annotations": {keys.KEPT_PLACES: "[1"}})
    assert keeping_of(claim, NOW) is None


def test_pods_with_kept_places_are_not_pending_and_pods_that_will_have_one_are_not_moving() -> None:
    build = Builder()
    keeping(build, "a", 2)
    build.node("old", claim={"deleted_at": NOW})
    for name in ("x", "y", "z"):
        came_back(build, name, node="old")
    came_back(build, "back")
    build.pod("stranger")
    found = pending(build.snapshot, NOW)
    assert found.pods == ("default/stranger",)
    assert found.promised == {"default/back": "a-c"}
    assert len(found.moving) == 2, "one of the three has the place that is left"


def test_a_node_is_to_hold_the_pods_it_is_told_by_owner_and_shape() -> None:
    build = Builder()
    build.shape("other")
    pods = [build.pod(f"p{i}", owner_uid="u") for i in range(2)] + [
        build.pod("q", shape="other", owner_uid="v")
    ]
    assert kept_of(pods) == (Kept("u", "web", 2), Kept("v", "other", 1))


def test_places_weigh_what_their_pods_ask_for_and_nothing_where_nobody_is_like_them_any_more() -> None:
    build = Builder()
    node, _ = build.node("a")
    came_back(build, "there", node="a")
    load = load_with_places(build.snapshot, node, {("u", "web"): 2, ("u", "gone"): 5})
    assert load == {"cpu": 1500, "pods": 3}


def test_guests_have_room_beside_the_places_kept_each_its_own() -> None:
    build = Builder()
    keeping(build, "a", 4)  # of 4000m, 2000m are spoken for
    build.node("nobody-keeps-it")
    for name, cpu in (("large", 2100), ("fits", 1200), ("fits-beside", 800), ("one-too-many", 500)):
        build.shape(name, cpu)
        build.pod(name, shape=name)
    guests = [f"default/{n}" for n in ("large", "fits", "fits-beside", "one-too-many")]
    assert guest_rooms(build.snapshot, NOW, guests) == {"default/fits": "a-c", "default/fits-beside": "a-c"}
    awaited = {"a-c": ["default/fits"]}
    assert guest_rooms(build.snapshot, NOW, ["default/one-too-many"], awaited) == {
        "default/one-too-many": "a-c"
    }
    awaited = {"a-c": ["default/fits", "default/fits-beside"]}
    assert guest_rooms(build.snapshot, NOW, ["default/one-too-many"], awaited) == {}

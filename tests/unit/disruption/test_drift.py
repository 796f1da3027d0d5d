"""Drift: what makes a node another one than its pool and class ask for, and what is never held against it."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import pytest

from nodeyard.api import labels as keys
from nodeyard.api.node import Condition, NodeClaim
from nodeyard.api.nodeclass import Image, NodeClass, SecurityGroup, Subnet
from nodeyard.api.placement import PlacementGroup
from nodeyard.api.selectors import Requirement
from nodeyard.cloudprovider.model import Catalogue
from nodeyard.disruption.burdens import Burdens
from nodeyard.disruption.drift import DRIFTED, Drift, DriftReason, drift_marks, drift_of, drifted_since
from nodeyard.disruption.judgement import Pass
from nodeyard.disruption.model import Reason
from nodeyard.disruption.renewal import due_for
from nodeyard.provisioning.claims import HASH_VERSION, LaunchRecord, TemplateChoice, record_annotations
from nodeyard.state.cluster import Kind
from tests.support.disruption import NOW, ZONE, Builder, catalogue, first_fit

CLASS = NodeClass(
    "default", hash="c1", images=(Image("ami-1"),), subnets=(Subnet("s-1", ZONE),),
    security_groups=(SecurityGroup("sg-1"),),
)  # fmt: skip
RECORD = LaunchRecord(
    "on-demand", (TemplateChoice("t", "ami-1", (("m5.xlarge", ZONE, "s-1"),)),), {},
    class_hash="c1", security_groups=("sg-1",),
)  # fmt: skip


SOLD = {"default": catalogue()}


def as_made(build: Builder, name: str = "a", **claim: Any) -> NodeClaim:
    """A node that is exactly what its pool and class ask for."""
    build.put(Kind.NODE_CLASS, "default", CLASS)
    build.pool(hash="p1", requirements=(Requirement(keys.ARCH, "NotIn", ("arm64",)),))
    stamps = {keys.NODEPOOL_HASH: "p1", keys.NODEPOOL_HASH_VERSION: HASH_VERSION}
    values = {"annotations": stamps | record_annotations(RECORD), "image_id": "ami-1"} | claim
    return build.node(name, claim=values)[1]


def found(build: Builder, claim: str = "a-c") -> Drift | None:
    return drift_of(build.snapshot.claims[claim], build.snapshot, {"default": catalogue()}, NOW)


def due(build: Builder, burdens: Burdens, **view: Any) -> set[str]:
    """Nodes that a pass takes for drifted."""
    run = Pass(build.view(**{"catalogues": SOLD} | view), first_fit, lambda: 0.0, burdens)
    return set(due_for(run, Reason.DRIFTED))


def change_class(build: Builder, **fields: Any) -> None:
    build.put(Kind.NODE_CLASS, "default", msgspec.structs.replace(CLASS, **fields))


CHANGES: Mapping[DriftReason, Callable[[Builder], object]] = {
    DriftReason.POOL: lambda b: b.pool(hash="p2"),
    DriftReason.REQUIREMENTS: lambda b: b.pool(
        hash="p1", requirements=(Requirement(keys.INSTANCE_TYPE, "In", ("m5.large",)),)
    ),
    DriftReason.NODE_CLASS: lambda b: change_class(b, hash="c2"),
    DriftReason.IMAGE: lambda b: change_class(b, images=(Image("ami-2"), Image("ami-1"))),
    DriftReason.SECURITY_GROUPS: lambda b: change_class(
        b, security_groups=(SecurityGroup("sg-1"), SecurityGroup("sg-2"))
    ),
    DriftReason.SUBNET: lambda b: change_class(b, subnets=(Subnet("s-2", ZONE),)),
}


@pytest.mark.parametrize("reason", CHANGES)
def test_each_change_of_pool_or_class_drifts_its_nodes_and_says_why(reason: DriftReason) -> None:
    build = Builder()
    as_made(build)
    assert found(build) is None
    CHANGES[reason](build)
    drift = found(build)
    assert drift is not None
    assert drift.reason is reason
    assert drift.message


@pytest.mark.parametrize("reason", CHANGES)
def test_what_is_remembered_of_a_node_hides_no_drift_that_comes_later(reason: DriftReason) -> None:
    build, burdens = Builder(), Burdens()
    as_made(build)
    assert not due(build, burdens)
    CHANGES[reason](build)
    assert due(build, burdens) == {"a"}
    as_made(build)
    assert not due(build, burdens)


def test_a_type_that_is_sold_no_more_is_held_against_a_node_that_was_looked_at_when_it_was_new() -> None:
    build, burdens = Builder(), Burdens()
    as_made(build, created_at=NOW - 60.0)
    sold = {"default": catalogue({"m5.large": (2000, 0.1)})}
    assert not due(build, burdens, catalogues=sold)
    assert due(build, burdens, catalogues=sold, now=NOW + 3600.0) == {"a"}


def test_a_placement_group_made_anew_under_the_same_name_drifts_the_nodes_of_the_old_one() -> None:
    build = Builder()
    claim = as_made(build)
    labels = claim.labels | {keys.PLACEMENT_GROUP: "pg-1"}
    build.put(Kind.NODE_CLAIM, "a-c", msgspec.structs.replace(claim, labels=labels))
    change_class(build, placement_group=PlacementGroup("pg-1", "racks", "spread"))
    assert found(build) is None
    change_class(build, placement_group=PlacementGroup("pg-2", "racks", "spread"))
    drift = found(build)
    assert drift is not None
    assert drift.reason is DriftReason.PLACEMENT_GROUP
    assert "pg-1" in drift.message
    assert "pg-2" in drift.message


def test_the_image_is_compared_with_what_would_be_launched_for_the_nodes_own_type() -> None:
    build = Builder()
    as_made(build)
    other = Image("ami-gpu", requirements=(Requirement(keys.INSTANCE_TYPE, "In", ("p3.2xlarge",)),))
    change_class(build, images=(other, Image("ami-1")))
    assert found(build) is None


@pytest.mark.parametrize("label", [keys.NODEPOOL_HASH, keys.NODECLASS_HASH])
def test_hashes_are_compared_only_between_equal_versions(label: str) -> None:
    build = Builder()
    claim = as_made(build)
    build.put(
        Kind.NODE_CLAIM,
        "a-c",
        msgspec.structs.replace(
            claim, annotations=claim.annotations | {label: "other", f"{label}-version": "v3"}
        ),
    )
    assert found(build) is None
    (mark,) = drift_marks(build.snapshot, {"default": catalogue()}, NOW)
    assert mark.drift is None
    assert mark.restamp == {
        label: "p1" if label == keys.NODEPOOL_HASH else "c1", f"{label}-version": HASH_VERSION,
    }  # fmt: skip


def test_a_claim_that_has_drifted_already_is_not_stamped_anew() -> None:
    build = Builder()
    claim = as_made(build)
    old = claim.annotations | {keys.NODEPOOL_HASH_VERSION: "v3"}
    build.put(Kind.NODE_CLAIM, "a-c", msgspec.structs.replace(claim, annotations=old))
    change_class(build, hash="c2")
    (mark,) = drift_marks(build.snapshot, {"default": catalogue()}, NOW)
    assert mark.drift is not None
    assert mark.restamp == {}


def test_what_is_not_known_drifts_nothing() -> None:
    unknown: list[Callable[[Builder], object]] = [
        lambda b: b.put(Kind.POOL, "default", None),
        lambda b: b.pool(hash="p2", problems=("spec: is odd",)),
        lambda b: b.put(Kind.NODE_CLASS, "default", None),
        lambda b: change_class(b, hash="c2", problems=("spec: is odd",)),
        lambda b: change_class(b, images=(), subnets=(), security_groups=()),
        lambda b: as_made(b, annotations={}, image_id=""),
        lambda b: as_made(b, deleted_at=NOW),
        lambda b: as_made(b, conditions=()),
    ]
    for change in unknown:
        build = Builder()
        as_made(build)
        change(build)
        assert found(build) is None


def test_a_provisioners_nodes_do_not_drift() -> None:
    build = Builder()
    build.pool("provisioner/old", hash="p2", requirements=(Requirement(keys.ARCH, "In", ("arm64",)),))
    build.node("a", pool="provisioner/old", claim={"annotations": {keys.NODEPOOL_HASH: "p1"}})
    assert found(build) is None
    assert drift_marks(build.snapshot, {}, NOW) == ()


def test_a_requirement_for_a_label_that_the_node_lacks_drifts_it() -> None:
    build = Builder()
    as_made(build)
    build.pool(hash="p1", requirements=(Requirement("team", "Exists"),))
    drift = found(build)
    assert drift is not None
    assert drift.reason is DriftReason.REQUIREMENTS
    build.pool(hash="p1", requirements=(Requirement("team", "DoesNotExist"),))
    assert found(build) is None


def test_a_label_that_is_missing_but_true_of_the_instance_type_drifts_nothing() -> None:
    build = Builder()
    as_made(build)
    category = Requirement(keys.INSTANCE_CATEGORY, "In", ("m",))
    build.pool(hash="p1", requirements=(category,))
    assert found(build) is not None
    known = catalogue()
    kind = known.by_name["m5.xlarge"]
    told = msgspec.structs.replace(kind, requirements={**kind.requirements, keys.INSTANCE_CATEGORY: ("m",)})
    snapshot = build.snapshot
    assert drift_of(snapshot.claims["a-c"], snapshot, {"default": Catalogue([told], "1")}, NOW) is None


def test_the_condition_is_written_once_and_taken_off_when_the_change_is_undone() -> None:
    build = Builder()
    claim = as_made(build)
    build.pool(hash="p2")
    (mark,) = drift_marks(build.snapshot, {}, NOW)
    assert mark.drift is not None
    said = Condition(DRIFTED, "True", mark.drift.reason.value, mark.drift.message, NOW - 70)
    marked = msgspec.structs.replace(claim, conditions=(*claim.conditions, said))
    build.put(Kind.NODE_CLAIM, "a-c", marked)
    assert drift_marks(build.snapshot, {}, NOW) == ()
    assert drifted_since(marked, NOW) == NOW - 70
    build.pool(hash="p1")
    assert [(m.claim, m.drift) for m in drift_marks(build.snapshot, {}, NOW)] == [("a-c", None)]


def test_a_type_that_is_not_offered_any_more_drifts_an_hour_after_the_node_was_made() -> None:
    build = Builder()
    as_made(build)
    claim, snapshot = build.snapshot.claims["a-c"], build.snapshot
    rest = Catalogue([t for t in catalogue().types if t.name != "m5.xlarge"], "1")
    elsewhere = [
        msgspec.structs.replace(
            t, offerings=tuple(msgspec.structs.replace(o, zone="elsewhere") for o in t.offerings)
        )
        for t in catalogue().types
    ]
    for sold in (rest, Catalogue(elsewhere, "1")):
        drift = drift_of(claim, snapshot, {"default": sold}, claim.created_at + 3600)
        assert drift is not None
        assert drift.reason is DriftReason.INSTANCE_TYPE
        assert drift_of(claim, snapshot, {"default": sold}, claim.created_at + 3599) is None


@pytest.mark.parametrize("catalogues", [{}, {"default": Catalogue([], "1")}])
def test_a_catalogue_that_is_not_known_drifts_no_type(catalogues: Mapping[str, Catalogue]) -> None:
    build = Builder()
    claim = as_made(build)
    assert drift_of(claim, build.snapshot, catalogues, NOW + 7200) is None

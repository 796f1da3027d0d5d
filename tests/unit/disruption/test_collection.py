"""Garbage: what is, what may still become a node, and when a person is asked."""

import msgspec

from nodeyard.api.node import REGISTERED, Condition
from nodeyard.disruption.collection import Instance, collect, instance_id
from nodeyard.provisioning.batches import LAUNCH_BATCH, Batch, encode_batch, members_of
from nodeyard.state.cluster import Kind
from tests.support.disruption import NOW, ZONE, Builder


def instance(name: str, *, age: float = 300.0, state: str = "running", claim: str = "") -> Instance:
    return Instance(
        f"i-{name}", state, NOW - age, ZONE, "cluster-1", claim or f"{name}-c", f"uid-{claim or name + '-c'}"
    )


def of(
    build: Builder, *instances: Instance, claims_due: bool = True, approved: str = ""
) -> tuple[list[str], list[str], str]:
    found = collect(instances, build.snapshot, NOW, claims_due=claims_due, approved=approved)
    return [i.id for i in found.orphans], [c.name for c in found.lost], found.held


def test_an_instance_without_a_claim_is_garbage_after_thirty_seconds() -> None:
    build = Builder()
    build.node("a")
    found = of(
        build,
        instance("a"),
        instance("orphan"),
        instance("young", age=29.0),
        instance("old", state="terminated"),
    )
    assert found == (["i-orphan"], [], "")


def test_an_instance_whose_claim_has_not_written_it_down_yet_is_left_alone() -> None:
    build = Builder()
    _, claim = build.node("a")
    build.put(Kind.NODE_CLAIM, "a-c", msgspec.structs.replace(claim, provider_id=""))
    assert of(build, instance("a")) == ([], [], "")


def test_an_instance_of_a_batch_is_kept_until_every_claim_of_the_batch_has_its_own() -> None:
    build = Builder()
    _, first = build.node("a")
    _, second = build.node("b")
    batch = Batch("batch-1", members_of([first, second]))
    stamped = {LAUNCH_BATCH: encode_batch(batch)}
    first = msgspec.structs.replace(first, annotations=stamped)
    second = msgspec.structs.replace(second, annotations=stamped)
    build.put(Kind.NODE_CLAIM, "a-c", first)
    build.put(Kind.NODE_CLAIM, "b-c", msgspec.structs.replace(second, provider_id=""))
    nobodys = Instance("i-new", "running", NOW - 300.0, ZONE, "cluster-1", batch="batch-1")
    assert of(build, instance("a"), nobodys) == ([], [], "")
    build.put(Kind.NODE_CLAIM, "b-c", second)
    assert of(build, instance("a"), instance("b"), nobodys) == (["i-new"], [], "")


def test_a_second_instance_of_a_launched_claim_is_garbage() -> None:
    build = Builder()
    build.node("a")
    assert of(build, instance("a"), instance("twin", claim="a-c")) == (["i-twin"], [], "")


def test_a_registered_claim_whose_instance_is_gone_is_lost_unless_its_node_is_ready() -> None:
    build = Builder()
    build.node("ready")
    build.node("away", ready=False)
    assert of(build) == ([], ["away-c"], "")
    assert of(build, claims_due=False) == ([], [], "")


def test_a_claim_that_is_not_registered_is_not_lost() -> None:
    build = Builder()
    _, claim = build.node("a", ready=False)
    conditions = tuple(c if c.type != REGISTERED else Condition(REGISTERED) for c in claim.conditions)
    build.put(Kind.NODE_CLAIM, "a-c", msgspec.structs.replace(claim, conditions=conditions))
    assert of(build) == ([], [], "")


def test_three_or_more_that_are_over_a_tenth_wait_for_a_person() -> None:
    build = Builder()
    alive = []
    for i in range(27):
        build.node(f"n{i}")
        alive.append(instance(f"n{i}"))
    two = [instance("x"), instance("y")]
    assert of(build, *alive, *two)[2] == ""
    three = [*two, instance("z")]
    assert of(build, *alive, *three)[2] == "", "three of thirty are a tenth, not more"
    assert "3 of 29" in of(build, *alive[1:], *three)[2]


def test_two_of_two_go_since_fewer_than_three_never_wait() -> None:
    assert of(Builder(), instance("x"), instance("y"))[2] == ""


def test_what_a_person_let_through_goes_and_nothing_else_with_it() -> None:
    build = Builder()
    orphans = [instance(name) for name in "xyz"]
    held = collect(orphans, build.snapshot, NOW, claims_due=True)
    assert held.held
    assert held.digest
    assert not collect(orphans, build.snapshot, NOW, claims_due=True, approved=held.digest).held
    more = [*orphans, instance("w")]
    assert collect(more, build.snapshot, NOW, claims_due=True, approved=held.digest).held


def test_ids_are_read_from_provider_ids() -> None:
    assert instance_id("aws:///us-west-2a/i-0abc") == "i-0abc"
    assert instance_id("kind://docker/x") == ""
    assert instance_id("") == ""

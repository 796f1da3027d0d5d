"""Batches of claims: who gets which instance, the same in every replica."""

import random

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from nodeyard.api.node import NodeClaim
from nodeyard.provisioning.batches import (
    LAUNCH_BATCH,
    Batch,
    Found,
    assigned,
    assigned_by_description,
    batch_of,
    encode_batch,
    members_of,
    merge_key,
)
from nodeyard.provisioning.claims import LaunchRecord, TemplateChoice
from nodeyard.provisioning.launches import Launched

RECORD = LaunchRecord("spot", (TemplateChoice("t", "ami", (("m5.large", "a", "s"),)),), {"k": "v"})
COUNTS = st.integers(1, 12)


def batch(count: int) -> Batch:
    return Batch("id", members_of(NodeClaim(f"c{n}", uid=f"u{n:02}") for n in range(count)))


def instances(count: int) -> list[Launched]:
    return [Launched(f"i-{n:03}", "m5.large", "a", "spot") for n in range(count)]


def test_a_batch_is_read_back_from_its_claims() -> None:
    one = batch(3)
    claim = NodeClaim("c0", uid="u00", annotations={LAUNCH_BATCH: encode_batch(one)})
    assert batch_of(claim) == one
    assert batch_of(msgspec.structs.replace(claim, annotations={LAUNCH_BATCH: "broken"})) is None


def test_records_that_differ_in_prices_only_are_merged_and_others_are_not() -> None:
    cheaper = msgspec.structs.replace(RECORD, prices={"m5.large/a": 0.01})
    assert merge_key(cheaper) == merge_key(RECORD)
    for other in ({"attempt": 1}, {"tags": {"k": "w"}}, {"capacity_type": "on-demand"}, {"choices": ()}):
        assert merge_key(msgspec.structs.replace(RECORD, **other)) != merge_key(RECORD)


@given(COUNTS, COUNTS, st.randoms(use_true_random=False))
def test_each_claim_gets_one_instance_and_the_order_of_the_answer_does_not_matter(
    claims: int, made: int, shuffle: random.Random
) -> None:
    some = instances(min(made, claims))
    first = assigned(batch(claims), some)
    shuffle.shuffle(some)
    assert assigned(batch(claims), some) == first
    assert len(first) == len({m.instance_id for m in first.values()}) == len(some)


@given(COUNTS, st.data())
def test_what_ec2_describes_gives_the_same_as_the_answer_however_many_are_tagged(
    count: int, data: st.DataObject
) -> None:
    made = data.draw(st.integers(1, count))
    by_answer = assigned(batch(count), instances(made))
    owners = {one.instance_id: uid for uid, one in by_answer.items()}
    tagged = data.draw(st.sets(st.sampled_from(sorted(owners))))
    found = [
        Found(one, owners[one.instance_id] if one.instance_id in tagged else "") for one in instances(made)
    ]
    assert assigned_by_description(batch(count), data.draw(st.permutations(found))) == by_answer


def test_an_instance_that_has_ended_is_nobodys() -> None:
    one, two = instances(2)
    found = [Found(one, alive=False), Found(two)]
    assert assigned_by_description(batch(2), found) == {"u01": two}

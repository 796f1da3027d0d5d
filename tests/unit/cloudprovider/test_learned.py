"""Memory that real nodes have shown takes the estimate's place, for the classes it was seen under."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeyard.api.nodeclass import Image, Kubelet, NodeClass
from nodeyard.cloudprovider.learned import (
    KEPT_S,
    NOTHING,
    Learned,
    LearnedMemory,
    merged,
    problem_of,
    settings_of,
)
from nodeyard.cloudprovider.market import Market, TypeTable
from nodeyard.cloudprovider.resolve import Resolver
from nodeyard.rpc.catalog import market_from, message_of
from tests.support.catalogue import described, node_class, small_market

GIB = 2**30


def seen(memory: int, of: NodeClass, image: str = "ami-1", at: float = 0.0) -> LearnedMemory:
    return LearnedMemory("m5.large", image, settings_of(of), memory, at)


def with_learned(market: Market, *entries: LearnedMemory) -> Market:
    return Market(market.table, market.rows, market.exhausted_subnets, market.asked_at, Learned(entries))


def test_a_type_that_came_up_smaller_than_estimated_offers_only_what_it_has() -> None:
    of = msgspec.structs.replace(node_class(), images=(Image("ami-1"), Image("ami-2")))
    plain, resolver = small_market(), Resolver()
    before = resolver.resolve(plain, of, now=0.0).by_name["m5.large"]
    learned = with_learned(plain, seen(7 * GIB, of), seen(6 * GIB, of, "ami-2"), seen(5 * GIB, of, "ami-9"))
    after = resolver.resolve(learned, of, now=0.0).by_name["m5.large"]
    assert after.capacity["memory"] == 6 * GIB  # the smallest of the class's images
    lost = before.capacity["memory"] - after.capacity["memory"]
    assert before.allocatable["memory"] - after.allocatable["memory"] == lost
    assert learned.revision != plain.revision


@pytest.mark.parametrize(
    "other",
    [
        node_class(),  # no images known
        msgspec.structs.replace(node_class(), images=(Image("ami-3"),)),
        msgspec.structs.replace(node_class(kubelet=Kubelet(max_pods=20)), images=(Image("ami-1"),)),
        msgspec.structs.replace(node_class(ami_family="Bottlerocket"), images=(Image("ami-1"),)),
    ],
)
def test_another_image_or_kubelet_configuration_keeps_the_estimate(other: NodeClass) -> None:
    of = msgspec.structs.replace(node_class(), images=(Image("ami-1"),))
    plain = small_market()
    with_it = Resolver().resolve(with_learned(plain, seen(6 * GIB, of)), other, now=0.0)
    assert with_it.types == Resolver().resolve(plain, other, now=0.0).types


def test_the_smaller_figure_and_the_later_time_count_until_sixty_days_have_passed() -> None:
    of = node_class()
    known = merged(NOTHING, [seen(6 * GIB, of, at=10.0)], 10.0)
    known = merged(known, [seen(7 * GIB, of, at=20.0)], 20.0)
    assert known.entries == (seen(6 * GIB, of, at=20.0),)
    assert merged(known, [], 20.0 + KEPT_S).entries == known.entries
    assert merged(known, [], 21.0 + KEPT_S).entries == ()
    later = 30.0 + KEPT_S
    assert merged(known, [seen(7 * GIB, of, at=later)], later).entries == (seen(7 * GIB, of, at=later),)


def test_a_sick_node_s_figure_is_refused_with_the_reason() -> None:
    of, sold = node_class(), described("m5.large")
    assert problem_of(seen(7 * GIB, of), sold) == ""
    assert "where EC2 sells" in problem_of(seen(3 * GIB, of), sold)
    assert "where EC2 sells" in problem_of(seen(9 * GIB, of), sold)
    assert "no such type" in problem_of(seen(7 * GIB, of), None)


def test_reserved_interfaces_travel_and_leave_fewer_pods() -> None:
    plain = small_market()
    table = TypeTable(plain.table.region, plain.table.zones, plain.table.types, reserved_interfaces=1)
    market = market_from(message_of(Market(table, plain.rows), None), None)
    assert (market.table.reserved_interfaces, market.table.digest) == (1, table.digest)
    assert market.revision != plain.revision
    found = Resolver().resolve(market, node_class(), now=0.0).by_name["m5.large"]
    assert found.capacity["pods"] == 2 * 9 + 2


entries = st.builds(
    LearnedMemory,
    instance_type=st.sampled_from(["m5.large", "c7g.xlarge"]),
    image=st.sampled_from(["ami-1", "ami-2"]),
    settings=st.just("s"),
    memory_bytes=st.integers(1, 2**40),
)
several = st.lists(entries, max_size=4).map(lambda found: merged(NOTHING, found, 0.0))


@given(st.lists(several, min_size=1, max_size=4))
def test_a_subscriber_learns_what_the_sender_has_learned(sent: list[Learned]) -> None:
    plain = small_market()
    received: Market | None = None
    older: Market | None = None
    for learned in sent:
        market = Market(plain.table, plain.rows, learned=learned)
        message = message_of(market, older)
        received = market_from(type(message).FromString(message.SerializeToString()), received)
        older = market
        assert received.revision == market.revision
        assert received.learned.entries == learned.entries

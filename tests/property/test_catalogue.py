"""Laws of the catalogue's travel: a subscriber that applies what is sent has what the sender has; refusals agree with
a plain reading of their definition.
"""

from __future__ import annotations

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nodeyard.cloudprovider.learned import NOTHING
from nodeyard.cloudprovider.market import (
    ESTIMATE,
    LAST_KNOWN,
    PRICING_API,
    SPOT_HISTORY,
    UNPRICED,
    Market,
)
from nodeyard.cloudprovider.refusals import Refusal, Shut
from nodeyard.cloudprovider.resolve import resolve
from nodeyard.cloudprovider.rows import Row, Rows
from nodeyard.rpc.catalog import market_from, message_of, refusals_from, refusals_to
from tests.support.catalogue import node_class, table_of

STEADY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""The machine may be busy with other things."""
TABLE = table_of("m5.large", "c7g.xlarge")
OTHER = table_of("m5.large")

rows = st.builds(
    Row,
    price=st.floats(0, 100, allow_nan=False),
    available=st.booleans(),
    source=st.sampled_from([PRICING_API, SPOT_HISTORY, LAST_KNOWN, ESTIMATE, UNPRICED]),
    priced_at=st.floats(0, 2e9, allow_nan=False),
    risk=st.sampled_from([0.0, 0.0, 0.25]),
    list_price=st.sampled_from([0.0, 0.0, 0.5]),
    release=st.sampled_from([0.0, 0.0, 0.5]),
)
asked = st.dictionaries(st.sampled_from([PRICING_API, SPOT_HISTORY]), st.floats(0, 2e9, allow_nan=False))
subnets = st.frozensets(st.sampled_from(["subnet-eu-west-1a", "subnet-eu-west-1b", "other"]))
names = st.sampled_from(["", "m5.large", "c7g.xlarge"])
zones = st.sampled_from(["", "eu-west-1a", "eu-west-1b"])
kinds = st.sampled_from(["", "spot", "on-demand"])
in_groups = st.tuples(st.sampled_from(["pg-1", "pg-2"]), st.tuples(kinds, names, zones))


def markets(table=TABLE) -> st.SearchStrategy[Market]:  # type: ignore[no-untyped-def]
    count = len(table.rows)
    whole = st.lists(rows, min_size=count, max_size=count)
    return st.builds(
        Market,
        st.just(table),
        whole,
        subnets,
        asked,
        st.just(NOTHING),
        st.just(()),
        st.frozensets(in_groups, max_size=3),
    )


def same(one: Market, other: Market) -> bool:
    """The same to a planner, and of the same age."""
    return (
        one.revision == other.revision
        and one.table.digest == other.table.digest
        and one.asked_at == other.asked_at
        and one.exhausted_subnets == other.exhausted_subnets
        and one.refused_in_groups == other.refused_in_groups
        and all(
            msgspec.structs.replace(a, priced_at=0.0, source="")
            == msgspec.structs.replace(b, priced_at=0.0, source="")
            for a, b in zip(one.rows, other.rows, strict=True)
        )
    )


@given(markets())
@STEADY
def test_a_whole_message_carries_everything(market: Market) -> None:
    received = market_from(type(m := message_of(market, None)).FromString(m.SerializeToString()), None)
    assert same(received, market)
    assert received.rows == market.rows


@given(st.lists(st.one_of(markets(), markets(OTHER)), min_size=1, max_size=5))
@settings(STEADY, max_examples=50)
def test_a_subscriber_that_applies_every_message_has_what_was_sent(sent: list[Market]) -> None:
    received: Market | None = None
    older: Market | None = None
    for market in sent:
        received = market_from(message_of(market, older), received)
        older = market
        assert same(received, market)
        mine, theirs = (resolve(m, node_class(), now=2e9) for m in (received, market))
        assert [t.name for t in mine.types] == [t.name for t in theirs.types]
        assert [o.price for t in mine.types for o in t.offerings] == [
            o.price for t in theirs.types for o in t.offerings
        ]


@given(markets(), markets())
@STEADY
def test_only_what_changed_is_sent(one: Market, other: Market) -> None:
    changed = other.changed_since(one)
    assert changed is not None
    assert set(changed) == {
        i
        for i, (a, b) in enumerate(zip(one.rows, other.rows, strict=True))
        if msgspec.structs.replace(a, priced_at=0.0) != msgspec.structs.replace(b, priced_at=0.0)
    }
    assert len(message_of(other, one).offerings.type) == len(changed)


@given(st.lists(st.builds(Refusal, names, zones, kinds), max_size=6))
@STEADY
def test_an_offering_is_shut_exactly_when_a_refusal_names_it_or_leaves_it_open(
    refusals: list[Refusal],
) -> None:
    shut = Shut(refusals)
    for name in ("m5.large", "c7g.xlarge"):
        for zone in ("eu-west-1a", "eu-west-1b"):
            for kind in ("spot", "on-demand"):
                expected = any(
                    r.instance_type in ("", name) and r.zone in ("", zone) and r.capacity_type in ("", kind)
                    for r in refusals
                )
                assert shut.offering(kind, name, zone) == expected


@given(
    st.lists(st.builds(Refusal, names, zones, kinds, st.text(max_size=5), st.sampled_from(["", "subnet-1"])))
)
@STEADY
def test_refusals_travel_unless_they_name_nothing(refusals: list[Refusal]) -> None:
    request = refusals_to(refusals)
    if all(any(r.key) for r in refusals):
        assert refusals_from(request) == refusals
    else:
        try:
            refusals_from(request)
        except ValueError:
            return
        raise AssertionError("a refusal of everything was accepted")


ROW = st.builds(
    Row,
    st.sampled_from([0.0, 0.1, 0.2]),
    st.booleans(),
    st.sampled_from(["", "feed"]),
    st.sampled_from([1.0, 2.0]),
)


@given(
    st.integers(0, 400),
    st.lists(st.tuples(st.integers(0, 399), ROW), max_size=8),
    st.lists(st.tuples(st.integers(0, 399), ROW), max_size=8),
)
@STEADY
def test_rows_changed_step_by_step_are_those_made_at_once(
    length: int, first: list[tuple[int, Row]], second: list[tuple[int, Row]]
) -> None:
    start = Rows([Row(0.1, True, "feed", 1.0)] * length)
    assert len(start.digests) == -(-length // 128)
    plain, stepwise = list(start), start
    for changes in (first, second):
        within = {index: row for index, row in changes if index < length}
        before, stepwise = stepwise, stepwise.replaced(within)
        for index, row in within.items():
            plain[index] = row
        told = stepwise.changed_since(before)
        assert told == [i for i in range(length) if stepwise[i].said != before[i].said]
    assert stepwise == tuple(plain)
    assert stepwise.digests == Rows(plain).digests

"""Reading a price feed: shapes, refusals of the whole, and figures that are left out with a reason."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeyard.cloudprovider.feed import FeedError, read_feed, screened
from nodeyard.cloudprovider.jsonl import catalogue_lines
from nodeyard.cloudprovider.resolve import resolve
from tests.support.catalogue import REGION, node_class, small_market, table_of

TABLE = table_of()


def raw(**document: object) -> bytes:
    return json.dumps(document).encode()


def test_prices_are_read_with_their_moment() -> None:
    feed = read_feed(
        raw(
            currency="USD", region=REGION, asOf="2026-07-20T00:00:00Z",
            onDemand={"m5.large": 0.107, "c7g.xlarge": "0.15"}, spot={"m5.large/eu-west-1a": 0.04},
        ),
        REGION, 5.0,
    )  # fmt: skip
    assert feed.on_demand.usd == {"m5.large": 0.107, "c7g.xlarge": 0.15}
    assert feed.spot.usd == {"m5.large/eu-west-1a": 0.04}
    assert (feed.on_demand.source, feed.on_demand.asked_at) == ("feed", 1784505600.0)
    assert feed.problems == ()


def test_a_feed_that_does_not_tell_its_age_is_as_old_as_its_file() -> None:
    assert read_feed(raw(onDemand={"m5.large": 0.1}), REGION, 77.0).on_demand.asked_at == 77.0


def test_an_exported_catalogue_is_a_feed() -> None:
    market = small_market(TABLE)
    lines = "\n".join(catalogue_lines(resolve(market, node_class(), now=0.0)))
    feed = read_feed(lines.encode(), REGION, 5.0)
    assert feed.on_demand.usd["m5.large"] == 0.1
    assert feed.spot.usd["m5.large/eu-west-1b"] == 0.04
    with pytest.raises(FeedError, match=f"prices of {REGION}, not of us-east-1"):
        read_feed(lines.encode(), "us-east-1", 5.0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (raw(currency="EUR", onDemand={"m5.large": 0.1}), "prices in EUR, not in USD"),
        (raw(region="us-east-1", onDemand={"m5.large": 0.1}), "prices of us-east-1"),
        (raw(asOf="yesterday", onDemand={"m5.large": 0.1}), "asOf: 'yesterday'"),
        (raw(asOf="2026-07-20", onDemand={"m5.large": 0.1}), "no time zone"),
        (raw(onDemand={"m5.large": -1}), r"no prices in it: onDemand\[m5.large\]: -1 is not a price"),
        (raw(onDemand=[1]), "Expected `object`"),
        (b"<html>", "not JSON"),
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b'{"offerings": []}', "line 1"),
        (b"[]", "Expected `object`"),
    ],
)
def test_a_feed_of_no_use_is_refused_whole_with_the_reason(content: bytes, message: str) -> None:
    with pytest.raises(FeedError, match=message):
        read_feed(content, REGION, 5.0)


def test_china_s_feeds_are_in_its_currency() -> None:
    assert read_feed(raw(currency="CNY", onDemand={"m5.large": 0.7}), "cn-north-1", 5.0).on_demand.usd
    with pytest.raises(FeedError, match="prices in USD, not in CNY"):
        read_feed(raw(currency="USD", onDemand={"m5.large": 0.1}), "cn-north-1", 5.0)


def test_figures_that_are_no_prices_are_left_out_with_the_reason() -> None:
    feed = read_feed(
        raw(
            onDemand={
                "m5.large": 0.1, "m5.xlarge": -0.2, "r6g.large": 0, "c7g.xlarge": None, "g4dn.xlarge": "cheap",
            }
        ),
        REGION, 5.0,
    )  # fmt: skip
    assert feed.on_demand.usd == {"m5.large": 0.1}
    assert len(feed.problems) == 4
    assert "onDemand[m5.xlarge]: -0.2 is not a price" in feed.problems


def test_absurd_prices_are_left_out_and_unknown_types_let_be() -> None:
    feed = read_feed(
        raw(
            onDemand={"m5.large": 960, "m5.xlarge": 0.2, "x9z.large": 5000},
            spot={"m5.large/eu-west-1a": 0.0000001, "m5.large/eu-west-1b": 0.01},
        ),
        REGION, 5.0,
    )  # fmt: skip
    left = screened(feed, TABLE)
    assert left.on_demand.usd == {"m5.xlarge": 0.2, "x9z.large": 5000}
    assert left.spot.usd == {"m5.large/eu-west-1b": 0.01}
    assert [problem.partition(":")[0] for problem in left.problems] == [
        "onDemand[m5.large]",
        "spot[m5.large/eu-west-1a]",
    ]


def test_many_problems_are_counted_rather_than_listed() -> None:
    bad = {f"m5.{n}large": -1 for n in range(30)}
    problems = read_feed(raw(onDemand={"m5.large": 0.1, **bad}), REGION, 5.0).problems
    assert len(problems) == 11
    assert problems[-1] == "… and 20 more"


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.one_of(
        st.binary(max_size=40),
        st.dictionaries(
            st.sampled_from(["currency", "region", "asOf", "onDemand", "spot", "offerings"]), json_values
        ).map(lambda d: json.dumps(d).encode()),
    )
)
def test_whatever_it_says_only_prices_come_out_or_one_kind_of_error(content: bytes) -> None:
    try:
        feed = read_feed(content, REGION, 5.0)
    except FeedError:
        return
    for price in (*feed.on_demand.usd.values(), *feed.spot.usd.values()):
        assert 0 < price < float("inf")

"""A market changed by refusals alone is the one that would be made anew under them."""

from __future__ import annotations

import functools

from hypothesis import given, settings
from hypothesis import strategies as st

from nodeyard.cloudprovider.commitments import Billing, Commitments, SavingsPlan
from nodeyard.cloudprovider.market import Margins, Market, PriceSheet, listed_prices, market_of, reoffered
from nodeyard.cloudprovider.refusals import Refusal, Shut
from tests.support.catalogue import ZONES, on_demand_sheet, spot_sheet, table_of

TABLE = table_of("m5.large", "c7g.xlarge", "g4dn.xlarge")
names = st.sampled_from(["m5.large", "c7g.xlarge", "x9.large"])
zones = st.sampled_from(["eu-west-1a", "eu-west-1b", "eu-west-1z"])
kinds = st.sampled_from(["spot", "on-demand"])
refusals = st.one_of(
    st.builds(Refusal, names, zones, kinds),
    st.builds(Refusal, st.just(""), st.just(""), kinds),
    st.builds(Refusal, subnet=st.sampled_from(["subnet-1", "subnet-2"])),
)
shut = st.lists(refusals, max_size=4).map(Shut)
odds = st.dictionaries(st.tuples(kinds, names, zones), st.sampled_from([0.25, 0.5]), max_size=4)


@functools.cache
def sheets(priced: bool) -> tuple[PriceSheet | None, PriceSheet]:
    spot = spot_sheet(TABLE)
    gaps = {key: price for key, price in spot.usd.items() if not key.startswith("c7g.xlarge/eu-west-1a")}
    return on_demand_sheet(TABLE) if priced else None, PriceSheet(spot.source, 0.0, gaps)


@functools.cache
def margins() -> Margins:
    committed = Commitments((SavingsPlan("compute", 0.09, discount_percent=30.0),))
    offerings = [(t.name, zone.name) for t in TABLE.types for zone in ZONES]
    return Billing(committed, listed_prices(TABLE, on_demand_sheet(TABLE))).marginal({}, offerings)


@given(st.booleans(), st.booleans(), shut, odds, shut, odds)
@settings(max_examples=200)
def test_it_is_the_market_that_would_be_made_anew(
    priced: bool, committed: bool, shut_before: Shut, odds_before: dict, shut_after: Shut, odds_after: dict
) -> None:
    on_demand, spot = sheets(priced)

    def made(out: Shut, chances: dict) -> Market:
        what = margins() if committed and priced else None
        return market_of(TABLE, on_demand, spot, out, now=0.0, odds=chances, margins=what)

    expected = made(shut_after, odds_after)
    before = made(shut_before, odds_before)
    changed = reoffered(before, (shut_before, odds_before), (shut_after, odds_after))
    assert changed.rows == expected.rows
    assert changed.revision == expected.revision
    assert changed.exhausted_subnets == expected.exhausted_subnets
    assert changed.refused_in_groups == expected.refused_in_groups

"""Markets: what prices, refusals and their absence make of offerings, and what one node class sees of them."""

from __future__ import annotations

import pytest

from nodeyard.api.nodeclass import Image, Kubelet
from nodeyard.api.selectors import Requirement
from nodeyard.cloudprovider.estimates import on_demand_estimate
from nodeyard.cloudprovider.market import PriceSheet, TypeTable, market_of
from nodeyard.cloudprovider.refusals import Refusal, RefusalMemory, Shut
from nodeyard.cloudprovider.resolve import Resolver, resolve
from tests.support.catalogue import (
    REGION,
    ZONES,
    described,
    node_class,
    on_demand_sheet,
    small_market,
    spot_sheet,
    table_of,
)


def test_every_zone_and_capacity_type_of_a_type_is_an_offering() -> None:
    found = resolve(small_market(), node_class(), now=10.0).by_name["m5.large"]
    assert {(o.zone, o.zone_id, o.capacity_type) for o in found.offerings} == {
        (zone.name, zone.id, kind) for zone in ZONES for kind in ("on-demand", "spot")
    }
    assert {(o.capacity_type, o.price, o.source) for o in found.offerings} == {
        ("on-demand", 0.1, "pricing-api"),
        ("spot", 0.04, "spot-history"),
    }
    assert {o.price_age_s for o in found.offerings} == {10.0}


def test_a_type_is_offered_only_where_it_is_sold_and_the_class_has_a_subnet() -> None:
    table = TypeTable(REGION, ZONES, [described("m5.large", ["eu-west-1a", "eu-west-1b"])])
    found = resolve(small_market(table), node_class("eu-west-1b", "eu-west-1c"), now=0.0).by_name["m5.large"]
    assert {o.zone for o in found.offerings} == {"eu-west-1b"}


def test_a_class_without_subnets_is_offered_nothing() -> None:
    catalogue = resolve(small_market(), node_class("nowhere"), now=0.0)
    assert len(catalogue) == 5
    assert not any(t.offerings for t in catalogue.types)


def test_without_a_price_there_is_no_offering_even_though_others_have_one() -> None:
    table = table_of()
    prices = on_demand_sheet(table)
    del prices.usd["m5.large"]
    market = market_of(table, prices, spot_sheet(table), Shut(), now=0.0)
    found = resolve(market, node_class(), now=0.0)
    assert {o.capacity_type for o in found.by_name["m5.large"].offerings} == {"spot"}
    assert market.counts() == {"pricing-api": 12, "spot-history": 15, "": 3}


def test_what_could_never_be_asked_is_estimated_and_marked() -> None:
    table = table_of()
    market = market_of(table, None, None, Shut(), now=5.0)
    assert market.counts() == {"estimate": 30}
    offerings = resolve(market, node_class(), now=5.0).by_name["m5.large"].offerings
    by_kind = {o.capacity_type: o.price for o in offerings}
    assert by_kind["spot"] < by_kind["on-demand"]


def test_what_can_no_longer_be_asked_is_marked_as_last_known_with_its_age() -> None:
    table = table_of()
    sheet = spot_sheet(table, asked_at=100.0)
    stale = PriceSheet(sheet.source, sheet.asked_at, sheet.usd, stale=True)
    market = market_of(table, on_demand_sheet(table, asked_at=350.0), stale, Shut(), now=400.0)
    offering = resolve(market, node_class(), now=400.0).offering("m5.large", "eu-west-1a", "spot")
    assert offering is not None
    assert (offering.source, offering.price_age_s) == ("last-known", 300.0)


@pytest.mark.parametrize(
    ("name", "usd"),
    [("m5.large", 0.096), ("c7g.xlarge", 0.145), ("t3.nano", 0.0052), ("r6g.16xlarge", 3.2256), ("g5.48xlarge", 16.288)],
)  # fmt: skip
def test_estimates_are_near_list_prices_of_us_east_1(name: str, usd: float) -> None:
    assert on_demand_estimate(described(name)) == pytest.approx(usd, rel=0.15)


def test_mac_hosts_are_listed_but_never_offered() -> None:
    found = resolve(small_market(table_of("mac2.metal")), node_class(), now=0.0)
    assert found.by_name["mac2.metal"].offerings == ()


def test_types_without_an_image_for_their_architecture_are_left_out() -> None:
    arm = Image("ami-1", requirements=(Requirement("kubernetes.io/arch", "In", ("arm64",)),))
    catalogue = resolve(small_market(), node_class(images=(arm,)), now=0.0)
    assert {t.name for t in catalogue.types} == {"c7g.xlarge", "r6g.large"}


def test_a_class_that_cannot_be_understood_buys_nothing() -> None:
    broken = node_class(kubelet=Kubelet(kube_reserved={"cpu": "many"}))
    assert len(resolve(small_market(), broken, now=0.0)) == 0


def test_the_same_content_is_the_same_catalogue() -> None:
    resolver = Resolver()
    first = resolver.resolve(small_market(), node_class(), now=0.0)
    assert resolver.resolve(small_market(), node_class(), now=9.0) is first
    other = resolver.resolve(small_market(prices={"m5.large": 9.0}), node_class(), now=9.0)
    assert other is not first
    assert other.revision != first.revision
    assert resolver.resolve(small_market(), node_class("eu-west-1a"), now=0.0).revision != first.revision


def test_times_alone_do_not_make_another_revision() -> None:
    table = table_of()
    earlier = market_of(table, on_demand_sheet(table, 1.0), spot_sheet(table, 1.0), Shut(), now=1.0)
    later = market_of(table, on_demand_sheet(table, 2.0), spot_sheet(table, 2.0), Shut(), now=2.0)
    assert earlier.revision == later.revision
    assert later.changed_since(earlier) == []


# -- refusals


@pytest.mark.parametrize(
    ("refusal", "shut"),
    [
        (Refusal("m5.large", "eu-west-1a", "spot"), {("m5.large", "eu-west-1a", "spot")}),
        (Refusal("m5.large", "", "spot"), {("m5.large", z.name, "spot") for z in ZONES}),
        (Refusal("", "eu-west-1b", "on-demand"), {(n, "eu-west-1b", "on-demand") for n in ("m5.large", "m5.xlarge")}),
    ],
)  # fmt: skip
def test_a_refusal_shuts_what_it_names_and_nothing_else(
    refusal: Refusal, shut: set[tuple[str, str, str]]
) -> None:
    market = small_market(table_of("m5.large", "m5.xlarge"), [refusal])
    catalogue = resolve(market, node_class(), now=0.0)
    unavailable = {
        (t.name, o.zone, o.capacity_type) for t in catalogue.types for o in t.offerings if not o.available
    }
    assert unavailable == shut


def test_a_whole_capacity_type_can_be_shut() -> None:
    market = small_market(refusals=[Refusal(capacity_type="spot", code="AuthFailure.ServiceLinkedRole")])
    catalogue = resolve(market, node_class(), now=0.0)
    assert {o.capacity_type for t in catalogue.types for o in t.offerings if o.available} == {"on-demand"}


def test_a_zone_is_out_only_when_all_its_subnets_are() -> None:
    market = small_market(refusals=[Refusal(subnet="subnet-eu-west-1a")])
    alone = resolve(market, node_class(), now=0.0)
    assert {o.zone for o in alone.types[0].offerings} == {"eu-west-1b", "eu-west-1c"}
    first = node_class().subnets[0]
    spare = node_class()
    second = type(first)("subnet-spare", first.zone, first.zone_id)
    both = type(spare)("default", subnets=(*spare.subnets, second))
    assert {o.zone for o in resolve(market, both, now=0.0).types[0].offerings} == {z.name for z in ZONES}


def test_refusals_are_forgotten_at_their_end_and_a_later_end_wins() -> None:
    memory = RefusalMemory()
    refusal = Refusal("m5.large", "eu-west-1a", "spot", "InsufficientInstanceCapacity")
    assert memory.remember([refusal], 180.0)
    assert not memory.remember([refusal], 200.0)
    assert not memory.remember([refusal], 150.0)
    assert not memory.forget(199.0)
    assert memory.shut().offering("spot", "m5.large", "eu-west-1a")
    assert memory.forget(200.0)
    assert not memory.shut().offering("spot", "m5.large", "eu-west-1a")


def test_a_subnet_refused_just_now_counts_before_pricing_says_so() -> None:
    shut = Shut([Refusal(subnet="subnet-eu-west-1a")])
    zones = {
        o.zone for t in resolve(small_market(), node_class(), now=0.0, shut=shut).types for o in t.offerings
    }
    assert zones
    assert "eu-west-1a" not in zones

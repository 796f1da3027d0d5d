from __future__ import annotations

import pytest
from moto.ec2.models.instance_types import INSTANCE_TYPES

from nodeyard.local.account.prices import SpotMarket, on_demand_usd_per_hour

REGION = "us-east-1"


def usd(name: str, region: str = REGION) -> float:
    return on_demand_usd_per_hour(INSTANCE_TYPES[name], region)


def test_every_type_costs_something():
    assert all(usd(name) > 0 for name in INSTANCE_TYPES)


def test_price_is_linear_in_size():
    assert usd("m5.4xlarge") == pytest.approx(2 * usd("m5.2xlarge"), rel=1e-3)


def test_arm_and_amd_are_cheaper_than_intel():
    assert usd("m6g.large") < usd("m6a.large") < usd("m6i.large")


def test_a_gpu_costs_more_than_its_host():
    assert usd("g4dn.xlarge") > 2 * usd("m5.xlarge")


def test_burstable_sizes_differ_although_their_vcpus_do_not():
    assert usd("t3.nano") < usd("t3.micro") < usd("t3.small") < usd("t3.medium")


def test_regions_differ():
    assert usd("m5.large", "sa-east-1") > usd("m5.large", "eu-west-1") > usd("m5.large", "us-east-1")


def market(seed: int = 1) -> SpotMarket:
    return SpotMarket(lambda _name: 1.0, seed, started=1_000_000.0)


def test_the_same_seed_gives_the_same_market_and_another_seed_another():
    prices = [market(seed).price("m5.large", "eu-west-1a", 1_000_000.0) for seed in (1, 1, 2)]
    assert prices[0] == prices[1] != prices[2]


def test_zones_have_prices_of_their_own():
    one = market()
    assert one.price("m5.large", "eu-west-1a", 1e6) != one.price("m5.large", "eu-west-1b", 1e6)


def test_prices_walk_with_time():
    one = market()
    assert len({one.price("m5.large", "a", 1e6 + hour * 3600) for hour in range(24)}) > 10


def test_speed_zero_freezes_the_prices():
    one = market()
    one.turn(1e6, speed=0)
    assert len({one.price("m5.large", "a", 1e6 + hour * 3600) for hour in range(24)}) == 1


def test_turning_the_speed_does_not_make_a_price_jump():
    one = market()
    at = 1e6 + 12_345
    before = one.price("m5.large", "a", at)
    one.turn(at, speed=1000)
    assert one.price("m5.large", "a", at) == before


def test_a_set_price_counts_from_its_moment_and_the_walk_comes_back_when_it_is_cleared():
    one = market()
    walked = one.price("m5.large", "a", 1e6)
    one.set_price("m5.*", "a", 0.9, 1e6 + 10)
    assert one.price("m5.large", "a", 1e6) == walked
    assert one.price("m5.large", "a", 1e6 + 10) == 0.9
    assert one.price("m6i.large", "a", 1e6 + 10) != 0.9
    assert one.clear_prices() == 1
    assert one.price("m5.large", "a", 1e6 + 10) == walked


def test_history_is_newest_first_and_holds_what_was_in_force_at_its_start():
    one = market()
    one.set_price("*", "*", 0.9, 1e6 + 5000)
    changes = one.changes("m5.large", "a", 1e6, 1e6 + 6000)
    times = [since for since, _ in changes]
    assert times == sorted(times, reverse=True)
    assert changes[0] == (1e6 + 5000, 0.9)
    assert times[-1] <= 1e6
    assert changes[-1][1] == one.price("m5.large", "a", 1e6)

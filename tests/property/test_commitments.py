"""Bills under commitments, against a search over every order in which a plan could be spent, and laws of the margin."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodeyard.cloudprovider.commitments import (
    NEARLY_FREE,
    Billing,
    Commitments,
    CommitmentsError,
    ReservedInstance,
    SavingsPlan,
    normalized_size,
    read_commitments,
)

LISTED = {"m5.large": 0.1, "m5.xlarge": 0.2, "m5.2xlarge": 0.4, "c7g.xlarge": 0.15, "g5.xlarge": 1.0}
ZONES = ("a", "b")
OFFERINGS = [(name, zone) for name in LISTED for zone in ZONES]

usages = st.dictionaries(st.sampled_from(OFFERINGS), st.integers(1, 5).map(float), max_size=5)
plans = st.builds(
    SavingsPlan,
    kind=st.just("compute"),
    usd_per_hour=st.floats(0, 3),
    rates=st.fixed_dictionaries(
        {name: st.floats(0.3, 0.9).map(lambda f, n=name: LISTED[n] * f) for name in LISTED}
    ),
)
family_plans = st.builds(
    SavingsPlan,
    kind=st.just("ec2-instance"),
    family=st.sampled_from(["m5", "c7g"]),
    usd_per_hour=st.floats(0, 1),
    discount_percent=st.floats(10, 60),
)
reserved = st.builds(
    ReservedInstance,
    instance_type=st.sampled_from(list(LISTED)),
    count=st.integers(0, 3).map(float),
    zone=st.sampled_from(["", "a"]),
)
commitments = st.builds(
    Commitments,
    savings_plans=st.lists(st.one_of(plans, family_plans), max_size=2).map(tuple),
    reserved_instances=st.lists(reserved, max_size=3).map(tuple),
    discount_percent=st.sampled_from([0.0, 8.0]),
)


def cheapest(plan: SavingsPlan, usage: dict[tuple[str, str], float]) -> float:
    """The lowest bill over every order in which the plan's money could be spent on the types."""
    hours: dict[str, float] = {}
    for (name, _), count in usage.items():
        hours[name] = hours.get(name, 0.0) + count
    best = float("inf")
    for order in itertools.permutations(hours):
        left, bill = plan.usd_per_hour, 0.0
        for name in order:
            covered = min(hours[name], left / plan.rates[name])
            left -= covered * plan.rates[name]
            bill += (hours[name] - covered) * LISTED[name]
        best = min(best, bill)
    return best if hours else 0.0


@given(plans, usages)
@settings(max_examples=150)
def test_a_plan_is_spent_where_it_saves_most(plan: SavingsPlan, usage: dict[tuple[str, str], float]) -> None:
    bill = Billing(Commitments((plan,)), LISTED).bill(usage)
    assert bill == pytest.approx(cheapest(plan, usage), abs=1e-9)


@given(commitments, usages)
@settings(max_examples=150)
def test_margins_lie_between_nothing_and_the_price_on_demand(
    committed: Commitments, usage: dict[tuple[str, str], float]
) -> None:
    billing = Billing(committed, LISTED)
    margins = billing.marginal(usage, OFFERINGS)
    assert margins.keys() == set(OFFERINGS)
    for (name, _), margin in margins.items():
        assert margin.price >= LISTED[name] * NEARLY_FREE
        assert margin.release >= LISTED[name] * NEARLY_FREE
    plain = sum(LISTED[name] * count for (name, _), count in usage.items())
    assert 0 <= billing.bill(usage) <= plain + 1e-9


@given(commitments, usages, st.sampled_from(OFFERINGS))
@settings(max_examples=150)
def test_a_margin_is_the_difference_of_two_bills(
    committed: Commitments, usage: dict[tuple[str, str], float], where: tuple[str, str]
) -> None:
    billing = Billing(committed, LISTED)
    more = {**usage, where: usage.get(where, 0.0) + 1.0}
    added = max(billing.bill(more) - billing.bill(usage), LISTED[where[0]] * NEARLY_FREE)
    assert billing.marginal(usage, [where])[where].price == pytest.approx(added, abs=1e-12)
    assert billing.marginal(more, [where])[where].release == pytest.approx(added, abs=1e-9)


# -- by hand


def margin(committed: Commitments, usage: dict[tuple[str, str], float], name: str, zone: str = "a") -> float:
    return Billing(committed, LISTED).marginal(usage, [(name, zone)])[name, zone].price


def test_one_more_costs_nothing_until_the_plan_is_used_up_and_then_the_discounted_price() -> None:
    plan = SavingsPlan("compute", 0.21, discount_percent=30.0)
    committed = Commitments((plan,), discount_percent=10.0)
    nearly = pytest.approx(LISTED["m5.large"] * NEARLY_FREE)
    assert margin(committed, {}, "m5.large") == nearly
    assert margin(committed, {("m5.large", "b"): 2.0}, "m5.large") == nearly
    assert margin(committed, {("m5.large", "b"): 3.0}, "m5.large") == pytest.approx(0.09)
    assert margin(committed, {("m5.large", "b"): 2.0}, "m5.xlarge") == pytest.approx(0.09)
    release = Billing(committed, LISTED).marginal({("m5.large", "b"): 3.0}, [("m5.large", "b")])
    assert release["m5.large", "b"].release == nearly


def test_what_others_use_of_a_plan_is_not_there_for_us() -> None:
    plan = SavingsPlan("compute", 0.21, discount_percent=30.0, used_elsewhere_usd_per_hour=0.21)
    assert margin(Commitments((plan,)), {}, "m5.large") == pytest.approx(0.1)


def test_a_regional_reservation_covers_other_sizes_of_its_family() -> None:
    committed = Commitments(reserved_instances=(ReservedInstance("m5.xlarge", 1.0),))
    assert margin(committed, {}, "m5.xlarge", "b") < 1e-6
    assert margin(committed, {}, "m5.2xlarge") == pytest.approx(0.2)
    assert margin(committed, {("m5.large", "a"): 2.0}, "m5.large") == pytest.approx(0.1)
    assert margin(committed, {}, "c7g.xlarge") == pytest.approx(0.15)


def test_a_zonal_reservation_and_one_of_a_gpu_type_cover_only_themselves() -> None:
    zonal = Commitments(reserved_instances=(ReservedInstance("m5.large", 1.0, zone="a"),))
    assert margin(zonal, {}, "m5.large", "a") < 1e-6
    assert margin(zonal, {}, "m5.large", "b") == pytest.approx(0.1)
    assert [normalized_size(n) for n in ("g5.xlarge", "m5.metal", "u-6tb1.56xlarge")] == [None, None, None]
    assert [normalized_size(n) for n in ("t3.nano", "m5.xlarge", "m5.24xlarge")] == [0.25, 8.0, 192.0]


def test_commitments_end() -> None:
    committed = Commitments(
        (SavingsPlan("compute", 9.0, discount_percent=30.0, ends_at=100.0),),
        (ReservedInstance("m5.large", 9.0, ends_at=200.0),),
    )
    assert committed.at(50.0) == committed
    assert committed.at(150.0).savings_plans == ()
    assert committed.at(150.0).reserved_instances == committed.reserved_instances
    assert committed.at(200.0) == Commitments()


def test_a_document_is_read() -> None:
    document = {
        "discountPercent": 8,
        "savingsPlans": [
            {"kind": "ec2-instance", "family": "m5", "usdPerHour": 2, "discountPercent": 40},
            {"kind": "compute", "usdPerHour": 1.5, "rates": {"m5.large": 0.07}, "endsAt": 1.9e9},
        ],
        "reservedInstances": [{"instanceType": "c7g.xlarge", "count": 3, "zone": "eu-west-1a"}],
    }
    found = read_commitments(json.dumps(document).encode())
    assert (len(found.savings_plans), found.reserved_instances[0].count) == (2, 3.0)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("{", "Input data was truncated"),
        ('{"discountPercent": 120}', "discountPercent: 120 is out of range"),
        ('{"savingsPlans": [{"kind": "compute", "usdPerHour": 1}]}', "neither rates nor discountPercent"),
        (
            '{"savingsPlans": [{"kind": "ec2-instance", "usdPerHour": 1, "discountPercent": 9}]}',
            r"savingsPlans\[0\].family",
        ),
        (
            '{"savingsPlans": [{"kind": "compute", "usdPerHour": -1, "discountPercent": 9}]}',
            "usdPerHour: -1 is out of range",
        ),
        ('{"savingsPlans": [{"kind": "gold", "usdPerHour": 1}]}', "Invalid enum value 'gold'"),
        ('{"reservedInstances": [{"count": 1}]}', "missing required field `instanceType`"),
    ],
)
def test_what_cannot_be_understood_is_told_with_its_place(document: str, message: str) -> None:
    with pytest.raises(CommitmentsError, match=message):
        read_commitments(document.encode())

"""The replay's figures: a week of 20,000 pods a day, against the naive baseline and the hour-by-hour bound.

Processor seconds of the process; the trace, the prices and the weather come from one seed. Nothing timed is asserted.
"""

import time

import pytest

from nodeyard.replay.bound import hourly_bound
from nodeyard.replay.generating import Season, generate
from nodeyard.replay.policy import POLICIES
from nodeyard.replay.result import Result
from nodeyard.replay.simulation import planner_options, replay
from tests.support.replaying import allowed, market_types

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(3600)]
SEED = 1


def show(one: Result, seconds: float, dearest: float) -> None:
    print(
        f"\n{one.policy.name:12} {seconds:7.1f} s  cost {one.cost:10.2f} USD = {one.cost / dearest:6.1%} of the baseline's, "
        f"{one.over_bound:+6.1%} over the bound  moves {one.moves:5}  evictions {one.evictions:6}  "
        f"interrupted {one.interruptions:4}  mean wait {one.waits.mean_s:5.1f} s  pending {one.pending}"
    )


def test_a_week_of_twenty_thousand_pods_a_day() -> None:
    catalogue = market_types(60, zones=3)
    trace, market = generate(Season(), catalogue, SEED)
    options = planner_options(POLICIES["nodeyard"])
    bound = hourly_bound(trace, market, allowed(), options)
    results: dict[str, Result] = {}
    for name in ("baseline", "nodeyard"):
        began = time.process_time()
        results[name] = replay(trace, market, allowed(), POLICIES[name], bound=bound)
        show(results[name], time.process_time() - began, results["baseline"].cost)
    for one in results.values():
        assert one.done + one.running + one.pending == len(trace.pods)
        assert one.cost >= one.bound
    assert results["nodeyard"].cost <= 0.85 * results["baseline"].cost


def test_a_steady_cluster_is_quiet_in_its_second_hour() -> None:
    steady = Season(
        days=0.125, pods_per_day=1, swing=0.0, rollouts_per_day=0.0, price_step=0.0, reclaims_per_week=0.0
    )
    trace, market = generate(steady, market_types(60, zones=3), SEED)
    result = replay(trace, market, allowed(), POLICIES["nodeyard"])
    assert result.passes > 0
    print(f"\nmoves by hour: {[hour.moves for hour in result.hours]}")
    assert [hour.moves for hour in result.hours[1:]] == [0, 0]

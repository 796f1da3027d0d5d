"""Laws of the replay: no pod is lost or doubled, the bill is hours times price, chance is only the seed."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodeyard.replay.bound import hourly_bound
from nodeyard.replay.generating import Season, generate
from nodeyard.replay.market import Market
from nodeyard.replay.policy import POLICIES, Policy
from nodeyard.replay.simulation import Replay, planner_options, replay
from nodeyard.replay.trace import Trace
from nodeyard.replay.world import State
from tests.support.replaying import SMALL, allowed, market_types

CATALOGUE = market_types(12)
TINY = msgspec.structs.replace(SMALL, days=0.05, pods_per_day=1_500, services=3, replicas=15, burst_pods=5)


@st.composite
def seasons(draw: st.DrawFn) -> tuple[Trace, Market]:
    season: Season = msgspec.structs.replace(
        TINY,
        swing=draw(st.sampled_from([0.0, 0.3, 0.8])),
        rollouts_per_day=draw(st.sampled_from([0.0, 10.0])),
        reclaims_per_week=draw(st.sampled_from([0.0, 200.0])),
        work_s=draw(st.sampled_from([30.0, 300.0, 2000.0])),
    )
    return generate(season, CATALOGUE, draw(st.integers(0, 10_000)))


POLICY = st.sampled_from(
    [POLICIES[name] for name in ("nodeyard", "when-empty", "eager", "spot-to-spot", "baseline")]
)


@given(seasons(), POLICY)
@settings(max_examples=5, deadline=None)
def test_every_pod_is_pending_running_or_done_exactly_once(
    given: tuple[Trace, Market], policy: Policy
) -> None:
    trace, market = given
    one = Replay(trace, market, allowed(), policy)
    while one.step():
        states = one.world.states()
        assert one.to_come + states.total() == len(trace.pods)
        assert states[State.PENDING] == len(one.world.waiting)
    snapshot = one.world.snapshot()
    assert set(snapshot.pods) == set(one.world.runs)
    bound = {key for keys in snapshot.pods_on.values() for key in keys}
    assert bound == {key for key, run in one.world.runs.items() if run.state is State.RUNNING}
    origins = [run.pod.key for run in one.world.runs.values()]
    assert len(origins) == len(set(origins))
    for name, keys in snapshot.pods_on.items():
        room = snapshot.nodes[name].allocatable
        for resource in ("cpu", "memory", "pods"):
            used = sum(snapshot.shape(snapshot.pods[key]).requests.get(resource, 0) for key in keys)
            assert used <= room[resource]


@given(seasons(), POLICY)
@settings(max_examples=5, deadline=None)
def test_the_cost_is_node_hours_times_price(given: tuple[Trace, Market], policy: Policy) -> None:
    trace, market = given
    one = Replay(trace, market, allowed(), policy)
    one.run()
    result = one.result()
    rent = 0.0
    for line in one.world.bill.lines:
        name, zone = next((m[1], m[2]) for m in one.world.launched if m[0] == line.machine)
        at = [c for since, c in market.catalogues if since <= line.from_s][-1]
        offer = at.offering(name, zone, line.capacity_type)
        assert offer is not None
        rent += (line.to_s - line.from_s) / 3600.0 * offer.price
    assert result.rent == pytest.approx(rent)
    assert result.rent == pytest.approx(sum(h.rent for h in result.hours))
    assert result.cost == pytest.approx(rent + result.node_hours * policy.node_charge_usd_per_hour)


@given(st.integers(0, 1000), POLICY)
@settings(max_examples=2, deadline=None)
def test_the_same_seed_gives_the_same_result(seed: int, policy: Policy) -> None:
    results = [replay(*generate(TINY, CATALOGUE, seed), allowed(), policy) for _ in range(2)]
    assert results[0] == results[1]


@given(seasons())
@settings(max_examples=5, deadline=None)
def test_policies_meet_the_same_pods_and_the_same_bound(given: tuple[Trace, Market]) -> None:
    trace, market = given
    bound = hourly_bound(trace, market, allowed(), planner_options(POLICIES["nodeyard"]))
    results = [replay(trace, market, allowed(), POLICIES[p], bound=bound) for p in ("baseline", "when-empty")]
    assert len({r.bound for r in results}) == 1
    assert len({r.reclaimed >= 0 and r.length_s for r in results}) == 1
    for result in results:
        assert result.done + result.running + result.pending == len(trace.pods)

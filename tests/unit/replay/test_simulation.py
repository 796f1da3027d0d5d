"""What happens in a replay: pods land, wait, come back; nodes come, cost and go; policies decide."""

import pytest

from nodeyard.api import labels as keys
from nodeyard.replay.bound import hourly_bound
from nodeyard.replay.generating import Season, generate
from nodeyard.replay.market import Market, PriceMove, Reclaim, market_of
from nodeyard.replay.policy import POLICIES, policy_of
from nodeyard.replay.simulation import Replay, planner_options, replay
from nodeyard.replay.trace import Trace, TraceError
from nodeyard.replay.world import Timing
from tests.support.replaying import SMALL, allowed, job, market_types, service, shape, trace

WEB = shape("web", node_selector={keys.CAPACITY_TYPE: keys.ON_DEMAND})
ANY = shape("any")


def quiet_market() -> Market:
    return market_of(market_types())


def finished(played: Trace, policy: str = "nodeyard", market: Market | None = None) -> Replay:
    one = Replay(played, market or quiet_market(), allowed(), policy_of(policy))
    one.run()
    return one


def test_a_pod_waits_for_its_batch_and_its_machine() -> None:
    one = finished(trace([service(WEB, "a", 100.0, 9000.0)], WEB))
    assert one.world.waits_s == [pytest.approx(1.0 + Timing().machine_s)]


def test_a_pod_that_fits_on_a_node_does_not_wait() -> None:
    pods = [service(WEB, "big", 0.0, 9000.0), job(WEB, "later", 4000.0, 60.0)]
    first = service(WEB, "goes", 0.0, 3900.0)
    one = finished(trace([first, *pods], WEB), "when-empty")
    assert one.world.waits_s[-1] == 0.0
    assert one.world.done == 3


def test_a_job_evicted_does_its_work_again() -> None:
    spot = shape("spot", node_selector={keys.CAPACITY_TYPE: keys.SPOT})
    catalogue = market_types()
    everywhere = [
        Reclaim(2000.0, t.name, o.zone)
        for t in catalogue.types for o in t.offerings if o.capacity_type == keys.SPOT
    ]  # fmt: skip
    one = finished(trace([job(spot, "j", 0.0, 3000.0)], spot), market=market_of(catalogue, (), everywhere))
    assert one.result().interruptions == 1
    assert one.world.done == 1
    began = 2000.0 + one.world.waits_s[1]
    spent = [line for line in one.world.bill.lines if line.to_s > 2200.0]
    assert max(line.to_s for line in spent) >= began + 3000.0


def test_a_service_pod_ends_when_it_is_no_longer_wanted_even_while_it_waits() -> None:
    huge = shape("huge", cpu=10_000_000)
    one = finished(trace([service(huge, "h", 0.0, 500.0), service(WEB, "w", 0.0, 99_000.0)], huge, WEB))
    assert one.world.done == 1
    assert not one.world.waiting


def test_a_pod_that_fits_nowhere_stays_pending_and_is_told_why() -> None:
    huge = shape("huge", cpu=10_000_000)
    result = replay(
        trace([service(huge, "h", 0.0, 99_000.0)], huge), quiet_market(), allowed(), POLICIES["nodeyard"]
    )
    assert result.pending == 1
    assert "default/h" in result.unplaced
    assert result.cost == 0.0


def test_an_empty_node_goes_under_every_policy() -> None:
    for policy in POLICIES:
        one = finished(trace([job(ANY, "j", 0.0, 300.0)], ANY, hours=2.0), policy)
        assert not one.world.machines, policy


def test_empty_nodes_go_together_unless_their_budget_says_otherwise() -> None:
    large = shape("large", cpu=30_000)
    played = trace([job(large, f"j{n}", 0.0, 600.0) for n in range(8)], large, hours=1.0)
    ends: dict[str, int] = {}
    for policy in ("when-empty", "when-empty:empty_budget=1"):
        lines = finished(played, policy).world.bill.lines
        last = {
            line.machine: max(other.to_s for other in lines if other.machine == line.machine)
            for line in lines
        }
        assert len(last) > 1
        ends[policy] = len(set(last.values()))
    assert ends["when-empty"] == 1 < ends["when-empty:empty_budget=1"]


def test_only_empty_nodes_go_under_the_baseline() -> None:
    played, market = generate(SMALL, market_types(), seed=3)
    result = replay(played, market, allowed(), POLICIES["baseline"])
    assert result.removed > 0
    assert result.evictions == 0


def test_what_is_left_of_a_scale_down_is_moved_together_and_costs_less_than_where_it_was() -> None:
    some = [service(WEB, f"stays-{i}", 0.0, 99_000.0) for i in range(4)]
    many = [service(WEB, f"goes-{i}", 0.0, 3000.0) for i in range(36)]
    played = trace([p for pair in zip(many[:4], some, strict=True) for p in pair] + many[4:], WEB)
    lazy = replay(played, quiet_market(), allowed(), POLICIES["when-empty"])
    busy = replay(played, quiet_market(), allowed(), POLICIES["nodeyard"])
    assert busy.moves > 0
    assert busy.cost < lazy.cost


def test_a_steady_second_hour_has_no_move() -> None:
    steady = Season(
        days=0.125, pods_per_day=1, services=12, replicas=120, swing=0.0, rollouts_per_day=0.0, price_step=0.0,
        reclaims_per_week=0.0,
    )  # fmt: skip
    played, market = generate(steady, market_types(), seed=5)
    result = replay(played, market, allowed(), POLICIES["nodeyard"])
    assert [hour.moves for hour in result.hours[1:]] == [0, 0]


def test_a_spot_node_is_paid_at_the_price_of_the_moment() -> None:
    spot = shape("spot", node_selector={keys.CAPACITY_TYPE: keys.SPOT})
    catalogue = market_types()
    doubled = [
        PriceMove(7200.0, t.name, o.zone, o.capacity_type, o.price * 2)
        for t in catalogue.types for o in t.offerings if o.capacity_type == keys.SPOT
    ]  # fmt: skip
    played = trace([service(spot, "s", 0.0, 99_000.0)], spot, hours=3.0)
    result = replay(played, market_of(catalogue, doubled), allowed(), POLICIES["when-empty"])
    assert result.hours[2].rent == pytest.approx(2 * result.hours[1].rent)


def test_no_policy_costs_less_than_the_bound_while_all_pods_run() -> None:
    played = trace([service(WEB, f"w{i}", 0.0, 99_000.0) for i in range(30)], WEB, hours=3.0)
    market = quiet_market()
    bound = hourly_bound(played, market, allowed(), planner_options(POLICIES["nodeyard"]))
    for policy in POLICIES.values():
        result = replay(played, market, allowed(), policy, bound=bound)
        assert result.hours[1].cost >= bound[1] * (1 - 1e-9), policy.name


def test_pods_with_terms_that_a_replay_does_not_know_are_refused_by_name() -> None:
    from nodeyard.api.selectors import HostPort

    ports = shape("ports", host_ports=(HostPort(80),))
    with pytest.raises(TraceError, match=r"default/p: host_ports"):
        replay(
            trace([service(ports, "p", 0.0, 60.0)], ports), quiet_market(), allowed(), POLICIES["nodeyard"]
        )

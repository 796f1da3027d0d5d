"""Laws of hysteresis, waves, jitter and windows over random histories."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from nodeyard.api import labels as keys
from nodeyard.api.node import NodeClaim
from nodeyard.api.pool import Budget, Renewal
from nodeyard.disruption.budgets import active, limit, next_change
from nodeyard.disruption.commands import MARK
from nodeyard.disruption.expiry import expired, expiring
from nodeyard.disruption.hysteresis import no_return_s
from nodeyard.disruption.methods import decide
from nodeyard.disruption.model import Command, Fate, Move, Options, Reason
from nodeyard.disruption.moves import begun
from nodeyard.disruption.waves import Wave
from nodeyard.state.cluster import Kind
from tests.support.disruption import NOW, TYPES, Builder, catalogue, clock, first_fit

PRICES = st.fixed_dictionaries({name: st.sampled_from([0.1, 0.2, 0.3, 0.4]) for name in TYPES})


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(PRICES, st.sampled_from([60.0, 900.0, 2400.0]), st.booleans()), max_size=12))
def test_prices_may_swing_but_a_node_does_not_swing_with_them(
    history: list[tuple[dict[str, float], float, bool]],
) -> None:
    build, now = Builder(), NOW
    build.pool()
    build.node("n0", "m5.4xlarge", capacity_type=keys.SPOT)
    build.pod("p", "n0")
    moves: list[Move] = []
    for number, (prices, wait_s, works) in enumerate(history):
        now += wait_s
        sold = {"default": catalogue({n: (TYPES[n][0], p) for n, p in prices.items()}, spot=0.5)}
        gate = Options(spot_to_spot=True, spot_to_spot_types=1)
        view = build.view(catalogues=sold, now=now, moves=tuple(moves), options=gate)
        command = decide(view, first_fit, clock).command
        if command is None:
            continue
        (move,) = begun(command, now)
        _is_steady(move, moves, no_return_s(view, "default"))
        fate = Fate.DONE if works else Fate.UNDONE
        moves.append(msgspec.structs.replace(move, fate=fate, ended_at=now))
        if works:
            (new,) = command.replacements
            _exchange(build, command, f"n{number + 1}", new.instance_type, new.capacity_type)


def _is_steady(move: Move, before: list[Move], window_s: float) -> None:
    made = next((old for old in reversed(before) if old.fate is Fate.DONE), None)
    assert made is None or move.at - made.at >= window_s or not set(move.came) & set(made.left)
    for old in before:
        again = (move.left, move.came) == (old.left, old.came)
        assert not (again and old.fate is Fate.UNDONE and move.at - old.ended_at < 600.0)


def _exchange(build: Builder, command: Command, new: str, type_: str, capacity_type: str) -> None:
    build.put(Kind.POD, "default/p", None)
    build.put(Kind.NODE, command.nodes[0], None)
    build.put(Kind.NODE_CLAIM, f"{command.nodes[0]}-c", None)
    annotations = {MARK: command.id, keys.REPLACES: "[]"}
    build.node(new, type_, capacity_type=capacity_type, claim={"annotations": annotations})
    build.pod("p", new)


@given(st.integers(0, 2000))
def test_a_wave_is_as_large_as_all_healthy_ones_before_it_and_one_more(healthy: int) -> None:
    most = Wave(healthy, healthy).most
    assert healthy < most <= 2 * healthy + 1
    assert (most + 1) & most == 0, "one less than a power of two: whole waves"


@given(
    st.lists(st.floats(1.0, 2e6), min_size=1, max_size=10),
    st.floats(0.0, 0.5),
    st.booleans(),
    st.one_of(st.none(), st.floats(0.0, 1e5)),
)
def test_an_expired_claim_is_either_forced_or_waits_and_never_before_its_earliest_age(
    ages: list[float], jitter: float, graceful: bool, cap_s: float | None
) -> None:
    build, after_s = Builder(), 1e6
    pool = build.pool()
    renewal = Renewal(graceful_expiry=graceful, expiry_jitter=jitter, expiry_cap_s=cap_s)
    wants = msgspec.structs.replace(pool.disruption, renewal=renewal)
    build.put(Kind.POOL, "default", msgspec.structs.replace(pool, disruption=wants))
    claims = [
        NodeClaim(
            f"c{i}", uid=f"u{i}", labels={keys.NODEPOOL: "default"}, created_at=NOW - age, expire_after_s=after_s
        )
        for i, age in enumerate(ages)
    ]  # fmt: skip
    for claim in claims:
        build.put(Kind.NODE_CLAIM, claim.name, claim)
    forced, waiting = {c.name for c in expired(build.snapshot, NOW)}, set(expiring(build.snapshot, NOW))
    assert not forced & waiting
    assert graceful or not waiting
    for claim, age in zip(claims, ages, strict=True):
        if age < after_s * (1 - jitter) - 1:
            assert claim.name not in forced | waiting
        if age > after_s * (1 + jitter) + 1:
            assert claim.name in forced | waiting
        if cap_s is not None and age > after_s * (1 + jitter) + cap_s + 1:
            assert claim.name in forced


ZONES = st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Pacific/Auckland"])


@settings(deadline=None)
@given(ZONES, st.integers(0, 23), st.integers(0, 59), st.integers(1, 20 * 60), st.integers(0, 365 * 24 * 60))
def test_a_daily_window_agrees_with_the_clock_on_the_wall(
    name: str, hour: int, minute: int, minutes: int, at: int
) -> None:
    """Every minute of the wall clock tried; on days whose clock skips the hour, the first minute after the gap."""
    moment = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=at)
    budget = Budget("0", schedule=f"{minute} {hour} * * *", duration_s=minutes * 60.0, time_zone=name)
    zone = ZoneInfo(name)
    expected = any(_hits(moment - timedelta(minutes=back), zone, hour, minute) for back in range(minutes))
    assert active(budget, moment.timestamp()) is expected


BUDGETS = st.builds(
    Budget,
    st.just("0"),
    st.sampled_from(["", "0 9 * * *", "*/20 * * * *", "30 2 * * sun", "0 0 1 * *", "never"]),
    st.one_of(st.none(), st.sampled_from([600.0, 3600.0, 90000.0])),
    time_zone=ZONES,
    start=st.sampled_from(["", "2026-03-28T10:00:00Z"]),
    end=st.sampled_from(["", "2026-03-29T12:00:00+02:00"]),
)


@settings(deadline=None, max_examples=60)
@given(st.lists(BUDGETS, max_size=3), st.integers(0, 3 * 24 * 60))
def test_what_budgets_allow_stays_the_same_until_their_next_change(budgets: list[Budget], at: int) -> None:
    now = datetime(2026, 3, 27, tzinfo=UTC).timestamp() + 60.0 * at
    pool = Builder().pool(budgets=budgets)
    until = min(next_change(pool, now) or now + 86400.0, now + 86400.0)
    before = limit(pool, Reason.EMPTY, 10, now)
    steps = int((until - now) // 300)
    assert all(
        limit(pool, Reason.EMPTY, 10, now + 300.0 * i) == before
        for i in range(steps + 1)
        if now + 300.0 * i < until
    )


def _hits(moment: datetime, zone: ZoneInfo, hour: int, minute: int) -> bool:
    local = moment.astimezone(zone)
    if (local.hour, local.minute) == (hour, minute):
        return True
    before = (moment - timedelta(minutes=1)).astimezone(zone)
    wall = before.replace(tzinfo=None) + timedelta(minutes=1)
    gap = local.replace(tzinfo=None) - wall
    skipped = (local.replace(hour=hour, minute=minute, tzinfo=None) - wall) if gap > timedelta(0) else gap
    return gap > timedelta(0) and timedelta(0) <= skipped < gap

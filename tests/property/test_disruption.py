"""Laws of the disruption room over random clusters: no command breaks a gate, a budget or a purse."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from nodeyard.api import labels as keys
from nodeyard.api.pool import Budget
from nodeyard.api.quantity import fits, total
from nodeyard.disruption.budgets import Room, active, limit
from nodeyard.disruption.candidates import candidates, stops
from nodeyard.disruption.draining import drain, drainable, tier
from nodeyard.disruption.methods import decide
from nodeyard.disruption.model import Command, Planner, Reason, Rule, View
from nodeyard.disruption.validation import validate
from nodeyard.provisioning.claims import HASH_VERSION
from nodeyard.provisioning.model import Options as PlanOptions
from nodeyard.provisioning.model import Plan, Problem
from nodeyard.provisioning.planner import plan
from tests.support.disruption import NOW, TYPES, Builder, catalogue, clock, first_fit, shape

SIZES = {"s": 250, "m": 900, "l": 1900}
OUTDATED: dict[str, Any] = {
    "annotations": {keys.NODEPOOL_HASH: "old", keys.NODEPOOL_HASH_VERSION: HASH_VERSION}
}
"""A claim whose pool's template has changed since."""


@st.composite
def clusters(draw: st.DrawFn) -> View:
    build = Builder()
    for id_, cpu in SIZES.items():
        build.shape(id_, cpu, labels={"app": id_})
    budgets = draw(st.sampled_from(["100%", "100%", "50%", "2", "1", "10%", "0"]))
    after = draw(st.sampled_from([0.0, 0.0, 0.0, 60.0, None]))
    policy = draw(st.sampled_from(["WhenEmptyOrUnderutilized"] * 3 + ["WhenEmpty", "Balanced"]))
    build.pool(budgets=(Budget(budgets),), after=after, policy=policy, hash="new")
    for i in range(draw(st.integers(1, 6))):
        type_ = draw(st.sampled_from(sorted(TYPES)))
        build.node(
            f"n{i}",
            type_,
            capacity_type=draw(st.sampled_from([keys.ON_DEMAND, keys.SPOT])),
            ready=draw(st.sampled_from([True] * 9 + [False])),
            initialized=draw(st.sampled_from([True] * 9 + [False])),
            age=draw(st.sampled_from([3600.0, 3600.0, 3600.0, 30.0])),
            annotations=draw(st.sampled_from([{}] * 9 + [{keys.DO_NOT_DISRUPT: "true"}])),
            claim=draw(st.sampled_from([{}] * 9 + [{"deleted_at": NOW}]))
            | draw(st.sampled_from([{}] * 5 + [OUTDATED, OUTDATED | {"termination_grace_period_s": 60.0}])),
        )
        room = TYPES[type_][0]
        for j in range(draw(st.integers(0, 3))):
            size = draw(st.sampled_from(sorted(SIZES)))
            if SIZES[size] <= room:
                room -= SIZES[size]
                build.pod(
                    f"p{i}-{j}",
                    f"n{i}",
                    shape=size,
                    do_not_disrupt=draw(st.sampled_from([""] * 15 + ["true"])),
                    owner_kind=draw(st.sampled_from(["ReplicaSet", "ReplicaSet", "DaemonSet"])),
                )
    for k in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        build.pod(f"pending-{k}", shape=draw(st.sampled_from(sorted(SIZES))))
    if draw(st.sampled_from([False, False, True])):
        build.pdb("guard", draw(st.integers(0, 1)), {"app": draw(st.sampled_from(sorted(SIZES)))})
    nominated = frozenset(draw(st.sets(st.sampled_from(["n0", "n1"]), max_size=1)))
    return build.view(nominated=nominated, catalogues={"default": catalogue()})


def real(problem: Problem) -> Plan:
    return plan(problem, PlanOptions(bound=False), clock)


PLANNERS = st.sampled_from([first_fit, real])


@settings(max_examples=200, deadline=None)
@given(clusters(), PLANNERS)
def test_no_command_breaks_a_gate_or_a_budget(view: View, planner: Planner) -> None:
    command = decide(view, planner, clock).command
    if command is None:
        return
    now = {c.node: c for c in candidates(view)}
    assert not any(stops(view, now[node], command.reason) for node in command.nodes)
    room = Room(view.snapshot, view.in_command, view.now)
    left = room.left("default", command.reason)
    assert left is None or len(command.nodes) <= left


@settings(max_examples=200, deadline=None)
@given(clusters(), PLANNERS)
def test_no_command_leaves_a_pod_without_a_place_or_ends_dearer(view: View, planner: Planner) -> None:
    command = decide(view, planner, clock).command
    if command is None:
        return
    if command.reason is not Reason.DRIFTED:
        paid = sum(c.price_per_hour or 0.0 for c in command.candidates)
        for new in command.replacements:
            dearest = max([new.price_per_hour, *(r.price_per_hour for r in new.alternatives)])
            assert dearest < paid
        assert command.saves_per_hour > 0
    if command.reason is Reason.EMPTY:
        return
    pods = [view.snapshot.pods[p] for c in command.candidates for p in c.pods]
    rest = [n for n in view.snapshot.nodes.values() if n.name not in command.nodes]
    free = 0
    for node in rest:
        used = total(view.snapshot.shape(p).requests for p in view.snapshot.pods_of_node(node.name))
        free += max(0, node.allocatable["cpu"] - used.get("cpu", 0))
    new_cpu = sum(TYPES[n.instance_type][0] for n in command.replacements)
    need = total(view.snapshot.shape(p).requests for p in pods)
    assert fits({"cpu": need.get("cpu", 0)}, {"cpu": free + new_cpu})


@settings(max_examples=120, deadline=None)
@given(clusters())
def test_every_node_is_told_about_and_a_stopped_one_says_why(view: View) -> None:
    outcome = decide(view, first_fit, clock)
    told = {p.node for p in outcome.proposals}
    if outcome.command is None:
        assert told == set(view.snapshot.nodes)
        assert all(p.blocks for p in outcome.proposals)
    else:
        assert set(outcome.command.nodes) <= told


@settings(max_examples=120, deadline=None)
@given(clusters(), PLANNERS)
def test_a_second_look_at_the_same_cluster_changes_nothing(view: View, planner: Planner) -> None:
    command = decide(view, planner, clock).command
    if command is not None:
        again = validate(command, view, planner, clock)
        assert isinstance(again, Command)
        assert again.nodes == command.nodes


@settings(max_examples=120, deadline=None)
@given(clusters(), st.integers(0, 3))
def test_a_quiet_outcome_stays_the_same_until_its_recheck(view: View, step: int) -> None:
    outcome = decide(view, first_fit, clock)
    if not outcome.quiet:
        return
    until = outcome.recheck_at or view.now + 300
    later = msgspec.structs.replace(view, now=view.now + (until - view.now) * step / 4)
    again = decide(later, first_fit, clock)
    assert again.command is None


@given(
    st.integers(0, 59), st.integers(0, 23), st.integers(1, 40 * 60), st.integers(0, 7 * 24 * 60)
)  # fmt: skip
def test_a_daily_window_agrees_with_arithmetic(minute: int, hour: int, minutes: int, at: int) -> None:
    budget = Budget("0", schedule=f"{minute} {hour} * * *", duration_s=minutes * 60.0)
    moment = datetime(2026, 3, 2, tzinfo=UTC) + timedelta(minutes=at)
    hits = [datetime(2026, 2, 27, hour, minute, tzinfo=UTC) + timedelta(days=d) for d in range(12)]
    expected = any(hit <= moment < hit + timedelta(minutes=minutes) for hit in hits)
    assert active(budget, moment.timestamp()) is expected


@given(st.integers(0, 100), st.integers(0, 500))
def test_a_share_is_the_least_whole_number_not_below_it(share: int, nodes: int) -> None:
    pool = Builder().pool(budgets=(Budget(f"{share}%"),))
    allowed = limit(pool, Reason.EMPTY, nodes, NOW)
    assert allowed is not None
    assert allowed * 100 >= share * nodes > (allowed - 1) * 100


PODS = st.lists(
    st.tuples(
        st.sampled_from(["web", "critical"]),
        st.booleans(),
        st.sampled_from(["", "true"]),
        st.integers(0, 120),
        st.sampled_from([0.0, 10.0, -70.0]),
    ),
    max_size=8,
)


@settings(max_examples=150, deadline=None)
@given(PODS, st.one_of(st.none(), st.integers(-30, 120)), st.booleans())
def test_a_drain_accounts_for_every_pod_and_never_jumps_a_tier(
    rows: list[tuple[str, bool, str, int, float]], deadline_in: int | None, strict: bool
) -> None:
    build = Builder()
    shapes = {"web": shape("web"), "critical": shape("critical", priority=2 * 10**9)}
    pods = [
        build.pod(
            f"p{i}",
            "a",
            shape="web",
            do_not_disrupt=protected,
            grace_period_s=float(grace),
            owner_kind="DaemonSet" if daemon else "ReplicaSet",
            deleted_at=NOW + gone if gone else 0.0,
        )
        for i, (_, daemon, protected, grace, gone) in enumerate(rows)
    ]
    pods = [msgspec.structs.replace(p, shape=row[0]) for p, row in zip(pods, rows, strict=True)]
    deadline = None if deadline_in is None else NOW + deadline_in
    todo = drain(pods, shapes, NOW, deadline=deadline, all_or_none=strict)
    owed = {p.key: p for p in pods if drainable(p, shapes[p.shape], NOW)}
    told = [*todo.evict, *(d.pod for d in todo.delete), *(w.pod for w in todo.waiting)]
    assert sorted(told) == sorted(owed)
    assert todo.left == len(owed)
    assert not any(owed[key].do_not_disrupt or owed[key].terminating for key in todo.evict)
    lowest = min((tier(p, shapes[p.shape]) for p in owed.values()), default=0)
    assert all(tier(owed[key], shapes[owed[key].shape]) == lowest for key in todo.evict)
    for deletion in todo.delete:
        assert deadline is not None
        assert deletion.grace_s == max(1, int(deadline - NOW))
    if deadline is not None and deadline <= NOW:
        assert not todo.evict
        assert not [w for w in todo.waiting if not owed[w.pod].terminating]


def test_rules_are_a_closed_set_of_metric_labels() -> None:
    assert all(rule.value.isalpha() for rule in Rule)

"""Estimates of drains, told before they begin: tiers, budgets, protections and grace periods; and who is alone."""

from typing import Any

import pytest

from nodeyard.disruption.model import DrainEstimate
from nodeyard.disruption.outlook import READY_S, Outlook
from tests.support.disruption import NOW, Builder


@pytest.fixture
def build() -> Builder:
    made = Builder()
    made.pool()
    made.shape("critical", priority=2_000_000_000)
    return made


def estimate(build: Builder, *nodes: str) -> DrainEstimate:
    return Outlook(build.snapshot, NOW).drain(nodes or ("a",))


def on(build: Builder, *pods: dict[str, Any], grace_s: float | None = None, name: str = "a") -> None:
    build.node(name, "m5.4xlarge", claim={"termination_grace_period_s": grace_s})
    for i, fields in enumerate(pods):
        build.pod(f"{name}-{i}", name, **{"owner_name": f"rs-{i}"} | fields)


def test_pods_leave_together_and_tiers_one_after_the_other(build: Builder) -> None:
    daemon = {"owner_kind": "DaemonSet", "grace_period_s": 10.0}
    critical = {"shape": "critical", "grace_period_s": 20.0}
    on(build, {"grace_period_s": 60.0}, {"grace_period_s": 30.0}, daemon, critical)
    assert estimate(build) == DrainEstimate(60.0 + 10.0 + 20.0)


def test_an_empty_node_takes_the_least_a_drain_takes(build: Builder) -> None:
    on(build)
    assert estimate(build) == DrainEstimate(5.0)


def test_a_budget_lets_them_go_in_rounds_over_all_nodes_that_go(build: Builder) -> None:
    on(build, {"grace_period_s": 30.0}, {"grace_period_s": 30.0})
    on(build, {"grace_period_s": 30.0}, name="b")
    build.pdb("guard", 1)
    assert estimate(build, "a").seconds == 2 * 30.0 + READY_S
    assert estimate(build, "a", "b").seconds == 3 * 30.0 + 2 * READY_S
    build.pdb("guard", 3)
    assert estimate(build, "a", "b").seconds == 30.0


def test_what_nothing_lets_go_has_no_end_unless_the_grace_period_ends_it(build: Builder) -> None:
    on(build, {"do_not_disrupt": "true"})
    assert estimate(build).seconds is None
    assert "default/a-0" in estimate(build).held_by[0]
    on(build, {"do_not_disrupt": "true"}, grace_s=300.0)
    found = estimate(build)
    assert (found.seconds, found.cut_short, len(found.held_by)) == (300.0, True, 1)


def test_a_budget_without_room_is_named(build: Builder) -> None:
    on(build, {})
    build.pdb("guard", 0)
    found = estimate(build)
    assert found.seconds is None
    assert "default/guard" in found.held_by[0]


def test_a_protection_for_a_while_delays_the_end(build: Builder) -> None:
    on(build, {"do_not_disrupt": "1h", "started_at": NOW - 3000.0, "grace_period_s": 30.0})
    assert estimate(build) == DrainEstimate(600.0 + 30.0)


def test_a_grace_period_that_is_too_short_for_the_pods_is_said(build: Builder) -> None:
    on(build, {"grace_period_s": 600.0}, grace_s=100.0)
    assert estimate(build) == DrainEstimate(100.0, cut_short=True)


def test_a_pod_on_its_way_out_takes_what_is_left_of_its_grace_period(build: Builder) -> None:
    on(build, {"deleted_at": NOW + 12.0, "grace_period_s": 600.0})
    assert estimate(build) == DrainEstimate(12.0)


def test_a_workloads_only_pod_is_a_singleton_and_one_of_two_or_without_an_owner_is_not(
    build: Builder,
) -> None:
    on(build, {}, {"owner_name": "pair"}, {"owner_name": ""})
    on(build, {"owner_name": "pair"}, name="b")
    outlook = Outlook(build.snapshot, NOW)
    assert outlook.singletons(["default/a-0", "default/a-1", "default/a-2"]) == ("default/a-0",)

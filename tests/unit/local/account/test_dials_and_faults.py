from __future__ import annotations

import pytest

from nodeyard.local.account.dials import BadDialError, CapacityRule, Dials, Fault, decoded
from nodeyard.local.account.faults import Faults


def test_machine_dials_change_for_all_or_for_those_that_match():
    dials = Dials()
    dials.turn_machines({"register_seconds": 3})
    dials.turn_machines({"ready_seconds": 5}, "g4dn.*")
    dials.turn_machines({"ready_seconds": 9}, "i-1")
    assert dials.machines_for("i-2", "m5.large").ready_seconds == 0
    assert dials.machines_for("i-2", "g4dn.xlarge").ready_seconds == 5
    assert dials.machines_for("i-1", "g4dn.xlarge").ready_seconds == 9
    assert dials.machines_for("i-1", "g4dn.xlarge").register_seconds == 3
    assert dials.forget_machine_rule("i-1")
    assert not dials.forget_machine_rule("i-1")


@pytest.mark.parametrize(
    ("patch", "named"),
    [
        ({"ready_seconds": -1}, "ready_seconds"),
        ({"redy": 1}, "redy"),
        ({"memory_missing_fraction": 1}, "memory"),
    ],
)
def test_a_dial_that_makes_no_sense_is_refused_by_name_and_changes_nothing(
    patch: dict[str, object], named: str
):
    dials = Dials()
    before = dials.shown()
    with pytest.raises(BadDialError, match=named):
        dials.turn_machines(patch)
    assert dials.shown() == before


def test_capacity_is_the_least_that_a_matching_rule_leaves_and_launches_use_it_up():
    dials = Dials()
    dials.add_capacity_rule(CapacityRule(instance_type="m5.*", left=3))
    dials.add_capacity_rule(CapacityRule(zone="a", capacity_type="spot", left=2))
    assert dials.room("m5.large", "a", "spot") == 2
    assert dials.room("m5.large", "b", "spot") == 3
    assert dials.room("c5.large", "b", "spot") is None
    dials.take("m5.large", "a", "spot", 2)
    assert dials.room("m5.large", "a", "spot") == 0
    assert dials.room("m5.large", "b", "on-demand") == 1
    assert dials.drop_capacity_rules() == 2


def test_reset_puts_everything_back():
    dials = Dials()
    fresh = dials.shown()
    dials.turn_machines({"ready_seconds": 1})
    dials.turn_machines({"ready_seconds": 1}, "*")
    dials.add_capacity_rule(CapacityRule())
    dials.add_fault(Fault(kind="slow", seconds=1))
    dials.reset()
    assert dials.shown() == fresh


def faults(*wanted: Fault) -> Faults:
    dials = Dials()
    for fault in wanted:
        dials.add_fault(fault)
    return Faults(dials)


def refused(met: Faults, action: str = "CreateFleet", now: float = 0.0) -> str | None:
    refusal = met.meet("ec2", action, now).refusal
    return refusal.code if refusal else None


def test_a_failure_meets_one_call_unless_told_otherwise():
    met = faults(Fault(kind="fail", action="CreateFleet", code="Unavailable"))
    assert [refused(met, "DescribeInstances"), refused(met), refused(met)] == [None, "Unavailable", None]


def test_every_nth_call_is_throttled():
    met = faults(Fault(kind="throttle", action="Create*", every_nth=3))
    assert [refused(met) for _ in range(6)] == [None, None, "RequestLimitExceeded"] * 2


def test_calls_above_a_rate_are_throttled_until_the_bucket_fills_again():
    met = faults(Fault(kind="throttle", rate_per_second=2))
    assert [refused(met, now=0.0) for _ in range(3)] == [None, None, "RequestLimitExceeded"]
    assert refused(met, now=0.4) == "RequestLimitExceeded"
    assert refused(met, now=1.0) is None


def test_a_burst_is_let_through_before_the_rate_counts():
    met = faults(Fault(kind="throttle", rate_per_second=2, burst=4))
    assert [refused(met, now=0.0) for _ in range(5)] == [None] * 4 + ["RequestLimitExceeded"]
    assert [refused(met, now=0.5) for _ in range(2)] == [None, "RequestLimitExceeded"]


def test_other_services_word_their_throttling_differently():
    met = faults(Fault(kind="throttle"))
    refusal = met.meet("ssm", "GetParameter", 0).refusal
    assert refusal is not None
    assert refusal.code == "ThrottlingException"


def test_slowness_adds_up_and_comes_before_a_failure():
    met = faults(Fault(kind="slow", seconds=1), Fault(kind="slow", seconds=2), Fault(kind="fail"))
    verdict = met.meet("ec2", "CreateFleet", 0)
    assert verdict.wait_seconds == 3
    assert verdict.refusal is not None


def test_a_failure_after_the_effect_cuts_the_connection_and_refuses_nothing():
    verdict = faults(Fault(kind="fail", after_effect=True)).meet("ec2", "CreateFleet", 0)
    assert verdict.cut_after
    assert verdict.refusal is None


def test_an_unknown_kind_of_fault_is_refused():
    with pytest.raises(BadDialError, match="kind"):
        decoded({"kind": "explode"}, Fault)

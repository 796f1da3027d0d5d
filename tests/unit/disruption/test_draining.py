"""Draining: who leaves first, what holds it up, and what the deadline overrides."""

from typing import Any

import pytest

from nodeyard.api.pod import PodRecord, PodShape
from nodeyard.api.selectors import Toleration
from nodeyard.disruption.draining import Deletion, Drain, Wait, drain, drainable
from tests.support.disruption import NOW, TOLERATES_ALL, shape

SHAPES: dict[str, PodShape] = {
    "web": shape("web"),
    "critical": shape("critical", priority=2_000_000_000),
    "tolerant": shape("tolerant", tolerations=TOLERATES_ALL),
}


def pod(name: str, shape: str = "web", **fields: Any) -> PodRecord:
    values: dict[str, Any] = {"node": "a", "phase": "Running", "started_at": NOW - 60} | fields
    return PodRecord("default", name, f"uid-{name}", shape, **values)


def step(*pods: PodRecord, **fields: Any) -> Drain:
    return drain(pods, SHAPES, NOW, **fields)


def names(keys: tuple[str, ...]) -> list[str]:
    return [key.removeprefix("default/") for key in keys]


TIERS = (
    pod("web"),
    pod("daemon", owner_kind="DaemonSet"),
    pod("critical", "critical"),
    pod("critical-daemon", "critical", owner_kind="DaemonSet"),
)


@pytest.mark.parametrize("gone", range(4))
def test_tiers_leave_one_after_the_other(gone: int) -> None:
    now = step(*TIERS[gone:])
    assert names(now.evict) == [TIERS[gone].name]
    assert [w.why for w in now.waiting] == [Wait.EARLIER_TIER] * (3 - gone)


def test_a_tier_waits_for_the_terminating_pods_of_the_one_before() -> None:
    now = step(pod("web", deleted_at=NOW + 20), TIERS[2])
    assert now.evict == ()
    assert now.left == 2


def test_what_comes_straight_back_or_hangs_is_not_waited_for() -> None:
    now = step(
        pod("tolerant", "tolerant"),
        pod("mirror", owner_kind="Node"),
        pod("stuck", deleted_at=NOW - 61),
        pod("done", phase="Succeeded"),
    )
    assert now == Drain()


def test_a_protected_pod_stays_while_others_leave() -> None:
    now = step(pod("kept", do_not_disrupt="true"), pod("web"))
    assert names(now.evict) == ["web"]
    assert now.left == 2


def test_a_pod_that_must_not_be_evicted_stops_the_whole_drain_of_a_provisioners_node() -> None:
    now = step(pod("kept", do_not_disrupt="true"), pod("web"), all_or_none=True)
    assert now.evict == ()
    assert now.left == 2


def test_a_pod_is_deleted_with_the_grace_that_is_left_before_the_deadline() -> None:
    now = step(
        pod("slow", "critical", grace_period_s=60, do_not_disrupt="true"), pod("web"), deadline=NOW + 45
    )
    assert now.delete == (Deletion("default/slow", 45),)
    assert names(now.evict) == ["web"]


def test_the_grace_is_never_below_a_second_and_budgets_have_no_say_after_the_deadline() -> None:
    assert step(pod("web"), deadline=NOW - 10).delete == (Deletion("default/web", 1),)


def test_a_pod_whose_own_grace_ends_after_the_deadline_is_hurried_once() -> None:
    late = step(pod("web", deleted_at=NOW + 100), deadline=NOW + 20)
    assert late.delete == (Deletion("default/web", 20),)
    assert step(pod("web", deleted_at=NOW + 20), deadline=NOW + 20).delete == ()


@pytest.mark.parametrize(
    ("toleration", "covers"),
    [
        (Toleration(operator="Exists"), True),
        (Toleration("karpenter.sh/disrupted", "Exists"), True),
        (Toleration("karpenter.sh/disrupted", "Exists", effect="NoExecute"), False),
        (Toleration("karpenter.sh/disrupted", "Equal", ""), True),
        (Toleration("karpenter.sh/disrupted", "Equal", "x"), False),
        (Toleration("other", "Exists"), False),
        (Toleration("", "Equal", ""), False),
    ],
)
def test_tolerations_are_matched_as_kubernetes_does(toleration: Toleration, covers: bool) -> None:
    assert drainable(pod("p"), shape("web", tolerations=(toleration,)), NOW) is not covers

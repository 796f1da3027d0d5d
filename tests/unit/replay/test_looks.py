"""When a replay's reallocator looks again at once."""

from __future__ import annotations

import pytest

from nodeyard.disruption.commands import command_of
from nodeyard.disruption.model import Candidate, Outcome, Reason
from nodeyard.replay.reallocating import worth_another_look

NODE = Candidate("n", "c", pool="a", price_per_hour=1.0)


@pytest.mark.parametrize(
    ("reason", "saves", "at_once"),
    [
        (Reason.UNDERUTILIZED, 0.2, False),
        (Reason.UNDERUTILIZED, 0.4, True),
        (Reason.EMPTY, 0.2, True),
        (Reason.DRIFTED, 0.0, True),
    ],
)
def test_a_saving_of_less_than_three_thousandths_of_the_cost_is_the_last_for_a_while(
    reason: Reason, saves: float, at_once: bool
) -> None:
    found = Outcome(command=command_of(0.0, reason, [NODE], saves), cost={"a": 70.0, "b": 30.0})
    assert worth_another_look(found) is at_once


def test_where_nothing_was_found_nothing_is_looked_for_at_once() -> None:
    assert not worth_another_look(Outcome(cost={"a": 100.0}))

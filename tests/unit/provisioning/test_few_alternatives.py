"""A node carries as many alternatives as are asked for, none if none are, and never more than a launch may name."""

from __future__ import annotations

import pytest

from nodeyard.provisioning.model import Options
from tests.support import problems
from tests.support.invented_market import invented
from tests.support.planning import solve


def most_alternatives(asked: int) -> int:
    """Of any node, where price is no hindrance."""
    options = Options(max_alternatives=asked, price_tolerance=9.0, search_s=0.1)
    given = problems.fleet(30, 3, market=invented(150))
    return max(len(node.alternatives) for node in solve(given, options).plan.nodes)


@pytest.mark.parametrize("asked", [0, 1, 7])
def test_as_many_alternatives_as_are_asked_for(asked: int) -> None:
    assert most_alternatives(asked) == asked


def test_with_the_first_choice_a_launch_names_sixty_at_most() -> None:
    assert most_alternatives(60) == 59

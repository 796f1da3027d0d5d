"""Who of the pods alike gets which place, where a spread over hosts binds some of them and only counts others."""

from __future__ import annotations

import numpy as np
import pytest

from nodeyard.provisioning.compiling import compile_problem
from nodeyard.provisioning.domains import ANYWHERE, Portion
from nodeyard.provisioning.field import Field
from nodeyard.provisioning.lots import Bin
from nodeyard.provisioning.model import Options
from nodeyard.provisioning.seating import Seating
from nodeyard.provisioning.setting import Setting
from tests.support.kube_rules import HOST
from tests.support.manifests import pods, pool, spread
from tests.support.planning import posed
from tests.support.problems import PlanningProblem
from tests.unit.provisioning.test_pods_beside_pods import planned
from tests.unit.provisioning.test_what_nodes_offer import MARKET

APART = [spread(HOST, "web")]
STRANGER = {"labels": {"app": "job"}, "topologySpreadConstraints": APART}
"""Bears the spread over pods of web, but is none of them."""


def seated(
    groups: dict[str, dict[str, object]], sizes: dict[str, int], places: list[int]
) -> list[dict[str, int]]:
    """What each node holds, by name of the group, once its places, all alike, were given to these pods."""
    objects = [o for name, more in groups.items() for o in pods(name, sizes[name], 100, 128, **more)]
    given = posed(PlanningProblem("", [pool(), *objects], MARKET))
    setting: Setting = compile_problem(given, Options())[0]
    state = Field(setting.problem, setting.classes, setting.columns, setting.hosts, setting.rules)
    column = int(np.argmax(setting.columns.room.min(axis=1)))
    nodes = state.add_nodes(np.full(len(places), column))
    classes = setting.classes.classes
    queue = [Portion(one, ANYWHERE, one.demand) for one in classes]
    bins = [Bin(0, np.array([0]), np.array([many])) for many in places]
    Seating(state, lambda one: one.carried, bins, nodes, [queue]).run()
    assert not any(portion.count for portion in queue)
    name_of = {one.number: one.pods[0].rpartition("/")[2].rpartition("-")[0] for one in classes}
    return [
        {name_of[number]: many for number, many in state.contents[node].items()} for node in nodes.tolist()
    ]


@pytest.mark.parametrize("places", [[3, 3], [4, 2], [2, 2, 2]])
def test_who_bears_a_spread_gets_a_place_where_nobody_it_counts_is(places: list[int]) -> None:
    groups = {
        "web": {"labels": {"app": "web"}},
        "own": {"labels": {"app": "web"}, "topologySpreadConstraints": APART},
    }
    groups["other"] = {"labels": {"app": "other"}}
    held = seated(groups, {"web": 2, "own": 1, "other": 3}, places)
    mine = next(one for one in held if "own" in one)
    assert "web" not in mine


def test_a_stranger_that_bears_it_has_as_many_beside_it_as_the_skew_allows() -> None:
    groups = {"web": {"labels": {"app": "web"}}, "job": STRANGER, "other": {"labels": {"app": "other"}}}
    held = seated(groups, {"web": 3, "job": 1, "other": 2}, [3, 3])
    mine = next(one for one in held if "job" in one)
    assert mine.get("web", 0) <= 1


def test_who_bears_a_spread_comes_first_on_a_node_that_must_hold_all() -> None:
    groups = {"web": {"labels": {"app": "web"}}, "job": STRANGER}
    held = seated(groups, {"web": 4, "job": 1}, [5])
    assert list(held[0]) == ["job", "web"]


def test_pods_that_a_spread_only_counts_need_no_node_each() -> None:
    """The plan is replayed in its order by the judge, as the kube-scheduler would bind it."""
    bearing = pods("own", 2, 100, 128, labels={"app": "web"}, topologySpreadConstraints=APART)
    solved = planned(*pods("web", 12, 100, 128, labels={"app": "web"}), *bearing)
    assert len(solved.report["nodes"]) == 2

"""What `nodeyard simulate consolidate` prints holds on every small cluster, as the independent judge replays it."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nodeyard.disruption.completing import completed
from nodeyard.disruption.consolidation import Play, Settings
from nodeyard.disruption.model import Options as PassOptions
from nodeyard.disruption.model import View
from nodeyard.disruption.report import played_json
from nodeyard.provisioning.model import Options
from nodeyard.state.manifests import snapshot_from
from tests.support.invented_market import catalogue_of
from tests.support.judge_consolidation import Json, judge_consolidation
from tests.support.planning import NOW
from tests.support.problems import PlanningProblem
from tests.support.small_clusters import small_cluster

QUICK = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def played(given_: PlanningProblem) -> Json:
    """What the command prints; its clock moves by being looked at."""
    ticks: Iterator[float] = (n * 0.002 for n in itertools.count())
    offered = {"": catalogue_of(given_.market)}
    found = snapshot_from(given_.objects)
    view = View(completed(found, offered, found.pdbs.keys()), offered, NOW, options=PassOptions())
    wanted = Settings(disruption_usd=0.0, seconds=1.5)
    return played_json(Play(view, Options(deadline_s=1.0), wanted, lambda: next(ticks)).run())


@QUICK
@given(st.data())
def test_the_judge_finds_nothing(data: st.DataObject) -> None:
    cluster = small_cluster(lambda least, most: data.draw(st.integers(least, most)))
    report = played(cluster)
    assert judge_consolidation(cluster.objects, cluster.market, report) == []


@pytest.mark.parametrize("seed", [29, 36, 149, 320, 365, 1892, 1940, 1992, 2068])
def test_the_judge_finds_nothing_any_more(seed: int) -> None:
    """Not ready nodes, pods that wait beside spread and anti-affinity, a cordoned node, a zone emptied on the
    way, pods of one shape that go to several zones."""
    rng = random.Random(seed)
    cluster = small_cluster(rng.randint)
    assert judge_consolidation(cluster.objects, cluster.market, played(cluster)) == []

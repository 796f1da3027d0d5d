"""Whatever stands in the input, a plan comes out or a sentence that names the file: never a traceback, no pod lost."""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Iterator
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nodeyard.cli.files import Found, InputError
from nodeyard.cli.plan import manifests, snapshot_of_found
from nodeyard.cli.plan_table import render
from nodeyard.provisioning.model import Options, Problem
from nodeyard.provisioning.planner import plan
from nodeyard.provisioning.report import plan_json
from nodeyard.state.manifests import plannable
from tests.support.invented_market import catalogue_of
from tests.support.problems import KINDS

Json = dict[str, Any]
JUNK: list[Any] = [
    None, "", 0, -1, 1.5, True, [], {}, "x", [None], ["a"], {"a": 1}, "1e99", "NaN", [{}], 10**30, {"matchLabels": 5},
]  # fmt: skip
WORKLOAD: Json = {
    "apiVersion": "apps/v1",
    "kind": "StatefulSet",
    "metadata": {"name": "db", "namespace": "default"},
    "spec": {
        "replicas": 2,
        "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{"name": "c"}]}},
        "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"storageClassName": "gp3"}}],
    },
}


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every path into a manifest, its own empty one not."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield (*at, key)
        yield from places(one, (*at, key))


def spoiled(objects: list[Json], rng: random.Random) -> list[Json]:
    """Some of the objects, with one to three fields of theirs gone or replaced by something else."""
    pods = [o for o in objects if o["kind"] == "Pod"]
    kept = [o for o in objects if o["kind"] != "Pod"] + rng.sample(pods, min(6, len(pods))) + [WORKLOAD]
    out = copy.deepcopy(kept)
    for _ in range(rng.randint(1, 3)):
        target: Any = rng.choice(out)
        path = rng.choice(list(places(target)))
        for key in path[:-1]:
            target = target[key]
        if rng.random() < 0.2:
            del target[path[-1]]
        else:
            target[path[-1]] = copy.deepcopy(rng.choice(JUNK))
    return out


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(sorted(KINDS)), st.integers(0, 10**6))
def test_broken_input_is_refused_by_name_or_planned_without_losing_a_pod(kind: str, seed: int) -> None:
    given_problem = KINDS[kind](seed % 3)
    objects = spoiled(given_problem.objects, random.Random(seed))
    refusal = ""
    try:
        snapshot = snapshot_of_found([Found(o, "input.yaml") for o in objects])
    except InputError as error:
        refusal = str(error)
    if refusal:
        assert refusal.startswith("input.yaml: ")
        return
    problem = Problem(snapshot, plannable(snapshot), {"": catalogue_of(given_problem.market)}, 1.79e9)
    made = plan(problem, Options(deadline_s=0.5), time.monotonic)
    plan_json(made, snapshot)
    manifests(made, snapshot)
    render(made, snapshot)
    seen = [p for n in made.nodes for p in n.pods] + [p for e in made.existing for p in e.pods]
    assert sorted(seen + [u.pod for u in made.unschedulable]) == sorted(problem.pods)

"""Solving planning problems as the `plan` command does: manifests to a snapshot, the planner, its report."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache
from typing import Any

from nodeyard.provisioning.model import Options, Plan, Problem
from nodeyard.provisioning.planner import plan
from nodeyard.provisioning.report import plan_json
from nodeyard.state.cluster import Snapshot
from nodeyard.state.manifests import plannable, snapshot_from
from tests.support.invented_market import catalogue_of
from tests.support.problems import KINDS, PlanningProblem

Json = dict[str, Any]
NOW = 1_790_000_000.0
BRIEF = Options(deadline_s=4.0, search_s=0.9)
"""Little to look for better plans."""


@dataclass(frozen=True)
class Solved:
    """A plan, and what `nodeyard plan --output json` prints of it."""

    plan: Plan
    report: Json
    snapshot: Snapshot


def posed(given: PlanningProblem) -> Problem:
    """The problem as the planner takes it; every pod without a node is to be placed."""
    snapshot = snapshot_from(given.objects)
    return Problem(snapshot, plannable(snapshot), {"": catalogue_of(given.market)}, NOW)


@cache
def solved_kind(kind: str, seed: int) -> tuple[PlanningProblem, Solved]:
    """A problem of this kind (`problems.KINDS`) and the planner's answer, which is searched for once and only looked at."""
    problem = KINDS[kind](seed)
    return problem, solve(problem)


def solve(given: PlanningProblem, options: Options | None = None) -> Solved:
    """The planner's answer; without options, the defaults with less time to look for better ones. Time is the processor's,
    so that a deadline means the same on a busy machine.
    """
    problem = posed(given)
    made = plan(problem, options or BRIEF, time.process_time)
    return Solved(made, plan_json(made, problem.snapshot), problem.snapshot)

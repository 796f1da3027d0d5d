"""How near to the cheapest the plans are, kind by kind, and how much memory a hundred thousand pods take.

Each row is one problem on an invented market (seeds are stated in `tests.support`), planned with the default charge
per node-hour and with none: rent, objective, the lower bound that no plan can beat, and the gap between them.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
from rich.console import Console
from rich.table import Table

from nodeyard.provisioning.model import Options
from tests.support.invented_market import invented
from tests.support.planning import Solved, solve
from tests.support.problems import (
    KINDS,
    PlanningProblem,
    all_different,
    diverse,
    fleet,
    plain_deployments,
    preferring,
    zone_spread,
)

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(600)]
BOTH = ("spot", "on-demand")
WIDE = invented(400, 4)

# name -> (problem, the promised gap; None where no bound is promised to be near)
ROWS: dict[str, tuple[Callable[[], PlanningProblem], float | None]] = {
    "3 plain deployments, 170 pods": (lambda: plain_deployments(7, 3, 57), 0.06),
    "40 pods of 8 deployments": (lambda: fleet(40, 8, 3, WIDE), 0.06),
    "500 pods of 20 deployments": (lambda: fleet(500, 20, 1, WIDE), 0.03),
    "800 pods on spot": (lambda: fleet(800, 40, 2, WIDE, ("spot",)), 0.03),
    "3,000 pods of 41 deployments": (lambda: fleet(3000, 41, 4, WIDE, ("on-demand",)), 0.03),
    "10,000 pods of 200 deployments": (lambda: fleet(10_000, 200, 5, WIDE, BOTH), 0.03),
    "600 pods all different": (lambda: PlanningProblem("", all_different(1, 600).objects, WIDE), None),
    "zone spread, 150 pods": (lambda: PlanningProblem("", zone_spread(2, 48).objects, WIDE), 0.10),
    "500 diverse pods": (lambda: diverse(500, market=WIDE), None),
    "1,000 diverse pods": (lambda: diverse(1000, market=WIDE), None),
    "400 pods with preferences": (lambda: preferring(400, market=WIDE), None),
    **{kind: (lambda kind=kind: KINDS[kind](1), None) for kind in ("daemons", "two pools", "gpus", "existing nodes", "host anti-affinity")},  # type: ignore[misc]
}  # fmt: skip


def test_plans_are_as_near_to_their_bound_as_promised() -> None:
    table = Table("problem", "charge", "nodes", "rent $/h", "objective", "bound", "gap", "promised", "plan s", "bound s", "left", title="plans and their bounds")  # fmt: skip
    too_far = []
    for name, (make, promised) in ROWS.items():
        problem = make()
        for charge in (0.01, 0.0):
            solved = solve(problem, Options(node_charge_usd_per_hour=charge))
            table.add_row(name, f"{charge:g}", *_figures(solved, promised))
            gap = solved.plan.cost.gap
            if promised is not None and (gap is None or gap > promised):
                too_far.append(f"{name}, charge {charge:g}: {gap}")
    Console(width=170).print(table)
    assert too_far == []


def _figures(solved: Solved, promised: float | None) -> list[str]:
    plan, cost = solved.plan, solved.plan.cost
    return [
        str(len(plan.nodes)),
        f"{cost.price_per_hour:.4f}",
        f"{cost.objective_per_hour:.4f}",
        f"{cost.lower_bound:.4f}",
        f"{cost.gap:.2%}" if cost.gap is not None else "-",
        f"{promised:.0%}" if promised is not None else "",
        f"{plan.plan_s:.2f}",
        f"{plan.bound_s:.2f}",
        str(len(plan.unschedulable)),
    ]


HUNDRED_THOUSAND = """
import gc, resource
from nodeyard.provisioning.model import Options
from tests.support.invented_market import invented
from tests.support.planning import plan, posed
from tests.support.problems import fleet
import time

problem = posed(fleet(100_000, 500, 6, invented(1309, 4)))
gc.collect()
made = plan(problem, Options(), time.monotonic)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, made.plan_s + made.bound_s, len(made.nodes),
      len(made.unschedulable), made.cost.gap)
"""


def test_a_hundred_thousand_pods_take_less_than_a_gibibyte() -> None:
    """In a process of its own: manifests, snapshot and plan together."""
    done = subprocess.run(
        [sys.executable, "-c", HUNDRED_THOUSAND], capture_output=True, text=True, check=True, timeout=300
    )
    mib, seconds, nodes, left, gap = map(float, done.stdout.split())
    print(
        f"\n100,000 pods of 500 deployments: {mib:.0f} MiB at most, {seconds:.2f} s, {nodes:.0f} nodes, gap {gap:.2%}"
    )
    assert left == 0
    assert mib < 1024


def test_time_over_pods_shapes_types_and_nodes() -> None:
    """A table; what grows with what is for the eye."""
    table = Table("pods", "deployments", "types", "plan s", "bound s", "nodes", "gap", title="time over size")
    for pods, shapes, types in ((1000, 20, 400), (10_000, 20, 400), (50_000, 20, 400), (10_000, 100, 400),
                                (10_000, 400, 400), (10_000, 100, 100), (10_000, 100, 1200)):  # fmt: skip
        plan = solve(fleet(pods, shapes, 8, invented(types, 4), BOTH)).plan
        table.add_row(f"{pods:,}", str(shapes), str(types), f"{plan.plan_s:.2f}", f"{plan.bound_s:.2f}", str(len(plan.nodes)), f"{plan.cost.gap or 0:.2%}")  # fmt: skip
    Console(width=120).print(table)

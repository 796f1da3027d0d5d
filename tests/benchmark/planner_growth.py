"""Time of a plan over pods, shapes, types and nodes, as the table in docs/performance.md: run me to make it anew.

    python -m tests.benchmark.planner_growth

Each row is one generated problem (seeds in `planning_problems`), planned from a ready snapshot and a ready catalogue;
the figure is processor time of plan and bound, the median of three.
"""

from __future__ import annotations

import statistics
import time

from nodeyard.provisioning.model import Options, Plan, Problem
from nodeyard.provisioning.planner import plan
from tests.benchmark import planning_problems as problems

WIDTH = 40


def measured(problem: Problem) -> tuple[Plan, float]:
    """The plan, and the median of three runs in processor seconds."""
    plan(Problem(problem.snapshot, (), problem.catalogues, 0.0), Options(), time.process_time)
    times = []
    for _ in range(3):
        begin = time.process_time()
        made = plan(problem, Options(), time.process_time)
        times.append(time.process_time() - begin)
    return made, statistics.median(times)


def rows() -> list[tuple[str, int, Problem]]:
    """(what grows, how far, the problem)."""
    real = problems.real_catalogue()
    out = [
        ("pods", n, problems.problem_of(problems.deployments(n, 100), real)) for n in (1_000, 10_000, 100_000)
    ]
    out += [("shapes", n, problems.problem_of(problems.deployments(10_000, n), real)) for n in (10, 100, 500)]
    out += [
        ("types", n, problems.problem_of(problems.deployments(10_000, 100), problems.real_catalogue(n)))
        for n in (100, 400, 1_309)
    ]
    for n in (100, 500, 2_000):
        pods, nodes = problems.running(n, n * 15, 100)
        out.append(("nodes", n, problems.problem_of(pods, real, nodes)))
    return out


def main() -> None:
    """Print the table."""
    found = [(what, size, *measured(problem)) for what, size, problem in rows()]
    longest = max(seconds for *_, seconds in found)
    print("| grows | to | s | | gap |\n|---|---:|---:|---|---:|")
    for what, size, made, seconds in found:
        bar = "▇" * max(1, round(WIDTH * seconds / longest))
        gap = f"{made.cost.gap:.1%}" if made.cost.gap is not None else "-"
        print(f"| {what} | {size:,} | {seconds:.2f} | {bar} | {gap} |")


if __name__ == "__main__":
    main()

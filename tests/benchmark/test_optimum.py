"""Plans against the optimum, by a method that shares nothing with the planner: every way to fill a node is listed, and
an integer program over all of them is solved to its end.

Without a charge per node, at the default deadline. Small nodes keep the lists short; the shapes fit them badly, which
is what makes packing hard.
"""

import itertools
import random
import time

import highspy
import numpy as np
import pytest

from nodeyard.cloudprovider.model import Catalogue
from nodeyard.provisioning.model import Options
from nodeyard.provisioning.planner import plan
from tests.benchmark import planning_problems as problems

pytestmark = pytest.mark.benchmark
WITHIN = 0.02
SOLVE_S = 40.0
Shape = tuple[int, int]


def market(seed: int, types: int) -> Catalogue:
    """Some of the small types of the generated market."""
    small = [t for t in problems.real_catalogue(seed=seed).types if t.capacity["cpu"] <= 8000]
    return Catalogue(random.Random(seed).sample(small, types), f"small-{seed}-{types}")


def fillings(room: Shape, most_pods: int, shapes: list[Shape]) -> list[tuple[int, ...]]:
    """Every number of pods per shape that a node holds and that leaves no room for one more."""
    out: list[tuple[int, ...]] = []

    def fill(at: int, cpu: int, memory: int, pods: int, held: tuple[int, ...]) -> None:
        if at == len(shapes):
            if pods == 0 or not any(c <= cpu and m <= memory for c, m in shapes):
                out.append(held)
            return
        c, m = shapes[at]
        for many in range(min(cpu // c, memory // m, pods) + 1):
            fill(at + 1, cpu - many * c, memory - many * m, pods - many, (*held, many))

    fill(0, *room, most_pods, ())
    return out


def optimum(catalogue: Catalogue, shapes: list[Shape], demand: list[int]) -> float:
    """USD per hour that no set of nodes for so many pods of each shape is below."""
    patterns: dict[tuple[int, ...], float] = {}
    for kind in catalogue.types:
        price = min(offering.price for offering in kind.offerings)
        room = (kind.allocatable["cpu"], kind.allocatable["memory"])
        for filling in fillings(room, kind.allocatable["pods"], shapes):
            patterns[filling] = min(price, patterns.get(filling, np.inf))
    solver = highspy.Highs()
    solver.setOptionValue("output_flag", False)
    solver.setOptionValue(
        "threads", 1
    )  # as the planner has it: the first solver of a process decides for all
    solver.setOptionValue("time_limit", SOLVE_S)
    bought = [solver.addIntegral(lb=0, obj=price) for price in patterns.values()]
    for shape, wanted in enumerate(demand):
        held = [filling[shape] for filling in patterns]
        solver.addConstr(sum(b * many for b, many in zip(bought, held, strict=True) if many) >= wanted)
    solver.run()
    return float(solver.getInfo().mip_dual_bound)


@pytest.mark.parametrize(
    ("shapes", "types", "seed"), [(3, 8, 1), (3, 8, 2), (3, 8, 3), (4, 6, 4), (4, 6, 5), (5, 4, 6)]
)
def test_without_a_charge_plans_are_within_two_percent_of_the_optimum(
    shapes: int, types: int, seed: int
) -> None:
    rng = random.Random(seed)
    sizes = [
        (rng.randrange(450, 2000, 10), rng.randrange(700, 4000, 10) * problems.MIB) for _ in range(shapes)
    ]
    demand = [rng.randrange(10, 60) for _ in range(shapes)]
    catalogue = market(seed, types)
    pods = [
        (problems.shape(f"s{i}", *size, {"app": f"s{i}"}), "")
        for i, (size, many) in enumerate(zip(sizes, demand, strict=True))
        for _ in itertools.repeat(None, many)
    ]
    least = optimum(catalogue, sizes, demand)
    begin = time.monotonic()
    made = plan(problems.problem_of(pods, catalogue), Options(node_charge_usd_per_hour=0.0), time.monotonic)
    cost = made.cost
    print(
        f"\n{shapes} shapes, {types} types, {sum(demand)} pods: {cost.price_per_hour:.4f} USD/h, optimum {least:.4f}"
        f" ({cost.price_per_hour / least - 1:.2%} above), {time.monotonic() - begin:.1f} s"
    )
    assert sum(len(node.pods) for node in made.nodes) == sum(demand)
    assert cost.price_per_hour <= least * (1 + WITHIN)
    assert cost.lower_bound is not None
    assert cost.lower_bound <= cost.price_per_hour + 1e-9

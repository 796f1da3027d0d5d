"""Laws of consolidation, on small clusters of every make: no step leaves a pod without a place, breaks a budget or a
protection, or lets the rent rise further than promised; and no cluster is cheaper than the bound, as brute force shows.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nodeyard.api.pool import Budget
from nodeyard.disruption.arrangement import Arrangement
from nodeyard.disruption.budgets import allows
from nodeyard.disruption.consolidation import Play, Played, Settings
from nodeyard.provisioning.model import Options, Problem
from nodeyard.provisioning.planner import least
from nodeyard.state.cluster import Snapshot
from tests.support.disruption import NOW, TYPES, Builder, catalogue

SIZES = (500, 900, 1500, 2000, 3500)
CHARGE = 0.01
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def clusters(draw: st.DrawFn, *, protected: bool = True) -> tuple[Builder, str]:
    """Up to four nodes with up to three pods each, a budget, and perhaps an autoscaler of some of the pods."""
    made = Builder()
    budget = draw(st.sampled_from(["100%", "1", "50%"]))
    made.pool(budgets=(Budget(budget),))
    for cpu in SIZES:
        made.shape(f"s{cpu}", cpu, labels={"size": str(cpu)})
    for n in range(draw(st.integers(1, 4))):
        type_ = draw(st.sampled_from(list(TYPES)))
        made.node(f"n{n}", type_)
        free = TYPES[type_][0]
        for p in range(draw(st.integers(0, 3))):
            cpu = draw(st.sampled_from(SIZES))
            if cpu <= free:
                free -= cpu
                guarded = protected and draw(st.integers(0, 9)) == 0
                owner = draw(st.sampled_from(["rs", "other"]))
                keep = "true" if guarded else ""
                made.pod(f"p{n}-{p}", f"n{n}", shape=f"s{cpu}", do_not_disrupt=keep, owner_name=owner)
    made.vpa("rs", draw(st.sampled_from([None, None, 700, 1900, 3600])))
    if protected and draw(st.booleans()):
        cpu = draw(st.sampled_from(SIZES))
        made.pdb("some", draw(st.integers(0, 2)), {"size": str(cpu)})
    return made, budget


def played_out(made: Builder) -> Played:
    clock: Iterator[float] = (n * 0.002 for n in itertools.count())
    wanted = Settings(disruption_usd=0.0, seconds=1.5)
    return Play(made.view(), Options(deadline_s=1.0), wanted, lambda: next(clock)).run()


@QUICK
@given(clusters())
def test_every_step_holds_by_itself(drawn: tuple[Builder, str]) -> None:
    made, budget = drawn
    snapshot, played = made.snapshot, played_out(made)
    now = played.before.copy()
    start = now.rent
    for step in played.steps:
        _keeps_protections(snapshot, now, step.remove)
        assert len(step.remove) <= allows(Budget(budget), len(now.places))
        fresh = [played.after.places[n] for n in step.add if n in played.after.places]
        if len(fresh) == len(step.add):  # what is made and goes again is priced by its step alone
            # at the very most all new nodes, which cost less, beside all old ones
            assert not fresh or now.rent + sum(p.price for p in fresh) <= 2 * start + 1e-9
        now = _after(now, played, step.remove, step.add, dict(step.moves))
        _fits(snapshot, now)
        assert {k for pods in now.held.values() for k in pods} == {
            k for pods in played.before.held.values() for k in pods
        }
    assert {n: sorted(p) for n, p in now.held.items()} == {n: sorted(p) for n, p in played.after.held.items()}
    assert played.after.cost <= played.before.cost + 1e-9


@QUICK
@given(clusters(protected=False))
def test_no_cluster_is_cheaper_than_the_bound(drawn: tuple[Builder, str]) -> None:
    made, _ = drawn
    played = played_out(made)
    sizes = [
        made.snapshot.shape(made.snapshot.pods[k]).requests["cpu"]
        for pods in played.before.held.values()
        for k in pods
    ]
    if len(sizes) <= 6:
        least = _cheapest(sizes)
        assert played.bound <= least + 1e-6
        assert played.after.cost >= least - 1e-6


@QUICK
@given(clusters(protected=False), st.floats(1.0, 1.5))
def test_more_time_for_the_bound_proves_nothing_false(drawn: tuple[Builder, str], above: float) -> None:
    """`above`: how far the plan that is known is above the cheapest."""
    snapshot = drawn[0].snapshot
    shapes = [snapshot.shapes[snapshot.successor(pod)] for pod in snapshot.pods.values()]
    sizes = [shape.requests["cpu"] for shape in shapes]
    if not 0 < len(sizes) <= 6:
        return
    cheapest = _cheapest(sizes)
    problem = Problem(
        snapshot, tuple(snapshot.pods), {"default": catalogue()}, NOW, without_nodes=frozenset(snapshot.nodes)
    )
    clock: Iterator[float] = (n * 0.002 for n in itertools.count())
    low = least(problem, Options(), cheapest * above, 1.0, lambda: next(clock))
    assert 0.9 * cheapest <= low <= cheapest + 1e-6


def _cheapest(sizes: list[int]) -> float:
    """Brute force: every way to share the pods out among nodes, each of the cheapest type that holds its share."""
    offered = sorted((price / 3 + CHARGE, cpu) for cpu, price in TYPES.values())
    best = 0.0 if not sizes else float("inf")
    for groups in _partitions(sizes):
        cost = 0.0
        for group in groups:
            cost += next((c for c, cpu in offered if cpu >= sum(group)), float("inf"))
        best = min(best, cost)
    return best


def _partitions(sizes: list[int]) -> Iterator[list[list[int]]]:
    if not sizes:
        yield []
        return
    for groups in _partitions(sizes[1:]):
        for i in range(len(groups)):
            yield [*groups[:i], [*groups[i], sizes[0]], *groups[i + 1 :]]
        yield [*groups, [sizes[0]]]


def _after(
    now: Arrangement, played: Played, gone: tuple[str, ...], add: tuple[str, ...], moves: dict[str, str]
) -> Arrangement:
    out = now.copy()
    by_node: dict[str, list[str]] = {}
    for key, node in moves.items():
        by_node.setdefault(node, []).append(key)
    fresh = [played.made[n] for n in add]
    out.replace(gone, fresh, by_node)
    return out


def _fits(snapshot: Snapshot, now: Arrangement) -> None:
    """Pods count as they are where they were from the beginning, and as they come back where they came to."""
    for name, place in now.places.items():
        held = [snapshot.pods[k] for k in now.held.get(name, ())]
        shapes = [pod.shape if pod.node == name else snapshot.successor(pod) for pod in held]
        assert sum(snapshot.shapes[id_].requests["cpu"] for id_ in shapes) <= place.node.allocatable["cpu"]


def _keeps_protections(snapshot: Snapshot, now: Arrangement, gone: tuple[str, ...]) -> None:
    evicted = [snapshot.pods[k] for name in gone for k in now.held.get(name, ())]
    assert not any(pod.do_not_disrupt == "true" for pod in evicted)
    for pdb in snapshot.pdbs.values():
        assert pdb.selector is not None
        size = pdb.selector.match_labels["size"]
        mine = [pod for pod in evicted if snapshot.shape(pod).labels.get("size") == size]
        assert not mine or pdb.disruptions_allowed > 0
        assert len(gone) == 1 or len(mine) <= pdb.disruptions_allowed

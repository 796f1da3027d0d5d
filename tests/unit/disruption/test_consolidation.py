"""Consolidation played to its end: what goes, what stays and why, and that every step holds by itself."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import msgspec
import pytest

from nodeyard.api import labels as keys
from nodeyard.api.cluster import PersistentVolumeClaim
from nodeyard.api.pool import Budget
from nodeyard.api.selectors import LabelSelector, PodAffinity, PodAffinityTerm
from nodeyard.disruption.completing import completed
from nodeyard.disruption.consolidation import Play, Played, Settings, Way
from nodeyard.disruption.model import Block, Rule, View
from nodeyard.disruption.permission import Permission
from nodeyard.disruption.report import played_json
from nodeyard.disruption.search import Target
from nodeyard.disruption.unfolding import Pace
from nodeyard.provisioning.model import Options, Plan
from nodeyard.state.cluster import Kind
from tests.support.disruption import Builder, catalogue, shape
from tests.unit.disruption.test_emptiness_and_gates import pod_with_data_on_its_node

NOTHING = Block(Rule.NOT_CHEAPER, "")


def ticking() -> Iterator[float]:
    """A clock that moves by being looked at: time limits then mean the same everywhere."""
    return (n * 0.002 for n in itertools.count())


def time_stands_still() -> float:
    return 0.0


def play(view: View, **settings: object) -> Played:
    clock = ticking()
    wanted = Settings(**{"disruption_usd": 0.0, "seconds": 4.0} | settings)  # type: ignore[arg-type]
    return Play(view, Options(deadline_s=2.0), wanted, lambda: next(clock)).run()


def half_empty(nodes: int = 4, pods: int = 1, **pool: object) -> Builder:
    """Nodes of four cores, each with a pod or two of half a core."""
    made = Builder()
    made.pool(**pool)  # type: ignore[arg-type]
    for n in range(nodes):
        made.node(f"n{n}")
        for p in range(pods):
            made.pod(f"p{n}-{p}", f"n{n}")
    return made


def test_half_empty_nodes_become_one() -> None:
    played = play(half_empty().view())
    assert len(played.after.places) == 1
    assert played.after.cost < played.before.cost / 3
    assert played.bound <= played.after.cost + 1e-9


def test_every_pod_is_on_exactly_one_node_at_the_end() -> None:
    played = play(half_empty(5, 2).view())
    held = sorted(key for pods in played.after.held.values() for key in pods)
    assert held == sorted(key for pods in played.before.held.values() for key in pods)


def test_savings_of_the_steps_add_up() -> None:
    played = play(half_empty(5, 2).view())
    saved = sum(step.saves_per_hour for step in played.steps)
    assert abs(saved - (played.before.cost - played.after.cost)) < 1e-9


def test_a_node_with_a_protected_pod_stays_and_says_so() -> None:
    made = half_empty()
    made.pod("p0-0", "n0", do_not_disrupt="true")
    played = play(made.view())
    assert "n0" in played.after.places
    assert played.kept["n0"].rule is Rule.POD_DO_NOT_DISRUPT
    assert "default/p0-0" in played.after.held["n0"]


def test_a_budget_of_zero_keeps_all_nodes() -> None:
    played = play(half_empty(budgets=(Budget("0"),)).view())
    assert not played.steps
    assert {block.rule for block in played.kept.values()} == {Rule.BUDGET}
    assert played.bound == played.after.cost == played.before.cost


def test_a_budget_is_the_pace() -> None:
    played = play(half_empty(budgets=(Budget("1"),)).view())
    assert played.steps
    assert all(len(step.remove) <= 1 for step in played.steps)


def test_a_disruption_budget_without_room_keeps_its_pods() -> None:
    made = half_empty()
    made.pdb("web", 0)
    played = play(made.view())
    assert not played.steps
    assert {block.rule for block in played.kept.values()} == {Rule.PDB}


def test_a_disruption_budget_limits_each_step() -> None:
    made = half_empty()
    made.pdb("web", 1)
    played = play(made.view())
    assert len(played.after.places) == 1
    assert all(step.evictions <= 1 for step in played.steps)


def test_when_empty_only_empty_nodes_go() -> None:
    made = half_empty(3, policy="WhenEmpty")
    made.node("idle")
    played = play(made.view())
    assert [step.remove for step in played.steps] == [("idle",)]
    assert played.kept["n0"].rule is Rule.POLICY


def test_when_empty_a_node_goes_whose_pods_cost_nothing_to_evict() -> None:
    made = half_empty(2, policy="WhenEmpty")
    made.pod("p0-0", "n0", deletion_cost=-(2**31))
    played = play(made.view())
    assert [step.remove for step in played.steps] == [("n0",)]
    assert played.kept["n1"].rule is Rule.POLICY


def test_a_node_that_is_not_ready_uses_up_a_budget() -> None:
    made = half_empty(budgets=(Budget("1"),))
    made.node("sick", ready=False)
    played = play(made.view())
    assert not played.steps
    assert {block.rule for block in played.kept.values()} == {Rule.BUDGET}


def test_nodes_stay_for_the_budget_that_was_used_up_on_the_way() -> None:
    """A tenth of twelve nodes is two, of ten one; with one that is not ready none is left to go."""
    made = half_empty(11, budgets=(Budget("10%"),))
    made.node("sick", ready=False, annotations={keys.DO_NOT_DISRUPT: "true"})
    played = play(made.view())
    assert played.steps
    stays = {name: block.rule for name, block in played.kept.items() if name in played.after.places}
    assert stays.pop("sick") is Rule.NODE_DO_NOT_DISRUPT
    assert set(stays.values()) == {Rule.BUDGET}


def test_rounds_of_exchanges_leave_room_in_the_budget_for_nodes_that_are_not_ready() -> None:
    made = half_empty(5, 7, budgets=(Budget("2"),))
    made.node("sick", ready=False)
    view = made.view()
    player = Play(view, Options(), Settings(), time_stands_still)
    player.pace = Pace(player.allowed, ceiling=100.0)
    assert Permission(player).most(player.start, "default") == 1


def test_pods_without_a_node_get_one_also_where_only_single_exchanges_can_be_made() -> None:
    """One node may go at a time and new ones are hardly worth it: rounds begin with what waits placed."""
    made = half_empty(3, 7, budgets=(Budget("1"),))
    made.pod("waiting")
    view = made.view()
    player = Play(view, Options(deadline_s=2.0), Settings(disruption_usd=0.0), time_stands_still)
    player.ceiling = player.start.rent * 1.1
    player.pace = Pace(player.allowed, player.ceiling)
    way = Way([], player.start, player.homeless)
    housed = player._housed(way, player.search(way))
    assert not housed.homeless
    assert [step.reason for step in housed.steps] == ["Pending"]


def test_running_pods_are_not_moved_onto_a_claim_that_has_no_node_yet() -> None:
    made = half_empty(1)
    made.node("joining", "m5.4xlarge")
    made.put(Kind.NODE, "joining", None)
    claim = made.store.get(Kind.NODE_CLAIM, "joining-c")
    assert claim is not None
    room = {"cpu": 16_000, "memory": 64 * 2**20, "pods": 110}
    coming = msgspec.structs.replace(claim, node_name="", capacity=room, allocatable=room, conditions=())
    made.put(Kind.NODE_CLAIM, "joining-c", coming)
    made.pod("waiting")
    played = play(made.view())
    placed = {key: name for name, held in played.after.held.items() for key in held}
    assert placed.keys() == {"default/p0-0", "default/waiting"}
    assert all(name in played.after.places for step in played.steps for name in step.moves.values())


def test_a_node_stays_whose_pod_has_its_data_there() -> None:
    made = half_empty(3)
    pod_with_data_on_its_node(made, "n1")
    played = play(made.view())
    assert list(played.after.places) == ["n1"]
    assert played.kept["n1"].rule is Rule.LOCAL_VOLUME


def test_never_consolidate_keeps_nodes() -> None:
    played = play(half_empty(after=None).view())
    assert {block.rule for block in played.kept.values()} == {Rule.NEVER}


def test_a_node_made_for_a_pool_that_never_consolidates_stays() -> None:
    made = half_empty(2)
    made.pool("still", after=None)
    view = made.view()
    player = Play(view, Options(), Settings(), time_stands_still)
    player.pace = Pace(player.allowed, ceiling=100.0)
    now = player.start.copy()
    for name in ("n0", "n1"):
        now.places[name] = msgspec.structs.replace(
            now.places[name], pool="still" if name == "n1" else "default"
        )
    settled = player._settled(now)
    assert {name: place.movable for name, place in settled.places.items()} == {"n0": True, "n1": False}
    nothing = Plan()
    assert Permission(player).allows(now, ["n0"], nothing)
    assert not Permission(player).allows(now, ["n1"], nothing)


def test_where_time_is_short_all_new_nodes_may_run_beside_the_old_ones_at_once() -> None:
    made = half_empty(3, 7)
    player = Play(made.view(), Options(), Settings(), time_stands_still)
    target = player.start.copy()
    target.replace(["n0", "n1", "n2"], [], {})
    dear = [
        msgspec.structs.replace(
            player.start.places["n0"],
            node=msgspec.structs.replace(player.start.places["n0"].node, name=f"new{n}"),
            price=0.1,
        )
        for n in range(8)
    ]
    target.replace([], dear, {})
    way, aim = Way([], player.start, ()), Target(target, 0.0)
    rent = player.start.rent
    player.ceiling = rent
    assert player._widen(way, aim)
    assert player.ceiling == pytest.approx(rent + 0.1)
    assert player._widen(way, aim, fully=True)
    assert player.ceiling == pytest.approx(rent + 0.8)
    assert not player._widen(way, aim)


def test_pending_pods_are_placed_too() -> None:
    made = half_empty(2)
    for n in range(3):
        made.pod(f"new-{n}")
    played = play(made.view())
    assert not played.unplaced
    assert sum(map(len, played.after.held.values())) == 5


def test_a_high_price_of_disruption_keeps_everything() -> None:
    played = play(half_empty().view(), disruption_usd=10.0)
    assert not played.steps
    assert {block.rule for block in played.kept.values()} == {Rule.NOT_CHEAPER}


def test_pods_that_keep_apart_stay_apart() -> None:
    made = Builder()
    made.pool()
    apart = PodAffinity(required=(PodAffinityTerm(keys.HOSTNAME, LabelSelector({"app": "web"})),))
    made.put(Kind.SHAPE, "apart", shape("apart", labels={"app": "web"}, pod_anti_affinity=apart))
    for n in range(3):
        made.node(f"n{n}")
        made.pod(f"p{n}", f"n{n}", shape="apart")
    played = play(made.view())
    assert all(len(pods) <= 1 for pods in played.after.held.values())
    assert len(played.after.places) == 3
    assert played.after.cost < played.before.cost


def test_pods_stay_with_the_pods_they_need() -> None:
    made = Builder()
    made.pool()
    near = PodAffinity(required=(PodAffinityTerm(keys.HOSTNAME, LabelSelector({"app": "cache"})),))
    made.put(Kind.SHAPE, "cache", shape("cache", labels={"app": "cache"}))
    made.put(Kind.SHAPE, "near", shape("near", labels={"app": "front"}, pod_affinity=near))
    for n in range(3):
        made.node(f"n{n}")
    made.pod("cache", "n0", shape="cache")
    made.pod("front", "n0", shape="near", do_not_disrupt="true")
    made.pod("other", "n1")
    made.pod("more", "n2")
    played = play(made.view())
    where = {key: node for node, pods in played.after.held.items() for key in pods}
    assert where["default/cache"] == where["default/front"] == "n0"


def test_nodes_of_no_pool_are_left_alone_and_count() -> None:
    made = half_empty(3)
    node = made.store.get(Kind.NODE, "n2")
    assert node is not None
    labels = {k: v for k, v in node.labels.items() if k != keys.NODEPOOL}
    made.put(Kind.NODE, "n2", msgspec.structs.replace(node, labels=labels, provider_id="other"))
    played = play(made.view())
    assert "n2" in played.after.places
    assert played.kept["n2"].rule is Rule.NO_POOL
    assert played.after.places["n2"].price == played.before.places["n2"].price == 0.20


@pytest.mark.parametrize(("grace_s", "kept"), [(None, False), (29.0, True), (31.0, False)])
def test_no_node_goes_whose_drain_its_grace_period_would_cut_short(grace_s: float | None, kept: bool) -> None:
    made = half_empty(0)
    for name in ("a", "b", "c"):
        made.node(name, claim={"termination_grace_period_s": grace_s if name == "a" else None})
        made.pod(f"{name}-pod", name, grace_period_s=30.0)
    played = play(made.view())
    assert (played.kept.get("a", NOTHING).rule is Rule.DRAIN) == kept
    assert len(played.after.places) == 1
    assert ("a" in played.after.places) or not kept


def test_completed_nodes_drain_within_the_grace_period_of_their_pool() -> None:
    made = half_empty(3, termination_grace_period_s=10.0)
    for n in range(3):
        made.put(Kind.NODE_CLAIM, f"n{n}-c", None)
    bare = made.view()
    whole = msgspec.structs.replace(bare, snapshot=completed(bare.snapshot, {"": catalogue()}))
    assert {block.rule for block in play(whole).kept.values()} == {Rule.DRAIN}


def test_files_without_claims_are_completed() -> None:
    made = half_empty(3)
    for n in range(3):
        made.put(Kind.NODE_CLAIM, f"n{n}-c", None)
    bare = made.view()
    assert play(bare).kept["n0"].rule is Rule.NO_CLAIM
    whole = msgspec.structs.replace(bare, snapshot=completed(bare.snapshot, {"": catalogue()}))
    assert len(play(whole).after.places) == 1


def test_volume_claims_of_files_that_name_a_volume_are_bound() -> None:
    made = half_empty(1)
    made.put(
        Kind.PVC, "default/data", PersistentVolumeClaim("default", "data", volume_name="pv", phase="Bound")
    )
    made.put(Kind.PVC, "default/new", PersistentVolumeClaim("default", "new"))
    pvcs = completed(made.snapshot, {"": catalogue()}).pvcs
    assert pvcs["default/data"].bind_completed
    assert not pvcs["default/new"].bind_completed


def test_limits_hold_while_new_nodes_run_beside_old_ones() -> None:
    made = half_empty(3, limits={"cpu": 12_000})
    for n in range(3):
        made.pod(f"more-{n}", f"n{n}", shape=made.shape(f"s{n}", 2900).id)
    tight, wide = play(made.view()), half_empty(3, limits={"cpu": 20_000})
    for n in range(3):
        wide.pod(f"more-{n}", f"n{n}", shape=wide.shape(f"s{n}", 2900).id)
    assert not any(step.add for step in tight.steps)
    assert any(step.add for step in play(wide.view()).steps)


def test_a_budget_without_status_is_counted_from_its_pods() -> None:
    made = half_empty(4)
    made.pdb("web", 0, min_available="75%")
    snapshot = completed(made.snapshot, {"": catalogue()}, {"default/web"})
    assert snapshot.pdbs["default/web"].disruptions_allowed == 1
    stated = completed(made.snapshot, {"": catalogue()})
    assert stated.pdbs["default/web"].disruptions_allowed == 0


def test_the_report_lists_every_pod_and_names_what_stays() -> None:
    made = half_empty(3)
    made.pod("p0-0", "n0", do_not_disrupt="true")
    report = played_json(play(made.view()))
    (node,) = report["after"]["nodes"]
    assert node["existing"]
    assert node["name"] == "n0"
    assert node["pods"] == ["default/p0-0", "default/p1-0", "default/p2-0"]
    assert report["kept"][0]["node"] == "n0"
    assert report["after"]["objectivePerHour"] >= report["lowerBound"]

"""Nodes made anew: drift and graceful expiry, their order, their gates, fairness between pools, waves."""

import itertools
from typing import Any

import msgspec
import pytest

from nodeyard.api import labels as keys
from nodeyard.api.node import Condition
from nodeyard.api.pool import Budget, Renewal
from nodeyard.disruption.commands import Mark
from nodeyard.disruption.drift import DRIFTED
from nodeyard.disruption.expiry import expired, expiring, own_part
from nodeyard.disruption.methods import decide
from nodeyard.disruption.model import Action, Block, Command, Fate, Move, Outcome, Reason, Rule
from nodeyard.disruption.validation import still_open, validate
from nodeyard.disruption.waves import Wave, wave_of
from nodeyard.provisioning.claims import HASH_VERSION
from nodeyard.state.cluster import Kind
from tests.support.disruption import NOW, Builder, catalogue, clock, first_fit

STAMPED = {keys.NODEPOOL_HASH: "old", keys.NODEPOOL_HASH_VERSION: HASH_VERSION}
FRESH = {keys.NODEPOOL_HASH: "new", keys.NODEPOOL_HASH_VERSION: HASH_VERSION}


class Scene(Builder):
    """Pools whose template has changed, and that consolidate nothing, so that only drift and expiry act."""

    def changed(self, key: str = "default", renewal: Renewal | None = None, **fields: Any) -> None:
        pool = self.pool(key, after=None, hash="new", **fields)
        if renewal is not None:
            self.put(
                Kind.POOL,
                key,
                msgspec.structs.replace(
                    pool, disruption=msgspec.structs.replace(pool.disruption, renewal=renewal)
                ),
            )

    def drifted(
        self, name: str, since_s: float = 100.0, *, pods: int = 1, claim: dict[str, Any] | None = None,
        type_: str = "m5.large", **fields: Any,
    ) -> None:  # fmt: skip
        made = self.node(name, type_, claim={"annotations": STAMPED} | (claim or {}), **fields)[1]
        said = Condition(DRIFTED, "True", "NodePoolDrifted", "", NOW - since_s)
        self.put(
            Kind.NODE_CLAIM,
            made.name,
            msgspec.structs.replace(made, conditions=(*made.conditions, said)),
        )
        for i in range(pods):
            self.pod(f"{name}-{i}", name)

    def renewed(self, name: str, age: float = 50.0, **fields: Any) -> None:
        """A replacement that drift made."""
        annotations = FRESH | {keys.DISRUPTION_REASON: "Drifted", keys.REPLACES: "[]"}
        self.node(name, "m5.large", age=age, claim={"annotations": annotations}, **fields)

    def passed(self, **fields: Any) -> Outcome:
        return decide(self.view(**fields), first_fit, clock)

    def command(self, **fields: Any) -> Command:
        command = self.passed(**fields).command
        assert command is not None
        return command


def rule_of(outcome: Outcome, node: str) -> Rule | None:
    proposal = next(p for p in outcome.proposals if p.node == node)
    return proposal.blocks[0].rule if proposal.blocks else None


@pytest.fixture
def scene() -> Scene:
    made = Scene()
    made.changed()
    return made


# --- what goes, and in which order ------------------------------------------------------------------------------------
def test_a_drifted_node_gets_its_replacement_first_and_it_may_be_dearer(scene: Scene) -> None:
    scene.drifted("a")
    sold = catalogue({"m5.large": (100, 0.10), "m5.2xlarge": (8000, 0.40)}, spot=1.0)
    command = scene.command(catalogues={"default": sold})
    assert (command.reason, command.action, command.nodes) == (Reason.DRIFTED, Action.REPLACE, ("a",))
    assert command.saves_per_hour == pytest.approx(0.10 - 0.40)


def test_empty_drifted_nodes_go_first_and_together_within_the_budget(scene: Scene) -> None:
    scene.changed(budgets=(Budget("2", reasons=("Drifted",)),))
    scene.drifted("oldest", 900.0)
    for name, since_s in (("a", 10.0), ("b", 30.0), ("c", 20.0)):
        scene.drifted(name, since_s, pods=0)
    outcome = scene.passed()
    assert outcome.command is not None
    assert outcome.command.nodes == ("b", "c")
    assert rule_of(outcome, "a") is Rule.BUDGET


def test_the_one_that_drifted_first_goes_first(scene: Scene) -> None:
    for name, since_s in (("a", 10.0), ("b", 30.0), ("c", 20.0)):
        scene.drifted(name, since_s)
    assert scene.command().nodes == ("b",)


def test_drift_does_not_wait_for_consolidate_after(scene: Scene) -> None:
    scene.drifted("a")
    assert scene.command(quiet_since={"a": NOW - 1}).nodes == ("a",)


def test_pods_of_drifted_nodes_may_go_to_nodes_that_are_not_quiet_yet(scene: Scene) -> None:
    scene.pool(after=300.0, hash="new")
    scene.drifted("a")
    scene.node("b", "m5.4xlarge", claim={"annotations": FRESH})
    scene.pod("keeps-it", "b")
    command = scene.command(quiet_since={"a": NOW - 10, "b": NOW - 10})
    assert (command.reason, command.action) == (Reason.DRIFTED, Action.DELETE)


def test_a_node_whose_pods_have_no_place_stays_says_so_and_the_next_goes_on(scene: Scene) -> None:
    scene.shape("huge", 16000)
    scene.drifted("a", 900.0, pods=0)
    scene.pod("huge", "a", shape="huge")
    scene.drifted("b", 10.0)
    outcome = scene.passed(catalogues={"default": catalogue({"m5.large": (2000, 0.1)})})
    assert rule_of(outcome, "a") is Rule.UNPLACED
    assert outcome.command is not None
    assert outcome.command.nodes == ("b",)


def test_pods_move_to_nodes_that_stay_where_they_can(scene: Scene) -> None:
    scene.drifted("a", 20.0, type_="m5.xlarge")
    scene.drifted("b", 10.0, type_="m5.xlarge")
    assert scene.command().action is Action.REPLACE, "b goes itself soon"
    scene.node("c", "m5.4xlarge", claim={"annotations": FRESH}, annotations={keys.DO_NOT_DISRUPT: "true"})
    assert scene.command().action is Action.DELETE


@pytest.mark.parametrize("pods", [0, 1])
def test_a_node_that_pending_pods_count_on_stays_until_they_are_there(scene: Scene, pods: int) -> None:
    scene.drifted("a", pods=pods)
    scene.pod("pending")
    outcome = scene.passed()
    assert outcome.command is None
    assert rule_of(outcome, "a") is Rule.PENDING_PODS


@pytest.mark.parametrize("reason", [Reason.DRIFTED, Reason.EXPIRED])
@pytest.mark.parametrize("grace_s", [None, 600.0])
@pytest.mark.parametrize("obstacle", ["pdb", "annotation"])
def test_pods_hold_a_renewal_back_only_where_nothing_else_bounds_the_drain(
    reason: Reason, grace_s: float | None, obstacle: str
) -> None:
    scene = Scene()
    scene.changed(renewal=Renewal(graceful_expiry=True))
    claim: dict[str, Any] = {"termination_grace_period_s": grace_s}
    if reason is Reason.EXPIRED:
        scene.node("a", "m5.large", claim=claim | {"annotations": FRESH, "expire_after_s": 60.0})
        scene.pod("a-0", "a")
    else:
        scene.drifted("a", claim=claim)
    if obstacle == "pdb":
        scene.pdb("guard", 0)
    else:
        scene.pod("a-0", "a", do_not_disrupt="true")
    outcome = scene.passed()
    if grace_s is None:
        assert outcome.command is None
        assert rule_of(outcome, "a") in (Rule.PDB, Rule.POD_DO_NOT_DISRUPT)
        return
    assert outcome.command is not None
    assert outcome.command.reason is reason
    again = validate(outcome.command, scene.view(), first_fit, clock)
    assert isinstance(again, Command)
    assert still_open(again, scene.view()) is None


def test_a_node_annotated_not_to_be_disrupted_stays_whatever_its_grace_period(scene: Scene) -> None:
    scene.drifted("a", claim={"termination_grace_period_s": 60.0}, annotations={keys.DO_NOT_DISRUPT: "true"})
    assert rule_of(scene.passed(), "a") is Rule.NODE_DO_NOT_DISRUPT


def test_a_closed_budget_for_drift_keeps_the_node_and_not_quietly(scene: Scene) -> None:
    scene.changed(budgets=(Budget("0", reasons=("Drifted",)),))
    scene.drifted("a")
    outcome = scene.passed()
    assert outcome.command is None
    assert rule_of(outcome, "a") is Rule.BUDGET
    assert not outcome.quiet
    assert outcome.stopped("drift") == {Rule.BUDGET: 1}


# --- fairness between pools -------------------------------------------------------------------------------------------
def test_the_pool_with_the_fewest_under_way_comes_first(scene: Scene) -> None:
    scene.changed("other")
    scene.drifted("a", 900.0)
    scene.drifted("b", 800.0)
    scene.drifted("c", 10.0, pool="other")
    assert scene.command().nodes == ("a",)
    node = scene.snapshot.nodes["a"]
    mark = msgspec.json.encode(Mark("x", Reason.DRIFTED, 1, NOW)).decode()
    scene.put(
        Kind.NODE,
        "a",
        msgspec.structs.replace(node, annotations={"nodeyard.dev/disruption-command": mark}),
    )
    assert scene.command(in_command=frozenset({"a"})).nodes == ("c",)


def test_a_pool_whose_replacements_fail_does_not_hold_up_the_others(scene: Scene) -> None:
    scene.changed("other")
    scene.drifted("a", 900.0)
    scene.drifted("c", 10.0, pool="other")
    failed = tuple(
        Move(str(i), "default", Reason.DRIFTED, (), (), NOW - 30, Fate.UNDONE, NOW - 30) for i in range(3)
    )
    outcome = scene.passed(moves=failed)
    assert rule_of(outcome, "a") is Rule.BACKOFF
    assert outcome.command is not None
    assert outcome.command.nodes == ("c",)
    assert scene.command(moves=tuple(msgspec.structs.replace(m, ended_at=NOW - 300) for m in failed)).nodes == (
        "a",
    )  # fmt: skip


# --- waves ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("healthy", "most"), [(0, 1), (1, 3), (2, 3), (3, 7), (6, 7), (7, 15)])
def test_waves_double(healthy: int, most: int) -> None:
    assert Wave(healthy, healthy).most == most


def test_the_next_wave_waits_until_the_one_before_is_healthy(scene: Scene) -> None:
    for i in range(4):
        scene.drifted(f"old-{i}", 100.0)
        scene.pod(f"big-{i}", f"old-{i}", shape=scene.shape("big", 1400).id)
    assert scene.command().nodes == ("old-0",)
    scene.renewed("new-0", initialized=False)
    scene.put(Kind.NODE, "new-0", None)
    outcome = scene.passed()
    assert outcome.command is None
    assert rule_of(outcome, "old-0") is Rule.WAVE
    scene.renewed("new-0")
    scene.pod("filling", "new-0", shape=scene.shape("filling", 1900).id)
    assert scene.command().nodes == ("old-0",)


def test_a_replacement_that_is_not_ready_or_whose_pods_break_stops_the_waves(scene: Scene) -> None:
    scene.drifted("old", 100.0)
    scene.renewed("new")
    assert wave_of(scene.snapshot, "default", NOW, 0.0) == Wave(1, 1)
    assert wave_of(scene.snapshot, "default", NOW, 60.0) == Wave(1, 0)
    scene.pod("p", "new", ready=False)
    assert wave_of(scene.snapshot, "default", NOW, 0.0) == Wave(1, 0)
    scene.pod("p", "new", ready=False, owner_name="runs-nowhere")
    assert wave_of(scene.snapshot, "default", NOW, 0.0) == Wave(1, 1), (
        "not the node's fault, as far as is known"
    )
    scene.pod("p", "new", ready=False, scheduled_at=NOW - 60)
    assert wave_of(scene.snapshot, "default", NOW, 0.0) == Wave(1, 1), "it may still be starting"
    scene.renewed("new", ready=False)
    assert wave_of(scene.snapshot, "default", NOW, 0.0) == Wave(1, 0)


def test_replacements_of_an_earlier_change_do_not_count(scene: Scene) -> None:
    scene.drifted("old", 100.0)
    scene.renewed("from-last-week", age=1000.0)
    assert wave_of(scene.snapshot, "default", NOW, 0.0) == Wave(0, 0)


def test_a_replacement_that_has_drifted_itself_proves_nothing(scene: Scene) -> None:
    scene.drifted("old", 100.0)
    scene.renewed("new")
    claim = scene.snapshot.claims["new-c"]
    said = Condition(DRIFTED, "True", "NodeClassDrift", "", NOW - 10)
    scene.put(Kind.NODE_CLAIM, "new-c", msgspec.structs.replace(claim, conditions=(*claim.conditions, said)))
    assert wave_of(scene.snapshot, "default", NOW, 0.0) == Wave(0, 0)


def test_a_pool_may_drift_without_waves_and_nodes_without_replacements_need_none(scene: Scene) -> None:
    scene.drifted("old", 100.0)
    scene.renewed("starting", initialized=False, annotations={keys.DO_NOT_DISRUPT: "true"})
    scene.pod("big", "old", shape=scene.shape("big", 1400).id)
    assert rule_of(scene.passed(), "old") is Rule.WAVE
    scene.changed(renewal=Renewal(waves=False))
    assert scene.command().nodes == ("old",)
    scene.changed()
    scene.node("roomy", "m5.4xlarge", claim={"annotations": FRESH}, annotations={keys.DO_NOT_DISRUPT: "true"})
    assert scene.command().action is Action.DELETE


# --- expiry -------------------------------------------------------------------------------------------------------------
def aged(scene: Scene, name: str, age_s: float, expire_s: float = 1000.0) -> None:
    scene.node(name, "m5.large", age=age_s, claim={"annotations": FRESH, "expire_after_s": expire_s})
    scene.pod(f"{name}-p", name)


def test_expiry_is_forceful_and_punctual_by_default(scene: Scene) -> None:
    aged(scene, "a", 1000.0)
    aged(scene, "b", 999.0)
    assert [c.name for c in expired(scene.snapshot, NOW)] == ["a-c"]
    assert expiring(scene.snapshot, NOW) == {}
    assert scene.passed().command is None


def test_a_pool_may_expire_its_nodes_gracefully_within_budgets_and_with_replacements(scene: Scene) -> None:
    scene.changed(renewal=Renewal(graceful_expiry=True), budgets=(Budget("1"),))
    aged(scene, "a", 1100.0)
    aged(scene, "b", 1200.0)
    assert expired(scene.snapshot, NOW) == ()
    command = scene.command()
    assert (command.reason, command.action, command.nodes) == (Reason.EXPIRED, Action.REPLACE, ("b",))
    scene.changed(renewal=Renewal(graceful_expiry=True), budgets=(Budget("0", reasons=("Expired",)),))
    assert rule_of(scene.passed(), "b") is Rule.BUDGET


def test_patience_with_graceful_expiry_ends_at_its_cap(scene: Scene) -> None:
    scene.changed(renewal=Renewal(graceful_expiry=True, expiry_cap_s=100.0))
    aged(scene, "a", 1100.0)
    aged(scene, "b", 1099.0)
    assert [c.name for c in expired(scene.snapshot, NOW)] == ["a-c"]
    assert set(expiring(scene.snapshot, NOW)) == {"b-c"}


def test_jitter_spreads_nodes_made_together_and_stays_the_same_for_each(scene: Scene) -> None:
    scene.changed(renewal=Renewal(expiry_jitter=0.1))
    for i in range(50):
        aged(scene, f"n{i}", 0.0)
    claims = scene.snapshot.claims.values()
    gone = [{c.name for c in expired(scene.snapshot, NOW + s)} for s in (899, 950, 1000, 1050, 1101)]
    assert gone[0] == set()
    assert len(gone[-1]) == 50
    assert all(before <= after for before, after in itertools.pairwise(gone))
    assert 10 < len(gone[2]) < 40
    assert len({own_part(c) for c in claims}) == 50


# --- the second look ----------------------------------------------------------------------------------------------------
def test_a_node_that_drifts_no_more_is_left_alone(scene: Scene) -> None:
    scene.drifted("a")
    command = scene.command()
    scene.pool(after=None, hash="old")
    again = validate(command, scene.view(), first_fit, clock)
    assert isinstance(again, Block)
    assert again.rule is Rule.CHANGED


def test_only_the_drifted_node_that_a_pod_came_to_drops_out(scene: Scene) -> None:
    scene.drifted("a", pods=0)
    scene.drifted("b", pods=0)
    command = scene.command()
    scene.pod("late", "a")
    again = validate(command, scene.view(), first_fit, clock)
    assert isinstance(again, Command)
    assert again.nodes == ("b",)


def test_the_replacements_are_those_of_the_second_look(scene: Scene) -> None:
    scene.drifted("a")
    command = scene.command()
    scene.pod("late", "a", shape=scene.shape("big", 1400).id)
    again = validate(command, scene.view(), first_fit, clock)
    assert isinstance(again, Command)
    assert "default/late" in again.replacements[0].pods

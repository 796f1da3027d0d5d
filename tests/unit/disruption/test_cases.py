"""Cases that are easy to get wrong, each under its own name; the finer points are in the other files here."""

from datetime import UTC, datetime

import msgspec
import pytest

from nodeyard.api import labels as keys
from nodeyard.api.node import INITIALIZED, Condition
from nodeyard.api.nodeclass import NodeClass
from nodeyard.api.pool import Budget
from nodeyard.api.selectors import Requirement
from nodeyard.cloudprovider.model import Catalogue
from nodeyard.cloudprovider.reservations import CapacityReservation, ReservationSheet, found_of, standing
from nodeyard.disruption.budgets import Room, active
from nodeyard.disruption.candidates import candidates
from nodeyard.disruption.collection import Instance
from nodeyard.disruption.commands import DISRUPTED_TAINT, MARK, Mark, Verdict, progress, running, stale
from nodeyard.disruption.draining import Deletion, drain
from nodeyard.disruption.drift import DRIFTED, drift_of
from nodeyard.disruption.methods import decide
from nodeyard.disruption.model import Action, Block, Command, Options, Outcome, Planner, Reason, Rule
from nodeyard.disruption.replacement import cheaper, choices
from nodeyard.disruption.reserved import OUTSIDE, expiring, fallen_out
from nodeyard.disruption.validation import validate
from nodeyard.provisioning.claims import HASH_VERSION
from nodeyard.provisioning.lifecycle import not_initialized
from nodeyard.provisioning.model import OfferingRef, Plan, PlannedNode, Problem
from nodeyard.provisioning.model import Options as PlanOptions
from nodeyard.provisioning.pending import pending
from nodeyard.provisioning.planner import plan
from nodeyard.state.cluster import Kind
from tests.support.disruption import NOW, ZONE, Builder, catalogue, clock, first_fit, passed, shape


def rule_of(outcome: Outcome, node: str) -> Rule | None:
    proposal = next(p for p in outcome.proposals if p.node == node)
    return proposal.blocks[0].rule if proposal.blocks else None


def command_of(outcome: Outcome) -> Command:
    assert outcome.command is not None
    return outcome.command


def market(*rows: tuple[str, float, float]) -> dict[str, Catalogue]:
    """Types of equal size at (on-demand price, spot price)."""
    made = catalogue({name: (2000, price) for name, price, _ in rows})
    types = []
    for kind, (_, price, spot) in zip(made.types, rows, strict=True):
        offers = tuple(
            msgspec.structs.replace(o, price=spot if o.capacity_type == keys.SPOT else price)
            for o in kind.offerings
        )
        types.append(msgspec.structs.replace(kind, offerings=offers))
    return {"default": Catalogue(types, "1")}


def test_price_capped_on_demand_to_spot() -> None:
    """{A spot < current on-demand < A on-demand}: a spot shortage must fail the command, not buy something dearer."""
    build = Builder()
    build.pool()
    build.node("a", "m5.large")
    build.pod("p", "a")
    sold = market(("m5.large", 0.10, 0.12), ("a.large", 0.15, 0.05))
    (new,) = command_of(passed(build, catalogues=sold)).replacements
    assert {(r.instance_type, r.capacity_type) for r in choices(new)} == {("a.large", keys.SPOT)}
    pinned = next(r for r in new.requirements if r.key == keys.CAPACITY_TYPE)
    assert pinned.values == (keys.SPOT,)


def replacing(build: Builder, *, initialized: bool, deleting: bool) -> None:
    """An old node with a pod and a taint, and the replacement of a command."""
    build.pool()
    mark = msgspec.json.encode(Mark("cmd", Reason.UNDERUTILIZED, 1, NOW)).decode()
    going = {"deleted_at": NOW} if deleting else {}
    build.node("old", taints=(DISRUPTED_TAINT,), annotations={MARK: mark}, claim=going)
    build.pod("p", "old")
    build.node("new", initialized=initialized, claim={"annotations": {MARK: "cmd"}})


@pytest.mark.parametrize("initialized", [True, False])
def test_no_double_launch(initialized: bool) -> None:
    """The old node's pods look for a place only once it is deleted, which is after its replacement exists."""
    build = Builder()
    replacing(build, initialized=initialized, deleting=False)
    assert pending(build.snapshot, NOW).all == ()
    replacing(build, initialized=initialized, deleting=True)
    need = pending(build.snapshot, NOW)
    assert need.all == ("default/p",)
    plan = first_fit(
        Problem(build.snapshot, need.all, build.view().catalogues, NOW, without_nodes=frozenset({"old"}))
    )
    assert plan.nodes == ()


def test_same_type_trap() -> None:
    """Two large and one small for pods that fit on one small: that is a removal of two, not an exchange of three."""
    build = Builder()
    build.pool()
    for name, type_ in (("a", "m5.xlarge"), ("b", "m5.xlarge"), ("c", "m5.large")):
        build.node(name, type_)
    gone = candidates(build.view())
    small = OfferingRef("m5.large", ZONE, keys.ON_DEMAND, 0.10)
    less = OfferingRef("m5.tiny", ZONE, keys.ON_DEMAND, 0.05)

    def planned(first: OfferingRef, *more: OfferingRef) -> PlannedNode:
        return PlannedNode(
            "n", "default", first.instance_type, ZONE, keys.ON_DEMAND, first.price_per_hour, (), alternatives=more
        )  # fmt: skip

    assert isinstance(cheaper(planned(small), gone, Options()), Block)
    kept = cheaper(planned(less, small), gone, Options())
    assert isinstance(kept, PlannedNode)
    assert choices(kept) == [less]


def planned(problem: Problem) -> Plan:
    return plan(problem, PlanOptions(bound=False), clock)


@pytest.mark.parametrize(("planner", "least"), [(first_fit, None), (planned, None), (planned, 20)])
def test_spot_ladder(planner: Planner, least: int | None) -> None:
    """Fourteen cheaper types are too few, of more than fifteen the fifteen cheapest (as many as the pool's minValues wants,
    if that is more); the new node stays then. How much dearer than the cheapest the fifteenth is does not matter.
    """
    gate = Options(spot_to_spot=True)
    wanted = (Requirement(keys.INSTANCE_TYPE, "Exists", (), least),) if least else ()

    def ladder(count: int, current: str) -> Outcome:
        build = Builder()
        build.pool(requirements=wanted)
        build.node("a", "m5.4xlarge", capacity_type=keys.SPOT)
        node = build.snapshot.nodes["a"]
        labels = node.labels | {keys.INSTANCE_TYPE: current}
        build.put(Kind.NODE, "a", msgspec.structs.replace(node, labels=labels))
        build.pod("p", "a")
        rows = [(f"t{i:02}.large", 9.0, 0.03 * 1.1**i) for i in range(count)]
        sold = market(*rows, ("m5.4xlarge", 9.0, 0.8))
        return decide(build.view(options=gate, catalogues=sold), planner, clock)

    assert rule_of(ladder(14, "m5.4xlarge"), "a") in (Rule.SPOT_TO_SPOT, Rule.UNPLACED)
    (new,) = command_of(ladder(24, "m5.4xlarge")).replacements
    types = {r.instance_type for r in choices(new)}
    assert types == {f"t{i:02}.large" for i in range(least or 15)}
    for launched in sorted(types)[:15]:
        assert ladder(24, launched).command is None


def test_budget_does_not_freeze() -> None:
    """A pass that only a budget stopped is not remembered; when the budget opens, the cluster need not change."""
    build = Builder()
    build.pool(budgets=(Budget("0", schedule="0 9 * * *", duration_s=8 * 3600.0),))
    build.node("a")
    morning = datetime(2026, 3, 2, 16, 59, tzinfo=UTC).timestamp()
    shut = passed(build, now=morning)
    assert rule_of(shut, "a") is Rule.BUDGET
    assert not shut.quiet
    assert command_of(passed(build, now=morning + 60)).nodes == ("a",)


def test_churn_at_validation() -> None:
    """A pod that binds during the wait saves its node; of empty nodes only that one drops out."""
    build = Builder()
    build.pool()
    build.node("a", "m5.4xlarge")
    build.pod("p", "a")
    exchange = command_of(passed(build))
    build.shape("big", 3000)
    build.pod("late", "a", shape="big")
    assert isinstance(validate(exchange, build.view(), first_fit, clock), Block)
    empties = Builder()
    empties.pool()
    for name in ("a", "b", "c"):
        empties.node(name)
    removal = command_of(passed(empties))
    empties.pod("late", "b")
    left = validate(removal, empties.view(), first_fit, clock)
    assert isinstance(left, Command)
    assert left.nodes == ("a", "c")


def test_uninitialised_target() -> None:
    """Running pods don't count on a node that is still starting; pods of leaving nodes may."""
    build = Builder()
    build.pool()
    build.node("a", "m5.large")
    build.pod("p", "a")
    build.node("starting", "m5.4xlarge", initialized=False)
    assert rule_of(passed(build, catalogues={"default": catalogue(spot=9.0)}), "a") is Rule.NOT_CHEAPER
    build.node("a", "m5.large", claim={"deleted_at": NOW})
    asked: list[Problem] = []

    def spy(problem: Problem) -> object:
        asked.append(problem)
        return first_fit(problem)

    build.node("b")
    build.pod("q", "b")
    decide(build.view(), spy, clock)  # type: ignore[arg-type]
    assert asked[0].pods == ("default/p",)
    assert asked[0].uninitialized_targets
    assert not asked[1].uninitialized_targets


def test_cost_empty() -> None:
    build = Builder()
    build.pool(
        policy="WhenEmpty", budgets=(Budget("1", reasons=("Empty",)), Budget("0", reasons=("Drifted",)))
    )
    build.node("a")
    build.pod("p", "a", deletion_cost=-(2**31))
    command = command_of(passed(build))
    assert (command.reason, command.action) == (Reason.EMPTY, Action.DELETE)


def test_consolidate_after_target() -> None:
    """A node that got a pod ten seconds ago takes no running pod for five minutes, a pending one at once."""
    build = Builder()
    build.pool(after=300.0)
    build.node("a")
    build.pod("p", "a")
    build.node("b")
    build.pod("q", "b")
    asked: list[Problem] = []

    def spy(problem: Problem) -> object:
        asked.append(problem)
        return first_fit(problem)

    build.pod("pending")
    decide(build.view(quiet_since={"b": NOW - 10.0}), spy, clock)  # type: ignore[arg-type]
    assert asked[0].pods == ("default/pending",)
    assert "b" not in asked[0].closed_nodes
    assert all("b" in problem.closed_nodes for problem in asked[1:] if "default/q" not in problem.pods)


@pytest.mark.parametrize("grace_s", [None, 600.0])
def test_drift_with_a_grace_period_and_a_blocking_budget(grace_s: float | None) -> None:
    """Drift begins only where the claim's grace period bounds the drain; consolidation begins in neither case."""
    build = Builder()
    build.pool(hash="new")
    build.node("idle", "m5.4xlarge", annotations={keys.DO_NOT_DISRUPT: "true"})
    annotations = {keys.NODEPOOL_HASH: "old", keys.NODEPOOL_HASH_VERSION: HASH_VERSION}
    claim = {"annotations": annotations, "termination_grace_period_s": grace_s}
    _, made = build.node("a", claim=claim)
    build.pod("p", "a")
    build.pdb("guard", 0)
    said = Condition(DRIFTED, "True", "NodePoolDrifted", "", NOW - 60)
    build.put(Kind.NODE_CLAIM, "a-c", msgspec.structs.replace(made, conditions=(*made.conditions, said)))
    outcome = passed(build)
    if grace_s is None:
        assert outcome.command is None
        assert rule_of(outcome, "a") is Rule.PDB
    else:
        assert command_of(outcome).reason is Reason.DRIFTED
    build.pool(hash="old")
    assert passed(build).command is None
    assert rule_of(passed(build), "a") is Rule.PDB


def test_deadline_tightening() -> None:
    """A grace of 60 s and 45 s left: deleted at once with what is left, though lower tiers still drain."""
    build = Builder()
    shapes = {"web": shape("web"), "critical": shape("critical", priority=2_000_000_000)}
    slow = msgspec.structs.replace(build.pod("slow", "a", grace_period_s=60.0), shape="critical")
    web = build.pod("web", "a")
    todo = drain((slow, web), shapes, NOW, deadline=NOW + 45.0)
    assert todo.delete == (Deletion("default/slow", 45),)
    assert todo.evict == ("default/web",)
    assert drain((web,), shapes, NOW, deadline=NOW - 10.0).delete == (Deletion("default/web", 1),)


def test_stateful_set_versus_replica_set() -> None:
    """Of terminating pods on a leaving node, the StatefulSet's comes back under its name, the ReplicaSet's has."""
    build = Builder()
    build.pool()
    build.node("going", claim={"deleted_at": NOW})
    build.pod("set-0", "going", owner_kind="StatefulSet", deleted_at=NOW + 30)
    build.pod("rs-x", "going", owner_kind="ReplicaSet", deleted_at=NOW + 30)
    assert pending(build.snapshot, NOW).all == ("default/set-0",)


def test_percent_budget() -> None:
    """Ten nodes, 5 %, one not ready: one rounded up, less one; replacements that are starting don't count."""
    build = Builder()
    build.pool(budgets=(Budget("5%"),))
    for i in range(10):
        build.node(f"n{i}", ready=i > 0)
    for i in range(30):
        build.node(f"starting-{i}", initialized=False)
    room = Room(build.snapshot, frozenset(), NOW)
    assert room.nodes["default"] == 10
    assert room.left("default", Reason.UNDERUTILIZED) == 0


def test_cron_window_edge() -> None:
    def holds(hour: int, minute: int, second: int, duration_s: float = 8 * 3600.0) -> bool:
        moment = datetime(2026, 3, 2, hour, minute, second, tzinfo=UTC).timestamp()
        return active(Budget("0", schedule="0 9 * * *", duration_s=duration_s), moment)

    assert [holds(8, 59, 59), holds(9, 0, 0), holds(16, 59, 59), holds(17, 0, 0)] == [
        False,
        True,
        True,
        False,
    ]
    assert all(holds(hour, 0, 0, 25 * 3600.0) for hour in range(24))


def test_reservation_expiry() -> None:
    """39 minutes before its end a block takes nothing more and its claim goes; a plain reservation's node stays, and is
    on-demand once it is outside, which is no drift where the pool allows it.
    """
    build = Builder()
    build.pool(requirements=(Requirement(keys.CAPACITY_TYPE, "In", (keys.RESERVED, keys.ON_DEMAND)),))
    plain = CapacityReservation("cr-1", "m5.xlarge", ZONE, 1, 1, ends_at=NOW + 39 * 60)
    block = msgspec.structs.replace(plain, id="cb-1", kind=keys.CAPACITY_BLOCK)
    left = standing(ReservationSheet(NOW - 600.0, (plain, block)), NOW)
    assert {r.id: r.available for r in left} == {"cr-1": 1, "cb-1": 0}
    build.put(Kind.NODE_CLASS, "default", NodeClass("default", capacity_reservations=found_of(left)))
    for name, id_ in (("plain", "cr-1"), ("block", "cb-1")):
        _, claim = build.node(name)
        labels = claim.labels | {keys.CAPACITY_TYPE: keys.RESERVED, keys.RESERVATION_ID: id_}
        build.put(Kind.NODE_CLAIM, claim.name, msgspec.structs.replace(claim, labels=labels))
    snapshot = build.snapshot
    assert [c.name for c in expiring(snapshot)] == ["block-c"]
    outside = {"i-plain": Instance("i-plain", "running"), "i-block": Instance("i-block", "running")}
    outside["i-block"] = msgspec.structs.replace(outside["i-block"], reservation="cb-1")
    (ended,) = fallen_out(snapshot, outside)
    assert ended.name == "plain-c"
    labels = {k: v for k, v in (ended.labels | OUTSIDE).items() if v is not None}
    relabelled = msgspec.structs.replace(ended, labels=labels)
    assert labels[keys.CAPACITY_TYPE] == keys.ON_DEMAND
    assert drift_of(relabelled, snapshot, {"": catalogue()}, NOW + 7200.0) is None


def test_rollback() -> None:
    """A replacement that vanishes loses the command; what it had marked is found without it, by any replica."""
    build = Builder()
    replacing(build, initialized=False, deleting=False)
    build.put(Kind.NODE_CLAIM, "new-c", None)
    (command,) = running(build.snapshot)
    assert progress(command, build.snapshot, NOW, 1)[0] is Verdict.LOST
    node = build.snapshot.nodes["old"]
    build.put(Kind.NODE, "old", msgspec.structs.replace(node, annotations={}))
    assert running(build.snapshot) == ()
    assert stale(build.snapshot, (), frozenset()) == ("old",)


def test_extended_resource_init() -> None:
    """A node whose GPU has not shown up is not initialized, and so neither goes nor takes pods."""
    build = Builder()
    build.pool()
    gpu = {"cpu": 100, "nvidia.com/gpu": 1}
    node, claim = build.node("a", "m5.4xlarge", initialized=False, claim={"requests": gpu})
    reason = not_initialized(node, claim)
    assert reason is not None
    assert reason[0] == "ResourceNotRegistered"
    build.node("b", "m5.large")
    build.pod("p", "b")
    outcome = passed(build, catalogues={"default": catalogue(spot=9.0)})
    assert rule_of(outcome, "a") is Rule.NOT_INITIALIZED
    assert rule_of(outcome, "b") is Rule.NOT_CHEAPER
    with_gpu = msgspec.structs.replace(node, allocatable=node.allocatable | {"nvidia.com/gpu": 1})
    assert not_initialized(with_gpu, claim) is None
    assert not claim.is_true(INITIALIZED)

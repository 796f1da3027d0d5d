"""What no command may do, told by oracles of its own over random clusters of two pools: leave a pod without a place,
break a budget, a PodDisruptionBudget or do-not-disrupt, or end dearer than it began, unless its reason allows it.
"""

import msgspec
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from nodeyard.api import labels as keys
from nodeyard.api.cluster import PodDisruptionBudget
from nodeyard.api.node import Node
from nodeyard.api.pod import PodRecord
from nodeyard.api.pool import Budget
from nodeyard.api.selectors import LabelSelector
from nodeyard.disruption.methods import decide
from nodeyard.disruption.model import Command, Outcome, Planner, Reason, View
from nodeyard.disruption.reaction import react
from nodeyard.disruption.validation import validate
from nodeyard.provisioning.claims import HASH_VERSION
from nodeyard.provisioning.model import Options as PlanOptions
from nodeyard.provisioning.model import Plan, Problem
from nodeyard.provisioning.planner import plan
from nodeyard.state.cluster import Kind
from tests.support.disruption import NOW, TYPES, Builder, catalogue, clock, first_fit

SIZES = {"s": 250, "m": 900, "l": 1900}
POOLS = ("default", "two")
BUDGETS = ("100%", "100%", "50%", "34%", "2", "1", "0")
FOREVER = 1e9
CAREFUL = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
OUTDATED = {keys.NODEPOOL_HASH: "old", keys.NODEPOOL_HASH_VERSION: HASH_VERSION}
PROTECTIONS = ("",) * 12 + ("true", "false", "1h", "10m", "soon")
"""Started 50 minutes ago: an hour protects, ten minutes no more, and what can't be read never did."""


def real(problem: Problem) -> Plan:
    return plan(problem, PlanOptions(bound=False), clock)


PLANNERS = st.sampled_from([first_fit, first_fit, real])


@st.composite
def clusters(draw: st.DrawFn) -> tuple[View, dict[str, list[Budget]]]:
    """A view, and the budgets of its pools."""
    build = Builder()
    for id_, cpu in SIZES.items():
        build.shape(id_, cpu, labels={"app": id_, "tier": "any"})
    budgets: dict[str, list[Budget]] = {}
    for pool in POOLS:
        nodes = draw(st.sampled_from(BUDGETS))
        reasons = draw(st.sampled_from([(), (), ("Underutilized",), ("Drifted",), ("Empty", "Expired")]))
        budgets[pool] = [Budget("100%"), Budget(nodes, reasons=reasons)]
        build.pool(pool, budgets=budgets[pool], hash="new", policy=draw(_policies()))
    for i in range(draw(st.integers(1, 6))):
        _node(draw, build, f"n{i}", draw(st.sampled_from(POOLS)))
    for k in range(draw(st.sampled_from([0, 0, 1]))):
        build.pod(f"pending-{k}", shape=draw(st.sampled_from(sorted(SIZES))))
    for name in draw(st.sampled_from([(), (), ("a",), ("a", "b")])):
        app = draw(st.sampled_from([*SIZES, "any"]))
        label = {"tier": "any"} if app == "any" else {"app": app}
        policy = draw(st.sampled_from(["", "AlwaysAllow"]))
        build.pdb(name, draw(st.integers(0, 2)), label, unhealthy_pod_eviction_policy=policy)
    return build.view(catalogues={"default": catalogue()}), budgets


def _policies() -> st.SearchStrategy[str]:
    return st.sampled_from(["WhenEmptyOrUnderutilized"] * 3 + ["WhenEmpty", "Balanced"])


def _node(draw: st.DrawFn, build: Builder, name: str, pool: str) -> None:
    type_ = draw(st.sampled_from(sorted(TYPES)))
    claim = draw(st.sampled_from([{}] * 6 + [{"deleted_at": NOW}, {"expire_after_s": 7200.0}]))
    claim = claim | draw(st.sampled_from([{}, {"annotations": OUTDATED}]))
    claim = claim | draw(st.sampled_from([{}, {}, {"termination_grace_period_s": 60.0}]))
    build.node(
        name,
        type_,
        pool=pool,
        capacity_type=draw(st.sampled_from([keys.ON_DEMAND, keys.SPOT])),
        ready=draw(st.sampled_from([True] * 9 + [False])),
        initialized=draw(st.sampled_from([True] * 9 + [False])),
        annotations=draw(st.sampled_from([{}] * 9 + [{keys.DO_NOT_DISRUPT: "true"}])),
        claim=claim,
    )
    room = TYPES[type_][0]
    for j in range(draw(st.integers(0, 3))):
        size = draw(st.sampled_from(sorted(SIZES)))
        if SIZES[size] > room:
            continue
        room -= SIZES[size]
        build.pod(
            f"p-{name}-{j}",
            name,
            shape=size,
            do_not_disrupt=draw(st.sampled_from(PROTECTIONS)),
            ready=draw(st.sampled_from([True, True, True, False])),
            owner_kind=draw(st.sampled_from(["ReplicaSet", "ReplicaSet", "StatefulSet", "DaemonSet"])),
        )


# --- the oracles ------------------------------------------------------------------------------------------------------
def to_move(view: View, node: str) -> list[PodRecord]:
    pods = (view.snapshot.pods[key] for key in view.snapshot.pods_on.get(node, ()))
    return [p for p in pods if p.owner_kind != "DaemonSet"]


def promised(outcome: Outcome) -> dict[str, list[str]]:
    """Pod -> the places it was given."""
    command = outcome.command
    assert command is not None
    out: dict[str, list[str]] = {}
    existing = {m.node: m.pods for p in outcome.proposals if p.node in command.nodes for m in p.moves}
    for place, pods in [*existing.items(), *((n.name, n.pods) for n in command.replacements)]:
        for pod in pods:
            out.setdefault(pod, []).append(place)
    return out


def cpu_of(view: View, pods: list[str]) -> int:
    return sum(SIZES[view.snapshot.pods[key].shape] for key in pods)


def allowed(view: View, pool: str, budgets: list[Budget], reason: Reason) -> float:
    """How many nodes the least of the pool's budgets lets go, less those that are away already."""
    s = view.snapshot
    mine = [n for n in s.nodes.values() if n.pool == pool and n.initialized]
    away = sum(not n.ready or bool((c := s.claim_of(n)) and c.deleting) for n in mine)
    least = FOREVER
    for budget in budgets:
        if budget.reasons and reason.value not in budget.reasons:
            continue
        text = budget.nodes
        whole = -(-int(text[:-1]) * len(mine) // 100) if text.endswith("%") else int(text)
        least = min(least, whole)
    return max(0.0, least - away)


def free_to_go(view: View, pod: PodRecord) -> bool:
    """Whether do-not-disrupt and budgets let the pod be evicted, by their own words."""
    if pod.do_not_disrupt in ("true", "1h"):
        return False
    tags = {pod.shape, "any"}
    covering: list[PodDisruptionBudget] = []
    for pdb in view.snapshot.pdbs.values():
        assert isinstance(pdb.selector, LabelSelector)
        if tags & set(pdb.selector.match_labels.values()):
            covering.append(pdb)
    if len(covering) > 1:
        return False
    return all(
        p.disruptions_allowed > 0 or (p.unhealthy_pod_eviction_policy == "AlwaysAllow" and not pod.ready)
        for p in covering
    )


def bounded(view: View, node: Node) -> bool:
    claim = view.snapshot.claim_of(node)
    return claim is not None and claim.termination_grace_period_s is not None


def commanded(view: View, planner: Planner) -> tuple[Outcome, Command]:
    outcome = decide(view, planner, clock)
    assume(outcome.command is not None)
    assert outcome.command is not None
    again = validate(outcome.command, view, planner, clock)
    assert isinstance(again, Command)
    return outcome, again


# --- the laws ---------------------------------------------------------------------------------------------------------
@CAREFUL
@given(clusters(), PLANNERS)
def test_no_command_leaves_a_pod_without_a_place(
    drawn: tuple[View, dict[str, list[Budget]]], planner: Planner
) -> None:
    view, _ = drawn
    outcome, command = commanded(view, planner)
    places = promised(outcome)
    owed = [p.key for node in command.nodes for p in to_move(view, node)]
    assert {key: len(places.get(key, ())) for key in owed} == dict.fromkeys(owed, 1)
    for place in {p for key in owed for p in places[key]}:
        coming = [key for key in owed if places[key] == [place]]
        node = view.snapshot.nodes.get(place)
        if node is None:
            made = next(n for n in outcome.command.replacements if n.name == place)  # type: ignore[union-attr]
            kinds = {made.instance_type, *(r.instance_type for r in made.alternatives)}
            assert all(cpu_of(view, coming) <= TYPES[kind][0] for kind in kinds)
            continue
        assert place not in command.nodes
        assert node.initialized
        claim = view.snapshot.claim_of(node)
        assert claim is not None
        assert not claim.deleting
        held = list(view.snapshot.pods_on.get(place, ()))
        assert cpu_of(view, held + coming) <= node.allocatable["cpu"]


@CAREFUL
@given(clusters(), PLANNERS)
def test_no_command_takes_more_nodes_than_a_budget_lets_go(
    drawn: tuple[View, dict[str, list[Budget]]], planner: Planner
) -> None:
    view, budgets = drawn
    _, command = commanded(view, planner)
    for pool in POOLS:
        going = [node for node in command.nodes if view.snapshot.nodes[node].pool == pool]
        assert len(going) <= allowed(view, pool, budgets[pool], command.reason)


@CAREFUL
@given(clusters(), PLANNERS)
def test_no_command_touches_what_asks_not_to_be_disrupted(
    drawn: tuple[View, dict[str, list[Budget]]], planner: Planner
) -> None:
    view, _ = drawn
    _, command = commanded(view, planner)
    for name in command.nodes:
        node = view.snapshot.nodes[name]
        assert node.annotations.get(keys.DO_NOT_DISRUPT) != "true"
        if command.reason in (Reason.DRIFTED, Reason.EXPIRED) and bounded(view, node):
            continue  # the end of its grace period is announced, and overrides what pods ask for
        held = (view.snapshot.pods[key] for key in view.snapshot.pods_on.get(name, ()))
        assert all(free_to_go(view, pod) for pod in held)


@CAREFUL
@given(clusters(), PLANNERS)
def test_no_command_ends_dearer_unless_its_nodes_have_to_be_made_anew(
    drawn: tuple[View, dict[str, list[Budget]]], planner: Planner
) -> None:
    view, _ = drawn
    _, command = commanded(view, planner)
    share = {keys.ON_DEMAND: 1.0, keys.SPOT: 1 / 3}
    paid = sum(
        TYPES[labels[keys.INSTANCE_TYPE]][1] * share[labels[keys.CAPACITY_TYPE]]
        for labels in (view.snapshot.nodes[node].labels for node in command.nodes)
    )
    dearest = sum(
        max([n.price_per_hour, *(r.price_per_hour for r in n.alternatives)]) for n in command.replacements
    )
    if command.reason not in (Reason.DRIFTED, Reason.EXPIRED):
        assert dearest < paid
        assert command.saves_per_hour > 0


@settings(CAREFUL, max_examples=60)
@given(clusters())
def test_steps_to_the_end_keep_every_pod_and_end_no_dearer(
    drawn: tuple[View, dict[str, list[Budget]]],
) -> None:
    view, _ = drawn
    end = react("price", view, view, first_fit, clock, FOREVER)
    assert end.complete
    where = {key: pod.node for key, pod in view.snapshot.pods.items()}
    standing = set(view.snapshot.nodes)
    for step in end.steps:
        standing = (standing - set(step.remove)) | {n.name for n in step.launch}
        for pod, old, new in step.moves:
            assert where[pod] == old
            where[pod] = new
        homes = {key: node for key, node in where.items() if node and _moves(view, key)}
        assert all(node in standing for node in homes.values())
    saved = sum(s.saves_per_hour for s in end.steps if s.reason in ("Underutilized", "Empty"))
    assert saved >= 0
    if {s.reason for s in end.steps} <= {"Underutilized", "Empty"}:
        assert end.after[1] <= end.unchanged[1] + 1e-9
        assert end.unchanged[1] - end.after[1] <= saved + 1e-6


def _moves(view: View, key: str) -> bool:
    return view.snapshot.pods[key].owner_kind != "DaemonSet"


def test_the_oracle_of_budgets_knows_rounding_reasons_and_who_is_away() -> None:
    build = Builder()
    budgets = [Budget("34%"), Budget("0", reasons=("Drifted",))]
    build.pool("default", budgets=budgets)
    for i in range(3):
        build.node(f"n{i}", pool="default")
    view = build.view()
    assert allowed(view, "default", budgets, Reason.EMPTY) == 2
    assert allowed(view, "default", budgets, Reason.DRIFTED) == 0
    gone = msgspec.structs.replace(build.snapshot.claims["n0-c"], deleted_at=NOW)
    build.put(Kind.NODE_CLAIM, "n0-c", gone)
    assert allowed(build.view(), "default", budgets, Reason.EMPTY) == 1

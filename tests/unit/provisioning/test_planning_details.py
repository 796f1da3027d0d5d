"""Details of planning that samples rarely show: claims, promised pods, capacity type order, weights, explanations."""

import json

import msgspec

from nodeyard.api import labels as keys
from nodeyard.api.cluster import DaemonSet, PersistentVolumeClaim
from nodeyard.api.node import Condition, Node, NodeClaim
from nodeyard.api.pod import PodRecord, PodShape
from nodeyard.api.pool import Pool
from nodeyard.api.selectors import (
    LabelSelector,
    NodeAffinity,
    NodeSelectorTerm,
    PodAffinity,
    PodAffinityTerm,
    PreferredNodeTerm,
    Requirement,
    Taint,
    WeightedPodAffinityTerm,
)
from nodeyard.cloudprovider.model import Catalogue, InstanceType, Offering
from nodeyard.provisioning.model import Options, Plan, PreferencePolicy, Problem, Reason
from nodeyard.provisioning.planner import plan
from nodeyard.state.cluster import Change, Kind, snapshot_of

GIB = 2**30


def kind_of(name: str, cores: int, *offerings: Offering, arch: str = "amd64") -> InstanceType:
    room = {"cpu": cores * 1000, "memory": cores * 4 * GIB, "pods": 20}
    return InstanceType(name, {keys.ARCH: (arch,), keys.OS: ("linux",)}, room, room, offerings)


def on_demand(price: float, zone: str = "z1") -> Offering:
    return Offering(zone, keys.ON_DEMAND, price)


def spot(price: float, zone: str = "z1") -> Offering:
    return Offering(zone, keys.SPOT, price)


CATALOGUE = Catalogue(
    [
        kind_of("small", 2, on_demand(0.10), spot(0.04), on_demand(0.11, "z2")),
        kind_of("large", 8, on_demand(0.40), spot(0.16), on_demand(0.44, "z2")),
    ]
)
POOL = Pool("default")


def shape(identity: str = "s", cpu: int = 900, **more: object) -> PodShape:
    requests = {"cpu": cpu, "memory": GIB, "pods": 1}
    return PodShape(identity, "default", {"app": identity}, requests, **more)  # type: ignore[arg-type]


def record(name: str, of: PodShape, node: str = "") -> Change:
    pod = PodRecord("default", name, name, of.id, node=node, phase="Running" if node else "Pending")
    return Change(Kind.POD, pod.key, pod)


def solved(
    *changes: Change, options: Options | None = None, pools: tuple[Pool, ...] = (POOL,), **more: object
) -> Plan:
    shapes = [c for c in changes if c.kind is Kind.SHAPE]
    rest = [c for c in changes if c.kind is not Kind.SHAPE]
    snapshot = snapshot_of([*(Change(Kind.POOL, p.key, p) for p in pools), *shapes, *rest])
    pending = tuple(p.key for p in snapshot.pods.values() if not p.node and not p.name.startswith("promised"))
    problem = Problem(snapshot, pending, {"": CATALOGUE}, 0.0, **more)  # type: ignore[arg-type]
    return plan(problem, options or Options(), lambda: 0.0)


def shapes(*several: PodShape) -> list[Change]:
    return [Change(Kind.SHAPE, s.id, s) for s in several]


def claim(name: str, **more: object) -> Change:
    made = NodeClaim(
        name,
        labels={keys.NODEPOOL: "default"},
        requirements=(Requirement(keys.INSTANCE_TYPE, "In", ("small", "large")),),
        **more,  # type: ignore[arg-type]
    )
    return Change(Kind.NODE_CLAIM, name, made)


def test_a_claim_without_a_node_takes_what_its_least_type_would_hold() -> None:
    one = shape()
    made = solved(*shapes(one), claim("c1"), *(record(f"p{i}", one) for i in range(3)))
    assert [(p.node, len(p.pods)) for p in made.existing] == [("nodeclaim/c1", 2)]
    assert sum(len(n.pods) for n in made.nodes) == 1


def test_room_promised_to_other_pods_is_not_given_away() -> None:
    one = shape()
    promise = {keys.PLANNED_PODS: json.dumps(["default/promised"])}
    made = solved(
        *shapes(one),
        claim("c1", annotations=promise),
        record("promised", one),
        *(record(f"p{i}", one) for i in (1, 2)),
    )
    assert [(p.node, len(p.pods)) for p in made.existing] == [("nodeclaim/c1", 1)]


def test_a_pool_that_prefers_on_demand_gets_it_though_spot_is_cheaper() -> None:
    careful = Pool("provisioner/old", capacity_type_order=(keys.RESERVED, keys.ON_DEMAND, keys.SPOT))
    one = shape()
    made = solved(*shapes(one), record("p", one), pools=(careful,))
    assert [n.capacity_type for n in made.nodes] == [keys.ON_DEMAND]
    assert {a.capacity_type for n in made.nodes for a in n.alternatives} <= {keys.ON_DEMAND}
    assert [n.capacity_type for n in solved(*shapes(one), record("p", one)).nodes] == [keys.SPOT]


def test_the_pool_of_most_weight_is_used_though_another_is_cheaper() -> None:
    heavy = Pool("heavy", weight=10, requirements=(Requirement(keys.CAPACITY_TYPE, "In", (keys.ON_DEMAND,)),))
    one = shape()
    made = solved(*shapes(one), record("p", one), pools=(heavy, POOL))
    assert [n.pool for n in made.nodes] == ["heavy"]


def test_starting_nodes_take_pods_despite_the_taints_they_will_lose() -> None:
    room = {"cpu": 2000, "memory": 8 * GIB, "pods": 10}
    starting = Node(
        "n1", labels={keys.NODEPOOL: "default"}, allocatable=room, capacity=room,
        taints=(Taint(keys.TAINT_UNREGISTERED, keys.NO_EXECUTE), Taint(keys.TAINT_NOT_READY, keys.NO_SCHEDULE)),
        conditions=(Condition("Ready", "False"),),
    )  # fmt: skip
    one = shape()
    changes = [*shapes(one), Change(Kind.NODE, "n1", starting), record("p", one)]
    assert [p.node for p in solved(*changes).existing] == ["n1"]
    assert solved(*changes, uninitialized_targets=False).existing == ()


def test_pods_that_move_are_not_counted_where_they_are() -> None:
    room = {"cpu": 1000, "memory": 8 * GIB, "pods": 10}
    node = Node("n1", labels={keys.INITIALIZED: "true"}, allocatable=room, capacity=room)
    one = shape()
    changes = [*shapes(one), Change(Kind.NODE, "n1", node), record("old", one, "n1"), record("new", one)]
    assert solved(*changes).existing == ()
    snapshot = snapshot_of([Change(Kind.POOL, "default", POOL), *changes])
    moving = Problem(snapshot, ("default/old",), {"": CATALOGUE}, 0.0)
    assert [p.node for p in plan(moving, Options(), lambda: 0.0).existing] == ["n1"]


def test_what_daemons_use_is_taken_off_only_where_they_run() -> None:
    agent = shape("agent", 500, node_selector={keys.INSTANCE_TYPE: "small"})
    daemon = Change(Kind.DAEMON_SET, "kube-system/agent", DaemonSet("kube-system", "agent", "u", agent))
    one = shape(cpu=1800)
    made = solved(*shapes(one), daemon, record("p", one))
    assert [n.instance_type for n in made.nodes] == ["large"]


def test_priced_preferences_are_kept_only_where_they_cost_less_than_they_are_worth() -> None:
    apart = PodAffinity(
        (), (WeightedPodAffinityTerm(10, PodAffinityTerm(keys.HOSTNAME, LabelSelector({"app": "s"}))),)
    )
    one = shape("s", 200, pod_anti_affinity=apart)
    pods = [record(f"p{i}", one) for i in range(6)]
    assert len(solved(*shapes(one), *pods).nodes) == 1
    respect = Options(preference_policy=PreferencePolicy.RESPECT)
    assert len(solved(*shapes(one), *pods, options=respect).nodes) == 6
    dear = Options(preference_usd_per_weight_hour=0.1)
    assert len(solved(*shapes(one), *pods, options=dear).nodes) == 6


def test_a_preferred_zone_is_taken_when_it_is_worth_more_than_the_difference() -> None:
    wish = PreferredNodeTerm(100, NodeSelectorTerm((Requirement(keys.ZONE, "In", ("z2",)),)))
    one = shape(
        "w", node_affinity=NodeAffinity(None, (wish,)), node_selector={keys.CAPACITY_TYPE: keys.ON_DEMAND}
    )
    rich = Options(preference_usd_per_weight_hour=0.01)
    assert [n.zone for n in solved(*shapes(one), record("p", one), options=rich).nodes] == ["z2"]
    poor = Options(preference_usd_per_weight_hour=0.00001)
    made = solved(*shapes(one), record("p", one), options=poor)
    assert [n.zone for n in made.nodes] == ["z1"]
    assert made.cost.preferences_per_hour > 0


def test_a_limit_on_nodes_holds_within_one_plan() -> None:
    one = shape(cpu=7000)
    few = msgspec.structs.replace(POOL, limits={"nodes": 2})
    made = solved(*shapes(one), *(record(f"p{i}", one) for i in range(4)), pools=(few,))
    assert len(made.nodes) == 2
    assert {u.reason for u in made.unschedulable} == {Reason.LIMITS}


def test_refusals_name_the_nearest_miss_and_the_likely_typo() -> None:
    huge, odd = shape("huge", 64_000), shape("odd", node_selector={keys.ARCH: "amd46"})
    made = solved(*shapes(huge, odd), record("huge", huge), record("odd", odd))
    by_pod = {u.pod: u for u in made.unschedulable}
    assert by_pod["default/huge"].reason is Reason.RESOURCES
    assert "largest allowed is 8 cpu: large" in by_pod["default/huge"].message
    assert by_pod["default/odd"].reason is Reason.REQUIREMENTS
    assert "did you mean 'amd64'" in by_pod["default/odd"].message


def test_a_claim_that_can_not_be_used_refuses_its_pod_and_no_other() -> None:
    bad, good = shape("bad", volume_claims=("gone",)), shape("good")
    lost = PersistentVolumeClaim("default", "gone", phase="Lost")
    made = solved(
        *shapes(bad, good), Change(Kind.PVC, lost.key, lost), record("bad", bad), record("good", good)
    )
    assert [(u.pod, u.reason) for u in made.unschedulable] == [("default/bad", Reason.VOLUME_INVALID)]
    assert [n.pods for n in made.nodes] == [("default/good",)]


def test_an_open_custom_label_is_settled_as_a_pod_asks() -> None:
    open_ = msgspec.structs.replace(POOL, requirements=(Requirement("team", "In", ("red", "blue")),))
    one, other = shape("one", node_selector={"team": "blue"}), shape("other")
    made = solved(*shapes(one, other), record("one", one), record("other", other), pools=(open_,))
    assert [n.labels["team"] for n in made.nodes] == ["blue"]
    assert Requirement("team", "In", ("blue",)) in made.nodes[0].requirements


def test_nothing_is_planned_into_pools_that_are_not_usable() -> None:
    one = shape()
    broken = msgspec.structs.replace(POOL, problems=("spec.template: what?",))
    made = solved(*shapes(one), record("p", one), pools=(broken,))
    assert [u.reason for u in made.unschedulable] == [Reason.POOL_NOT_READY]
    assert "what?" in made.unschedulable[0].message
    assert [u.reason for u in solved(*shapes(one), record("p", one), pools=()).unschedulable] == [
        Reason.NO_POOL
    ]

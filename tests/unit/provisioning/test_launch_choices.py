"""Labels that a launch settles, tenancy and partition: left open unless pods or the pool tell the values apart."""

from nodeyard.api import labels as keys
from nodeyard.api.pool import Pool
from nodeyard.api.selectors import LabelSelector, Requirement, TopologySpreadConstraint
from nodeyard.cloudprovider.model import Catalogue, InstanceType, Offering
from nodeyard.provisioning.model import Options, Plan, PlannedNode, Problem
from nodeyard.provisioning.planner import plan
from nodeyard.state.cluster import Change, Kind, snapshot_of
from tests.unit.provisioning.test_planning_details import POOL, record, shape

ROOM = {"cpu": 2000, "memory": 2**33, "pods": 20}
OPEN = {
    keys.ARCH: ("amd64",),
    keys.OS: ("linux",),
    keys.TENANCY: ("dedicated", "default"),
    keys.PLACEMENT_PARTITION: ("1", "2", "3"),
}
CATALOGUE = Catalogue([InstanceType("one", OPEN, ROOM, ROOM, (Offering("z1", keys.ON_DEMAND, 0.1),))])
ASKS_DEDICATED = Requirement(keys.TENANCY, "In", ("dedicated",))


def solved(*changes: Change, pool: Pool = POOL, catalogue: Catalogue = CATALOGUE) -> Plan:
    snapshot = snapshot_of([Change(Kind.POOL, pool.key, pool), *changes])
    return plan(Problem(snapshot, tuple(snapshot.pods), {"": catalogue}, 0.0), Options(), lambda: 0.0)


def asked(node: PlannedNode, key: str) -> tuple[str, ...]:
    """The values that the node's claim allows; () where it leaves them open."""
    return next((r.values for r in node.requirements if r.key == key), ())


def test_nothing_is_settled_that_nobody_asks_for() -> None:
    one = shape()
    (node,) = solved(Change(Kind.SHAPE, one.id, one), record("p", one)).nodes
    assert asked(node, keys.TENANCY) == asked(node, keys.PLACEMENT_PARTITION) == ()


def test_a_pod_that_names_a_value_gets_a_node_of_it_and_others_stay_open() -> None:
    picky = shape("picky", cpu=1500, node_selector={keys.PLACEMENT_PARTITION: "2", keys.TENANCY: "dedicated"})
    plain = shape("plain", cpu=1500)
    changes = [Change(Kind.SHAPE, s.id, s) for s in (picky, plain)]
    made = solved(*changes, record("picky", picky), record("plain", plain))
    found = {n.pods: (asked(n, keys.TENANCY), asked(n, keys.PLACEMENT_PARTITION)) for n in made.nodes}
    assert found == {("default/picky",): (("dedicated",), ("2",)), ("default/plain",): ((), ())}


def test_a_value_that_the_pool_excludes_is_not_to_be_had() -> None:
    shared = Pool("default", requirements=(Requirement(keys.TENANCY, "In", ("default",)),))
    picky = shape("picky", node_selector={keys.TENANCY: "dedicated"})
    made = solved(Change(Kind.SHAPE, picky.id, picky), record("p", picky), pool=shared)
    assert not made.nodes


def test_pods_spread_over_partitions_get_a_node_in_each() -> None:
    spread = TopologySpreadConstraint(
        1, keys.PLACEMENT_PARTITION, "DoNotSchedule", LabelSelector({"app": "kafka"})
    )
    kafka = shape("kafka", topology_spread_constraints=(spread,))
    made = solved(Change(Kind.SHAPE, kafka.id, kafka), *(record(f"k{n}", kafka) for n in range(3)))
    assert sorted(asked(n, keys.PLACEMENT_PARTITION) for n in made.nodes) == [("1",), ("2",), ("3",)]


def refused_in_two() -> Catalogue:
    """The cheap offering is refused in partition 2 of the class's placement group."""
    cheap = Offering("z1", keys.ON_DEMAND, 0.1, refused_partitions=("2",))
    return Catalogue([InstanceType("one", OPEN, ROOM, ROOM, (cheap, Offering("z2", keys.ON_DEMAND, 0.2)))])


def zones_by_pod(made: Plan) -> dict[str, set[str]]:
    return {
        pod: {node.zone, *(o.zone for o in node.alternatives)} for node in made.nodes for pod in node.pods
    }


def test_what_is_refused_in_a_partition_is_bought_in_the_others_and_where_the_cloud_chooses() -> None:
    shapes = [shape(n, cpu=1500, node_selector={keys.PLACEMENT_PARTITION: n}) for n in ("1", "2")]
    plain = shape("plain", cpu=1500)
    changes = [Change(Kind.SHAPE, s.id, s) for s in (*shapes, plain)]
    pods = [record(name, s) for name, s in zip(("one", "two", "any"), (*shapes, plain), strict=True)]
    found = zones_by_pod(solved(*changes, *pods, catalogue=refused_in_two()))
    assert "z1" in found["default/one"]
    assert found["default/two"] == {"z2"}
    assert "z1" in found["default/any"]


def test_a_pool_of_one_partition_buys_nothing_that_is_refused_there() -> None:
    two = Pool("default", requirements=(Requirement(keys.PLACEMENT_PARTITION, "In", ("2",)),))
    plain = shape("plain", cpu=1500)
    made = solved(
        Change(Kind.SHAPE, plain.id, plain), record("p", plain), pool=two, catalogue=refused_in_two()
    )
    assert zones_by_pod(made) == {"default/p": {"z2"}}

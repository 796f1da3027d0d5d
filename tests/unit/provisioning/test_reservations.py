"""Plans with capacity reservations: never more nodes than places, pods that wait for promised ones, pinned claims."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from nodeyard.api import labels as keys
from nodeyard.api.node import LAUNCHED, Condition, NodeClaim
from nodeyard.api.pod import PodRecord, PodShape
from nodeyard.api.pool import Pool
from nodeyard.api.selectors import Requirement
from nodeyard.cloudprovider.model import Catalogue, InstanceType, Offering, Reserved
from nodeyard.provisioning.claims import claim_of, encode_offerings, offerings_of, reservations_of
from nodeyard.provisioning.model import OfferingRef, Options, Plan, Problem, Reason
from nodeyard.provisioning.planner import plan
from nodeyard.state.cluster import Change, Kind, snapshot_of

GIB = 2**30
COUNTED_AT = 1000.0
FULL = {"cpu": 1, "memory": GIB, "pods": 1}
"""What a claim has that takes no pod of these tests."""


def in_reservation(
    name: str, left: int, *, zone: str = "z1", price: float = 1e-8, kind: str = "default"
) -> Offering:
    return Offering(
        zone, keys.RESERVED, price, reserved=Reserved(name, kind=kind, left=left, counted_at=COUNTED_AT)
    )


def kind_of(name: str, cores: int, *offerings: Offering) -> InstanceType:
    room = {"cpu": cores * 1000, "memory": cores * 4 * GIB, "pods": 20}
    return InstanceType(name, {keys.ARCH: ("amd64",), keys.OS: ("linux",)}, room, room, offerings)


def small(*reserved: Offering) -> Catalogue:
    """One type of two cores, one pod each: on demand for ten cents, and what is reserved of it."""
    return Catalogue([kind_of("small", 2, Offering("z1", keys.ON_DEMAND, 0.10), *reserved)])


def solved(
    catalogue: Catalogue,
    pods: int,
    *changes: Change,
    strict: bool = True,
    cpu: int = 1500,
    pools: Iterable[Pool] = (Pool("default"),),
    **more: object,
) -> Plan:
    shape = PodShape("s", "default", {"app": "s"}, {"cpu": cpu, "memory": GIB, "pods": 1}, **more)  # type: ignore[arg-type]
    records = [PodRecord("default", f"p{i}", f"p{i}", "s", phase="Pending") for i in range(pods)]
    snapshot = snapshot_of(
        [
            *(Change(Kind.POOL, p.key, p) for p in pools),
            Change(Kind.SHAPE, "s", shape),
            *(Change(Kind.POD, r.key, r) for r in records),
            *changes,
        ]
    )
    problem = Problem(snapshot, tuple(r.key for r in records), {"": catalogue}, COUNTED_AT)
    return plan(problem, Options(strict_reservations=strict), lambda: 0.0)


def claim(name: str, reservation: str, *, launched_at: float | None = None) -> Change:
    """A claim that may use a reservation, or that was launched into it."""
    offers = encode_offerings([OfferingRef("small", "z1", keys.RESERVED, 1e-8, reservation)])
    labels = {keys.NODEPOOL: "default"}
    if launched_at is None:
        annotations = {keys.LAUNCH_OFFERINGS: offers}
        unlaunched = NodeClaim(name, labels=labels, annotations=annotations, allocatable=FULL)
        return Change(Kind.NODE_CLAIM, name, unlaunched)
    made = NodeClaim(
        name,
        labels={**labels, keys.RESERVATION_ID: reservation},
        provider_id=f"aws:///z1/{name}",
        allocatable=FULL,
        conditions=(Condition(LAUNCHED, "True", since=launched_at),),
    )
    return Change(Kind.NODE_CLAIM, name, made)


def places(made: Plan) -> list[str]:
    return sorted(n.reservation or n.capacity_type for n in made.nodes)


def waiting(made: Plan) -> int:
    return sum(u.reason is Reason.RESERVATION for u in made.unschedulable)


def test_reservation_pessimism() -> None:
    """One place and two pods for two nodes: the second waits until the reservation is shown full."""
    first = solved(small(in_reservation("cr-1", 1)), 2)
    assert (places(first), waiting(first)) == (["cr-1"], 1)
    under_way = solved(small(in_reservation("cr-1", 1)), 1, claim("c1", "cr-1"))
    assert (places(under_way), waiting(under_way)) == ([], 1)
    launched = solved(small(in_reservation("cr-1", 1)), 1, claim("c1", "cr-1", launched_at=COUNTED_AT + 9))
    assert (places(launched), waiting(launched)) == (["on-demand"], 0)
    counted = solved(small(in_reservation("cr-1", 0)), 1, claim("c1", "cr-1", launched_at=COUNTED_AT - 60))
    assert (places(counted), waiting(counted)) == (["on-demand"], 0)


def test_what_was_launched_before_the_count_is_in_it() -> None:
    made = solved(small(in_reservation("cr-1", 1)), 1, claim("c1", "cr-1", launched_at=COUNTED_AT - 60))
    assert places(made) == ["cr-1"]


def test_a_simulation_falls_back_at_once() -> None:
    made = solved(small(in_reservation("cr-1", 1)), 3, strict=False)
    assert (places(made), waiting(made)) == (["cr-1", "on-demand", "on-demand"], 0)


def test_pods_that_can_not_use_the_reservation_do_not_wait_for_it() -> None:
    only = Catalogue(
        [
            kind_of("small", 2, in_reservation("cr-1", 1)),
            kind_of("large", 8, Offering("z1", keys.ON_DEMAND, 0.40)),
        ]
    )
    made = solved(only, 1, claim("c1", "cr-1"), cpu=3000)
    assert (places(made), waiting(made)) == (["on-demand"], 0)
    by_pool = Pool("default", requirements=(Requirement(keys.CAPACITY_TYPE, "In", (keys.ON_DEMAND,)),))
    made = solved(small(in_reservation("cr-1", 1)), 2, pools=[by_pool])
    assert (places(made), waiting(made)) == (["on-demand", "on-demand"], 0)


def test_places_of_several_reservations_are_all_used() -> None:
    catalogue = small(in_reservation("cr-1", 2), in_reservation("cr-2", 1), in_reservation("cr-3", 0))
    made = solved(catalogue, 5, strict=False)
    assert places(made) == ["cr-1", "cr-1", "cr-2", "on-demand", "on-demand"]


def test_two_pools_share_a_reservation() -> None:
    pools = [Pool("a"), Pool("b", weight=10)]
    made = solved(small(in_reservation("cr-1", 2)), 4, strict=False, pools=pools)
    assert places(made) == ["cr-1", "cr-1", "on-demand", "on-demand"]


def test_a_claim_is_pinned_to_the_reservation_that_it_counts_in() -> None:
    made = solved(small(in_reservation("cr-1", 1), in_reservation("cr-2", 1)), 2)
    pool = Pool("default")
    found = set()
    for node in made.nodes:
        written = claim_of(node, pool, name=node.name, plan_id="p", group="g", epoch=None)
        assert Requirement(keys.CAPACITY_TYPE, "In", (keys.RESERVED,)) in written.requirements
        assert Requirement(keys.RESERVATION_ID, "In", (node.reservation,)) in written.requirements
        assert reservations_of(written) == (node.reservation,)
        assert {o.reservation for o in offerings_of(written)} == {node.reservation}
        found.add(node.reservation)
    assert found == {"cr-1", "cr-2"}


def test_a_pool_may_name_the_reservation_and_its_kind() -> None:
    catalogue = small(in_reservation("cr-1", 1), in_reservation("cb-1", 1, kind="capacity-block"))
    for key, values, wanted in (
        (keys.RESERVATION_ID, ("cb-1",), ["cb-1"]),
        (keys.RESERVATION_TYPE, ("default",), ["cr-1"]),
        (keys.RESERVATION_INTERRUPTIBLE, ("true",), []),
    ):
        pool = Pool("default", requirements=(Requirement(key, "In", values),))
        assert places(solved(catalogue, 1, pools=[pool])) == wanted


def test_a_reserved_only_pool_says_that_its_reservation_is_full() -> None:
    pool = Pool("default", requirements=(Requirement(keys.CAPACITY_TYPE, "In", (keys.RESERVED,)),))
    made = solved(small(in_reservation("cr-1", 0)), 1, pools=[pool])
    assert [u.reason for u in made.unschedulable] == [Reason.OFFERINGS]
    assert "reservations" in made.unschedulable[0].message


@pytest.mark.parametrize("price", [0.0, 1e-8])
def test_cost_and_bound_hold_with_places_that_cost_next_to_nothing(price: float) -> None:
    made = solved(small(in_reservation("cr-1", 2, price=price)), 5, strict=False)
    assert places(made) == ["cr-1", "cr-1", "on-demand", "on-demand", "on-demand"]
    assert made.cost.price_per_hour == pytest.approx(0.30 + 2 * price)
    assert made.cost.lower_bound is not None
    assert made.cost.lower_bound == pytest.approx(made.cost.objective_per_hour, rel=1e-6)

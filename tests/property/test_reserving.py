"""Reservations under random plans: places are never oversold, nobody waits without need, bounds stay below costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from hypothesis import example, given, settings
from hypothesis import strategies as st

from nodeyard.api import labels as keys
from nodeyard.api.pod import PodRecord, PodShape
from nodeyard.api.pool import Pool
from nodeyard.cloudprovider.model import Catalogue, InstanceType, Offering, Reserved
from nodeyard.provisioning.model import Options, Plan, Problem, Reason
from nodeyard.provisioning.planner import plan
from nodeyard.state.cluster import Change, Kind, snapshot_of

GIB = 2**30
SIZES = {"s": 2, "m": 4, "l": 8}
ZONES = ("z1", "z2")

reservations = st.lists(
    st.tuples(st.sampled_from(sorted(SIZES)), st.sampled_from(ZONES), st.integers(0, 3)), max_size=4
)
pods = st.lists(
    st.tuples(st.sampled_from((500, 1500, 3500)), st.sampled_from(("", *ZONES))), min_size=1, max_size=12
)


def market(reserved: list[tuple[str, str, int]]) -> Catalogue:
    types = []
    for name, cores in SIZES.items():
        room = {"cpu": cores * 1000, "memory": cores * 4 * GIB, "pods": 20}
        offers = [Offering(z, keys.ON_DEMAND, cores * 0.05) for z in ZONES]
        offers += [
            Offering(z, keys.RESERVED, cores * 0.05 / 1e7, reserved=Reserved(f"cr-{n}", left=left))
            for n, (kind, z, left) in enumerate(reserved)
            if kind == name
        ]
        types.append(
            InstanceType(name, {keys.ARCH: ("amd64",), keys.OS: ("linux",)}, room, room, tuple(offers))
        )
    return Catalogue(types)


def planned(
    reserved: list[tuple[str, str, int]], wanted: list[tuple[int, str]], *, strict: bool
) -> tuple[Plan, dict[str, PodShape]]:
    shapes = {
        f"{cpu}{zone}": PodShape(
            f"{cpu}{zone}", "default", {}, {"cpu": cpu, "memory": GIB, "pods": 1},
            node_selector={keys.ZONE: zone} if zone else {},
        )
        for cpu, zone in wanted
    }  # fmt: skip
    records = [
        PodRecord("default", f"p{i}", f"p{i}", f"{cpu}{zone}", phase="Pending")
        for i, (cpu, zone) in enumerate(wanted)
    ]
    snapshot = snapshot_of(
        [
            Change(Kind.POOL, "default", Pool("default")),
            *(Change(Kind.SHAPE, s.id, s) for s in shapes.values()),
            *(Change(Kind.POD, r.key, r) for r in records),
        ]
    )
    problem = Problem(snapshot, tuple(r.key for r in records), {"": market(reserved)}, 0.0)
    made = plan(problem, Options(strict_reservations=strict, deadline_s=2.0), lambda: 0.0)
    return made, {r.key: shapes[r.shape] for r in records}


@given(reservations, pods, st.booleans())
@example([("l", "z1", 1)], [(1500, ""), (1500, "z1"), (3500, ""), (3500, ""), (3500, "")], False)
@example([("s", "z1", 1)], [(500, "")] * 8 + [(500, "z2")], True)
@settings(max_examples=25, deadline=None)
def test_reservations_are_used_within_their_places_and_only_promised_ones_are_waited_for(
    reserved: list[tuple[str, str, int]], wanted: list[tuple[int, str]], strict: bool
) -> None:
    made, shape_of = planned(reserved, wanted, strict=strict)
    left = {f"cr-{n}": many for n, (_, _, many) in enumerate(reserved)}
    used = Counter(n.reservation for n in made.nodes if n.reservation)
    assert all(used[id_] <= left[id_] for id_ in used)
    for node in made.nodes:
        assert {a.reservation for a in node.alternatives} <= {node.reservation}
    assert made.cost.lower_bound is not None
    assert made.cost.lower_bound <= made.cost.objective_per_hour + 1e-9
    waits = {u.pod for u in made.unschedulable}
    assert {u.reason for u in made.unschedulable} <= {Reason.RESERVATION}
    placed = [key for node in made.nodes for key in node.pods]
    assert sorted([*placed, *waits]) == sorted(shape_of)
    taken = {n for n, (_, _, many) in enumerate(reserved) if many and used[f"cr-{n}"] == many}

    def suits(key: str, among: Iterable[int]) -> bool:
        """Whether the pod could be in one of these reservations."""
        zone = shape_of[key].node_selector.get(keys.ZONE, "")
        return any(
            zone in ("", reserved[n][1]) and shape_of[key].requests["cpu"] <= SIZES[reserved[n][0]] * 1000
            for n in among
        )

    if not strict:
        assert not waits
        return
    assert all(suits(key, (n for n, (_, _, many) in enumerate(reserved) if many)) for key in waits)
    assert not waits or used
    for node in made.nodes:
        assert node.reservation or not all(suits(key, taken) for key in node.pods)

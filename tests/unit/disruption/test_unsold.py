"""A capacity reservation takes no more nodes than it has places for, however often the planner is asked."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from nodeyard.api import labels as keys
from nodeyard.cloudprovider.model import Catalogue, Offering, Reserved
from nodeyard.disruption.arrangement import Arrangement, place_of, place_to_make, problem_of
from nodeyard.disruption.candidates import candidates
from nodeyard.disruption.neighbours import TopologyGuard
from nodeyard.disruption.parts import Parts
from nodeyard.provisioning.model import PlannedNode
from tests.support.disruption import NOW, ZONE, Builder, catalogue


def reserving(left: int) -> Catalogue:
    """The usual types, of which one has places in a reservation."""
    place = Offering(ZONE, keys.RESERVED, 0.0, reserved=Reserved("cr-1", left=left))
    types = [
        msgspec.structs.replace(t, offerings=(*t.offerings, place)) if t.name == "m5.large" else t
        for t in catalogue().types
    ]
    return Catalogue(types, "1")


def left_in(catalogues: Mapping[str, Catalogue]) -> int:
    offering = catalogues[""].offering("m5.large", ZONE, keys.RESERVED, "cr-1")
    assert offering is not None
    assert offering.reserved is not None
    return offering.reserved.left


def with_new_nodes(many: int) -> Arrangement:
    """One node that runs beside so many to be made in the reservation."""
    made = Builder()
    made.pool()
    made.node("runs")
    made.pod("p", "runs")
    view = made.view()
    places = {c.node: place_of(c, view.snapshot.nodes[c.node], True) for c in candidates(view)}
    for number in range(many):
        labels = {keys.CAPACITY_TYPE: keys.RESERVED, keys.RESERVATION_ID: "cr-1"}
        planned = PlannedNode("x", "default", "m5.large", ZONE, keys.RESERVED, 0.0, (), labels)
        place = place_to_make(planned, f"new-{number}", None)
        places[place.name] = place
    return Arrangement(view.snapshot, places, dict.fromkeys(places, ()) | {"runs": ("default/p",)})


def test_nodes_to_be_made_have_taken_their_places() -> None:
    now, offered = with_new_nodes(2), {"": reserving(3)}
    assert left_in(problem_of(now, offered, NOW, {"runs"}, ("default/p",)).catalogues) == 1
    assert left_in(problem_of(now, offered, NOW, {"runs", "new-0"}, ("default/p",)).catalogues) == 2
    assert left_in(offered) == 3


def test_no_reservation_is_left_less_than_empty() -> None:
    now, offered = with_new_nodes(2), {"": reserving(1)}
    assert left_in(problem_of(now, offered, NOW, {"runs"}, ("default/p",)).catalogues) == 0


def test_without_new_nodes_the_catalogues_are_the_same() -> None:
    now, offered = with_new_nodes(0), {"": reserving(1)}
    assert problem_of(now, offered, NOW, {"runs"}, ("default/p",)).catalogues is offered


def test_a_new_node_keeps_its_place_while_others_are_made_beside_it() -> None:
    now, offered = with_new_nodes(2), {"": reserving(3)}
    parts = Parts(now.base, TopologyGuard(now.base), NOW)
    assert left_in(parts.part(now, ["new-0"], ["runs"], offered, beside=True).catalogues) == 1
    assert left_in(parts.part(now, ["new-0"], ["runs"], offered, beside=False).catalogues) == 2

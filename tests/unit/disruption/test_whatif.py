"""What if nodes went: blocks are told, pending pods stay off what goes, replaced means new, and money adds up."""

from __future__ import annotations

import pytest

from nodeyard.api import labels as keys
from nodeyard.disruption.model import Rule
from nodeyard.disruption.whatif import UnknownNode, drained_zone, replaced, without_nodes
from tests.support.disruption import Builder, first_fit


def two_nodes() -> Builder:
    made = Builder()
    made.pool()
    for name in ("n0", "n1"):
        made.node(name)
        made.pod(f"p-{name}", name)
    return made


def test_a_removed_node_saves_what_it_costs_where_its_pods_fit_elsewhere() -> None:
    answer = without_nodes(two_nodes().view(), ["n0"], first_fit)
    assert answer.moves == (("default/p-n0", "n0", "n1"),)
    assert answer.plan.nodes == ()
    assert answer.rent_after == pytest.approx(answer.rent_before / 2)
    assert answer.objective_after == pytest.approx(answer.objective_before / 2)


def test_pods_of_a_replaced_node_do_not_go_to_another_that_has_room() -> None:
    answer = replaced(two_nodes().view(), ["n0"], first_fit)
    assert [new for _, _, new in answer.moves] == [node.name for node in answer.plan.nodes]
    assert "n1" not in {new for _, _, new in answer.moves}


def test_what_blocks_is_told_and_the_answer_given_all_the_same() -> None:
    made = two_nodes()
    made.shape("web", labels={"app": "web"})
    made.pdb("none", 0)
    answer = without_nodes(made.view(), ["n0"], first_fit)
    assert [(node, block.rule) for node, block in answer.blocks] == [("n0", Rule.PDB)]
    assert len(answer.moves) == 1


def test_all_nodes_gone_means_new_ones_for_all_pods() -> None:
    answer = without_nodes(two_nodes().view(), ["n1", "n0", "n0"], first_fit)
    assert len(answer.moves) == 2
    assert answer.rent_after == pytest.approx(sum(n.price_per_hour for n in answer.plan.nodes))


def test_an_unknown_node_is_named() -> None:
    with pytest.raises(UnknownNode, match="n9"):
        without_nodes(two_nodes().view(), ["n0", "n9"], first_fit)


def test_a_drained_zone_loses_its_nodes_and_another_keeps_its_own() -> None:
    made = two_nodes()
    view = made.view()
    inside = view.snapshot.nodes["n0"].labels[keys.ZONE]
    made.node("away", labels={**view.snapshot.nodes["n0"].labels, keys.ZONE: "elsewhere"})
    answer = drained_zone(made.view(), inside, first_fit)
    assert {(old, new) for _, old, new in answer.moves} == {("n0", "away"), ("n1", "away")}

"""A pool that was just refused has to be cheaper by what another refusal would cost; a plan names its prices' source."""

from __future__ import annotations

import time

import msgspec
import pytest

from nodeyard.cloudprovider.model import Catalogue
from nodeyard.provisioning.model import Options, Problem
from nodeyard.provisioning.planner import plan
from nodeyard.provisioning.report import plan_json
from tests.support.planning import posed
from tests.support.problems import plain_deployments


def test_a_plan_says_where_its_prices_come_from_if_the_catalogue_does() -> None:
    problem = posed(plain_deployments(count=1, each=3))
    silent = plan_json(plan(problem, Options(), time.monotonic))
    assert all("priceSource" not in node for node in silent["nodes"])
    told = Catalogue(
        msgspec.structs.replace(
            found, offerings=tuple(msgspec.structs.replace(o, source="estimate") for o in found.offerings)
        )
        for found in problem.catalogues[""].types
    )
    made = plan_json(plan(msgspec.structs.replace(problem, catalogues={"": told}), Options(), time.monotonic))
    assert {node["priceSource"] for node in made["nodes"]} == {"estimate"}


Offer = tuple[str, str, str]


@pytest.mark.parametrize(("risk", "avoided"), [(0.0, False), (5.0, True)])
def test_a_doubtful_pool_is_chosen_only_where_it_is_worth_it(risk: float, avoided: bool) -> None:
    problem = posed(plain_deployments(count=1, each=3))
    (first, *_) = sorted(_bought(problem))
    doubted = msgspec.structs.replace(
        problem, catalogues={"": _with_risk(problem.catalogues[""], first, risk)}
    )
    assert (first not in _bought(doubted)) is avoided


def test_the_bound_is_of_price_and_risk_together_and_the_plan_states_both() -> None:
    problem = posed(plain_deployments(count=1, each=3))
    risky = Catalogue(
        msgspec.structs.replace(
            found, offerings=tuple(msgspec.structs.replace(o, risk=0.05) for o in found.offerings)
        )
        for found in problem.catalogues[""].types
    )
    cost = plan(msgspec.structs.replace(problem, catalogues={"": risky}), Options(), time.monotonic).cost
    assert cost.risk_per_hour > 0
    assert cost.lower_bound is not None
    assert cost.gap is not None
    assert cost.lower_bound > cost.objective_per_hour, (
        "every node is doubtful, so risk is in the least there is"
    )
    assert cost.objective_per_hour + cost.risk_per_hour == pytest.approx(cost.lower_bound * (1 + cost.gap))


def _with_risk(catalogue: Catalogue, doubted: Offer, risk: float) -> Catalogue:
    return Catalogue(
        msgspec.structs.replace(
            found,
            offerings=tuple(
                msgspec.structs.replace(o, risk=risk)
                if (found.name, o.zone, o.capacity_type) == doubted
                else o
                for o in found.offerings
            ),
        )
        for found in catalogue.types
    )


def _bought(problem: Problem) -> set[Offer]:
    made = plan(problem, Options(), time.monotonic)
    return {(node.instance_type, node.zone, node.capacity_type) for node in made.nodes}

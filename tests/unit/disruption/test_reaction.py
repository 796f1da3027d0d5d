"""A changed world: other prices, another pool. The steps are those of the live loop, and money adds up."""

from collections.abc import Callable

import msgspec
import pytest

from nodeyard.api import labels as keys
from nodeyard.api.node import NodeClaim
from nodeyard.api.pool import Budget
from nodeyard.api.selectors import Requirement
from nodeyard.disruption.model import Rule, View
from nodeyard.disruption.reaction import Price, Reaction, at_prices, react, with_pool
from nodeyard.disruption.whatif import UnusableQuestion
from tests.support.disruption import Builder, clock, first_fit


def ticking(step: float) -> Callable[[], float]:
    now = [0.0]

    def tick() -> float:
        now[0] += step
        return now[0]

    return tick


@pytest.fixture
def build() -> Builder:
    """Two full nodes of the cheapest kind that holds their pods, on demand, and nothing to gain."""
    made = Builder()
    made.pool()
    made.shape("big", 1900)
    for name in ("n0", "n1"):
        made.node(name, "m5.large", capacity_type=keys.SPOT)
        made.pod(f"p-{name}", name, shape="big", owner_name=f"rs-{name}")
    return made


def at(view: View, *prices: Price) -> View:
    return msgspec.structs.replace(view, catalogues=at_prices(view.catalogues, prices))


def reaction(build: Builder, changed: View, **more: float) -> Reaction:
    return react("price", build.view(), changed, first_fit, clock, more.get("patience_s", 10.0))


def test_nothing_is_done_where_nothing_changes(build: Builder) -> None:
    found = reaction(build, build.view())
    assert found.steps == ()
    assert found.before == found.unchanged == found.after
    assert found.complete


def test_a_price_that_rises_makes_the_reallocator_leave_its_offering(build: Builder) -> None:
    for name in ("n0", "n1"):
        build.node(name, "m5.large")
    found = reaction(build, at(build.view(), Price("m5.large", 0.5, capacity_type=keys.ON_DEMAND)))
    assert sorted(node for step in found.steps for node in step.remove) == ["n0", "n1"]
    assert found.unchanged[0] == pytest.approx(1.0)
    assert found.after[0] == pytest.approx(2 * 0.1 / 3)
    saved = sum(step.saves_per_hour for step in found.steps)
    assert found.unchanged[1] - found.after[1] == pytest.approx(saved)
    moved = {pod: (old, new) for step in found.steps for pod, old, new in step.moves}
    made = {node.name for step in found.steps for node in step.launch}
    assert {new for _, new in moved.values()} == made
    assert {old for old, _ in moved.values()} == {"n0", "n1"}
    assert [step.singletons for step in found.steps] == [
        (pod,) for step in found.steps for pod, _, _ in step.moves
    ]


def test_a_price_concerns_only_what_it_names(build: Builder) -> None:
    view = build.view()
    for price in (Price("m5.large", 9.0, zone="us-west-2a", capacity_type=keys.SPOT), Price("m5.large", 9.0)):
        sold = at(view, price).catalogues["default"]
        changed = [o for o in sold.by_name["m5.large"].offerings if o.price == 9.0]
        assert len(changed) == (1 if price.zone else 2)
        assert sold.by_name["m5.xlarge"] == view.catalogues["default"].by_name["m5.xlarge"]


@pytest.mark.parametrize(
    ("price", "words"),
    [
        (Price("m9.huge", 1.0), "m9.huge"),
        (Price("m5.large", 1.0, zone="mars"), "m5.large/mars"),
        (Price("m5.large", 0.0), "above 0"),
    ],
)
def test_a_price_of_nothing_is_refused_by_its_name(build: Builder, price: Price, words: str) -> None:
    with pytest.raises(UnusableQuestion, match=words):
        at(build.view(), price)


def test_nodes_that_a_changed_pool_no_longer_allows_drift_and_are_made_anew(build: Builder) -> None:
    build.pool(hash="h1")
    pool = build.pool(hash="h2")
    build.pool(hash="h1")
    view = build.view()
    changed = msgspec.structs.replace(view, snapshot=with_pool(view.snapshot, pool))
    found = reaction(build, changed)
    assert found.drifted == ("n0", "n1")
    assert {step.reason for step in found.steps} == {"Drifted"}
    assert sorted(node for step in found.steps for node in step.remove) == ["n0", "n1"]
    assert reaction(build, view).drifted == ()


def test_what_keeps_a_node_is_told(build: Builder) -> None:
    build.pdb("guard", 0)
    build.shape("big", 1900, labels={"app": "web"})
    pool = msgspec.structs.replace(
        build.pool(), requirements=(Requirement(keys.CAPACITY_TYPE, "In", (keys.ON_DEMAND,)),)
    )
    view = build.view()
    changed = msgspec.structs.replace(view, snapshot=with_pool(view.snapshot, pool))
    found = reaction(build, changed)
    assert found.drifted == ("n0", "n1")
    assert found.steps == ()
    assert [(node, block.rule) for node, block in found.kept] == [("n0", Rule.PDB), ("n1", Rule.PDB)]


def test_budgets_hold_and_are_free_again_after_each_step(build: Builder) -> None:
    build.pool(budgets=(Budget("1"),))
    build.node("n0", "m5.large")
    build.node("n1", "m5.large")
    found = reaction(build, at(build.view(), Price("m5.large", 0.5, capacity_type=keys.ON_DEMAND)))
    assert [len(step.remove) for step in found.steps] == [1, 1]
    build.pool(budgets=(Budget("0"),))
    found = reaction(build, at(build.view(), Price("m5.large", 0.5, capacity_type=keys.ON_DEMAND)))
    assert found.steps == ()
    assert {block.rule for _, block in found.kept} == {Rule.BUDGET}


def test_pods_without_a_place_get_one_first(build: Builder) -> None:
    build.pod("late", shape="big")
    found = reaction(build, build.view())
    assert [(step.reason, [m[0] for m in step.moves]) for step in found.steps] == [
        ("Pending", ["default/late"])
    ]
    assert found.after[0] > found.unchanged[0]


def test_time_that_is_up_is_said(build: Builder) -> None:
    build.node("n0", "m5.large")
    changed = at(build.view(), Price("m5.large", 0.5, capacity_type=keys.ON_DEMAND))
    found = react("price", build.view(), changed, first_fit, ticking(4.0), 5.0)
    assert not found.complete


def test_a_claim_that_says_what_it_was_made_from_keeps_its_word(build: Builder) -> None:
    old = build.pool(hash="h1")
    view = build.view()
    stamped = with_pool(view.snapshot, msgspec.structs.replace(old, hash="h2"))
    claim: NodeClaim = stamped.claims["n0-c"]
    assert claim.annotations[keys.NODEPOOL_HASH] == "h1"
    again = with_pool(stamped, msgspec.structs.replace(old, hash="h3"))
    assert again.claims["n0-c"] == claim

"""Which pools a change of prices touches, and that what is not touched could not have gained from it."""

from collections.abc import Mapping

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeyard.api import labels as keys
from nodeyard.api.pool import Disruption, Steadiness
from nodeyard.api.selectors import Requirement
from nodeyard.cloudprovider.model import Catalogue, InstanceType, Offering
from nodeyard.disruption.methods import decide
from nodeyard.disruption.repricing import repriced
from nodeyard.state.cluster import Kind
from tests.support.disruption import TYPES, ZONE, Builder, catalogue, first_fit

ON_DEMAND_ONLY = (Requirement(keys.CAPACITY_TYPE, "In", (keys.ON_DEMAND,)),)


def with_offering(given: Catalogue, name: str, capacity_type: str, **fields: object) -> Catalogue:
    """The catalogue with one offering changed."""

    def changed(offering: Offering) -> Offering:
        return (
            msgspec.structs.replace(offering, **fields)
            if offering.capacity_type == capacity_type
            else offering
        )

    return Catalogue(
        msgspec.structs.replace(t, offerings=tuple(map(changed, t.offerings))) if t.name == name else t
        for t in given.types
    )


def touched(build: Builder, before: Catalogue, after: Catalogue) -> frozenset[str]:
    return repriced(build.snapshot, {"default": before}, {"default": after})


@pytest.fixture
def build() -> Builder:
    """An on-demand m5.xlarge, 0.20 USD per hour, in a pool that may buy anything."""
    build = Builder()
    build.pool()
    build.node("a")
    return build


def test_the_same_prices_touch_nothing(build: Builder) -> None:
    assert touched(build, catalogue(), catalogue()) == frozenset()


@pytest.mark.parametrize("price", [0.15, 0.25])
def test_a_nodes_own_price_touches_its_pool_whichever_way_it_moves(build: Builder, price: float) -> None:
    after = with_offering(catalogue(), "m5.xlarge", keys.ON_DEMAND, price=price)
    assert touched(build, catalogue(), after) == {"default"}


def test_an_alternative_that_became_cheaper_touches_whom_it_could_save_money(build: Builder) -> None:
    build.pool("other")
    build.node("b", "m5.large", pool="other")
    after = with_offering(catalogue(), "m5.2xlarge", keys.SPOT, price=0.12)
    assert touched(build, catalogue(), after) == {"default"}, "0.12 is below 0.20, not below 0.10"


def test_an_alternative_for_several_nodes_together_counts(build: Builder) -> None:
    build.node("b")
    after = with_offering(catalogue(), "m5.2xlarge", keys.ON_DEMAND, price=0.39)
    assert touched(build, catalogue(), after) == {"default"}, "0.39 is below twice 0.20"


def test_an_alternative_that_the_pool_may_not_buy_does_not_count(build: Builder) -> None:
    build.pool(requirements=ON_DEMAND_ONLY)
    after = with_offering(catalogue(), "m5.large", keys.SPOT, price=0.001)
    assert touched(build, catalogue(), after) == frozenset()


def test_a_rise_of_what_nobody_has_and_a_refusal_do_not_count(build: Builder) -> None:
    dearer = with_offering(catalogue(), "m5.large", keys.SPOT, price=0.09)
    refused = with_offering(catalogue(), "m5.large", keys.SPOT, available=False)
    doubted = with_offering(catalogue(), "m5.large", keys.SPOT, risk=0.05)
    for after in (dearer, refused, doubted):
        assert touched(build, catalogue(), after) == frozenset()


def test_what_can_be_had_again_counts(build: Builder) -> None:
    before = with_offering(catalogue(), "m5.large", keys.SPOT, available=False)
    assert touched(build, before, catalogue()) == {"default"}
    fewer = {name: figures for name, figures in TYPES.items() if name != "m5.large"}
    assert touched(build, catalogue(fewer), catalogue()) == {"default"}


def test_what_saves_less_than_the_pool_wants_does_not_count(build: Builder) -> None:
    after = with_offering(catalogue(), "m5.2xlarge", keys.SPOT, price=0.12)
    for wants, expected in ((Steadiness(0.09), set()), (Steadiness(0.07), {"default"}),
                            (Steadiness(0.0, 0.5), set()), (Steadiness(0.0, 0.3), {"default"})):  # fmt: skip
        pool = build.pool()
        steady = msgspec.structs.replace(pool, disruption=Disruption(steadiness=wants))
        build.put(Kind.POOL, steady.key, steady)
        assert touched(build, catalogue(), after) == expected


def test_many_small_falls_add_up_against_the_last_look(build: Builder) -> None:
    prices = [0.13, 0.125, 0.12]
    steps = [with_offering(catalogue(), "m5.2xlarge", keys.SPOT, price=price) for price in prices]
    assert touched(build, catalogue(), steps[-1]) == {"default"}


figures = st.sampled_from([0.01, 0.05, 0.09, 0.11, 0.15, 0.19, 0.21, 0.3, 0.39, 0.41])
markets = st.fixed_dictionaries({(name, ct): st.tuples(figures, st.booleans()) for name in TYPES
                                 for ct in (keys.ON_DEMAND, keys.SPOT)})  # fmt: skip


def market(figures: Mapping[tuple[str, str], tuple[float, bool]]) -> Catalogue:
    made = []
    for kind in catalogue().types:
        offers = tuple(Offering(ZONE, ct, *figures[kind.name, ct]) for ct in (keys.ON_DEMAND, keys.SPOT))
        made.append(InstanceType(kind.name, kind.requirements, kind.capacity, kind.allocatable, offers))
    return Catalogue(made)


@given(markets, markets, st.lists(st.sampled_from(list(TYPES)), min_size=1, max_size=3))
def test_prices_that_touch_no_pool_give_no_pass_anything_to_do(
    was: Mapping[tuple[str, str], tuple[float, bool]],
    now: Mapping[tuple[str, str], tuple[float, bool]],
    types: list[str],
) -> None:
    build = Builder()
    build.pool()
    for place, type_ in enumerate(types):
        build.node(f"n{place}", type_)
        build.pod(f"p{place}", f"n{place}", shape="web")
    before, after = market(was), market(now)
    view = build.view(catalogues={"default": before})
    quiet = decide(view, first_fit, lambda: 0.0).command is None
    if quiet and not touched(build, before, after):
        later = decide(msgspec.structs.replace(view, catalogues={"default": after}), first_fit, lambda: 0.0)
        assert later.command is None

"""Types that can't be what a class asks for are not in its catalogue; those that can have what it leaves them."""

import pytest

from nodeyard.api import labels as keys
from nodeyard.api.cpu_options import CpuOptions
from nodeyard.api.networking import EFA_ONLY, NetworkInterface
from nodeyard.api.placement import PlacementGroup
from nodeyard.cloudprovider.capacity import EFA, capacity_of, reservations_of
from nodeyard.cloudprovider.refusals import Refusal
from nodeyard.cloudprovider.resolve import resolve
from tests.support.catalogue import described, node_class, small_market, table_of

KINDS = ("c6in.32xlarge", "m5.large", "p4d.24xlarge", "t3.nano")
PRIMARY = NetworkInterface()


def names(**settings: object) -> set[str]:
    market = small_market(table_of(*KINDS))
    return set(resolve(market, node_class(**settings), now=0.0).by_name)


@pytest.mark.parametrize(
    ("interfaces", "wanted"),
    [
        ((), set(KINDS)),
        ((PRIMARY,), set(KINDS)),
        ((PRIMARY, NetworkInterface(0, 1), NetworkInterface(0, 2)), set(KINDS) - {"t3.nano"}),
        ((PRIMARY, NetworkInterface(1, 0)), {"c6in.32xlarge", "p4d.24xlarge"}),
        ((PRIMARY, NetworkInterface(0, 1, EFA_ONLY)), {"c6in.32xlarge", "p4d.24xlarge"}),
        ((PRIMARY, NetworkInterface(3, 0, EFA_ONLY)), {"p4d.24xlarge"}),
        ((PRIMARY, NetworkInterface(9, 0)), set()),
    ],
)
def test_types_without_the_cards_that_a_class_names_are_left_out(
    interfaces: tuple[NetworkInterface, ...], wanted: set[str]
) -> None:
    assert names(network_interfaces=interfaces) == wanted


@pytest.mark.parametrize(
    ("interfaces", "pods", "devices"),
    [
        ((), 15 * 49 + 2, 4),
        ((PRIMARY,), 15 * 49 + 2, 0),
        ((PRIMARY, NetworkInterface(0, 1, EFA_ONLY), NetworkInterface(1, 0, EFA_ONLY)), 14 * 49 + 2, 2),
    ],
)
def test_efa_only_interfaces_of_the_first_card_leave_fewer_addresses_for_pods(
    interfaces: tuple[NetworkInterface, ...], pods: int, devices: int
) -> None:
    settings = reservations_of(node_class(network_interfaces=interfaces))
    capacity = capacity_of(described("p4d.24xlarge"), settings)
    assert (capacity["pods"], capacity.get(EFA, 0)) == (pods, devices)


@pytest.mark.parametrize(
    ("strategy", "wanted"),
    [
        ("cluster", set(KINDS) - {"t3.nano"}),
        ("spread", set(KINDS)),
        ("partition", set(KINDS)),
    ],
)
def test_types_that_the_placement_group_does_not_take_are_left_out(strategy: str, wanted: set[str]) -> None:
    assert names(placement_group=PlacementGroup("pg-1", "g", strategy, 2)) == wanted


def test_nodes_are_labelled_with_their_group_and_may_be_in_any_of_its_partitions() -> None:
    group = PlacementGroup("pg-1", "g", "partition", 3)
    (found,) = resolve(small_market(table_of("m5.large")), node_class(placement_group=group), now=0.0).types
    assert found.requirements[keys.PLACEMENT_GROUP] == ("pg-1",)
    assert found.requirements[keys.PLACEMENT_PARTITION] == ("1", "2", "3")


def test_what_is_refused_in_a_group_is_out_for_that_group_alone() -> None:
    spread = Refusal(zone="eu-west-1a", code="UnfulfillableCapacity", placement_group="pg-1")
    scarce = Refusal("m5.large", "eu-west-1b", "spot", "InsufficientInstanceCapacity", placement_group="pg-1")
    market = small_market(table_of("m5.large", "m5.xlarge"), [spread, scarce])

    def shut(group: PlacementGroup | None) -> set[tuple[str, str, str]]:
        catalogue = resolve(market, node_class(placement_group=group), now=0.0)
        return {
            (t.name, o.zone[-1], o.capacity_type)
            for t in catalogue.types
            for o in t.offerings
            if not o.available
        }

    assert shut(None) == shut(PlacementGroup("pg-2", "h", "spread")) == set()
    in_zone = {(name, "a", kind) for name in ("m5.large", "m5.xlarge") for kind in ("spot", "on-demand")}
    assert shut(PlacementGroup("pg-1", "g", "spread")) == in_zone | {("m5.large", "b", "spot")}


def test_what_is_refused_in_a_partition_is_noted_for_that_partition_of_that_group_alone() -> None:
    scarce = Refusal(
        "m5.large", "eu-west-1b", "spot", "InsufficientInstanceCapacity", placement_group="pg-1/2"
    )
    wide = Refusal(zone="eu-west-1c", code="InsufficientInstanceCapacity", placement_group="pg-1/3")
    market = small_market(table_of("m5.large", "m5.xlarge"), [scarce, wide])

    def noted(group: PlacementGroup | None) -> dict[tuple[str, str, str], tuple[str, ...]]:
        catalogue = resolve(market, node_class(placement_group=group), now=0.0)
        offers = [(t.name, o) for t in catalogue.types for o in t.offerings]
        assert all(o.available for _, o in offers)
        return {
            (n, o.zone[-1], o.capacity_type): o.refused_partitions for n, o in offers if o.refused_partitions
        }

    assert noted(None) == noted(PlacementGroup("pg-2", "h", "partition", 3)) == {}
    in_zone = {
        (name, "c", kind): ("3",) for name in ("m5.large", "m5.xlarge") for kind in ("spot", "on-demand")
    }
    assert noted(PlacementGroup("pg-1", "g", "partition", 3)) == in_zone | {("m5.large", "b", "spot"): ("2",)}


@pytest.mark.parametrize(
    ("asked", "wanted"), [("enabled", {"m8i.large"}), ("disabled", {"m8i.large", "m5.large"})]
)
def test_only_types_with_nested_virtualization_serve_where_it_is_enabled(
    asked: str, wanted: set[str]
) -> None:
    market = small_market(table_of("m8i.large", "m5.large"))
    found = resolve(market, node_class(cpu_options=CpuOptions(asked)), now=0.0)
    assert set(found.by_name) == wanted

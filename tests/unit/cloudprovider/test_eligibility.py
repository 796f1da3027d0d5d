"""Types that can't be what a class asks for are not in its catalogue; those that can have what it leaves them."""

import pytest

from nodeyard.api.networking import EFA_ONLY, NetworkInterface
from nodeyard.cloudprovider.capacity import EFA, capacity_of, reservations_of
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

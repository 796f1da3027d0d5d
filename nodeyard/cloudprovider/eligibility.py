"""Which instance types can be what a node class asks for, so that no launch is tried with the others.

A type must have the network cards and EFA devices that the class's interfaces need, and be of a kind that the class's
placement group takes. Types of which the facts are not
known count as not having them. Neighbour: `resolve`, which leaves the others out of the class's catalogue.
Source: EC2 API reference, InstanceTypeInfo.
"""

from nodeyard.api.networking import EFA_ONLY
from nodeyard.api.nodeclass import NodeClass
from nodeyard.cloudprovider.description import TypeDescription


def eligible(described: TypeDescription, node_class: NodeClass) -> bool:
    """Whether instances of this type can be launched as the class wants them."""
    return _has_interfaces(described, node_class) and _fits_group(described, node_class)


def _fits_group(described: TypeDescription, node_class: NodeClass) -> bool:
    group = node_class.placement_group
    return group is None or group.strategy in described.placement_strategies


def _has_interfaces(described: TypeDescription, node_class: NodeClass) -> bool:
    wanted: dict[int, int] = {}
    efa_only = set()
    for one in node_class.network_interfaces:
        card = one.network_card_index
        wanted[card] = wanted.get(card, 0) + 1
        if one.interface_type == EFA_ONLY:
            efa_only.add(card)
    cards = described.cards
    return efa_only <= set(described.efa_only_cards) and all(
        card < len(cards) and count <= cards[card] for card, count in wanted.items()
    )

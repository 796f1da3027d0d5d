"""Which instance types can be what a node class asks for, so that no launch is tried with the others.

A type must have the network cards and EFA devices that the class's interfaces need, be of a kind that the class's
placement group takes, and virtualize where the class says that its pods do. Types of which the facts are not
known count as not having them. Neighbour: `resolve`, which leaves the others out of the class's catalogue.
Source: EC2 API reference, InstanceTypeInfo.
"""

from nodeyard.api.cpu_options import ENABLED
from nodeyard.api.networking import EFA_ONLY
from nodeyard.api.nodeclass import NodeClass
from nodeyard.cloudprovider.description import TypeDescription


def eligible(described: TypeDescription, node_class: NodeClass) -> bool:
    """Whether instances of this type can be launched as the class wants them."""
    return (
        _has_interfaces(described, node_class)
        and _fits_group(described, node_class)
        and (described.nested_virtualization or not _wants_nested(node_class))
    )


def _wants_nested(node_class: NodeClass) -> bool:
    options = node_class.cpu_options
    return options is not None and options.nested_virtualization == ENABLED


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

"""Whether one new node is a better home for pods than the nodes they have, and at which offerings it stays so.

The rules of price: every offering left is strictly cheaper than what goes; a node that was not spot and may become
spot becomes spot and nothing else, so that a spot shortage fails the command instead of buying something dearer; spot
is exchanged for spot only where many cheaper types are allowed, so that it is not driven into the scarcest one.
Source: Karpenter documentation, "Consolidation" and "Spot consolidation".
"""

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from nodeyard.api import labels as keys
from nodeyard.api.selectors import Requirement
from nodeyard.disruption.model import Block, Candidate, Options, Rule
from nodeyard.provisioning.model import OfferingRef, PlannedNode

_EPSILON: Final = 1e-9
_TYPE_LABELS: Final = (keys.AWS_GROUP + "/", keys.ARCH, keys.OS)


def cheaper(node: PlannedNode, gone: Sequence[Candidate], options: Options) -> PlannedNode | Block:
    """The planned node with only the offerings that keep the exchange worth it, or why there are none."""
    paid = sum(c.price_per_hour or 0.0 for c in gone)
    offered = choices(node)
    left = _not_a_mere_removal([ref for ref in offered if ref.price_per_hour < paid - _EPSILON], gone)
    facts: dict[str, str | int | float | bool] = {
        "pricePerHour": paid,
        "cheapestPerHour": min(ref.price_per_hour for ref in offered),
        "offerings": len(offered),
    }
    if not left:
        return Block(Rule.NOT_CHEAPER, "no node that holds its pods is cheaper than it is", facts)
    left_or_block = _capacity_types(node, left, gone, options)
    if isinstance(left_or_block, Block):
        return left_or_block
    kept = narrowed(node, left_or_block)
    if kept is None:
        message = "too few cheaper instance types are left for the pool's minValues"
        return Block(Rule.NOT_CHEAPER, message, facts | {"offerings": len(left_or_block)})
    return kept


def _not_a_mere_removal(left: list[OfferingRef], gone: Sequence[Candidate]) -> list[OfferingRef]:
    """Where one of several nodes that go is of a type that would come, keeping it would do: then only what is cheaper
    than the cheapest such node is left.
    """
    types = {ref.instance_type for ref in left}
    same = [c.price_per_hour or 0.0 for c in gone if c.instance_type in types] if len(gone) > 1 else []
    return [ref for ref in left if ref.price_per_hour < min(same) - _EPSILON] if same else left


def choices(node: PlannedNode) -> list[OfferingRef]:
    """All ways to make the node, its first choice first."""
    first = OfferingRef(
        node.instance_type, node.zone, node.capacity_type, node.price_per_hour, node.reservation
    )
    return [first, *node.alternatives]


def _capacity_types(
    node: PlannedNode, left: list[OfferingRef], gone: Sequence[Candidate], options: Options
) -> list[OfferingRef] | Block:
    spot = [ref for ref in left if ref.capacity_type == keys.SPOT]
    if not spot:
        return left
    if any(c.capacity_type != keys.SPOT for c in gone):
        return spot
    types = list(dict.fromkeys(ref.instance_type for ref in spot))
    if not options.spot_to_spot:
        return Block(Rule.SPOT_TO_SPOT, "spot nodes are not exchanged for cheaper spot nodes")
    if len(gone) > 1:
        return spot
    if len(types) < options.spot_to_spot_types:
        message = "too few cheaper spot types to exchange a spot node for another"
        return Block(Rule.SPOT_TO_SPOT, message, {"types": len(types), "wanted": options.spot_to_spot_types})
    kept = set(types[: max(options.spot_to_spot_types, _least(node, keys.INSTANCE_TYPE))])
    return [ref for ref in spot if ref.instance_type in kept]


def _least(node: PlannedNode, key: str) -> int:
    """How many values the pool's minValues wants of a label."""
    return max((r.min_values or 0 for r in node.requirements if r.key == key), default=0)


def narrowed(node: PlannedNode, refs: Sequence[OfferingRef]) -> PlannedNode | None:
    """The node with only these offerings left; None where a requirement's minValues is not met any more."""
    ordered = sorted(
        refs, key=lambda ref: (ref.price_per_hour, ref.instance_type, ref.zone, ref.capacity_type)
    )
    first = ordered[0]
    allowed = {
        keys.INSTANCE_TYPE: _in_order(ref.instance_type for ref in ordered),
        keys.ZONE: _in_order(ref.zone for ref in ordered),
        keys.CAPACITY_TYPE: _in_order(ref.capacity_type for ref in ordered),
    }
    requirements = [r for r in node.requirements if r.key not in allowed]
    for key, values in allowed.items():
        least = _least(node, key)
        if least > len(values):
            return None
        requirements.append(Requirement(key, "In", values, least or None))
    return msgspec.structs.replace(
        node,
        instance_type=first.instance_type,
        zone=first.zone,
        capacity_type=first.capacity_type,
        price_per_hour=first.price_per_hour,
        reservation=first.reservation,
        alternatives=tuple(ordered[1:]),
        requirements=tuple(requirements),
        labels=_labels(node, first),
    )


def _in_order(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))


def _labels(node: PlannedNode, first: OfferingRef) -> dict[str, str]:
    """The node's labels when `first` makes it: what only the former first choice has is left out."""
    labels = dict(node.labels)
    if first.instance_type != node.instance_type:
        labels = {k: v for k, v in labels.items() if not k.startswith(_TYPE_LABELS)}
    now = ((keys.INSTANCE_TYPE, first.instance_type), (keys.ZONE, first.zone))
    for key, value in (*now, (keys.CAPACITY_TYPE, first.capacity_type)):
        if key in labels:
            labels[key] = value
    return labels


def same_or_wider(command: PlannedNode, again: PlannedNode) -> bool:
    """Whether a second look still allows every instance type that the command was decided with."""
    wanted = {ref.instance_type for ref in choices(command)}
    return wanted <= {ref.instance_type for ref in choices(again)}

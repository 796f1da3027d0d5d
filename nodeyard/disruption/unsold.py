"""What capacity reservations still take while a consolidation is thought through: places that new nodes have are gone.

A catalogue says how many places a reservation has beside the nodes that run. Every node to be made takes one; the place of
a node that goes is not counted on, for it is free only once that node has gone. Neighbours: `arrangement` and `parts`, which
ask the planner with what is left.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec

from nodeyard.api import labels as keys
from nodeyard.cloudprovider.model import Catalogue, InstanceType, Offering


def unsold(catalogues: Mapping[str, Catalogue], made: Iterable[Mapping[str, str]]) -> Mapping[str, Catalogue]:
    """The catalogues with what reservations still take. `made`: the labels of nodes that are to be made."""
    taken = Counter(labels[keys.RESERVATION_ID] for labels in made if keys.RESERVATION_ID in labels)
    return {key: _less(catalogue, taken) for key, catalogue in catalogues.items()} if taken else catalogues


def _less(catalogue: Catalogue, taken: Mapping[str, int]) -> Catalogue:
    at = f"{__name__}/{sorted(taken.items())}"
    found = catalogue.memo.get(at)
    if not isinstance(found, Catalogue):
        types = (_type(kind, taken) for kind in catalogue.types)
        found = Catalogue(types, f"{catalogue.revision}/{at}", catalogue.unselected)
        catalogue.memo[at] = found
    return found


def _type(kind: InstanceType, taken: Mapping[str, int]) -> InstanceType:
    if not any(o.reserved is not None and o.reserved.id in taken for o in kind.offerings):
        return kind
    return msgspec.structs.replace(kind, offerings=tuple(_offering(o, taken) for o in kind.offerings))


def _offering(offering: Offering, taken: Mapping[str, int]) -> Offering:
    one = offering.reserved
    if one is None or one.id not in taken:
        return offering
    fewer = msgspec.structs.replace(one, left=max(0, one.left - taken[one.id]))
    return msgspec.structs.replace(offering, reserved=fewer)

"""Which zone the pods that wait are bound to: the one that their own rules and volumes leave, several, or none.

For people who look at what waits while a zone is in trouble; the planner itself reads the same rules through `classes`.
Where pods go by the pods beside them (spread, pod affinity) is not looked at: that is decided with the plan.
"""

from collections import Counter
from collections.abc import Iterable, Set
from typing import Final

from nodeyard.api import labels as keys
from nodeyard.api.pod import PodKey, PodShape
from nodeyard.api.selectors import NodeSelectorTerm
from nodeyard.cloudprovider.model import Catalogue
from nodeyard.provisioning.classes import rule_of
from nodeyard.scheduling.requirements import canonical_key
from nodeyard.scheduling.selectors import value_matches
from nodeyard.scheduling.volumes import VolumeProblem, volume_needs
from nodeyard.state.cluster import Snapshot

FLEXIBLE: Final = "flexible"
NONE: Final = "none"


def zones_of(snapshot: Snapshot, catalogues: Iterable[Catalogue]) -> frozenset[str]:
    """Zones that nodes are in or could be made in."""
    sold = {o.zone for catalogue in catalogues for kind in catalogue.types for o in kind.offerings}
    standing = {node.labels[keys.ZONE] for node in snapshot.nodes.values() if keys.ZONE in node.labels}
    return frozenset(sold | standing)


def effective_zones(snapshot: Snapshot, pods: Iterable[PodKey], zones: Set[str]) -> Counter[str]:
    """Pods by the zone of `zones` that is left to them, `FLEXIBLE` where there are several and `NONE` where there is
    none. A volume claim that can't be used counts for nothing.
    """
    shapes = Counter(snapshot.pods[key].shape for key in pods)
    out: Counter[str] = Counter()
    for shape, many in shapes.items():
        left = _zones_left(snapshot, snapshot.shapes[shape], zones)
        out[FLEXIBLE if len(left) > 1 else next(iter(left), NONE)] += many
    return out


def _zones_left(snapshot: Snapshot, shape: PodShape, zones: Set[str]) -> set[str]:
    rule = rule_of(shape)
    choices = [rule.required.node_selector_terms] if rule.required is not None else []
    if shape.volume_claims:
        needs = volume_needs(
            shape.namespace, shape.volume_claims, snapshot.pvcs, snapshot.pvs, snapshot.storage_classes
        )
        choices += [] if isinstance(needs, VolumeProblem) else list(needs.reach)
    named = {value for key, value in rule.selector if canonical_key(key) == keys.ZONE}
    return {
        zone
        for zone in zones
        if named <= {zone} and all(any(_allows(term, zone) for term in terms) for terms in choices)
    }


def _allows(term: NodeSelectorTerm, zone: str) -> bool:
    """Whether a term could hold in a zone, whatever else it asks for."""
    return all(value_matches(e, zone) for e in term.match_expressions if canonical_key(e.key) == keys.ZONE)

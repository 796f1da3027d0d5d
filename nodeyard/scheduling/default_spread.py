"""The cluster's default topology spread, given the selector that the kube-scheduler would deduce for a pod.

A default constraint names no pods. They are those that the Services matching the pod select, and of these the ones
that its controller selects. A pod that nothing selects has no default spread. Source: kube-scheduler,
`helper.DefaultSelector` and the PodTopologySpread plugin; kubernetes.io "Pod Topology Spread Constraints".
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from nodeyard.api.cluster import Selecting
from nodeyard.api.pod import PodShape
from nodeyard.api.selectors import LabelSelector, Requirement, TopologySpreadConstraint
from nodeyard.scheduling.selectors import labels_match

SERVICE = "Service"


class DefaultSpread:
    """Default constraints and everything that selects pods."""

    def __init__(
        self, constraints: Iterable[TopologySpreadConstraint], selecting: Mapping[str, Selecting]
    ) -> None:
        self._constraints = tuple(constraints)
        self._selecting = selecting
        self._services: dict[str, list[LabelSelector]] = defaultdict(list)
        for one in selecting.values() if self._constraints else ():
            if one.kind == SERVICE and one.selector is not None:
                self._services[one.namespace].append(one.selector)

    def of(self, shape: PodShape, owner_kind: str, owner_name: str) -> tuple[TopologySpreadConstraint, ...]:
        """The constraints of a pod that has no spread of its own; `owner_*`: its controller."""
        if not self._constraints or shape.topology_spread_constraints:
            return ()
        selector = self._deduced(shape, owner_kind, owner_name)
        if selector is None:
            return ()
        return tuple(msgspec.structs.replace(c, label_selector=selector) for c in self._constraints)

    def _deduced(self, shape: PodShape, owner_kind: str, owner_name: str) -> LabelSelector | None:
        """What the matching Services and the controller ask for together; None where that is nothing."""
        found: Sequence[LabelSelector] = [
            s for s in self._services.get(shape.namespace, ()) if labels_match(s, shape.labels)
        ]
        owner = self._selecting.get(f"{owner_kind}/{shape.namespace}/{owner_name}")
        if owner is not None and owner.kind != SERVICE and owner.selector is not None:
            found = [*found, owner.selector]
        labels: dict[str, str] = {}
        expressions: dict[Requirement, None] = {}
        for selector in found:
            labels |= selector.match_labels
            expressions |= dict.fromkeys(selector.match_expressions)
        return LabelSelector(labels, tuple(expressions)) if labels or expressions else None

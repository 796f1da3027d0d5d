"""The kube-scheduler of a replay: a pod goes to the node with room that scores best, or nowhere.

Filters by requests, node selector, required node affinity and taints, and scores as LeastAllocated (the default) or
MostAllocated does over cpu and memory. Terms that look at other pods, host ports and volumes it does not know;
`unknown_terms` says which shapes have them. Source: Kubernetes documentation, "Resource Bin Packing".
"""

from collections.abc import Mapping, Sequence

import numpy as np

from nodeyard.api.node import Node
from nodeyard.api.pod import PodShape, ShapeId
from nodeyard.provisioning.classes import rule_of
from nodeyard.provisioning.labelled import Bools, Floats, Labelled, coded
from nodeyard.scheduling.taints import tolerates

_GROWTH = 64
_SCORED = ("cpu", "memory")
_Kind = tuple[object, ...]
"""What tells nodes apart for a pod's rules: labels and taints."""


def unknown_terms(shape: PodShape) -> tuple[str, ...]:
    """What of a shape a replay can't honour."""
    fields = (
        "pod_affinity",
        "pod_anti_affinity",
        "topology_spread_constraints",
        "host_ports",
        "volume_claims",
    )
    return tuple(field for field in fields if getattr(shape, field))


class KubeScheduler:
    """Nodes as rows: what is free on each, and whether it takes pods."""

    def __init__(self, shapes: Mapping[ShapeId, PodShape], *, packed: bool) -> None:
        self._shapes = shapes
        self._resources = sorted({r for shape in shapes.values() for r in shape.requests} | set(_SCORED))
        self._request: dict[ShapeId, Floats] = {
            id_: np.array([shape.requests.get(r, 0) for r in self._resources], np.float64)
            for id_, shape in shapes.items()
        }
        self._scored = [self._resources.index(r) for r in _SCORED]
        self._sign = -1.0 if packed else 1.0
        self._row: dict[str, int] = {}
        self._names: list[str] = []
        self._nodes: list[Node | None] = []
        self._free: Floats = np.zeros((0, len(self._resources)))
        self._weight: Floats = np.zeros((0, len(_SCORED)))
        self._open: Bools = np.zeros(0, np.bool_)
        self._admits: dict[ShapeId, Bools] = {}
        self._kinds: dict[tuple[ShapeId, _Kind], bool] = {}

    def add(self, node: Node, used: Sequence[ShapeId] = ()) -> None:
        """A node that takes pods from now on; `used`: shapes of those it has."""
        row = next((i for i, name in enumerate(self._names) if not name), len(self._names))
        if row == len(self._names):
            self._grow()
        self._row[node.name] = row
        self._names[row], self._nodes[row] = node.name, node
        self._free[row] = [node.allocatable.get(r, 0) for r in self._resources]
        room = np.maximum(self._free[row][self._scored], 1.0)
        self._weight[row] = 1.0 / room
        self._open[row] = True
        for shape in used:
            self._free[row] -= self._request[shape]
        kind = _kind(node)
        for id_, mask in self._admits.items():
            mask[row] = self._admitted(id_, node, kind)

    def _grow(self) -> None:
        self._names += [""] * _GROWTH
        self._nodes += [None] * _GROWTH
        self._free = np.concatenate([self._free, np.zeros((_GROWTH, len(self._resources)))])
        self._weight = np.concatenate([self._weight, np.zeros((_GROWTH, len(_SCORED)))])
        self._open = np.concatenate([self._open, np.zeros(_GROWTH, np.bool_)])
        for id_, mask in self._admits.items():
            self._admits[id_] = np.concatenate([mask, np.zeros(_GROWTH, np.bool_)])

    def remove(self, name: str) -> None:
        row = self._row.pop(name)
        self._names[row], self._nodes[row] = "", None
        self._free[row] = 0.0
        self._open[row] = False

    def close(self, name: str) -> None:
        """No new pods there."""
        self._open[self._row[name]] = False

    def reopen(self, name: str) -> None:
        self._open[self._row[name]] = True

    def place(self, shape: ShapeId) -> str | None:
        """The node that a pod of this shape goes to, its room taken; None where it fits nowhere."""
        request = self._request[shape]
        fits = (self._free >= request).all(axis=1) & self._open & self._mask(shape)
        rows = fits.nonzero()[0]
        if not len(rows):
            return None
        left = (self._free[rows][:, self._scored] - request[self._scored]) * self._weight[rows]
        row = int(rows[(left.sum(axis=1) * self._sign).argmax()])
        self._free[row] -= request
        return self._names[row]

    def place_on(self, shape: ShapeId, name: str) -> bool:
        """Whether the pod fits on this node; takes its room if so."""
        row = self._row[name]
        request = self._request[shape]
        if not self._open[row] or not (self._free[row] >= request).all() or not self._mask(shape)[row]:
            return False
        self._free[row] -= request
        return True

    def give_back(self, shape: ShapeId, name: str) -> None:
        """The pod is gone from the node."""
        if name in self._row:
            self._free[self._row[name]] += self._request[shape]

    def _mask(self, shape: ShapeId) -> Bools:
        found = self._admits.get(shape)
        if found is None:
            found = np.array(
                [n is not None and self._admitted(shape, n, _kind(n)) for n in self._nodes], np.bool_
            )
            self._admits[shape] = found
        return found

    def _admitted(self, shape: ShapeId, node: Node, kind: _Kind) -> bool:
        key = (shape, kind)
        found = self._kinds.get(key)
        if found is None:
            rule = rule_of(self._shapes[shape])
            here = Labelled(1, lambda name: coded([node.labels.get(name)]))
            found = bool(here.admitted(rule)[0]) and tolerates(rule.tolerations, node.taints)
            self._kinds[key] = found
        return found


def _kind(node: Node) -> _Kind:
    return tuple(sorted(node.labels.items())), node.taints

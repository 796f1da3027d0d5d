"""Whether a node that runs could as well be one that a plan would make: it takes the same pods.

A node of an offering may differ from a new one: cordoned, tainted or labelled by hand, or with less room than the
catalogue says. What pods ask of each other is looked at elsewhere (`neighbours`).
"""

from collections import Counter
from collections.abc import Mapping

from nodeyard.api.node import Node
from nodeyard.api.pod import PodShape, ShapeId
from nodeyard.api.quantity import Resources
from nodeyard.provisioning.classes import rule_of
from nodeyard.provisioning.labelled import Labelled, coded
from nodeyard.scheduling.taints import tolerates
from nodeyard.state.cluster import Snapshot


def takes(snapshot: Snapshot, node: Node, pods: Mapping[ShapeId, int]) -> bool:
    """Whether the node, with its daemons and nothing else, takes so many pods of these shapes."""
    if node.unschedulable or node.deleted_at:
        return False
    labelled = Labelled(1, lambda key: coded([node.labels.get(key)]))
    shapes = {id_: snapshot.shapes[id_] for id_ in pods}
    if not all(_admits(node, labelled, shape) for shape in shapes.values()):
        return False
    asked: Counter[str] = Counter(_daemons(snapshot, node.name))
    for id_, many in pods.items():
        asked.update({resource: many * amount for resource, amount in shapes[id_].requests.items()})
    return all(amount <= node.allocatable.get(resource, 0) for resource, amount in asked.items())


def _admits(node: Node, labelled: Labelled, shape: PodShape) -> bool:
    return tolerates(shape.tolerations, node.taints) and bool(labelled.admitted(rule_of(shape))[0])


def _daemons(snapshot: Snapshot, name: str) -> Resources:
    asked: Counter[str] = Counter()
    for pod in snapshot.pods_of_node(name):
        if pod.daemon:
            asked.update(snapshot.shape(pod).requests)
    return dict(asked)

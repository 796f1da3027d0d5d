"""A cluster given as objects, completed with what its controllers would have written by now.

Files hold Nodes, their pods, pools and budgets; seldom NodeClaims, labels of a finished start or the status of a
PodDisruptionBudget, and rarely the annotation with which a volume's binding ends. For a simulation the nodes of a pool
are taken for up and running, each with a claim of its own name, volume claims that name a volume for bound, and budgets
are counted from the pods they select. What the objects do say is left as it is.
Source: Kubernetes documentation, "Specifying a Disruption Budget" (rounding of percentages).
"""

import math
from collections.abc import Collection, Mapping

import msgspec

from nodeyard.api import labels as keys
from nodeyard.api.cluster import PodDisruptionBudget
from nodeyard.api.node import INITIALIZED, LAUNCHED, READY, REGISTERED, Condition, Node, NodeClaim
from nodeyard.api.pod import PodRecord
from nodeyard.api.quantity import Resources
from nodeyard.cloudprovider.model import Catalogue
from nodeyard.provisioning.pending import selects
from nodeyard.state.cluster import Snapshot

_CONDITIONS = tuple(Condition(kind, "True", kind) for kind in (LAUNCHED, REGISTERED, INITIALIZED))


def completed(
    snapshot: Snapshot,
    catalogues: Mapping[str, Catalogue],
    uncounted: Collection[str] = (),
    only: Collection[str] | None = None,
) -> Snapshot:
    """The snapshot as its controllers would show it. `uncounted`: keys of budgets whose status says nothing; `only`:
    the nodes to complete, else all.
    """
    nodes, claims = dict(snapshot.nodes), dict(snapshot.claims)
    for name, node in snapshot.nodes.items():
        if not node.pool or (only is not None and name not in only):
            continue
        pool = snapshot.pools.get(node.pool)
        known = snapshot.claim_of(node)
        node_class = known.node_class if known else pool.node_class if pool else None
        catalogue = catalogues.get(node_class.key if node_class else "") or catalogues.get("")
        nodes[name] = _started(node, _measured(node, catalogue, _load(snapshot, name)))
        if known is None and node_class is not None:
            claims[f"node/{name}"] = NodeClaim(
                f"node/{name}",
                uid=node.uid or name,
                labels=node.labels,
                node_class=node_class,
                provider_id=nodes[name].provider_id,
                node_name=name,
                conditions=_CONDITIONS,
                termination_grace_period_s=pool.termination_grace_period_s if pool else None,
            )
    return msgspec.structs.replace(
        snapshot,
        nodes=nodes,
        claims=claims,
        pdbs={
            key: _counted(snapshot, pdb) if key in uncounted else pdb for key, pdb in snapshot.pdbs.items()
        },
        pvcs={
            key: msgspec.structs.replace(pvc, phase="Bound", bind_completed=True) if pvc.volume_name else pvc
            for key, pvc in snapshot.pvcs.items()
        },
        claim_of_provider={c.provider_id: name for name, c in claims.items() if c.provider_id},
        node_of_provider={n.provider_id: name for name, n in nodes.items() if n.provider_id},
    )


def _started(node: Node, allocatable: Resources) -> Node:
    """The node with what a finished start leaves behind."""
    labels = {keys.REGISTERED: "true", keys.INITIALIZED: "true", keys.HOSTNAME: node.name, **node.labels}
    conditions = node.conditions or (Condition(READY, "True"),)
    provider_id = node.provider_id or f"file:///{node.name}"
    return msgspec.structs.replace(
        node, labels=labels, conditions=conditions, provider_id=provider_id, allocatable=allocatable
    )


def _load(snapshot: Snapshot, node: str) -> Resources:
    total: Resources = {}
    for pod in snapshot.pods_of_node(node):
        for resource, amount in snapshot.shape(pod).requests.items():
            total[resource] = total.get(resource, 0) + amount
    return total


def _measured(node: Node, catalogue: Catalogue | None, load: Resources) -> Resources:
    """Its allocatable, but no more than the catalogue gives its type, as long as its pods fit that: a node then is
    worth no more than another of its offering. What says nothing of itself is taken for what the catalogue says.
    """
    found = catalogue.by_name.get(node.labels.get(keys.INSTANCE_TYPE, "")) if catalogue else None
    if found is None:
        return node.allocatable
    if not node.allocatable:
        return found.allocatable
    least = {r: min(a, found.allocatable.get(r, a)) for r, a in node.allocatable.items()}
    return least if all(least.get(r, 0) >= a for r, a in load.items()) else node.allocatable


def _counted(snapshot: Snapshot, pdb: PodDisruptionBudget) -> PodDisruptionBudget:
    """The budget with its status counted from the pods; a pod on a node counts as healthy."""
    mine = [p for p in snapshot.pods.values() if p.namespace == pdb.namespace and not p.finished]
    picked = [p for p in mine if selects(pdb.selector, snapshot.shape(p).labels)]
    healthy = sum(_healthy(p) for p in picked)
    if pdb.max_unavailable:
        desired = len(picked) - _amount(pdb.max_unavailable, len(picked))
    else:
        desired = _amount(pdb.min_available, len(picked)) if pdb.min_available else 0
    return msgspec.structs.replace(
        pdb,
        disruptions_allowed=max(0, healthy - max(0, desired)),
        current_healthy=healthy,
        desired_healthy=max(0, desired),
        observed=True,
    )


def _healthy(pod: PodRecord) -> bool:
    return bool(pod.node) and not pod.terminating


def _amount(text: str, of: int) -> int:
    """A count or a percentage, rounded up; one that can't be read allows nothing to go."""
    try:
        return math.ceil(of * float(text[:-1]) / 100.0 - 1e-9) if text.endswith("%") else int(text)
    except ValueError:
        return 0

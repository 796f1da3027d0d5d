"""What a pod's volumes ask of its node: where their disks can be reached, and how many attachments they take.

A bound claim follows its volume's node affinity, an unbound one its class's allowed topologies; a claim that can't be
used yet is a refusal that says why. Volumes constrain the node but not topology spread. Sources: kubernetes.io
"Persistent Volumes", "Storage Classes"; Karpenter documentation, "Scheduling", persistent volume topology.
"""

from collections.abc import Mapping

from nodeyard.api import labels as keys
from nodeyard.api.cluster import PersistentVolume, PersistentVolumeClaim, StorageClass
from nodeyard.api.selectors import NodeSelectorTerm, Value


class VolumeNeeds(Value, frozen=True):
    """`reach`: per volume, the terms of which one must hold on the node. `attachments`: (driver, volume identity).
    `unbound`: claims whose volume will be made where the first pod that uses them lands.
    """

    reach: tuple[tuple[NodeSelectorTerm, ...], ...] = ()
    attachments: tuple[tuple[str, str], ...] = ()
    unbound: tuple[str, ...] = ()


class VolumeProblem(Value, frozen=True):
    claim: str
    message: str


def volume_needs(
    namespace: str,
    claim_names: tuple[str, ...],
    claims: Mapping[str, PersistentVolumeClaim],
    volumes: Mapping[str, PersistentVolume],
    classes: Mapping[str, StorageClass],
) -> VolumeNeeds | VolumeProblem:
    """What the named claims of a namespace ask for together, or the first that can't be used."""
    reach: list[tuple[NodeSelectorTerm, ...]] = []
    attachments: dict[tuple[str, str], None] = {}
    unbound: list[str] = []
    for name in claim_names:
        key = f"{namespace}/{name}"
        claim = claims.get(key)
        problem = "does not exist" if claim is None else _unusable(claim, classes)
        if problem or claim is None:
            return VolumeProblem(key, f"PersistentVolumeClaim {key} {problem}")
        if claim.volume_name:
            volume = volumes.get(claim.volume_name)
            if volume is None:
                return VolumeProblem(
                    key, f"PersistentVolumeClaim {key}: volume {claim.volume_name} does not exist"
                )
            terms = _volume_terms(volume)
            attachments[(volume.driver, volume.name)] = None
        else:
            storage_class = _class_of(claim, classes)
            assert storage_class is not None
            terms = storage_class.allowed_topologies
            attachments[(storage_class.provisioner, key)] = None
            unbound.append(key)
        if terms:
            reach.append(terms)
    return VolumeNeeds(tuple(reach), tuple(attachments), tuple(unbound))


def _unusable(claim: PersistentVolumeClaim, classes: Mapping[str, StorageClass]) -> str:
    """Why a claim can't be planned with now; empty if it can."""
    if claim.deleting:
        return "is being deleted"
    if claim.phase == "Lost":
        return "has lost its volume"
    if claim.volume_name:
        return "" if claim.bind_completed else f"is still being bound to {claim.volume_name}"
    if not claim.storage_class and _class_of(claim, classes) is None:
        return "is unbound and names no storage class"
    storage_class = _class_of(claim, classes)
    if storage_class is None:
        return f"names storage class {claim.storage_class!r}, which does not exist"
    if storage_class.binding_mode != "WaitForFirstConsumer":
        return f"is unbound and its class {storage_class.name} binds at once; waiting for its volume"
    return ""


def _class_of(claim: PersistentVolumeClaim, classes: Mapping[str, StorageClass]) -> StorageClass | None:
    if claim.storage_class:
        return classes.get(claim.storage_class)
    if claim.storage_class is None:
        return next((c for c in classes.values() if c.default), None)
    return None


def _volume_terms(volume: PersistentVolume) -> tuple[NodeSelectorTerm, ...]:
    if volume.node_affinity is None:
        return ()
    terms = list(volume.node_affinity.node_selector_terms)
    if volume.local:  # its host goes away with the node it names, so the name binds nobody
        terms = [
            NodeSelectorTerm(tuple(e for e in t.match_expressions if e.key != keys.HOSTNAME)) for t in terms
        ]
        if any(not t.match_expressions for t in terms):
            return ()
    return tuple(terms)

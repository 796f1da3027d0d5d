"""What moving a pod costs and what forbids it: eviction cost, do-not-disrupt, pod disruption budgets.

`PodGuard` is built once per snapshot and answers for single pods. Sources: Karpenter documentation, "Disruption",
"Pod-Level Controls"; Kubernetes documentation, "Disruptions" and "Specifying a Disruption Budget".
"""

from collections import defaultdict
from typing import Final

from nodeyard.api import labels as keys
from nodeyard.api.cluster import PersistentVolume, PodDisruptionBudget
from nodeyard.api.duration import parse_duration
from nodeyard.api.pod import PodRecord, PodShape
from nodeyard.disruption.commands import DISRUPTED_TAINT
from nodeyard.disruption.model import Block, Rule
from nodeyard.disruption.surging import deployment_of
from nodeyard.provisioning.pending import protected as protected_in_itself
from nodeyard.provisioning.pending import selects
from nodeyard.scheduling.taints import tolerates
from nodeyard.state.cluster import Snapshot

_COST_UNIT: Final = 2.0**27
_PRIORITY_UNIT: Final = 2.0**25
_MOST: Final = 10.0
LEAVING_COST: Final = -2_000_000_000
"""Deletion cost that we write on pods of nodes that go; nobody else's, so it counts for nothing here."""


def eviction_cost(pod: PodRecord, shape: PodShape) -> float:
    """Between -10 and 10; 1 for a pod of no priority and no deletion cost."""
    own = 0 if pod.deletion_cost == LEAVING_COST else pod.deletion_cost
    cost = 1.0 + own / _COST_UNIT + shape.priority / _PRIORITY_UNIT
    return min(_MOST, max(-_MOST, cost))


def must_move(pod: PodRecord) -> bool:
    """Whether the pod comes back elsewhere when its node goes. A terminating pod does only for a StatefulSet, which
    waits for it before making the next.
    """
    if pod.daemon or pod.finished:
        return False
    return not pod.terminating or pod.owner_kind == "StatefulSet"


def evicted(pod: PodRecord, shape: PodShape) -> bool:
    """Whether a drain evicts the pod: daemons too, but not what belongs to the node itself or would come straight back
    because it tolerates the taint of a drain.
    """
    return not (pod.finished or pod.owner_kind == "Node" or tolerates(shape.tolerations, (DISRUPTED_TAINT,)))


def unreadable_protection(pod: PodRecord) -> bool:
    """Whether the pod's do-not-disrupt is neither true, false nor a duration, and so does nothing."""
    text = pod.do_not_disrupt.strip()
    if text in ("", "true", "false"):
        return False
    try:
        parse_duration(text)
    except ValueError:
        return True
    return False


def protected(pod: PodRecord, now: float) -> bool:
    """Whether do-not-disrupt protects the pod now; a pod that is finished or on its way out is not protected."""
    return not pod.finished and not pod.terminating and protected_in_itself(pod, now)


class PodGuard:
    """What stops pods of one snapshot from being evicted. `surge`: a pod that asks for it gets another replica first,
    and so satisfies a budget that wants one pod.
    """

    def __init__(self, snapshot: Snapshot, now: float, *, surge: bool = False) -> None:
        self._snapshot = snapshot
        self._now = now
        self._surge = surge
        self._pdbs: defaultdict[str, list[PodDisruptionBudget]] = defaultdict(list)
        for pdb in snapshot.pdbs.values():
            self._pdbs[pdb.namespace].append(pdb)
        self._of_shape: dict[str, tuple[PodDisruptionBudget, ...]] = {}
        self.data_on_hosts = frozenset(
            key
            for key, claim in snapshot.pvcs.items()
            if (volume := snapshot.pvs.get(claim.volume_name)) is not None and _on_a_host(volume)
        )
        """Volume claims whose data can be reached from one node only."""

    def data_on_its_host(self, shape: PodShape) -> str:
        """The volume claim of the pod that is among `data_on_hosts`; empty if there is none."""
        claims = (f"{shape.namespace}/{name}" for name in shape.volume_claims)
        return next((key for key in claims if key in self.data_on_hosts), "")

    def pdbs_of(self, pod: PodRecord) -> tuple[PodDisruptionBudget, ...]:
        """The budgets whose selector picks the pod."""
        found = self._of_shape.get(pod.shape)
        if found is None:
            shape = self._snapshot.shape(pod)
            found = tuple(p for p in self._pdbs.get(pod.namespace, ()) if selects(p.selector, shape.labels))
            self._of_shape[pod.shape] = found
        return found

    def block(self, pod: PodRecord) -> Block | None:
        """What keeps a graceful disruption from touching the pod; None: it may be evicted."""
        if protected(pod, self._now):
            return _asks_to_stay(pod)
        if pod.terminating or not evicted(pod, self._snapshot.shape(pod)):
            return None
        pdbs = self.pdbs_of(pod)
        if len(pdbs) > 1:
            names = ", ".join(p.key for p in pdbs)
            return Block(
                Rule.SEVERAL_PDBS,
                f"pod {pod.key} is covered by several PodDisruptionBudgets, which the eviction API refuses: {names}",
                {"pod": pod.key, "pdbs": len(pdbs)},
            )
        for pdb in pdbs:
            if pdb.disruptions_allowed > 0:
                continue
            if pdb.unhealthy_pod_eviction_policy == "AlwaysAllow" and not pod.ready:
                continue
            if self._surge and pdb.min_available == "1" and deployment_of(pod, self._snapshot.shape(pod)):
                continue
            facts: dict[str, str | int | float | bool] = {
                "pod": pod.key,
                "pdb": pdb.key,
                "healthy": pdb.current_healthy,
                "desired": pdb.desired_healthy,
            }
            return Block(
                Rule.PDB, f"PodDisruptionBudget {pdb.key} allows no eviction of pod {pod.key}", facts
            )
        return None


def _asks_to_stay(pod: PodRecord) -> Block:
    """With the moment its protection ends, where that is known."""
    facts: dict[str, str | int | float | bool] = {"pod": pod.key}
    if pod.do_not_disrupt != "true" and pod.started_at:
        facts["until"] = pod.started_at + parse_duration(pod.do_not_disrupt)
    return Block(Rule.POD_DO_NOT_DISRUPT, f"pod {pod.key} asks not to be disrupted", facts)


def _on_a_host(volume: PersistentVolume) -> bool:
    """Whether a local volume names the hosts it is on."""
    terms = volume.node_affinity.node_selector_terms if volume.local and volume.node_affinity else ()
    return bool(terms) and all(any(e.key == keys.HOSTNAME for e in t.match_expressions) for t in terms)

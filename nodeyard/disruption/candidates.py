"""Every node of ours as a candidate, with whatever keeps it from being disrupted.

`GATES` is the ordered list of rules that hold for every reason; each answers with a Block or None. Methods add their
own (policy, consolidateAfter, budgets, price). Nodes that are not ours are left out altogether.
Source: Karpenter documentation, "Disruption", "Disruption Controller".
"""

from collections.abc import Callable

import msgspec

from nodeyard.api import labels as keys
from nodeyard.api.node import INITIALIZED, Node, NodeClaim
from nodeyard.api.pod import PodRecord
from nodeyard.api.pool import Pool
from nodeyard.disruption.burdens import Burden, Burdens
from nodeyard.disruption.evictability import PodGuard
from nodeyard.disruption.model import Block, Candidate, Reason, Rule, View
from nodeyard.provisioning.pending import awaited, landed_too_late

BY_PODS = frozenset({Rule.POD_DO_NOT_DISRUPT, Rule.PDB, Rule.SEVERAL_PDBS})
"""What pods ask for; the end of a termination grace period overrides it."""
EVENTUAL = frozenset({Reason.DRIFTED, Reason.EXPIRED})
"""Reasons that will not go away: pods delay them only where nothing else bounds the drain."""


class Subject(msgspec.Struct, frozen=True):
    """What the gates look at."""

    view: View
    node: Node
    claim: NodeClaim | None
    pool: Pool | None
    burden: Burden
    guard: PodGuard
    guarded: bool
    """Whether a PodDisruptionBudget selects one of its pods."""

    @property
    def pods(self) -> list[PodRecord]:
        return self.view.snapshot.pods_of_node(self.node.name)


Gate = Callable[[Subject], Block | None]


def candidates(view: View, burdens: Burdens | None = None) -> tuple[Candidate, ...]:
    """All nodes that belong to a pool, by name. `burdens`: what was remembered of them, if anything."""
    guard = PodGuard(view.snapshot, view.now, surge=view.options.surge)
    known = burdens or Burdens()
    known.forget_gone(view.snapshot)
    found = []
    for name in sorted(view.snapshot.nodes):
        node = view.snapshot.nodes[name]
        claim = view.snapshot.claim_of(node)
        if claim is None and not node.pool:
            continue
        pool = view.snapshot.pools.get((claim.pool if claim else "") or node.pool)
        burden, guarded = known.of(view.snapshot, name), known.guarded(view.snapshot, name)
        subject = Subject(view, node, claim, pool, burden, guard, guarded)
        found.append(_remembered(subject, known) if _lasts(subject) else _candidate(subject))
    return tuple(found)


def _lasts(s: Subject) -> bool:
    """Whether neither time nor what others do beside it changes how the node is seen."""
    name, view = s.node.name, s.view
    if s.guarded or not s.burden.plain or name in view.in_command or name in view.nominated:
        return False
    return (
        s.claim is None or keys.PLANNED_PODS not in s.claim.annotations or landed_too_late(s.claim, view.now)
    )


def _remembered(s: Subject, known: Burdens) -> Candidate:
    """The candidate as it was last time, where nothing it hangs on has changed."""
    pool = known.pool(s.view.snapshot, s.pool.key) if s.pool is not None else None
    catalogue = s.view.catalogues.get(s.claim.node_class.key if s.claim else "") or s.view.catalogues.get("")
    hangs_on = (s.node, s.claim, pool, s.burden, catalogue)
    values = (
        s.view.quiet_since.get(s.node.name, 0.0),
        s.view.options.node_charge_usd_per_hour,
        _data_can_leave(s) is None,
    )
    return known.candidates.of(s.node.name, hangs_on, values, lambda: _candidate(s))


def stops(view: View, candidate: Candidate, reason: Reason) -> tuple[Block, ...]:
    """What keeps the node from being disrupted for this reason. What has to happen in the end does not wait for data to
    leave the node, nor, where its claim bounds the drain (it has a termination grace period), for pods.
    """
    if reason not in EVENTUAL:
        return candidate.blocks
    claim = view.snapshot.claims.get(candidate.claim)
    bounded = claim is not None and claim.termination_grace_period_s is not None
    ignored = {Rule.LOCAL_VOLUME, *(BY_PODS if bounded else ())}
    return tuple(block for block in candidate.blocks if block.rule not in ignored)


def _candidate(subject: Subject) -> Candidate:
    view, node, claim, burden = subject.view, subject.node, subject.claim, subject.burden
    instance_type, zone, capacity_type = (
        node.labels.get(k, "") for k in (keys.INSTANCE_TYPE, keys.ZONE, keys.CAPACITY_TYPE)
    )
    node_class = claim.node_class.key if claim else ""
    return Candidate(
        node=node.name,
        claim=claim.name if claim else "",
        claim_uid=claim.uid if claim else "",
        provider_id=node.provider_id,
        pool=(claim.pool if claim else "") or node.pool,
        node_class=node_class,
        instance_type=instance_type,
        zone=zone,
        capacity_type=capacity_type,
        price_per_hour=price(
            view, node_class, instance_type, zone, capacity_type, node.labels.get(keys.RESERVATION_ID, "")
        ),
        node_charge_per_hour=_charge(view, subject.pool),
        pods=burden.pods,
        eviction_cost=burden.eviction_cost,
        quiet_since=_quiet_since(view, node, claim),
        blocks=tuple(block for gate in GATES if (block := gate(subject)) is not None),
    )


def price(
    view: View, node_class: str, instance_type: str, zone: str, capacity_type: str, reservation: str = ""
) -> float | None:
    """Today's USD per hour of an offering, None where unknown. A place in a reservation may cost nothing."""
    catalogue = view.catalogues.get(node_class) or view.catalogues.get("")
    offering = catalogue.offering(instance_type, zone, capacity_type, reservation) if catalogue else None
    if offering is None or (offering.price <= 0 and offering.reserved is None):
        return None
    return offering.price


def _charge(view: View, pool: Pool | None) -> float:
    if pool is not None and pool.node_charge_usd_per_hour is not None:
        return pool.node_charge_usd_per_hour
    return view.options.node_charge_usd_per_hour


def _quiet_since(view: View, node: Node, claim: NodeClaim | None) -> float:
    seen = view.quiet_since.get(node.name, 0.0)
    if claim is None:
        return max(seen, node.created_at)
    initialized = claim.condition(INITIALIZED)
    began = initialized.since if initialized is not None and initialized.status == "True" else 0.0
    return max(seen, claim.last_pod_event_at, began or node.created_at)


def _has_claim(s: Subject) -> Block | None:
    if s.claim is None:
        return Block(Rule.NO_CLAIM, "no NodeClaim stands for this node")
    return None


def _has_pool(s: Subject) -> Block | None:
    if s.pool is None or s.pool.deleting:
        return Block(Rule.NO_POOL, "its pool is gone or being deleted")
    if s.pool.replicas is not None:
        return Block(Rule.STATIC_POOL, f"pool {s.pool.key} keeps a fixed number of nodes")
    return None


def _is_initialized(s: Subject) -> Block | None:
    if s.claim is None or not s.claim.is_true(INITIALIZED) or not s.node.initialized:
        return Block(Rule.NOT_INITIALIZED, "the node is not initialized yet")
    return None


def _is_staying(s: Subject) -> Block | None:
    if s.node.deleted_at or (s.claim is not None and s.claim.deleting):
        return Block(Rule.DELETING, "the node is already being removed")
    return None


def _is_free(s: Subject) -> Block | None:
    if s.node.name in s.view.in_command:
        return Block(Rule.IN_COMMAND, "a command that concerns this node is under way")
    return None


def _is_not_nominated(s: Subject) -> Block | None:
    if s.node.name in s.view.nominated:
        return Block(Rule.NOMINATED, "pods were just planned onto this node")
    if s.claim is not None and (coming := awaited(s.view.snapshot, s.claim, s.node, s.view.now)):
        return Block(Rule.NOMINATED, "pods that it was made for are yet to land on it", {"pods": len(coming)})
    return None


def _allows_disruption(s: Subject) -> Block | None:
    if s.node.annotations.get(keys.DO_NOT_DISRUPT) == "true":
        return Block(Rule.NODE_DO_NOT_DISRUPT, f"the node is annotated {keys.DO_NOT_DISRUPT}=true")
    return None


def _pods_can_leave(s: Subject) -> Block | None:
    if s.burden.plain and not s.guarded:
        return None
    return next((block for pod in s.pods if (block := s.guard.block(pod)) is not None), None)


def _data_can_leave(s: Subject) -> Block | None:
    """A pod whose volume is on the node itself would wait for it in vain anywhere else."""
    if not s.guard.data_on_hosts:
        return None
    snapshot = s.view.snapshot
    for pod in map(snapshot.pods.__getitem__, s.burden.pods):
        claim = s.guard.data_on_its_host(snapshot.shape(pod))
        if claim:
            message = f"pod {pod.key} has data on this node that can't move: volume claim {claim}"
            return Block(Rule.LOCAL_VOLUME, message, {"pod": pod.key, "claim": claim})
    return None


GATES: tuple[Gate, ...] = (
    _has_claim,
    _has_pool,
    _is_initialized,
    _is_staying,
    _is_free,
    _is_not_nominated,
    _allows_disruption,
    _pods_can_leave,
    _data_can_leave,
)

"""What a disruption would ask of pods, told before it begins: how long the drain takes at most, and who is alone.

The estimate follows the drain as it will be (`draining`): tier after tier, evictions of a tier together, those that a
PodDisruptionBudget covers in rounds of what it allows, each round waiting for the pods of the one before to be ready
elsewhere. Pods may stop sooner than their grace period, and others may use up a budget meanwhile: it is a bound by what
is known. What nothing known ends has no estimate, unless the claim's termination grace period ends it.
Sources: Kubernetes documentation, "Safely Drain a Node"; Karpenter documentation, "TerminationGracePeriod".
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

from nodeyard.api.duration import parse_duration
from nodeyard.api.node import NodeClaim
from nodeyard.api.pod import PodKey, PodRecord
from nodeyard.disruption.burdens import Burdens, Owner, owner_of
from nodeyard.disruption.draining import drainable, tier
from nodeyard.disruption.evictability import PodGuard, protected
from nodeyard.disruption.model import DrainEstimate, Rule
from nodeyard.disruption.termination import MIN_DRAIN_S, deadline_of
from nodeyard.state.cluster import Snapshot

READY_S: Final = 30.0
"""What a pod is taken to need to become ready elsewhere, before its budget lets the next one go."""


class Outlook:
    """Answers about one snapshot; what it needs of the whole is counted once, when first asked for. `burdens`: what was
    remembered of its nodes, if anything. `surge`: as PodGuard has it.
    """

    def __init__(
        self, snapshot: Snapshot, now: float, burdens: Burdens | None = None, *, surge: bool = False
    ) -> None:
        self._snapshot, self._now = snapshot, now
        self._guard = PodGuard(snapshot, now, surge=surge)
        self._remembers = burdens is not None
        self._burdens = burdens or Burdens()
        self._replicas: Counter[Owner] | None = None

    def drain(self, nodes: Sequence[str]) -> DrainEstimate:
        """How long until the last pod of all these nodes is gone, drained at the same time."""
        if len(nodes) == 1 and (estimate := self._of_plain_node(nodes[0])) is not None:
            return estimate
        pods = {name: self._leaving(name) for name in nodes}
        rounds = self._rounds([pod for held in pods.values() for pod in held])
        each = [self._of_node(name, held, rounds) for name, held in pods.items()]
        seconds = [e.seconds for e in each]
        return DrainEstimate(
            seconds=None if None in seconds else max((s for s in seconds if s is not None), default=0.0),
            cut_short=any(e.cut_short for e in each),
            held_by=tuple(sorted({reason for e in each for reason in e.held_by})),
        )

    def _of_plain_node(self, name: str) -> DrainEstimate | None:
        """The estimate for a node none of whose pods is protected, covered by a budget or on its way out; else None."""
        burden = self._burdens.of(self._snapshot, name)
        if not burden.plain or self._burdens.guarded(self._snapshot, name):
            return None
        claim = self._snapshot.claim_of(self._snapshot.nodes[name])
        return self._bounded(max(burden.drain_s, MIN_DRAIN_S), (), claim)

    def alone_on(self, node: str) -> tuple[PodKey, ...]:
        """`singletons` of the pods that have to move when the node goes."""
        burden, replicas = self._burdens.of(self._snapshot, node), self._counted()
        if all(replicas[owner] > 1 for owner in burden.owners):
            return ()
        return self.singletons(burden.pods)

    def singletons(self, pods: Iterable[PodKey]) -> tuple[PodKey, ...]:
        """Those that are the only one of their workload: while they move, nothing serves in their place."""
        replicas = self._counted()
        found = (self._snapshot.pods[key] for key in pods)
        return tuple(p.key for p in found if p.owner_name and replicas[owner_of(p)] <= 1)

    def _counted(self) -> Counter[Owner]:
        """How many pods each workload has."""
        if self._replicas is None and self._remembers:
            self._replicas = self._burdens.replicas(self._snapshot)
        elif self._replicas is None:
            known = self._snapshot.pods.values()
            self._replicas = Counter(owner_of(p) for p in known if not (p.finished or p.terminating))
        return self._replicas

    def _leaving(self, node: str) -> list[PodRecord]:
        s = self._snapshot
        return [p for p in s.pods_of_node(node) if drainable(p, s.shape(p), self._now)]

    def _of_node(
        self, name: str, pods: Sequence[PodRecord], rounds: dict[tuple[int, str], int]
    ) -> DrainEstimate:
        seconds, held = 0.0, []
        by_tier: defaultdict[int, list[PodRecord]] = defaultdict(list)
        for pod in pods:
            by_tier[tier(pod, self._snapshot.shape(pod))].append(pod)
        for level, members in sorted(by_tier.items()):
            longest = 0.0
            for pod in members:
                wait = self._wait_s(pod)
                if wait is None or (reason := self._refused(pod)):
                    held.append(reason if wait is not None else f"pod {pod.key} asks not to be disrupted")
                    continue
                turns = max((rounds.get((level, p.key), 1) for p in self._guard.pdbs_of(pod)), default=1)
                own = turns * _grace_s(pod, self._now) + (turns - 1) * READY_S
                longest = max(longest, wait + own)
            seconds += longest
        claim = self._snapshot.claim_of(self._snapshot.nodes[name])
        return self._bounded(max(seconds, MIN_DRAIN_S) if pods else MIN_DRAIN_S, tuple(held), claim)

    def _bounded(self, seconds: float, held: tuple[str, ...], claim: NodeClaim | None) -> DrainEstimate:
        """With the end that the claim's termination grace period puts to it."""
        most: float | None = None
        if claim is not None:
            deadline, grace_s = deadline_of(claim), claim.termination_grace_period_s
            most = max(0.0, deadline - self._now) if deadline is not None else grace_s
        if most is not None and (held or seconds > most):
            return DrainEstimate(max(most, 0.0), True, held)
        return DrainEstimate(None if held else seconds, False, held)

    def _rounds(self, pods: Iterable[PodRecord]) -> dict[tuple[int, str], int]:
        """(tier, budget) -> in how many rounds it lets these pods go."""
        covered: Counter[tuple[int, str]] = Counter()
        allowed: dict[str, int] = {}
        for pod in pods:
            if pod.terminating:
                continue
            for pdb in self._guard.pdbs_of(pod):
                covered[tier(pod, self._snapshot.shape(pod)), pdb.key] += 1
                allowed[pdb.key] = pdb.disruptions_allowed
        return {at: math.ceil(count / max(1, allowed[at[1]])) for at, count in covered.items()}

    def _wait_s(self, pod: PodRecord) -> float | None:
        """Seconds until do-not-disrupt lets the pod go; None: never."""
        if not protected(pod, self._now):
            return 0.0
        if pod.do_not_disrupt == "true" or not pod.started_at:
            return None
        return max(0.0, pod.started_at + parse_duration(pod.do_not_disrupt) - self._now)

    def _refused(self, pod: PodRecord) -> str:
        """Why the eviction API would refuse the pod now, empty where it would not."""
        if pod.terminating:
            return ""
        block = self._guard.block(pod)
        return block.message if block is not None and block.rule is not Rule.POD_DO_NOT_DISRUPT else ""


def _grace_s(pod: PodRecord, now: float) -> float:
    return max(0.0, pod.deleted_at - now) if pod.terminating else pod.grace_period_s

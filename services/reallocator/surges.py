"""Starts another replica for pods that ask for it before their eviction, and takes it back once they are gone.

What is begun is written on the claim before the Deployment is scaled, and taken off it after the Deployment is scaled back:
whoever goes on after a crash finds it. A Deployment that somebody else scales meanwhile is left as it is. Neighbours:
the pure `surging`, `termination` (asks at every step of a drain, and before a claim's end).
"""

from typing import Final

import msgspec

from nodeyard.adapters.kubernetes.errors import Conflict, Forbidden
from nodeyard.api import labels as keys
from nodeyard.api.node import NodeClaim
from nodeyard.api.pod import PodKey, PodRecord
from nodeyard.disruption.draining import Drain, Wait, Waiting
from nodeyard.disruption.surging import (
    ONE,
    TWO,
    Surge,
    deployment_of,
    encoded,
    over,
    patience_s,
    served,
    surges_of,
)
from nodeyard.runtime.clock import Clock
from nodeyard.runtime.logging import get_logger
from nodeyard.state.cluster import Change, Kind, Snapshot
from services.reallocator.chronicle import Chronicle
from services.reallocator.ports import Claims, Cluster, Workloads

_LOOK_S: Final = 5.0
"""How often the Deployment of a pod that waits is looked at again."""
_REMEMBER_S: Final = 600.0

log = get_logger("services.reallocator.surges")


class Surges:
    """`workloads`: None where nothing may be scaled, and every pod is evicted as it is."""

    def __init__(
        self,
        *,
        workloads: Workloads | None,
        claims: Claims,
        cluster: Cluster,
        chronicle: Chronicle,
        clock: Clock,
    ) -> None:
        self._workloads = workloads
        self._claims = claims
        self._cluster = cluster
        self._chronicle = chronicle
        self._clock = clock
        self._as_they_are: dict[str, float] = {}
        """UID of a pod that no other is started for -> since when."""
        self._looked: dict[str, float] = {}
        """UID of a pod that waits -> when its Deployment was looked at."""

    async def hold(self, snapshot: Snapshot, claim: NodeClaim | None, drain: Drain) -> Drain:
        """The step without the evictions that wait for another replica, which is started. Raises KubernetesError."""
        if self._workloads is None or claim is None:
            return drain
        held: list[PodKey] = []
        for key in drain.evict:
            pod = snapshot.pods[key]
            deployment = deployment_of(pod, snapshot.shape(pod))
            if deployment and not await self._may_go(self._workloads, snapshot, claim.name, pod, deployment):
                held.append(key)
        if not held:
            return drain
        return msgspec.structs.replace(
            drain,
            evict=tuple(key for key in drain.evict if key not in held),
            waiting=(*drain.waiting, *(Waiting(key, Wait.SUCCESSOR) for key in held)),
        )

    async def settle(self, snapshot: Snapshot, claim: NodeClaim, *, all_: bool = False) -> NodeClaim | None:
        """Takes back what was for pods that are gone, or all of it; the claim as it is then. Raises KubernetesError."""
        begun = surges_of(claim)
        ending = [surge for surge in begun if all_ or over(snapshot, surge)]
        if not ending:
            return claim
        for surge in ending:
            await self._take_back(surge)
            self._looked.pop(surge.uid, None)
        return await self._write(claim, tuple(surge for surge in begun if surge not in ending))

    # --- one pod --------------------------------------------------------------------------------------------------------
    async def _may_go(
        self, workloads: Workloads, snapshot: Snapshot, claim_name: str, pod: PodRecord, deployment: str
    ) -> bool:
        now = self._clock.now()
        self._as_they_are = {uid: at for uid, at in self._as_they_are.items() if now - at < _REMEMBER_S}
        if pod.uid in self._as_they_are or served(snapshot, pod):
            return True
        claim = self._cluster.snapshot().claims.get(claim_name)
        if claim is None:
            return False
        begun = {surge.uid: surge for surge in surges_of(claim)}.get(pod.uid)
        patience = patience_s(pod)
        if begun is not None and patience is not None and now - begun.since >= patience:
            return self._let_go(pod, f"no other replica was ready within {patience:.0f} s")
        if now - self._looked.get(pod.uid, -_LOOK_S) < _LOOK_S:
            return False
        try:
            return await self._start(workloads, claim, pod, deployment, begun)
        except Forbidden:
            return self._let_go(pod, "the reallocator may not scale Deployments")
        except Conflict:
            return False

    async def _start(
        self, workloads: Workloads, claim: NodeClaim, pod: PodRecord, deployment: str, begun: Surge | None
    ) -> bool:
        """Sees to it that two replicas are wanted; True where the pod goes as it is."""
        scale = await workloads.read(deployment)
        if scale is None or scale.replicas not in (ONE, TWO) or (begun is None and scale.replicas != ONE):
            return (
                self._let_go(pod, "")
                if begun is None
                else self._let_go(pod, "its Deployment was scaled meanwhile")
            )
        if scale.replicas == ONE:
            if pod.uid in self._looked:
                return self._let_go(pod, "its Deployment was scaled back meanwhile")
            if begun is None and not await self._begin(claim, pod, deployment):
                return False
            await workloads.resize(scale, TWO)
        self._looked[pod.uid] = self._clock.now()
        return False

    async def _begin(self, claim: NodeClaim, pod: PodRecord, deployment: str) -> bool:
        surge = Surge(pod.key, pod.uid, deployment, self._clock.now())
        if await self._write(claim, (*surges_of(claim), surge)) is None:
            return False
        message = f"deployment {deployment} gets another replica before this one is evicted"
        self._chronicle.on_pod(pod, "SurgeStarted", message)
        await self._chronicle.decided(
            "disrupting", f"pod/{pod.key}", "Surge", message, claim=claim.name, deployment=deployment
        )  # fmt: skip
        return True

    def _let_go(self, pod: PodRecord, why: str) -> bool:
        """The pod goes without another; always True. Said where it was asked for in vain."""
        self._as_they_are[pod.uid] = self._clock.now()
        if why:
            self._chronicle.on_pod(
                pod, "SurgeGivenUp", f"evicted without another replica: {why}", warning=True
            )
        return True

    async def _take_back(self, surge: Surge) -> None:
        if self._workloads is None:
            log.warning(
                "a Deployment keeps a replica more: nothing may be scaled now", deployment=surge.deployment
            )
            return
        try:
            scale = await self._workloads.read(surge.deployment)
            if scale is None or scale.replicas != TWO:
                return
            await self._workloads.resize(scale, ONE)
        except Forbidden as error:
            log.warning("a Deployment keeps a replica more", deployment=surge.deployment, error=str(error))
            return
        log.info("took an extra replica back", deployment=surge.deployment, pod=surge.pod)

    async def _write(self, claim: NodeClaim, surges: tuple[Surge, ...]) -> NodeClaim | None:
        changed = await self._claims.annotate(claim, {keys.SURGES: encoded(surges)})
        if changed is not None:
            self._cluster.overlay(Change(Kind.NODE_CLAIM, changed.name, changed, changed.resource_version))
        return changed
